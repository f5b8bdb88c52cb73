"""Derived permutations: exactly the expected ones, the same function in another order, and nothing
wrong goes unseen.
"""

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import same
from torch import nn
from torch.nn import Linear
from torch.nn import functional as F

from llfc_lib.data.torchvision import torchvision
from llfc_lib.matching import (
    Permutation,
    Symmetry,
    UnsupportedOperation,
    Use,
    check_symmetry,
    permuted,
    symmetry,
)
from llfc_lib.models import MLP, VGG16, ResNet20
from llfc_lib.models.view import View

# helpers


class Net(nn.Module):
    """Layers and parameters by name, and their forward pass as a function of (self, x)."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


def conv(inputs, outputs, size=3, **kwargs):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **kwargs)


def parameter(*shape):
    return nn.Parameter(torch.zeros(shape))


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def drawn(network, seed=0):
    """A copy in float64 and evaluation mode, every parameter and statistic drawn anew: no two
    entries are equal.
    """
    network, g = copy.deepcopy(network).double().eval(), torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.ndim > 1:
            bound = (6 / value[0].numel()) ** 0.5  # He's variance
            value.uniform_(-bound, bound, generator=g)
        elif value.is_floating_point():
            low, high = (0.5, 1.5) if name.endswith(("weight", "var")) else (-0.3, 0.3)
            value.uniform_(low, high, generator=g)
    return network


@torch.no_grad()
def moves(network, sym, x, seed=0):
    """max |f(pi(B)) - f(B)|, and the weights pi(B); no unit stays where it was."""
    state = sym.apply(network.state_dict(), sym.cycles("test", seed))
    other = copy.deepcopy(network)
    other.load_state_dict(state)
    return float((other(x) - network(x)).abs().max()), state


def told(sym):
    """name -> size and "parameter:axis" of every use, sorted: "[2-4]" after it are the rows, "x9"
    how many positions a unit owns.
    """

    def one(use):
        rows = f"[{use.rows[0]}-{use.rows[1] - 1}]" if use.rows else ""
        each = use.positions.shape[1]
        return f"{use.parameter}:{use.axis}{rows}{f'x{each}' if each > 1 else ''}"

    return {p.name: sorted([str(p.size), *map(one, p.uses)]) for p in sym}


def pairs(permutation):
    return {(u.parameter, u.axis) for u in permutation.uses}


def uses_of(sym):
    return [u for p in sym for u in p.uses]


def use_of(sym, parameter, axis):
    return next(u for u in uses_of(sym) if (u.parameter, u.axis) == (parameter, axis))


def without(sym, unwanted):
    """The symmetry without the uses that ``unwanted`` says."""
    kept = (replace(p, uses=tuple(u for u in p.uses if not unwanted(u))) for p in sym)
    return Symmetry(tuple(kept), sym.shapes)


def with_use(sym, use, **fields):
    """The symmetry with this use changed."""
    changed = replace(use, **fields)
    new = (replace(p, uses=tuple(changed if u is use else u for u in p.uses)) for p in sym)
    return Symmetry(tuple(new), sym.shapes)


# whole networks


def small_convnext(tv):
    config = tv.models.convnext.CNBlockConfig
    return tv.models.ConvNeXt([config(8, 12, 2), config(12, None, 1)], num_classes=10)


def small_efficientnet(tv):
    config = tv.models.efficientnet.MBConvConfig
    blocks = [config(1, 3, 1, 8, 8, 1), config(4, 3, 2, 8, 12, 2), config(4, 5, 1, 12, 16, 2)]
    return tv.models.EfficientNet(blocks, 0.2, num_classes=10, last_channel=20)


def small_regnet(tv):
    params = tv.models.regnet.BlockParams.from_init_params(
        depth=4, w_0=8, w_a=8.0, w_m=2.0, group_width=4, se_ratio=0.25
    )
    return tv.models.RegNet(params, num_classes=10, stem_width=8)


SMALL, RGB = (3, 16, 16), (3, 32, 32)
VGG = [4] * 2 + [8] * 2 + [16] * 3 + [32] * 6
SQUEEZE = [16] * 2 + [32] * 2 + [48] * 2 + [64] * 7 + [128] * 4 + [192] * 4 + [256] * 4
NETWORKS = {  # the network, its images, the sizes of its permutations
    "mlp": (lambda tv: MLP(48, 9), (3, 4, 4), [9] * 3),
    "vgg16": (lambda tv: VGG16(width=4), SMALL, VGG + [256] * 2),
    "vgg16 linear": (lambda tv: VGG16(width=4, linear_classifier=True), SMALL, VGG),
    "resnet20 A": (lambda tv: ResNet20(width=4), SMALL, [4] * 5 + [8] * 4 + [16] * 3),
    "resnet20 B": (
        lambda tv: ResNet20(width=4, shortcut="B"),
        SMALL,
        [4] * 4 + [8] * 4 + [16] * 4,
    ),
    "resnet18": (
        lambda tv: tv.models.resnet18(num_classes=10),
        RGB,
        [64] * 3 + [128] * 3 + [256] * 3 + [512] * 3,
    ),
    "squeezenet1_1": (lambda tv: tv.models.squeezenet1_1(num_classes=10), RGB, SQUEEZE),
    "densenet": (
        lambda tv: tv.models.DenseNet(4, (2, 2), 8, 2, num_classes=10),
        RGB,
        [4] * 4 + [8] * 6,
    ),
    "convnext": (small_convnext, RGB, [8, 12, 32, 32, 48]),
    "efficientnet": (small_efficientnet, RGB, None),
    "regnet": (small_regnet, RGB, None),
    "shufflenet": (
        lambda tv: tv.models.ShuffleNetV2([1, 2, 1], [8, 8, 12, 16, 20], num_classes=10),
        RGB,
        None,
    ),
}


@pytest.fixture(scope="module")
def networks():
    """name -> (network with drawn weights, derived symmetry, two images); each is made once."""
    made = {}

    def get(name):
        if name not in made:
            make, shape, _ = NETWORKS[name]
            network, x = drawn(make(torchvision())), numbers(2, *shape)
            made[name] = network, symmetry(network, x), x
        return made[name]

    return get


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_keep_their_function(networks, name):
    network, sym, x = networks(name)
    before = copy.deepcopy(network.state_dict())
    error, state = moves(network, sym, x)
    assert error < 1e-10
    used = {u.parameter for u in uses_of(sym)}
    assert {key for key, value in state.items() if not torch.equal(value, before[key])} == used
    assert check_symmetry(network, sym, x[:1], randomise=True) < 1e-10
    assert same(network.state_dict(), before)  # B itself is left alone
    if NETWORKS[name][2] is not None:
        assert sorted(p.size for p in sym) == NETWORKS[name][2]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_hidden_layer_is_permuted_and_neither_input_nor_logits_are(networks, name):
    network, sym, _ = networks(name)
    layers = [
        f"{key}.weight"
        for key, layer in network.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    used = {pair for p in sym for pair in pairs(p)}
    fixed = {(layers[0], 1), (layers[-1], 0), (layers[-1].replace("weight", "bias"), 0)}
    assert not used & fixed
    depthwise = {(key, 1) for key in layers if sym.shapes[key][1] == 1}
    assert {(key, axis) for key in layers for axis in (0, 1)} - fixed - depthwise <= used
    # a normalisation moves whole, and its statistics with it
    vectors = {key for key, value in network.state_dict().items() if value.ndim == 1}
    assert not vectors - {key for key, _ in used | fixed}


def test_mlp_has_three_permutations_of_three_pairs_each(networks):
    _, sym, _ = networks("mlp")
    assert told(sym) == {
        f"fc{i}": ["9", f"fc{i}.bias:0", f"fc{i}.weight:0", f"fc{i + 1}.weight:1"]
        for i in (1, 2, 3)
    }
    assert all(torch.equal(u.positions, torch.arange(9)[:, None]) for u in uses_of(sym))


def norm(name):
    return {(f"{name}.{n}", 0) for n in ("weight", "bias", "running_mean", "running_var")}


def test_vgg_moves_a_layer_with_its_normalisation_and_the_next_layers_inputs(networks):
    _, sym, _ = networks("vgg16")
    counts = enumerate((2, 2, 3, 3, 3), 1)
    layers = [f"features.conv{g}_{n}" for g, count in counts for n in range(1, count + 1)]
    layers += ["classifier.fc1", "classifier.fc2", "classifier.fc3"]
    assert [p.name for p in sym] == layers[:-1]
    for layer, following in zip(layers, layers[1:]):
        expected = {(f"{layer}.weight", 0), (f"{layer}.bias", 0), (f"{following}.weight", 1)}
        if "conv" in layer:
            expected |= norm(layer.replace("conv", "bn"))
        assert pairs(sym[layer]) == expected


def test_resnet20_with_projections_has_the_permutations_of_ainsworth_et_al(networks):
    """Their resnet20_permutation_spec, written down again: one permutation a stage, one inside each
    block.
    """
    _, sym, _ = networks("resnet20 B")
    spec = defaultdict(set)

    def layer(name, inputs, outputs):
        spec[inputs].add((f"{name}.weight", 1))
        spec[outputs].add((f"{name}.weight", 0))

    layer("conv", "images", "stage 1")
    spec["stage 1"] |= norm("bn")
    for stage in (1, 2, 3):
        for number in (1, 2, 3):
            block, outputs = f"block{stage}_{number}", f"stage {stage}"
            inputs = f"stage {stage - 1}" if stage > 1 and number == 1 else outputs
            layer(f"{block}.conv1", inputs, block)
            layer(f"{block}.conv2", block, outputs)
            spec[block] |= norm(f"{block}.bn1")
            spec[outputs] |= norm(f"{block}.bn2")
            if inputs != outputs:
                layer(f"{block}.shortcut.0", inputs, outputs)
                spec[outputs] |= norm(f"{block}.shortcut.1")
    layer("fc", "stage 3", "logits")
    del spec["images"], spec["logits"]
    assert sorted(map(sorted, map(pairs, sym))) == sorted(map(sorted, spec.values()))


def test_padded_channels_of_resnet20_have_permutations_of_their_own(networks):
    _, sym, _ = networks("resnet20 A")
    last = {p.name: u for p in sym for u in p.uses if u.parameter == "fc.weight"}
    # two zero channels before the four of stage 1 and two behind, then four before and four behind
    # these eight
    assert {name: u.positions[:, 0].tolist() for name, u in last.items()} == {
        "conv": [6, 7, 8, 9],
        "block2_1.conv2": [4, 5, 10, 11],
        "block3_1.conv2": [*range(4), *range(12, 16)],
    }
    assert use_of(sym, "block2_2.conv1.weight", 1).positions[:, 0].tolist() == [2, 3, 4, 5]
    assert pairs(sym["conv"]) >= pairs(sym["block2_1.conv2"]) >= pairs(sym["block3_1.conv2"])
    assert [len(p.uses) for p in sym if p.name not in last] == [6] * 9


@pytest.mark.parametrize("name", ["vgg16", "resnet20 A", "resnet18"])
def test_running_statistics_are_uses_that_do_not_count(networks, name):
    network, sym, _ = networks(name)
    trained = {key for key, _ in network.named_parameters()}
    moved = {u.parameter: u.statistic for u in uses_of(sym)}
    assert moved == {key: key not in trained for key in moved}
    assert any(moved.values()) and set(sym.trained) == trained


@torch.no_grad()
@pytest.mark.parametrize("name", [*list(NETWORKS)[:5], "densenet"])
def test_features_of_a_permuted_network_lie_in_the_new_order(networks, name):
    network, sym, x = networks(name)
    view, orders = View(network), sym.cycles("test")
    other = view.with_state(sym.apply(network.state_dict(), orders))
    for p in sym:
        node = view.site(p.site).node
        before, after = (v.run(x, {node})[node].index_select(1, p.positions) for v in (view, other))
        assert (after - before[:, orders[p.name]]).abs().max() < 1e-10
        assert (after - before).abs().max() > 1e-6
    if name == "mlp":
        assert [p.site for p in sym] == ["FC 1", "FC 2", "FC 3"]
    if name.startswith("resnet20"):
        assert sym["block2_3.conv1"].site == "Block 2-3 inner"
        assert sym["block3_1.conv2"].site == "Block 3-3"  # a stream is read at its end


def test_only_the_shape_of_the_image_matters(networks):
    network, sym, x = networks("resnet20 A")
    for other in (
        symmetry(View(network), x[:1]),
        symmetry(network, torch.zeros(3, *x.shape[1:])),
        symmetry(copy.deepcopy(network).float().to("meta"), torch.empty(1, *x.shape[1:])),
        symmetry(copy.deepcopy(network).train(), x),
    ):
        assert told(other) == told(sym)


def test_the_table_names_permutations_sizes_and_parameters(networks):
    _, sym, _ = networks("resnet20 A")
    text = str(sym)
    assert all(word in text for p in sym for word in (p.name, str(p.size), p.uses[0].parameter))


# one operation each

IMAGE, VECTOR, TOKENS = (3, 6, 6), (5,), (7, 5)
A = "8 a.weight:0 a.bias:0 "  # eight units of layer a, and where they go
NORM = "n.weight:0 n.bias:0 "
STATISTICS = "n.running_mean:0 n.running_var:0 "
SE = {
    "a": A + "b.weight:1 c.weight:0 c.bias:0 fc.weight:1",
    "b": "3 b.weight:0 b.bias:0 c.weight:1",
}
B = {"a": A + "b.weight:1", "b": "6 b.weight:0 b.bias:0 fc.weight:1"}
PADDED = {"a": A + "b.weight:0 b.bias:0 fc.weight:1", "b": "5 b.weight:0 b.bias:0 fc.weight:1"}
SHUFFLED = {
    "a": "4 a.weight:0 a.bias:0 b.weight:1[0-1]",
    "a#2": "4 a.weight:0 a.bias:0 b.weight:1[2-3]",
    "b": "2 b.weight:0 b.bias:0 fc.weight:1",
    "b#2": "2 b.weight:0 b.bias:0 fc.weight:1",
}


class Case(NamedTuple):
    """An image's shape, a network, and its permutations as ``told`` tells them."""

    shape: tuple[int, ...]
    network: nn.Module
    uses: dict[str, list[str]]


