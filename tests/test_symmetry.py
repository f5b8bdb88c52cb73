"""Derived permutations: exactly the expected ones, the same function in another order, and nothing
wrong goes unseen.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import Net, same
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
    symmetry,
)
from llfc_lib.models import MLP, VGG16, ResNet20, ResNet50, build
from llfc_lib.models.view import View

# helpers


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


def sizes(sym):
    return sorted(p.size for p in sym)


def uses_of(sym):
    return [u for p in sym for u in p.uses]


def without(sym, unwanted):
    """The symmetry without the uses that ``unwanted`` says."""
    kept = (replace(p, uses=tuple(u for u in p.uses if not unwanted(u))) for p in sym)
    return Symmetry(tuple(kept), sym.shapes)


# whole networks


def small_convnext(tv):
    config = tv.models.convnext.CNBlockConfig
    return tv.models.ConvNeXt([config(8, 12, 2), config(12, None, 1)], num_classes=10)


def small_efficientnet(tv):
    config = tv.models.efficientnet.MBConvConfig
    blocks = [config(1, 3, 1, 8, 8, 1), config(4, 3, 2, 8, 12, 2), config(4, 5, 1, 12, 16, 2)]
    return tv.models.EfficientNet(blocks, 0.2, num_classes=10, last_channel=20)


SMALL, RGB = (3, 16, 16), (3, 32, 32)
VGG = [4] * 2 + [8] * 2 + [16] * 3 + [32] * 6 + [256] * 2
NETWORKS = {  # the network, its images, the sizes of its permutations
    "mlp": (lambda tv: MLP(48, 9), (3, 4, 4), [9] * 3),
    "vgg16": (lambda tv: VGG16(width=4), SMALL, VGG),
    "resnet20 A": (lambda tv: ResNet20(width=4), SMALL, [4] * 5 + [8] * 4 + [16] * 3),
    "resnet20 B": (lambda tv: ResNet20(width=4, shortcut="B"), SMALL, [4] * 4 + [8] * 4 + [16] * 4),
    "resnet20 layer norm": (
        lambda tv: build("resnet20_ln", SMALL, 10, width=4),
        SMALL,
        [4] * 4 + [8] * 4 + [16] * 4,
    ),
    "resnet50": (  # two permutations a block, the stem and a stage's stream
        lambda tv: ResNet50(width=4, classes=10),
        SMALL,
        [4] * 7 + [8] * 8 + [16] * 13 + [32] * 7 + [64, 128],
    ),
    "densenet": (
        lambda tv: tv.models.DenseNet(4, (2, 2), 8, 2, num_classes=10),
        RGB,
        [4] * 4 + [8] * 6,
    ),
    "convnext": (small_convnext, RGB, [8, 12, 32, 32, 48]),
    "efficientnet": (small_efficientnet, RGB, [2, 2] + [4] * 3 + [8, 16, 20, 32] + [64] * 3),
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
    assert sizes(sym) == NETWORKS[name][2]
    trained = {key for key, _ in network.named_parameters()}
    assert all(u.statistic == (u.parameter not in trained) for u in uses_of(sym))
    assert set(sym.trained) == trained


@pytest.mark.parametrize("name", NETWORKS)
def test_every_hidden_layer_is_permuted_and_neither_input_nor_logits_are(networks, name):
    network, sym, _ = networks(name)
    layers = [
        f"{key}.weight"
        for key, layer in network.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    used = {(u.parameter, u.axis) for u in uses_of(sym)}
    fixed = {(layers[0], 1), (layers[-1], 0), (layers[-1].replace("weight", "bias"), 0)}
    assert not used & fixed
    depthwise = {(key, 1) for key in layers if sym.shapes[key][1] == 1}
    assert {(key, axis) for key in layers for axis in (0, 1)} - fixed - depthwise <= used
    # a normalisation moves whole, and its statistics with it
    vectors = {key for key, value in network.state_dict().items() if value.ndim == 1}
    assert not vectors - {key for key, _ in used | fixed}


@torch.no_grad()
@pytest.mark.parametrize("name", ["mlp", "vgg16", "resnet20 A", "resnet20 B", "densenet"])
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
        assert str(other) == str(sym)


# one operation each

IMAGE, VECTOR, TOKENS = (3, 6, 6), (5,), (7, 5)


class Case(NamedTuple):
    """An image's shape, a network, and the sizes of its permutations."""

    shape: tuple[int, ...]
    network: nn.Module
    sizes: list[int]


