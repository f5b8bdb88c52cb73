"""What both matchings stand in for (A.3): the commutativity residual itself, over all layers l that
follow another,

    R(pi) = sum_l |dW dH|^2,  dW = W_A^(l) - P^(l) W_B^(l) P^(l-1)^T,  dH = H_A^(l-1) - P^(l-1)
    H_B^(l-1).

Minimising it is a quadratic assignment problem. Weight matching minimises |dW|^2, activation
matching |dH|^2; here R is minimised itself, by enumeration for tiny networks and by exchanging
units for others. Chains of linear layers only.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from llfc_lib.matching.symmetry import Permutation, Permutations, Symmetry, symmetry
from llfc_lib.metrics.measure import NO_IMAGES, Loader, Network, exact_float32
from llfc_lib.models.view import View
from llfc_lib.models.weights import check_finite, check_same_shapes
from llfc_lib.streams import numpy_generator

#: What is enumerated at most: 8! = 40,320, (6!)^2 = 518,400.
MAX_UNITS, MAX_ORDERS = 8, 600_000
TOLERANCE = 1e-12  # of |W_A H_A|^2 + |W_B H_B|^2: less is rounding
FACTORS = ("value", "weights", "features")


@dataclass
class _Layer:
    """W^(l), out x in, between the units of the permutations ``inner`` and ``outer`` (None: input,
    logits).
    """

    weight: str
    inner: str | None
    outer: str | None
    a: Tensor
    b: Tensor
    aa: Tensor | float = 0.0  # in x in, summed over images: H_A H_A^T, where H enters the layer
    bb: Tensor | float = 0.0
    ab: Tensor | float = 0.0


class Residual:
    """R of two networks on the images of a loader, from second moments alone: exact, and no
    features are kept.

    Biases are no part of R. Everything is float64 on the processor. A permutation that is left out
    is the identity; new unit i is B's old unit p[i]. ValueError for a convolution or anything else
    that is not a chain of linear layers.

    Source: the objective of A.3.
    """

    @exact_float32()
    @torch.no_grad()
    def __init__(self, a: Network, b: Network, loader: Loader) -> None:
        views = [n if isinstance(n, View) else View(n) for n in (a, b)]
        states = [view.state() for view in views]
        check_same_shapes(*states)
        for state, who in zip(states, "AB"):
            check_finite(state, who)
        self.state_a, self.state_b = (
            {name: v.detach().cpu().double() for name, v in s.items()} for s in states
        )
        self.images, self.layers = 0, []
        for x, _ in loader:
            if not self.layers:
                self.sym, self.layers = self._chain(views[0], x)
            nodes = [m.input for m in views[0].maps][1:]
            h_a, h_b = (view.run(x, set(nodes)) for view in views)
            for layer, node in zip(self.layers[1:], nodes):
                u, v = (h[node].flatten(0, -2).cpu().double() for h in (h_a, h_b))
                layer.aa, layer.bb = layer.aa + u.T @ u, layer.bb + v.T @ v
                layer.ab = layer.ab + u.T @ v
            self.images += len(x)
        if not self.images:
            raise ValueError(NO_IMAGES)
        self.scale = sum(
            float((w @ s * w).sum()) for t in self.layers[1:] for w, s in ((t.a, t.aa), (t.b, t.bb))
        )

    def _chain(self, view: View, x: Tensor) -> tuple[Symmetry, list[_Layer]]:
        for m in view.maps:
            if m.unit_axis != -1:
                raise ValueError(
                    f"{m.name!r} is a convolution; the residual is computed for chains of linear"
                    " layers only"
                )
        sym, weights = symmetry(view, x), [m.weight for m in view.maps]
        between = [_between(sym, *two) for two in zip(weights, weights[1:])]
        others = set(self.state_a) - {*weights, *map(_bias, weights)}
        if not between or None in between or others:
            raise ValueError(
                f"weights {weights} with permutations {[p.name for p in sym]} and parameters"
                f" {sorted(others)} are no chain of linear layers with hidden units of their own;"
                " the residual is computed for such chains only"
            )
        ends = zip(weights, [None, *between], [*between, None])
        return sym, [
            _Layer(w, inner, outer, self.state_a[w], self.state_b[w]) for w, inner, outer in ends
        ]

    def _moved(self, layer: _Layer, p: Permutations) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In the order of ``p``: P W_B P^T (out x in); H_A H_B^T, H_B H_B^T, dH dH^T (in x in)."""
        units, w = p.get(layer.inner, torch.arange(layer.b.shape[1])), layer.b
        w = w[p[layer.outer]][:, units] if layer.outer in p else w[:, units]
        ab, bb = layer.ab[:, units], layer.bb[units][:, units]
        return w, ab, bb, layer.aa - ab - ab.T + bb

    def value(self, permutations: Permutations, of: str | None = None) -> float:
        """R, or only its terms that the permutation ``of`` acts on."""
        self.sym.check_permutations(permutations)
        total = 0.0
        for layer in self.layers[1:]:
            if of is None or of in (layer.inner, layer.outer):
                w, _, _, gram = self._moved(layer, permutations)
                total += float(((layer.a - w) @ gram * (layer.a - w)).sum())
        return total

    def weights(self, permutations: Permutations, everything: bool = True) -> float:
        """|A - pi(B)|^2 over all parameters, which weight matching minimises; or only sum_l |dW|^2
        over the layers of R.
        """
        moved = self.sym.apply(self.state_b, permutations)
        used = [layer.weight for layer in self.layers[1:]]
        return sum(
            float((self.state_a[name] - moved[name]).square().sum())
            for name in (moved if everything else used)
        )

    def features(self, permutations: Permutations) -> float:
        """sum_l |dH|^2, which activation matching on the same images minimises."""
        self.sym.check_permutations(permutations)
        return sum(float(self._moved(layer, permutations)[3].trace()) for layer in self.layers[1:])

    def swap_deltas(self, permutations: Permutations, name: str) -> Tensor:
        """What R changes by if units i and j of permutation ``name`` change places (n x n), for all
        pairs at once.

        With X = P - 1 over the present order, dW dH moves by -(W_A X H_B + W_B X^T H_A), since P^T
        P = 1: R is quadratic in X, and X = -(e_i - e_j)(e_i - e_j)^T. In the layer before, the rows
        of dW move, and R is linear in X.
        """
        linear, quadratic = torch.zeros(()), torch.zeros(())
        for layer in self.layers[1:]:
            if name not in (layer.inner, layer.outer):
                continue
            a, (w, ab, bb, gram) = layer.a, self._moved(layer, permutations)
            if name == layer.outer:
                linear = linear - 2 * (a @ gram) @ w.T
            else:
                d, cross = a - w, ab - bb  # dH H_B^T, and dH H_A^T = gram + cross
                linear = linear - 2 * ((a.T @ d) @ cross + (gram + cross).T @ (d.T @ w))
                quadratic = (
                    _apart(a.T @ a) * _apart(bb)
                    + _apart(w.T @ w) * _apart(layer.aa)
                    + 2 * _apart(a.T @ w) * _apart(ab)
                )
        return quadratic - _apart(linear)


