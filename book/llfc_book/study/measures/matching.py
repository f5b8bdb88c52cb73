"""The order of B's units that the setting's method finds."""

from llfc_book.study import matched
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import register
from llfc_lib.metrics import Row


@register("match", order="")
def of_pair(pair: Pair) -> list[Row]:
    """How it was found; the order itself is kept beside the rows."""
    permutations, rows = matched.find(pair)
    pair.extra["permutations"] = matched.as_text(permutations)
    return rows