def followed(shape: tuple[int, ...], first: Callable[[], nn.Module], end: Callable) -> Callable:
    """Makes cases: eight units of layer ``a``, which ``run`` does something with, and a linear
    layer ``fc`` that reads what ``end`` makes of it.
    """

    @torch.no_grad()
    def make(run, sizes=(8,), **parts):
        parts = {"a": first()} | parts
        trunk = Net(lambda s, x: end(run(s, x)), **parts).eval()
        parts["fc"] = Linear(trunk(torch.zeros(2, *shape)).shape[1], 4)
        return Case(shape, Net(lambda s, x: s.fc(end(run(s, x))), **parts), list(sizes))

    return make


image = followed(IMAGE, lambda: conv(3, 8), lambda h: h.mean((2, 3)))
flat = followed(IMAGE, lambda: conv(3, 8), lambda h: h)  # fc reads every pixel
vector = followed(VECTOR, lambda: Linear(5, 8), lambda h: h)
tokens = followed(TOKENS, lambda: Linear(5, 8), lambda h: h.mean(1))


def sharing(first, second):
    second.weight = first.weight
    return {"b": first, "c": second}


NO_BIAS = conv(3, 8, bias=False)  # a constant that a normalisation takes away again
CASES = {
    "linear of tokens": tokens(lambda s, x: s.b(s.a(x).relu()), [6, 8], b=Linear(8, 6)),
    "conv1d": followed((3, 9), lambda: nn.Conv1d(3, 8, 3), lambda h: h.mean(2))(
        lambda s, x: s.a(x).relu()
    ),
    # a group has inputs and outputs of its own, and those of one never meet those of the other
    "grouped conv": image(
        lambda s, x: s.b(s.a(x).relu()).relu(), [3, 3, 4, 4], b=conv(8, 6, groups=2)
    ),
    # the first unit of c is in the group of those of a, alone
    "grouped conv over two layers": image(
        lambda s, x: s.b(torch.cat((s.a(x), s.c(x)), 1)).relu(),
        [3, 4, 4, 4],
        a=conv(3, 3),
        c=conv(3, 5),
        b=conv(8, 8, groups=2),
    ),
    "depthwise conv with multiplier": image(
        lambda s, x: s.b(s.a(x).relu()).relu(), b=conv(8, 24, groups=8)
    ),
    "batch norm": image(lambda s, x: s.n(s.a(x)).relu(), n=nn.BatchNorm2d(8)),
    "layer norm of all tokens": tokens(lambda s, x: s.n(s.a(x)).relu(), n=nn.LayerNorm((7, 8))),
    "layer norm of pixels": image(
        lambda s, x: s.n(s.a(x)).relu(), a=NO_BIAS, n=nn.LayerNorm((6, 6))
    ),
    "group norm": image(lambda s, x: s.n(s.a(x)).relu(), [4, 4], n=nn.GroupNorm(2, 8)),
    "group norm of single channels": image(
        lambda s, x: s.n(s.a(x)).relu(), a=NO_BIAS, n=nn.GroupNorm(8, 8)
    ),
    "instance norm": image(
        lambda s, x: s.n(s.a(x)).relu(), a=NO_BIAS, n=nn.InstanceNorm2d(8, affine=True)
    ),
    "PReLU": image(lambda s, x: s.p(s.a(x)), p=nn.PReLU(8)),
    "PReLU with one slope": image(lambda s, x: s.p(s.a(x)), p=nn.PReLU()),
    "flatten": flat(lambda s, x: s.a(x).relu().view(x.size(0), -1)),
    "flatten channels last": flat(lambda s, x: s.a(x).relu().permute(0, 2, 3, 1).flatten(1)),
    "batch norm behind flatten": flat(
        lambda s, x: s.n(s.f(s.a(x))).relu(), f=nn.Flatten(), n=nn.BatchNorm1d(288)
    ),
    "branches that multiply and subtract": vector(
        lambda s, x: s.a(x) * s.b(x) - s.c(x) / (2 + torch.sigmoid(s.d(x))),
        **{name: Linear(5, 8) for name in "bcd"},
    ),
    "sum() of branches": vector(lambda s, x: sum([s.a(x).relu(), s.b(x).relu()]), b=Linear(5, 8)),
    "concatenation with itself": vector(lambda s, x: torch.cat((h := s.a(x), -h), 1).relu()),
    "zero channels": image(
        lambda s, x: (F.pad(s.a(x).relu(), (0, 0, 0, 0, 2, 3)) + s.b(x)).relu(),
        [5, 8],
        b=conv(3, 13),
    ),
    # the weights of pixels that are always 0 may stay
    "zero pixels": flat(lambda s, x: s.p(s.a(x).relu()).flatten(1), p=nn.ZeroPad2d(1)),
    "mean over units, times features": image(
        lambda s, x: (h := s.a(x).relu()) * h.mean(1, keepdim=True) + h.amax(1, True)
    ),
    "mean over units less features": image(
        lambda s, x: (h := s.a(x).relu()).mean(1, keepdim=True) - h
    ),
    "divided by their length": vector(lambda s, x: F.normalize(s.a(x)) + torch.softmax(s.a(x), 1)),
    "softmax layer": vector(lambda s, x: s.m(s.a(x)), m=nn.Softmax(1)),
    "deviation and sum over pixels": image(
        lambda s, x: torch.cat(
            ((h := s.a(x).relu()).std((2, 3), keepdim=True), h.sum(-1, True).sum(-2, True)), 1
        )
    ),
    "the image's mean added": image(lambda s, x: (s.a(x) + x.mean(1, keepdim=True)).relu()),
    "chunks that gate": vector(
        lambda s, x: torch.tanh((h := s.a(x).chunk(2, 1))[0]) * torch.sigmoid(h[1]), [4]
    ),
    "channel shuffle": image(
        lambda s, x: s.b(s.m(s.a(x))).relu(),
        [2, 2, 4, 4],
        b=conv(8, 4, groups=2),
        m=nn.ChannelShuffle(4),
    ),
    "scale (1, C, 1, 1)": image(lambda s, x: (s.g * s.a(x)).relu(), g=parameter(1, 8, 1, 1)),
    "scale of features": vector(
        lambda s, x: (s.a(x) * s.g + s.h).relu(), g=parameter(8), h=parameter(1)
    ),
    "scale of pixels": image(lambda s, x: (s.a(x) * s.g).relu(), g=parameter(6, 6)),
    "positions of tokens": tokens(lambda s, x: (s.a(x) + s.g).relu(), g=parameter(1, 7, 8)),
    "mask that is not trained": vector(
        lambda s, x: (s.a(x) * s.mask).relu(), mask=nn.Buffer(torch.zeros(8))
    ),
    "functions": image(
        lambda s, x: F.linear(
            F.batch_norm(F.conv2d(s.a(x), s.w, s.b), s.m, s.var, s.nw, bias=s.nb).mean((2, 3)), s.v
        )[:, :, None, None],
        [6, 8, 8],
        w=parameter(8, 8, 3, 3),
        v=parameter(6, 8),
        **{name: parameter(8) for name in ("b", "m", "var", "nw", "nb")},
    ),
    "normalisations as functions": image(
        lambda s, x: F.layer_norm(F.group_norm(s.a(x), 2, s.w, s.b), (8, 6, 6), weight=s.v).relu(),
        [4, 4],
        w=parameter(8),
        b=parameter(8),
        v=parameter(8, 6, 6),
    ),
    "depthwise conv as a function": image(
        lambda s, x: F.conv2d(s.a(x), s.v, None, 1, 1, 1, 8).relu(), v=parameter(8, 1, 3, 3)
    ),
    "one layer twice": vector(lambda s, x: s.b(s.b(s.a(x).relu()).relu()).relu(), b=Linear(8, 8)),
    "one grouped conv twice": image(
        lambda s, x: s.b(s.b(s.a(x).relu()).relu()), [4, 4], b=conv(8, 8, groups=2)
    ),
    "a parameter of two layers": vector(
        lambda s, x: s.c(s.b(s.a(x).relu()).relu()).relu(), **sharing(Linear(8, 8), Linear(8, 8))
    ),
    "a bias that also scales": vector(lambda s, x: s.a(x).relu() * s.a.bias),
}
POOLS = [
    nn.MaxPool2d(3, 1, 1),
    nn.AdaptiveAvgPool2d(2),
    nn.Upsample(scale_factor=2),
    lambda h: F.max_pool2d(h, 2),
    lambda h: F.avg_pool2d(h, 3, 2),
    lambda h: F.interpolate(h, scale_factor=2, mode="bilinear"),
    lambda h: h[:, :, ::2, 1:],
    lambda h: F.pad(h, (1, 0, 0, 2)),
]
CASES |= {
    f"pool {i}": image(lambda s, x: s.b(s.p(s.a(x).relu())).relu(), [6, 8], p=pool, b=conv(8, 6))
    for i, pool in enumerate(POOLS)
}
ACTIVATIONS = [nn.GELU(), nn.Softplus(), nn.Dropout(), F.elu, torch.sin]
ACTIVATIONS += [lambda h: h.clamp(-0.5, 0.5) - h.exp() ** 2, lambda h: -abs(h) + h.square()]
CASES |= {
    f"activation {i}": vector(lambda s, x: s.f(s.a(x)), f=f) for i, f in enumerate(ACTIVATIONS)
}


