"""A.3 as code: its identities as printed, its assignment problems solved, and what they do and do not say about hardness.

Per layer l the appendix writes X = W_A (H_A - P H_B) and Y = Q W_B (P^T H_A - H_B), with P = P^(l-1) for the units that enter
and Q = P^(l) for those that leave. The objective is sum_l |X - Y|^2, its "first term" sum_l |X|^2, its second sum_l |Y|^2 and
its last sum_l <X, Y>. A permutation is a tensor p as everywhere in the library: new unit i is B's unit p[i], P = 1[p], P H = H[p].
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment, quadratic_assignment
from torch import Tensor, nn

from llfc_lib.data import Dataset
from llfc_lib.experiments import matched, pairs
from llfc_lib.experiments.joint import tiny_networks
from llfc_lib.matching.joint import MAX_ORDERS, MAX_UNITS, Residual, enumerate_minimum
from llfc_lib.metrics.measure import Loader
from llfc_lib.streams import numpy_generator

DOUBLE = torch.float64
ROUNDING = 1e-9  # values nearer than this, relative to the least, count as equal


# The matrices of one layer

@dataclass(frozen=True)
class Layer:
    """W_A and W_B (out x in) with the features that enter them, H_A and H_B (in x images). ValueError if the shapes do not fit."""

    w_a: Tensor
    w_b: Tensor
    h_a: Tensor
    h_b: Tensor

    def __post_init__(self) -> None:
        if self.w_a.shape != self.w_b.shape or self.h_a.shape != self.h_b.shape or self.w_a.shape[1] != len(self.h_a):
            raise ValueError(f"weights {tuple(self.w_a.shape)} and {tuple(self.w_b.shape)} do not fit features "
                             f"{tuple(self.h_a.shape)} and {tuple(self.h_b.shape)}; both networks need out x in and in x images")

    def exchanged(self) -> "Layer":
        """A and B in each other's place."""
        return Layer(self.w_b, self.w_a, self.h_b, self.h_a)

    def only(self, units: Tensor) -> "Layer":
        """The same with only these of the units that enter."""
        return Layer(self.w_a[:, units], self.w_b[:, units], self.h_a[units], self.h_b[units])

    def living(self) -> Tensor:
        """The units that respond to some image in both networks."""
        return (self.h_a.any(1) & self.h_b.any(1)).nonzero()[:, 0]


Orders = Sequence[Tensor]  # p^(0), ..., p^(L) of all layers, the first and the last of them the identity


@torch.no_grad()
def layers_of(a: nn.Module, b: nn.Module, loader: Loader) -> list[Layer]:
    """All layers of two chains of linear layers on the images of ``loader``, in float64. ValueError for other networks."""
    linear, entered = [], []
    for network in (copy.deepcopy(net).double().eval() for net in (a, b)):
        maps = [m for m in network.modules() if isinstance(m, nn.Linear)]
        if {id(w) for w in network.parameters()} != {id(w) for m in maps for w in m.parameters()} or any(
                m.out_features != after.in_features for m, after in zip(maps, maps[1:])):
            raise ValueError(f"{type(network).__name__} is no chain of linear layers; A.3 is about such chains")
        kept: list[list[Tensor]] = [[] for _ in maps]
        for m, batches in zip(maps, kept):
            m.register_forward_pre_hook(lambda _, entering, batches=batches: batches.append(entering[0].flatten(1).T))
        for x, _ in loader:
            network(x.double())
        linear.append(maps)
        entered.append([torch.cat(batches, 1) for batches in kept])
    return [Layer(m.weight.detach(), n.weight.detach(), h_a, h_b) for m, n, h_a, h_b in zip(*linear, *entered)]


def random_layers(sizes: Sequence[int], images: int, *stream: object) -> list[Layer]:
    """Gaussian weights between layers of ``sizes`` units (first the inputs, last the logits), and unrelated non-negative features."""
    rng, found = numpy_generator("A.3 layers", *stream), []
    for n, m in zip(sizes, sizes[1:]):
        w_a, w_b = torch.from_numpy(rng.normal(size=(2, m, n)))
        h_a, h_b = torch.from_numpy(rng.normal(size=(2, n, images))).relu()
        found.append(Layer(w_a, w_b, h_a, h_b if found else h_a))  # both networks see the same input
    return found


def random_orders(layers: Sequence[Layer], *stream: object) -> list[Tensor]:
    """A random order of every hidden layer."""
    rng, sizes = numpy_generator("A.3 orders", *stream), [len(t.h_a) for t in layers]
    hidden = [torch.from_numpy(rng.permutation(n)) for n in sizes[1:]]
    return [torch.arange(sizes[0]), *hidden, torch.arange(len(layers[-1].w_a))]


