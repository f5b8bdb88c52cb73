"""How sure the error barrier and the error of stitched networks are: a bootstrap over images,
paired throughout.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llfc_lib.metrics.barrier import GRID, Barrier
from llfc_lib.metrics.measure import Batch, Pair
from llfc_lib.metrics.rows import Row
from llfc_lib.metrics.stitching import DIRECTIONS, cut_nodes, stitched_wrong
from llfc_lib.streams import numpy_generator

PERCENTILES = (2.5, 97.5)
CHUNK = 2**19  # images times resamples held at once: 4 MB in float64, a few of which exist


class Connected:
    """ "error_barrier", as :class:`Barrier` has it, with its uncertainty.

    ``std`` is the bootstrap's standard deviation (None for one resample), ``n`` the number of
    images; "error_barrier_lower" and "error_barrier_upper" are the 2.5 and 97.5 % percentiles.
    Images are drawn once for all alphas, and the maximum over alpha is taken in every resample.

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
        self.output, self.wrong = pair.a.output, []

    def update(self, batch: Batch) -> None:
        wrong = [batch.at(alpha)[self.output].argmax(1) != batch.y for alpha in self.grid]
        self.wrong.append(torch.stack(wrong, 1))

    def rows(self) -> list[Row]:
        values = _as_numpy(self.wrong)
        draws = barriers(bootstrap_means(values, self.resamples, self.seed), self.grid)
        estimate = float(barriers(values.mean(0), self.grid))
        return _with_limits("error_barrier", estimate, draws, len(values))


class StitchedExcess:
    """ "stitched_excess": error of the stitched network minus (Err_A + Err_B) / 2, as a fraction;
    one for every hidden site and direction.

    The uncertainty is that of a mean over images of wrong_stitched - (wrong_A + wrong_B) / 2, so
    that images which all three get right, or all wrong, add none: ``std`` is the standard deviation
    over resamples (None for one), ``n`` the number of images, "stitched_excess_lower" and
    "stitched_excess_upper" are the 2.5 and 97.5 % percentiles.

    ValueError for ``resamples`` below 1.

    Source: B.4; the intervals are ours.
    """

    def __init__(self, resamples: int = 2000, seed: int = 0) -> None:
        self.resamples, self.seed = check_resamples(resamples), seed

    def start(self, pair: Pair) -> None:
        self.nodes, self.output = cut_nodes(pair.a, None), pair.a.output
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
        found: list[Row] = []
        for k, (direction, site) in enumerate(places):
            where = {"site": site, "direction": direction}
            mean = float(means[k])
            found += _with_limits("stitched_excess", mean, draws[:, k], len(values), **where)
        return found


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


def barriers(curves: np.ndarray, grid: Sequence[float]) -> np.ndarray:
    """The maximum of ``curves`` (... x alphas) minus the mean of both ends; ``grid`` holds 0 (B)
    and 1 (A).

    Source: Frankle et al. (2020).
    """
    a, b = curves[..., list(grid).index(1.0)], curves[..., list(grid).index(0.0)]
    return curves.max(-1) - 0.5 * (a + b)


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