@pytest.mark.parametrize("name", CASES)
def test_one_operation(name):
    """All units, at the fewest uses that keep the function: these are its permutations."""
    shape, network, expected = CASES[name]
    network, x = drawn(network), numbers(2, *shape)
    sym = symmetry(network, x)
    assert sizes(sym) == expected
    error, state = moves(network, sym, x)
    assert error < 1e-10
    before = network.state_dict()
    assert not any(torch.equal(state[u.parameter], before[u.parameter]) for u in uses_of(sym))
    assert check_symmetry(network, sym, x, randomise=True) < 1e-10
    # both names of a tied parameter hold one tensor
    tied = {u.axis for u in uses_of(sym) if u.alias}
    for use in uses_of(sym):
        if use.axis not in tied:
            assert moves(network, without(sym, lambda v, use=use: v is use), x)[0] > 1e-6, use


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
    "einsum": vector(lambda s, x: torch.einsum("nc,cd->nd", s.a(x), s.m), m=parameter(8, 8)),
    "linear": vector(lambda s, x: F.linear(s.a(x), 2 * s.m), m=parameter(8, 8)),
    "pad": image(lambda s, x: F.pad(s.a(x), (1, 1, 1, 1), mode="reflect")),
    "m": image(lambda s, x: s.m(s.a(x))[0], m=nn.MaxPool2d(2, return_indices=True)),
    # tokens are mixed within each unit
    "m, of tokens": tokens(
        lambda s, x: s.m(s.a(x).relu().transpose(1, 2)).transpose(1, 2), m=Linear(7, 6)
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_understood_is_refused_by_name(what):
    shape, network, _ = REFUSED[what]
    with pytest.raises(UnsupportedOperation, match=rf"node '.*{what.split(',')[0]}"):
        symmetry(network, torch.zeros(1, *shape))


# networks that are hard to follow: right, or refused by name

TWO = {"b": Linear(5, 8)}
LAYER = Linear(8, 8)
FIVE, EIGHT = (nn.Buffer(torch.arange(float(n)), persistent=False) for n in (5, 8))
HARD = {
    # units of one layer that meet no weight, but not the same operations: only those of one half
    # may change places
    "activation of halves": vector(
        lambda s, x: torch.cat((F.relu((h := s.a(x))[:, :4]), torch.tanh(h[:, 4:])), 1)
    ),
    "halves shifted by padding": image(
        lambda s, x: s.b(
            torch.cat((F.pad((h := s.a(x))[:, :4], (1, -1)), F.pad(h[:, 4:], (-1, 1))), 1)
        ).relu(),
        b=conv(8, 8),
    ),
    "softmax of no axis": vector(
        lambda s, x: torch.cat((F.softmax((h := s.a(x))[:, :3]), h[:, 3:]), 1)
    ),
    "pixels of a flattened image": flat(
        lambda s, x: torch.cat(((h := s.a(x).flatten(1))[:, :100].relu(), h[:, 100:]), 1)
    ),
    # a reduction whose axis holds only some of the units gives "fixed" values that are none; a
    # stack's first axis is not seen
    "sum of pairs": vector(lambda s, x: s.a(x).relu().view(-1, 4, 2).sum(2)),
    "softmax of pairs": vector(lambda s, x: s.a(x).view(-1, 4, 2).softmax(2).flatten(1)),
    "mean of branches stacked first": vector(
        lambda s, x: torch.stack((s.a(x).relu(), s.b(x).relu())).mean(0), **TWO
    ),
    "mean that counts a unit twice": vector(
        lambda s, x: (h := s.a(x).relu()) * h[:, [0, *range(8)]].mean(1, keepdim=True)
    ),
    # padded pixels make the axis of pixels "moving", and stay constants where a parameter with an
    # entry a unit acts
    "mean over padded pixels": image(lambda s, x: F.pad(s.a(x).relu(), (1, 1, 1, 1))),
    "parameter on padded pixels": flat(
        lambda s, x: (F.pad(s.a(x).relu(), (1, 1, 1, 1)) + s.g).flatten(1), g=parameter(8, 1, 1)
    ),
    "layer norm of padded features": tokens(
        lambda s, x: (s.n(F.pad(s.a(x).relu(), (0, 4))) + s.b(x)).relu(),
        a=Linear(5, 4),
        n=nn.LayerNorm(8),
        **TWO,
    ),
    # a unit's several positions are told apart by their order alone, which is not the same for
    # every unit here
    "channel shuffle across copies": image(
        lambda s, x: s.m(s.b(s.a(x).relu())).relu(),
        a=conv(3, 3),
        b=conv(3, 6, groups=3),
        m=nn.ChannelShuffle(2),
    ),
    "flattened image, rolled": flat(lambda s, x: s.a(x).relu().flatten(1).roll(1, 1)),
    # an elementwise function with a second tensor
    "clamp at a parameter": vector(lambda s, x: torch.clamp(s.a(x), s.g), g=parameter(8)),
    # norm(p, dim): p is not dim
    "norm over channels": flat(lambda s, x: s.a(x).norm(2, 1).flatten(1), a=conv(3, 6)),
    # pooling without an axis of images: what it slides over are the units
    "MaxPool1d of features": vector(lambda s, x: s.m(s.a(x)), m=nn.MaxPool1d(3, 1, 1)),
    # squeeze() of a single image takes its axis away too
    "layer norm behind squeeze": vector(
        lambda s, x: s.n(s.a(x).relu().unsqueeze(2).squeeze()).view(-1, 8), n=nn.LayerNorm(8)
    ),
    # a layer under two names, of which the traced network has one
    "one layer under two names": vector(
        lambda s, x: s.c(s.b(s.a(x).relu()).relu()).relu(), b=LAYER, c=LAYER
    ),
    # constants that no state dict holds
    "literal constant for the units": vector(lambda s, x: s.a(x).relu() * torch.arange(8.0)),
    "buffer for the image": vector(lambda s, x: s.a(x * s.c).relu(), c=FIVE),
    "buffer for the units": vector(lambda s, x: (s.a(x) * s.d).relu(), d=EIGHT),
    "gate of a parameter": vector(lambda s, x: s.a(x).relu() * torch.sigmoid(s.g), g=parameter(8)),
    # called in other ways
    "add by keyword": vector(lambda s, x: torch.add(s.a(x).relu(), other=s.b(x)), **TWO),
    "weight_norm": vector(
        lambda s, x: s.a(x).relu(), a=nn.utils.parametrizations.weight_norm(Linear(5, 8))
    ),
}


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
    assert moves(network, sym, x)[0] < 1e-10, f"wrong:\n{sym}"


MISSED = {
    # units that nobody reads are apart
    "three units unread": vector(lambda s, x: s.a(x).relu()[:, :5], [3, 5]),
    # one unit that gates all others is tied to each of them, and so are they
    "gate of one unit": vector(
        lambda s, x: (h := s.a(x).relu()) * torch.sigmoid(s.b(h)), b=Linear(8, 1)
    ),
    # what is computed from a parameter alone is taken for fixed
    "one factor that is positive": vector(lambda s, x: s.a(x).relu() * s.g.exp(), g=parameter(1)),
    # torch takes axis= for dim=
    "mean(axis=)": vector(lambda s, x: s.a(x).relu().unsqueeze(2).mean(axis=2)),
    # a padded pixel is taken for another unit than its neighbour
    "layer norm of a padded image": image(
        lambda s, x: s.n(F.pad(s.a(x), (1, 1, 1, 1))).relu()[:, :, 1:-1, 1:-1],
        n=nn.LayerNorm((8, 8, 8)),
    ),
}


@pytest.mark.parametrize("what", MISSED)
def test_permutations_that_are_there_are_found(what):
    shape, network, expected = MISSED[what]
    network, x = drawn(network), numbers(2, *shape)
    sym = symmetry(network, x)
    assert sizes(sym) == expected and moves(network, sym, x)[0] < 1e-10


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
        ("fc2", torch.arange(9)[:, None]),
        ("fc2", torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 7])),
        ("fc2", torch.arange(9.0)),
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


