"""Pairs of networks that satisfy the conditions of Theorem 1 exactly, or all but one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llfc_lib.metrics.decomposition import decompose
from llfc_lib.metrics.measure import Network
from llfc_lib.models import MLP
from llfc_lib.models.statistics import recompute
from llfc_lib.models.view import LinearMap, View, copy_of
from llfc_lib.streams import generator, seed_of

ALPHA = 0.3  # nothing about it is special
HALVINGS = 60
RANK = 1e-10  # singular values below this share of the largest count as 0


class Residual(nn.Module):
    """conv -> ReLU -> conv, plus what entered the second, -> ReLU, mean over pixels, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv1(x))
        h = torch.relu(self.conv2(h) + h)
        return self.fc(h.mean((2, 3)))


def small_networks() -> dict[str, nn.Module]:
    """One of each kind that Theorem 1 is checked on, for images 1 x 6 x 6, at random; float64."""

    def convolutional(*between: nn.Module) -> nn.Module:
        first, second = (nn.Conv2d(n, 16, 3, padding=1) for n in (1, 16))
        ends = nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
        return nn.Sequential(first, nn.ReLU(), *between, second, *ends)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("small networks"))
        found = {
            "perceptron": MLP(36, 24, 5),
            "convolutions": convolutional(),
            "convolutions and max-pooling": convolutional(nn.MaxPool2d(2)),
            "residual sum": Residual(),
        }
        for network in found.values():
            network(torch.zeros(1, 1, 6, 6))  # which gives the last layer its size
    return {name: network.double().eval() for name, network in found.items()}


def small_images(number: int = 3) -> Tensor:
    """Images for :func:`small_networks` (number x 1 x 6 x 6, float64), independent and normally
    distributed.
    """
    return torch.randn(number, 1, 6, 6, generator=generator("small images"), dtype=torch.float64)


@dataclass(frozen=True)
class Conditions:
    """How far a pair is from the conditions on one set of images: 0 where they hold.

    ``commutativity``: max over maps of |dW dH| / |W_A H_A + W_B H_B| (Definition 4); ``signs``: the
    share of pre-activations at which A and B differ in sign (Definition 3, see Lemma 2 of chapter
    A.2); ``maximisers``: the share of pooling windows without a common one.

    Source: Definitions 3 and 4; the condition on pooling is this book's.
    """

    commutativity: float
    signs: float
    maximisers: float


@torch.no_grad()
def conditions(a: Network, b: Network, x: Tensor) -> Conditions:
    """The conditions of Theorem 1 on images ``x`` (N x ...), and that of max-pooling.

    Source: Theorem 1 (A.2); the condition on pooling is this book's.
    """
    views = [n if isinstance(n, View) else View(n) for n in (a, b)]
    relus, pools = [site.pre for site in views[0].sites if site.relu], _pools(views[0])
    h_a, h_b = (v.run(x, {*relus, *pools, *(m.input for m in views[0].maps)}) for v in views)
    residual = [0.0]
    for m in views[0].maps:
        w_a, w_b = (v.state()[m.weight] for v in views)
        both = m.apply(w_a, h_a[m.input]) + m.apply(w_b, h_b[m.input])
        residual.append(float(m.apply(w_a - w_b, h_a[m.input] - h_b[m.input]).norm() / both.norm()))
    flips = [(h_a[node] * h_b[node] < 0).double().mean() for node in relus]
    apart = [
        _no_common_maximiser(layer, h_a[node], h_b[node]).double().mean()
        for node, layer in pools.items()
    ]
    return Conditions(max(residual), float(max(flips, default=0.0)), float(max(apart, default=0.0)))


def _pools(view: View) -> dict[str, nn.MaxPool2d]:
    """What enters each max-pooling, and its layer."""
    return {
        n.all_input_nodes[0].name: layer
        for n in view.nodes
        if isinstance(layer := view.layer(n), nn.MaxPool2d)
    }


