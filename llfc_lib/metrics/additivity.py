"""Weak additivity of the ReLU (Definition 3), with the null of unrelated images."""

from typing import Any

import torch
from torch import Tensor

from llfc_lib.metrics.measure import METRICS, Batch, Pair, Sums, dot, ratio
from llfc_lib.metrics.rows import Row
from llfc_lib.streams import numpy_generator


@METRICS.register("weak_additivity")
class WeakAdditivity:
    """dist(relu(x + y), relu(x) + relu(y)) over the whole set at every ReLU, x and y the
    pre-activations of A and B.

    Null "shuffled images": every unit (feature; channel of a convolution) pairs image i of A with
    image i + s of B, with a shift s of its own, around the batch: each unit keeps its values, their
    correspondence is lost.

    Source: Definition 3 (A.2); its null is ours.
    """

    def __init__(self, seed: int = 0, nulls: bool = True) -> None:
        self.seed, self.nulls = seed, nulls

    def start(self, pair: Pair) -> None:
        self.sites = {site.name: site.pre for site in pair.a.sites if site.relu and site.pre}
        pair.want(*self.sites.values())
        self.sums = {name: {"value": Sums(), "null": Sums()} for name in self.sites}
        self.batches = 0

    def update(self, batch: Batch) -> None:
        for name, node in self.sites.items():
            x, y = batch.a[node], batch.b[node]
            self._add(self.sums[name]["value"], x, y)
            if self.nulls and len(y) > 1:
                self._add(self.sums[name]["null"], x, self._shifted(y, name))
        self.batches += 1

    def rows(self) -> list[Row]:
        rows = []
        for name, sums in self.sums.items():
            rows.append(Row("dist_add", self._dist(sums["value"]), site=name))
            if sums["null"].total:
                null: Any = {"site": name, "role": "null", "kind": "shuffled images"}
                rows.append(Row("dist_add", self._dist(sums["null"]), **null))
        return rows

    @staticmethod
    def _add(sums: Sums, x: Tensor, y: Tensor) -> None:
        together, apart = torch.relu(x + y), torch.relu(x) + torch.relu(y)
        off = together - apart
        sums.add(tt=dot(together, together), aa=dot(apart, apart), dd=dot(off, off))

    @staticmethod
    def _dist(s: Sums) -> float:
        return ratio(s["dd"], (s["tt"] * s["aa"]) ** 0.5)

    def _shifted(self, y: Tensor, name: str) -> Tensor:
        n, units = y.shape[:2]
        rng = numpy_generator("shuffled images", name, self.batches, self.seed)
        shift = torch.from_numpy(rng.integers(1, n, units)).to(y.device)
        index = (torch.arange(n, device=y.device)[:, None] + shift) % n
        return y.gather(0, index.view(n, units, *[1] * (y.ndim - 2)).expand_as(y))
