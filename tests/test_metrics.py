"""Metrics against direct formulas on whole matrices, and the properties that they must have."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import Conv, conv, find, loader, mlp, near
from torch import nn
from torch.nn import functional as F

from llfc_lib.data.torchvision import torchvision
from llfc_lib.metrics import (
    LLFC,
    Barrier,
    Commutativity,
    Stitching,
    WeakAdditivity,
    displacement_null,
    measure,
)
from llfc_lib.models.view import UntraceableError, View
from llfc_lib.models.weights import interpolate, weight_distance

ALPHAS = (0.25, 0.5, 0.75)
seeds = st.integers(0, 2**20)


def everything(pre=True):
    return [LLFC(ALPHAS, pre=pre), Commutativity(), WeakAdditivity(), Stitching(), Barrier()]


def hidden(network, x):
    """H^(0..3) and logits of the MLP, pre-activations beside, by hand."""
    h, values = x.flatten(1), {}
    for k in (1, 2, 3):
        pre = getattr(network, f"fc{k}")(h)
        values[f"in {k}"], values[f"FC {k} (pre)"], h = h, pre, pre.relu()
        values[f"FC {k}"] = h
    values["in 4"], values["logits"] = h, network.fc4(h)
    return {k: v.detach() for k, v in values.items()}


@pytest.fixture(scope="module")
def pair():
    a = mlp(0)
    return a, near(a, 1)


@pytest.fixture(scope="module")
def whole():
    batches = loader()
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def between(a, b, alpha):
    network = mlp(0)
    network.load_state_dict(interpolate(a.state_dict(), b.state_dict(), alpha))
    return network


# against direct formulas


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("site", ["FC 1", "FC 2", "FC 3", "logits", "FC 2 (pre)"])
def test_llfc_by_hand(pair, whole, alpha, site):
    a, b = pair
    rows = measure(a, b, loader(), [LLFC(ALPHAS, pre=True)])
    f_a, f_b, f = (hidden(n, whole[0])[site] for n in (a, b, between(a, b, alpha)))
    m = alpha * f_a + (1 - alpha) * f_b

    def cos(x, y):
        return F.cosine_similarity(x, y, dim=1)

    def coef(x):
        return (x * m).sum(1) / (m * m).sum(1)

    for quantity, values in (("1-cos_alpha", 1 - cos(f, m)), ("1-coef_alpha", 1 - coef(f))):
        row = find(rows, quantity, site=site, alpha=alpha)
        assert row.n == 60
        assert row.mean == pytest.approx(values.mean().item(), rel=1e-9)
        assert row.std == pytest.approx(values.std().item(), rel=1e-9)  # unbiased
    base = find(rows, "1-cos_AB", site=site)
    assert base.mean == pytest.approx((1 - cos(f_a, f_b)).mean().item(), rel=1e-9)
    assert find(rows, "cos_ratio", site=site, alpha=alpha).mean == pytest.approx(
        ((1 - cos(f, m)).mean() / (1 - cos(f_a, f_b)).mean()).item(), rel=1e-9
    )
    total = 1 - (f * m).sum() / (f.norm() * m.norm())
    assert find(rows, "set_1-cos_alpha", site=site, alpha=alpha).mean == pytest.approx(
        total.item(), rel=1e-7
    )
    c = find(rows, "set_c", site=site, alpha=alpha).mean
    assert c == pytest.approx(((f * m).sum() / (f * f).sum()).item(), rel=1e-12)
    # c is where |c f - m| is smallest
    assert all((c * f - m).norm() < ((c + d) * f - m).norm() for d in (-1e-3, 1e-3))


def test_alpha_is_the_share_of_a(pair):
    rows, swapped = (
        measure(*pair, loader(), [LLFC((0.25, 0.75))]),
        measure(*pair[::-1], loader(), [LLFC((0.25, 0.75))]),
    )
    one, other = (
        find(rows, "1-cos_alpha", site="FC 2", alpha=0.25).mean,
        find(swapped, "1-cos_alpha", site="FC 2", alpha=0.75).mean,
    )
    assert one == pytest.approx(other, rel=1e-9)
    assert one != pytest.approx(find(rows, "1-cos_alpha", site="FC 2", alpha=0.75).mean, rel=1e-3)


def dist(x, y):
    return ((x - y).square().sum() / (x.norm() * y.norm())).item()


@pytest.mark.parametrize("k", [2, 3, 4])
def test_commutativity_by_hand(pair, whole, k):
    a, b = pair
    rows = measure(a, b, loader(), [Commutativity()])
    (w_a, w_b), (h_a, h_b) = (
        (getattr(n, f"fc{k}").weight.detach() for n in pair),
        (hidden(n, whole[0])[f"in {k}"] for n in pair),
    )
    left, right = h_a @ w_a.T + h_b @ w_b.T, h_b @ w_a.T + h_a @ w_b.T
    site = f"FC {k}"
    assert find(rows, "dist_com", site=site).mean == pytest.approx(dist(left, right), rel=1e-9)
    assert find(rows, "dist_W", site=site).mean == pytest.approx(dist(w_a, w_b), rel=1e-9)
    assert find(rows, "dist_H", site=site).mean == pytest.approx(dist(h_a, h_b), rel=1e-9)
    # the identity behind the second-order remark, to rounding
    torch.testing.assert_close(left - right, (h_a - h_b) @ (w_a - w_b).T, rtol=1e-10, atol=1e-12)
    assert not [r for r in rows if r.site == "FC 1"]  # there both sides are equal by construction


def test_commutativity_of_convolutions_by_hand():
    a, b = conv(0), conv(1)
    batches = loader(shape=(2, 5, 5))
    x = torch.cat([x for x, _ in batches])
    rows = measure(a, b, batches, [Commutativity()])
    assert {r.site for r in rows} == {"conv2", "fc"}
    h_a, h_b = (n.relu1(n.conv1(x)).detach() for n in (a, b))

    def apply(n, h):
        return F.conv2d(h, n.conv2.weight, None, padding=1).detach()

    expected = dist(apply(a, h_a) + apply(b, h_b), apply(a, h_b) + apply(b, h_a))
    assert find(rows, "dist_com", site="conv2").mean == pytest.approx(expected, rel=1e-9)


def test_bias_is_left_out_of_commutativity(pair):
    a, b = pair
    before = find(measure(a, b, loader(), [Commutativity()]), "dist_com", site="FC 4").mean
    changed = near(b, 0, 0)
    changed.fc4.bias.data += 100
    assert (
        find(measure(a, changed, loader(), [Commutativity()]), "dist_com", site="FC 4").mean
        == before
    )


@pytest.mark.parametrize("k", [1, 2, 3])
def test_weak_additivity_by_hand(pair, whole, k):
    x, y = (hidden(n, whole[0])[f"FC {k} (pre)"] for n in pair)
    assert find(
        measure(*pair, loader(), [WeakAdditivity()]), "dist_add", site=f"FC {k}"
    ).mean == pytest.approx(dist((x + y).relu(), x.relu() + y.relu()), rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_stitching_by_hand(whole, k):
    a, b = mlp(0), mlp(7)
    rows, (x, y) = measure(a, b, loader(), [Stitching()]), whole

    def through(bottom, top):
        h = hidden(bottom, x)[f"FC {k}"]
        for layer in range(k + 1, 4):
            h = getattr(top, f"fc{layer}")(h).relu()
        return (top.fc4(h).argmax(1) != y).double().mean().item()

    assert find(rows, "stitched_error", site=f"FC {k}", direction="A to B").mean == pytest.approx(
        through(a, b)
    )
    assert find(rows, "stitched_error", site=f"FC {k}", direction="B to A").mean == pytest.approx(
        through(b, a)
    )
    assert through(a, b) != through(b, a)


def test_stitched_at_input_and_logits_it_is_one_of_the_two(whole):
    a, b = mlp(0), mlp(3)
    rows, ends = (
        measure(a, b, loader(), [Stitching(["input", "logits"])]),
        measure(a, b, loader(), [Barrier()]),
    )
    error_a, error_b = find(ends, "error", alpha=1.0).mean, find(ends, "error", alpha=0.0).mean
    assert error_a != error_b
    assert find(rows, "stitched_error", site="input", direction="A to B").mean == error_b
    assert find(rows, "stitched_error", site="logits", direction="A to B").mean == error_a
    assert find(rows, "stitched_error", site="input", direction="B to A").mean == error_a


def test_barrier_by_hand(pair, whole):
    a, b = pair
    rows, (x, y) = measure(a, b, loader(), [Barrier()]), whole
    curve, losses = {}, {}
    for alpha in [k / 20 for k in range(21)]:
        logits = between(a, b, alpha)(x).detach()
        curve[alpha], losses[alpha] = (
            (logits.argmax(1) != y).double().mean().item(),
            F.cross_entropy(logits, y).item(),
        )
        assert find(rows, "error", alpha=alpha).mean == pytest.approx(curve[alpha])
        assert find(rows, "loss", alpha=alpha).mean == pytest.approx(losses[alpha], rel=1e-12)
    for quantity, c in (("error", curve), ("loss", losses)):
        assert find(rows, f"{quantity}_barrier").mean == pytest.approx(
            max(c.values()) - (c[0.0] + c[1.0]) / 2
        )
        over = max(v - (alpha * c[1.0] + (1 - alpha) * c[0.0]) for alpha, v in c.items())
        assert find(rows, f"{quantity}_barrier_chord").mean == pytest.approx(over)
    differ = (a(x).argmax(1) != b(x).argmax(1)).double().mean().item()
    assert find(rows, "disagreement").mean == pytest.approx(differ) and differ > 0
    flat = [torch.cat([p.detach().flatten() for p in n.parameters()]) for n in pair]
    expected = (flat[0] - flat[1]).norm() / (0.5 * (flat[0].norm() + flat[1].norm()))
    assert find(rows, "weight_distance").mean == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_null_of_the_nearest_endpoint_by_hand(pair, whole, alpha):
    """Image by image, over both endpoints: the smaller 1-cos, and the coefficient nearer to 1."""
    rows = measure(*pair, loader(), [LLFC(ALPHAS)])
    f_a, f_b = (hidden(n, whole[0])["FC 2"] for n in pair)
    m = alpha * f_a + (1 - alpha) * f_b
    where = {"site": "FC 2", "alpha": alpha, "role": "null", "kind": "nearest endpoint"}
    cosine = torch.stack([1 - F.cosine_similarity(f, m, dim=1) for f in (f_a, f_b)]).amin(0)
    assert find(rows, "1-cos_alpha", **where).mean == pytest.approx(cosine.mean().item(), rel=1e-9)
    ends = torch.stack([1 - (f * m).sum(1) / (m * m).sum(1) for f in (f_a, f_b)])
    nearest = ends.gather(0, ends.abs().argmin(0, keepdim=True))[0]
    found = find(rows, "1-coef_alpha", **where)
    if alpha == 0.5:  # a tie: both are equally far from 1, on its two sides
        torch.testing.assert_close(ends[0], -ends[1])
        assert found.mean == pytest.approx(ends[0].mean().item(), rel=1e-9)
    else:
        assert found.mean == pytest.approx(nearest.mean().item(), rel=1e-9)
        assert found.std == pytest.approx(nearest.std().item(), rel=1e-9)


def test_a_straight_line_has_no_chord_barrier():
    """Networks that differ in the last bias alone: logits, not errors, move on a line; the worse
    end is no barrier.
    """
    a = mlp(0)
    b = near(a, 0, 0)
    b.fc4.bias.data[0] += 50  # always class 0
    rows = measure(a, b, loader(), [Barrier()])
    ends = [find(rows, "error", alpha=alpha).mean for alpha in (0.0, 1.0)]
    assert find(rows, "error_barrier").mean >= abs(ends[0] - ends[1]) / 2
    assert (
        find(rows, "loss_barrier_chord").mean <= 1e-12 < find(rows, "loss_barrier").mean
    )  # the loss is convex here


# properties


@given(seed=seeds)
def test_a_network_with_itself_is_exactly_linear(seed):
    a = mlp(seed)
    rows = measure(a, a, loader(seed=seed), everything())
    zero = {
        "1-cos_alpha",
        "1-cos_AB",
        "1-coef_alpha",
        "cos_ratio",
        "set_1-cos_alpha",
        "dist_com",
        "dist_W",
        "dist_H",
        "error_barrier",
        "loss_barrier",
        "error_barrier_chord",
        "loss_barrier_chord",
        "disagreement",
        "weight_distance",
        "dist_add",
    }
    found = [r for r in rows if r.quantity in zero and r.kind != "shuffled images"]
    assert len({r.quantity for r in found}) == len(zero)
    assert all(r.mean == 0 for r in found), [r for r in found if r.mean]
    assert all(r.mean == 1 for r in rows if r.quantity == "set_c")
    errors = {r.mean for r in rows if r.quantity in ("error", "stitched_error")}
    assert len(errors) == 1


@given(seed=seeds, scale=st.floats(0.01, 100))
def test_cosine_does_not_see_the_scale_of_the_features(seed, scale):
    a = mlp(seed)
    b = near(a, seed + 1)
    rows = measure(a, b, loader(), [LLFC()])
    for network in (
        a,
        b,
    ):  # the last layer is linear in its weights: features of theta_alpha scale too
        network.fc4.weight.data *= scale
        network.fc4.bias.data *= scale
    for row in measure(a, b, loader(), [LLFC()]):
        if row.quantity in ("1-cos_alpha", "1-cos_AB", "1-coef_alpha", "set_c"):
            old = find(
                rows, row.quantity, site=row.site, alpha=row.alpha, role=row.role, kind=row.kind
            )
            assert row.mean == pytest.approx(old.mean, rel=1e-9, abs=1e-12)


@given(seed=seeds, batch=st.integers(1, 60))
def test_neither_batch_size_nor_order_matter(seed, batch):
    a = mlp(seed)
    b = near(a, seed + 1)
    x, y = next(iter(loader(batch=60, seed=seed)))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    plain = measure(a, b, [(x, y)], everything())
    mixed = measure(a, b, list(zip(x[order].split(batch), y[order].split(batch))), everything())
    plain, mixed = (
        [r for r in rows if r.kind != "shuffled images"] for rows in (plain, mixed)
    )  # a null of the batch
    for one, other in zip(plain, mixed, strict=True):
        assert (one.quantity, one.site, one.kind) == (other.quantity, other.site, other.kind)
        assert one.mean == pytest.approx(other.mean, rel=1e-11, abs=1e-12)
        assert one.std is None or one.std == pytest.approx(other.std, rel=1e-11, abs=1e-12)


@given(seed=seeds)
def test_together_or_alone_the_metrics_agree(seed):
    a = mlp(seed)
    b = near(a, seed + 1)
    together = measure(a, b, loader(), everything(pre=False))
    alone = [row for metric in everything(pre=False) for row in measure(a, b, loader(), [metric])]
    assert together == alone


def test_streamed_in_float32_as_in_float64():
    a, b = mlp(0), near(mlp(0), 1)
    double = measure(a, b, loader(), everything())
    single = measure(a.float(), b.float(), loader(dtype=torch.float32), everything())
    for one, other in zip(double, single, strict=True):
        assert one.mean == pytest.approx(other.mean, rel=1e-4, abs=1e-6)
    # and a dtype asked for is used: the numbers of float64 come back, weights and images rounded
    # once
    again = measure(a, b, loader(dtype=torch.float32), everything(), dtype=torch.float64)
    worst = max(abs(o.mean - d.mean) for o, d in zip(again, double, strict=True))
    assert 0 < worst < 1e-5
    assert measure(
        a, b, loader(), everything(), dtype=torch.float64
    )  # images already in it, networks not yet


def test_reductions_are_in_float64_whatever_the_networks_are_in():
    """From the same float32 features, the sums agree with float64 ones to far more than float32 has
    digits.
    """
    a = mlp(0, dtype=torch.float32)
    b, data = near(a, 1, 0.01), loader(batch=60, dtype=torch.float32)
    f_a, f_b, f = (
        {k: v.double() for k, v in hidden(n, data[0][0]).items()}
        for n in (a, b, between(a, b, 0.5).float())
    )
    m = (f_a["FC 2"] + f_b["FC 2"]) / 2
    rows = measure(a, b, data, everything())
    for quantity, x, y in (("1-cos_AB", f_a["FC 2"], f_b["FC 2"]), ("1-cos_alpha", f["FC 2"], m)):
        half = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1) / 2
        alpha = 0.5 if quantity == "1-cos_alpha" else None
        assert find(rows, quantity, site="FC 2", alpha=alpha).mean == pytest.approx(
            half.mean().item(), rel=1e-9, abs=0
        )
    assert find(rows, "set_c", site="FC 2", alpha=0.5).mean == pytest.approx(
        ((f["FC 2"] * m).sum() / f["FC 2"].square().sum()).item(), rel=1e-11, abs=0
    )
    d_h = (
        hidden(a, data[0][0])["in 3"] - hidden(b, data[0][0])["in 3"]
    )  # the difference itself is in float32
    expected = d_h.double().square().sum() / (f_a["in 3"].norm() * f_b["in 3"].norm())
    assert find(rows, "dist_H", site="FC 3").mean == pytest.approx(
        expected.item(), rel=1e-11, abs=0
    )


def test_zero_features_are_counted_and_do_not_poison_the_mean():
    a, b = mlp(0), near(mlp(0), 1)
    for network in (a, b):
        network.fc2.bias.data -= 1000  # FC 2 is dead for every image
    rows = measure(a, b, loader(), [LLFC()])
    assert find(rows, "zero_features", site="FC 2").mean == 60
    for quantity in ("1-cos_alpha", "1-coef_alpha"):
        assert find(rows, quantity, site="FC 2", alpha=0.5).mean == 0
    b.fc2.bias.data += 1000
    assert find(measure(a, b, loader(), [LLFC()]), "1-cos_AB", site="FC 2").mean == 1
    assert all(math.isfinite(r.mean) for r in rows)
    dead = measure(a, a, loader(), everything())
    assert all(math.isfinite(r.mean) for r in dead)


def test_on_device_meta_nothing_waits_for_the_device():
    """Device meta refuses CPU operands and every `.item()`: what runs there runs on any device
    without hidden waits.
    """
    for make, shape in ((mlp, (1, 3, 4)), (lambda seed: conv(seed), (2, 5, 5))):
        a, b = make(0).to("meta"), make(1).to("meta")
        batches = [(x.to("meta"), y.to("meta")) for x, y in loader(shape=shape)]
        metrics = (
            everything()
            if shape[0] == 1
            else [LLFC(), Commutativity(), WeakAdditivity(), Stitching(), Barrier()]
        )
        ran = []

        class Last:  # reached only when every update before it went through
            def start(self, pair): ...
            def update(self, batch):
                ran.append(len(batch.y))

            def rows(self):
                return []

        with pytest.raises(
            RuntimeError, match="meta"
        ):  # only here, where numbers are read, it has to stop
            measure(a, b, batches, [*metrics, Last()])
        assert ran == [25, 25, 10]


def test_a_foreign_network_with_batch_norm_is_measured_whole():
    """torchvision's resnet18 as it is: every metric, sites and maps by its own names."""
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks.append(torchvision().models.resnet18(weights=None, num_classes=5).train())
        networks[-1](torch.randn(8, 3, 32, 32))  # running statistics of its own
    rows = measure(
        *networks,
        loader(6, (3, 32, 32), 4, dtype=torch.float32),
        [LLFC(), Commutativity(), WeakAdditivity(), Stitching(), Barrier()],
    )
    assert len({r.site for r in rows if r.quantity == "1-cos_alpha"}) == 18
    assert len({r.site for r in rows if r.quantity == "dist_com"}) == 20
    assert len({r.site for r in rows if r.quantity == "stitched_error"}) == 9
    assert all(math.isfinite(r.mean) for r in rows) and networks[0].training
    again = [
        r
        for r in measure(
            networks[0], networks[0], loader(6, (3, 32, 32), 4, dtype=torch.float32), [LLFC()]
        )
    ]
    assert all(r.mean == 0 for r in again if r.quantity.startswith("1-"))


