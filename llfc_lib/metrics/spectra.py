"""Singular values of weights and of features (B.5): how low is their rank, beside matrices without
structure?
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llfc_lib.metrics.measure import NO_IMAGES, Loader, Network
from llfc_lib.metrics.rows import Row
from llfc_lib.models.view import View
from llfc_lib.streams import numpy_generator

#: Where a spectrum is read: (index of the singular value) / n, so that widths can be laid over each
#: other. n counts units: those that enter a weight matrix (B.5 asks how many directions W X = 0
#: leaves to X), those of a layer for its features.
SHARES = tuple(round(k / 32, 5) for k in range(33))
SHUFFLED = "images shuffled unit by unit"


def singular_values(matrix: Tensor) -> Tensor:
    """All of them (as many as the shorter side has), falling, in float64.

    A convolution's weight is taken as outputs x (inputs * kernel).

    Source: B.5, Figures 20 and 21.
    """
    return torch.linalg.svdvals(matrix.double().flatten(1))


def stable_rank(matrix: Tensor) -> float:
    """|W|_F^2 / |W|_2^2 (Figure 22's caption); 0 for a zero matrix.

    Source: B.5, Figure 22.
    """
    return _rank_of(singular_values(matrix))


def _rank_of(values: Tensor) -> float:
    return float(values.square().sum() / values[0].square()) if values[0] else 0.0


def _rows(
    what: str, matrix: Tensor, n: int, site: str, role: str = "value", kind: str = ""
) -> list[Row]:
    """The singular values of an n-sided matrix (zeros behind the last) over the largest, the stable
    rank and its share of n.
    """
    values = singular_values(matrix)
    values = torch.cat((values, values.new_zeros(max(n - len(values), 0))))
    scaled = values / (values[0] or 1.0)
    where: Any = {"n": n, "site": site, "role": role, "kind": kind}
    rows = [
        Row(f"sigma_{what}/{share:g}", float(scaled[round(share * (n - 1))]), **where)
        for share in SHARES
    ]
    rank = _rank_of(values)
    return [
        *rows,
        Row(f"stable_rank_{what}", rank, **where),
        Row(f"stable_rank_share_{what}", rank / n, **where),
    ]


@torch.no_grad()
def living_units(network: Network, loader: Loader) -> dict[str, Tensor]:
    """The node of every hidden site to a mask of its units (bool, one a unit) that respond to any
    image of ``loader``.

    ValueError for an empty loader.
    """
    view = network if isinstance(network, View) else View(network)
    nodes = {s.node for s in view.sites if s.node != view.output}
    found: dict[str, Tensor] = {}
    for x, _ in loader:
        for node, h in view.run(x, nodes).items():
            responds = (h != 0).movedim(1, -1).flatten(0, -2).any(0)
            found[node] = found[node] | responds if node in found else responds
    if not found:
        raise ValueError(NO_IMAGES)
    return found


def weight_spectra(
    network: Network,
    start: nn.Module | None = None,
    seed: object = 0,
    living: Mapping[str, Tensor] | None = None,
    shorter_side: bool = False,
) -> list[Row]:
    """ "sigma_W/<index / n>" and the stable rank of every weight; nulls: a Gaussian matrix of its
    shape, and the weight of ``start``, the network before training.

    n counts the units that enter (with every tap of a kernel), or with ``shorter_side`` the rank
    that the matrix can have.

    With the masks of :func:`living_units`, "sigma_W_living" is the same of the block between units
    that live, nulls of that block too: weights of dead units count for nothing, and decay. Linear
    maps only, fed by a hidden site or by the images.

    Source: B.5, Figures 20 and 22; the nulls are ours.
    """
    view = network if isinstance(network, View) else View(network)
    own, before = view.state(), start.state_dict() if start is not None else {}
    rows = []
    for m in view.maps:
        blocks: dict[str, tuple[Tensor, ...]] = {"W": ()}
        if living is not None and own[m.weight].ndim == 2:
            w = own[m.weight]
            out = next(
                (living[s.node] for s in view.sites if s.pre == m.node and s.node in living),
                torch.ones(len(w), dtype=torch.bool),
            )
            blocks["W_living"] = out, living.get(m.input, torch.ones(w.shape[1], dtype=torch.bool))
        for what, kept in blocks.items():
            w = _block(own[m.weight], *kept)
            gaussian = numpy_generator("spectrum", m.name, seed).standard_normal(w.shape)
            n = min(w.shape) if shorter_side else w.shape[1]
            rows += _rows(what, w, n, m.name) + _rows(
                what, torch.from_numpy(gaussian), n, m.name, "null", "gaussian matrix"
            )
            if m.weight in before:
                first = _block(before[m.weight], *kept)
                rows += _rows(what, first, n, m.name, "null", "before training")
    return rows


def _block(weight: Tensor, out: Tensor | None = None, into: Tensor | None = None) -> Tensor:
    return weight.flatten(1) if out is None else weight[out][:, into]


@torch.no_grad()
def feature_spectra(network: Network, loader: Loader, start: nn.Module | None = None) -> list[Row]:
    """ "sigma_H/<index / n>" of the post-activations at every hidden site over a whole set, units x
    images, of the centred ones ("sigma_Hc": without them the mean response is the largest singular
    value), and of the centred ones of units that respond at all ("sigma_Hc_living", n their number;
    "living_units" counts them). Nulls: the entries of each unit in a random order over images,
    which keeps every unit's distribution and loses what units share; the network before training.

    ValueError for an empty loader.

    Source: B.5, Figure 21; the nulls are ours.
    """
    rows = []
    for given, role, kind in ((network, "value", ""), (start, "null", "before training")):
        if given is None:
            continue
        view = given if isinstance(given, View) else View(given)
        sites = [s for s in view.sites if s.node != view.output]
        kept: dict[str, list[Tensor]] = {s.node: [] for s in sites}
        for x, _ in loader:
            for node, h in view.run(x, set(kept)).items():
                kept[node].append(h.flatten(1).double())
        for s in sites:
            if not kept[s.node]:
                raise ValueError(NO_IMAGES)
            h = torch.cat(kept[s.node]).T  # units x images
            rows += _both(h, s.name, role, kind)
            if role == "value":
                rng = numpy_generator("shuffled images", s.name)
                shuffled = np.stack([rng.permutation(unit) for unit in h.cpu().numpy()])
                rows += _both(torch.from_numpy(shuffled), s.name, "null", SHUFFLED)
    return rows


def _both(h: Tensor, site: str, role: str, kind: str) -> list[Row]:
    centred, alive = h - h.mean(1, keepdim=True), (h != 0).any(1)
    rows = _rows("H", h, len(h), site, role, kind) + _rows("Hc", centred, len(h), site, role, kind)
    if alive.any():
        rows += _rows("Hc_living", centred[alive], int(alive.sum()), site, role, kind)
    if kind != SHUFFLED:
        where: Any = {"n": len(h), "site": site, "role": role, "kind": kind}
        rows.append(Row("living_units", float(alive.sum()), **where))
    return rows
