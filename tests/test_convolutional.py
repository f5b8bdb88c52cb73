"""VGG-16 and ResNet-20: shapes and names, composed layers, recomputed statistics, stitching before
normalisation.
"""

import copy

import pytest
import torch
from nets import find, mlp
from nets import loader as flat_loader
from torch import nn

from llfc_lib.data import load
from llfc_lib.metrics import LLFC, Barrier, Stitching, Transfer, displacement_null, measure
from llfc_lib.metrics.displacement import displace, random_difference
from llfc_lib.models import VGG16, ResNet20
from llfc_lib.models.statistics import recomputed
from llfc_lib.models.view import View

VGG_SITES = [
    f"Conv {g}-{n}" for g, count in enumerate((2, 2, 3, 3, 3), 1) for n in range(1, count + 1)
]
BLOCKS = [f"Block {s}-{b}" for s in (1, 2, 3) for b in (1, 2, 3)]


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """Float64, with running statistics and affine parameters unlike those of a fresh network."""
    g = torch.Generator().manual_seed(seed)
    network = network.double().eval()
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.copy_(0.3 * torch.randn(m.num_features, generator=g))
            m.running_var.copy_(0.5 + torch.rand(m.num_features, generator=g))
            m.weight.data.copy_(0.5 + torch.rand(m.num_features, generator=g))
            m.bias.data.copy_(0.3 * torch.randn(m.num_features, generator=g))
        elif isinstance(m, nn.Linear):
            m.weight.data.copy_(torch.randn(m.weight.shape, generator=g) / m.in_features**0.5)
    return network


