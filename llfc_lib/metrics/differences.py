"""The two stronger forms of commutativity in B.5: W_B H_A = W_B H_B, that features do the same to
one network's weights, and W_A H_A = W_B H_A, that weights do the same to one network's features.

Either implies Definition 4, neither is implied by it.
"""

from collections.abc import Iterator

from torch import Tensor

from llfc_lib.metrics.commutativity import unit_order
from llfc_lib.metrics.measure import METRICS, Batch, Pair, Sums, dot, ratio
from llfc_lib.metrics.rows import Row
from llfc_lib.models.view import LinearMap

#: (direction, W, H, and the weights and features of the difference that is added to W H)
Case = tuple[str, Tensor, Tensor, Tensor, Tensor]


class _Difference:
    """dist(W H, W H + difference) at every map but the first, over the whole set, biases left out.

    dist(x, y) = |x - y|^2 / (|x| |y|).
    """

    quantity: str

    def __init__(self, seed: int = 0, nulls: bool = True) -> None:
        self.seed, self.nulls = seed, nulls

    def cases(self, m: LinearMap, batch: Batch) -> Iterator[Case]:
        """One for each direction."""
        raise NotImplementedError

    def start(self, pair: Pair) -> None:
        self.maps = [m for m in pair.a.maps if not m.first]
        pair.want(*(m.input for m in self.maps))
        self.sums: dict[tuple[str, str], Sums] = {}

    def update(self, batch: Batch) -> None:
        for m in self.maps:
            for direction, weight, h, moving_weight, moving_h in self.cases(m, batch):
                stays, moved = m.apply(weight, h), m.apply(moving_weight, moving_h)
                sums = self.sums.setdefault((m.name, direction), Sums())
                sums.add(own=dot(stays, stays), value=dot(moved, moved), cross=dot(stays, moved))
                if self.nulls:
                    order = unit_order(m, moving_h, self.seed)
                    shuffled = moving_h.index_select(m.unit_axis % h.ndim, order)
                    moved = m.apply(moving_weight, shuffled)
                    sums.add(null=dot(moved, moved), null_cross=dot(stays, moved))

    def rows(self) -> list[Row]:
        rows = []
        for (name, direction), s in self.sums.items():
            for role, kind, moved, cross in (
                ("value", "", "value", "cross"),
                ("null", "shuffled units", "null", "null_cross"),
            )[: 1 + self.nulls]:
                other = max(s["own"] + 2 * s[cross] + s[moved], 0.0)  # |W H + difference|^2
                value = ratio(s[moved], (s["own"] * other) ** 0.5)
                rows.append(
                    Row(self.quantity, value, site=name, direction=direction, role=role, kind=kind)
                )
        return rows


@METRICS.register("transfer")
class Transfer(_Difference):
    """dist(W_B H_A, W_B H_B) ("A to B") and dist(W_A H_B, W_A H_A) ("B to A") at every map but the
    first (B.4).

    The quantity "dist_transfer", over the whole set, biases left out. Null "shuffled units": the
    units of H_A - H_B in another order before the weights see them.

    Source: the last formula of B.4, and the first stronger form of B.5; the null is ours.
    """

    quantity = "dist_transfer"

    def cases(self, m: LinearMap, batch: Batch) -> Iterator[Case]:
        w_a, w_b = batch.pair.state_a[m.weight], batch.pair.state_b[m.weight]
        h_a, h_b = batch.a[m.input], batch.b[m.input]
        yield "A to B", w_b, h_b, w_b, h_a - h_b
        yield "B to A", w_a, h_a, w_a, h_b - h_a


@METRICS.register("same_weights")
class SameWeights(_Difference):
    """dist(W_A H_A, W_B H_A) ("on A") and dist(W_B H_B, W_A H_B) ("on B") at every map but the
    first (B.5).

    The quantity "dist_weights", over the whole set, biases left out. Null "shuffled units": the
    features' units in another order before the difference of the weights sees them, which keeps the
    size of both.

    Source: the second stronger form of B.5; the null is ours.
    """

    quantity = "dist_weights"

    def cases(self, m: LinearMap, batch: Batch) -> Iterator[Case]:
        w_a, w_b = batch.pair.state_a[m.weight], batch.pair.state_b[m.weight]
        h_a, h_b = batch.a[m.input], batch.b[m.input]
        yield "on A", w_a, h_a, w_b - w_a, h_a
        yield "on B", w_b, h_b, w_a - w_b, h_b
