"""What the appendix claims, the rules that judge it, and its errata."""
