"""What a pair's numbers are held against: partners at equal distance, intervals over images, and
how coherent the two differences are that commute.
"""

from collections.abc import Sequence
from typing import Any

from llfc_book.study.closeness import SCALES, TOLERANCE, closeness
from llfc_book.study.connected import Connected, StitchedExcess
from llfc_book.study.measures.pair import measure_pair
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import Part, add, part, register, rows_of
from llfc_book.study.settings import Setting
from llfc_lib.data import Dataset
from llfc_lib.matching import UnsupportedOperation, symmetry
from llfc_lib.metrics import Coherence, Row
from llfc_lib.metrics.measure import Metric

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


def _closeness_work(setting: Setting, data: Dataset) -> float:
    told = closeness_settings(setting)
    # some twenty looks a draw, from both ends, each at two networks
    return 80.0 * told["draws"] * (told["images"] + setting.plan.calibration)


@register("closeness", settings=closeness_settings, work=_closeness_work)
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


def _connected(setting: Setting) -> list[Metric]:
    grid = setting.plan.connected_grid
    return [Connected(grid, RESAMPLES), StitchedExcess(resamples=RESAMPLES)]


add(
    Part(
        "connected",
        None,
        members=("A", "B", "independent"),
        settings=lambda setting: {
            "grid": list(setting.plan.connected_grid),
            "resamples": RESAMPLES,
        },
        metrics=_connected,
        quantities=frozenset(
            f"{quantity}{limit}"
            for quantity in (
                *(
                    f"{what}_{of}"
                    for what in ("error", "loss")
                    for of in ("barrier", "barrier_chord", "ends")
                ),
                "stitched_excess",
            )
            for limit in ("", "_lower", "_upper")
        ),
    )
)
add(
    Part(
        "coherence",
        None,
        members=("A", "B", "independent"),
        metrics=lambda setting: [Coherence()],
        quantities=frozenset(
            ("commutator_energy", "sign_energy", "shuffle_energy", "coherence", "energy_alignment")
        ),
    )
)


def measure_in_one_pass(pair: Pair, names: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of every one of these parts, the pair's and its controls'."""

    def metrics(_: Sequence[float], detail: bool = False, nulls: bool = True) -> list[Metric]:
        made = [(name, part(name).metrics) for name in names]
        return [metric for _, make in made if make is not None for metric in make(pair.setting)]

    rows = measure_pair(pair, metrics, ("unmatched", "independent"))
    return {name: rows_of(name, rows) for name in names}