def test_views_and_modules_give_the_same(pair):
    assert measure(*pair, loader(), everything()) == measure(
        *map(View, pair), loader(), everything()
    )


# bad input


class PlusEquals(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(12, 5), nn.ReLU()

    def forward(self, x):
        h = self.fc(x.flatten(1))
        kept = h
        h += 1  # torch.fx takes this for h = h + 1
        return self.act(h) + kept


def nan_network():
    network = mlp(0)
    network.fc2.weight.data[3, 4] = math.nan
    return network


def infinite_network():
    network = mlp(0)
    network.fc3.bias.data[0] = math.inf
    return network


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: measure(mlp(0), mlp(0, hidden=17), loader(), [LLFC()]),
            ValueError,
            r"'fc1.weight' is \(16, 12\) in A and \(17, 12\) in B",
        ),
        (
            lambda: measure(mlp(0), conv(0), loader(), [LLFC()]),
            ValueError,
            "the networks differ: 'fc1.weight' is in only one",
        ),
        (
            lambda: measure(nan_network(), mlp(0), loader(), [LLFC()]),
            ValueError,
            "network A: 'fc2.weight' holds NaN or infinite",
        ),
        (
            lambda: measure(mlp(0), infinite_network(), loader(), [LLFC()]),
            ValueError,
            "network B: 'fc3.bias' holds NaN or infinite",
        ),
        (lambda: measure(mlp(0), mlp(1), [], [LLFC()]), ValueError, "the loader gave no images"),
        (
            lambda: measure(mlp(0), mlp(1), [(x, y + 3) for x, y in loader()], [LLFC()]),
            ValueError,
            "labels run from 3 to 7, outside 0..4",
        ),
        (
            lambda: measure(mlp(0), mlp(1), loader(), [LLFC((0.5, 1.2))]),
            ValueError,
            r"alpha = 1.2 lies outside \[0, 1\]",
        ),
        (
            lambda: measure(mlp(0), mlp(1), loader(), [LLFC(sites=["FC 9"])]),
            ValueError,
            "unknown site 'FC 9'",
        ),
        (
            lambda: measure(mlp(0), mlp(1), loader(), [Barrier((0, 0.5, 1))]),
            ValueError,
            "it must be odd and hold",
        ),
        (
            lambda: measure(mlp(0), mlp(1), loader(), [Barrier((0, 0.25, 0.5, 0.6, 0.75, 1))]),
            ValueError,
            "has 6 points",
        ),
        (
            lambda: measure(conv(0), conv(1), loader(shape=(2, 5, 5)), [Stitching(["FC 1"])]),
            ValueError,
            "unknown site 'FC 1'",
        ),
        (
            lambda: interpolate(mlp(0).state_dict(), mlp(1).state_dict(), -0.1),
            ValueError,
            "alpha = -0.1",
        ),
        (
            lambda: interpolate({"w": torch.ones(3)}, {"w": torch.ones(1)}, 0.5),
            ValueError,
            r"'w' is \(3,\) in A and \(1,\) in B",
        ),
        (
            lambda: displacement_null(mlp(0), mlp(1), [], lambda: [LLFC()], "rotation"),
            ValueError,
            "the loader gave no images",
        ),
        (
            lambda: measure(PlusEquals(), PlusEquals(), loader(dtype=torch.float32), [LLFC()]),
            UntraceableError,
            "PlusEquals gives other outputs",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_labels_out_of_range_do_not_crash_the_loss():
    with pytest.raises(ValueError, match="labels run from 3 to 7, outside 0..4"):
        measure(mlp(0), mlp(1), [(x, y + 3) for x, y in loader()], [Barrier()])


def test_nan_images_are_not_taken_for_an_untraceable_network(pair):
    rows = measure(*pair, [(x * math.nan, y) for x, y in loader()], [LLFC()])
    assert math.isnan(find(rows, "1-cos_AB", site="FC 1").mean)


def test_the_users_modules_keep_their_modes():
    network = (
        nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))
        .double()
        .train()
    )
    network[2].eval()  # frozen, as in fine-tuning
    modes = [m.training for m in network.modules()]
    measure(network, network, loader(), [LLFC()])
    assert [m.training for m in network.modules()] == modes