def make(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = {
        "vgg16": lambda: VGG16(width=4),
        "resnet20": lambda: ResNet20(width=4),
        "resnet20 B": lambda: ResNet20(width=4, shortcut="B"),
    }[kind]()
    return randomised(network, seed)


def images(n: int = 24, batch: int = 8, seed: int = 0) -> list:
    g = torch.Generator().manual_seed(seed)
    x, y = (
        torch.randn(n, 3, 32, 32, generator=g, dtype=torch.float64),
        torch.randint(0, 10, (n,), generator=g),
    )
    return list(zip(x.split(batch), y.split(batch)))


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# the networks


def test_parameter_counts():
    with torch.device("meta"):
        assert count(ResNet20()) == 269_722 and count(ResNet20(shortcut="B")) == 272_474
        assert count(VGG16()) == 33_646_666 and count(VGG16(linear_classifier=True)) == 14_728_266
        assert (
            count(ResNet20(width=8)) < count(ResNet20()) / 3 and count(VGG16(width=16)) == 2_114_842
        )
    with pytest.raises(ValueError, match="unknown shortcut 'C'"):
        ResNet20(shortcut="C")


def test_the_initialisation_of_the_authors_code():
    torch.manual_seed(0)
    vgg, resnet = VGG16(width=16), ResNet20(width=16)
    conv, block = vgg.features.conv3_1, resnet.block2_1.conv1
    assert conv.weight.std().item() == pytest.approx(
        (2 / (conv.out_channels * 9)) ** 0.5, rel=0.02
    )  # fan-out
    assert block.weight.std().item() == pytest.approx(
        (2 / (block.in_channels * 9)) ** 0.5, rel=0.04
    )  # fan-in
    assert vgg.classifier.fc2.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not vgg.classifier.fc2.bias.any() and not conv.bias.any()
    assert [m.p for m in vgg.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


def test_running_statistics_are_no_part_of_the_distance_of_weights():
    a, b = make("resnet20", 0), make("resnet20", 1)
    flat = [torch.cat([p.detach().flatten() for p in n.parameters()]).double() for n in (a, b)]
    expected = float((flat[0] - flat[1]).norm() / (0.5 * (flat[0].norm() + flat[1].norm())))
    for value in (1.0, 1e3):
        for network, variance in ((a, value), (b, 2 * value)):
            for layer in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
                layer.running_var.fill_(variance)
        assert find(
            measure(a, b, images(4, 4), [Barrier((0.0, 0.25, 0.5, 0.75, 1.0))]), "weight_distance"
        ).mean == pytest.approx(expected, rel=1e-6)


def test_sites_of_vgg_are_those_of_table_2():
    view = View(make("vgg16", 0))
    assert [s.name for s in view.sites] == [*VGG_SITES, "FC 1", "FC 2", "logits"] and all(
        s.cut and s.relu for s in view.sites[:-1]
    )
    assert [m.name for m in view.maps] == [*VGG_SITES, "FC 1", "FC 2", "FC 3"]
    features = view.run(images()[0][0], {s.node for s in view.sites})
    shapes = {s.name: tuple(features[s.node].shape[1:]) for s in view.sites}
    assert (
        shapes["Conv 1-1"] == (4, 32, 32)
        and shapes["Conv 3-1"] == (16, 8, 8)
        and shapes["Conv 5-3"] == (32, 2, 2)
    )
    assert shapes["FC 1"] == shapes["FC 2"] == (256,) and shapes["logits"] == (10,)


@pytest.mark.parametrize("kind, shortcuts", [("resnet20", 0), ("resnet20 B", 2)])
def test_sites_of_resnet_are_those_of_table_3(kind, shortcuts):
    view = View(make(kind, 0))
    assert [s.name for s in view.sites if s.cut] == ["Conv 1", *BLOCKS, "logits"]
    assert [s.name for s in view.sites if not s.cut] == [f"{block} inner" for block in BLOCKS]
    maps = [m.name for m in view.maps]
    assert (
        len(maps) == 20 + shortcuts
        and maps[0] == "Conv 1"
        and maps[-1] == "FC"
        and maps[1:3] == ["Block 1-1 conv 1", "Block 1-1 conv 2"]
    )
    assert [name for name in maps if "shortcut" in name] == [
        "Block 2-1 shortcut",
        "Block 3-1 shortcut",
    ][:shortcuts]
    features = view.run(images()[0][0], {s.node for s in view.sites})
    assert {tuple(features[view.site(f"Block {s}-3").node].shape[1:]) for s in (1, 2, 3)} == {
        (4, 32, 32),
        (8, 16, 16),
        (16, 8, 8),
    }


def test_shortcut_a_takes_every_second_pixel_and_adds_zero_channels():
    network = make("resnet20", 0)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    out = network.block2_1.shortcut(x)
    assert (
        torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
        and not out[:, :2].any()
        and not out[:, 6:].any()
    )


@pytest.mark.parametrize("kind", ["vgg16", "resnet20", "resnet20 B"])
def test_composed_layers_are_the_forward_pass_to_the_bit(kind):
    network = make(kind, 1)
    view, x = View(network), images()[0][0]
    assert torch.equal(view(x), network(x))
    for site in (s for s in view.sites if s.cut):
        assert torch.equal(
            view.run_from(site.node, view.run(x, {site.node})[site.node]), network(x)
        ), site.name


def test_features_before_normalisation_are_what_the_convolution_gives():
    network = make("vgg16", 2)
    view, x, seen = View(network), images()[0][0], []
    network.features.conv3_1.register_forward_hook(lambda module, args, out: seen.append(out))
    network(x)
    names = view.features(pre=True, raw=True)
    assert len(names) == 16 + 15 + 13  # sites; before each ReLU; before each normalisation
    assert torch.equal(view.run(x, {names["Conv 3-1 (raw)"]})[names["Conv 3-1 (raw)"]], seen[0])
    normalised = network.features.bn3_1(seen[0])
    assert torch.equal(view.run(x, {names["Conv 3-1 (pre)"]})[names["Conv 3-1 (pre)"]], normalised)


# stitching


@pytest.mark.parametrize("kind", ["vgg16", "resnet20"])
def test_stitched_at_the_input_and_at_the_logits(kind):
    a, b, data = make(kind, 1), make(kind, 2), images()
    rows = measure(
        a, b, data, [Stitching(["input", "logits"]), Barrier((0.0, 0.25, 0.5, 0.75, 1.0))]
    )
    own = {alpha: find(rows, "error", alpha=alpha).mean for alpha in (0.0, 1.0)}
    for direction, upper, lower in (("A to B", 0.0, 1.0), ("B to A", 1.0, 0.0)):
        assert find(rows, "stitched_error", site="input", direction=direction).mean == own[upper]
        assert find(rows, "stitched_error", site="logits", direction=direction).mean == own[lower]


def test_stitched_before_normalisation_the_upper_network_normalises():
    a, b, data = make("vgg16", 1), make("vgg16", 2), images()
    k = [name for name, _ in a.features.named_children()].index("conv3_1") + 1
    logits = torch.cat(
        [b.classifier(b.flatten(b.features[k:](a.features[:k](x)))) for x, _ in data]
    )
    wrong = (logits.argmax(1) != torch.cat([y for _, y in data])).double().mean().item()
    rows = measure(a, b, data, [Stitching(raw=True)])
    assert find(
        rows, "stitched_error", site="Conv 3-1 (raw)", direction="A to B"
    ).mean == pytest.approx(wrong, abs=1e-12)
    after = torch.cat(
        [b.classifier(b.flatten(b.features[k + 2 :](a.features[: k + 2](x)))) for x, _ in data]
    )
    assert not torch.allclose(after, logits)  # a real difference, whatever the errors are
    view_b, view_a = View(b), View(a)
    node = view_a.features(raw=True)["Conv 3-1 (raw)"]
    assert torch.equal(view_b.run_from(node, view_a.run(data[0][0], {node})[node]), logits[:8])
    assert {r.site for r in rows} == {
        *VGG_SITES,
        "FC 1",
        "FC 2",
        *(f"{s} (raw)" for s in VGG_SITES),
    }


@pytest.mark.parametrize("kind", ["mlp", "resnet20"])
def test_transfer_by_explicit_products(kind):
    if kind == "mlp":
        a, b, data = mlp(1), mlp(2), flat_loader()
        site, weights, enters = "FC 3", (a.fc3.weight, b.fc3.weight), "FC 2"
        product = nn.functional.linear
    else:
        a, b, data = make(kind, 1), make(kind, 2), images()
        site, weights, enters = (
            "Block 2-1 conv 1",
            (a.block2_1.conv1.weight, b.block2_1.conv1.weight),
            "Block 1-3",
        )

        def product(h, w):
            return nn.functional.conv2d(h, w, stride=2, padding=1)

    views = View(a), View(b)
    h_a, h_b = (
        torch.cat([v.run(x, {v.site(enters).node})[v.site(enters).node] for x, _ in data])
        for v in views
    )
    mixed, own = product(h_a, weights[1]), product(h_b, weights[1])
    expected = ((mixed - own).square().sum() / (mixed.norm() * own.norm())).item()
    rows = measure(a, b, data, [Transfer()])
    assert find(rows, "dist_transfer", site=site, direction="A to B").mean == pytest.approx(
        expected, rel=1e-10
    )
    assert find(rows, "dist_transfer", site=site, direction="B to A").mean != pytest.approx(
        expected, rel=1e-3
    )
    null = find(
        rows, "dist_transfer", site=site, direction="A to B", role="null", kind="shuffled units"
    ).mean
    assert null > 0 and null != pytest.approx(expected, rel=1e-6)
    itself = measure(a, a, data, [Transfer()])
    assert all(r.mean == 0 for r in itself)


# running statistics


def test_recomputed_statistics_do_not_depend_on_the_order_of_the_batches():
    view, batches = View(make("resnet20", 1)), [x for x, _ in images(40)]
    forth, back = (
        recomputed(view, order).module.named_buffers() for order in (batches, batches[::-1])
    )
    for (name, one), (_, other) in zip(forth, back):
        assert torch.allclose(one.double(), other.double(), rtol=0, atol=1e-12), name


def test_recomputed_statistics_by_hand():
    network, batches = make("resnet20", 1), [x for x, _ in images(40)]
    found = recomputed(View(network), batches).module.get_submodule("bn")
    outputs = [network.conv(x) for x in batches]
    mean = torch.stack([h.mean((0, 2, 3)) for h in outputs]).mean(0)
    variance = torch.stack(
        [h.transpose(0, 1).flatten(1).var(1, unbiased=True) for h in outputs]
    ).mean(0)
    assert torch.allclose(found.running_mean, mean, atol=1e-12) and torch.allclose(
        found.running_var, variance, atol=1e-12
    )
    # and a layer below another normalisation, which sees the batch's own statistics
    trained = copy.deepcopy(network).train()
    for m in trained.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = None
            m.reset_running_stats()
    with torch.no_grad():
        for x in batches:
            trained(x)
    deep = recomputed(View(network), batches).module.get_submodule("block3_3.bn2")
    assert torch.allclose(deep.running_mean, trained.block3_3.bn2.running_mean, atol=1e-12)
    assert torch.allclose(deep.running_var, trained.block3_3.bn2.running_var, atol=1e-12)


def test_recomputing_changes_neither_the_view_nor_what_has_no_statistics():
    network, batches = make("vgg16", 1), [x for x, _ in images()]
    view = View(network)
    before = {k: v.clone() for k, v in view.state().items()}
    other = recomputed(view, batches)
    assert all(torch.equal(before[k], v) for k, v in view.state().items())
    changed = {k for k, v in other.state().items() if not torch.equal(before[k], v)}
    assert changed and all("running" in k or "tracked" in k for k in changed)
    assert not torch.equal(other(batches[0]), view(batches[0]))
    assert torch.allclose(
        other(batches[0])[:3], other(batches[0][:3]), atol=1e-12
    )  # no longer the batch's own
    plain = View(mlp(0))
    assert recomputed(plain, []) is plain
    with pytest.raises(ValueError, match=r"batches of one size, not \[8, 3\]"):
        recomputed(view, [batches[0], batches[1][:3]])


GRID = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize("kind", ["vgg16", "resnet20"])
def test_the_ends_of_the_line_are_the_networks(kind):
    a, b, data = make(kind, 1), make(kind, 2), images()
    y = torch.cat([y for _, y in data])
    plain, again = (
        measure(a, b, data, [Barrier(GRID)], calibration=c)
        for c in (None, [x for x, _ in images(16, seed=5)])
    )
    for alpha, network in ((1.0, a), (0.0, b)):
        logits = torch.cat([network(x) for x, _ in data])
        assert find(plain, "loss", alpha=alpha).mean == pytest.approx(
            nn.functional.cross_entropy(logits, y).item(), abs=1e-12
        )
        own = recomputed(View(network), [x for x, _ in images(16, seed=5)])
        logits = torch.cat([own(x) for x, _ in data])
        row = find(again, "loss", alpha=alpha)
        assert (
            row.mean == pytest.approx(nn.functional.cross_entropy(logits, y).item(), abs=1e-12)
            and row.statistics == "recomputed"
        )


def test_between_the_ends_statistics_are_interpolated_or_recomputed():
    a, b, data = make("resnet20", 1), make("resnet20", 2), images()
    calibration = [x for x, _ in images(16, seed=5)]
    middle = copy.deepcopy(a)
    middle.load_state_dict(
        {
            k: torch.lerp(b.state_dict()[k], v, 0.25) if v.is_floating_point() else v
            for k, v in a.state_dict().items()
        }
    )
    y = torch.cat([y for _, y in data])
    for images_, network in (
        (None, View(middle)),
        (calibration, recomputed(View(middle), calibration)),
    ):
        rows = measure(a, b, data, [Barrier(GRID), LLFC((0.25,))], calibration=images_)
        loss = nn.functional.cross_entropy(torch.cat([network(x) for x, _ in data]), y).item()
        assert find(rows, "loss", alpha=0.25).mean == pytest.approx(loss, abs=1e-12)
    kept = {k: v.clone() for k, v in a.state_dict().items()}
    assert all(torch.equal(v, kept[k]) for k, v in a.state_dict().items())


def test_many_networks_between_are_held_in_one_copy():
    from llfc_lib.metrics.measure import Pair

    pair = Pair(make("resnet20", 1), make("resnet20", 2))
    first = pair.between(0.25)
    x = images()[0][0]
    one = first(x)
    assert pair.between(0.75) is first and not torch.equal(first(x), one)
    assert torch.equal(pair.between(0.25)(x), one)


def test_displaced_partners_have_statistics_of_their_own():
    a, b, data = make("resnet20", 1), make("resnet20", 2), images()
    calibration = [x for x, _ in images(16, seed=5)]
    rows = displacement_null(
        a, b, data, lambda: [Barrier(GRID)], "gaussian", draws=1, seed="s", calibration=calibration
    )
    view = View(a)
    buffers = {n for n, _ in view.module.named_buffers()}
    moved = random_difference(view.state(), View(b).state(), "gaussian", ("s", 0), buffers)
    partner = recomputed(view.with_state(displace(view.state(), moved, 1.0)), calibration)
    y = torch.cat([y for _, y in data])
    loss = nn.functional.cross_entropy(torch.cat([partner(x) for x, _ in data]), y).item()
    found = find(rows, "loss", alpha=0.0, role="null", kind="gaussian t=1").mean
    assert found == pytest.approx(loss, abs=1e-12)
    stale = view.with_state(displace(view.state(), moved, 1.0))
    assert found != pytest.approx(
        nn.functional.cross_entropy(torch.cat([stale(x) for x, _ in data]), y).item(), rel=1e-6
    )


def test_the_first_images_of_a_loader():
    digits = load("digits")
    batches = list(digits.loader("test", 64, first=100))
    assert [len(y) for _, y in batches] == [64, 36] and torch.equal(
        torch.cat([y for _, y in batches]), digits.y_test[:100]
    )


def test_analysis_is_without_tf32():
    seen = []

    class Looks(Barrier):
        def update(self, batch):
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
            super().update(batch)

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        measure(mlp(1), mlp(2), flat_loader(), [Looks(GRID)])
        assert set(seen) == {(False, False)} and torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before[1]
    assert torch.backends.cudnn.allow_tf32 == before[0]
