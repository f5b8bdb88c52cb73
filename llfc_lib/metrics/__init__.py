"""What is measured on a pair of networks: :func:`measure` takes any number of metrics in one pass.

To add a metric is one file in this folder, which registers it. Features are computed in the
networks' precision, sums and dot products in float64, streamed over batches.
"""

from llfc_lib.metrics.additivity import WeakAdditivity
from llfc_lib.metrics.barrier import Barrier
from llfc_lib.metrics.coherence import Coherence
from llfc_lib.metrics.commutativity import Commutativity
from llfc_lib.metrics.differences import SameWeights, Transfer
from llfc_lib.metrics.displacement import displace, displacement_null, matched_scale
from llfc_lib.metrics.llfc import LLFC
from llfc_lib.metrics.measure import METRICS, measure
from llfc_lib.metrics.rows import Row
from llfc_lib.metrics.spectra import (
    feature_spectra,
    living_units,
    singular_values,
    stable_rank,
    weight_spectra,
)
from llfc_lib.metrics.stitching import Stitching
from llfc_lib.registry import import_all

import_all(__name__, __path__)

__all__ = [
    "LLFC",
    "METRICS",
    "Barrier",
    "Coherence",
    "Commutativity",
    "Row",
    "SameWeights",
    "Stitching",
    "Transfer",
    "WeakAdditivity",
    "displace",
    "displacement_null",
    "feature_spectra",
    "living_units",
    "matched_scale",
    "measure",
    "singular_values",
    "stable_rank",
    "weight_spectra",
]
