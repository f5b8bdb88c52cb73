"""Stitching without a stitching layer (B.4): the top of one network on the other's features."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from llfc_lib.metrics.measure import METRICS, Batch, Pair, Sums
from llfc_lib.metrics.rows import Row
from llfc_lib.models.view import View

DIRECTIONS = ("A to B", "B to A")


def cut_nodes(view: View, names: Sequence[str] | None = None) -> dict[str, str]:
    """Sites where networks can be stitched, by name, and their nodes: ``names``, or None for every
    hidden one.

    "input" and "logits" may be asked for. ValueError for an unknown site, and for one that
    information passes beside.

    Source: B.4.
    """
    if names is None:
        names = [s.name for s in view.sites if s.cut and s.node != view.output]
    nodes = {name: view.input if name == "input" else view.site(name).node for name in names}
    for name, node in nodes.items():
        if not view.is_cut(node):
            raise ValueError(
                f"networks cannot be stitched at {name!r}: information passes beside it; choose"
                f" from {[s.name for s in view.sites if s.cut]}"
            )
    return nodes


def stitched_wrong(batch: Batch, nodes: Mapping[str, str]) -> Iterator[tuple[str, str, Tensor]]:
    """(direction, name, which images the stitched network takes for another class: N, bool), for
    each of ``nodes``.

    Source: B.4, Tables 1 to 3.
    """
    tops = (batch.pair.b, batch.pair.a)
    for direction, bottom, top in zip(DIRECTIONS, (batch.a, batch.b), tops, strict=True):
        for name, node in nodes.items():
            yield direction, name, top.run_from(node, bottom[node]).argmax(1) != batch.y


@METRICS.register("stitching")
class Stitching:
    """Error of B_{>l} o A_{<=l} ("A to B") and of A_{>l} o B_{<=l} ("B to A"), as fractions.

    ``sites`` None takes every hidden site through which all information passes. "input" and
    "logits" may be asked for: stitched there, a network is the upper or the lower one itself.
    ``raw`` also stitches before normalisation, as the authors' code does: "<map> (raw)" is
    normalised by the upper network. ValueError for a site that information passes beside.

    Source: B.4, Tables 1 to 3.
    """

    def __init__(self, sites: Sequence[str] | None = None, raw: bool = False) -> None:
        self.names, self.raw = sites, raw

    def start(self, pair: Pair) -> None:
        self.nodes = cut_nodes(pair.a, self.names)
        if self.raw:
            raw = pair.a.features((), raw=True)
            self.nodes |= {name: node for name, node in raw.items() if pair.a.is_cut(node)}
        pair.want(*self.nodes.values())
        self.sums, self.n = Sums(), 0

    def update(self, batch: Batch) -> None:
        for direction, name, wrong in stitched_wrong(batch, self.nodes):
            self.sums.add(**{f"{direction}/{name}": wrong.double().sum()})
        self.n += len(batch.y)

    def rows(self) -> list[Row]:
        rows = []
        for direction in DIRECTIONS:
            for name in self.nodes:
                error = self.sums[f"{direction}/{name}"] / self.n
                rows.append(Row("stitched_error", error, n=self.n, site=name, direction=direction))
        return rows
