"""Do stitched pairs err less often than a network stitched to a partner that is as near, and not of
one start with it? The third answer of B.4.
"""

from dataclasses import replace

from llfc_book.study.connected import StitchedExcess
from llfc_book.study.measures.decisive import ends_of, tuned
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import register
from llfc_lib.metrics import Row, measure

SIZES = (1.0, 2.0, 4.0)  # of the Gaussian step that is then trained; the pair lies between
RESAMPLES = 200  # of the bootstrap over images


@register("stitched tuned", settings=lambda setting: {"sizes": list(SIZES)})
def rows(pair: Pair) -> list[Row]:
    """ "stitched_excess" of A and tuned partners of A (the kind "T" of the decisive experiment) on
    the test set, and their feature "distance", by site; ``alpha`` is the size of the Gaussian step.

    Source: B.4; the partners are this book's.
    """
    end = next(ends_of(pair))
    images, found = list(pair.loader("test")), []
    for size, network, how in tuned(end, SIZES):
        beside = end.trained_on(network, size, "T", **how)
        found += [row for row in beside if row.quantity in ("distance", "reached")]
        metric = StitchedExcess(resamples=RESAMPLES)
        found += [
            replace(row, role="null", kind="T", alpha=size)
            for row in measure(end.origin.view, network.to(pair.dtype), images, [metric])
            if row.quantity == "stitched_excess"
        ]
    return found
