"""Where does LLFC break? An exact split of e = f_alpha - alpha f_A - (1 - alpha) f_B at every site
of any network.

Let F be what one node of the graph computes (F_A with A's weights, and so on), x what enters it,
and m = alpha x_A + (1 - alpha) x_B. Adding and subtracting F_alpha(m) gives

    e = [F_alpha(x_alpha) - F_alpha(m)]  +  [F_alpha(m) - alpha F_A(x_A) - (1 - alpha) F_B(x_B)].
         carried from below                  the node's own part

For a linear map the own part is the commutativity residual -alpha (1 - alpha) (W_A - W_B)(H_A -
H_B); for a ReLU it is 0 where A and B agree in sign and -min(alpha |z_A|, (1 - alpha) |z_B|) where
they do not; for max-pooling it is 0 where A and B have a maximiser in common. What is carried is
linear in e: W_alpha e for a map, a slope between 0 and 1 for a ReLU, a mean of two entries of e for
max-pooling. So each part can be followed upwards by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import jvp
from torch.nn import functional as F

from llfc_lib.metrics.measure import METRICS, Batch, Network, Pair, Sums, dot, ratio
from llfc_lib.metrics.rows import Row
from llfc_lib.models.view import RELU_FUNCTIONS, LinearMap, View
from llfc_lib.models.weights import check_alpha

#: What a node adds of its own, by the kind of node.
SOURCES = ("commutativity", "relu", "pooling", "normalisation", "other")
#: Of a site's residual: what came from the site before, past it (a residual sum's other branch),
#: and what was added since.
PARTS = ("carried", "skipped", *SOURCES)
NORMALISATIONS = (
    nn.modules.batchnorm._BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LocalResponseNorm,
)
POOLINGS = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
POOLING_FUNCTIONS = {
    F.max_pool1d,
    F.max_pool2d,
    F.max_pool3d,
    F.adaptive_max_pool1d,
    F.adaptive_max_pool2d,
    F.adaptive_max_pool3d,
}
NORMALISATION_FUNCTIONS = {F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm, F.normalize}
# units in the last place of the largest entry: own parts below that are rounding of a node without
ROUNDING = 64
Key = tuple[str, Any]  # ("since", "relu") | ("from", rank of a site) | ("origin", "relu")


@dataclass(frozen=True)
class Split:
    """A node's residual e (as observed, N x ...), its parts (they add up to e), and the same e by
    the kind of node where each piece first arose (``origins``, also adding up to e). ``mean`` is
    alpha f_A + (1 - alpha) f_B, ``difference`` f_A - f_B.
    """

    residual: Tensor
    parts: dict[str, Tensor]
    origins: dict[str, Tensor]
    mean: Tensor
    difference: Tensor

    def shares(self) -> dict[str, float]:
        """<part, e> / |e|^2 of every part: signed, and together 1."""
        e, whole = self.residual, float(dot(self.residual, self.residual))
        return {name: ratio(float(dot(part, e)), whole) for name, part in self.parts.items()}


@torch.no_grad()
def decompose(
    a: Network,
    b: Network,
    x: Tensor,
    alpha: float = 0.5,
    calibration: Sequence[Tensor] | None = None,
) -> dict[str, Split]:
    """:class:`Split` of every site for one batch ``x``. Running statistics are interpolated like
    weights, or those of all three networks recomputed on the batches ``calibration``.

    ValueError for networks of different architecture, alpha outside [0, 1], or an operation that
    gives several tensors.

    Source: 0 where Theorem 1 (A.2) holds.
    """
    pair = Pair(a, b, calibration=calibration)
    names = {site.node: site.name for site in pair.a.sites}
    return {
        names[step.node]: step.split()
        for step in walk(pair.a, pair.b, pair.between(check_alpha(alpha)), x, alpha)
        if step.site
    }


@dataclass
class Step:
    """One node under A, B and the network between, with the parts of its residual."""

    node: str
    a: Tensor
    b: Tensor
    between: Tensor
    mean: Tensor
    parts: dict[Key, Tensor]
    site: bool
    before: int = -1  # rank of the site before
    # by node: what A's and B's read
    entering: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def split(self) -> Split:
        """The parts by their names, as a site shows them."""
        parts: dict[str, Tensor] = {}
        for (kind, label), value in self.parts.items():
            if kind != "origin":
                from_below = "carried" if label == self.before else "skipped"
                name = label if kind == "since" else from_below
                parts[name] = parts[name] + value if name in parts else value
        origins = {label: value for (kind, label), value in self.parts.items() if kind == "origin"}
        return Split(self.between - self.mean, parts, origins, self.mean, self.a - self.b)


def walk(a: View, b: View, between: View, x: Tensor, alpha: float) -> Iterator[Step]:
    """All nodes in order, the three networks in step. A site's residual is carried on as one piece,
    its origins apart.

    ValueError for an operation that gives several tensors.
    """
    nets, sites = (a, b, between), {site.node for site in a.sites}
    maps = {m.node: m for m in a.maps}
    weights = between.state()
    values: tuple[dict, dict, dict] = ({a.input: x}, {a.input: x}, {a.input: x})
    parts: dict[str, dict[Key, Tensor]] = {a.input: {}}
    before = -1
    for rank, node in enumerate(a.nodes):
        if node.op in ("placeholder", "output"):
            continue
        found = [net.evaluate(node, known) for net, known in zip(nets, values)]
        sources = [s.name for s in node.all_input_nodes if s.name in parts]
        if sources and isinstance(found[0], Tensor):
            mixed = {name: torch.lerp(values[1][name], values[0][name], alpha) for name in sources}
            at_mean = between.evaluate(node, {**values[2], **mixed})
            mean = torch.lerp(found[1], found[0], alpha)
            kind = kind_of(a, node, maps)
            carried = _carry(
                between,
                node,
                values[2],
                mixed,
                at_mean,
                found[2],
                {name: parts[name] for name in sources},
                maps.get(node.name),
                weights,
            )
            own = at_mean - mean
            if not _carries_exactly(a, node, kind):
                # what the tangent at m misses is the node's own as well
                linear = [v for (what, _), v in carried.items() if what != "origin"]
                own = own + (found[2] - at_mean - sum(linear, torch.zeros_like(at_mean)))
            _add_own(carried, kind, own, at_mean)
            entering = {name: (values[0][name], values[1][name]) for name in sources}
            is_site, (f_a, f_b, f_between) = node.name in sites, found
            step = Step(node.name, f_a, f_b, f_between, mean, carried, is_site, before, entering)
            yield step
            if step.site:
                carried = {key: value for key, value in carried.items() if key[0] == "origin"} | {
                    ("from", rank): found[2] - mean
                }
                before = rank
            parts[node.name] = carried
        elif sources:
            _refuse_several(node, found[0])
        for known, value in zip(values, found):
            known[node.name] = value
        if node.name == a.output:
            return
        for name in a.last_read_by(node):
            parts.pop(name, None)
            for known in values:
                known.pop(name, None)


def _add_own(parts: dict[Key, Tensor], kind: str, own: Tensor, value: Tensor) -> None:
    """Add what a node adds of its own, if that is more than the rounding of its ``value``."""
    rounding = ROUNDING * torch.finfo(own.dtype).eps
    if own.numel() and float(own.abs().max()) > rounding * float(value.abs().max()):
        for key in (("since", kind), ("origin", kind)):
            parts[key] = parts[key] + own if key in parts else own


def _refuse_several(node: fx.Node, value: object) -> None:
    if isinstance(value, (tuple, list)) and any(isinstance(v, Tensor) for v in value):
        raise ValueError(
            f"{node.format_node()} gives several tensors; the decomposition follows one at a time"
        )


def kind_of(view: View, node: fx.Node, maps: Mapping[str, LinearMap]) -> str:
    """One of :data:`SOURCES`."""
    layer, function = view.layer(node), node.target if node.op == "call_function" else None
    if node.name in maps:
        return "commutativity"
    called = node.target if node.op == "call_method" else None
    if isinstance(layer, nn.ReLU) or function in RELU_FUNCTIONS or called == "relu":
        return "relu"
    if isinstance(layer, POOLINGS) or function in POOLING_FUNCTIONS:
        return "pooling"
    if isinstance(layer, NORMALISATIONS) or function in NORMALISATION_FUNCTIONS:
        return "normalisation"
    return "other"


def _carries_exactly(view: View, node: fx.Node, kind: str) -> bool:
    """Whether F_alpha(x_alpha) - F_alpha(m) is linear in e by construction: normalising by an
    image's own statistics, and what we do not know, is followed along a tangent."""
    layer = view.layer(node)
    return kind in ("commutativity", "relu") or isinstance(
        layer, (nn.MaxPool2d, nn.modules.batchnorm._BatchNorm)
    )


