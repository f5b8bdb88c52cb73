"""The pair itself, with its nulls and controls: every metric of the appendix in one pass; and
partners that training did not make.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from llfc_book.study import pairs
from llfc_book.study.connected import Connected
from llfc_book.study.pairs import Pair, as_control
from llfc_book.study.parts import Part, add, register
from llfc_book.study.settings import Setting
from llfc_lib.data import Dataset
from llfc_lib.metrics import (
    LLFC,
    Barrier,
    Commutativity,
    Row,
    SameWeights,
    Stitching,
    Transfer,
    WeakAdditivity,
    displacement_null,
    measure,
)
from llfc_lib.metrics.barrier import GRID
from llfc_lib.metrics.measure import Metric
from llfc_lib.training.checkpoints import Checkpoint

ALPHAS = (0.25, 0.5, 0.75)
COARSE_GRID = (0.0, *ALPHAS, 1.0)
TRAINING_GRID = tuple(k / 8 for k in range(9))  # the training set is six times the test set
CONTROLS = ("unmatched", "independent", "itself")
#: Partners displaced at random: kind, and whether as far as B is or by as large a step.
DISPLACED = {
    f"{kind} {'matched' if matched else 't=1'}": (kind, matched)
    for matched in (False, True)
    for kind in ("rotation", "entries", "gaussian")
}


class MakeMetrics(Protocol):
    """New metrics for one pass; ``detail`` adds features before the ReLU and before normalisation,
    ``nulls`` the nulls that cost extra products."""

    def __call__(
        self, grid: Sequence[float], detail: bool = False, nulls: bool = True
    ) -> list[Metric]: ...


def standard_metrics(
    grid: Sequence[float] = GRID, detail: bool = False, nulls: bool = True
) -> list[Metric]:
    """Every metric of the appendix for an MLP."""
    return [
        LLFC(ALPHAS, pre=detail),
        Commutativity(nulls=nulls),
        WeakAdditivity(nulls=nulls),
        Stitching(),
        Barrier(grid),
    ]


def matched_metrics(
    grid: Sequence[float] = GRID, detail: bool = False, nulls: bool = True
) -> list[Metric]:
    """Those of an MLP with the stronger forms of commutativity that B.5 discusses."""
    return [*standard_metrics(grid, detail, nulls), Transfer(nulls=nulls), SameWeights(nulls=nulls)]


def convolutional_metrics(
    grid: Sequence[float] = GRID, detail: bool = False, nulls: bool = True
) -> list[Metric]:
    """Those of :func:`standard_metrics`, with W_B H_A against W_B H_B, and stitching before
    normalisation.
    """
    return [
        LLFC(ALPHAS, pre=detail, raw=detail),
        Commutativity(nulls=nulls),
        Transfer(nulls=nulls),
        WeakAdditivity(nulls=nulls),
        Stitching(raw=nulls),
        Barrier(grid),
    ]


def large_metrics(
    grid: Sequence[float] = GRID, detail: bool = False, nulls: bool = True
) -> list[Metric]:
    """Those of a convolutional net at its sites alone: of dozens of layers, one reading each."""
    return [
        LLFC(ALPHAS),
        Commutativity(nulls=nulls),
        Transfer(nulls=nulls),
        WeakAdditivity(nulls=nulls),
        Stitching(),
        Barrier(grid),
    ]


def layer_norm_metrics(
    grid: Sequence[float] = GRID, detail: bool = False, nulls: bool = True
) -> list[Metric]:
    """Those of :func:`large_metrics` with the other of the stronger forms that B.5 discusses."""
    return [*large_metrics(grid, detail, nulls), SameWeights(nulls=nulls)]


def between_metrics(
    grid: Sequence[float] = GRID, detail: bool = False, nulls: bool = True
) -> list[Metric]:
    """What depends on the networks between A and B."""
    return [LLFC(ALPHAS), Barrier(grid)]


#: By the word of a plan.
METRICS: dict[str, MakeMetrics] = {
    "standard": standard_metrics,
    "matched": matched_metrics,
    "convolutional": convolutional_metrics,
    "large": large_metrics,
    "layer norm": layer_norm_metrics,
    "between": between_metrics,
}


def planned_metrics(name: str) -> MakeMetrics:
    """Those of :data:`METRICS` that a plan names. ValueError for another name."""
    if name not in METRICS:
        raise ValueError(f"unknown metrics {name!r} in a plan; choose one of {list(METRICS)}")
    return METRICS[name]


def measure_pair(
    pair: Pair,
    metrics: MakeMetrics | None = None,
    controls: Sequence[str] = CONTROLS,
    batch: int | None = None,
) -> list[Row]:
    """The pair with its nulls and its ``controls``: two matched networks before matching, an
    independent pair, A with itself.

    Networks with running statistics are measured twice: those between the two with interpolated
    statistics, and all with recomputed ones (only what depends on the networks between). ``batch``
    images at a time, if not as many as planned.
    """
    plan, nets = pair.setting.plan, pair.nets
    metrics = metrics or planned_metrics(plan.metrics)
    loader = pair.loader("test", plan.pair_first, batch)
    grid = COARSE_GRID if plan.coarse else GRID

    def rows(partner: str, grid: Sequence[float], detail: bool) -> list[Row]:
        found = measure(nets["A"], nets[partner], loader, metrics(grid, detail), pair.dtype)
        between = [m for m in metrics(grid, False) if isinstance(m, (LLFC, Barrier, Connected))]
        if pair.calibration is not None and between:
            found += measure(
                nets["A"], nets[partner], loader, between, pair.dtype, pair.calibration
            )
        return found

    found = rows("B", grid, True)
    if "unmatched" in nets and "unmatched" in controls:
        found += as_control(rows("unmatched", grid, False), "unmatched")
    if plan.control and "independent" in controls:
        found += as_control(rows("independent", grid, False), "independent")
    if plan.control and "itself" in controls:
        found += as_control(rows("A", COARSE_GRID, False), "itself")
    has_barrier = any(isinstance(m, Barrier) for m in metrics(grid))
    if plan.on_training and "unmatched" in nets and has_barrier:
        # on the training set as well: networks that fit it hide their barrier from the test set's
        # few hard images
        found += _on_training(pair, "B")
        found += as_control(_on_training(pair, "unmatched"), "unmatched")
    return found


def _on_training(pair: Pair, partner: str) -> list[Row]:
    training = pair.loader("train", pair.setting.plan.train_first)
    rows = measure(
        pair.nets["A"], pair.nets[partner], training, [Barrier(TRAINING_GRID)], pair.dtype
    )
    return [
        replace(row, quantity=f"{row.quantity}_on_training")
        for row in rows
        if row.quantity.startswith(("error", "loss"))
    ]


def measure_displaced(
    pair: Pair, kind: str, matched: bool, metrics: MakeMetrics | None = None
) -> list[Row]:
    """The displacement null of one kind: every quantity, with partners that training did not
    make.
    """
    plan = pair.setting.plan
    new = metrics or planned_metrics(plan.metrics)
    return displacement_null(
        pair.nets["A"],
        pair.nets["B"],
        pair.loader("test", plan.first),
        lambda: new(COARSE_GRID, nulls=False),
        kind=kind,
        matched=matched,
        draws=plan.draws,
        seed=pair.name,
        dtype=pair.dtype,
        calibration=pair.calibration,
    )


def curve_rows(name: str, checkpoint: Checkpoint) -> list[Row]:
    """The training curve of one network, a row an epoch and quantity."""
    return [
        Row(quantity, entry[quantity], kind=name, epoch=entry["epoch"])
        for entry in checkpoint.history
        for quantity in ("train_loss", "train_error", "test_loss", "test_error")
    ]


def _first(images: int | None, data: Dataset) -> int:
    return min(images or 10**9, len(data.y_test))


def _passes(setting: Setting, data: Dataset) -> float:
    plan = setting.plan
    return 120.0 * _first(plan.pair_first, data) + 60 * plan.calibration


@register("pair", version=2, members=("A", "B", "independent"), leads=True, work=_passes)
def of_pair(pair: Pair) -> list[Row]:
    """Everything on the pair, and how its two networks were trained."""
    rows = measure_pair(pair)
    for who, (seed, branch) in pair.setting.members(pair.index).items():
        if who != "independent":
            trained = pairs.endpoint(
                pair.setting.profile, pair.setting.name, seed, branch, pair.data
            )
            rows += curve_rows(who, trained)
    return rows


def _displaced_work(passes: int) -> Callable[[Setting, Dataset], float]:
    def work(setting: Setting, data: Dataset) -> float:
        plan = setting.plan
        return float(plan.draws * passes * (_first(plan.first, data) + plan.calibration))

    return work


for _name, (_kind, _matched) in DISPLACED.items():
    add(
        Part(
            _name,
            partial(measure_displaced, kind=_kind, matched=_matched),
            version=2 if _matched else 1,
            version_name=_name.split(" ")[-1],  # displacements of one size have one
            work=_displaced_work(20 if _matched else 15),
        )
    )
