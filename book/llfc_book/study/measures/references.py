"""What a pair's numbers are held against: partners at equal distance, intervals over images, and
how coherent the two differences are that commute.
"""

from typing import Any

from llfc_book.study.closeness import SCALES, TOLERANCE, closeness
from llfc_book.study.connected import Connected, StitchedExcess
from llfc_book.study.measures.pair import measure_pair
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import register
from llfc_book.study.settings import Setting
from llfc_lib.matching import UnsupportedOperation, symmetry
from llfc_lib.metrics import Coherence, Row

RESAMPLES = 2000  # of the bootstrap over images
CLOSENESS_IMAGES = 2000  # of the test set for perceptrons: rho is then known to half a percent


def closeness_settings(setting: Setting) -> dict[str, Any]:
    """How many draws on how many images, and when a partner counts as far enough."""
    plan = setting.plan
    return {
        "draws": 10 if plan.first is None else min(plan.draws, 3),  # through a convolutional net
        "images": plan.first or CLOSENESS_IMAGES,  # a draw costs minutes
        "scales": [SCALES[0], SCALES[-1]],
        "tolerance": TOLERANCE,
    }


@register("closeness", settings=closeness_settings)
def measure_closeness(pair: Pair) -> list[Row]:
    """rho of the pair per site, beside partners at the same distance
    (:func:`llfc_book.study.closeness.closeness`).
    """
    told, (a, b) = closeness_settings(pair.setting), (pair.nets["A"], pair.nets["B"])
    loader = pair.loader("test", told["images"])
    try:
        sym = symmetry(a, next(iter(loader))[0])
    except UnsupportedOperation:  # then there are no sparse partners
        sym = None
    return closeness(a, b, loader, sym, told["draws"], pair.name, pair.dtype, pair.calibration)


def connected_settings(setting: Setting) -> dict[str, Any]:
    """Where a barrier is looked for, and how often images are drawn again."""
    return {"grid": list(setting.plan.connected_grid), "resamples": RESAMPLES}


@register("connected", members=("A", "B", "independent"), settings=connected_settings)
def measure_connected(pair: Pair) -> list[Row]:
    """Barrier and stitched excess with their intervals, of the pair and its controls."""
    grid = pair.setting.plan.connected_grid
    return measure_pair(pair, lambda: [Connected(grid, RESAMPLES), StitchedExcess(RESAMPLES)])


@register("coherence", members=("A", "B", "independent"))
def measure_coherence(pair: Pair) -> list[Row]:
    """How coherent and aligned the two differences are, of the pair and its controls."""
    return measure_pair(pair, lambda: [Coherence()])