def alone(shape, run, uses=None, **parts):
    return Case(shape, Net(run, **parts), {k: sorted(v.split()) for k, v in (uses or {}).items()})


def followed(shape: tuple[int, ...], first: Callable[[], nn.Module], end: Callable) -> Callable:
    """Makes cases: eight units of layer ``a``, which ``run`` does something with, and a linear
    layer ``fc`` that reads what ``end`` makes of it. ``uses`` are those of the eight units besides
    their own in ``a`` and ``fc``, or all of them in a dictionary.
    """

    def make(run, uses="", **parts):
        parts = {"a": first()} | parts
        trunk = Net(lambda s, x: end(run(s, x)), **parts).eval()
        units = trunk(torch.zeros(2, *shape)).shape[1]
        if isinstance(uses, str):
            uses = {"a": A + uses + ("" if "fc." in uses else " fc.weight:1")}
        parts["fc"] = Linear(units, 4)
        return alone(shape, lambda s, x: s.fc(end(run(s, x))), uses, **parts)

    return make


image = followed(IMAGE, lambda: conv(3, 8), lambda h: h.mean((2, 3)))
flat = followed(IMAGE, lambda: conv(3, 8), lambda h: h)  # fc reads every pixel
vector = followed(VECTOR, lambda: Linear(5, 8), lambda h: h)
tokens = followed(TOKENS, lambda: Linear(5, 8), lambda h: h.mean(1))


