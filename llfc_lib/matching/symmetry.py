"""Which axes of which parameters share a permutation of hidden units: derived from the traced view
of any network.

Every unit of every layer gets a number, and the numbers travel through the graph in tensors of the
features' own shape: what only moves entries (flatten, slices, padding, concatenation) is applied to
the numbers as it is; sums make two numbers one. At a layer with weights they are written against
the axes of its parameters. Units that are used in the same places may change places. Input and
logits stay where they are.
"""

import re
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from llfc_lib.models.view import (
    ACTIVATION_FUNCTIONS,
    ACTIVATION_METHODS,
    ACTIVATIONS,
    View,
    copy_of,
)
from llfc_lib.streams import generator

FIXED = 0  # the number of whatever stays in place: inputs, logits, means over units
ANY = -1  # the number of a constant, such as a padded pixel: no unit
TOLERANCE = 1e-10  # of |f(pi(B)) - f(B)| in float64, relative to the largest logit
INSTANCE_NORMS, BATCH_NORMS = nn.modules.instancenorm._InstanceNorm, nn.modules.batchnorm._BatchNorm
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
POOLS = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.Upsample,
)
ELEMENTWISE = (
    *ACTIVATIONS,
    nn.modules.dropout._DropoutNd,
    nn.Identity,
    nn.Softplus,
    nn.Softsign,
    nn.Mish,
    nn.SELU,
    nn.CELU,
    nn.LogSigmoid,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Threshold,
)
MOVING = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)

# The same as functions and methods, by name.
ELEMENTWISE_NAMES = {f.__name__ for f in ACTIVATION_FUNCTIONS} | ACTIVATION_METHODS
ELEMENTWISE_NAMES |= {
    "dropout",
    "dropout2d",
    "softplus",
    "mish",
    "selu",
    "hardtanh",
    "hardsigmoid",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "abs",
    "neg",
    "square",
    "clamp",
    "sin",
    "cos",
    "erf",
    "to",
    "float",
    "double",
    "half",
    "type_as",
    "contiguous",
    "clone",
    "detach",
    "identity",
    "stochastic_depth",
}
POOL_NAMES = {"interpolate", "boolean_dispatch"} | {
    f"{kind}_pool{dims}d"
    for kind in ("max", "avg", "adaptive_avg", "adaptive_max")
    for dims in (1, 2, 3)
}
MOVING_NAMES = {
    "flatten",
    "view",
    "reshape",
    "permute",
    "transpose",
    "unsqueeze",
    "squeeze",
    "getitem",
    "chunk",
    "split",
    "cat",
    "concat",
    "concatenate",
    "expand",
    "unflatten",
    "movedim",
    "narrow",
    "select",
    "roll",
    "flip",
    "stack",
    "unbind",
    "repeat",
    "expand_as",
    "view_as",
    "reshape_as",
    "tile",
    "repeat_interleave",
}
BINARY_NAMES = {"add", "sub", "mul", "truediv", "div", "maximum", "minimum", "pow", "radd", "rmul"}
REDUCTION_NAMES = {"mean", "sum", "amax", "amin", "std", "var"}
# each unit against all others: order does not matter
WITHIN_NAMES = {"softmax", "log_softmax", "normalize"}
LAYERS_AS_FUNCTIONS = {"linear", "conv1d", "conv2d", "conv3d"}
LAYERS_AS_FUNCTIONS |= {"layer_norm", "group_norm", "batch_norm"}


class UnsupportedOperation(TypeError):
    """An operation whose effect on hidden units is not known here."""


@dataclass(frozen=True)
class Use:
    """Where a permutation acts: unit i owns ``positions[i]`` (n x r, several after a flatten) of
    ``axis`` of ``parameter``.

    ``rows``: only these entries of axis 0 (a grouped convolution's block), all where it is None.
    ``statistic``: a running mean or variance, moved with its unit but no part of a matching cost.
    ``alias``: a second name of a tied parameter, moved but not counted again.
    """

    parameter: str
    axis: int
    positions: Tensor
    rows: tuple[int, int] | None = None
    statistic: bool = False
    alias: bool = False


@dataclass(frozen=True)
class Permutation:
    """A group of ``size`` units that may be put in any order, and every use of it.

    ``site``: where its post-activation features are read for activation matching, if anywhere; they
    are entries ``positions`` of the axis ``axis`` there.

    Source: P of A.3.
    """

    name: str
    size: int
    uses: tuple[Use, ...]
    site: str | None = None
    positions: Tensor | None = None
    axis: int = 1


Permutations = Mapping[str, Tensor]  # by the name of a permutation: new unit i is old unit p[i]