# a wrong symmetry is seen


@pytest.fixture(scope="module")
def flattened():
    """Square weights in hidden layers, and a unit's several pixels behind a flatten."""
    case = flat(
        lambda s, x: s.n(s.b(s.a(x).relu())).relu().flatten(1), b=conv(8, 8), n=nn.BatchNorm2d(8)
    )
    network, x = drawn(case.network), numbers(1, *case.shape)
    return network, symmetry(network, x), x


def logits_moved(sym):
    own = tuple(Use(f"fc.{part}", 0, torch.arange(4)[:, None]) for part in ("weight", "bias"))
    return Symmetry((*sym, Permutation("more", 4, own)), sym.shapes)


def split(sym):
    """The uses of one permutation as two, which are then drawn independently."""
    first, *rest = sym
    two = [replace(first, name=f"part {i}", uses=first.uses[i::2]) for i in (0, 1)]
    return Symmetry((*rest, *two), sym.shapes)


def test_a_wrong_symmetry_is_seen(flattened):
    network, sym, x = flattened
    lacking = [without(sym, lambda u, use=use: u is use) for use in uses_of(sym)]
    for broken in (*lacking, logits_moved(sym), split(sym)):
        with pytest.raises(RuntimeError, match="for Net are not"):
            check_symmetry(network, broken, x, randomise=True)


