"""VGG-16 and ResNet-20: shapes and names, composed layers, recomputed statistics, stitching before
normalisation.
"""

import copy

import pytest
import torch
from nets import find, mlp, randomised, same, whole
from nets import loader as flat_loader
from torch import nn
from torch.nn import functional as F

from llfc_lib.metrics import LLFC, Barrier, Stitching, Transfer, displacement_null, measure
from llfc_lib.metrics.displacement import displace, random_difference
from llfc_lib.models import VGG16, ResNet20
from llfc_lib.models.statistics import recomputed
from llfc_lib.models.view import View
from llfc_lib.models.weights import interpolate

GROUPS = enumerate((2, 2, 3, 3, 3), 1)
VGG_SITES = [f"Conv {g}-{n}" for g, count in GROUPS for n in range(1, count + 1)]
BLOCKS = [f"Block {s}-{b}" for s in (1, 2, 3) for b in (1, 2, 3)]
GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
MAKE = {
    "vgg16": lambda: VGG16(width=4),
    "resnet20": lambda: ResNet20(width=4),
    "resnet20 B": lambda: ResNet20(width=4, shortcut="B"),
}


def make(kind: str, seed: int) -> nn.Module:
    """Float64, with a classifier that tells images apart."""
    torch.manual_seed(seed)
    network = MAKE[kind]().double()
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return randomised(network, seed)


def images(n: int = 24, batch: int = 8, seed: int = 0) -> list:
    return flat_loader(n, (3, 32, 32), batch, seed)


def calibration() -> list[torch.Tensor]:
    return [x for x, _ in images(16, seed=5)]


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@torch.no_grad()
def loss(network, data: list) -> float:
    x, y = whole(data)
    return F.cross_entropy(network(x), y).item()


# the networks


def test_parameter_counts():
    with torch.device("meta"):
        assert count(ResNet20()) == 269_722 and count(ResNet20(shortcut="B")) == 272_474
        assert count(VGG16()) == 33_646_666 and count(VGG16(linear_classifier=True)) == 14_728_266
        assert count(VGG16(width=16)) == 2_114_842
    with pytest.raises(ValueError, match="'C'"):
        ResNet20(shortcut="C")