@pytest.mark.parametrize("c", [0.3, 1.7, 2.3, 3.1])
def test_opposite_maps_give_a_real_distance(c):
    """H_B = c H_A with W_B = -c W_A or W_B = -W_A / c: one of the two sides vanishes, up to the
    sign of its rounding.
    """
    for seed in range(20):
        torch.manual_seed(seed)
        a, b = (
            nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)).double()
            for _ in range(2)
        )
        b[0].weight.data, b[1].weight.data = (
            c * a[0].weight.data,
            -(c if seed % 2 else 1 / c) * a[1].weight.data,
        )
        assert all(
            isinstance(r.mean, float) for r in measure(a, b, loader(shape=(6,)), [Commutativity()])
        )


def test_stitching_beside_a_shortcut_is_refused():
    class Beside(Conv):
        def forward(self, x):
            h = self.relu1(self.conv1(x))
            g = self.relu2(self.conv2(h))
            return self.fc((g + h).mean((2, 3)))

    with pytest.raises(
        ValueError, match="cannot be stitched at 'relu2': information passes beside it"
    ):
        measure(
            Beside().double(), Beside().double(), loader(shape=(2, 5, 5)), [Stitching(["relu2"])]
        )


def test_weight_distance_of_equal_and_opposite_networks():
    state = mlp(0).state_dict()
    assert weight_distance(state, state) == 0
    assert weight_distance(state, {k: -v for k, v in state.items()}) == pytest.approx(2)


