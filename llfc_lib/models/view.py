"""One view of any network: torch.fx gives its sites, its linear maps with what enters them, and
stitching.

The graph is a list of nodes in order of execution. A *site* is a node whose value we call f^(l):
the output of every activation function, and the logits. A *map* is a linear or convolutional layer
together with the node that enters it. Nothing here depends on whose network it is; our own only
give their sites the paper's names.
"""

import copy
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Hardswish,
)
ACTIVATION_FUNCTIONS = {
    F.relu,
    torch.relu,
    F.relu6,
    F.leaky_relu,
    F.elu,
    F.gelu,
    F.silu,
    torch.tanh,
    torch.sigmoid,
    F.hardswish,
}
ACTIVATION_METHODS = {"relu", "tanh", "sigmoid"}
RELU_FUNCTIONS = {F.relu, torch.relu}
MAP_MODULES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAP_FUNCTIONS = {F.linear, F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d}
IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    operator.isub: operator.sub,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
    F.relu_: F.relu,
}


class UntraceableError(TypeError):
    """torch.fx could not follow the network's forward pass."""


@dataclass(frozen=True)
class Site:
    """f^(l): ``node`` after the activation, ``pre`` before it (None for the logits of a network
    without one).

    ``cut``: all information passes through it, so that two networks can be stitched here.

    Source: f of layer l in Definition 2.
    """

    name: str
    node: str
    pre: str | None
    cut: bool
    relu: bool


@dataclass(frozen=True)
class LinearMap:
    """W^(l): the ``weight`` (a key of the state dict), the node that enters it, and the node it
    gives (bias included).

    ``first``: no other map comes before it, so that the same H enters it in every network.

    Source: W of layer l in Definition 4.
    """

    name: str
    weight: str
    input: str
    node: str
    first: bool
    apply: Callable[[Tensor, Tensor], Tensor]  # (weight, h) -> W h, without bias
    # the axis of h that counts its units: channels of a convolution, features of a linear map
    unit_axis: int


