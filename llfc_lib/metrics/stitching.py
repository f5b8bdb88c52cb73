"""Stitching without a stitching layer (B.4): the top of one network on the features of the other."""

from collections.abc import Sequence

import torch

from llfc_lib.metrics.measure import Batch, Loader, Network, Pair, Sums, measure
from llfc_lib.metrics.rows import Row


class Stitching:
    """Error of B_{>l} o A_{<=l} ("A to B") and of A_{>l} o B_{<=l} ("B to A"), as fractions.

    ``sites`` None takes every hidden site through which all information passes. "input" and "logits" may be asked for:
    stitched there, a network is the upper or the lower one itself.
    """

    def __init__(self, sites: Sequence[str] | None = None) -> None:
        self.names = sites

    def start(self, pair: Pair) -> None:
        view = pair.a
        names = self.names if self.names is not None else [s.name for s in view.sites if s.cut and s.node != view.output]
        self.nodes = {name: view.input if name == "input" else view.site(name).node for name in names}
        for name, node in self.nodes.items():
            if not view.is_cut(node):
                raise ValueError(f"networks cannot be stitched at {name!r}: information passes beside it; choose from "
                                 f"{[s.name for s in view.sites if s.cut]}")
        pair.want(*self.nodes.values())
        self.sums, self.n = Sums(), 0

    def update(self, batch: Batch) -> None:
        for direction, bottom, top in (("A to B", batch.a, batch.pair.b), ("B to A", batch.b, batch.pair.a)):
            for name, node in self.nodes.items():
                wrong = top.run_from(node, bottom[node]).argmax(1) != batch.y
                self.sums.add(**{f"{direction}/{name}": wrong.double().sum()})
        self.n += len(batch.y)

    def rows(self) -> list[Row]:
        return [Row("stitched_error", self.sums[f"{direction}/{name}"] / self.n, n=self.n, site=name,
                    direction=direction) for direction in ("A to B", "B to A") for name in self.nodes]


def stitching(a: Network, b: Network, loader: Loader, sites: Sequence[str] | None = None,
              dtype: torch.dtype | None = None) -> list[Row]:
    """:class:`Stitching` of two networks over a loader."""
    return measure(a, b, loader, [Stitching(sites)], dtype)
