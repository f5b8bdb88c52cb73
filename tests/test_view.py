"""The traced view: the same numbers as the module itself, on networks that nobody prepared for it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llfc_lib.data.torchvision import torchvision
from llfc_lib.models import MLP
from llfc_lib.models.view import UntraceableError, View


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """In evaluation mode, with running statistics and affine parameters that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor in (m.running_mean, m.bias.data):
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
            for tensor in (m.running_var, m.weight.data):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return module.eval()


def foreign(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = getattr(torchvision().models, name)(weights=None, num_classes=10)
    return randomised(network, seed)


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["resnet18", "vgg16_bn"])
def network(request):
    return foreign(request.param)


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
    assert all(s.cut for s in view.sites) and [s.relu for s in view.sites] == [
        True,
        True,
        True,
        False,
    ]


def test_foreign_networks_run_to_the_same_bits_and_stay_as_they_were(network, images):
    before, names = (
        copy.deepcopy(network.state_dict()),
        [m.inplace for m in network.modules() if hasattr(m, "inplace")],
    )
    with torch.no_grad():
        expected = network(images)
    assert torch.equal(View(network)(images), expected)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert (
        names == [m.inplace for m in network.modules() if hasattr(m, "inplace")]
        and not network.training
    )


def test_a_module_that_is_called_twice_gives_two_sites(images):
    network = foreign("resnet18")
    view = View(network)
    names = [s.name for s in view.sites]
    assert len(names) == 1 + 8 * 2 + 1 and len(set(names)) == len(names)
    assert (
        names[:4] == ["relu", "layer1.0.relu", "layer1.0.relu#2", "layer1.1.relu"]
        and names[-1] == "logits"
    )
    # the stem and the ends of blocks carry everything; inside a block the shortcut passes beside
    assert [s.name for s in view.sites if s.cut] == [
        "relu",
        *(n for n in names if n.endswith("#2")),
        "logits",
    ]
    # kept values are those of eager execution, not what a later in-place operation made of them
    seen = []
    network.layer1[0].bn1.register_forward_hook(lambda m, i, o: seen.append(o.detach().clone()))
    with torch.no_grad():
        network(images)
    site = view.site("layer1.0.relu")
    values = view.run(images, {site.node, site.pre})
    assert torch.equal(values[site.pre], seen[0]) and torch.equal(values[site.node], seen[0].relu())


def test_every_map_gives_its_output_from_what_enters_it(network, images):
    view, state = View(network), network.state_dict()
    values = view.run(images, {n for m in view.maps for n in (m.input, m.node)})
    assert len(view.maps) == {"ResNet": 21, "VGG": 16}[type(network).__name__]
    assert [m.first for m in view.maps] == [True] + [False] * (len(view.maps) - 1)
    for m in view.maps:
        h, bias = values[m.input], state.get(m.weight.replace("weight", "bias"))
        out = m.apply(state[m.weight], h)
        if bias is not None:
            out = out + (bias if m.unit_axis == -1 else bias[:, None, None])
        torch.testing.assert_close(out, values[m.node], rtol=1e-4, atol=1e-5)
        assert h.shape[m.unit_axis] == state[m.weight].shape[1]


def test_stitched_at_the_ends_a_network_is_one_of_the_two(network, images):
    bottom, top = (
        View(network),
        View(foreign({"ResNet": "resnet18", "VGG": "vgg16_bn"}[type(network).__name__], 1)),
    )
    values = bottom.run(images, {bottom.input, *(s.node for s in bottom.sites)})
    assert torch.equal(top.run_from(top.input, values[bottom.input]), top(images))
    assert torch.equal(top.run_from(top.output, values[bottom.output]), bottom(images))
    for site in (s for s in bottom.sites if s.cut):
        assert torch.equal(bottom.run_from(site.node, values[site.node]), bottom(images))
        if site.name != "logits":
            mixed = top.run_from(site.node, values[site.node])
            assert not torch.equal(mixed, top(images)) and not torch.equal(mixed, bottom(images))


def test_weights_can_be_exchanged(network, images):
    other = foreign({"ResNet": "resnet18", "VGG": "vgg16_bn"}[type(network).__name__], 1)
    view = View(network)
    assert torch.equal(view.with_state(other.state_dict())(images), View(other)(images))
    assert torch.equal(view(images), View(network)(images))  # the first one is not touched
    assert view.to(torch.float64)(images.double()).dtype == torch.float64


@torch.no_grad()
def test_weights_of_recurrent_layers_and_layers_with_hooks_can_be_exchanged():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.relu, self.fc = (
                nn.LSTM(4, 5, batch_first=True),
                nn.ReLU(),
                nn.Linear(5, 3),
            )
            self.fc.register_forward_pre_hook(lambda layer, args: (2 * args[0],))

        def forward(self, x):
            return self.fc(self.relu(self.lstm(x)[0][:, -1]))

    torch.manual_seed(0)
    a, b, x = Recurrent(), Recurrent(), torch.randn(6, 7, 4)
    before = a(x)
    other = View(a).with_state(b.state_dict())
    assert torch.equal(other(x), b(x)) and not torch.allclose(b(x), before)
    view = View(a)
    copied = view.to(torch.float32)
    assert torch.equal(view(x), before) and torch.equal(a(x), before)
    for layer in (
        a.lstm,
        a.relu,
        a.fc,
    ):  # what the user hangs on their network later does not reach into the view
        layer.register_forward_hook(
            lambda layer, args, out: pytest.fail("a hook of the original ran")
        )
    assert torch.equal(view(x), before) and torch.equal(copied(x), before)


def test_in_place_operations_keep_their_meaning_and_overwrite_nothing():
    torch.manual_seed(0)
    network, x = Functional(), torch.randn(7, 5)
    view = View(network)
    with torch.no_grad():
        torch.testing.assert_close(view(x), network(x), rtol=0, atol=0)
        before = F.linear(x, network.w1, network.b1)
    first, second, logits = view.sites
    values = view.run(x, {first.pre, first.node, second.node})
    assert torch.equal(values[first.pre], before) and torch.equal(values[first.node], before.relu())
    assert [m.weight for m in view.maps] == ["w1", "w2"] and [m.first for m in view.maps] == [
        True,
        False,
    ]
    assert [s.cut for s in view.sites] == [
        True,
        False,
        True,
    ]  # `kept`, changed in place, passes beside the second


def test_constants_computed_early_are_there_for_the_upper_part():
    class Early(nn.Module):
        def __init__(self):
            super().__init__()
            self.w1, self.w2 = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(3, 6))

        def forward(self, x):
            doubled = 2 * self.w2
            return F.linear(F.relu(F.linear(x, self.w1)), doubled)

    view, x = View(Early()), torch.randn(7, 5)
    site = view.sites[0]
    assert site.cut  # what passes beside it does not depend on the image
    assert torch.equal(view.run_from(site.node, view.run(x, {site.node})[site.node]), view(x))


def test_an_unknown_site_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown site 'FC 9'; this network has .*'FC 3'"):
        View(MLP(20, 8)).site("FC 9")


def test_untraceable_networks_say_why_and_what_to_do():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    class TwoInputs(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(UntraceableError, match="(?s)forward pass of Branches.*torch.fx.wrap"):
        View(Branches())
    with pytest.raises(UntraceableError, match="TwoInputs must take one tensor"):
        View(TwoInputs())


def test_on_device_meta():
    view = View(foreign("resnet18").to("meta"))
    assert view(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)