def test_the_initialisation_of_the_authors_code():
    torch.manual_seed(0)
    vgg, resnet = VGG16(width=16), ResNet20(width=16)
    conv, block, fc = vgg.features.conv3_1, resnet.block2_1.conv1, vgg.classifier.fc2
    fan_out, fan_in = (2 / (conv.out_channels * 9)) ** 0.5, (2 / (block.in_channels * 9)) ** 0.5
    assert conv.weight.std().item() == pytest.approx(fan_out, rel=0.02)
    assert block.weight.std().item() == pytest.approx(fan_in, rel=0.04)
    assert fc.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not fc.bias.any() and not conv.bias.any()
    assert [m.p for m in vgg.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


def test_running_statistics_are_no_part_of_the_distance_of_weights():
    a, b = make("resnet20", 0), make("resnet20", 1)
    flat = [torch.cat([p.detach().flatten() for p in n.parameters()]) for n in (a, b)]
    expected = float((flat[0] - flat[1]).norm() / (0.5 * (flat[0].norm() + flat[1].norm())))
    a.bn.running_var.fill_(1e3)
    rows = measure(a, b, images(4, 4), [Barrier(GRID)])
    assert find(rows, "weight_distance").mean == pytest.approx(expected, rel=1e-6)


def test_sites_of_vgg_are_those_of_table_2():
    view = View(make("vgg16", 0))
    assert [s.name for s in view.sites] == [*VGG_SITES, "FC 1", "FC 2", "logits"]
    assert all(s.cut and s.relu for s in view.sites[:-1])
    assert [m.name for m in view.maps] == [*VGG_SITES, "FC 1", "FC 2", "FC 3"]
    features = view.run(images()[0][0], {s.node for s in view.sites})
    shapes = {s.name: tuple(features[s.node].shape[1:]) for s in view.sites}
    some = {"Conv 1-1": (4, 32, 32), "Conv 3-1": (16, 8, 8), "Conv 5-3": (32, 2, 2), "FC 2": (256,)}
    assert shapes | some == shapes


@pytest.mark.parametrize("kind, shortcuts", [("resnet20", []), ("resnet20 B", [2, 3])])
def test_sites_of_resnet_are_those_of_table_3(kind, shortcuts):
    view = View(make(kind, 0))
    assert [s.name for s in view.sites if s.cut] == ["Conv 1", *BLOCKS, "logits"]
    assert [s.name for s in view.sites if not s.cut] == [f"{block} inner" for block in BLOCKS]
    maps = [f"{block} conv {k}" for block in BLOCKS for k in (1, 2)]
    maps += ["Conv 1", "FC", *(f"Block {s}-1 shortcut" for s in shortcuts)]
    assert sorted(m.name for m in view.maps) == sorted(maps)
    features = view.run(images()[0][0], {s.node for s in view.sites})
    ends = [tuple(features[view.site(f"Block {s}-3").node].shape[1:]) for s in (1, 2, 3)]
    assert ends == [(4, 32, 32), (8, 16, 16), (16, 8, 8)]


def test_shortcut_a_takes_every_second_pixel_and_adds_zero_channels():
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    out = make("resnet20", 0).block2_1.shortcut(x)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any() and not out[:, 6:].any()


def test_features_before_normalisation_are_what_the_convolution_gives():
    network = make("vgg16", 2)
    view, x = View(network), images()[0][0]
    split = [name for name, _ in network.features.named_children()].index("conv3_1") + 1
    convolved = network.features[:split](x)
    names = view.features(pre=True, raw=True)
    assert len(names) == 16 + 15 + 13  # sites; before each ReLU; before each normalisation
    raw, pre = names["Conv 3-1 (raw)"], names["Conv 3-1 (pre)"]
    values = view.run(x, {raw, pre})
    assert torch.equal(values[raw], convolved)
    assert torch.equal(values[pre], network.features.bn3_1(convolved))


# stitching


@torch.no_grad()
def test_stitched_before_normalisation_the_upper_network_normalises():
    a, b, data = make("vgg16", 1), make("vgg16", 2), images()
    x, y = whole(data)
    k = [name for name, _ in a.features.named_children()].index("conv3_1") + 1
    logits, after = (
        b.classifier(b.flatten(b.features[split:](a.features[:split](x)))) for split in (k, k + 2)
    )
    assert not torch.allclose(after, logits)  # a real difference, whatever the errors are
    rows = measure(a, b, data, [Stitching(raw=True)])
    found = find(rows, "stitched_error", site="Conv 3-1 (raw)", direction="A to B").mean
    assert found == pytest.approx((logits.argmax(1) != y).double().mean().item(), abs=1e-12)


@torch.no_grad()
def test_transfer_by_explicit_products():
    a, b, data = make("resnet20", 1), make("resnet20", 2), images()
    views, x, site = (View(a), View(b)), whole(data)[0], "Block 2-1 conv 1"
    node = views[0].site("Block 1-3").node
    mixed, own = (b.block2_1.conv1(view.run(x, {node})[node]) for view in views)
    expected = ((mixed - own).square().sum() / (mixed.norm() * own.norm())).item()
    rows = measure(a, b, data, [Transfer()])
    where = {"quantity": "dist_transfer", "site": site}
    assert find(rows, **where, direction="A to B").mean == pytest.approx(expected, rel=1e-10)
    backwards = find(rows, **where, direction="B to A").mean
    assert backwards != pytest.approx(expected, rel=1e-3)


# running statistics


@torch.no_grad()
def test_recomputed_statistics_by_hand():
    """The last layer sees what normalisations above it make of the batch's own statistics."""
    network, batches = make("resnet20", 1), [x for x, _ in images(40)]
    found = recomputed(View(network), batches).module
    trained = copy.deepcopy(network).train()
    for m in trained.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = None
            m.reset_running_stats()
    for x in batches[::-1]:  # in any order
        trained(x)
    deep, expected = found.block3_3.bn2, trained.block3_3.bn2
    assert torch.allclose(deep.running_mean, expected.running_mean, atol=1e-12)
    assert torch.allclose(deep.running_var, expected.running_var, atol=1e-12)


def test_recomputing_changes_neither_the_view_nor_what_has_no_statistics():
    view, batches = View(make("vgg16", 1)), [x for x, _ in images()]
    before = copy.deepcopy(view.state())
    other = recomputed(view, batches)
    assert same(view.state(), before)
    changed = {k for k, v in other.state().items() if not torch.equal(before[k], v)}
    assert changed and all("running" in k or "tracked" in k for k in changed)
    x = batches[0]
    assert not torch.equal(other(x), view(x))
    assert torch.allclose(other(x)[:3], other(x[:3]), atol=1e-12)  # no longer the batch's own
    plain = View(mlp(0))
    assert recomputed(plain, []) is plain
    with pytest.raises(ValueError, match="batches of one size"):
        recomputed(view, [x, x[:3]])


@pytest.mark.parametrize("kind", ["vgg16", "resnet20"])
def test_on_the_line_statistics_are_interpolated_or_recomputed(kind):
    """At its ends they are the networks' own, or their own recomputed."""
    a, b, data = make(kind, 1), make(kind, 2), images()
    plain = measure(a, b, data, [Barrier(GRID), LLFC((0.25,))])
    again = measure(a, b, data, [Barrier(GRID), LLFC((0.25,))], calibration=calibration())
    assert {row.statistics for row in again} == {"recomputed"}
    for alpha in (0.0, 0.25, 1.0):
        between = View(a).with_state(interpolate(a.state_dict(), b.state_dict(), alpha))
        for rows, network in ((plain, between), (again, recomputed(between, calibration()))):
            found = find(rows, "loss", alpha=alpha).mean
            assert found == pytest.approx(loss(network, data), abs=1e-12)


def test_displaced_partners_have_statistics_of_their_own():
    a, b, data = make("resnet20", 1), make("resnet20", 2), images()
    metrics = [Barrier(GRID)]
    rows = displacement_null(
        a, b, data, lambda: metrics, "gaussian", draws=1, seed="s", calibration=calibration()
    )
    view = View(a)
    buffers = {name for name, _ in view.module.named_buffers()}
    moved = random_difference(view.state(), View(b).state(), "gaussian", ("s", 0), buffers)
    stale = view.with_state(displace(view.state(), moved, 1.0))
    found = find(rows, "loss", alpha=0.0, role="null", kind="gaussian t=1").mean
    assert found == pytest.approx(loss(recomputed(stale, calibration()), data), abs=1e-12)
    assert found != pytest.approx(loss(stale, data), rel=1e-6)


def test_analysis_is_without_tf32():
    seen, products, convolutions = [], torch.backends.cuda.matmul, torch.backends.cudnn

    class Looks(Barrier):
        def update(self, batch):
            seen.append((convolutions.allow_tf32, products.allow_tf32))
            super().update(batch)

    before, products.allow_tf32 = products.allow_tf32, True
    try:
        measure(mlp(1), mlp(2), flat_loader(), [Looks(GRID)])
        assert set(seen) == {(False, False)} and products.allow_tf32
    finally:
        products.allow_tf32 = before