def _carry(
    view: View,
    node: fx.Node,
    values: Mapping[str, Any],
    mixed: Mapping[str, Tensor],
    at_mean: Tensor,
    now: Tensor,
    entering: Mapping[str, dict[Key, Tensor]],
    linear_map: LinearMap | None,
    weights: Mapping[str, Tensor],
) -> dict[Key, Tensor]:
    """Every part one node further: F_alpha(x_alpha) - F_alpha(m) as a linear operation on e =
    x_alpha - m.
    """
    keys = dict.fromkeys(key for parts in entering.values() for key in parts)
    if not keys:
        return {}
    if linear_map is not None:
        (parts,) = entering.values()
        return {key: linear_map.apply(weights[linear_map.weight], parts[key]) for key in keys}
    layer, kind = view.layer(node), kind_of(view, node, {})
    if kind == "relu":
        ((name, parts),) = entering.items()
        slope = relu_slope(values[name], mixed[name])
        return {key: slope * parts[key] for key in keys}
    if isinstance(layer, nn.MaxPool2d):
        ((name, parts),) = entering.items()
        return _carry_through_pooling(layer, values[name], mixed[name], parts)
    names = list(mixed)

    def apply(*tensors: Tensor) -> Tensor:
        return view.evaluate(node, {**values, **dict(zip(names, tensors))})

    point = tuple(mixed[name] for name in names)
    return {
        key: jvp(
            apply, point, tuple(entering[n].get(key, torch.zeros_like(m)) for n, m in mixed.items())
        )[1]
        for key in keys
    }