def test_interpolation_is_exact_at_its_ends_and_keeps_integers():
    a, b = ({**mlp(s, dtype=torch.float32).state_dict(), "count": torch.tensor(s)} for s in (3, 4))
    for alpha, end in ((1.0, a), (0.0, b)):
        found = interpolate(a, b, alpha)
        assert all(torch.equal(found[k], end[k]) for k in a if k != "count") and found["count"] == 3
    assert all(torch.equal(v, a[k]) for k, v in interpolate(a, a, 0.3).items())


@pytest.mark.parametrize("seed", range(6))
def test_a_layer_that_dies_half_way_is_at_one_from_the_mean(seed):
    """Rounding leaves |f|^2 a little above or below 0 there, and neither may decide."""
    a, b = mlp(seed), mlp(seed)
    with torch.no_grad():
        for network, sign in ((a, 1.0), (b, -1.0)):
            network.fc2.weight.copy_(
                sign
                * torch.randn(
                    16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
                )
            )
            network.fc2.bias.zero_()
    rows = measure(a, b, loader(), [LLFC((0.5,))])
    for quantity in ("1-cos_alpha", "1-coef_alpha", "set_1-cos_alpha"):
        assert find(rows, quantity, site="FC 2", alpha=0.5).mean == pytest.approx(1, abs=1e-12)
    assert math.isnan(find(rows, "set_c", site="FC 2", alpha=0.5).mean)
