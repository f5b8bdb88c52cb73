"""Slips in the appendix, and everything else that it prints: each with a check that is computed
when the page is made.
"""

# which enter themselves into the lists
from llfc_book.claims.errata import slips, standing  # noqa: F401
from llfc_book.claims.errata.listing import (
    ERRATA,
    KINDS,
    SECTIONS,
    STANDING,
    Erratum,
    Evidence,
    Mistaken,
    Standing,
    confirm,
    counts,
    errata_table,
    standing_table,
)
from llfc_book.claims.errata.slips import without_sizes

__all__ = [
    "ERRATA",
    "KINDS",
    "SECTIONS",
    "STANDING",
    "Erratum",
    "Evidence",
    "Mistaken",
    "Standing",
    "confirm",
    "counts",
    "errata_table",
    "standing_table",
    "without_sizes",
]