def trained_layers(pair: int = 0, name: str = "mlp_mnist_perm_weight", images: int = 200) -> list[Layer]:
    """The layers of the two shipped networks of profile smoke on its first test images, B in the order that the matching found."""
    nets, data = pairs.networks("smoke", name, pair)
    nets = matched.bring_together("smoke", name, nets, data, matched.of_pair("smoke", name, pair, nets, data))
    return layers_of(nets["A"], nets["B"], data.loader("test", images, DOUBLE, images))


def tiny_draws(data: Dataset, hidden: Sequence[int], draws: int, steps: int, images: int = 100) -> list[list[Layer]]:
    """The layers of pairs of independent tiny networks after ``steps`` of Adam on the first training images."""
    loader = data.loader("train", images, DOUBLE, images)
    nets, _ = tiny_networks(data, loader, tuple(hidden), 2 * draws, steps)
    return [layers_of(nets[2 * k], nets[2 * k + 1], loader) for k in range(draws)]


# The lines that A.3 prints

@dataclass(frozen=True)
class Line:
    """One printed line, per layer: ``math`` is the line in this module's symbols, ``coefficients`` the numbers before its parts
    from left to right, and ``of(layer, P, Q, coefficients)`` its value. With other coefficients it is another line: that is how
    tests show that a slip would be seen."""

    math: str
    coefficients: tuple[float, ...]
    of: Callable[[Layer, Tensor, Tensor, Sequence[float]], Tensor]

    def value(self, layers: Sequence[Layer], orders: Orders, coefficients: Sequence[float] | None = None) -> float:
        """Summed over layers."""
        eyes = [torch.eye(len(p), dtype=DOUBLE)[p] for p in orders]
        return float(sum(self.of(t, p, q, coefficients or self.coefficients) for t, p, q in zip(layers, eyes, eyes[1:])))


def _norm(x: Tensor) -> Tensor:
    return x.square().sum()


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum()


def _x(t: Layer, p: Tensor, c: Sequence[float] = (1, -1)) -> Tensor:
    return c[0] * t.w_a @ t.h_a + c[1] * t.w_a @ p @ t.h_b


def _y(t: Layer, p: Tensor, q: Tensor, c: Sequence[float] = (1, -1)) -> Tensor:
    return c[0] * q @ t.w_b @ p.T @ t.h_a + c[1] * q @ t.w_b @ t.h_b


def _objective(t: Layer, p: Tensor, q: Tensor, c: Sequence[float]) -> Tensor:
    return _norm((c[0] * t.w_a + c[1] * q @ t.w_b @ p.T) @ (c[2] * t.h_a + c[3] * p @ t.h_b))


def _multiplied_out(t: Layer, p: Tensor, q: Tensor, c: Sequence[float]) -> Tensor:
    return _norm(c[0] * t.w_a @ t.h_a + c[1] * q @ t.w_b @ p.T @ t.h_a + c[2] * t.w_a @ p @ t.h_b + c[3] * q @ t.w_b @ t.h_b)


def _split(t: Layer, p: Tensor, q: Tensor, c: Sequence[float]) -> Tensor:
    x, y = _x(t, p), _y(t, p, q)
    return c[0] * _norm(x) + c[1] * _norm(y) + c[2] * _inner(x, y)


