"""The other stronger form of commutativity in B.5: both networks' weights do the same to one
network's features.

The first form, W_B H_A = W_B H_B, is :class:`llfc_lib.metrics.stitching.Transfer`. Either implies
Definition 4, neither is implied by it.
"""

from llfc_lib.metrics.commutativity import unit_order
from llfc_lib.metrics.measure import METRICS, Batch, Pair, Sums, dot, ratio
from llfc_lib.metrics.rows import Row


@METRICS.register("same_weights")
class SameWeights:
    """dist(W_A H_A, W_B H_A) ("on A") and dist(W_B H_B, W_A H_B) ("on B") at every map but the
    first (B.5).

    The quantity "dist_weights", over the whole set, biases left out; dist(x, y) = |x - y|^2 / (|x|
    |y|). Null "shuffled units": the features' units in another order before the difference of the
    weights sees them, which keeps the size of both.

    Source: the second stronger form of B.5; the null is ours.
    """

    def __init__(self, seed: int = 0, nulls: bool = True) -> None:
        self.seed, self.nulls = seed, nulls

    def start(self, pair: Pair) -> None:
        self.maps = [m for m in pair.a.maps if not m.first]
        pair.want(*(m.input for m in self.maps))
        self.sums: dict[tuple[str, str], Sums] = {}

    def update(self, batch: Batch) -> None:
        for m in self.maps:
            w_a, w_b = batch.pair.state_a[m.weight], batch.pair.state_b[m.weight]
            for direction, own, other, h in (
                ("on A", w_a, w_b, batch.a[m.input]),
                ("on B", w_b, w_a, batch.b[m.input]),
            ):
                stays, moved = m.apply(own, h), m.apply(other - own, h)
                sums = self.sums.setdefault((m.name, direction), Sums())
                sums.add(own=dot(stays, stays), value=dot(moved, moved), cross=dot(stays, moved))
                if self.nulls:
                    moved = m.apply(
                        other - own,
                        h.index_select(m.unit_axis % h.ndim, unit_order(m, h, self.seed)),
                    )
                    sums.add(null=dot(moved, moved), null_cross=dot(stays, moved))

    def rows(self) -> list[Row]:
        rows = []
        for (name, direction), s in self.sums.items():
            for role, key, kind in (("value", "", ""), ("null", "null_", "shuffled units"))[
                : 1 + self.nulls
            ]:
                moved = s["null" if key else "value"]
                other = max(
                    s["own"] + 2 * s[f"{key}cross"] + moved, 0.0
                )  # |W' H|^2 with W' H = W H + dW H
                rows.append(
                    Row(
                        "dist_weights",
                        ratio(moved, (s["own"] * other) ** 0.5),
                        site=name,
                        direction=direction,
                        role=role,
                        kind=kind,
                    )
                )
        return rows