class View:
    """Sites, maps and stitching of ``module``, which is copied, put in evaluation mode and never
    changed.

    UntraceableError where torch.fx cannot follow the forward pass, with the operation and what to
    do.

    Source: stitching as in B.4.
    """

    def __init__(self, module: nn.Module) -> None:
        traced = _trace(module)
        self.nodes = list(traced.graph.nodes)
        self.module = _weights_of(traced)
        self._modules = dict(self.module.named_modules())
        nodes = self.nodes
        inputs = [n for n in nodes if n.op == "placeholder"]
        self.input = inputs[0].name
        self.output = nodes[-1].args[0].name
        self._rank = {n.name: i for i, n in enumerate(nodes)}
        self._live = self._depend_on_input(nodes)
        self._users: dict[str, int] = {}  # rank of the last node that reads it
        for n in nodes:
            for source in n.all_input_nodes:
                self._users[source.name] = self._rank[n.name]
        self.sites = self._find_sites(nodes, getattr(module, "paper_names", {}))
        self.maps = self._find_maps(nodes, getattr(module, "paper_maps", {}))

    # weights

    def state(self) -> dict[str, Tensor]:
        """The weights and buffers by name, not copied."""
        return dict(self.module.state_dict())

    def with_state(self, state: Mapping[str, Tensor]) -> "View":
        """The same network with other weights."""
        other = self._copy()
        other.module.load_state_dict(state)
        return other

    def to(self, *args: Any) -> "View":
        """As ``nn.Module.to``, on a copy."""
        other = self._copy()
        other.module.to(*args)
        return other

    def _copy(self) -> "View":
        """Weights of its own; nodes, sites and maps are shared, since nothing changes them."""
        other = copy.copy(self)
        other.module = copy_of(self.module)
        other._modules = dict(other.module.named_modules())
        return other

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Overwrite the weights of this view (the module it was made of keeps its own)."""
        self.module.load_state_dict(state)

    # running

    def site(self, name: str) -> Site:
        """The site of this name. ValueError, with the names that there are, for another."""
        for site in self.sites:
            if site.name == name:
                return site
        raise ValueError(f"unknown site {name!r}; this network has {[s.name for s in self.sites]}")

    def features(
        self, names: Collection[str] | None = None, pre: bool = False, raw: bool = False
    ) -> dict[str, str]:
        """Names of features and their nodes: the sites (all, or ``names``), with ``pre`` also
        "<site> (pre)" before the activation, with ``raw`` also "<map> (raw)", what a map gives
        before its normalisation."""
        found: dict[str, str] = {}
        for site in self.sites if names is None else [self.site(name) for name in names]:
            if pre and site.pre is not None:
                found[f"{site.name} (pre)"] = site.pre
            found[site.name] = site.node
        known = {node for site in self.sites for node in (site.node, site.pre)}
        if raw:
            found |= {f"{m.name} (raw)": m.node for m in self.maps if m.node not in known}
        return found

    @torch.no_grad()
    def run(self, x: Tensor, nodes: Collection[str]) -> dict[str, Tensor]:
        """The values of ``nodes`` (names) on the batch ``x``."""
        return self._execute({self.input: x}, -1, set(nodes))

    @torch.no_grad()
    def run_from(self, node: str, value: Tensor) -> Tensor:
        """The logits when ``node``, a cut site's or the input, has this value: the network's upper
        part.
        """
        if node == self.output:
            return value
        return self._execute({node: value}, self._rank[node], {self.output})[self.output]

    def __call__(self, x: Tensor) -> Tensor:
        return self.run(x, {self.output})[self.output]

    def _execute(
        self, values: dict[str, Tensor], after: int, wanted: set[str]
    ) -> dict[str, Tensor]:
        kept = {name: values[name] for name in wanted if name in values}
        last = max((self._rank[name] for name in wanted), default=-1)
        for rank, node in enumerate(self.nodes):
            if rank > last:
                break
            if node.op in ("placeholder", "output") or (rank <= after and node.name in self._live):
                continue
            value = self.evaluate(node, values)
            values[node.name] = value
            if node.name in wanted:
                kept[node.name] = value
            for name in self.last_read_by(node):
                values.pop(name, None)
        return kept

    def last_read_by(self, node: fx.Node) -> list[str]:
        """Values that nobody reads after this node: they can be let go."""
        return [
            source.name
            for source in node.all_input_nodes
            if self._users[source.name] == self._rank[node.name]
        ]

    def evaluate(self, node: fx.Node, values: Mapping[str, Any]) -> Any:
        """What one node gives, with this view's weights, when the nodes that it reads have these
        values.
        """
        args: Any = fx.node.map_arg(node.args, lambda n: values[n.name])
        kwargs: Any = fx.node.map_arg(node.kwargs, lambda n: values[n.name])
        target: Any = node.target
        if node.op == "call_module":
            return self._modules[target](*args, **kwargs)
        if node.op == "call_function":
            return target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return operator.attrgetter(target)(self.module)  # get_attr

    def layer(self, node: fx.Node) -> nn.Module | None:
        """The module that the node calls, if it calls one."""
        return self._modules.get(str(node.target)) if node.op == "call_module" else None

    def is_live(self, node: str) -> bool:
        """Whether its value depends on the input, and not on the weights alone."""
        return node in self._live

    # reading the graph

    def _depend_on_input(self, nodes: list[fx.Node]) -> set[str]:
        live = {self.input}
        for n in nodes:
            if any(source.name in live for source in n.all_input_nodes):
                live.add(n.name)
        return live

    def is_cut(self, node: str) -> bool:
        """No node after it reads one before it, constants aside."""
        rank = self._rank[node]
        return node in self._live and all(
            self._rank[source.name] >= rank or source.name not in self._live
            for n in self.nodes
            if self._rank[n.name] > rank
            for source in n.all_input_nodes
        )

    def _find_sites(self, nodes: list[fx.Node], names: Mapping[str, str]) -> list[Site]:
        sites = []
        seen: dict[str, int] = {}
        for n in nodes:
            module, target = self.layer(n), str(n.target)
            function = n.target if n.op == "call_function" else None
            method = target if n.op == "call_method" else None
            by_name = function in ACTIVATION_FUNCTIONS or method in ACTIVATION_METHODS
            if not (isinstance(module, ACTIVATIONS) or by_name):
                continue
            relu = isinstance(module, nn.ReLU) or function in RELU_FUNCTIONS or method == "relu"
            name = names.get(target, target) if n.op == "call_module" else n.name
            seen[name] = seen.get(name, 0) + 1
            name = name if seen[name] == 1 else f"{name}#{seen[name]}"
            sites.append(Site(name, n.name, n.all_input_nodes[0].name, self.is_cut(n.name), relu))
        if not sites or sites[-1].node != self.output:
            sites.append(Site("logits", self.output, None, True, False))
        return sites

    def _find_maps(self, nodes: list[fx.Node], names: Mapping[str, str]) -> list[LinearMap]:
        maps: list[LinearMap] = []
        behind: set[str] = set()  # nodes that a map's output has reached
        for n in nodes:
            if any(source.name in behind for source in n.all_input_nodes):
                behind.add(n.name)
            module = self.layer(n)
            used: Any = n.args[1] if n.op == "call_function" and n.target in MAP_FUNCTIONS else None
            if isinstance(module, MAP_MODULES):
                weight, name = f"{n.target}.weight", names.get(str(n.target), str(n.target))
                apply = _apply_module(module)
                linear = isinstance(module, nn.Linear)
            elif getattr(used, "op", "") == "get_attr":
                weight, name = str(used.target), n.name
                apply = _apply_function(n)
                linear = n.target is F.linear
            else:
                continue
            source = n.all_input_nodes[0].name
            count = sum(m.name.split("#")[0] == name for m in maps)
            name = f"{name}#{count + 1}" if count else name
            first, axis = source not in behind, -1 if linear else 1
            maps.append(LinearMap(name, weight, source, n.name, first, apply, axis))
            behind.add(n.name)
        return maps


def _apply_module(module: Any) -> Callable[[Tensor, Tensor], Tensor]:
    if isinstance(module, nn.Linear):
        return lambda weight, h: F.linear(h, weight)
    return lambda weight, h: module._conv_forward(h, weight, None)


def _apply_function(node: fx.Node) -> Callable[[Tensor, Tensor], Tensor]:
    rest: Any = node.args[3:]  # (input, weight, bias, *rest)
    target: Any = node.target
    kwargs = {k: v for k, v in node.kwargs.items() if k not in ("input", "weight", "bias")}
    return lambda weight, h: target(h, weight, None, *rest, **kwargs)


def _trace(module: nn.Module) -> fx.GraphModule:
    """The module's graph on a copy of its weights, with every in-place operation replaced.

    In place, a later operation would overwrite a value that a metric has kept.
    """
    try:
        graph = fx.symbolic_trace(copy_of(module).eval())
    # torch.fx raises what the network's own Python raised on a symbolic value
    except Exception as error:
        raise UntraceableError(
            f"torch.fx cannot follow the forward pass of {type(module).__name__}: {error}. Usual"
            " causes are branches or loops over values of a tensor; put such code in a function"
            " marked with torch.fx.wrap, or rewrite it"
        ) from error
    placeholders = [n for n in graph.graph.nodes if n.op == "placeholder"]
    required = [n for n in placeholders if not n.args]
    result = next(n for n in graph.graph.nodes if n.op == "output").args[0]
    if len(required) != 1 or not isinstance(result, fx.Node):
        raise UntraceableError(
            f"{type(module).__name__} must take one tensor and give one tensor "
            f"(it takes {len(required)}); wrap it in a module that does"
        )
    for n in placeholders[1:]:
        n.replace_all_uses_with(n.args[0]) if isinstance(n.args[0], fx.Node) else _fill_default(n)
        graph.graph.erase_node(n)
    rank = {n: i for i, n in enumerate(graph.graph.nodes)}
    for n in graph.graph.nodes:
        if _out_of_place(n, dict(graph.named_modules())):
            # what is read under the old name afterwards is, in place, the new value
            n.args[0].replace_all_uses_with(
                n, delete_user_cb=lambda user, n=n: rank[user] > rank[n]
            )
    for submodule in graph.modules():
        if getattr(submodule, "inplace", False):
            vars(submodule)["inplace"] = False
    graph.recompile()
    return graph


def _weights_of(traced: fx.GraphModule) -> nn.Module:
    """Its parameters, buffers and layers under their names, without the graph: copying that takes
    longer than running it.
    """
    plain = nn.Module()
    for name, parameter in traced._parameters.items():
        plain.register_parameter(name, parameter)
    for name, value in traced._buffers.items():
        plain.register_buffer(name, value, name not in traced._non_persistent_buffers_set)
    for name, layer in traced._modules.items():
        plain.add_module(name, layer)
    return plain.eval()


PLAIN = set(vars(nn.Module()))  # what every layer has: weights, layers, dictionaries of hooks


def copy_of(module: nn.Module) -> nn.Module:
    """A deep copy. Empty dictionaries of hooks are made anew: ``deepcopy`` takes longer over them
    than a small network runs.
    """
    empty = (
        value
        for layer in module.modules()
        for name, value in vars(layer).items()
        if name in PLAIN and isinstance(value, dict) and not value
    )
    return copy.deepcopy(module, {id(value): type(value)() for value in empty})


def _out_of_place(n: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Make the node's operation leave its input alone; whether it did not before."""
    before = (n.target, n.args, n.kwargs)
    if n.op == "call_module":
        return bool(getattr(modules[str(n.target)], "inplace", False))
    target: Any = n.target
    if n.op == "call_function":
        n.target = IN_PLACE.get(target, target)
        if n.target in ACTIVATION_FUNCTIONS and n.args[1:2] == (True,):  # F.relu(x, True)
            n.args = (n.args[0],)
    elif n.op == "call_method" and target.endswith("_") and not target.endswith("__"):
        n.target = target[:-1]
    if n.kwargs.get("inplace"):
        n.kwargs = {**n.kwargs, "inplace": False}
    return before != (n.target, n.args, n.kwargs)


def _fill_default(node: fx.Node) -> None:
    """An optional argument of forward takes its default."""
    for user in list(node.users):
        user.args = fx.node.map_arg(user.args, lambda n: node.args[0] if n is node else n)
        user.kwargs = fx.node.map_arg(user.kwargs, lambda n: node.args[0] if n is node else n)
