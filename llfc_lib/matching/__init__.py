"""Permutations of hidden units: which there are, and how to choose them so that two networks lie
close. To add a method is one file in this folder, which registers it.
"""

from llfc_lib.matching.activation import ActivationMatching, activation_matching
from llfc_lib.matching.methods import METHODS, Found
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
from llfc_lib.registry import import_all

import_all(__name__, __path__)

__all__ = [
    "METHODS",
    "ActivationMatching",
    "Found",
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