def _bias(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"


def _between(sym: Symmetry, before: str, after: str) -> str | None:
    """The permutation of just all outputs of one weight and the inputs of the next."""

    def places(p: Permutation) -> set[tuple[str, int, bool]]:
        return {
            (
                u.parameter,
                u.axis,
                torch.equal(u.positions, torch.arange(sym.shapes[u.parameter][u.axis])[:, None]),
            )
            for u in p.uses
            if u.parameter != _bias(before)
        }

    return next((p.name for p in sym if places(p) == {(before, 0, True), (after, 1, True)}), None)


def _apart(x: Tensor) -> Tensor:
    """(e_i - e_j)^T X (e_i - e_j) for all i, j."""
    return x.diagonal()[:, None] + x.diagonal() - (x + x.T)


@dataclass
class Search:
    """``tried`` counts exchanges whose effect was computed, ``accepted`` those made; ``converged``:
    no exchange of two units of one layer lowers R any more.
    """

    permutations: dict[str, Tensor]
    value: float
    tried: int = 0
    accepted: int = 0
    passes: int = 0
    converged: bool = False


def local_search(
    residual: Residual, start: Permutations | None = None, seed: object = 0, passes: int = 300
) -> Search:
    """Descent by exchanging units from ``start`` (else the identity), until no exchange lowers R.

    A pass visits all layers in an order drawn from ``seed``. A visit computes every exchange, takes
    the pairs of units that gain most with each other, and makes as many of these exchanges, best
    first, as together lower R: all, or half ...

    Source: the objective of A.3; the search is this book's.
    """
    found = Search(
        residual.sym.identity() | {name: p.cpu() for name, p in (start or {}).items()}, 0.0
    )
    residual.sym.check_permutations(found.permutations)
    rng, settled = numpy_generator("local search", seed), set()
    while found.passes < passes and not found.converged:
        found.passes += 1
        for k in rng.permutation(len(residual.sym)):
            name = residual.sym.permutations[k].name
            if name not in settled:
                settled = set() if _visit(residual, found, name) else settled | {name}
        found.converged = len(settled) == len(residual.sym)
    found.value = residual.value(found.permutations)
    return found


def _visit(residual: Residual, found: Search, name: str) -> bool:
    """Exchange units of one layer; whether that lowered R."""
    own = found.permutations[name]
    gain, partner = residual.swap_deltas(found.permutations, name).fill_diagonal_(0.0).min(1)
    found.tried += len(own) * (len(own) - 1) // 2
    if gain.min() >= -TOLERANCE * residual.scale:
        return False
    units = torch.arange(len(own))
    pairs = units[(partner[partner] == units) & (units < partner) & (gain < 0)]
    pairs = pairs[gain[pairs].argsort()]
    before = residual.value(found.permutations, name)
    while len(pairs):
        order, others = own.clone(), partner[pairs]
        order[pairs], order[others] = own[others], own[pairs]
        if residual.value({**found.permutations, name: order}, name) < before:
            found.permutations[name] = order
            found.accepted += len(pairs)
            return True
        pairs = pairs[: len(pairs) // 2]
    return False


@dataclass
class Enumeration:
    """The least of ``values`` (n_1! x n_2! x ..., orders as :func:`itertools.permutations` lists
    them) and where it is.
    """

    permutations: dict[str, Tensor]
    value: float
    values: Tensor


def enumerate_minimum(residual: Residual, of: str = "value") -> Enumeration:
    """R under all permutations, or a factor: ``of`` is "value", "weights" (over all parameters) or
    "features".

    ValueError above eight units in a layer or 600,000 permutations in all.

    Source: the objective of A.3; this book.
    """
    if of not in FACTORS:
        raise ValueError(f"unknown factor {of!r}; choose one of {FACTORS}")
    names = [layer.outer for layer in residual.layers[:-1]]
    sizes = [residual.sym[name].size for name in names]
    if max(sizes) > MAX_UNITS or math.prod(map(math.factorial, sizes)) > MAX_ORDERS:
        raise ValueError(
            f"layers of {sizes} units are too many to enumerate; at most {MAX_UNITS} in a layer and"
            f" {MAX_ORDERS:,} permutations in all; use local_search"
        )
    orders = [all_orders(n) for n in sizes]
    inner = [torch.arange(residual.layers[0].a.shape[1])[None], *orders]
    outer = [*orders, torch.arange(len(residual.layers[-1].a))[None]]
    values = torch.zeros([len(o) for o in orders], dtype=torch.float64)
    for k, layer in enumerate(residual.layers):
        if k or of == "weights":
            table = _table(residual, layer, inner[k], outer[k], of)
            shape = [1] * (k - 1) + [len(table)] * (k > 0) + [table.shape[1]] * (k < len(names))
            values += table.reshape(shape + [1] * (len(names) - len(shape)))
    index = np.unravel_index(int(values.argmin()), values.shape)  # torch's imports sympy first
    return Enumeration(
        {name: o[i] for name, o, i in zip(names, orders, index)}, float(values.min()), values
    )


@cache
def all_orders(n: int) -> Tensor:
    """n! x n, as :func:`itertools.permutations` lists them."""
    return torch.tensor(list(itertools.permutations(range(n))))


def _table(residual: Residual, layer: _Layer, inner: Tensor, outer: Tensor, of: str) -> Tensor:
    """The layer's term for M orders of its inputs and K of its outputs: M x K, or M x 1 where
    outputs do not matter.
    """
    w = layer.b.T[inner].transpose(1, 2)  # M x out x in
    gram = torch.eye(layer.b.shape[1], dtype=torch.float64)[None]
    if of != "weights":
        ab, bb = layer.ab.T[inner].transpose(1, 2), layer.bb[inner[:, :, None], inner[:, None]]
        gram = layer.aa - ab - ab.transpose(1, 2) + bb
    if of == "features":
        return gram.diagonal(0, 1, 2).sum(1, keepdim=True)
    a = layer.a @ gram
    own = (a * layer.a).sum(2)[:, :, None] + (w @ gram * w).sum(2)[:, None]
    cost = own - 2 * a @ w.transpose(1, 2)  # M x out x out
    bias = _bias(layer.weight)
    if of == "weights" and bias in residual.state_a:
        cost = cost + (residual.state_a[bias][:, None] - residual.state_b[bias]).square()
    return cost[:, torch.arange(cost.shape[1]), outer].sum(2)