def sharing(first, second):
    second.weight = first.weight
    return {"b": first, "c": second}


CASES = {
    "linear": vector(lambda s, x: s.a(x).relu()),
    "linear of tokens": tokens(lambda s, x: s.b(s.a(x).relu()), B, b=Linear(8, 6)),
    "conv": image(lambda s, x: s.b(s.a(x).relu()).relu(), B, b=conv(8, 6)),
    "conv1d": alone(
        (3, 9),
        lambda s, x: s.fc(s.a(x).relu().mean(2)),
        {"a": A + "fc.weight:1"},
        a=nn.Conv1d(3, 8, 3),
        fc=Linear(8, 4),
    ),
    # a group has inputs and outputs of its own, and those of one never meet those of the other
    "grouped conv": image(
        lambda s, x: s.b(s.a(x).relu()).relu(),
        b=conv(8, 6, groups=2),
        uses={
            "a": "4 a.weight:0 a.bias:0 b.weight:1[0-2]",
            "a#2": "4 a.weight:0 a.bias:0 b.weight:1[3-5]",
            "b": "3 b.weight:0 b.bias:0 fc.weight:1",
            "b#2": "3 b.weight:0 b.bias:0 fc.weight:1",
        },
    ),
    # the first unit of c is in the group of those of a, alone
    "grouped conv over two layers": image(
        lambda s, x: s.b(torch.cat((s.a(x), s.c(x)), 1)).relu(),
        a=conv(3, 3),
        c=conv(3, 5),
        b=conv(8, 8, groups=2),
        uses={
            "a": "3 a.weight:0 a.bias:0 b.weight:1[0-3]",
            "c": "4 c.weight:0 c.bias:0 b.weight:1[4-7]",
            "b": "4 b.weight:0 b.bias:0 fc.weight:1",
            "b#2": "4 b.weight:0 b.bias:0 fc.weight:1",
        },
    ),
    "depthwise conv with multiplier": image(
        lambda s, x: s.b(s.a(x).relu()).relu(),
        "b.weight:0x3 b.bias:0x3 fc.weight:1x3",
        b=conv(8, 24, groups=8),
    ),
    "batch norm": image(lambda s, x: s.n(s.a(x)).relu(), NORM + STATISTICS, n=nn.BatchNorm2d(8)),
    "layer norm of tokens": tokens(lambda s, x: s.n(s.a(x)).relu(), NORM, n=nn.LayerNorm(8)),
    "layer norm of all tokens": tokens(
        lambda s, x: s.n(s.a(x)).relu(), "n.weight:1 n.bias:1", n=nn.LayerNorm((7, 8))
    ),
    "layer norm channels last": image(
        lambda s, x: s.n(s.a(x).permute(0, 2, 3, 1)).relu().permute(0, 3, 1, 2),
        NORM,
        n=nn.LayerNorm(8),
    ),
    "layer norm of images": image(lambda s, x: s.n(s.a(x)).relu(), NORM, n=nn.LayerNorm((8, 6, 6))),
    "layer norm of pixels": image(
        lambda s, x: s.n(s.a(x)).relu(),
        {"a": "8 a.weight:0 fc.weight:1"},
        a=conv(3, 8, bias=False),
        n=nn.LayerNorm((6, 6)),
    ),
    "group norm, one group": image(lambda s, x: s.n(s.a(x)).relu(), NORM, n=nn.GroupNorm(1, 8)),
    "group norm": image(
        lambda s, x: s.n(s.a(x)).relu(),
        n=nn.GroupNorm(2, 8),
        uses={name: "4 a.weight:0 a.bias:0 " + NORM + "fc.weight:1" for name in ("a", "a#2")},
    ),
    "group norm of single channels": image(
        lambda s, x: s.n(s.a(x)).relu(),
        {"a": "8 a.weight:0 " + NORM + "fc.weight:1"},
        a=conv(3, 8, bias=False),
        n=nn.GroupNorm(8, 8),
    ),
    "instance norm": image(
        lambda s, x: s.n(s.a(x)).relu(),
        {"a": "8 a.weight:0 " + NORM + "fc.weight:1"},
        a=conv(3, 8, bias=False),
        n=nn.InstanceNorm2d(8, affine=True),
    ),
    "PReLU": image(lambda s, x: s.p(s.a(x)), "p.weight:0", p=nn.PReLU(8)),
    "PReLU with one slope": image(lambda s, x: s.p(s.a(x)), p=nn.PReLU()),
    "flatten": flat(lambda s, x: s.a(x).relu().flatten(1), "fc.weight:1x36"),
    "flatten by view": flat(lambda s, x: s.a(x).relu().view(x.size(0), -1), "fc.weight:1x36"),
    "flatten channels last": flat(
        lambda s, x: s.a(x).relu().permute(0, 2, 3, 1).flatten(1), "fc.weight:1x36"
    ),
    # ten pixels of the first unit and 26 of the second go one way, as nobody else's do, and the
    # others another
    "flatten, then parted": flat(
        lambda s, x: torch.cat(
            (
                s.b(torch.cat(((h := s.a(x).flatten(1))[:, :10], h[:, 36:62]), 1)),
                s.c(torch.cat((h[:, 10:36], h[:, 62:]), 1)),
            ),
            1,
        ),
        b=Linear(36, 4),
        c=Linear(252, 4),
        uses={
            "a": "6 a.weight:0 a.bias:0 c.weight:1x36",
            "b": "4 b.weight:0 b.bias:0 fc.weight:1",
            "c": "4 c.weight:0 c.bias:0 fc.weight:1",
        },
    ),
    "batch norm behind flatten": flat(
        lambda s, x: s.n(s.f(s.a(x))).relu(),
        "n.weight:0x36 n.bias:0x36 n.running_mean:0x36 n.running_var:0x36 fc.weight:1x36",
        f=nn.Flatten(),
        n=nn.BatchNorm1d(288),
    ),
    "residual block": vector(
        lambda s, x: s.c(s.b(h := s.a(x).relu()).relu()) + h,
        b=Linear(8, 6),
        c=Linear(6, 8),
        uses={
            "a": A + "b.weight:1 c.weight:0 c.bias:0 fc.weight:1",
            "b": "6 b.weight:0 b.bias:0 c.weight:1",
        },
    ),
    "branches that multiply and subtract": vector(
        lambda s, x: s.a(x) * s.b(x) - s.c(x) / (2 + torch.sigmoid(s.d(x))),
        "b.weight:0 b.bias:0 c.weight:0 c.bias:0 d.weight:0 d.bias:0",
        **{name: Linear(5, 8) for name in "bcd"},
    ),
    "sum() of branches": vector(
        lambda s, x: sum([s.a(x).relu(), s.b(x).relu()]), "b.weight:0 b.bias:0", b=Linear(5, 8)
    ),
    "concatenation": image(
        lambda s, x: torch.cat((h := torch.cat((x, s.a(x).relu()), 1), s.b(h).relu()), 1),
        b=conv(11, 6),
        uses={"a": A + "b.weight:1 fc.weight:1", "b": "6 b.weight:0 b.bias:0 fc.weight:1"},
    ),
    "concatenation with itself": vector(
        lambda s, x: torch.cat((h := s.a(x), -h), 1).relu(), "fc.weight:1x2"
    ),
    "zero channels": image(
        lambda s, x: (F.pad(s.a(x).relu(), (0, 0, 0, 0, 2, 3)) + s.b(x)).relu(),
        PADDED,
        b=conv(3, 13),
    ),
    "zero features": vector(
        lambda s, x: (F.pad(s.a(x).relu(), (2, 3)) + s.b(x)).relu(), PADDED, b=Linear(5, 13)
    ),
    # the weights of pixels that are always 0 may stay
    "zero pixels": flat(
        lambda s, x: s.p(s.a(x).relu()).flatten(1), "fc.weight:1x36", p=nn.ZeroPad2d(1)
    ),
    "squeeze and excite": image(
        lambda s, x: (
            (h := s.a(x).relu()) * torch.sigmoid(s.c(s.b(h.mean((2, 3))).relu())).view(-1, 8, 1, 1)
        ),
        SE,
        b=Linear(8, 3),
        c=Linear(3, 8),
    ),
    "mean over units, times features": image(
        lambda s, x: (h := s.a(x).relu()) * h.mean(1, keepdim=True) + h.amax(1, True)
    ),
    "mean over units less features": image(
        lambda s, x: (h := s.a(x).relu()).mean(1, keepdim=True) - h
    ),
    "divided by their length": vector(lambda s, x: F.normalize(s.a(x)) + torch.softmax(s.a(x), 1)),
    "softmax and length of halves": vector(
        lambda s, x: torch.cat((s.m((h := s.a(x))[:, :4]), F.normalize(h[:, 4:6]), h[:, 6:]), 1),
        m=nn.Softmax(1),
        uses={
            name: f"{n} a.weight:0 a.bias:0 fc.weight:1"
            for name, n in (("a", 4), ("a#2", 2), ("a#3", 2))
        },
    ),
    "mean, deviation and sum over pixels": image(
        lambda s, x: torch.cat(
            (
                (h := s.a(x).relu()).mean(-1, True).mean(-2, True),
                h.std((2, 3), keepdim=True),
                h.sum(dim=(2, 3), keepdim=True),
            ),
            1,
        ),
        "fc.weight:1x3",
    ),
    "the image's mean added": image(lambda s, x: (s.a(x) + x.mean(1, keepdim=True)).relu()),
    "chunks that gate": vector(
        lambda s, x: torch.tanh((h := s.a(x).chunk(2, 1))[0]) * torch.sigmoid(h[1]),
        {"a": "4 a.weight:0x2 a.bias:0x2 fc.weight:1"},
    ),
    "chunks to different layers": vector(
        lambda s, x: torch.cat((s.b((h := s.a(x).relu().split([5, 3], 1))[0]), h[1]), 1),
        b=Linear(5, 2),
        uses={
            "a": "5 a.weight:0 a.bias:0 b.weight:1",
            "a#2": "3 a.weight:0 a.bias:0 fc.weight:1",
            "b": "2 b.weight:0 b.bias:0 fc.weight:1",
        },
    ),
    "channel shuffle": image(
        lambda s, x: s.b(s.m(s.a(x))).relu(),
        SHUFFLED,
        b=conv(8, 4, groups=2),
        m=nn.ChannelShuffle(4),
    ),
    "channel shuffle by hand": image(
        lambda s, x: s.b(s.a(x).view(-1, 2, 4, 6, 6).transpose(1, 2).flatten(1, 2)).relu(),
        SHUFFLED,
        b=conv(8, 4, groups=2),
    ),
    "space to depth": image(
        lambda s, x: s.b(s.m(s.a(x).relu())).relu(),
        m=nn.PixelUnshuffle(2),
        b=conv(32, 6),
        uses={"a": A + "b.weight:1x4", "b": "6 b.weight:0 b.bias:0 fc.weight:1"},
    ),
    "scale (C, 1, 1)": image(lambda s, x: (s.a(x) * s.g).relu(), "g:0", g=parameter(8, 1, 1)),
    "scale (1, C, 1, 1)": image(lambda s, x: (s.g * s.a(x)).relu(), "g:1", g=parameter(1, 8, 1, 1)),
    "scale of features": vector(
        lambda s, x: (s.a(x) * s.g + s.h).relu(), "g:0", g=parameter(8), h=parameter(1)
    ),
    "scale of pixels": image(lambda s, x: (s.a(x) * s.g).relu(), g=parameter(6, 6)),
    "positions of tokens": tokens(lambda s, x: (s.a(x) + s.g).relu(), "g:2", g=parameter(1, 7, 8)),
    "mask that is not trained": vector(
        lambda s, x: (s.a(x) * s.mask).relu(), "mask:0", mask=nn.Buffer(torch.zeros(8))
    ),
    "functions": alone(
        IMAGE,
        lambda s, x: F.linear(
            F.relu(
                F.batch_norm(F.conv2d(x, s.w, s.b, padding=1), s.m, s.var, s.nw, bias=s.nb)
            ).mean((2, 3)),
            s.v,
        ),
        {"w": "8 w:0 b:0 m:0 var:0 nw:0 nb:0 v:1"},
        w=parameter(8, 3, 3, 3),
        v=parameter(4, 8),
        **{name: parameter(8) for name in ("b", "m", "var", "nw", "nb")},
    ),
    "normalisations as functions": image(
        lambda s, x: F.layer_norm(F.group_norm(s.a(x), 2, s.w, s.b), (8, 6, 6), weight=s.v).relu(),
        w=parameter(8),
        b=parameter(8),
        v=parameter(8, 6, 6),
        uses={name: "4 a.weight:0 a.bias:0 w:0 b:0 v:0 fc.weight:1" for name in ("a", "a#2")},
    ),
    "grouped conv as a function": image(
        lambda s, x: F.conv2d(F.conv2d(s.a(x), s.w, None, 1, 1, 1, 2), s.v, groups=8).relu(),
        w=parameter(8, 4, 3, 3),
        v=parameter(8, 1, 3, 3),
        uses={
            "a": "4 a.weight:0 a.bias:0 w:1[0-3]",
            "a#2": "4 a.weight:0 a.bias:0 w:1[4-7]",
            "w": "4 w:0 v:0 fc.weight:1",
            "w#2": "4 w:0 v:0 fc.weight:1",
        },
    ),
    "scaled logits": alone(
        VECTOR,
        lambda s, x: s.l(F.log_softmax(s.b(s.a(x).relu()) * s.g, 1)),
        {"a": A + "b.weight:1"},
        a=Linear(5, 8),
        b=Linear(8, 4),
        g=parameter(4),
        l=nn.LogSoftmax(1),
    ),
    "one layer twice": vector(
        lambda s, x: s.b(s.b(s.a(x).relu()).relu()).relu(),
        "b.weight:1 b.weight:0 b.bias:0",
        b=Linear(8, 8),
    ),
    "one grouped conv twice": image(
        lambda s, x: s.b(s.b(s.a(x).relu()).relu()),
        b=conv(8, 8, groups=2),
        uses={
            "a": "4 a.weight:0 a.bias:0 b.weight:1[0-3] b.weight:0 b.bias:0 fc.weight:1",
            "a#2": "4 a.weight:0 a.bias:0 b.weight:1[4-7] b.weight:0 b.bias:0 fc.weight:1",
        },
    ),
    "a parameter of two layers": vector(
        lambda s, x: s.c(s.b(s.a(x).relu()).relu()).relu(),
        "b.weight:1 c.weight:1 b.weight:0 c.weight:0 b.bias:0 c.bias:0",
        **sharing(Linear(8, 8), Linear(8, 8)),
    ),
    "a bias that also scales": vector(lambda s, x: s.a(x).relu() * s.a.bias),
}
POOLS = [
    nn.MaxPool2d(2),
    nn.MaxPool2d(3, 1, 1),
    nn.AvgPool2d(2, ceil_mode=True),
    nn.AdaptiveAvgPool2d(2),
    nn.AdaptiveMaxPool2d((2, 3)),
    nn.Upsample(scale_factor=2),
    lambda h: F.max_pool2d(h, 2),
    lambda h: F.avg_pool2d(h, 3, 2),
    lambda h: F.adaptive_avg_pool2d(h, 1),
    lambda h: F.adaptive_max_pool2d(h, 2),
    lambda h: F.interpolate(h, scale_factor=2, mode="bilinear"),
    lambda h: h[:, :, ::2, 1:],
    lambda h: F.pad(h, (1, 0, 0, 2)),
]
CASES |= {
    f"pool {i}": image(lambda s, x: s.b(s.p(s.a(x).relu())).relu(), B, p=pool, b=conv(8, 6))
    for i, pool in enumerate(POOLS)
}
ACTIVATIONS = [nn.GELU(), nn.SiLU(), nn.Softplus(), nn.Hardswish(), nn.Dropout(), nn.LeakyReLU(0.3)]
ACTIVATIONS += [F.relu6, F.elu, torch.tanh, torch.sin, lambda h: h.clamp(-0.5, 0.5)]
ACTIVATIONS += [lambda h: h.exp() ** 2, lambda h: -abs(h) + h.square()]
CASES |= {
    f"activation {i}": vector(lambda s, x: s.f(s.a(x)), f=f) for i, f in enumerate(ACTIVATIONS)
}


