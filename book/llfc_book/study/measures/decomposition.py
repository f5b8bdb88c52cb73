"""Theorem 1 and Lemma 1 on a pair of the book: where its residual comes from, and how much of it
classification survives.
"""

from llfc_book.appendix.lemma import Margins
from llfc_book.study.measures.pair import ALPHAS
from llfc_book.study.pairs import Pair, as_control
from llfc_book.study.parts import register
from llfc_lib.metrics import Row, displacement_null, measure
from llfc_lib.metrics.decomposition import Decomposition
from llfc_lib.metrics.measure import Metric

# of the test set for convolutional networks, where a plan says nothing smaller: all parts of all
# layers cost ten passes
IMAGES = 1000
DRAWS = 3  # displaced partners
HALF_WAY = (0.5,)


def metrics(alphas: tuple[float, ...] = HALF_WAY) -> list[Metric]:
    """What is measured on each pair: the split of its residual, and the margins of Lemma 1."""
    return [Decomposition(alphas), Margins(alphas)]


def _live(pair: Pair) -> list[Row]:
    """Where a pass takes long only the pair itself is split: the record has the rest."""
    return rows(pair, alone=not pair.setting.plan.thorough)


@register("decomposition", version=3, members=("A", "B", "independent"), live=_live)
def rows(pair: Pair, alone: bool = False) -> list[Row]:
    """The pair; half-way, the same before matching, an independent one, and, of perceptrons,
    Gaussian partners as far from A as B is.

    Networks with running statistics are measured with interpolated and with recomputed ones.
    ``alone``: only the pair.
    """
    plan, a, nets, images = pair.setting.plan, pair.nets["A"], pair.nets, pair.calibration
    loader = pair.loader("test", None if plan.thorough else min(plan.first or IMAGES, IMAGES))
    alphas = ALPHAS if plan.thorough else HALF_WAY
    found = measure(a, nets["B"], loader, metrics(alphas), pair.dtype)
    if images is not None:
        found += measure(a, nets["B"], loader, metrics(), pair.dtype, images)
    if alone:
        return found
    for partner in ("unmatched", "independent"):
        if partner in nets:
            found += as_control(measure(a, nets[partner], loader, metrics(), pair.dtype), partner)
    if plan.thorough:
        found += displacement_null(
            a,
            nets["B"],
            loader,
            metrics,
            kind="gaussian",
            matched=True,
            draws=min(plan.draws, DRAWS),
            seed=pair.name,
            dtype=pair.dtype,
        )
    return found