class Symmetry:
    """All permutations of hidden units of one architecture. Convention: new unit i is old unit
    p[i].

    :func:`symmetry` derives it. ``print`` shows a table of permutations, sizes and (parameter,
    axis) pairs.

    Source: the permutations of A.3; Ainsworth et al. (2023).
    """

    def __init__(
        self,
        permutations: tuple[Permutation, ...],
        shapes: Mapping[str, tuple[int, ...]],
        trained: Collection[str] = (),
    ) -> None:
        """``trained``: the parameters that a matching cost counts, each once by one name."""
        self.permutations, self.shapes, self.trained = permutations, dict(shapes), tuple(trained)

    def __getitem__(self, name: str) -> Permutation:
        for permutation in self.permutations:
            if permutation.name == name:
                return permutation
        raise ValueError(
            f"unknown permutation {name!r}; this network has {[p.name for p in self.permutations]}"
        )

    def __iter__(self) -> Iterator[Permutation]:
        return iter(self.permutations)

    def __len__(self) -> int:
        return len(self.permutations)

    def __str__(self) -> str:
        lines = [f"{'permutation':<28} {'units':>6}  (parameter, axis)"]
        for p in self.permutations:
            lines += textwrap.wrap(
                ", ".join(map(self._told, p.uses)),
                110,
                initial_indent=f"{p.name:<28} {p.size:>6}  ",
                subsequent_indent=" " * 37,
                break_long_words=False,
                break_on_hyphens=False,
            )
        return "\n".join(lines)

    def _told(self, use: Use) -> str:
        length = self.shapes[use.parameter][use.axis]
        part = (
            f" {use.positions.numel()} of {length}".replace(" ", "\N{NO-BREAK SPACE}")
            if use.positions.numel() < length
            else ""
        )
        rows = f" of rows {use.rows[0]}-{use.rows[1] - 1}" if use.rows else ""
        return f"({use.parameter},\N{NO-BREAK SPACE}{use.axis}{rows}){part}"

    def identity(self) -> dict[str, Tensor]:
        """The permutations that leave every unit where it is, by name."""
        return {p.name: torch.arange(p.size) for p in self.permutations}

    def random(self, *stream: object) -> dict[str, Tensor]:
        """Uniformly drawn permutations, named by ``stream``."""
        return {
            p.name: torch.randperm(p.size, generator=generator("permutation", *stream, p.name))
            for p in self.permutations
        }

    def cycles(self, *stream: object) -> dict[str, Tensor]:
        """The same, but no unit stays in its place: for checks, in which a group of two must not be
        left as it is.
        """
        found = {}
        for name, order in self.random(*stream).items():
            found[name] = torch.empty_like(order).scatter_(0, order, order.roll(1))
        return found

    def apply(self, state: Mapping[str, Tensor], permutations: Permutations) -> dict[str, Tensor]:
        """The weights of the same function with its units in another order: new unit i is old unit
        p[i].

        A permutation that is left out is the identity. ValueError for an unknown name, or where p
        is no permutation of that many units, or a parameter has another shape.
        """
        self.check_permutations(permutations)
        for name in dict.fromkeys(u.parameter for p in self.permutations for u in p.uses):
            if name not in state or tuple(state[name].shape) != self.shapes[name]:
                raise ValueError(
                    f"{name!r} must be of shape {self.shapes[name]}; the weights are of another"
                    " architecture"
                )
        orders: dict[tuple[str, int, tuple[int, int] | None], Tensor] = {}
        for p in self.permutations:
            if p.name in permutations:
                for use in p.uses:
                    key = (use.parameter, use.axis, use.rows)
                    order = orders.setdefault(
                        key, torch.arange(self.shapes[use.parameter][use.axis])
                    )
                    order[use.positions.reshape(-1)] = use.positions[
                        permutations[p.name].cpu()
                    ].reshape(-1)
        new = dict(state)
        # blocks of rows first: they are counted in the old order of the rows
        for (name, axis, rows), order in sorted(
            orders.items(), key=lambda item: item[0][2] is None
        ):
            order = order.to(new[name].device)
            if rows is None:
                new[name] = new[name].index_select(axis, order)
            else:
                value = new[name].clone()
                value[rows[0] : rows[1]] = value[rows[0] : rows[1]].index_select(axis, order)
                new[name] = value
        return new

    def check_permutations(self, permutations: Permutations) -> None:
        """ValueError that names the first of ``permutations`` that is unknown, or none of that many
        units.
        """
        for name, p in permutations.items():
            n = self[name].size
            if not isinstance(p, Tensor):
                raise ValueError(
                    f"permutation {name!r} must be a tensor of whole numbers, it is a"
                    f" {type(p).__name__}"
                )
            if (
                p.shape != (n,)
                or p.is_floating_point()
                or not torch.equal(torch.sort(p.cpu()).values, torch.arange(n))
            ):
                raise ValueError(
                    f"permutation {name!r} must hold each of 0..{n - 1} once, it is"
                    f" {tuple(p.shape)} from {int(p.min()) if p.numel() else '-'} to"
                    f" {int(p.max()) if p.numel() else '-'}"
                )

    def compose(self, first: Permutations, then: Permutations) -> dict[str, Tensor]:
        """One set of permutations that does what ``first`` and then ``then`` do; one that is left
        out is the identity.
        """
        return {
            name: first.get(name, order)[then.get(name, order)]
            for name, order in self.identity().items()
        }