def relu_slope(z: Tensor, m: Tensor) -> Tensor:
    """The g in [0, 1] with relu(z) - relu(m) = g (z - m), entry by entry: 1 or 0 where both have
    one sign, else the share of the way from one to the other that lies above 0.
    """
    top, bottom = torch.maximum(z, m), torch.minimum(z, m)
    across = (top > 0) & (bottom < 0)
    return torch.where(across, top / torch.where(across, top - bottom, 1.0), (top > 0).to(z.dtype))


def relu_gap(z_a: Tensor, z_b: Tensor, alpha: float) -> Tensor:
    """relu(alpha z_A + (1 - alpha) z_B) - alpha relu(z_A) - (1 - alpha) relu(z_B): 0 where the
    signs agree, else
    -min(alpha |z_A|, (1 - alpha) |z_B|).

    Source: 0 where Definition 3 holds.
    """
    return torch.where(
        z_a * z_b < 0, -torch.minimum(alpha * z_a.abs(), (1 - alpha) * z_b.abs()), 0.0
    )


def _carry_through_pooling(
    layer: nn.MaxPool2d, z: Tensor, m: Tensor, parts: Mapping[Key, Tensor]
) -> dict[Key, Tensor]:
    """max z - max m lies between e at the maximiser of m and e at that of z: the same mean of the
    two for every part.
    """

    def pool(values: Tensor) -> tuple[Tensor, Tensor]:
        return F.max_pool2d(
            values,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.ceil_mode,
            return_indices=True,
        )

    def pick(values: Tensor, places: Tensor) -> Tensor:
        return values.flatten(2).gather(2, places.flatten(2)).view(places.shape)

    (high, at_z), (low, at_m) = pool(z), pool(m)
    first, second = pick(z - m, at_m), pick(z - m, at_z)
    apart = second - first
    t = torch.where(
        apart > 0, ((high - low - first) / torch.where(apart > 0, apart, 1.0)).clamp(0, 1), 0.0
    )
    return {
        key: torch.lerp(pick(value, at_m), pick(value, at_z), t) for key, value in parts.items()
    }


