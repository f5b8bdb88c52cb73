"""The traced view: the same numbers as the module itself, on networks nobody prepared for it."""

import copy

import pytest
import torch
from nets import Net, randomised, same
from torch import nn
from torch.nn import functional as F

from llfc_lib.data.torchvision import torchvision
from llfc_lib.models import MLP
from llfc_lib.models.view import UntraceableError, View


def foreign(name: str, seed: int = 0) -> nn.Module:
    """Of torchvision's making: a residual network, and one with biases and dropout."""
    torch.manual_seed(seed)
    models = torchvision().models
    if name == "resnet18":
        return randomised(models.resnet18(num_classes=10), seed)
    features = models.vgg.make_layers([8, "M", 16, 16, "M"], batch_norm=True)
    top = nn.Linear(64, 12), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(12, 10)
    return randomised(nn.Sequential(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *top), seed)


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["resnet18", "vgg"])
def network(request):
    return foreign(request.param)


@pytest.fixture(scope="module")
def other(network):
    """Other weights of the same architecture."""
    return foreign("resnet18" if hasattr(network, "layer1") else "vgg", 1)


class Functional(nn.Module):
    """Functions and methods instead of modules, in-place operations, weights as attributes, an
    optional argument.
    """

    def __init__(self):
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(6))
        self.w2 = nn.Parameter(torch.randn(3, 6))

    def forward(self, x, scale: float = 2.0):
        kept = h = F.linear(x, self.w1, self.b1)
        h = F.relu(h, True)  # `kept` is now the same tensor after the ReLU
        h = h.add_(1.0)
        h = torch.relu(h - 2).mul_(scale)
        return F.linear(h + kept, self.w2)


def test_own_network_has_the_papers_names():
    view = View(MLP(20, 8))
    assert [s.name for s in view.sites] == ["FC 1", "FC 2", "FC 3", "logits"]
    assert [m.name for m in view.maps] == ["FC 1", "FC 2", "FC 3", "FC 4"]
    assert [m.first for m in view.maps] == [True, False, False, False]
    assert all(s.cut for s in view.sites)
    assert [s.relu for s in view.sites] == [True, True, True, False]
    with pytest.raises(ValueError, match="FC 9.*FC 3"):  # the unknown one, and those that there are
        view.site("FC 9")


@torch.no_grad()
def test_foreign_networks_run_to_the_same_bits_and_stay_as_they_were(network, images):
    def in_place():
        return [m.inplace for m in network.modules() if hasattr(m, "inplace")]

    before, modes, expected = copy.deepcopy(network.state_dict()), in_place(), network(images)
    assert torch.equal(View(network)(images), expected)
    assert same(network.state_dict(), before) and in_place() == modes and any(modes)


@torch.no_grad()
def test_a_module_that_is_called_twice_gives_two_sites(images):
    network = foreign("resnet18")
    view = View(network)
    blocks = [f"layer{layer}.{block}.relu" for layer in (1, 2, 3, 4) for block in (0, 1)]
    twice = [name + suffix for name in blocks for suffix in ("", "#2")]
    assert [s.name for s in view.sites] == ["relu", *twice, "logits"]
    # the stem and the ends of blocks carry everything; inside a block the shortcut passes beside
    assert [s.name for s in view.sites if s.cut] == ["relu", *twice[1::2], "logits"]
    # kept values are those of eager execution, not what a later in-place operation made of them
    seen = []
    network.layer1[0].bn1.register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    network(images)
    site = view.site("layer1.0.relu")
    values = view.run(images, {site.node, site.pre})
    assert torch.equal(values[site.pre], seen[0]) and torch.equal(values[site.node], seen[0].relu())


def test_every_map_gives_its_output_from_what_enters_it(network, images):
    view, state = View(network), network.state_dict()
    values = view.run(images, {n for m in view.maps for n in (m.input, m.node)})
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(view.maps) == len(layers)
    assert [m.first for m in view.maps] == [True] + [False] * (len(layers) - 1)
    for m in view.maps:
        h, bias = values[m.input], state.get(m.weight.replace("weight", "bias"))
        out = m.apply(state[m.weight], h)
        if bias is not None:
            out = out + (bias if m.unit_axis == -1 else bias[:, None, None])
        torch.testing.assert_close(out, values[m.node], rtol=1e-4, atol=1e-5)
        assert h.shape[m.unit_axis] == state[m.weight].shape[1]