def _no_common_maximiser(layer: nn.MaxPool2d, a: Tensor, b: Tensor) -> Tensor:
    """Per window: no pixel is largest in A and in B, so that the maximum of the sum is below the
    sum of the maxima.
    """
    together, apart = layer(a + b), layer(a) + layer(b)
    return together < apart - 1e-12 * apart.abs().max()


@torch.no_grad()
def commuting_pair(
    network: nn.Module,
    x: Tensor,
    seed: object = 0,
    size: float = 0.5,
    commute: bool = True,
    signs: bool = True,
    maximisers: bool = True,
) -> tuple[nn.Module, nn.Module]:
    """The network, its biases moved so that no pre-activation is near 0, and a partner that satisfy
    Definitions 3 and 4 on the images ``x`` to rounding; float64.

    Layer by layer the weights are moved by a random dW of relative ``size``, projected so that dW
    dH = 0, and biases freely. Units whose sign changes get half of their dW, and where that does
    not help (the features below differ too much), all that was moved so far is halved: while the
    conditions hold, features are linear in it (Theorem 1), so they keep holding. A condition named
    False is not imposed. ValueError where dH fills the space (too many images), so that no dW is
    left.
    """
    a, x = copy_of(network).double().eval(), x.double()
    _apart_from_zero(a, x)
    b, view = copy_of(a), View(a)
    for k, m in enumerate(view.maps):
        own, other = (net.get_submodule(m.weight.rpartition(".")[0]) for net in (a, b))
        moved = torch.randn(
            own.weight.shape, generator=generator("commuting pair", seed, k), dtype=torch.float64
        )
        if commute:
            h_a, h_b = (v.run(x, {m.input})[m.input] for v in (view, View(b)))
            moved = _project_out(moved, own, m, h_a - h_b)
        other.weight.data += moved * (size * own.weight.data.norm() / moved.norm())
        if own.bias is not None:
            at_random = torch.randn(
                own.bias.shape, generator=generator("bias", seed, k), dtype=torch.float64
            )
            other.bias.data += size * own.weight.data.std() * at_random
        for halving in range(HALVINGS):
            now = conditions(view, View(b), x)
            if not (signs and now.signs or maximisers and now.maximisers):
                break
            units = _units_that_flip(view, View(b), x, m)
            if halving % 8 < 7 and units is not None and bool(units.any()):
                for mine, its in zip(own.parameters(), other.parameters()):
                    its.data[units] = 0.5 * (mine.data + its.data)[units]
            else:
                for mine, its in zip(a.parameters(), b.parameters()):
                    its.data = 0.5 * (mine.data + its.data)
        else:
            raise ValueError(
                f"no displacement of {m.name!r} keeps every sign; is a pre-activation exactly 0?"
            )
    return a, b


def _next_relu(view: View, m: LinearMap) -> str | None:
    """What enters the first ReLU after the map."""
    ranks = {n.name: k for k, n in enumerate(view.nodes)}
    return next(
        (site.pre for site in view.sites if site.relu and ranks[site.pre] >= ranks[m.node]), None
    )


def _units_that_flip(view: View, other: View, x: Tensor, m: LinearMap) -> Tensor | None:
    """Of the map's units, those that differ in sign between the networks for some image (and
    pixel); None where no ReLU reads them.
    """
    node = _next_relu(view, m)
    if node is None:
        return None
    z_a, z_b = (v.run(x, {node})[node] for v in (view, other))
    flips = (z_a * z_b < 0).transpose(0, 1).flatten(1).any(1)
    return flips if len(flips) == len(view.state()[m.weight]) else None


def _apart_from_zero(network: nn.Module, x: Tensor) -> None:
    """Move the bias of every unit so that 0 lies in the widest gap between its pre-activations: on
    for some images, off for others, and never nearly so."""
    for m in View(network).maps:
        layer, view = network.get_submodule(m.weight.rpartition(".")[0]), View(network)
        node = _next_relu(view, m)
        if node is None or layer.bias is None:
            continue
        z = view.run(x, {node})[node].transpose(0, 1).flatten(1).sort(1).values
        if len(z) == len(layer.bias):
            at = z.diff(dim=1).argmax(1, keepdim=True)
            layer.bias.data -= 0.5 * (z.gather(1, at) + z.gather(1, at + 1))[:, 0]


