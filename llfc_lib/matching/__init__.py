"""Permutations of hidden units: which there are, and how to choose them so that two networks lie close."""