def test_a_network_in_training_is_checked_as_it_is_evaluated(networks):
    network, sym, x = networks("vgg16")
    network = copy.deepcopy(network).float().train()  # with dropout
    assert check_symmetry(network, sym, x) < 1e-10
    assert network.training and network.classifier.fc1.weight.dtype == torch.float32


def test_given_permutations_are_used_and_nan_equals_nothing(flattened):
    network, sym, x = flattened
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
    "n.weight": image(lambda s, x: s.n(s.a(x)).relu(), n=nn.BatchNorm2d(8)),
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
    before = copy.deepcopy(network.state_dict())
    broken = without(sym, lambda u: (u.parameter, u.axis) == (name, 0))
    assert check_symmetry(network, broken, x) < 1e-10  # all 0 or all 1: nothing to see
    with pytest.raises(RuntimeError):
        check_symmetry(network, broken, x, randomise=True)
    assert same(network.state_dict(), before)


# random networks

KINDS = ["conv", "grouped", "depthwise", "batch", "layer", "group", "relu", "max"]
LAYERS = st.sampled_from(["conv", *KINDS])
ONE_BY_ONE = {  # layers that keep the number of channels and of pixels
    "batch": lambda channels, pixels: nn.BatchNorm2d(channels),
    "layer": lambda channels, pixels: nn.LayerNorm((channels, pixels, pixels)),
    "relu": lambda channels, pixels: nn.ReLU(),
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
        elif kind == "max":
            if pixels > 2:
                modules.append(nn.MaxPool2d(2))
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
