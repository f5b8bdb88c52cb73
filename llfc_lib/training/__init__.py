"""Training: recipes (every setting of B.1), hashed random streams, the loop, checkpoints."""