@pytest.mark.parametrize("name", CASES)
def test_one_operation(name):
    shape, network, expected = CASES[name]
    network, x = drawn(network), numbers(2, *shape)
    sym = symmetry(network, x)
    assert told(sym) == expected
    error, state = moves(network, sym, x)
    assert error < 1e-10
    before = network.state_dict()
    assert not any(torch.equal(state[u.parameter], before[u.parameter]) for u in uses_of(sym))
    assert check_symmetry(network, sym, x, randomise=True) < 1e-10
    # and each single use is needed, so that equality above says something; both names of a tied
    # parameter hold one tensor
    tied = {u.axis for u in uses_of(sym) if u.alias}
    for use in uses_of(sym):
        if use.axis not in tied:
            assert moves(network, without(sym, lambda v, use=use: v is use), x)[0] > 1e-6, use


def test_positions_behind_a_flatten_are_those_of_the_channels():
    pixels = torch.arange(288)
    for name, expected in (
        ("flatten", pixels.reshape(8, 36)),
        ("flatten channels last", pixels.reshape(36, 8).T),
    ):
        sym = symmetry(CASES[name].network, torch.zeros(1, *IMAGE))
        assert torch.equal(use_of(sym, "fc.weight", 1).positions, expected)


@pytest.mark.parametrize(
    "run, logits",
    [
        (lambda s, x: s.fc(s.a(x).relu()) + s.a(x)[:, :4], range(4)),
        (lambda s, x: s.a(x).relu(), range(8)),
        (lambda s, x: torch.cat((s.fc(h := s.a(x)), h[:, 5:]), 1), range(5, 8)),
    ],
)
def test_units_that_reach_the_logits_stay(run, logits):
    network, x = drawn(Net(run, a=Linear(5, 8), fc=Linear(8, 4))), numbers(2, 5)
    sym = symmetry(network, x)
    moved = [u.positions.flatten().tolist() for u in uses_of(sym) if u.parameter == "a.weight"]
    assert set(sum(moved, [])) == set(range(8)) - set(logits)
    assert moves(network, sym, x)[0] < 1e-10


