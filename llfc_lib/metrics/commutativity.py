"""Commutativity (Definition 4): Dist_com, Dist_W and Dist_H of B.3, with two nulls."""

from typing import Any

import torch
from torch import Tensor

from llfc_lib.metrics.measure import METRICS, Batch, Pair, Sums, dot, ratio
from llfc_lib.metrics.rows import Row
from llfc_lib.models.view import LinearMap
from llfc_lib.streams import numpy_generator


@METRICS.register("commutativity")
class Commutativity:
    """dist(W_A H_A + W_B H_B, W_A H_B + W_B H_A) over the whole set, for every map but the first;
    biases left out.

    dist(x, y) = |x - y|^2 / (|x| |y|). With P = (W_A + W_B)(H_A + H_B) and Q = (W_A - W_B)(H_A -
    H_B), the two sides are (P + Q)/2 and (P - Q)/2: two products instead of four, and the
    difference is never a difference of large numbers.

    Nulls of "dist_com": "formula" 4r/(1+r), r = |dW|^2 |dH|^2 / (|sW|^2 |sH|^2), assumes
    differences (d) as generic towards each other as sums (s); "shuffled units" puts the units of dH
    in another order against dW, which keeps both spectra and loses their alignment.

    Source: Definition 4 (A.2); B.3, Figures 16 to 19; the nulls are ours.
    """

    def __init__(self, seed: int = 0, nulls: bool = True) -> None:
        self.seed, self.nulls = seed, nulls

    def start(self, pair: Pair) -> None:
        self.maps = [m for m in pair.a.maps if not m.first]
        pair.want(*(m.input for m in self.maps))
        self.weights = {m.name: (pair.state_a[m.weight], pair.state_b[m.weight]) for m in self.maps}
        self.sums = {m.name: Sums() for m in self.maps}

    def update(self, batch: Batch) -> None:
        for m in self.maps:
            w_a, w_b = self.weights[m.name]
            h_a, h_b = batch.a[m.input], batch.b[m.input]
            d_w, d_h = w_a - w_b, h_a - h_b
            p, q = m.apply(w_a + w_b, h_a + h_b), m.apply(d_w, d_h)
            sums = self.sums[m.name]
            sums.add(pp=dot(p, p), qq=dot(q, q), pq=dot(p, q))
            sums.add(aa=dot(h_a, h_a), bb=dot(h_b, h_b), dd=dot(d_h, d_h))
            if self.nulls:
                order = unit_order(m, d_h, self.seed)
                shuffled = m.apply(d_w, d_h.index_select(m.unit_axis % d_h.ndim, order))
                sums.add(ss=dot(shuffled, shuffled), ps=dot(p, shuffled))

    def rows(self) -> list[Row]:
        rows = []
        for m in self.maps:
            s, (w_a, w_b) = self.sums[m.name], self.weights[m.name]
            w_aa, w_bb, w_dd = (float(dot(w, w)) for w in (w_a, w_b, w_a - w_b))
            # |x + y|^2 by the parallelogram
            w_sum, h_sum = 2 * (w_aa + w_bb) - w_dd, 2 * (s["aa"] + s["bb"]) - s["dd"]
            r = ratio(w_dd * s["dd"], w_sum * h_sum)
            null: Any = {"site": m.name, "role": "null"}
            rows += [
                Row("dist_com", _two_sides(s["pp"], s["qq"], s["pq"]), site=m.name),
                Row("dist_W", ratio(w_dd, (w_aa * w_bb) ** 0.5), site=m.name),
                Row("dist_H", ratio(s["dd"], (s["aa"] * s["bb"]) ** 0.5), site=m.name),
            ]
            if self.nulls:
                shuffled = _two_sides(s["pp"], s["ss"], s["ps"])
                rows += [
                    Row("dist_com", 4 * r / (1 + r), **null, kind="formula"),
                    Row("dist_com", shuffled, **null, kind="shuffled units"),
                ]
        return rows


def unit_order(m: LinearMap, h: Tensor, seed: int) -> Tensor:
    """One permutation of the n units that enter the map (n integers), the same for every batch.
    ``h``: their features.
    """
    drawn = numpy_generator("shuffled units", m.name, seed).permutation(h.shape[m.unit_axis])
    return torch.from_numpy(drawn).to(h.device)


def _two_sides(pp: float, qq: float, pq: float) -> float:
    """|S1 - S2|^2 / (|S1| |S2|) for S1 = (P + Q)/2, S2 = (P - Q)/2; where one of them vanishes,
    rounding must not make it negative.
    """
    return ratio(qq, 0.25 * (max(pp + 2 * pq + qq, 0.0) * max(pp - 2 * pq + qq, 0.0)) ** 0.5)
