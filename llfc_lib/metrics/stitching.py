"""Stitching without a stitching layer (B.4): the top of one network on the other's features."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from llfc_lib.metrics.commutativity import unit_order
from llfc_lib.metrics.measure import METRICS, Batch, Pair, Sums, dot, ratio
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
    names = (
        names
        if names is not None
        else [s.name for s in view.sites if s.cut and s.node != view.output]
    )
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
    for direction, bottom, top in zip(
        DIRECTIONS, (batch.a, batch.b), (batch.pair.b, batch.pair.a), strict=True
    ):
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
            self.nodes |= {
                name: node
                for name, node in pair.a.features((), raw=True).items()
                if pair.a.is_cut(node)
            }
        pair.want(*self.nodes.values())
        self.sums, self.n = Sums(), 0

    def update(self, batch: Batch) -> None:
        for direction, name, wrong in stitched_wrong(batch, self.nodes):
            self.sums.add(**{f"{direction}/{name}": wrong.double().sum()})
        self.n += len(batch.y)

    def rows(self) -> list[Row]:
        return [
            Row(
                "stitched_error",
                self.sums[f"{direction}/{name}"] / self.n,
                n=self.n,
                site=name,
                direction=direction,
            )
            for direction in DIRECTIONS
            for name in self.nodes
        ]


@METRICS.register("transfer")
class Transfer:
    """dist(W_B H_A, W_B H_B) ("A to B") and dist(W_A H_B, W_A H_A) ("B to A") at every map but the
    first (B.4).

    The quantity "dist_transfer", over the whole set, biases left out. Null "shuffled units": the
    units of H_A - H_B in another order before the weights see them.

    Source: the last formula of B.4, and the first stronger form of B.5; the null is ours.
    """

    def __init__(self, seed: int = 0, nulls: bool = True) -> None:
        self.seed, self.nulls = seed, nulls

    def start(self, pair: Pair) -> None:
        self.maps = [m for m in pair.a.maps if not m.first]
        pair.want(*(m.input for m in self.maps))
        self.sums: dict[tuple[str, str], Sums] = {}

    def update(self, batch: Batch) -> None:
        for m in self.maps:
            for direction, weight, own, other in (
                ("A to B", batch.pair.state_b[m.weight], batch.b[m.input], batch.a[m.input]),
                ("B to A", batch.pair.state_a[m.weight], batch.a[m.input], batch.b[m.input]),
            ):
                d_h = other - own
                stays, moved = m.apply(weight, own), m.apply(weight, d_h)
                sums = self.sums.setdefault((m.name, direction), Sums())
                sums.add(own=dot(stays, stays), value=dot(moved, moved), cross=dot(stays, moved))
                if self.nulls:
                    shuffled = m.apply(
                        weight,
                        d_h.index_select(m.unit_axis % d_h.ndim, unit_order(m, d_h, self.seed)),
                    )
                    sums.add(null=dot(shuffled, shuffled), null_cross=dot(stays, shuffled))

    def rows(self) -> list[Row]:
        rows = []
        for (name, direction), s in self.sums.items():
            for role, key, kind in (("value", "", ""), ("null", "null_", "shuffled units"))[
                : 1 + self.nulls
            ]:
                moved = s["null" if key else "value"]
                other = max(
                    s["own"] + 2 * s[f"{key}cross"] + moved, 0.0
                )  # |W H'|^2 with W H' = W H + W dH
                rows.append(
                    Row(
                        "dist_transfer",
                        ratio(moved, (s["own"] * other) ** 0.5),
                        site=name,
                        direction=direction,
                        role=role,
                        kind=kind,
                    )
                )
        return rows
