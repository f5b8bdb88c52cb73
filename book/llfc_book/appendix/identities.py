"""A.3 line by line: every line that the appendix prints as code, and every step between two lines
as something to be tested.

Per layer l it writes X = W_A (H_A - P H_B) and Y = Q W_B (P^T H_A - H_B), with P = P^(l-1) for the
units that enter and Q = P^(l) for those that leave. The objective is sum_l |X - Y|^2, its "first
term" sum_l |X|^2, its second sum_l |Y|^2 and its last sum_l <X, Y>. A :class:`Layer` holds what a
line is evaluated on, IDENTITIES are the steps in their order, and
:func:`deviation` says how far the two sides of a step are apart. A permutation is a tensor p as
everywhere in the library: new unit i is B's unit p[i], P = 1[p], P H = H[p].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from llfc_lib.metrics.measure import Loader
from llfc_lib.models.view import copy_of
from llfc_lib.streams import numpy_generator

DOUBLE = torch.float64


# The matrices of one layer


@dataclass(frozen=True)
class Layer:
    """W_A and W_B (out x in) with the features that enter them, H_A and H_B (in x images).
    ValueError if the shapes do not fit.

    Source: one layer of A.3.
    """

    w_a: Tensor
    w_b: Tensor
    h_a: Tensor
    h_b: Tensor

    def __post_init__(self) -> None:
        if (
            self.w_a.shape != self.w_b.shape
            or self.h_a.shape != self.h_b.shape
            or self.w_a.shape[1] != len(self.h_a)
        ):
            raise ValueError(
                f"weights {tuple(self.w_a.shape)} and {tuple(self.w_b.shape)} do not fit features"
                f" {tuple(self.h_a.shape)} and {tuple(self.h_b.shape)}; both networks need out x in"
                " and in x images"
            )

    @property
    def m_a(self) -> Tensor:
        """M_A = W_A^T W_A (in x in)."""
        return self.w_a.T @ self.w_a

    @property
    def m_b(self) -> Tensor:
        """M_B = W_B^T W_B."""
        return self.w_b.T @ self.w_b


#: p^(0), ..., p^(L) of all layers, the first and the last of them the identity.
Orders = Sequence[Tensor]


@torch.no_grad()
def layers_of(a: nn.Module, b: nn.Module, loader: Loader) -> list[Layer]:
    """All layers of two chains of linear layers on the images of ``loader``, in float64. ValueError
    for other networks.
    """
    linear, entered = [], []
    for network in (copy_of(net).double().eval() for net in (a, b)):
        maps = [m for m in network.modules() if isinstance(m, nn.Linear)]
        if {id(w) for w in network.parameters()} != {
            id(w) for m in maps for w in m.parameters()
        } or any(m.out_features != after.in_features for m, after in zip(maps, maps[1:])):
            raise ValueError(
                f"{type(network).__name__} is no chain of linear layers; A.3 is about such chains"
            )
        kept: list[list[Tensor]] = [[] for _ in maps]
        for m, batches in zip(maps, kept):
            m.register_forward_pre_hook(
                lambda _, entering, batches=batches: batches.append(entering[0].flatten(1).T)
            )
        for x, _ in loader:
            network(x.double())
        linear.append(maps)
        entered.append([torch.cat(batches, 1) for batches in kept])
    return [
        Layer(m.weight.detach(), n.weight.detach(), h_a, h_b)
        for m, n, h_a, h_b in zip(*linear, *entered)
    ]


def random_layers(sizes: Sequence[int], images: int, *stream: object) -> list[Layer]:
    """Gaussian weights between layers of ``sizes`` units (first the inputs, last the logits), and
    unrelated non-negative features.
    """
    rng, found = numpy_generator("A.3 layers", *stream), []
    for n, m in zip(sizes, sizes[1:]):
        w_a, w_b = torch.from_numpy(rng.normal(size=(2, m, n)))
        h_a, h_b = torch.from_numpy(rng.normal(size=(2, n, images))).relu()
        found.append(
            Layer(w_a, w_b, h_a, h_b if found else h_a)
        )  # both networks see the same input
    return found


def random_orders(layers: Sequence[Layer], *stream: object) -> list[Tensor]:
    """A random order of every hidden layer."""
    rng, sizes = numpy_generator("A.3 orders", *stream), [len(t.h_a) for t in layers]
    hidden = [torch.from_numpy(rng.permutation(n)) for n in sizes[1:]]
    return [torch.arange(sizes[0]), *hidden, torch.arange(len(layers[-1].w_a))]


# The lines that A.3 prints


@dataclass(frozen=True)
class Line:
    """One printed line, per layer: ``coefficients`` are the numbers before its parts from left to
    right, and ``of(layer, P, Q, coefficients)`` is its value. With other coefficients it is another
    line: that is how tests show that a slip would be seen.

    Source: a line of A.3.
    """

    coefficients: tuple[float, ...]
    of: Callable[[Layer, Tensor, Tensor, Sequence[float]], Tensor]

    def value(
        self, layers: Sequence[Layer], orders: Orders, coefficients: Sequence[float] | None = None
    ) -> float:
        """Summed over layers."""
        eyes = [torch.eye(len(p), dtype=DOUBLE)[p] for p in orders]
        return float(
            sum(
                self.of(t, p, q, coefficients or self.coefficients)
                for t, p, q in zip(layers, eyes, eyes[1:])
            )
        )


def _norm(x: Tensor) -> Tensor:
    return x.square().sum()


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum()


def _x(t: Layer, p: Tensor, c: Sequence[float] = (1, -1)) -> Tensor:
    return c[0] * t.w_a @ t.h_a + c[1] * t.w_a @ p @ t.h_b


def _y(t: Layer, p: Tensor, q: Tensor, c: Sequence[float] = (1, -1)) -> Tensor:
    return c[0] * q @ t.w_b @ p.T @ t.h_a + c[1] * q @ t.w_b @ t.h_b


_tr = torch.trace
_FOUR, _TRACES = (1.0, -1.0, 1.0, -1.0), (1.0, -1.0, -1.0, 1.0)
# the objective
OBJECTIVE = Line(
    _FOUR,
    lambda t, p, q, c: _norm(
        (c[0] * t.w_a + c[1] * q @ t.w_b @ p.T) @ (c[2] * t.h_a + c[3] * p @ t.h_b)
    ),
)
MULTIPLIED_OUT = Line(
    _TRACES,
    lambda t, p, q, c: _norm(
        c[0] * t.w_a @ t.h_a
        + c[1] * q @ t.w_b @ p.T @ t.h_a
        + c[2] * t.w_a @ p @ t.h_b
        + c[3] * q @ t.w_b @ t.h_b
    ),
)
SPLIT = Line(
    (1.0, 1.0, 1.0),
    lambda t, p, q, c: (
        c[0] * _norm(_x(t, p)) + c[1] * _norm(_y(t, p, q)) + c[2] * _inner(_x(t, p), _y(t, p, q))
    ),
)
SPLIT_CORRECTED = Line((1.0, 1.0, -2.0), SPLIT.of)
# its first term
FIRST_NORM = Line((1.0, -1.0), lambda t, p, q, c: _norm(_x(t, p, c)))
FIRST_PRODUCT = Line(
    _FOUR,
    lambda t, p, q, c: _tr(
        (c[0] * t.h_a.T @ t.w_a.T + c[1] * t.h_b.T @ p.T @ t.w_a.T)
        @ (c[2] * t.w_a @ t.h_a + c[3] * t.w_a @ p @ t.h_b)
    ),
)
FIRST_TRACES = Line(
    _TRACES,
    lambda t, p, q, c: _tr(
        c[0] * t.h_a.T @ t.m_a @ t.h_a
        + c[1] * t.h_b.T @ p.T @ t.m_a @ t.h_a
        + c[2] * t.h_a.T @ t.m_a @ p @ t.h_b
        + c[3] * t.h_b.T @ p.T @ t.m_a @ p @ t.h_b
    ),
)
FIRST_DROPPED = Line(
    (-2.0, 1.0),
    lambda t, p, q, c: _tr(
        c[0] * t.h_b.T @ p.T @ t.m_a @ t.h_a + c[1] * t.h_b.T @ p.T @ t.m_a @ p @ t.h_b
    ),
)
FIRST_CYCLED = Line(
    (-2.0, 1.0),
    lambda t, p, q, c: _tr(
        c[0] * p.T @ t.m_a @ t.h_a @ t.h_b.T + c[1] * p.T @ t.m_a @ p @ t.h_b @ t.h_b.T
    ),
)
FIRST_KOOPMANS = Line(
    (1.0, -2.0),
    lambda t, p, q, c: (
        c[0] * _tr(p.T @ t.m_a @ p @ t.h_b @ t.h_b.T) + c[1] * _tr(p.T @ t.m_a @ t.h_a @ t.h_b.T)
    ),
)
# its second term
SECOND_NORM = Line((1.0, -1.0), lambda t, p, q, c: _norm(_y(t, p, q, c)))
SECOND_BARE = Line(
    (1.0, -1.0), lambda t, p, q, c: _norm(c[0] * t.w_b @ p.T @ t.h_a + c[1] * t.w_b @ t.h_b)
)
SECOND_PRODUCT = Line(
    _FOUR,
    lambda t, p, q, c: _tr(
        (c[0] * t.h_a.T @ p @ t.w_b.T + c[1] * t.h_b.T @ t.w_b.T)
        @ (c[2] * t.w_b @ p.T @ t.h_a + c[3] * t.w_b @ t.h_b)
    ),
)
SECOND_TRACES = Line(
    _TRACES,
    lambda t, p, q, c: _tr(
        c[0] * t.h_a.T @ p @ t.m_b @ p.T @ t.h_a
        + c[1] * t.h_a.T @ p @ t.m_b @ t.h_b
        + c[2] * t.h_b.T @ t.m_b @ p.T @ t.h_a
        + c[3] * t.h_b.T @ t.m_b @ t.h_b
    ),
)
SECOND_DROPPED = Line(
    (1.0, -2.0),
    lambda t, p, q, c: _tr(
        c[0] * t.h_a.T @ p @ t.m_b @ p.T @ t.h_a + c[1] * t.h_a.T @ p @ t.m_b @ t.h_b
    ),
)
SECOND_CYCLED = Line(
    (1.0, -2.0),
    lambda t, p, q, c: _tr(
        c[0] * p @ t.m_b @ p.T @ t.h_a @ t.h_a.T + c[1] * p @ t.m_b @ t.h_b @ t.h_a.T
    ),
)
SECOND_KOOPMANS = Line(
    (1.0, -2.0),
    lambda t, p, q, c: (
        c[0] * _tr(p @ t.m_b @ p.T @ t.h_a @ t.h_a.T) + c[1] * _tr(p @ t.m_b @ t.h_b @ t.h_a.T)
    ),
)
# its last term
CROSS = Line(_FOUR, lambda t, p, q, c: _inner(_x(t, p, c[:2]), _y(t, p, q, c[2:])))
CROSS_MATCHING = Line(
    _FOUR,
    lambda t, p, q, c: _inner(
        _x(t, p, c[:2]) @ (c[2] * t.w_b @ p.T @ t.h_a + c[3] * t.w_b @ t.h_b).T, q
    ),
)


@dataclass(frozen=True)
class Identity:
    """A step of A.3: both lines have the same minimisers because they are equal, or equal
    ``up_to_constant``, a number that no permutation changes. ``correction`` is the right line that
    is true, where the printed one is not.

    Source: a step of A.3.
    """

    name: str
    printed: str
    left: Line
    right: Line
    up_to_constant: bool = False
    correction: Line | None = None


_ROUND, _JOINED = "factors moved round the trace", "the constant dropped, mixed terms joined"
#: Every step of A.3 in the order in which it is printed.
IDENTITIES = (
    Identity("O1", "the product multiplied out", OBJECTIVE, MULTIPLIED_OUT),
    Identity("O2", "the norm of a difference", MULTIPLIED_OUT, SPLIT, correction=SPLIT_CORRECTED),
    Identity("F1", "a norm is a trace", FIRST_NORM, FIRST_PRODUCT),
    Identity("F2", "multiplied out", FIRST_PRODUCT, FIRST_TRACES),
    Identity("F3", _JOINED, FIRST_TRACES, FIRST_DROPPED, up_to_constant=True),
    Identity("F4", _ROUND, FIRST_DROPPED, FIRST_CYCLED),
    Identity("F5", "the trace of a sum", FIRST_CYCLED, FIRST_KOOPMANS),
    Identity("S1", "the outer permutation leaves the norm", SECOND_NORM, SECOND_BARE),
    Identity("S2", "a norm is a trace", SECOND_BARE, SECOND_PRODUCT),
    Identity("S3", "multiplied out", SECOND_PRODUCT, SECOND_TRACES),
    Identity("S4", _JOINED, SECOND_TRACES, SECOND_DROPPED, up_to_constant=True),
    Identity("S5", _ROUND, SECOND_DROPPED, SECOND_CYCLED),
    Identity("S6", "the trace of a sum", SECOND_CYCLED, SECOND_KOOPMANS),
    Identity("C1", "the outer permutation to one side", CROSS, CROSS_MATCHING),
)


def deviation(
    identity: Identity,
    layers: Sequence[Layer],
    orders: Sequence[Orders],
    right: Line | None = None,
    coefficients: Sequence[float] | None = None,
) -> float:
    """How far the sides are apart over several ``orders``: the largest difference over the largest
    left side; up to a constant, the spread of the differences over the spread of the left side.
    ``right``: another line than the printed one.

    ValueError for fewer than two orders where a constant is allowed: any two numbers differ by a
    constant.
    """
    if identity.up_to_constant and len(orders) < 2:
        raise ValueError(
            f"{identity.name} holds up to a constant; one order cannot show that, give several"
        )
    right = right or identity.right
    left = np.array([identity.left.value(layers, p) for p in orders])
    apart = left - [right.value(layers, p, coefficients) for p in orders]
    return float(
        np.ptp(apart) / np.ptp(left)
        if identity.up_to_constant
        else np.abs(apart).max() / np.abs(left).max()
    )


def deviations(cases: Mapping[str, tuple[Sequence[Layer], Sequence[Orders]]]) -> pd.DataFrame:
    """:func:`deviation` of every identity on every case (layers, orders): one row as printed, one
    ``corrected`` where it fails.
    """
    return pd.DataFrame(
        [
            {
                "step": i.name,
                "done": i.printed,
                "up_to_constant": i.up_to_constant,
                "corrected": right is i.correction,
                **{
                    case: deviation(i, layers, orders, right)
                    for case, (layers, orders) in cases.items()
                },
            }
            for i in IDENTITIES
            for right in (i.right, i.correction)
            if right is not None
        ]
    )
