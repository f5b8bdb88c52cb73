"""ResNet-50: torchvision's to the bit, its names, sites and symmetries."""

import pytest
import torch
from llfc_book.study.settings import RECIPES
from nets import randomised
from torch import nn

from llfc_lib.data import load
from llfc_lib.data.torchvision import torchvision
from llfc_lib.models import ResNet50
from llfc_lib.models.view import View
from llfc_lib.training.loop import new_network

COUNTS = (3, 4, 6, 3)
BLOCKS = [f"Block {s}-{b}" for s, count in enumerate(COUNTS, 1) for b in range(1, count + 1)]


def images(n: int, *shape: int) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@torch.no_grad()
def test_it_is_torchvisions_to_the_bit():
    torch.manual_seed(0)
    theirs = randomised(torchvision().models.resnet50(weights=None))
    with torch.device("meta"):
        ours = ResNet50()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert count(ours) == count(theirs) == 25_557_032
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    x = images(2, 3, 64, 64)
    logits = ours.eval()(x)
    assert logits.shape == (2, 1000) and logits.std() > 0.01 and torch.equal(logits, theirs(x))


def test_initialisation_is_hes_normal_draw_by_fan_in():
    torch.manual_seed(0)
    network = ResNet50(width=16, classes=100)
    names = ("conv1", "layer1.0.conv2", "layer3.0.downsample.0", "layer4.2.conv3", "fc")
    for name in names:
        weight = network.get_submodule(name).weight.detach()
        expected = (2 / weight[0].numel()) ** 0.5
        assert weight.std().item() == pytest.approx(expected, rel=5 / weight.numel() ** 0.5), name
        # a normal draw's tail; a uniform one ends at 1.73
        assert weight.abs().max() > 2.5 * weight.std(), name
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((m.weight == 1).all() and not m.bias.any() for m in norms)


@torch.no_grad()
def test_sites_and_maps_have_the_papers_names():
    small, x = randomised(ResNet50(width=8, classes=10)), images(2, 3, 64, 64)
    view = View(small)
    names, maps = ["Conv 1"], ["Conv 1"]
    for block in BLOCKS:
        names += [f"{block} inner 1", f"{block} inner 2", block]
        maps += [f"{block} conv {i}" for i in (1, 2, 3)]
        maps += [f"{block} shortcut"] if block.endswith("-1") else []
    assert [s.name for s in view.sites] == [*names, "logits"]
    assert [s.name for s in view.sites if s.cut] == ["Conv 1", *BLOCKS, "logits"]
    assert [m.name for m in view.maps] == [*maps, "FC"]
    assert [m.name for m in view.maps if m.first] == ["Conv 1"]
    features = view.run(x, {s.node for s in view.sites})
    shapes = {s.name: tuple(features[s.node].shape[1:]) for s in view.sites}
    ends = {"Conv 1": (8, 32, 32), "Block 1-1": (32, 16, 16), "Block 4-1": (256, 2, 2)}
    # the 3 x 3 has the stride
    stride = {"Block 2-1 inner 1": (16, 16, 16), "Block 2-1 inner 2": (16, 8, 8)}
    assert shapes | ends | stride == shapes
    logits = small(x)
    for site in (s for s in view.sites if s.cut):
        assert torch.equal(view.run_from(site.node, features[site.node]), logits), site.name


def test_the_recipe_draws_this_network():
    """The recipe names the network, the data its size: digits in the place of Tiny-ImageNet."""
    network = new_network(RECIPES["resnet50_tinyimagenet_spawn"], load("digits"), 0)
    assert isinstance(network, ResNet50)
    assert network.conv1.weight.shape == (64, 1, 7, 7) and network.fc.out_features == 10