def permuted(network: nn.Module, sym: Symmetry, permutations: Permutations) -> nn.Module:
    """A copy of the network with its units in another order; the function is the same.

    Source: pi(B) of A.3; Ainsworth et al. (2023).
    """
    other = copy_of(network)
    other.load_state_dict(sym.apply(network.state_dict(), permutations))
    return other


@torch.no_grad()
def check_symmetry(
    network: nn.Module,
    sym: Symmetry,
    x: Tensor,
    permutations: Permutations | None = None,
    randomise: bool = False,
    seed: object = 0,
) -> float:
    """max |f(pi(B)) - f(B)| / max |f(B)| in float64 on the images ``x``, for random permutations or
    those given.

    ``randomise`` first draws statistics and affine parameters anew: fresh ones (0 and 1) hide what
    is not moved. RuntimeError above :data:`TOLERANCE`: then the derived symmetry is wrong, and no
    number may be made with it.
    """
    network = copy_of(network).double().eval()
    if randomise:
        randomise_norms(network, seed)
    own = network(x.double())
    moved = permuted(
        network, sym, sym.cycles("check", seed) if permutations is None else permutations
    )(x.double())
    error = float((moved - own).abs().max() / own.abs().max().clamp_min(1e-30))
    if not error < TOLERANCE:
        raise RuntimeError(
            f"f(pi(B)) differs from f(B) by {error:.1e} of the largest logit (allowed"
            f" {TOLERANCE:g}): the permutations derived for {type(network).__name__} are not its"
            " symmetries. Please report it"
        )
    return error


@torch.no_grad()
def randomise_norms(network: nn.Module, seed: object = 0) -> None:
    """Draw running statistics, one-dimensional parameters, and whatever else is constant (scales
    that start at 1, weights at 0) anew, in place.
    """
    g = generator("randomise", seed)
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if (
            value.is_floating_point()
            and value.numel()
            and (value.ndim <= 1 or bool((value == value.flatten()[0]).all()))
        ):
            drawn = torch.rand(value.shape, generator=g, dtype=torch.float64)
            value.copy_(0.5 + drawn if name.endswith(("weight", "var")) else 0.2 * (drawn - 0.5))


def symmetry(network: nn.Module | View, x: Tensor) -> Symmetry:
    """The permutations of ``network``'s hidden units; ``x`` is one image or more, only its shape
    matters.

    UnsupportedOperation names what it cannot follow; UntraceableError comes from torch.fx.

    Source: Ainsworth et al. (2023) write down by hand what is derived here.
    """
    view = network if isinstance(network, View) else View(network)
    names = {} if isinstance(network, View) else _second_names(network, view)
    stored = view.state() if isinstance(network, View) else network.state_dict()
    return _Derivation(view, torch.cat((x[:1], x[:1])), names, stored).result()


def _second_names(network: nn.Module, view: View) -> dict[str, list[str]]:
    """Names of one tensor that the traced network has under another name: a layer that is an
    attribute twice.
    """
    state = view.state()
    groups: dict[int, list[str]] = defaultdict(list)
    for name, value in (
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ):
        groups[id(value)].append(name)
    return {
        kept: [n for n in names if n not in state]
        for names in groups.values()
        for kept in [next((n for n in names if n in state), "")]
        if kept
    }


