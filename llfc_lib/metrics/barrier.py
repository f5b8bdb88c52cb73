"""Linear mode connectivity (Definition 1): error and loss on the line between two networks."""

from collections.abc import Sequence

from torch.nn import functional as F

from llfc_lib.metrics.measure import METRICS, Batch, Pair, Sums
from llfc_lib.metrics.rows import Row
from llfc_lib.models.weights import check_alpha, weight_distance

NEEDED = (0.0, 0.25, 0.5, 0.75, 1.0)
GRID = tuple(round(k / 20, 2) for k in range(21))


@METRICS.register("barrier")
class Barrier:
    """ "error" and "loss" (mean cross-entropy, nats) at every alpha of an odd ``grid`` that holds
    0, .25, .5, .75, 1.

    "*_barrier" is the maximum over alpha minus the mean of both ends; "*_barrier_chord" subtracts
    alpha A + (1 - alpha) B instead, so that a straight line has none. "disagreement" is the share
    of images that A and B classify differently, "weight_distance" |A - B| over the mean norm, of
    parameters alone: running statistics are no weights, and their variances are large enough to
    hide the distance. ValueError for another grid.

    Source: Definition 1 (A.1); the barrier over the mean of both ends is that of Frankle et al.
    (2020).
    """

    def __init__(self, grid: Sequence[float] = GRID) -> None:
        self.grid = [check_alpha(alpha) for alpha in grid]
        if len(self.grid) % 2 == 0 or not set(NEEDED) <= set(self.grid):
            raise ValueError(
                f"the grid of alpha has {len(self.grid)} points; it must be odd and hold {NEEDED}"
            )

    def start(self, pair: Pair) -> None:
        for alpha in self.grid:
            if alpha not in (0.0, 1.0):
                pair.want_between(alpha)
        names = [name for name, _ in pair.a.module.named_parameters()]
        self.parameters = [
            {name: state[name] for name in names} for state in (pair.state_a, pair.state_b)
        ]
        self.sums, self.n, self.output = Sums(), 0, pair.a.output

    def update(self, batch: Batch) -> None:
        for alpha in self.grid:
            logits = batch.at(alpha)[self.output]
            # measure() refuses a label out of range after the pass; until then it must not stop a
            # device
            known = batch.y.clamp(0, logits.shape[-1] - 1)
            loss = F.cross_entropy(logits.double(), known, reduction="sum")
            wrong = (logits.argmax(1) != batch.y).double().sum()
            self.sums.add(**{f"error/{alpha}": wrong, f"loss/{alpha}": loss})
        differ = batch.a[self.output].argmax(1) != batch.b[self.output].argmax(1)
        self.sums.add(disagreement=differ.double().sum())
        self.n += len(batch.y)

    def rows(self) -> list[Row]:
        rows = [
            Row("weight_distance", weight_distance(*self.parameters)),
            Row("disagreement", self.sums["disagreement"] / self.n, n=self.n),
        ]
        for quantity in ("error", "loss"):
            curve = {alpha: self.sums[f"{quantity}/{alpha}"] / self.n for alpha in self.grid}
            rows += [Row(quantity, value, n=self.n, alpha=alpha) for alpha, value in curve.items()]
            a, b = curve[1.0], curve[0.0]
            rows.append(Row(f"{quantity}_barrier", max(curve.values()) - 0.5 * (a + b), n=self.n))
            over = max(value - (b + alpha * (a - b)) for alpha, value in curve.items())
            rows.append(Row(f"{quantity}_barrier_chord", over, n=self.n))
        return rows
