"""Theorem 1 and Lemma 1 on a pair of the book: where its residual comes from, and how much of it
classification survives.
"""

from llfc_book.appendix.lemma import Margins
from llfc_book.study.measures.pair import ALPHAS, COARSE_GRID
from llfc_book.study.pairs import Pair, as_control
from llfc_book.study.parts import register
from llfc_book.study.settings import Setting
from llfc_lib.data import Dataset
from llfc_lib.metrics import Barrier, Row, displacement_null, measure
from llfc_lib.metrics.decomposition import Decomposition
from llfc_lib.metrics.measure import Metric

# of the test set for convolutional networks, where a plan says nothing smaller: all parts of all
# layers cost ten passes
IMAGES = 1000
DRAWS = 3  # displaced partners of each kind; two where their distance takes long to match


HALF_WAY = (0.5,)


def metrics(alphas: tuple[float, ...] = HALF_WAY) -> list[Metric]:
    """What is measured on each pair: the split of its residual, and the margins of Lemma 1."""
    return [Decomposition(alphas), Margins(alphas)]


def _live(pair: Pair) -> list[Row]:
    """Where a pass takes long only the pair itself is split: the record has the rest."""
    return rows(pair, alone=not pair.setting.plan.thorough)


def _work(setting: Setting, data: Dataset) -> float:
    # pair, controls and displaced partners, ten passes each
    plan = setting.plan
    return 120.0 * (min(plan.first or 10**9, len(data.y_test)) + plan.calibration)


@register("decomposition", version=3, members=("A", "B", "independent"), live=_live, work=_work)
def rows(pair: Pair, alone: bool = False) -> list[Row]:
    """The pair; half-way, the same before matching, an independent one, and partners displaced at
    random as far as B is.

    Networks with running statistics are measured with interpolated and with recomputed ones.
    ``alone``: only the pair.
    """
    plan, nets, images = pair.setting.plan, pair.nets, pair.calibration
    loader = pair.loader("test", None if plan.thorough else min(plan.first or IMAGES, IMAGES))
    alphas = ALPHAS if plan.thorough else HALF_WAY
    found = measure(nets["A"], nets["B"], loader, metrics(alphas), pair.dtype)
    if images is not None:
        found += measure(nets["A"], nets["B"], loader, metrics(), pair.dtype, images)
    if alone:
        return found
    for partner in ("unmatched", "independent"):
        if partner in nets:
            control = measure(nets["A"], nets[partner], loader, metrics(), pair.dtype)
            found += as_control(control, partner)
    for kind in ("rotation", "gaussian") if plan.thorough else ("rotation",):
        found += displacement_null(
            nets["A"],
            nets["B"],
            loader,
            lambda: [*metrics(), Barrier(COARSE_GRID)],
            kind=kind,
            matched=True,
            draws=min(plan.draws, DRAWS if plan.thorough else DRAWS - 1),
            seed=pair.name,
            dtype=pair.dtype,
            calibration=images,
        )
    return found