class _Derivation:
    """Walks through the graph once; see the module's docstring."""

    def __init__(
        self, view: View, x: Tensor, second_names: Mapping[str, list[str]], stored: Collection[str]
    ) -> None:
        """``x``: two images, so that the axis of images is none of length one; ``stored``: the
        names in a state dict.
        """
        self.view, self.second_names, self.stored = view, second_names, set(stored)
        state = dict(view.module.named_parameters(remove_duplicate=False)) | dict(
            view.module.named_buffers(remove_duplicate=False)
        )
        self.tensors = state
        first: dict[int, str] = {}  # a tied parameter goes by its first name
        self.canonical = {name: first.setdefault(id(value), name) for name, value in state.items()}
        self.parameters = {name for name, _ in view.module.named_parameters(remove_duplicate=False)}
        self.parent = [FIXED]  # union-find over numbers of units
        self.tokens: dict[int, list[tuple]] = defaultdict(list)  # number -> signature
        # numbers along an axis of a parameter
        self.axes: dict[tuple[str, int, tuple[int, int] | None], np.ndarray] = {}
        self.numbers: dict[str, Any] = {}
        concrete: dict[str, Any] = {}
        weight = next((p for p in view.module.parameters() if p.is_floating_point()), x)
        x = x.to(weight.device, weight.dtype if x.is_floating_point() else x.dtype)
        with torch.no_grad():
            for node in view.nodes:
                if node.op == "placeholder":
                    concrete[node.name], self.numbers[node.name] = x, np.full(x.shape, FIXED)
                elif node.op != "output":
                    self.numbers[node.name] = self._followed(node, concrete)
                    self._mark_passed(node)
        self._unite(self.numbers[view.output], np.full(1, FIXED))

    # numbers of units

    def _fresh(self, n: int) -> np.ndarray:
        start = len(self.parent)
        self.parent.extend(range(start, start + n))
        return np.arange(start, start + n)

    def _find(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def _roots(self, numbers: np.ndarray) -> np.ndarray:
        (small,) = _squashed(numbers)
        known, inverse = np.unique(small, return_inverse=True)
        roots = np.array([i if i == ANY else self._find(int(i)) for i in known])
        return np.broadcast_to(roots[inverse].reshape(small.shape), numbers.shape)

    def _unite(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Entries that are added up are one unit from now on; returns the result's numbers."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        a, b = _squashed(*np.broadcast_arrays(a, b))
        for i, j in np.unique(np.stack((a.ravel(), b.ravel())), axis=1).T.tolist():
            if ANY not in (i, j):
                low, high = sorted((self._find(i), self._find(j)))
                self.parent[high] = low
        return np.broadcast_to(np.where(a == ANY, b, a), shape)

    def _units(self, numbers: np.ndarray, axis: int, node: fx.Node | None) -> np.ndarray:
        """The number of each unit along ``axis``, which must be the same at every other index."""
        (small,) = _squashed(self._roots(numbers))
        rows = np.broadcast_to(
            np.moveaxis(small, axis, 0).reshape(small.shape[axis], -1),
            (numbers.shape[axis], small.size // small.shape[axis]),
        )
        high = rows.max(1)
        if not ((rows == high[:, None]) | (rows == ANY)).all():
            raise UnsupportedOperation(
                f"{_told(node)}: what enters it mixes different hidden units along the axes that it"
                " shares weights over; which permutations are symmetries there is not understood"
                " here"
            )
        return np.where(high == ANY, FIXED, high)

    @staticmethod
    def _spread(units: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
        index = [1] * len(shape)
        index[axis] = len(units)
        return np.broadcast_to(units.reshape(index), shape)

    def _write(
        self, parameter: str, axis: int, units: np.ndarray, rows: tuple[int, int] | None = None
    ) -> None:
        """These units lie along this axis; a parameter that is used again ties both."""
        key = (self.canonical[parameter], axis, rows)
        if key in self.axes:
            self._unite(self.axes[key], units)
        else:
            self.axes[key] = units

    def _mark(self, units: np.ndarray, *token: object) -> None:
        """Only units with the same marks may change places."""
        for unit in np.unique(units):
            if unit not in (FIXED, ANY):
                self.tokens[int(unit)].append(token)

    def _mark_passed(self, node: fx.Node) -> None:
        """Units may change places only if the same nodes see them, equally often: a part of a layer
        that goes its own way, through a slice say, is a group of its own."""
        numbers = self.numbers[node.name]
        for one in numbers if isinstance(numbers, list) else [numbers]:
            if isinstance(one, np.ndarray):
                for unit, count in zip(*np.unique(_squashed(one)[0], return_counts=True)):
                    if unit not in (FIXED, ANY):
                        self.tokens[int(unit)].append(("passes", node.name, int(count)))

    # nodes

    def _followed(self, node: fx.Node, concrete: dict[str, Any]) -> Any:
        try:
            concrete[node.name] = self.view.evaluate(node, concrete)
            return self._follow(node, concrete)
        except UnsupportedOperation:
            raise
        except Exception as error:
            # called in a way that nobody thought of: still refused by its name
            told = f"this use ({type(error).__name__}: {error})"
            raise UnsupportedOperation(_unknown(node, told)) from error

    def _follow(self, node: fx.Node, concrete: Mapping[str, Any]) -> Any:
        out = concrete[node.name]
        if node.op == "get_attr":
            return out  # a constant or a parameter: its numbers depend on what it meets
        inputs = [
            n
            for n in node.all_input_nodes
            if isinstance(self.numbers.get(n.name), (np.ndarray, list))
        ]
        if not inputs or not _has_tensor(out):
            return out  # computed from constants, or a size
        if node.op == "call_module":
            name = str(node.target)
            return self._layer(node, self.view._modules[name], name, inputs, out)
        name = getattr(node.target, "__name__", str(node.target))
        return self._function(node, str(name).strip("_"), inputs, concrete)

    def _layer(
        self, node: fx.Node, layer: nn.Module, name: str, inputs: list[fx.Node], out: Tensor
    ) -> np.ndarray:
        h = self.numbers[inputs[0].name]
        if isinstance(layer, nn.Linear):
            return self._linear(node, h, f"{name}.weight", f"{name}.bias", out)
        if isinstance(layer, CONVOLUTIONS):
            return self._convolution(node, h, f"{name}.weight", f"{name}.bias", layer.groups, out)
        affine = [f"{name}.weight", f"{name}.bias"]
        if isinstance(layer, (BATCH_NORMS, INSTANCE_NORMS)):
            running = [f"{name}.running_mean", f"{name}.running_var"]
            return self._per_unit(node, h, 1, affine + running)
        if isinstance(layer, nn.LayerNorm):
            return self._layer_norm(node, h, len(layer.normalized_shape), affine)
        if isinstance(layer, nn.GroupNorm):
            return self._group_norm(node, h, layer.num_groups, affine)
        if isinstance(layer, nn.PReLU):
            return self._per_unit(node, h, 1, [f"{name}.weight"]) if layer.num_parameters > 1 else h
        if isinstance(layer, POOLS):
            return self._pool(node, type(layer).__name__, h, out)
        if isinstance(layer, ELEMENTWISE):
            return h
        if isinstance(layer, (nn.Softmax, nn.LogSoftmax)):
            return self._within(node, h, layer.dim)
        if isinstance(layer, MOVING):
            return layer(_as_tensor(h).contiguous()).numpy()
        if isinstance(layer, (nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d)):
            return self._pad(h, layer.padding)
        raise UnsupportedOperation(_unknown(node, f"layer {type(layer).__name__}"))

    def _function(
        self, node: fx.Node, name: str, inputs: list[fx.Node], concrete: Mapping[str, Any]
    ) -> Any:
        out = concrete[node.name]
        args: Any = fx.node.map_arg(node.args, lambda n: self.numbers[n.name])
        kwargs: Any = fx.node.map_arg(node.kwargs, lambda n: self.numbers[n.name])
        h = self.numbers[inputs[0].name]
        if name in LAYERS_AS_FUNCTIONS:
            return self._layer_as_function(node, name, h, out)
        if name in ("iadd", "isub", "imul", "itruediv"):
            name = name[1:]
        if name in BINARY_NAMES:
            named = (kwargs[key] for key in ("input", "other", "exponent") if key in kwargs)
            operands = [*args, *named]
            return self._binary(node, operands[0], operands[1], out)
        if name in ELEMENTWISE_NAMES:
            if len(node.all_input_nodes) > 1 and name not in ("to", "type_as"):
                raise UnsupportedOperation(_unknown(node, f"operation {name!r} of several tensors"))
            return h
        if name in POOL_NAMES:
            return self._pool(node, name, h, out)
        if name == "pad":
            value = args[3] if len(args) > 3 else kwargs.get("value")
            mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
            if mode == "constant" and not value:
                return self._pad(h, args[1] if len(args) > 1 else kwargs["pad"])
            raise UnsupportedOperation(_unknown(node, f"padding of mode {mode!r} with {value}"))
        if name in REDUCTION_NAMES:
            dims = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
            return self._reduce(node, h, dims, out)
        if name in WITHIN_NAMES:
            place = 2 if name == "normalize" else 1
            dim = kwargs.get("dim", args[place] if len(args) > place else 1)
            return self._within(node, h, dim)
        if name in MOVING_NAMES:
            return self._move(node, args, kwargs)
        raise UnsupportedOperation(_unknown(node, f"operation {name!r}"))

    def _layer_as_function(
        self, node: fx.Node, name: str, h: np.ndarray, out: Tensor
    ) -> np.ndarray:
        order = {
            "linear": ("weight", "bias"),
            "layer_norm": ("normalized_shape", "weight", "bias"),
            "group_norm": ("num_groups", "weight", "bias"),
            "batch_norm": ("running_mean", "running_var", "weight", "bias"),
        }.get(name, ("weight", "bias", "stride", "padding", "dilation", "groups"))
        given: dict[str, Any] = dict(zip(order, node.args[1:])) | dict(node.kwargs)
        names = {}
        for key in ("weight", "bias", "running_mean", "running_var"):
            if isinstance(given.get(key), fx.Node):
                if given[key].op != "get_attr":
                    raise UnsupportedOperation(_unknown(node, f"{name} with a computed {key}"))
                names[key] = str(given[key].target)
        if name == "linear":
            return self._linear(node, h, names["weight"], names.get("bias", ""), out)
        if name.startswith("conv"):
            weight, bias, groups = names["weight"], names.get("bias", ""), given.get("groups", 1)
            return self._convolution(node, h, weight, bias, groups, out)
        if name == "layer_norm":
            return self._layer_norm(node, h, len(given["normalized_shape"]), list(names.values()))
        if name == "group_norm":
            return self._group_norm(node, h, given["num_groups"], list(names.values()))
        return self._per_unit(node, h, 1, list(names.values()))

    # what each kind of operation does to units

    def _outputs(self, weight: str, n: int) -> np.ndarray:
        """The units that a layer makes: new ones, or those it made when it was used before."""
        key = (self.canonical[weight], 0, None)
        return self.axes[key] if key in self.axes else self._fresh(n)

    def _linear(
        self, node: fx.Node, h: np.ndarray, weight: str, bias: str, out: Tensor
    ) -> np.ndarray:
        self._write(weight, 1, self._units(h, h.ndim - 1, node))
        return self._made(weight, bias, self._outputs(weight, out.shape[-1]), out.ndim - 1, out)

    def _made(
        self, weight: str, bias: str, units: np.ndarray, axis: int, out: Tensor
    ) -> np.ndarray:
        self._write(weight, 0, units)
        if bias in self.canonical:
            self._write(bias, 0, units)
        return self._spread(units, axis, tuple(out.shape))

    def _convolution(
        self, node: fx.Node, h: np.ndarray, weight: str, bias: str, groups: int, out: Tensor
    ) -> np.ndarray:
        units = self._units(h, 1, node)
        each = len(units) // groups
        if groups == 1:
            self._write(weight, 1, units)
            return self._made(weight, bias, self._outputs(weight, out.shape[1]), 1, out)
        if each == 1:  # depthwise: what it makes of a channel moves with the channel
            return self._made(weight, bias, np.repeat(units, out.shape[1] // groups), 1, out)
        made = self._outputs(weight, out.shape[1])
        step = out.shape[1] // groups
        for group in range(groups):
            rows = (group * step, (group + 1) * step)
            self._write(weight, 1, units[group * each : (group + 1) * each], rows)
            self._mark(made[rows[0] : rows[1]], "group", node.name, group)
        return self._made(weight, bias, made, 1, out)

    def _per_unit(
        self, node: fx.Node, h: np.ndarray, axis: int, parameters: list[str]
    ) -> np.ndarray:
        units = self._units(h, axis, node)
        for name in parameters:
            if name in self.canonical:
                self._write(name, 0, units)
        return self._spread(units, axis, h.shape)

    def _layer_norm(
        self, node: fx.Node, h: np.ndarray, dims: int, parameters: list[str]
    ) -> np.ndarray:
        """Normalised over its last ``dims`` axes; the affine parameters have those axes."""
        moving, together = self._moving_axes(h), set(range(h.ndim - dims, h.ndim))
        self._refuse_parts(node, moving, together)
        for axis in moving & together:
            units = self._units(h, axis, node)
            for name in parameters:
                if name in self.canonical:
                    self._write(name, axis - (h.ndim - dims), units)
            # a constant has been given each unit's own scale
            h = np.where(h == ANY, self._spread(units, axis, h.shape), h)
        return h

    def _refuse_parts(self, node: fx.Node, moving: set[int], together: set[int]) -> None:
        """Taken together must be all units of a layer, or none: of parts, it would matter which are
        in one.
        """
        if moving & together and moving - together:
            raise UnsupportedOperation(
                f"{_told(node)}: it takes some of the hidden units together, not all of a layer;"
                " its effect on permutations is not understood here"
            )

    def _group_norm(
        self, node: fx.Node, h: np.ndarray, groups: int, parameters: list[str]
    ) -> np.ndarray:
        units = self._units(h, 1, node)
        if groups < len(units):
            for group, members in enumerate(np.split(units, groups)):
                self._mark(members, "group", node.name, group)
        return self._per_unit(node, h, 1, parameters)

    def _pool(self, node: fx.Node, name: str, h: np.ndarray, out: Tensor) -> np.ndarray:
        dims = re.search(r"(\d)d$", name)
        if not isinstance(out, Tensor) or out.ndim != h.ndim or dims and h.ndim != int(dims[1]) + 2:
            told = "pooling that returns indices, or of features without an axis of images"
            raise UnsupportedOperation(_unknown(node, told))
        return self._spread(self._units(h, 1, node), 1, tuple(out.shape))

    def _pad(self, h: np.ndarray, padding: Any) -> np.ndarray:
        """Zero pixels are nobody's, zero channels are units of their own."""
        new = F.pad(_as_tensor(h), list(padding), value=ANY).numpy()
        if new.ndim > 1 and new.shape[1] > h.shape[1]:
            empty = (new == ANY).all(axis=tuple(a for a in range(new.ndim) if a != 1))
            index = np.flatnonzero(empty)
            new[:, index] = self._fresh(len(index)).reshape(1, -1, *[1] * (new.ndim - 2))
        return new

    def _binary(self, node: fx.Node, a: Any, b: Any, out: Tensor) -> np.ndarray:
        constants = [
            node.args[i] for i, value in enumerate((a, b)) if not isinstance(value, np.ndarray)
        ]
        if not constants:
            moving = self._moving_axes(a) | self._moving_axes(b) if a.ndim == b.ndim else set()
            # one value for all units, as a gate or a mean over them: it moves none of them
            for axis in moving:
                if a.shape[axis] == 1 < b.shape[axis]:
                    a = np.full(a.shape, ANY)
                if b.shape[axis] == 1 < a.shape[axis]:
                    b = np.full(b.shape, ANY)
            return self._unite(a, b)
        h, other = (a, b) if isinstance(a, np.ndarray) else (b, a)
        if not isinstance(other, Tensor) or other.numel() == 1:
            return h
        source = constants[0]
        name = str(source.target) if isinstance(source, fx.Node) and source.op == "get_attr" else ""
        if name not in self.canonical:
            raise UnsupportedOperation(_unknown(node, "a computed constant with an entry a unit"))
        h = np.broadcast_to(h, out.shape)
        for axis in self._moving_axes(h):
            own = axis - (h.ndim - other.ndim)
            if own >= 0 and other.shape[own] > 1:
                units = self._units(h, axis, node)
                self._write(name, own, units)
                h = np.where(h == ANY, self._spread(units, axis, h.shape), h)
        return h

    def _moving_axes(self, h: np.ndarray) -> set[int]:
        """Axes along which the units differ; constants aside."""
        (roots,) = _squashed(self._roots(h))
        high, low = roots, np.where(roots == ANY, np.iinfo(roots.dtype).max, roots)
        return {
            axis
            for axis in range(h.ndim)
            if roots.shape[axis] > 1 and bool((low.min(axis) < high.max(axis)).any())
        }

    def _reduce(self, node: fx.Node, h: np.ndarray, dims: Any, out: Tensor) -> np.ndarray:
        if dims is None or out.ndim == 0:
            raise UnsupportedOperation(_unknown(node, "a reduction over all axes, images included"))
        reduced = {d % h.ndim for d in ([dims] if isinstance(dims, int) else dims)}
        moving = self._moving_axes(h)
        self._refuse_parts(node, moving, reduced)
        if moving & reduced:
            return np.full(tuple(out.shape), FIXED)
        new = self._roots(h).max(tuple(reduced), keepdims=True)
        return new.reshape(tuple(out.shape))

    def _within(self, node: fx.Node, h: np.ndarray, dim: int | None) -> np.ndarray:
        moving = self._moving_axes(h)
        if dim is None:
            raise UnsupportedOperation(_unknown(node, "normalisation without an axis"))
        self._refuse_parts(node, moving, {dim % h.ndim})
        return h

    def _move(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """What moves entries moves their numbers."""

        def as_tensor(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return _as_tensor(value).contiguous()  # a view needs entries that really lie there
            if isinstance(value, Tensor):
                raise UnsupportedOperation(_unknown(node, "features joined with a constant"))
            if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
                moved = map(as_tensor, value)
                return tuple(moved) if isinstance(value, tuple) else list(moved)
            return value

        def as_numbers(value: Any) -> Any:
            return value.numpy() if isinstance(value, Tensor) else [as_numbers(v) for v in value]

        args = as_tensor(tuple(args))
        kwargs = {key: as_tensor(value) for key, value in kwargs.items()}
        target: Any = node.target
        if node.op == "call_method":
            return as_numbers(getattr(args[0], target)(*args[1:], **kwargs))
        return as_numbers(target(*args, **kwargs))

    # the result

    def result(self) -> Symmetry:
        where = self._where()
        marks: dict[int, list[tuple]] = defaultdict(list)
        for unit, tokens in self.tokens.items():
            marks[self._find(unit)] += tokens
        groups: dict[tuple, list[int]] = defaultdict(list)
        for unit, places in where.items():
            counts = tuple((use, len(positions)) for use, positions in places.items())
            groups[counts, tuple(sorted(marks[unit], key=str))].append(unit)
        aliases = self._aliases()
        sites, names = self._sites(), set[str]()
        found = []
        for members in groups.values():
            if len(members) == 1:
                continue  # nothing to put in another order
            self._check_movable([where[u] for u in members])
            uses = tuple(
                Use(
                    alias,
                    axis,
                    torch.tensor([where[u][name, axis, rows] for u in members]),
                    rows,
                    statistic=name not in self.parameters,
                    alias=alias != name,
                )
                for name, axis, rows in where[members[0]]
                for alias in (name, *aliases[name])
            )
            weights = [u for u in uses if u.axis == 0 and not u.alias]
            makers = [u for u in weights if self.tensors[u.parameter].ndim > 1]
            made = (makers or uses)[0].parameter
            name = base = made.rpartition(".")[0] or made
            count = 1
            while name in names:
                name = f"{base}#{(count := count + 1)}"
            names.add(name)
            own = [site for site in sites if all(u in site[1] for u in members)]
            where_read: Any = ()
            if own:
                site, positions, axis = own[0]
                where_read = (site, torch.tensor([positions[u] for u in members]), axis)
            found.append(Permutation(name, len(members), uses, *where_read))
        shapes = {name: tuple(value.shape) for name, value in self.tensors.items()}
        shapes |= {
            other: shapes[name] for name, others in self.second_names.items() for other in others
        }
        trained = [
            name
            for name, canonical in self.canonical.items()
            if name == canonical and name in self.parameters and name in self.stored
        ]
        return Symmetry(tuple(found), shapes, trained)

    def _where(self) -> dict[int, dict[tuple, list[int]]]:
        """Unit to use to positions."""
        where: dict[int, dict[tuple, list[int]]] = defaultdict(lambda: defaultdict(list))
        for (name, axis, rows), units in self.axes.items():
            for position, unit in enumerate(self._roots(units).tolist()):
                if unit != FIXED:
                    where[unit][name, axis, rows].append(position)
        return where

    def _aliases(self) -> dict[str, list[str]]:
        """First name of a tied parameter to its others."""
        aliases: dict[str, list[str]] = defaultdict(list)
        for name, canonical in self.canonical.items():
            if name != canonical:
                aliases[canonical].append(name)
        for name, others in self.second_names.items():
            aliases[self.canonical[name]] += others
        return aliases

    def _check_movable(self, uses: list[dict[tuple, list[int]]]) -> None:
        for (parameter, _, _), places in uses[0].items():
            if parameter not in self.stored:
                raise UnsupportedOperation(
                    f"{parameter!r}, a constant of the forward pass with an entry a unit, cannot be"
                    " moved with the units: it is in no state dict; register it as a buffer"
                )
            if len(places) > 1:
                self._refuse_crossed(parameter, uses)

    @staticmethod
    def _refuse_crossed(parameter: str, uses: list[dict[tuple, list[int]]]) -> None:
        """A unit with several entries along an axis has them at the same distances as every other:
        else, which belongs to which would be a guess."""
        for key in uses[0]:
            places = np.array([use[key] for use in uses])
            if (places - places[:, :1] != places[0] - places[0, 0]).any():
                raise UnsupportedOperation(
                    f"{parameter!r}: the entries of different hidden units along its axes do not"
                    " lie alike; such an order (a shuffle across copies, a flattened image that is"
                    " rolled) is not understood here"
                )

    def _sites(self) -> list[tuple[str, dict[int, int], int]]:
        """Sites whose units lie along one axis, with the position of each unit and that axis; the
        last first.
        """
        found = []
        for site in reversed(self.view.sites):
            numbers = self.numbers[site.node]
            follows = isinstance(numbers, np.ndarray) and numbers.ndim > 1
            moving = self._moving_axes(numbers) if follows else set()
            if len(moving) != 1 or 0 in moving:
                continue
            (axis,) = moving
            try:
                units = self._roots(self._units(numbers, axis, None))
            except UnsupportedOperation:
                continue
            places = {int(u): i for i, u in enumerate(units) if (units == u).sum() == 1}
            found.append((site.name, places, axis))
        return found


def _squashed(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays of one shape, cut to a single entry along every axis that all of them repeat."""
    repeated = [all(a.strides[axis] == 0 for a in arrays) for axis in range(arrays[0].ndim)]
    return [a[tuple(slice(0, 1) if r else slice(None) for r in repeated)] for a in arrays]


def _as_tensor(numbers: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # nothing here writes to it
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(numbers)


def _has_tensor(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        or isinstance(value, (tuple, list))
        and any(map(_has_tensor, value))
    )


def _told(node: fx.Node | None) -> str:
    return "a site" if node is None else f"node {node.name!r} ({node.target})"


def _unknown(node: fx.Node, what: str) -> str:
    return (
        f"{_told(node)}: {what} is not understood by the derivation of permutation symmetries; "
        "match the network without it, or compare with matching=None"
    )