def _project_out(moved: Tensor, layer: nn.Module, m: LinearMap, d_h: Tensor) -> Tensor:
    """The part of ``moved`` (a weight of the layer) that gives 0 on the differences ``d_h`` of what
    enters it.
    """
    if isinstance(layer, nn.Conv2d):
        d_h = F.unfold(d_h, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        d_h = d_h.transpose(1, 2)
    columns = d_h.flatten(0, -2)
    _, values, basis = torch.linalg.svd(columns, full_matrices=False)
    basis = basis[values > RANK * values[0]] if len(values) and values[0] > 0 else basis[:0]
    if len(basis) == columns.shape[1]:
        raise ValueError(
            f"the differences of features that enter {m.name!r} fill all {columns.shape[1]}"
            " directions; take fewer images"
        )
    flat = moved.flatten(1)
    return (flat - flat @ basis.T @ basis).view_as(moved)


NORMALISED = {
    "none": lambda units: nn.Identity(),
    "batch normalisation": nn.BatchNorm1d,
    "layer normalisation": nn.LayerNorm,
}


@torch.no_grad()
def normalised_pair(kind: str, x: Tensor, shift: float = 6.0) -> tuple[nn.Module, nn.Module]:
    """linear -> normalisation -> ReLU -> linear; A and B differ in the first layer alone, and what
    enters the ReLU is ``shift`` above 0.

    So both conditions of Theorem 1 hold exactly on ``x``: the first layer's features agree, the
    last one's weights, and every sign. ``kind`` is one of :data:`NORMALISED`; batch normalisation
    has the statistics of ``x`` in each network. ValueError for another.
    """
    if kind not in NORMALISED:
        raise ValueError(f"unknown normalisation {kind!r}; choose one of {[*NORMALISED]}")
    nets = []
    for seed in range(2):
        first, norm, last = nn.Linear(x[0].numel(), 24), NORMALISED[kind](24), nn.Linear(24, 5)
        net = nn.Sequential(nn.Flatten(), first, norm, nn.ReLU(), last).double().eval()
        for k, layer, of in ((1, first, seed), (4, last, 0)):  # the last is the same in both
            draw = generator("normalised pair", k, of)
            weight = torch.randn(layer.weight.shape, generator=draw, dtype=torch.float64)
            layer.weight.data = weight / layer.in_features**0.5
            layer.bias.data.zero_()
        (first if kind == "none" else norm).bias.data.fill_(shift)
        view = View(net)
        recompute(view, [x])
        net.load_state_dict(view.state())
        nets.append(net)
    return nets[0], nets[1]


# how far they miss the mean


def _missed(a, b, x) -> float:
    """The largest |e| / |f_A - f_B| of any layer."""
    found = decompose(a, b, x, ALPHA).values()
    return max(float(s.residual.norm() / s.difference.norm()) for s in found)


@cache
def constructed() -> pd.DataFrame:
    """Pairs built to satisfy the conditions of Theorem 1, and with one of them dropped: how far the
    features miss the mean ("missed"), as a share of their distance.
    """
    lines, x = [], small_images()
    for name, network in small_networks().items():
        for dropped in ("", "commute", "signs", "maximisers"):
            if dropped != "maximisers" or "pooling" in name:
                how = {dropped: False} if dropped else {}
                a, b = commuting_pair(network, x, **how)
                lines.append((name, dropped, _missed(a, b, x)))
    return pd.DataFrame(lines, columns=["network", "dropped", "missed"])


@cache
def normalised() -> Mapping[str, tuple[bool, float]]:
    """By what stands between map and ReLU: whether both conditions hold exactly, and how far the
    features miss the mean.
    """
    found, x = {}, small_images(40)
    for kind in NORMALISED:
        a, b = normalised_pair(kind, x)
        now = conditions(a, b, x)
        found[kind] = (now.commutativity == now.signs == 0, _missed(a, b, x))
    return found
