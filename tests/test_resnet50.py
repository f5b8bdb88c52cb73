"""ResNet-50: torchvision's to the bit, its names, sites and symmetries, and that it learns."""

import pytest
import torch
from llfc_book.study.settings import RECIPES
from torch import nn
from torch.nn import functional as F

from llfc_lib.data import load
from llfc_lib.data.augment import augmenter_for
from llfc_lib.data.torchvision import torchvision
from llfc_lib.matching.symmetry import check_symmetry, symmetry
from llfc_lib.models import ResNet50, build
from llfc_lib.models.view import View
from llfc_lib.training.loop import new_network

COUNTS = (3, 4, 6, 3)
BLOCKS = [f"Block {s}-{b}" for s, count in enumerate(COUNTS, 1) for b in range(1, count + 1)]
LAYERS = [f"layer{s}.{b}" for s, count in enumerate(COUNTS, 1) for b in range(count)]
RECIPE = "resnet50_tinyimagenet_spawn"


def images(n: int, side: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@torch.no_grad()
def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode; fresh statistics and affine parameters (0 and 1) would hide what is lost."""
    g = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight, layer.running_var):
                value.uniform_(0.5, 1.5, generator=g)
            for value in (layer.bias, layer.running_mean):
                value.uniform_(-0.3, 0.3, generator=g)
    return network.eval()


@pytest.fixture(scope="module")
def small() -> nn.Module:
    """Width 8, three channels, ten classes."""
    torch.manual_seed(0)
    return randomised(ResNet50(width=8, classes=10))


# the network


@torch.no_grad()
def test_it_is_torchvisions_to_the_bit():
    torch.manual_seed(0)
    theirs = randomised(torchvision().models.resnet50(weights=None))
    with torch.device("meta"):
        ours = ResNet50()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [
        name for name, _ in theirs.named_parameters()
    ]
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    x = images(2, 64)
    logits = ours.eval()(x)
    assert logits.shape == (2, 1000) and logits.std() > 0.01 and torch.equal(logits, theirs(x))


def test_parameter_counts(small):
    with torch.device("meta"):
        assert count(ResNet50()) == 25_557_032
        fifty = ResNet50(classes=50)
        assert count(fifty) == 25_557_032 - 950 * 2049
        # eight times as wide: convolutions 64 times as large, but for the three channels of the
        # first; the rest 8 times
        sizes = {}
        for width in (8, 64):
            layers = list(ResNet50(width=width, classes=10).named_modules())
            convolutions = [m for name, m in layers if isinstance(m, nn.Conv2d) and name != "conv1"]
            sizes[width] = (
                sum(map(count, convolutions)),
                count(ResNet50(width=width, classes=10)) - 10,
            )
            assert len(convolutions) == 3 * 16 + 4
        (inner, total), (inner64, total64) = sizes[8], sizes[64]
        assert inner64 == 64 * inner and total64 - inner64 == 8 * (total - inner)
    assert count(small) == total + 10
    assert {tuple(m.kernel_size) for m in small.modules() if isinstance(m, nn.Conv2d)} == {
        (7, 7),
        (1, 1),
        (3, 3),
    }
    strided = [
        name for name, m in small.named_modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)
    ]
    halving = [f"layer{s}.0.{part}" for s in (2, 3, 4) for part in ("conv2", "downsample.0")]
    assert strided == ["conv1", *halving]


def test_initialisation_is_hes_normal_draw_by_fan_in():
    torch.manual_seed(0)
    network = ResNet50(width=16, classes=100)
    layers = {
        name: m for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    }
    for name in (
        "conv1",
        "layer1.0.conv2",
        "layer2.0.conv1",
        "layer3.0.downsample.0",
        "layer4.2.conv3",
        "fc",
    ):
        weight = layers[name].weight.detach()
        fan_in = weight[0].numel()
        assert weight.std().item() == pytest.approx(
            (2 / fan_in) ** 0.5, rel=5 / weight.numel() ** 0.5
        ), name
        assert weight.abs().max() > 2.5 * weight.std(), (
            name
        )  # a normal draw's tail; a uniform one ends at 1.73
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1 + 3 * 16 + 4
    assert all((m.weight == 1).all() and not m.bias.any() for m in norms)


def test_every_relu_is_a_module_of_its_own_and_not_in_place(small):
    relus = [m for m in small.modules() if isinstance(m, nn.ReLU)]
    assert len(relus) == 1 + 3 * 16 and not any(m.inplace for m in relus)
    called = [n.target for n in View(small).nodes if n.op == "call_module"]
    assert len(called) == len(set(called))


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 64, 64), (3, 33, 47)])
def test_images_of_any_size(shape):
    network = build("resnet50", shape, 10, width=8).train()
    logits = network(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (3, 10) and logits.isfinite().all()


# as the library sees it


@torch.no_grad()
def test_sites_and_maps_have_the_papers_names(small):
    view, x = View(small), images(2, 64)
    inner = [[f"{block} inner 1", f"{block} inner 2", block] for block in BLOCKS]
    assert [s.name for s in view.sites] == ["Conv 1", *sum(inner, []), "logits"]
    assert [s.name for s in view.sites if s.cut] == ["Conv 1", *BLOCKS, "logits"]
    assert all(s.relu for s in view.sites[:-1])
    maps = ["Conv 1"]
    for block in BLOCKS:
        maps += [f"{block} conv {i}" for i in (1, 2, 3)] + (
            [f"{block} shortcut"] if block.endswith("-1") else []
        )
    assert [m.name for m in view.maps] == [*maps, "FC"]
    assert [m.name for m in view.maps if m.first] == ["Conv 1"]
    features = view.run(x, {s.node for s in view.sites})
    shapes = {s.name: tuple(features[s.node].shape[1:]) for s in view.sites}
    assert shapes["Conv 1"] == (8, 32, 32) and shapes["logits"] == (10,)
    assert [shapes[f"Block {s}-1"] for s in (1, 2, 3, 4)] == [
        (32, 16, 16),
        (64, 8, 8),
        (128, 4, 4),
        (256, 2, 2),
    ]
    assert shapes["Block 2-1 inner 1"] == (16, 16, 16)  # the 3 x 3 has the stride
    assert shapes["Block 2-1 inner 2"] == (16, 8, 8)
    seen, hooks = {}, []
    for name in LAYERS:
        block = small.get_submodule(name)
        hooks.append(
            block.register_forward_hook(
                lambda _m, _args, out, name=name: seen.setdefault(name, out)
            )
        )
    logits = small(x)
    for hook in hooks:
        hook.remove()
    for name, block in zip(LAYERS, BLOCKS, strict=True):
        assert torch.equal(features[view.site(block).node], seen[name]), block
    assert torch.equal(features[view.site("logits").node], logits)
    for site in (s for s in view.sites if s.cut):
        assert torch.equal(view.run_from(site.node, features[site.node]), logits), site.name


@torch.no_grad()
def test_permuted_it_is_the_same_function(small):
    x = images(2, 32)
    sym = symmetry(small, x)
    inner, streams = (
        [8] * 6 + [16] * 8 + [32] * 12 + [64] * 6,
        [8, 32, 64, 128, 256],
    )  # two a block; stem and stages
    assert sorted(p.size for p in sym) == sorted(inner + streams)
    permutations = sym.cycles("test", 0)
    assert all((order != torch.arange(len(order))).all() for order in permutations.values())
    for seed in (0, 1):
        assert check_symmetry(small, sym, x, randomise=True, seed=seed) < 1e-10
    assert check_symmetry(small, sym, x, permutations) < 1e-10
    moved = sym.apply(small.state_dict(), permutations)
    stay = [key for key, value in small.state_dict().items() if torch.equal(moved[key], value)]
    assert all(key.endswith("num_batches_tracked") or key == "fc.bias" for key in stay)


# training


def test_a_small_one_learns_digits():
    torch.manual_seed(0)
    data = load("digits")
    network = build("resnet50", data.image_shape, data.classes, width=8).train()
    x, y = data.normalise(data.x_train[:128]), data.y_train[:128]
    optimiser, losses = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9), []
    for _ in range(12):
        losses.append(F.cross_entropy(network(x), y))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    assert losses[-1].item() < 0.5 * losses[0].item()


def test_the_recipe_draws_this_network_by_its_seed():
    digits = load(
        "digits"
    )  # in the place of Tiny-ImageNet: the recipe names the network, the data its size
    first, again, other = (new_network(RECIPES[RECIPE], digits, seed) for seed in (0, 0, 1))
    assert (
        isinstance(first, ResNet50)
        and first.conv1.weight.shape == (64, 1, 7, 7)
        and first.fc.out_features == 10
    )
    assert torch.equal(first.layer4[2].conv2.weight, again.layer4[2].conv2.weight)
    assert not torch.equal(first.layer4[2].conv2.weight, other.layer4[2].conv2.weight)


def test_crops_of_64_pixels_are_padded_by_8():
    x = torch.randint(1, 256, (6, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    augmenter = augmenter_for(x, RECIPES[RECIPE].augment)
    assert augmenter.pad == 8 and augmenter.padded.shape == (6, 80, 80, 3)
    index = torch.arange(6)
    draws = augmenter.draw("test")
    for top, left in ((0, 0), (8, 8), (16, 3)):
        draws.top.fill_(top)
        draws.left.fill_(left)
        draws.flip.copy_(index % 2 == 1)
        batch = augmenter.batch(index, draws)
        assert batch.shape == (6, 3, 64, 64) and batch.dtype == torch.uint8
        expected = F.pad(x, (8, 8, 8, 8))[..., top : top + 64, left : left + 64]
        assert torch.equal(batch[::2], expected[::2]) and torch.equal(
            batch[1::2], expected[1::2].flip(-1)
        )
    many = augmenter_for(torch.zeros(2000, 1, 64, 64, dtype=torch.uint8), ("crop",)).draw("test")
    assert (many.top.min(), many.top.max(), many.left.min(), many.left.max()) == (0, 16, 0, 16)
