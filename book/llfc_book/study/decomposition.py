"""Theorem 1 and Lemma 1 on a pair of the book: where its residual comes from, and how much of it
classification survives.

Source: this book.
"""

from torch import nn

from llfc_book.appendix.lemma import Margins
from llfc_book.study import pairs
from llfc_book.study.settings import recipe
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
    """What is measured on each pair: the split of its residual, and the margins of Lemma 1.

    Source: this book, on Theorem 1 and Lemma 1.
    """
    return [Decomposition(alphas), Margins(alphas)]


def rows(
    profile: str,
    name: str,
    pair: int,
    nets: dict[str, nn.Module],
    data: Dataset,
    alone: bool = False,
) -> list[Row]:
    """The pair; half-way, the same before matching, an independent one, and partners displaced at
    random as far as B is.

    Networks with running statistics are measured with interpolated and with recomputed ones.
    ``alone``: only the pair.
    """
    plan, dtype, convolutional = (
        pairs.plan_of(name, profile),
        pairs.DTYPE[profile],
        recipe(name, profile).model != "mlp",
    )
    first = min(plan.first or IMAGES, IMAGES) if convolutional else None
    loader = data.loader("test", plan.batch, dtype, first)
    images = pairs.calibration(data, recipe(name, profile), plan.calibration)
    found = measure(
        nets["A"], nets["B"], loader, metrics(HALF_WAY if convolutional else pairs.ALPHAS), dtype
    )
    if images is not None:
        found += measure(nets["A"], nets["B"], loader, metrics(), dtype, images)
    if alone:
        return found
    for partner in ("unmatched", "independent"):
        if partner in nets:
            found += pairs.as_control(
                measure(nets["A"], nets[partner], loader, metrics(), dtype), partner
            )
    for kind in ("rotation",) if convolutional else ("rotation", "gaussian"):
        found += displacement_null(
            nets["A"],
            nets["B"],
            loader,
            lambda: [*metrics(), Barrier(pairs.COARSE_GRID)],
            kind=kind,
            matched=True,
            draws=min(plan.draws, DRAWS - convolutional),
            seed=f"{name}/{pair}",
            dtype=dtype,
            calibration=images,
        )
    return found
