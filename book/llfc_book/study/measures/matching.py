"""The order of B's units that the setting's method finds."""

from llfc_book.study import matched
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import register
from llfc_book.study.settings import Setting
from llfc_lib.data import Dataset
from llfc_lib.metrics import Row


def _work(setting: Setting, data: Dataset) -> float:
    # passes through the training set, forward and back
    return 3.0 * len(data.y_train) * dict(setting.matching_args).get("epochs", 2)


@register("match", ordered=False, work=_work)
def of_pair(pair: Pair) -> list[Row]:
    """How it was found; the order itself is kept beside the rows."""
    permutations, rows = matched.find(pair)
    pair.extra["permutations"] = matched.as_text(permutations)
    return rows