def test_units_that_nobody_reads_are_apart():
    case = vector(
        lambda s, x: s.a(x).relu()[:, :5],
        {"a": "5 a.weight:0 a.bias:0 fc.weight:1", "a#2": "3 a.weight:0 a.bias:0"},
    )
    network, x = drawn(case.network), numbers(2, *case.shape)
    sym = symmetry(network, x)
    assert told(sym) == case.uses and moves(network, sym, x)[0] < 1e-10


def test_where_nothing_may_change_places_there_is_no_permutation():
    added = image(lambda s, x: (s.a(x) + x).relu(), a=conv(3, 3))  # to the image
    for network, shape in ((added.network, IMAGE), (Linear(5, 4), VECTOR)):
        sym, state = symmetry(network, torch.zeros(1, *shape)), network.state_dict()
        assert len(sym) == 0 and sym.identity() == {} and str(sym)
        assert same(sym.apply(state, {}), state)


def test_a_tied_parameter_is_counted_once():
    sym = symmetry(CASES["a parameter of two layers"].network, torch.zeros(1, 5))
    assert {u.parameter for u in uses_of(sym) if u.alias} == {"c.weight"}
    assert "b.weight" in sym.trained and "c.weight" not in sym.trained
    mask = symmetry(CASES["mask that is not trained"].network, torch.zeros(1, 5))
    assert [u.parameter for u in uses_of(mask) if u.statistic] == ["mask"]


# what is not understood

