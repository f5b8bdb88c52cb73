"""How sure the error barrier and the error of stitched networks are: a bootstrap over images,
paired throughout.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llfc_lib.metrics.barrier import GRID, Barrier
from llfc_lib.metrics.measure import METRICS, Batch, Pair
from llfc_lib.metrics.rows import Row
from llfc_lib.metrics.stitching import DIRECTIONS, cut_nodes, stitched_wrong
from llfc_lib.streams import numpy_generator

PERCENTILES = (2.5, 97.5)
CHUNK = 2**19  # images times resamples held at once: 4 MB in float64, a few of which exist


@METRICS.register("connected")
class Connected:
    """ "error_barrier", "loss_barrier" and both "*_barrier_chord", as :class:`Barrier` has them,
    with their uncertainty; and "error_ends", "loss_ends", the mean of both ends.

    ``std`` is the bootstrap's standard deviation (None for one resample), ``n`` the number of
    images; "*_lower" and "*_upper" are the 2.5 and 97.5 % percentiles. Images are drawn once for
    all alphas, and the maximum over alpha is taken in every resample. Errors are fractions, losses
    nats.

    A maximum over a flat curve picks noise, upwards: with an error of 2 % at all 21 alphas,
    simulated barriers over 10,000 images averaged .1 to .3 points where the true one is 0, and no
    interval reached down to it; a peak that stands out was covered in 95 to 97 % of simulated test
    sets, a plateau of 11 alphas in 81 %.

    ValueError for ``resamples`` below 1, and for a ``grid`` that :class:`Barrier` refuses.

    Source: Frankle et al. (2020) for the barrier; the intervals are ours.
    """

    def __init__(self, grid: Sequence[float] = GRID, resamples: int = 2000, seed: int = 0) -> None:
        self.grid = Barrier(grid).grid
        self.resamples, self.seed = check_resamples(resamples), seed

    def start(self, pair: Pair) -> None:
        for alpha in self.grid:
            if alpha not in (0.0, 1.0):
                pair.want_between(alpha)
        self.output = pair.a.output
        self.kept: dict[str, list[Tensor]] = {"error": [], "loss": []}

    def update(self, batch: Batch) -> None:
        wrong, loss = [], []
        for alpha in self.grid:
            logits = batch.at(alpha)[self.output]
            # measure() refuses a label out of range after the pass; until then it must not stop a
            # device
            known = batch.y.clamp(0, logits.shape[-1] - 1)
            wrong.append(logits.argmax(1) != batch.y)
            loss.append(F.cross_entropy(logits.double(), known, reduction="none"))
        self.kept["error"].append(torch.stack(wrong, 1))
        self.kept["loss"].append(torch.stack(loss, 1))

    def rows(self) -> list[Row]:
        rows = []
        for what, kept in self.kept.items():
            values = _as_numpy(kept)
            found = barriers(values.mean(0), self.grid)
            draws = barriers(bootstrap_means(values, self.resamples, self.seed), self.grid)
            for name, estimate in found.items():
                rows += _with_limits(f"{what}_{name}", float(estimate), draws[name], len(values))
        return rows


@METRICS.register("stitched_excess")
class StitchedExcess:
    """ "stitched_excess": error of the stitched network minus (Err_A + Err_B) / 2, as a fraction.

    One for every site and direction; ``sites`` as in :class:`llfc_lib.metrics.stitching.Stitching`.
    The uncertainty is that of a mean over images of wrong_stitched - (wrong_A + wrong_B) / 2, so
    that images which all three get right, or all wrong, add none: ``std`` is the standard deviation
    over resamples (None for one), ``n`` the number of images, "stitched_excess_lower" and
    "stitched_excess_upper" are the 2.5 and 97.5 % percentiles.

    ValueError for ``resamples`` below 1, and for a site that information passes beside.

    Source: B.4; the intervals are ours.
    """

    def __init__(
        self, sites: Sequence[str] | None = None, resamples: int = 2000, seed: int = 0
    ) -> None:
        self.names, self.resamples, self.seed = sites, check_resamples(resamples), seed

    def start(self, pair: Pair) -> None:
        self.nodes, self.output = cut_nodes(pair.a, self.names), pair.a.output
        pair.want(*self.nodes.values())
        self.kept: list[Tensor] = []

    def update(self, batch: Batch) -> None:
        wrong_a, wrong_b = (
            (values[self.output].argmax(1) != batch.y).double() for values in (batch.a, batch.b)
        )
        excess = [
            wrong.double() - 0.5 * (wrong_a + wrong_b)
            for _, _, wrong in stitched_wrong(batch, self.nodes)
        ]
        if excess:
            self.kept.append(torch.stack(excess, 1))

    def rows(self) -> list[Row]:
        if not self.kept:  # a network without a hidden site to cut at
            return []
        values = _as_numpy(self.kept)
        means, draws = values.mean(0), bootstrap_means(values, self.resamples, self.seed)
        places = [(direction, name) for direction in DIRECTIONS for name in self.nodes]
        return [
            row
            for k, (direction, name) in enumerate(places)
            for row in _with_limits(
                "stitched_excess",
                float(means[k]),
                draws[:, k],
                len(values),
                site=name,
                direction=direction,
            )
        ]


def check_resamples(resamples: int) -> int:
    """``resamples`` as it is. ValueError below 1."""
    if resamples < 1:
        raise ValueError(
            f"resamples = {resamples}; the bootstrap needs at least 1 (2000 for steady percentiles)"
        )
    return resamples


def bootstrap_means(values: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """Means over resampled images (resamples x k) of what each image has in k columns (``values``,
    N x k, float64).

    An image is drawn with its whole row. The draws follow from N, ``resamples`` and ``seed`` alone.

    Source: Efron (1979).
    """
    n, means = len(values), []
    rng, size = numpy_generator("bootstrap", seed), max(1, CHUNK // len(values))
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        # whole numbers, and not rng.multinomial: its binomials take logarithms, which processors
        # round differently
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means.append(counts.astype(np.float64) @ values / n)
    return np.concatenate(means)


def barriers(curves: np.ndarray, grid: Sequence[float]) -> Mapping[str, np.ndarray]:
    """ "barrier", "barrier_chord" and "ends" of ``curves`` (... x alphas) over ``grid``, which
    holds 0 (B) and 1 (A).

    The maximum over alpha minus the mean of both ends, the maximum of what lies over alpha A + (1 -
    alpha) B, and that mean.

    Source: Frankle et al. (2020) for the first; Definition 1 (A.1) for the second.
    """
    alphas = np.asarray(grid)
    a, b = curves[..., list(grid).index(1.0)], curves[..., list(grid).index(0.0)]
    chord = b[..., None] + alphas * (a - b)[..., None]
    ends = 0.5 * (a + b)
    return {
        "barrier": curves.max(-1) - ends,
        "barrier_chord": (curves - chord).max(-1),
        "ends": ends,
    }


def _as_numpy(batches: Sequence[Tensor]) -> np.ndarray:
    return torch.cat(list(batches)).double().cpu().numpy()


def _with_limits(
    quantity: str, estimate: float, draws: np.ndarray, n: int, **where: str
) -> list[Row]:
    """The estimate with its standard deviation, and the percentiles of ``draws`` (resamples) beside
    it.
    """
    std = float(draws.std(ddof=1)) if len(draws) > 1 else None
    lower, upper = (float(limit) for limit in np.percentile(draws, PERCENTILES))
    return [
        Row(quantity, estimate, std, n, **where),
        Row(f"{quantity}_lower", lower, n=n, **where),
        Row(f"{quantity}_upper", upper, n=n, **where),
    ]