@METRICS.register("decomposition")
class Decomposition:
    """:func:`decompose` over a whole set, for :func:`llfc_lib.metrics.measure`.

    Per site and alpha: "e_over_m" = |e|^2 / |m|^2, "e_over_d" = |e|^2 / |f_A - f_B|^2, for every
    part "share_<part>" = <part, e> / |e|^2 (signed; they add up to 1) and "origin_<source>" =
    <origin, e> / |e|^2; "identity_error" = |sum of parts - e| / |m|. Definition 2 allows a factor:
    "c" is the best one of the set, <f_alpha, m> / |f_alpha|^2, "turned_over_d" = |c f_alpha - m|^2
    / |f_A - f_B|^2, and "turned_<part>" = <part, c f_alpha - m> / |c f_alpha - m|^2 (they add up to
    1). For a chain of linear maps and ReLUs "bound" = the bound on |e| over |e|. Per ReLU "flips",
    the share of units and images at which A and B differ in sign, "active", the share above 0,
    "flipped", the share of
    |dZ|^2 where the signs differ, and "passed" = |dH|^2 / |dZ|^2. Per map (site = its name; not the
    first) "moved" = |dH|^2 / |H|^2, H the mean of H_A and H_B; "fresh" = |dZ - W dH|^2 over that
    plus
    |W dH|^2, W the mean of W_A and W_B; "aligned" = |dW dH|^2 |H|^2 / (|dW H|^2 |dH|^2), which is 1
    for a dW in unrelated directions.

    Source: Definition 2, for residual and factor.
    """

    def __init__(self, alphas: tuple[float, ...] = (0.5,)) -> None:
        self.alphas = tuple(check_alpha(alpha) for alpha in alphas)

    def start(self, pair: Pair) -> None:
        self.pair = pair
        self.sums: dict[tuple, Sums] = {}
        self.names = {site.node: site.name for site in pair.a.sites}
        self.relus = {site.pre: site.name for site in pair.a.sites if site.relu}
        self.maps = {m.node: m for m in pair.a.maps if not m.first}
        self.bound = _is_chain(pair.a)
        self.norms: dict[tuple[float, str], Tensor] = {}

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        for alpha in self.alphas:
            between = self.pair.between(alpha)
            for step in walk(self.pair.a, self.pair.b, between, batch.x, alpha):
                if step.node in self.names:
                    self._site(step, alpha)
                if alpha != self.alphas[0]:
                    continue  # the rest does not depend on it
                if step.node in self.relus:
                    self._signs(step)
                if step.node in self.maps:
                    self._map(step)
            if self.bound and (alpha, self.pair.a.maps[0].name) not in self.norms:
                state = between.state()
                self.norms |= {
                    (alpha, m.name): torch.linalg.matrix_norm(state[m.weight].double(), 2)
                    for m in self.pair.a.maps
                }

    def _add(self, where: tuple, **values: Tensor) -> None:
        self.sums.setdefault(where, Sums()).add(**values)

    def _site(self, step: Step, alpha: float) -> None:
        split = step.split()
        e, total = split.residual, sum(split.parts.values(), torch.zeros_like(split.residual))
        sums = {
            "ee": dot(e, e),
            "mm": dot(split.mean, split.mean),
            "em": dot(e, split.mean),
            "dd": dot(split.difference, split.difference),
            "rr": dot(total - e, total - e),
        }
        for name, value in split.parts.items():
            sums |= {
                f"e {name}": dot(value, e),
                f"m {name}": dot(value, split.mean),
                f"size {name}": dot(value, value),
            }
        for name, value in split.origins.items():
            sums[f"origin {name}"] = dot(value, e)
        self._add(("site", self.names[step.node], alpha), **sums)

    def _signs(self, step: Step) -> None:
        flips, delta = (step.a * step.b < 0).to(step.a.dtype), step.a - step.b
        passed = torch.relu(step.a) - torch.relu(step.b)
        self._add(
            ("relu", self.relus[step.node]),
            flips=flips.double().sum(),
            n=torch.tensor(float(step.a.numel())),
            active=0.5 * ((step.a > 0).double().sum() + (step.b > 0).double().sum()),
            flipped=dot(delta * flips, delta),
            passed=dot(passed, passed),
            moved=dot(delta, delta),
        )

    def _map(self, step: Step) -> None:
        m = self.maps[step.node]
        w_a, w_b = (state[m.weight] for state in (self.pair.state_a, self.pair.state_b))
        h_a, h_b = step.entering[m.input]
        d_h, h = h_a - h_b, 0.5 * (h_a + h_b)
        carried = m.apply(0.5 * (w_a + w_b), d_h)
        crossed, fresh = m.apply(w_a - w_b, d_h), m.apply(w_a - w_b, h)
        rest = step.a - step.b - carried
        sums = {"dd": d_h, "hh": h, "cc": carried, "ff": rest, "xx": crossed, "ww": fresh}
        self._add(("map", m.name), **{name: dot(v, v) for name, v in sums.items()})

    def rows(self) -> list[Row]:
        rows = [row for where in self.sums for row in self._rows_of(where)]
        return rows + (self._bounds() if self.bound else [])

    def _rows_of(self, where: tuple) -> list[Row]:
        s, known = self.sums[where], self.sums[where].total
        if where[0] == "relu":
            return [
                Row(quantity, ratio(s[quantity], s[of]), site=where[1])
                for of, quantities in (("n", ("flips", "active")), ("moved", ("flipped", "passed")))
                for quantity in quantities
            ]
        if where[0] == "map":
            return [
                Row("moved", ratio(s["dd"], s["hh"]), site=where[1]),
                Row("fresh", ratio(s["ff"], s["ff"] + s["cc"]), site=where[1]),
                Row("aligned", ratio(s["xx"] * s["hh"], s["ww"] * s["dd"]), site=where[1]),
            ]
        at: Any = {"site": where[1], "alpha": where[2]}
        found = [
            Row("e_over_m", ratio(s["ee"], s["mm"]), **at),
            Row("e_over_d", ratio(s["ee"], s["dd"]), **at),
            Row("identity_error", ratio(s["rr"], s["mm"]) ** 0.5, **at),
        ]
        ff = s["mm"] + 2 * s["em"] + s["ee"]
        c = ratio(s["mm"] + s["em"], ff)
        turned = ratio(max(s["mm"] * s["ee"] - s["em"] ** 2, 0.0), ff)
        found += [Row("c", c, **at), Row("turned_over_d", ratio(turned, s["dd"]), **at)]
        for part in PARTS:
            if f"e {part}" in known:
                left = c * s[f"e {part}"] + (c - 1) * s[f"m {part}"]
                found += [
                    Row(f"share_{part}", ratio(s[f"e {part}"], s["ee"]), **at),
                    Row(f"turned_{part}", ratio(left, turned), **at),
                ]
        return found + [
            Row(f"origin_{name}", ratio(s[f"origin {name}"], s["ee"]), **at)
            for name in SOURCES
            if f"origin {name}" in known
        ]

    def _bounds(self) -> list[Row]:
        """|e^(l)| <= |W_alpha|_2 |e^(l-1)| + |commutativity part| + |ReLU's part|, from the first
        layer up (Frobenius norms).
        """
        rows = []
        for alpha in self.alphas:
            bound = 0.0
            for site, m in zip(self.pair.a.sites, self.pair.a.maps):
                s = self.sums["site", site.name, alpha]
                own = sum(s[f"size {part}"] ** 0.5 for part in SOURCES if f"size {part}" in s.total)
                bound = float(self.norms[alpha, m.name]) * bound + own
                rows.append(Row("bound", ratio(bound, s["ee"] ** 0.5), site=site.name, alpha=alpha))
        return rows


def _is_chain(view: View) -> bool:
    """Linear maps and ReLUs in turn, the logits after the last map, and nothing else that changes a
    value.
    """
    kinds = [
        kind_of(view, n, {m.node: m for m in view.maps})
        for n in view.nodes
        if view.is_live(n.name)
        and n.op not in ("placeholder", "output")
        and not isinstance(view.layer(n), (nn.Flatten, nn.Identity, nn.Dropout))
    ]
    return (
        len(view.sites) == len(view.maps)
        and all(m.unit_axis == -1 for m in view.maps)
        and kinds == (["commutativity", "relu"] * len(view.maps))[:-1]
    )