def test_stitched_at_the_ends_a_network_is_one_of_the_two(network, other, images):
    bottom, top = View(network), View(other)
    values = bottom.run(images, {bottom.input, *(s.node for s in bottom.sites)})
    assert torch.equal(top.run_from(top.input, values[bottom.input]), top(images))
    assert torch.equal(top.run_from(top.output, values[bottom.output]), bottom(images))
    for site in (s for s in bottom.sites if s.cut):
        assert torch.equal(bottom.run_from(site.node, values[site.node]), bottom(images))
        if site.name != "logits":
            mixed = top.run_from(site.node, values[site.node])
            assert not torch.equal(mixed, top(images)) and not torch.equal(mixed, bottom(images))


@torch.no_grad()
def test_weights_of_recurrent_layers_and_layers_with_hooks_can_be_exchanged():
    def recurrent():
        network = Net(
            lambda s, x: s.fc(s.relu(s.lstm(x)[0][:, -1])),
            lstm=nn.LSTM(4, 5, batch_first=True),
            relu=nn.ReLU(),
            fc=nn.Linear(5, 3),
        )
        network.fc.register_forward_pre_hook(lambda layer, args: (2 * args[0],))
        return network

    torch.manual_seed(0)
    a, b, x = recurrent(), recurrent(), torch.randn(6, 7, 4)
    before, view = a(x), View(a)
    assert torch.equal(view.with_state(b.state_dict())(x), b(x))
    assert not torch.allclose(b(x), before)
    copied = view.to(torch.float32)
    # what the user hangs on their network later does not reach into the view
    for layer in (a.lstm, a.relu, a.fc):
        layer.register_forward_hook(lambda *_: pytest.fail("a hook of the original ran"))
    assert torch.equal(view(x), before) and torch.equal(copied(x), before)


def test_in_place_operations_keep_their_meaning_and_overwrite_nothing():
    torch.manual_seed(0)
    network, x = Functional(), torch.randn(7, 5)
    view = View(network)
    with torch.no_grad():
        assert torch.equal(view(x), network(x))
        before = F.linear(x, network.w1, network.b1)
    first = view.sites[0]
    values = view.run(x, {first.pre, first.node, view.sites[1].node})
    assert torch.equal(values[first.pre], before) and torch.equal(values[first.node], before.relu())
    assert [(m.weight, m.first) for m in view.maps] == [("w1", True), ("w2", False)]
    # `kept`, changed in place, passes beside the second
    assert [s.cut for s in view.sites] == [True, False, True]


def test_constants_computed_early_are_there_for_the_upper_part():
    def early(s, x):
        doubled = 2 * s.w2
        return F.linear(F.relu(F.linear(x, s.w1)), doubled)

    w1, w2 = (nn.Parameter(torch.randn(shape)) for shape in ((6, 5), (3, 6)))
    view, x = View(Net(early, w1=w1, w2=w2)), torch.randn(7, 5)
    site = view.sites[0]
    assert site.cut  # what passes beside it does not depend on the image
    assert torch.equal(view.run_from(site.node, view.run(x, {site.node})[site.node]), view(x))


def test_the_same_features_enter_the_first_map_of_every_branch():
    branches = Net(
        lambda s, x: s.c(torch.cat((s.a(x).relu(), s.b(2 * x)), 1)),
        a=nn.Linear(5, 2),
        b=nn.Linear(5, 2),
        c=nn.Linear(4, 3),
    )
    firsts = [(m.name, m.first) for m in View(branches).maps]
    assert firsts == [("a", True), ("b", True), ("c", False)]


def test_untraceable_networks_are_named():
    class TwoInputs(nn.Module):
        def forward(self, x, y):
            return x + y

    for network in (Net(lambda s, x: x if x.sum() > 0 else -x), TwoInputs()):
        with pytest.raises(UntraceableError, match=type(network).__name__):
            View(network)
