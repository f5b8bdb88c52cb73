"""Appendix A as code: what the proofs say, on constructed and on trained networks."""