def _first_norm(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    return _norm(_x(t, p, c))


def _first_product(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    left = c[0] * t.h_a.T @ t.w_a.T + c[1] * t.h_b.T @ p.T @ t.w_a.T
    return torch.trace(left @ (c[2] * t.w_a @ t.h_a + c[3] * t.w_a @ p @ t.h_b))


def _first_traces(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_a.T @ t.w_a
    return torch.trace(c[0] * t.h_a.T @ m @ t.h_a + c[1] * t.h_b.T @ p.T @ m @ t.h_a
                       + c[2] * t.h_a.T @ m @ p @ t.h_b + c[3] * t.h_b.T @ p.T @ m @ p @ t.h_b)


def _first_dropped(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_a.T @ t.w_a
    return torch.trace(c[0] * t.h_b.T @ p.T @ m @ t.h_a + c[1] * t.h_b.T @ p.T @ m @ p @ t.h_b)


def _first_cycled(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_a.T @ t.w_a
    return torch.trace(c[0] * p.T @ m @ t.h_a @ t.h_b.T + c[1] * p.T @ m @ p @ t.h_b @ t.h_b.T)


def _first_koopmans(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_a.T @ t.w_a
    return c[0] * torch.trace(p.T @ m @ p @ t.h_b @ t.h_b.T) + c[1] * torch.trace(p.T @ m @ t.h_a @ t.h_b.T)


def _second_norm(t: Layer, p: Tensor, q: Tensor, c: Sequence[float]) -> Tensor:
    return _norm(_y(t, p, q, c))


def _second_bare(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    return _norm(c[0] * t.w_b @ p.T @ t.h_a + c[1] * t.w_b @ t.h_b)


def _second_product(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    left = c[0] * t.h_a.T @ p @ t.w_b.T + c[1] * t.h_b.T @ t.w_b.T
    return torch.trace(left @ (c[2] * t.w_b @ p.T @ t.h_a + c[3] * t.w_b @ t.h_b))


def _second_traces(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_b.T @ t.w_b
    return torch.trace(c[0] * t.h_a.T @ p @ m @ p.T @ t.h_a + c[1] * t.h_a.T @ p @ m @ t.h_b
                       + c[2] * t.h_b.T @ m @ p.T @ t.h_a + c[3] * t.h_b.T @ m @ t.h_b)


def _second_dropped(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_b.T @ t.w_b
    return torch.trace(c[0] * t.h_a.T @ p @ m @ p.T @ t.h_a + c[1] * t.h_a.T @ p @ m @ t.h_b)


def _second_cycled(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_b.T @ t.w_b
    return torch.trace(c[0] * p @ m @ p.T @ t.h_a @ t.h_a.T + c[1] * p @ m @ t.h_b @ t.h_a.T)


def _second_koopmans(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_b.T @ t.w_b
    return c[0] * torch.trace(p @ m @ p.T @ t.h_a @ t.h_a.T) + c[1] * torch.trace(p @ m @ t.h_b @ t.h_a.T)


def _cross(t: Layer, p: Tensor, q: Tensor, c: Sequence[float]) -> Tensor:
    return _inner(_x(t, p, c[:2]), _y(t, p, q, c[2:]))


def _cross_matching(t: Layer, p: Tensor, q: Tensor, c: Sequence[float]) -> Tensor:
    return _inner(_x(t, p, c[:2]) @ (c[2] * t.w_b @ p.T @ t.h_a + c[3] * t.w_b @ t.h_b).T, q)


_FOUR, _TRACES = (1.0, -1.0, 1.0, -1.0), (1.0, -1.0, -1.0, 1.0)
OBJECTIVE = Line(r"\|(W_A-QW_BP^\top)(H_A-PH_B)\|^2", _FOUR, _objective)
MULTIPLIED_OUT = Line(r"\|W_AH_A-QW_BP^\top H_A-W_APH_B+QW_BH_B\|^2", _TRACES, _multiplied_out)
SPLIT = Line(r"\|X\|^2+\|Y\|^2+\langle X,Y\rangle", (1.0, 1.0, 1.0), _split)
SPLIT_CORRECTED = Line(r"\|X\|^2+\|Y\|^2-2\langle X,Y\rangle", (1.0, 1.0, -2.0), _split)
FIRST_NORM = Line(r"\|W_AH_A-W_APH_B\|^2", (1.0, -1.0), _first_norm)
FIRST_PRODUCT = Line(r"\mathrm{tr}\,(H_A^\top W_A^\top-H_B^\top P^\top W_A^\top)(W_AH_A-W_APH_B)", _FOUR, _first_product)
FIRST_TRACES = Line(r"\mathrm{tr}(H_A^\top M_AH_A-H_B^\top P^\top M_AH_A-H_A^\top M_APH_B+H_B^\top P^\top M_APH_B)", _TRACES, _first_traces)
FIRST_DROPPED = Line(r"\mathrm{tr}(-2H_B^\top P^\top M_AH_A+H_B^\top P^\top M_APH_B)", (-2.0, 1.0), _first_dropped)
FIRST_CYCLED = Line(r"\mathrm{tr}(-2P^\top M_AH_AH_B^\top+P^\top M_APH_BH_B^\top)", (-2.0, 1.0), _first_cycled)
FIRST_KOOPMANS = Line(r"\mathrm{tr}(P^\top M_APH_BH_B^\top)-2\,\mathrm{tr}(P^\top M_AH_AH_B^\top)", (1.0, -2.0), _first_koopmans)
SECOND_NORM = Line(r"\|QW_BP^\top H_A-QW_BH_B\|^2", (1.0, -1.0), _second_norm)
SECOND_BARE = Line(r"\|W_BP^\top H_A-W_BH_B\|^2", (1.0, -1.0), _second_bare)
SECOND_PRODUCT = Line(r"\mathrm{tr}\,(H_A^\top PW_B^\top-H_B^\top W_B^\top)(W_BP^\top H_A-W_BH_B)", _FOUR, _second_product)
SECOND_TRACES = Line(r"\mathrm{tr}(H_A^\top PM_BP^\top H_A-H_A^\top PM_BH_B-H_B^\top M_BP^\top H_A+H_B^\top M_BH_B)", _TRACES, _second_traces)
SECOND_DROPPED = Line(r"\mathrm{tr}(H_A^\top PM_BP^\top H_A-2H_A^\top PM_BH_B)", (1.0, -2.0), _second_dropped)
SECOND_CYCLED = Line(r"\mathrm{tr}(PM_BP^\top H_AH_A^\top-2PM_BH_BH_A^\top)", (1.0, -2.0), _second_cycled)
SECOND_KOOPMANS = Line(r"\mathrm{tr}(PM_BP^\top H_AH_A^\top)-2\,\mathrm{tr}(PM_BH_BH_A^\top)", (1.0, -2.0), _second_koopmans)
CROSS = Line(r"\langle W_AH_A-W_APH_B,\;QW_BP^\top H_A-QW_BH_B\rangle", _FOUR, _cross)
CROSS_MATCHING = Line(r"\langle(W_AH_A-W_APH_B)(W_BP^\top H_A-W_BH_B)^\top,\;Q\rangle", _FOUR, _cross_matching)


@dataclass(frozen=True)
class Identity:
    """A step of A.3: both lines have the same minimisers because they are equal, or equal ``up_to_constant``, a number that
    no permutation changes. ``correction`` is the right line that is true where the printed one is not."""

    name: str
    printed: str
    left: Line
    right: Line
    up_to_constant: bool = False
    holds_as_printed: bool = True
    correction: Line | None = None


#: Every step of A.3 in the order in which it is printed.
IDENTITIES = (
    Identity("O1", "the product multiplied out", OBJECTIVE, MULTIPLIED_OUT),
    Identity("O2", "the norm of a difference", MULTIPLIED_OUT, SPLIT, holds_as_printed=False, correction=SPLIT_CORRECTED),
    Identity("F1", "a norm is a trace", FIRST_NORM, FIRST_PRODUCT),
    Identity("F2", "multiplied out", FIRST_PRODUCT, FIRST_TRACES),
    Identity("F3", "the constant dropped, mixed terms joined", FIRST_TRACES, FIRST_DROPPED, up_to_constant=True),
    Identity("F4", "factors moved round the trace", FIRST_DROPPED, FIRST_CYCLED),
    Identity("F5", "the trace of a sum", FIRST_CYCLED, FIRST_KOOPMANS),
    Identity("S1", "the outer permutation leaves the norm", SECOND_NORM, SECOND_BARE),
    Identity("S2", "a norm is a trace", SECOND_BARE, SECOND_PRODUCT),
    Identity("S3", "multiplied out", SECOND_PRODUCT, SECOND_TRACES),
    Identity("S4", "the constant dropped, mixed terms joined", SECOND_TRACES, SECOND_DROPPED, up_to_constant=True),
    Identity("S5", "factors moved round the trace", SECOND_DROPPED, SECOND_CYCLED),
    Identity("S6", "the trace of a sum", SECOND_CYCLED, SECOND_KOOPMANS),
    Identity("C1", "the outer permutation to one side", CROSS, CROSS_MATCHING),
)


def deviation(identity: Identity, layers: Sequence[Layer], orders: Sequence[Orders], right: Line | None = None,
              coefficients: Sequence[float] | None = None) -> float:
    """How far the sides are apart over several ``orders``: the largest difference over the largest left side; up to a constant,
    the spread of the differences over the spread of the left side. ``right``: another line than the printed one.

    ValueError for fewer than two orders where a constant is allowed: any two numbers differ by a constant.
    """
    if identity.up_to_constant and len(orders) < 2:
        raise ValueError(f"{identity.name} holds up to a constant; one order cannot show that, give several")
    right = right or identity.right
    left = np.array([identity.left.value(layers, p) for p in orders])
    apart = left - [right.value(layers, p, coefficients) for p in orders]
    return float(np.ptp(apart) / np.ptp(left) if identity.up_to_constant else np.abs(apart).max() / np.abs(left).max())


def deviations(cases: Mapping[str, tuple[Sequence[Layer], Sequence[Orders]]]) -> pd.DataFrame:
    """:func:`deviation` of every identity on every case (layers, orders): one row as printed, one ``corrected`` where it fails."""
    return pd.DataFrame([{"step": i.name, "done": i.printed, "up_to_constant": i.up_to_constant, "corrected": right is i.correction,
                          **{case: deviation(i, layers, orders, right) for case, (layers, orders) in cases.items()}}
                         for i in IDENTITIES for right in (i.right, i.correction) if right is not None])


def printed_objective(layers: Sequence[Layer], orders: Orders) -> float:
    """The last line of A.3's first block as printed, |X|^2 + |Y|^2 + <X, Y>, summed over layers."""
    return SPLIT.value(layers, orders)


def expanded_objective(layers: Sequence[Layer], orders: Orders) -> float:
    """The same with -2 <X, Y>, which equals the objective."""
    return SPLIT_CORRECTED.value(layers, orders)


# All permutations of tiny networks

@cache
def all_orders(n: int) -> Tensor:
    """n! x n, as :func:`itertools.permutations` lists them. ValueError above eight."""
    if n > MAX_UNITS:
        raise ValueError(f"{n} units have too many orders to enumerate; at most {MAX_UNITS}")
    return torch.tensor(list(permutations(range(n))))


@dataclass(frozen=True)
class Terms:
    """The three sums of A.3 under all permutations, each n_1! x ... x n_(L-1)!, orders as in :func:`all_orders`."""

    first: Tensor
    second: Tensor
    cross: Tensor

    @property
    def objective(self) -> Tensor:
        return self.first + self.second - 2 * self.cross

    @property
    def printed(self) -> Tensor:
        return self.first + self.second + self.cross


def enumerate_terms(layers: Sequence[Layer]) -> Terms:
    """ValueError above eight units in a layer or 600,000 permutations in all, or without a hidden layer."""
    sizes = [len(t.h_a) for t in layers[1:]]
    if not sizes or max(sizes) > MAX_UNITS or math.prod(map(math.factorial, sizes)) > MAX_ORDERS:
        raise ValueError(f"hidden layers of {sizes} units cannot be enumerated; one layer at least, at most {MAX_UNITS} units in "
                         f"each and {MAX_ORDERS:,} permutations in all")
    outer = [*map(all_orders, sizes[1:]), torch.arange(len(layers[-1].w_a))[None]]
    total = [torch.zeros([math.factorial(n) for n in sizes], dtype=DOUBLE) for _ in range(3)]
    for k, (t, inner, q) in enumerate(zip(layers[1:], map(all_orders, sizes), outer)):
        aa, ab, bb = t.h_a @ t.h_a.T, (t.h_a @ t.h_b.T).T[inner].transpose(1, 2), (t.h_b @ t.h_b.T)[inner[:, :, None], inner[:, None]]
        gram, w_b = aa - ab - ab.transpose(1, 2) + bb, t.w_b.T[inner].transpose(1, 2)  # dH dH^T and W_B P^T, one for each order
        mixed = t.w_a @ gram @ w_b.transpose(1, 2)  # X (Q^T Y)^T
        parts = ((t.w_a @ gram * t.w_a).sum((1, 2)), (w_b @ gram * w_b).sum((1, 2)),
                 mixed[:, torch.arange(len(t.w_a)), q].sum(2))  # orders of the inputs, and of the outputs
        for sum_, part in zip(total, parts):
            beside = part.dim() if k + 1 < len(sizes) else 1  # the logits have one order only
            shape = [1] * k + list(part.shape[:beside])
            sum_ += part.reshape(shape + [1] * (len(sizes) - len(shape)))
    return Terms(*total)


def beside_minimum(objective: Tensor, chosen_by: Tensor) -> tuple[float, float]:
    """Where the permutation that minimises ``chosen_by`` ends: ``objective`` over its minimum, and the share of permutations that
    are better. Of several equally good by ``chosen_by`` the best is taken, so that no rounding decides."""
    low, high = chosen_by.min(), chosen_by.max()
    value = objective[chosen_by <= low + ROUNDING * (high - low)].min()
    return float(value / objective.min()), float((objective < value * (1 - ROUNDING)).double().mean())


MINIMISED = ("as printed, +⟨X, Y⟩", "first term", "second term", "first + second term", "random order")


def consequences(draws: Sequence[Sequence[Layer]], *stream: object) -> pd.DataFrame:
    """What comes of minimising something else than the objective: ``over`` its minimum and ``rank`` (:func:`beside_minimum`) of
    each of MINIMISED, the last being the null, for every draw."""
    found = []
    for k, layers in enumerate(draws):
        terms, rng = enumerate_terms(layers), numpy_generator("A.3 random order", *stream, k)
        random = torch.from_numpy(rng.permutation(terms.first.numel())).reshape(terms.first.shape)
        others = (terms.printed, terms.first, terms.second, terms.first + terms.second, random)
        found += [(k, name, *beside_minimum(terms.objective, other)) for name, other in zip(MINIMISED, others)]
    return pd.DataFrame(found, columns=["draw", "minimised", "over", "rank"])


def interaction_share(values: Tensor) -> float:
    """Analysis of variance of ``values`` (K_1 x K_2 x ...): the share that no sum of functions of one axis each explains.

    ValueError if the values do not vary.
    """
    mean, total = values.mean(), values.var(correction=0)
    if total <= (ROUNDING * values.abs().max()) ** 2:
        raise ValueError("all values are equal; there is no variance to explain")
    axes = range(values.dim())
    alone = sum(values.mean([k for k in axes if k != axis]).sub(mean).square().mean() for axis in axes) if values.dim() > 1 else total
    return float(1 - alone / total)


def coupling(draws: Sequence[Sequence[Layer]]) -> pd.DataFrame:
    """:func:`interaction_share` of the three terms and of the objective, for every draw."""
    found = []
    for k, layers in enumerate(draws):
        terms = enumerate_terms(layers)
        found += [(k, name, interaction_share(values)) for name, values in (
            ("first term", terms.first), ("second term", terms.second), ("last term", terms.cross), ("objective", terms.objective))]
    return pd.DataFrame(found, columns=["draw", "of", "share"])


def lawler_form(layer: Layer) -> tuple[Tensor, float]:
    """The objective of a network with one hidden layer as one quadratic assignment problem: C (n x n x n x n) and a constant c with
    |X - Y|^2 = sum_ij C[i, p_i, j, p_j] + c, Q = 1. Holds for all three terms together, the last included."""
    n = len(layer.h_a)
    aa, ab, bb = layer.h_a @ layer.h_a.T, layer.h_a @ layer.h_b.T, layer.h_b @ layer.h_b.T
    m_a, m_b, mixed = layer.w_a.T @ layer.w_a, layer.w_b.T @ layer.w_b, layer.w_a.T @ layer.w_b
    c = torch.einsum("ij,kl->ikjl", m_a, bb) + torch.einsum("kl,ij->ikjl", m_b, aa) + 2 * torch.einsum("il,jk->ikjl", mixed, ab)
    linear = -2 * (m_a @ ab + ab @ m_b + aa @ mixed + mixed @ bb)
    i, k = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    c[i, k, i, k] += linear  # P_ik is its own square
    return c, float(_norm(layer.w_a @ layer.h_a + layer.w_b @ layer.h_b))


# The assignment problems of the first and the second term

METHODS = ("enumeration", "faq", "2opt", "linear", "activation")


def _check_qap(w: Tensor, h_a: Tensor, h_b: Tensor) -> int:
    if w.dim() != 2 or h_a.dim() != 2 or h_a.shape != h_b.shape or w.shape[1] != len(h_a):
        raise ValueError(f"weights {tuple(w.shape)} do not fit features {tuple(h_a.shape)} and {tuple(h_b.shape)}; "
                         f"they are out x in, in x images and in x images")
    return len(h_a)


def koopmans_beckmann(w: Tensor, h_a: Tensor, h_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """M, N and C (n x n) with |W (H_A - P H_B)|^2 = tr(P^T M P N) - 2 tr(P^T C) + |W H_A|^2 (steps F1 to F5)."""
    _check_qap(w, h_a, h_b)
    m = w.T @ w
    return m, h_b @ h_b.T, m @ h_a @ h_b.T


def qap_values(w: Tensor, h_a: Tensor, h_b: Tensor, orders: Tensor) -> Tensor:
    """|W (H_A - P H_B)|^2 for every row of ``orders`` (K x n); w is out x n, both h are n x images."""
    m, n, c = koopmans_beckmann(w, h_a, h_b)
    quadratic = (m * n[orders[:, :, None], orders[:, None]]).sum((1, 2))
    return quadratic - 2 * c[torch.arange(len(c)), orders].sum(1) + _norm(w @ h_a)


def embedded(w: Tensor, h_a: Tensor, h_b: Tensor) -> tuple[Tensor, Tensor]:
    """M' and N' (2n x 2n) of a purely quadratic problem with the same values if the first n indices stay where they are."""
    m, z = w.T @ w, torch.cat([h_a, h_b])
    return torch.cat([torch.cat([m, -m], 1), torch.cat([-m, m], 1)]), z @ z.T


def solve_qap(w: Tensor, h_a: Tensor, h_b: Tensor, method: str = "enumeration", seed: object = 0) -> Tensor:
    """A permutation p (new unit i is B's unit p[i]) that makes |W (H_A - P H_B)|^2 least, w being out x n and both h n x images.

    "enumeration" is exact; "faq" and "2opt" are scipy's, on the embedded problem; "linear" keeps only -2 tr(P^T C), "activation"
    only |H_A - P H_B|^2. ``seed`` is where "2opt" begins. ValueError for shapes that do not fit, more than eight units to
    enumerate, an unknown method.
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
    return torch.from_numpy(quadratic_assignment(m, both, method=method, options=options)["col_ind"][n:] - n)


def solve_second(layer: Layer, method: str = "enumeration", seed: object = 0) -> Tensor:
    """The permutation that makes |W_B (P^T H_A - H_B)|^2 least: A and B exchanged, the answer inverted."""
    return torch.argsort(solve_qap(layer.w_b, layer.h_b, layer.h_a, method, seed))


def planted_layers(n: int, images: int, draws: int, noise: float = 1.0) -> list[Layer]:
    """One layer of random matrices per draw; B is A in a random order, with Gaussian noise of relative size ``noise``."""
    found = []
    for k in range(draws):
        layer, rng = random_layers((n, n, n), images, "planted", k)[1], numpy_generator("A.3 planted", k)
        p, noisy = rng.permutation(n), (torch.from_numpy(noise * rng.normal(size=s)) for s in ((n, n), (n, images)))
        w, h = (x + y for x, y in zip((layer.w_a, layer.h_a), noisy))
        found.append(Layer(layer.w_a, w[:, p], layer.h_a, h[p]))
    return found


def few_units(layers: Sequence[Layer], n: int, draws: int) -> list[Layer]:
    """``draws`` times n living units of a hidden layer, drawn at random, by turns from the layers given."""
    found = []
    for k in range(draws):
        layer = layers[k % len(layers)]
        units = numpy_generator("A.3 units", n, k).choice(layer.living().numpy(), n, replace=False)
        found.append(layer.only(torch.from_numpy(units)))
    return found


def solved(draws: Sequence[Layer]) -> pd.DataFrame:
    """Every method and a random order on the assignment problem of the first and of the second term: ``excess`` is 0 at the
    optimum and 1 at the mean of all orders, so constants do not count."""
    found = []
    for k, layer in enumerate(draws):
        for term, t in (("first", layer), ("second", layer.exchanged())):
            matrices = t.w_a, t.h_a, t.h_b
            every = qap_values(*matrices, all_orders(len(t.h_a)))
            random = torch.from_numpy(numpy_generator("A.3 any order", term, k).permutation(len(t.h_a)))
            for method in (*METHODS[1:], "random order"):
                p = random if method == "random order" else solve_qap(*matrices, method, k)
                excess = (qap_values(*matrices, p[None])[0] - every.min()) / (every.mean() - every.min())
                found.append((k, term, method, float(excess), bool(excess < ROUNDING)))
    return pd.DataFrame(found, columns=["draw", "term", "method", "excess", "optimal"])


# NP-hardness

@dataclass(frozen=True)
class Reduction:
    """Two ReLU networks with 0/1 weights and n images. The least residual equals ``threshold`` exactly if the graph has a
    Hamiltonian cycle, and exceeds it by at least 2 otherwise."""

    a: nn.Sequential
    b: nn.Sequential
    images: list[tuple[Tensor, Tensor]]
    threshold: int


def _check_graph(adjacency: Tensor) -> int:
    n = len(adjacency)
    if adjacency.shape != (n, n) or n < 3 or not ((adjacency == 0) | (adjacency == 1)).all():
        raise ValueError(f"an adjacency matrix is n x n with n >= 3 and entries 0 or 1, got {tuple(adjacency.shape)}")
    if adjacency.diagonal().any() or not torch.equal(adjacency, adjacency.T):
        raise ValueError("the graph is undirected and without loops: its adjacency matrix is symmetric with a diagonal of zeros")
    return n


def cycle_incidence(n: int) -> Tensor:
    """n x n: column k has ones at the two ends, k and k + 1, of edge k of the n-cycle."""
    return torch.eye(n, dtype=DOUBLE) + torch.eye(n, dtype=DOUBLE).roll(1, 0)


def root_of_complement(adjacency: Tensor) -> tuple[Tensor, int]:
    """W (m x n, entries 0 or 1) and c with W^T W = M + c 1, M being the adjacency matrix of the complement of the graph."""
    n, one = _check_graph(adjacency), torch.eye(len(adjacency), dtype=DOUBLE)
    missing = [(i, j) for i, j in combinations(range(n), 2) if not adjacency[i, j]]
    degree = [sum(i in edge for edge in missing) for i in range(n)]
    rows = [one[i] + one[j] for i, j in missing] + [one[i] for i in range(n) for _ in range(max(degree) - degree[i])]
    return torch.stack(rows or [0 * one[0]]), max(degree)


def hamiltonian_networks(adjacency: Tensor, same_weights: bool = False) -> Reduction:
    """The networks of the reduction for a graph (n x n, 0 or 1). ``same_weights`` gives B the second layer of A instead of
    zeros: the first term of A.3 stays as hard as it was, but the identity makes the residual 0. ValueError for what is no graph."""
    n = _check_graph(adjacency)
    root, c = root_of_complement(adjacency)
    weights = [(torch.zeros(n, n, dtype=DOUBLE), root), (cycle_incidence(n), root if same_weights else 0 * root)]
    a, b = (nn.Sequential(nn.Linear(n, n, bias=False), nn.ReLU(), nn.Linear(n, len(root), bias=False)).to(DOUBLE).eval() for _ in "AB")
    for network, (first, second) in zip((a, b), weights):
        network.load_state_dict({"0.weight": first, "2.weight": second})
    return Reduction(a, b, [(torch.eye(n, dtype=DOUBLE), torch.zeros(n, dtype=torch.long))], 2 * c * n)


def missing_edges(adjacency: Tensor) -> int:
    """The fewest edges that the graph lacks on any cycle through all its vertices, by looking at all such cycles; 0: it has a
    Hamiltonian cycle."""
    n = _check_graph(adjacency)
    cycles = torch.cat([torch.full((math.factorial(n - 1), 1), n - 1), all_orders(n - 1)], 1)
    return int((1 - adjacency[cycles, cycles.roll(1, 1)]).sum(1).min())


@cache
def graphs(n: int) -> list[Tensor]:
    """All graphs on n vertices, one of each isomorphism class. ValueError unless n is 3, 4 or 5."""
    if n not in (3, 4, 5):
        raise ValueError(f"graphs on 3, 4 or 5 vertices are listed, not on {n}")
    edges = list(combinations(range(n), 2))
    number = {pair: k for k, pair in enumerate(edges)}
    moves = np.array([[number[min(p[i], p[j]), max(p[i], p[j])] for i, j in edges] for p in permutations(range(n))])
    has = (np.arange(2 ** len(edges))[:, None] >> np.arange(len(edges))) & 1  # graphs x edges
    least = np.min([has[:, move] @ (1 << np.arange(len(edges))) for move in moves], 0)
    return [graph_of(n, [pair for pair, there in zip(edges, has[code]) if there]) for code in np.unique(least)]


def graph_of(n: int, edges: Sequence[tuple[int, int]]) -> Tensor:
    """The adjacency matrix (n x n) of a list of edges."""
    found = torch.zeros(n, n, dtype=torch.long)
    for i, j in edges:
        found[i, j] = found[j, i] = 1
    return found


def random_graph(n: int, *stream: object) -> Tensor:
    """Every edge with probability one half."""
    draw = numpy_generator("A.3 graph", n, *stream).random((n, n)) < 0.5
    return graph_of(n, [(i, j) for i, j in combinations(range(n), 2) if draw[i, j]])


def verified(adjacency: Tensor) -> dict[str, float]:
    """The reduction against brute force on one graph: ``excess`` of the least residual over the threshold, twice the ``missing`` edges
    if the theorem is right; ``spread`` of what activation and weight matching minimise, over all permutations."""
    made = hamiltonian_networks(adjacency)
    residual = Residual(made.a, made.b, made.images)
    factors = [enumerate_minimum(residual, of).values for of in ("weights", "features")]
    return {"n": len(adjacency), "missing": missing_edges(adjacency), "excess": enumerate_minimum(residual).value - made.threshold,
            "spread": max(float(values.max() - values.min()) for values in factors)}


# What is wrong or imprecise in A.3

@dataclass(frozen=True)
class Slip:
    """``kind``: "error" changes a result, "gap" is a step that does not follow, "wording" is neither. ``numbers``: the functions
    of this module that measure it."""

    where: str
    kind: str
    printed: str
    instead: str
    numbers: tuple[str, ...]


SLIPS = (
    Slip("first line", "wording", r"the minimum is over $P^{(\ell)}$ for all $\ell$",
         r"$P^{(0)}=P^{(L)}=1$, else the logits are exchanged; only then are there $L-1$ problems", ("enumerate_terms",)),
    Slip("first block, third line", "error", r"$\|X-Y\|^2$ expanded with $+\langle X,Y\rangle$",
         r"$-2\langle X,Y\rangle$; the printed line has another minimiser", ("printed_objective", "expanded_objective", "consequences")),
    Slip("throughout", "wording", r"$\arg\min\ldots\iff\arg\min\ldots$",
         "sets are equal, not equivalent; in F3 and S4 the objectives differ by a constant, elsewhere they are equal", ("deviation",)),
    Slip("after the first term", "gap", "each problem is a quadratic assignment problem, hence NP-hard",
         "both matrices are Gram matrices and the linear part is tied to one of them: a special case, which the theorem here shows to be hard",
         ("koopmans_beckmann", "hamiltonian_networks")),
    Slip("last sentence", "gap", "a sum of such terms is NP-hard",
         "does not follow: with equal last weights the first term stays hard and the sum is 0 at the identity; true by the theorem here",
         ("hamiltonian_networks", "verified")),
    Slip("last sentence", "gap", "the sum cannot be simplified further",
         r"for $L=2$ all three terms together are one quadratic assignment problem, of Lawler's form", ("lawler_form",)),
)
