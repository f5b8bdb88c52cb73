"""What minimising the terms of A.3 means: all permutations of tiny networks, and the assignment
problem of one layer, solved.

Where all permutations can be looked at, :func:`enumerate_terms` gives the three terms under each of
them, :func:`consequences` where the minimiser of something else ends, and :func:`coupling` how far
the layers depend on each other. The first and the second term of one layer are quadratic assignment
problems (:func:`koopmans_beckmann`), and with one hidden layer so is the whole objective
(:func:`lawler_form`); :func:`solve_qap` solves one exactly or approximately, and :func:`solved`
compares the methods.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment, quadratic_assignment
from torch import Tensor

from llfc_book.appendix.identities import DOUBLE, Layer, random_layers
from llfc_book.appendix.joint import MAX_ORDERS, MAX_UNITS
from llfc_lib.streams import numpy_generator

ROUNDING = 1e-9  # values nearer than this, relative to the least, count as equal


# All permutations of tiny networks


@cache
def all_orders(n: int) -> Tensor:
    """n! x n, as :func:`itertools.permutations` lists them. ValueError above eight."""
    if n > MAX_UNITS:
        raise ValueError(f"{n} units have too many orders to enumerate; at most {MAX_UNITS}")
    return torch.tensor(list(permutations(range(n))))


@dataclass(frozen=True)
class Terms:
    """The three sums of A.3 under all permutations, each n_1! x ... x n_(L-1)!, orders as in
    :func:`all_orders`.

    Source: A.3, the last line of its first block.
    """

    first: Tensor
    second: Tensor
    cross: Tensor

    @property
    def objective(self) -> Tensor:
        """first + second - 2 cross, which A.3 sets out to minimise."""
        return self.first + self.second - 2 * self.cross

    @property
    def printed(self) -> Tensor:
        """first + second + cross, as A.3 prints it."""
        return self.first + self.second + self.cross


def enumerate_terms(layers: Sequence[Layer]) -> Terms:
    """The three sums of ``layers`` under all permutations of their hidden units, in float64.

    ValueError above eight units in a layer or 600,000 permutations in all, or without a hidden
    layer.

    Source: A.3, the last line of its first block.
    """
    sizes = [len(t.h_a) for t in layers[1:]]
    if not sizes or max(sizes) > MAX_UNITS or math.prod(map(math.factorial, sizes)) > MAX_ORDERS:
        raise ValueError(
            f"hidden layers of {sizes} units cannot be enumerated; one layer at least, at most"
            f" {MAX_UNITS} units in each and {MAX_ORDERS:,} permutations in all"
        )
    outer = [*map(all_orders, sizes[1:]), torch.arange(len(layers[-1].w_a))[None]]
    total = [torch.zeros([math.factorial(n) for n in sizes], dtype=DOUBLE) for _ in range(3)]
    for k, (t, inner, q) in enumerate(zip(layers[1:], map(all_orders, sizes), outer)):
        aa, ab, bb = (
            t.h_a @ t.h_a.T,
            (t.h_a @ t.h_b.T).T[inner].transpose(1, 2),
            (t.h_b @ t.h_b.T)[inner[:, :, None], inner[:, None]],
        )
        gram, w_b = (
            aa - ab - ab.transpose(1, 2) + bb,
            t.w_b.T[inner].transpose(1, 2),
        )  # dH dH^T and W_B P^T, one for each order
        mixed = t.w_a @ gram @ w_b.transpose(1, 2)  # X (Q^T Y)^T
        parts = (
            (t.w_a @ gram * t.w_a).sum((1, 2)),
            (w_b @ gram * w_b).sum((1, 2)),
            mixed[:, torch.arange(len(t.w_a)), q].sum(2),
        )  # orders of the inputs, and of the outputs
        for sum_, part in zip(total, parts):
            beside = part.dim() if k + 1 < len(sizes) else 1  # the logits have one order only
            shape = [1] * k + list(part.shape[:beside])
            sum_ += part.reshape(shape + [1] * (len(sizes) - len(shape)))
    return Terms(*total)


def beside_minimum(objective: Tensor, chosen_by: Tensor) -> tuple[float, float]:
    """Where the permutation that minimises ``chosen_by`` ends: ``objective`` over its minimum, and
    the share of permutations that are better. Of several equally good by ``chosen_by`` the best is
    taken, so that no rounding decides.
    """
    low, high = chosen_by.min(), chosen_by.max()
    value = objective[chosen_by <= low + ROUNDING * (high - low)].min()
    return float(value / objective.min()), float(
        (objective < value * (1 - ROUNDING)).double().mean()
    )


MINIMISED = (
    "as printed, +⟨X, Y⟩",
    "first term",
    "second term",
    "first + second term",
    "random order",
)


def consequences(draws: Sequence[Sequence[Layer]], *stream: object) -> pd.DataFrame:
    """What comes of minimising something else than the objective: ``over`` its minimum and ``rank``
    (:func:`beside_minimum`) of each of MINIMISED, the last being the null, for every draw.
    """
    found = []
    for k, layers in enumerate(draws):
        terms, rng = enumerate_terms(layers), numpy_generator("A.3 random order", *stream, k)
        random = torch.from_numpy(rng.permutation(terms.first.numel())).reshape(terms.first.shape)
        others = (terms.printed, terms.first, terms.second, terms.first + terms.second, random)
        found += [
            (k, name, *beside_minimum(terms.objective, other))
            for name, other in zip(MINIMISED, others)
        ]
    return pd.DataFrame(found, columns=["draw", "minimised", "over", "rank"])


def interaction_share(values: Tensor) -> float:
    """Analysis of variance of ``values`` (K_1 x K_2 x ...): the share that no sum of functions of
    one axis each explains.

    ValueError if the values do not vary.
    """
    mean, total = values.mean(), values.var(correction=0)
    if total <= (ROUNDING * values.abs().max()) ** 2:
        raise ValueError("all values are equal; there is no variance to explain")
    axes = range(values.dim())
    alone = (
        sum(values.mean([k for k in axes if k != axis]).sub(mean).square().mean() for axis in axes)
        if values.dim() > 1
        else total
    )
    return float(1 - alone / total)


def coupling(draws: Sequence[Sequence[Layer]]) -> pd.DataFrame:
    """:func:`interaction_share` of the three terms and of the objective, for every draw."""
    found = []
    for k, layers in enumerate(draws):
        terms = enumerate_terms(layers)
        found += [
            (k, name, interaction_share(values))
            for name, values in (
                ("first term", terms.first),
                ("second term", terms.second),
                ("last term", terms.cross),
                ("objective", terms.objective),
            )
        ]
    return pd.DataFrame(found, columns=["draw", "of", "share"])


def lawler_form(layer: Layer) -> tuple[Tensor, float]:
    """The objective of a network with one hidden layer as one quadratic assignment problem: C (n x
    n x n x n) and a constant c with
    |X - Y|^2 = sum_ij C[i, p_i, j, p_j] + c, Q = 1. Holds for all three terms together, the last
    included.

    Source: Lawler (1963), applied to A.3 by this book.
    """
    n = len(layer.h_a)
    aa, ab, bb = layer.h_a @ layer.h_a.T, layer.h_a @ layer.h_b.T, layer.h_b @ layer.h_b.T
    m_a, m_b, mixed = layer.w_a.T @ layer.w_a, layer.w_b.T @ layer.w_b, layer.w_a.T @ layer.w_b
    c = (
        torch.einsum("ij,kl->ikjl", m_a, bb)
        + torch.einsum("kl,ij->ikjl", m_b, aa)
        + 2 * torch.einsum("il,jk->ikjl", mixed, ab)
    )
    linear = -2 * (m_a @ ab + ab @ m_b + aa @ mixed + mixed @ bb)
    i, k = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    c[i, k, i, k] += linear  # P_ik is its own square
    return c, float((layer.w_a @ layer.h_a + layer.w_b @ layer.h_b).square().sum())


# The assignment problems of the first and the second term

METHODS = ("enumeration", "faq", "2opt", "linear", "activation")


def _check_qap(w: Tensor, h_a: Tensor, h_b: Tensor) -> int:
    if w.dim() != 2 or h_a.dim() != 2 or h_a.shape != h_b.shape or w.shape[1] != len(h_a):
        raise ValueError(
            f"weights {tuple(w.shape)} do not fit features {tuple(h_a.shape)} and"
            f" {tuple(h_b.shape)}; they are out x in, in x images and in x images"
        )
    return len(h_a)


def koopmans_beckmann(w: Tensor, h_a: Tensor, h_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """M, N and C (n x n) with |W (H_A - P H_B)|^2 = tr(P^T M P N) - 2 tr(P^T C) + |W H_A|^2 (steps
    F1 to F5).

    Source: A.3, the last line of its first term; Koopmans and Beckmann (1957).
    """
    _check_qap(w, h_a, h_b)
    m = w.T @ w
    return m, h_b @ h_b.T, m @ h_a @ h_b.T


def qap_values(w: Tensor, h_a: Tensor, h_b: Tensor, orders: Tensor) -> Tensor:
    """|W (H_A - P H_B)|^2 for every row of ``orders`` (K x n); w is out x n, both h are n x images.

    Source: the first term of A.3.
    """
    m, n, c = koopmans_beckmann(w, h_a, h_b)
    places = orders[:, :, None] * len(n) + orders[:, None]  # of N_(p_i p_j) in N written as one row
    quadratic = n.take(places).flatten(1) @ m.flatten()
    return quadratic - 2 * c[torch.arange(len(c)), orders].sum(1) + (w @ h_a).square().sum()


def embedded(w: Tensor, h_a: Tensor, h_b: Tensor) -> tuple[Tensor, Tensor]:
    """M' and N' (2n x 2n) of a purely quadratic problem with the same values if the first n indices
    stay where they are.
    """
    m, z = w.T @ w, torch.cat([h_a, h_b])
    return torch.cat([torch.cat([m, -m], 1), torch.cat([-m, m], 1)]), z @ z.T


def solve_qap(
    w: Tensor, h_a: Tensor, h_b: Tensor, method: str = "enumeration", seed: object = 0
) -> Tensor:
    """A permutation p (new unit i is B's unit p[i]) that makes |W (H_A - P H_B)|^2 least, w being
    out x n and both h n x images.

    "enumeration" is exact; "faq" and "2opt" are scipy's, on the embedded problem; "linear" keeps
    only -2 tr(P^T C), "activation" only |H_A - P H_B|^2. ``seed`` is where "2opt" begins.
    ValueError for shapes that do not fit, more than eight units to enumerate, an unknown method.

    Source: the first term of A.3; "faq" is by Vogelstein et al. (2015).
    """
    n = _check_qap(w, h_a, h_b)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {METHODS}")
    w, h_a, h_b = w.double(), h_a.double(), h_b.double()
    if method == "enumeration":
        orders = all_orders(n)
        return orders[qap_values(w, h_a, h_b, orders).argmin()]
    if method in ("linear", "activation"):
        gain = h_a @ h_b.T if method == "activation" else koopmans_beckmann(w, h_a, h_b)[2]
        return torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])
    fixed = np.stack([np.arange(n)] * 2, 1)
    m, both = (matrix.numpy() for matrix in embedded(w, h_a, h_b))
    options = {"partial_match": fixed, "rng": numpy_generator("A.3 scipy", method, seed)}
    return torch.from_numpy(
        quadratic_assignment(m, both, method=method, options=options)["col_ind"][n:] - n
    )


def planted_layers(n: int, images: int, draws: int, noise: float = 1.0) -> list[Layer]:
    """One layer of random matrices per draw; B is A in a random order, with Gaussian noise of
    relative size ``noise``.
    """
    found = []
    for k in range(draws):
        layer, rng = (
            random_layers((n, n, n), images, "planted", k)[1],
            numpy_generator("A.3 planted", k),
        )
        p, noisy = (
            rng.permutation(n),
            (torch.from_numpy(noise * rng.normal(size=s)) for s in ((n, n), (n, images))),
        )
        w, h = (x + y for x, y in zip((layer.w_a, layer.h_a), noisy))
        found.append(Layer(layer.w_a, w[:, p], layer.h_a, h[p]))
    return found


def few_units(layers: Sequence[Layer], n: int, draws: int) -> list[Layer]:
    """``draws`` times n living units of a hidden layer, drawn at random, by turns from the layers
    given.
    """
    found = []
    for k in range(draws):
        layer = layers[k % len(layers)]
        units = numpy_generator("A.3 units", n, k).choice(layer.living().numpy(), n, replace=False)
        found.append(layer.only(torch.from_numpy(units)))
    return found


def solved(draws: Sequence[Layer]) -> pd.DataFrame:
    """Every method and a random order on the assignment problem of the first and of the second
    term: ``excess`` is 0 at the optimum and 1 at the mean of all orders, so constants do not count.
    """
    found = []
    for k, layer in enumerate(draws):
        for term, t in (("first", layer), ("second", layer.exchanged())):
            matrices = t.w_a, t.h_a, t.h_b
            ends = {method: solve_qap(*matrices, method, k) for method in METHODS[1:]}
            ends["random order"] = torch.from_numpy(
                numpy_generator("A.3 any order", term, k).permutation(len(t.h_a))
            )
            values = qap_values(
                *matrices, torch.cat([all_orders(len(t.h_a)), *(p[None] for p in ends.values())])
            )
            every, reached = values[: -len(ends)], values[-len(ends) :]
            excess = ((reached - every.min()) / (every.mean() - every.min())).tolist()
            found += [
                (k, term, method, value, value < ROUNDING) for method, value in zip(ends, excess)
            ]
    return pd.DataFrame(found, columns=["draw", "term", "method", "excess", "optimal"])
