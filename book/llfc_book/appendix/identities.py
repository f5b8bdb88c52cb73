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

    def exchanged(self) -> "Layer":
        """A and B in each other's place."""
        return Layer(self.w_b, self.w_a, self.h_b, self.h_a)

    def only(self, units: Tensor) -> "Layer":
        """The same with only these of the units that enter."""
        return Layer(self.w_a[:, units], self.w_b[:, units], self.h_a[units], self.h_b[units])

    def living(self) -> Tensor:
        """The units that respond to some image in both networks."""
        return (self.h_a.any(1) & self.h_b.any(1)).nonzero()[:, 0]


Orders = Sequence[
    Tensor
]  # p^(0), ..., p^(L) of all layers, the first and the last of them the identity


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
    """One printed line, per layer: ``math`` is the line in this module's symbols, ``coefficients``
    the numbers before its parts from left to right, and ``of(layer, P, Q, coefficients)`` its
    value. With other coefficients it is another line: that is how tests show that a slip would be
    seen.

    Source: a line of A.3.
    """

    math: str
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


def _objective(t: Layer, p: Tensor, q: Tensor, c: Sequence[float]) -> Tensor:
    return _norm((c[0] * t.w_a + c[1] * q @ t.w_b @ p.T) @ (c[2] * t.h_a + c[3] * p @ t.h_b))


def _multiplied_out(t: Layer, p: Tensor, q: Tensor, c: Sequence[float]) -> Tensor:
    return _norm(
        c[0] * t.w_a @ t.h_a
        + c[1] * q @ t.w_b @ p.T @ t.h_a
        + c[2] * t.w_a @ p @ t.h_b
        + c[3] * q @ t.w_b @ t.h_b
    )


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
    return torch.trace(
        c[0] * t.h_a.T @ m @ t.h_a
        + c[1] * t.h_b.T @ p.T @ m @ t.h_a
        + c[2] * t.h_a.T @ m @ p @ t.h_b
        + c[3] * t.h_b.T @ p.T @ m @ p @ t.h_b
    )