REFUSED = {  # the name of the operation in the message
    "MultiheadAttention": tokens(
        lambda s, x: s.m(h := s.a(x), h, h)[0], m=nn.MultiheadAttention(8, 2, batch_first=True)
    ),
    "Bilinear": vector(lambda s, x: s.m(s.a(x), x), m=nn.Bilinear(8, 5, 8)),
    "LocalResponseNorm": image(lambda s, x: s.m(s.a(x)), m=nn.LocalResponseNorm(3)),
    "fft": vector(lambda s, x: torch.fft.fft(s.a(x)).real),
    "einsum": vector(lambda s, x: torch.einsum("nc,cd->nd", s.a(x), s.m), m=parameter(8, 8)),
    "matmul": vector(lambda s, x: s.a(x) @ s.m, m=parameter(8, 8)),
    "cumsum": vector(lambda s, x: s.a(x).cumsum(1)),
    "linear": vector(lambda s, x: F.linear(s.a(x), 2 * s.m), m=parameter(8, 8)),
    "pad": image(lambda s, x: F.pad(s.a(x), (1, 1, 1, 1), mode="reflect")),
    "m": image(lambda s, x: s.m(s.a(x))[0], m=nn.MaxPool2d(2, return_indices=True)),
    # tokens are mixed within each unit
    "m, of tokens": tokens(
        lambda s, x: s.m(s.a(x).relu().transpose(1, 2)).transpose(1, 2), m=Linear(7, 6)
    ),
    # as are the units themselves, in groups of two
    "m, of halves": image(lambda s, x: s.m(s.a(x).view(-1, 2, 12, 12)), m=conv(2, 8)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_understood_is_refused_by_name(what):
    shape, network, _ = REFUSED[what]
    with pytest.raises(UnsupportedOperation, match=rf"node '.*{what.split(',')[0]}"):
        symmetry(network, torch.zeros(1, *shape))


# networks that are hard to follow: right, or refused by name

# units of one layer that meet no weight, but not the same operations: only those of one half may
# change places
HALVES = {
    "activation": vector(
        lambda s, x: torch.cat((F.relu((h := s.a(x))[:, :4]), torch.tanh(h[:, 4:])), 1)
    ),
    "activation of one half": vector(
        lambda s, x: torch.cat(((h := s.a(x).chunk(2, 1))[0], h[1].relu()), 1)
    ),
    "factor": vector(lambda s, x: torch.cat(((h := s.a(x).relu())[:, :4] * 2, h[:, 4:]), 1)),
    "gate of the image": image(
        lambda s, x: torch.cat(((h := s.a(x))[:, :4] * x[:, :1], h[:, 4:]), 1)
    ),
    "softmax of no axis": vector(
        lambda s, x: torch.cat((F.softmax((h := s.a(x))[:, :3]), h[:, 3:]), 1)
    ),
    "pooling": image(
        lambda s, x: torch.cat(
            (F.max_pool2d((h := s.a(x).relu())[:, :4], 2), F.avg_pool2d(h[:, 4:], 2)), 1
        )
    ),
    "shift by roll": image(
        lambda s, x: s.b(
            torch.cat((torch.roll((h := s.a(x))[:, :4], 1, 3), torch.roll(h[:, 4:], -1, 3)), 1)
        ).relu(),
        b=conv(8, 8),
    ),
    "shift by padding": image(
        lambda s, x: s.b(
            torch.cat((F.pad((h := s.a(x))[:, :4], (1, -1)), F.pad(h[:, 4:], (-1, 1))), 1)
        ).relu(),
        b=conv(8, 8),
    ),
    "mirror": image(
        lambda s, x: s.b(torch.cat(((h := s.a(x))[:, :4], h[:, 4:].flip(3)), 1)).relu(),
        b=conv(8, 8),
    ),
    "pixels of a flattened image": flat(
        lambda s, x: torch.cat(((h := s.a(x).flatten(1))[:, :100].relu(), h[:, 100:]), 1)
    ),
}
TWO = {"b": Linear(5, 8)}
# a reduction whose axis holds only some of the units gives "fixed" values that are none; a stack's
# first axis is not seen
SUBSETS = {
    "maxout": vector(lambda s, x: s.a(x).view(-1, 4, 2).amax(2)),
    "sum of pairs": vector(lambda s, x: s.a(x).relu().view(-1, 4, 2).sum(2)),
    "softmax of pairs": vector(lambda s, x: s.a(x).view(-1, 4, 2).softmax(2).flatten(1)),
    "length of pairs": vector(lambda s, x: F.normalize(s.a(x).view(-1, 4, 2), dim=2).flatten(1)),
    "sum of stacked branches": vector(
        lambda s, x: torch.stack((s.a(x).relu(), s.b(x).relu()), 1).sum(1), **TWO
    ),
    "mean of branches stacked first": vector(
        lambda s, x: torch.stack((s.a(x).relu(), s.b(x).relu())).mean(0), **TWO
    ),
    "maximum of branches stacked last": vector(
        lambda s, x: torch.stack((s.a(x), s.b(x)), -1).amax(-1), **TWO
    ),
    "softmax over branches": vector(
        lambda s, x: torch.stack((s.a(x), s.b(x)), 1).softmax(1).flatten(1), **TWO
    ),
}
# padded pixels make the axis of pixels "moving", and stay constants where a parameter with an entry
# a unit acts
CONSTANTS = {
    "mean over padded pixels": image(lambda s, x: F.pad(s.a(x).relu(), (1, 1, 1, 1))),
    "mean over a ZeroPad2d": image(lambda s, x: s.p(s.a(x).relu()), p=nn.ZeroPad2d(1)),
    "parameter on padded pixels": flat(
        lambda s, x: (F.pad(s.a(x).relu(), (1, 1, 1, 1)) + s.g).flatten(1), g=parameter(8, 1, 1)
    ),
    "parameter on padded features": tokens(
        lambda s, x: (F.pad(s.a(x).relu(), (0, 4)) + s.g + s.b(x)).relu(),
        a=Linear(5, 4),
        g=parameter(8),
        **TWO,
    ),
    "layer norm of padded features": tokens(
        lambda s, x: (s.n(F.pad(s.a(x).relu(), (0, 4))) + s.b(x)).relu(),
        a=Linear(5, 4),
        n=nn.LayerNorm(8),
        **TWO,
    ),
}
# a unit's several positions are told apart by their order alone, which is not the same for every
# unit here
COPIES = {
    "channel shuffle across copies": image(
        lambda s, x: s.m(s.b(s.a(x).relu())).relu(),
        a=conv(3, 3),
        b=conv(3, 6, groups=3),
        m=nn.ChannelShuffle(2),
    ),
    "concatenated ReLUs, shuffled": vector(
        lambda s, x: (
            torch.cat(((h := s.a(x)).relu(), (-h).relu()), 1)
            .view(-1, 3, 2)
            .transpose(1, 2)
            .flatten(1)
        ),
        a=Linear(5, 3),
    ),
    "flattened image, rolled": flat(lambda s, x: s.a(x).relu().flatten(1).roll(1, 1)),
}
LAYER = Linear(8, 8)
FIVE, EIGHT = (nn.Buffer(torch.arange(float(n)), persistent=False) for n in (5, 8))
MORE = {
    # an elementwise function with a second tensor
    "clamp at a parameter": vector(lambda s, x: torch.clamp(s.a(x), s.g), g=parameter(8)),
    "clamp at features": vector(lambda s, x: torch.clamp(s.a(x), min=s.b(x)), **TWO),
    # norm(p, dim): p is not dim
    "norm over pixels": flat(lambda s, x: s.a(x).norm(2, (2, 3))),
    "norm over channels": flat(lambda s, x: s.a(x).norm(2, 1).flatten(1), a=conv(3, 6)),
    # pooling without an axis of images: what it slides over are the units
    "MaxPool1d of features": vector(lambda s, x: s.m(s.a(x)), m=nn.MaxPool1d(3, 1, 1)),
    "AvgPool1d of features": vector(lambda s, x: s.m(s.a(x)), m=nn.AvgPool1d(2)),
    "AvgPool3d of images": image(lambda s, x: s.m(s.a(x)), m=nn.AvgPool3d((3, 1, 1), 1, (1, 0, 0))),
    # squeeze() of a single image takes its axis away too
    "squeeze": vector(lambda s, x: s.a(x).relu().unsqueeze(2).squeeze()),
    "layer norm behind squeeze": vector(
        lambda s, x: s.n(s.a(x).relu().unsqueeze(2).squeeze()).view(-1, 8), n=nn.LayerNorm(8)
    ),
    # a layer under two names, of which the traced network has one
    "one layer under two names": vector(
        lambda s, x: s.c(s.b(s.a(x).relu()).relu()).relu(), b=LAYER, c=LAYER
    ),
    # constants that no state dict holds
    "literal constant for the image": vector(
        lambda s, x: s.a(x * torch.tensor([1.0, 2, 3, 4, 5])).relu()
    ),
    "literal constant for the units": vector(lambda s, x: s.a(x).relu() * torch.arange(8.0)),
    "buffer for the image": vector(lambda s, x: s.a(x * s.c).relu(), c=FIVE),
    "buffer for the units": vector(lambda s, x: (s.a(x) * s.d).relu(), d=EIGHT),
    "computed from a buffer": vector(
        lambda s, x: s.a(x).relu() * s.mask.exp(), mask=nn.Buffer(torch.zeros(8))
    ),
    # called in other ways
    "add by keyword": vector(lambda s, x: torch.add(s.a(x).relu(), other=s.b(x)), **TWO),
    "F.layer_norm over a shape": vector(lambda s, x: F.layer_norm(h := s.a(x), h.shape[1:])),
    "groups that are counted": image(
        lambda s, x: F.conv2d(h := s.a(x), s.g, None, 1, 1, 1, h.shape[1]), g=parameter(8, 1, 3, 3)
    ),
    "weight_norm": vector(
        lambda s, x: s.a(x).relu(), a=nn.utils.parametrizations.weight_norm(Linear(5, 8))
    ),
    "gate of a parameter": vector(lambda s, x: s.a(x).relu() * torch.sigmoid(s.g), g=parameter(8)),
    "gate of one parameter": vector(lambda s, x: s.a(x).relu() * torch.sigmoid(s.g), g=parameter()),
}


HARD = HALVES | SUBSETS | CONSTANTS | COPIES | MORE


@pytest.mark.filterwarnings("ignore:Implicit dimension choice for softmax")
@pytest.mark.parametrize("what", HARD)
def test_right_or_refused(what):
    """The derivation may refuse a network, and may find fewer permutations than there are, but none
    that is not there.
    """
    shape, network, _ = HARD[what]
    network, x = drawn(network), numbers(2, *shape)
    try:
        sym = symmetry(network, x)
    except UnsupportedOperation:
        return
    assert moves(network, sym, x)[0] < 1e-10, f"wrong: {told(sym)}"


MISSED = {
    # one unit that gates all others is tied to each of them, and so are they
    "gate of one channel": image(
        lambda s, x: (h := s.a(x).relu()) * torch.sigmoid(s.b(h)), "b.weight:1", b=conv(8, 1)
    ),
    "gate of one unit": vector(
        lambda s, x: (h := s.a(x).relu()) * torch.sigmoid(s.b(h)), "b.weight:1", b=Linear(8, 1)
    ),
    # what is computed from a parameter alone is taken for fixed
    "one factor that is positive": vector(lambda s, x: s.a(x).relu() * s.g.exp(), g=parameter(1)),
    "weighted sum of branches": vector(
        lambda s, x: s.g[0] * s.a(x) + s.g[1] * s.b(x), "b.weight:0 b.bias:0", g=parameter(2), **TWO
    ),
    # torch takes axis= for dim=
    "mean(axis=)": vector(lambda s, x: s.a(x).relu().unsqueeze(2).mean(axis=2)),
    # a padded pixel is taken for another unit than its neighbour
    "layer norm of a padded image": image(
        lambda s, x: s.n(F.pad(s.a(x), (1, 1, 1, 1))).relu()[:, :, 1:-1, 1:-1],
        NORM,
        n=nn.LayerNorm((8, 8, 8)),
    ),
}


@pytest.mark.parametrize("what", MISSED)
def test_permutations_that_are_there_are_found(what):
    shape, network, expected = MISSED[what]
    network, x = drawn(network), numbers(2, *shape)
    sym = symmetry(network, x)
    assert told(sym) == expected and moves(network, sym, x)[0] < 1e-10


def test_sites_whose_units_lie_along_another_axis_are_found():
    last = image(
        lambda s, x: s.m(s.b(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
        b=Linear(3, 8),
        m=nn.GELU(),
    )
    for shape, network, _ in (CASES["conv1d"], last):
        (permutation,) = symmetry(network, torch.zeros(1, *shape))
        assert permutation.site is not None


# applying permutations

SEVERAL = [
    "grouped conv",
    "depthwise conv with multiplier",
    "batch norm behind flatten",
    "zero channels",
    "a parameter of two layers",
    "one grouped conv twice",
    "chunks that gate",
]


@pytest.mark.parametrize("name", SEVERAL)
def test_one_permutation_after_another_is_their_composition(name):
    shape, network, _ = CASES[name]
    sym, state = symmetry(network, torch.zeros(1, *shape)), drawn(network).state_dict()
    first, then = sym.random("first"), sym.random("then")
    twice = sym.apply(sym.apply(state, first), then)
    assert same(twice, sym.apply(state, sym.compose(first, then)))
    assert not same(twice, sym.apply(state, sym.compose(then, first)))
    back = {key: torch.argsort(order) for key, order in first.items()}
    assert same(sym.apply(sym.apply(state, first), back), state)
    assert same(sym.apply(state, sym.identity()), state)
    assert not same(sym.apply(state, first), state)


def test_new_unit_i_is_old_unit_p_of_i_and_all_else_is_kept(networks):
    network, sym, _ = networks("mlp")
    state, order = network.state_dict() | {"mean": torch.arange(3)}, sym.cycles("test")["fc2"]
    expected = {
        "fc2.weight": state["fc2.weight"][order],
        "fc2.bias": state["fc2.bias"][order],
        "fc3.weight": state["fc3.weight"][:, order],
    }
    assert same(sym.apply(state, {"fc2": order}), state | expected)
    assert same(sym.compose({"fc2": order}, {}), sym.identity() | {"fc2": order})
    assert same(sym.compose({}, {"fc2": order}), sym.identity() | {"fc2": order})


@pytest.mark.parametrize(
    "name, order",
    [
        ("fc2", list(range(9))),
        ("fc2", torch.arange(8)),
        ("fc2", torch.arange(9)[:, None]),
        ("fc2", torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 7])),
        ("fc2", torch.arange(9) - 1),
        ("fc2", torch.arange(9.0)),
        ("fc2", torch.empty(0, dtype=torch.long)),
        ("fc4", torch.arange(10)),
    ],
)
def test_what_is_no_permutation_is_refused(networks, name, order):
    network, sym, x = networks("mlp")
    with pytest.raises(ValueError, match=name):
        sym.apply(network.state_dict(), {name: order})
    with pytest.raises(ValueError, match=name):
        check_symmetry(network, sym, x, {name: order})


def test_weights_of_another_architecture_are_refused(networks):
    _, sym, _ = networks("mlp")
    for state in (MLP(48, 8).state_dict(), {}):
        with pytest.raises(ValueError, match="fc1.weight"):
            sym.apply(state, sym.identity())


def test_random_permutations_follow_their_name(networks):
    _, sym, _ = networks("mlp")
    for draw in (sym.random, sym.cycles):
        assert same(draw("check", 0), draw("check", 0))
        assert not same(draw("check", 0), draw("check", 1))
        assert len({tuple(p.tolist()) for p in draw("check", 0).values()}) == 3
        sym.check_permutations(draw("check", 0))
    assert all((p != torch.arange(9)).all() for p in sym.cycles("check").values())


def test_a_permuted_copy_leaves_the_network_alone(networks):
    network, sym, _ = networks("resnet20 A")
    before, orders = copy.deepcopy(network.state_dict()), sym.cycles("test")
    other = permuted(network, sym, orders)
    assert same(other.state_dict(), sym.apply(before, orders))
    assert same(network.state_dict(), before) and not same(other.state_dict(), before)


# a wrong symmetry is seen


class Parts(NamedTuple):
    """A square weight of a hidden layer, and the first and last weights."""

    square: str
    first: str
    last: str


MUTANTS = {
    "resnet20 B": Parts("block3_2.conv2.weight", "conv.weight", "fc.weight"),
    "flatten": Parts("b.weight", "a.weight", "fc.weight"),
}


def last_use(sym, of):
    """Behind the flatten, or of the last layer."""
    return next(u for u in uses_of(sym) if u.positions.shape[1] > 1 or u.parameter == of.last)


def transposed_positions(sym, of):
    """Positions behind the flatten as if its channels came last; without one, the last layer's
    units mirrored.
    """
    use = last_use(sym, of)
    n, r = use.positions.shape
    new = use.positions.reshape(r, n).T if r > 1 else use.positions.flip(0).roll(1, 0)
    return with_use(sym, use, positions=new)


def one_unit_elsewhere(sym, of):
    """One unit's positions behind the flatten mirrored; without one, two units exchanged."""
    use = last_use(sym, of)
    positions = use.positions.clone()
    if positions.shape[1] > 1:
        positions[0] = positions[0].flip(0)
    else:
        positions[:2] = positions[:2].flip(0)
    return with_use(sym, use, positions=positions)


def one_further(sym, of):
    """A weight's units counted from another one than its bias's are."""
    use = use_of(sym, of.square, 0)
    return with_use(sym, use, positions=use.positions.roll(1, 0))


def another_axis(sym, of):
    return with_use(sym, use_of(sym, of.square, 1), axis=0)


def axes_exchanged(sym, of):
    sym = with_use(sym, use_of(sym, of.square, 1), axis=2)  # out of the way
    sym = with_use(sym, use_of(sym, of.square, 0), axis=1)
    return with_use(sym, use_of(sym, of.square, 2), axis=0)


def split(sym, of):
    """The uses of one permutation as two, which are then drawn independently."""
    p = next(p for p in sym if any(u.parameter == of.square for u in p.uses))
    a, b = (replace(p, name=f"{p.name} {i}", uses=p.uses[i::2]) for i in (0, 1))
    return Symmetry((*(q for q in sym if q is not p), a, b), sym.shapes)


def logits_moved(sym, of):
    return plus(sym, (of.last, 0), (of.last.replace("weight", "bias"), 0))


def input_moved(sym, of):
    return plus(sym, (of.first, 1))


def plus(sym, *uses):
    """One more permutation."""
    n = sym.shapes[uses[0][0]][uses[0][1]]
    own = tuple(Use(parameter, axis, torch.arange(n)[:, None]) for parameter, axis in uses)
    return Symmetry((*sym, Permutation("more", n, own)), sym.shapes)


@pytest.fixture(scope="module")
def mutant(networks):
    case = flat(
        lambda s, x: s.n(s.b(s.a(x).relu())).relu().flatten(1), b=conv(8, 8), n=nn.BatchNorm2d(8)
    )
    small, x = drawn(case.network), numbers(1, *case.shape)

    def get(name):
        if name == "flatten":
            return small, symmetry(small, x), x
        network, sym, images = networks(name)
        return network, sym, images[:1]

    return get


@pytest.mark.parametrize(
    "breakage",
    [
        transposed_positions,
        one_unit_elsewhere,
        one_further,
        another_axis,
        axes_exchanged,
        split,
        logits_moved,
        input_moved,
    ],
)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_symmetry_is_seen(mutant, name, breakage):
    network, sym, x = mutant(name)
    broken = breakage(sym, MUTANTS[name])
    with pytest.raises(RuntimeError, match=type(network).__name__):
        check_symmetry(network, broken, x, randomise=True)


@pytest.mark.parametrize("name", ["flatten", "resnet20 A"])
def test_every_use_is_checked(mutant, name):
    network, sym, x = mutant(name)
    for use in uses_of(sym):
        with pytest.raises(RuntimeError):
            check_symmetry(network, without(sym, lambda u, use=use: u is use), x, randomise=True)


def test_fresh_statistics_hide_what_is_not_moved():
    torch.manual_seed(0)
    network, x = ResNet20(width=4), numbers(1, 3, 16, 16)
    broken = without(symmetry(network, x), lambda u: ".bn" in u.parameter)
    before = copy.deepcopy(network.state_dict())
    assert check_symmetry(network, broken, x) < 1e-10  # all 0 and 1: nothing to see
    with pytest.raises(RuntimeError):
        check_symmetry(network, broken, x, randomise=True)
    assert same(network.state_dict(), before)


def test_a_network_in_training_is_checked_as_it_is_evaluated(networks):
    network, sym, x = networks("vgg16")
    network = copy.deepcopy(network).float().train()  # with dropout
    assert check_symmetry(network, sym, x) < 1e-10
    assert network.training and network.classifier.fc1.weight.dtype == torch.float32


def test_given_permutations_are_used_and_nan_equals_nothing(mutant):
    network, sym, x = mutant("flatten")
    orders = sym.cycles("test")
    assert check_symmetry(network, sym, x, orders) < 1e-10
    wrong = without(sym, lambda u: u.parameter == "b.bias")  # moves with permutation "b" alone
    assert check_symmetry(network, wrong, x, {"a": orders["a"]}) < 1e-10
    with pytest.raises(RuntimeError):
        check_symmetry(network, wrong, x, {"b": orders["b"]})
    network = copy.deepcopy(network)
    nn.init.constant_(network.fc.weight, float("nan"))
    with pytest.raises(RuntimeError):
        check_symmetry(network, sym, x)


@pytest.mark.parametrize("seed", range(6))
def test_two_units_are_enough_to_see_a_wrong_symmetry(seed):
    """Of two units every second random permutation is the identity."""
    network, x = drawn(MLP(6, 2, 5)), numbers(40, 1, 2, 3)
    sym = symmetry(network, x)
    assert check_symmetry(network, sym, x, seed=seed) < 1e-10
    for name in ("fc1.bias", "fc2.bias", "fc3.bias"):
        broken = without(sym, lambda u, name=name: u.parameter == name)
        with pytest.raises(RuntimeError):
            check_symmetry(network, broken, x, seed=seed)


FRESH = {
    "g": image(lambda s, x: (s.a(x) * s.g).relu(), g=nn.Parameter(torch.ones(8, 1, 1))),
    "n.weight": image(lambda s, x: s.n(s.a(x)).relu(), n=nn.LayerNorm((8, 6, 6))),
    "b.weight": image(
        lambda s, x: (h := s.a(x)) + s.g * s.c(s.b(h).relu()),  # a branch times 0
        b=conv(8, 8),
        c=conv(8, 8),
        g=nn.Parameter(torch.tensor(0.0)),
    ),
}


@pytest.mark.parametrize("name", FRESH)
def test_randomise_draws_whatever_hides_a_mistake(name):
    shape, network, _ = FRESH[name]
    x = numbers(1, *shape)
    sym = symmetry(network, x)
    assert check_symmetry(network, sym, x, randomise=True) < 1e-10
    with pytest.raises(RuntimeError):
        broken = without(sym, lambda u: (u.parameter, u.axis) == (name, 0))
        check_symmetry(network, broken, x, randomise=True)


# random networks

KINDS = ["conv", "grouped", "depthwise", "batch", "layer", "group", "prelu", "relu", "gelu"]
LAYERS = st.sampled_from(["conv", *KINDS, "max", "mean"])
ONE_BY_ONE = {  # layers that keep the number of channels and of pixels
    "batch": lambda channels, pixels: nn.BatchNorm2d(channels),
    "layer": lambda channels, pixels: nn.LayerNorm((channels, pixels, pixels)),
    "prelu": lambda channels, pixels: nn.PReLU(channels),
    "relu": lambda channels, pixels: nn.ReLU(),
    "gelu": lambda channels, pixels: nn.GELU(),
    "group": lambda channels, pixels: nn.GroupNorm(2 if channels % 2 == 0 else 1, channels),
}


def random_network(layers, widths, flat, hidden):
    """A network of these kinds of layers, and how many units it hides if each is free (None where
    groups divide them).
    """
    modules, channels, pixels, free, divided = [], 3, 8, 0, False
    for i, (kind, width) in enumerate(zip(layers, widths)):
        if kind in ("conv", "grouped"):
            groups = 2 if kind == "grouped" and channels % 2 == 0 else 1
            width += width % groups
            modules.append(conv(channels, width, groups=groups, bias=i % 2 == 0))
            free, channels, divided = free + width, width, divided or groups > 1
        elif kind == "depthwise":
            if channels > 3:
                modules.append(conv(channels, 2 * channels, groups=channels))
                channels *= 2
        elif kind in ("max", "mean"):
            if pixels > 2:
                modules.append(nn.MaxPool2d(2) if kind == "max" else nn.AvgPool2d(2))
                pixels //= 2
        else:
            modules.append(ONE_BY_ONE[kind](channels, pixels))
            divided = divided or kind == "group" and channels % 2 == 0
    modules += [nn.Flatten()] if flat else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    inputs = channels * pixels**2 if flat else channels
    for width in hidden:
        modules += [Linear(inputs, width), nn.Tanh()]
        inputs, free = width, free + width
    return nn.Sequential(*modules, Linear(inputs, 4)), None if divided else free


@given(
    st.lists(LAYERS, max_size=7),
    st.lists(st.integers(4, 7), min_size=7, max_size=7),
    st.booleans(),
    st.lists(st.integers(2, 6), max_size=2),
    st.integers(0, 3),
)
def test_random_networks_keep_their_function(layers, widths, flat, hidden, seed):
    network, free = random_network(layers, widths, flat, hidden)
    network, x = drawn(network, seed), numbers(2, 3, 8, 8, seed=seed)
    sym = symmetry(network, x)
    error, state = moves(network, sym, x, seed)
    assert error < 1e-10 * float(network(x).abs().max().detach())
    before = network.state_dict()
    assert not any(torch.equal(state[u.parameter], before[u.parameter]) for u in uses_of(sym))
    if free is not None:
        assert sum(p.size for p in sym) == free  # none is missed
