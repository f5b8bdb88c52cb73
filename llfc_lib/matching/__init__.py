"""Permutations of hidden units: which there are, and how to choose them so that two networks lie
close.
"""

from llfc_lib.matching.activation import ActivationMatching, activation_matching
from llfc_lib.matching.straight_through import StraightThrough, straight_through
from llfc_lib.matching.symmetry import (
    Permutation,
    Permutations,
    Symmetry,
    UnsupportedOperation,
    Use,
    check_symmetry,
    permuted,
    symmetry,
)
from llfc_lib.matching.weight import Matching, objective, weight_matching

__all__ = [
    "ActivationMatching",
    "Matching",
    "Permutation",
    "Permutations",
    "StraightThrough",
    "Symmetry",
    "UnsupportedOperation",
    "Use",
    "activation_matching",
    "check_symmetry",
    "objective",
    "permuted",
    "straight_through",
    "symmetry",
    "weight_matching",
]