def _first_dropped(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_a.T @ t.w_a
    return torch.trace(c[0] * t.h_b.T @ p.T @ m @ t.h_a + c[1] * t.h_b.T @ p.T @ m @ p @ t.h_b)


def _first_cycled(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_a.T @ t.w_a
    return torch.trace(c[0] * p.T @ m @ t.h_a @ t.h_b.T + c[1] * p.T @ m @ p @ t.h_b @ t.h_b.T)


def _first_koopmans(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_a.T @ t.w_a
    return c[0] * torch.trace(p.T @ m @ p @ t.h_b @ t.h_b.T) + c[1] * torch.trace(
        p.T @ m @ t.h_a @ t.h_b.T
    )


def _second_norm(t: Layer, p: Tensor, q: Tensor, c: Sequence[float]) -> Tensor:
    return _norm(_y(t, p, q, c))


def _second_bare(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    return _norm(c[0] * t.w_b @ p.T @ t.h_a + c[1] * t.w_b @ t.h_b)


def _second_product(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    left = c[0] * t.h_a.T @ p @ t.w_b.T + c[1] * t.h_b.T @ t.w_b.T
    return torch.trace(left @ (c[2] * t.w_b @ p.T @ t.h_a + c[3] * t.w_b @ t.h_b))


def _second_traces(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_b.T @ t.w_b
    return torch.trace(
        c[0] * t.h_a.T @ p @ m @ p.T @ t.h_a
        + c[1] * t.h_a.T @ p @ m @ t.h_b
        + c[2] * t.h_b.T @ m @ p.T @ t.h_a
        + c[3] * t.h_b.T @ m @ t.h_b
    )


def _second_dropped(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_b.T @ t.w_b
    return torch.trace(c[0] * t.h_a.T @ p @ m @ p.T @ t.h_a + c[1] * t.h_a.T @ p @ m @ t.h_b)


def _second_cycled(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_b.T @ t.w_b
    return torch.trace(c[0] * p @ m @ p.T @ t.h_a @ t.h_a.T + c[1] * p @ m @ t.h_b @ t.h_a.T)


def _second_koopmans(t: Layer, p: Tensor, _: Tensor, c: Sequence[float]) -> Tensor:
    m = t.w_b.T @ t.w_b
    return c[0] * torch.trace(p @ m @ p.T @ t.h_a @ t.h_a.T) + c[1] * torch.trace(
        p @ m @ t.h_b @ t.h_a.T
    )


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
FIRST_PRODUCT = Line(
    r"\mathrm{tr}\,(H_A^\top W_A^\top-H_B^\top P^\top W_A^\top)(W_AH_A-W_APH_B)",
    _FOUR,
    _first_product,
)
FIRST_TRACES = Line(
    r"\mathrm{tr}(H_A^\top M_AH_A-H_B^\top P^\top M_AH_A-H_A^\top M_APH_B+H_B^\top P^\top M_APH_B)",
    _TRACES,
    _first_traces,
)
FIRST_DROPPED = Line(
    r"\mathrm{tr}(-2H_B^\top P^\top M_AH_A+H_B^\top P^\top M_APH_B)", (-2.0, 1.0), _first_dropped
)
FIRST_CYCLED = Line(
    r"\mathrm{tr}(-2P^\top M_AH_AH_B^\top+P^\top M_APH_BH_B^\top)", (-2.0, 1.0), _first_cycled
)
FIRST_KOOPMANS = Line(
    r"\mathrm{tr}(P^\top M_APH_BH_B^\top)-2\,\mathrm{tr}(P^\top M_AH_AH_B^\top)",
    (1.0, -2.0),
    _first_koopmans,
)
SECOND_NORM = Line(r"\|QW_BP^\top H_A-QW_BH_B\|^2", (1.0, -1.0), _second_norm)
SECOND_BARE = Line(r"\|W_BP^\top H_A-W_BH_B\|^2", (1.0, -1.0), _second_bare)
SECOND_PRODUCT = Line(
    r"\mathrm{tr}\,(H_A^\top PW_B^\top-H_B^\top W_B^\top)(W_BP^\top H_A-W_BH_B)",
    _FOUR,
    _second_product,
)
SECOND_TRACES = Line(
    r"\mathrm{tr}(H_A^\top PM_BP^\top H_A-H_A^\top PM_BH_B-H_B^\top M_BP^\top H_A+H_B^\top M_BH_B)",
    _TRACES,
    _second_traces,
)
SECOND_DROPPED = Line(
    r"\mathrm{tr}(H_A^\top PM_BP^\top H_A-2H_A^\top PM_BH_B)", (1.0, -2.0), _second_dropped
)
SECOND_CYCLED = Line(
    r"\mathrm{tr}(PM_BP^\top H_AH_A^\top-2PM_BH_BH_A^\top)", (1.0, -2.0), _second_cycled
)
SECOND_KOOPMANS = Line(
    r"\mathrm{tr}(PM_BP^\top H_AH_A^\top)-2\,\mathrm{tr}(PM_BH_BH_A^\top)",
    (1.0, -2.0),
    _second_koopmans,
)
CROSS = Line(r"\langle W_AH_A-W_APH_B,\;QW_BP^\top H_A-QW_BH_B\rangle", _FOUR, _cross)
CROSS_MATCHING = Line(
    r"\langle(W_AH_A-W_APH_B)(W_BP^\top H_A-W_BH_B)^\top,\;Q\rangle", _FOUR, _cross_matching
)


@dataclass(frozen=True)
class Identity:
    """A step of A.3: both lines have the same minimisers because they are equal, or equal
    ``up_to_constant``, a number that no permutation changes. ``correction`` is the right line that
    is true where the printed one is not.

    Source: a step of A.3.
    """

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
    Identity(
        "O2",
        "the norm of a difference",
        MULTIPLIED_OUT,
        SPLIT,
        holds_as_printed=False,
        correction=SPLIT_CORRECTED,
    ),
    Identity("F1", "a norm is a trace", FIRST_NORM, FIRST_PRODUCT),
    Identity("F2", "multiplied out", FIRST_PRODUCT, FIRST_TRACES),
    Identity(
        "F3",
        "the constant dropped, mixed terms joined",
        FIRST_TRACES,
        FIRST_DROPPED,
        up_to_constant=True,
    ),
    Identity("F4", "factors moved round the trace", FIRST_DROPPED, FIRST_CYCLED),
    Identity("F5", "the trace of a sum", FIRST_CYCLED, FIRST_KOOPMANS),
    Identity("S1", "the outer permutation leaves the norm", SECOND_NORM, SECOND_BARE),
    Identity("S2", "a norm is a trace", SECOND_BARE, SECOND_PRODUCT),
    Identity("S3", "multiplied out", SECOND_PRODUCT, SECOND_TRACES),
    Identity(
        "S4",
        "the constant dropped, mixed terms joined",
        SECOND_TRACES,
        SECOND_DROPPED,
        up_to_constant=True,
    ),
    Identity("S5", "factors moved round the trace", SECOND_DROPPED, SECOND_CYCLED),
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
