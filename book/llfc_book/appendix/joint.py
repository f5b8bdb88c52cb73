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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

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
        self.layers: list[_Layer] = []
        for x, _ in loader:
            if not self.layers:
                self.sym, self.layers = self._chain(views[0], x)
            nodes = [m.input for m in views[0].maps][1:]
            h_a, h_b = (view.run(x, set(nodes)) for view in views)
            for layer, node in zip(self.layers[1:], nodes):
                u, v = (h[node].flatten(0, -2).cpu().double() for h in (h_a, h_b))
                layer.aa, layer.bb = layer.aa + u.T @ u, layer.bb + v.T @ v
                layer.ab = layer.ab + u.T @ v
        if not self.layers:
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

    def weights(self, permutations: Permutations) -> float:
        """|A - pi(B)|^2 over all parameters, which weight matching minimises."""
        moved = self.sym.apply(self.state_b, permutations)
        return sum(float((self.state_a[n] - b).square().sum()) for n, b in moved.items())

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
        uses = [u for u in p.uses if u.parameter != _bias(before)]
        whole = (torch.arange(sym.shapes[u.parameter][u.axis])[:, None] for u in uses)
        return {(u.parameter, u.axis, torch.equal(u.positions, w)) for u, w in zip(uses, whole)}

    return next((p.name for p in sym if places(p) == {(before, 0, True), (after, 1, True)}), None)


def _apart(x: Tensor) -> Tensor:
    """(e_i - e_j)^T X (e_i - e_j) for all i, j."""
    return x.diagonal()[:, None] + x.diagonal() - (x + x.T)


@dataclass
class Search:
    """Where a search ended. ``converged``: no exchange of two units of one layer lowers R."""

    permutations: dict[str, Tensor]
    value: float = 0.0
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
    given = {name: p.cpu() for name, p in (start or {}).items()}
    found = Search(residual.sym.identity() | given)
    residual.sym.check_permutations(found.permutations)
    rng, settled = numpy_generator("local search", seed), set()
    for _ in range(passes):
        for k in rng.permutation(len(residual.sym)):
            name = residual.sym.permutations[k].name
            if name not in settled:
                settled = set() if _visit(residual, found, name) else settled | {name}
        found.converged = len(settled) == len(residual.sym)
        if found.converged:
            break
    found.value = residual.value(found.permutations)
    return found


def _visit(residual: Residual, found: Search, name: str) -> bool:
    """Exchange units of one layer; whether that lowered R."""
    own = found.permutations[name]
    gain, partner = residual.swap_deltas(found.permutations, name).fill_diagonal_(0.0).min(1)
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
            return True
        pairs = pairs[: len(pairs) // 2]
    return False


def enumerate_residual(residual: Residual) -> Tensor:
    """R under all permutations: n_1! x n_2! x ..., orders as :func:`all_orders` lists them.

    ValueError above eight units in a layer or 600,000 permutations in all.

    Source: the objective of A.3; this book.
    """
    sizes = [residual.sym[layer.outer].size for layer in residual.layers[:-1]]
    check_few(sizes)
    orders = [*map(all_orders, sizes), torch.arange(len(residual.layers[-1].a))[None]]
    values = torch.zeros([len(o) for o in orders[:-1]], dtype=torch.float64)
    for k, (layer, inner, outer) in enumerate(zip(residual.layers[1:], orders, orders[1:])):
        w, gram = layer.b.T[inner].transpose(1, 2), grams(layer.aa, layer.ab, layer.bb, inner)
        a = layer.a @ gram
        own = (a * layer.a).sum(2)[:, :, None] + (w @ gram * w).sum(2)[:, None]
        cost = own - 2 * a @ w.transpose(1, 2)  # of A's output i beside B's j
        add_over(values, k, cost[:, torch.arange(cost.shape[1]), outer].sum(2))
    return values


def grams(aa: Tensor, ab: Tensor, bb: Tensor, orders: Tensor) -> Tensor:
    """dH dH^T (in x in), one for each of the ``orders`` of B's units, from H_A H_A^T, H_A H_B^T and
    H_B H_B^T.
    """
    ab, bb = ab.T[orders].transpose(1, 2), bb[orders[:, :, None], orders[:, None]]
    return aa - ab - ab.transpose(1, 2) + bb


def add_over(total: Tensor, k: int, table: Tensor) -> None:
    """Add a ``table`` over the orders of layer k, or of k and k + 1, to a ``total`` over those of
    all: the logits, which come last, have one order only.
    """
    shape = [1] * k + [*table.shape][: total.dim() - k]
    total += table.reshape(shape + [1] * (total.dim() - len(shape)))


@cache
def all_orders(n: int) -> Tensor:
    """n! x n, as :func:`itertools.permutations` lists them."""
    return torch.tensor(list(itertools.permutations(range(n))))


def check_few(sizes: Sequence[int]) -> None:
    """ValueError where the permutations of layers of ``sizes`` units are too many to enumerate, or
    where there is no layer.
    """
    if not sizes or max(sizes) > MAX_UNITS or math.prod(map(math.factorial, sizes)) > MAX_ORDERS:
        raise ValueError(
            f"hidden layers of {sizes} units cannot be enumerated; one layer at least, at most"
            f" {MAX_UNITS} units in each and {MAX_ORDERS:,} permutations in all"
        )
