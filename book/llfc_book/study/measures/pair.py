"""The pair itself, with its nulls and controls: every metric of the appendix in one pass."""

from collections.abc import Callable, Sequence

from llfc_book.study import pairs
from llfc_book.study.connected import Connected
from llfc_book.study.pairs import Pair, as_control
from llfc_book.study.parts import register
from llfc_book.study.settings import Plan
from llfc_lib.metrics import (
    LLFC,
    Barrier,
    Commutativity,
    Row,
    SameWeights,
    Stitching,
    Transfer,
    measure,
)
from llfc_lib.metrics.barrier import GRID
from llfc_lib.metrics.measure import Metric

ALPHAS = (0.25, 0.5, 0.75)
COARSE_GRID = (0.0, *ALPHAS, 1.0)


def metrics_of(plan: Plan) -> list[Metric]:
    """New metrics for one pass, as planned. ValueError for a plan with another word for them."""
    # what depends on the networks between A and B
    between = [LLFC(ALPHAS), Barrier(COARSE_GRID if plan.coarse else GRID)]
    standard = [*between, Commutativity(), Stitching()]
    large = [*standard, Transfer()]
    every = {
        "between": between,
        "standard": standard,
        "large": large,
        "matched": [*large, SameWeights()],
        "convolutional": [*between, Commutativity(), Stitching(raw=True), Transfer()],
    }
    if plan.metrics not in every:
        raise ValueError(f"unknown metrics {plan.metrics!r} in a plan; choose one of {list(every)}")
    return every[plan.metrics]


def measure_pair(pair: Pair, metrics: Callable[[], Sequence[Metric]]) -> list[Row]:
    """The pair, and its controls where it has them: two matched networks before matching, and A
    beside an independent network.

    ``metrics`` makes new ones for every pass. Networks with running statistics are measured twice:
    those between the two with interpolated statistics, and all with recomputed ones (only what
    depends on the networks between).
    """
    loader = pair.loader("test", pair.setting.plan.pair_first)

    def rows(partner: str) -> list[Row]:
        a, b = pair.nets["A"], pair.nets[partner]
        found = measure(a, b, loader, metrics(), pair.dtype)
        between = [m for m in metrics() if isinstance(m, (LLFC, Barrier, Connected))]
        if pair.calibration is not None and between:
            found += measure(a, b, loader, between, pair.dtype, pair.calibration)
        return found

    found = rows("B")
    for control in ("unmatched", "independent"):
        if control in pair.nets:
            found += as_control(rows(control), control)
    return found


@register("pair", version=2, members=("A", "B", "independent"))
def of_pair(pair: Pair) -> list[Row]:
    """Everything on the pair, and how its two networks were trained: a row an epoch and quantity,
    ``kind`` which of the two.
    """
    setting = pair.setting
    rows = measure_pair(pair, lambda: metrics_of(setting.plan))
    for who, (seed, branch) in setting.members(pair.index).items():
        if who != "independent":
            trained = pairs.endpoint(setting.profile, setting.name, seed, branch, pair.data)
            rows += [
                Row(quantity, entry[quantity], kind=who, epoch=entry["epoch"])
                for entry in trained.history
                for quantity in ("train_loss", "train_error", "test_loss", "test_error")
            ]
    return rows
