"""Metrics against direct formulas on whole matrices, and the properties that they must have."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Beside, InPlace, broken, conv, find, loader, mlp, near, waits_for_no_device, whole
from torch import nn
from torch.nn import functional as F

from llfc_lib.metrics import (
    LLFC,
    Barrier,
    Coherence,
    Commutativity,
    SameWeights,
    Stitching,
    Transfer,
    WeakAdditivity,
    measure,
)
from llfc_lib.models.view import UntraceableError, View
from llfc_lib.models.weights import interpolate

ALPHAS = (0.25, 0.5, 0.75)
ENDS = (0.0, 0.25, 0.5, 0.75, 1.0)  # the shortest grid of a barrier
seeds = st.integers(0, 2**20)


def everything(pre=True, grid=ENDS):
    others = [Commutativity(), WeakAdditivity(), Stitching(), Transfer(), SameWeights()]
    return [LLFC(ALPHAS, pre=pre), *others, Coherence(), Barrier(grid)]


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
def rows(pair):
    """All metrics of the pair in one pass."""
    return measure(*pair, loader(), everything(grid=[k / 20 for k in range(21)]))


@pytest.fixture(scope="module")
def xy():
    return whole(loader())


def between(a, b, alpha):
    network = mlp(0)
    network.load_state_dict(interpolate(a.state_dict(), b.state_dict(), alpha))
    return network


def error(logits, y):
    return (logits.argmax(1) != y).double().mean().item()


# against direct formulas


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("site", ["FC 1", "FC 2", "FC 3", "logits", "FC 2 (pre)"])
def test_llfc_by_hand(pair, rows, xy, alpha, site):
    a, b = pair
    f_a, f_b, f = (hidden(n, xy[0])[site] for n in (a, b, between(a, b, alpha)))
    m = alpha * f_a + (1 - alpha) * f_b
    off, apart = (1 - F.cosine_similarity(x, y, dim=1) for x, y in ((f, m), (f_a, f_b)))
    coef = 1 - (f * m).sum(1) / (m * m).sum(1)

    def found(quantity):
        return find(rows, quantity, site=site, alpha=None if quantity == "1-cos_AB" else alpha)

    for quantity, values in (("1-cos_alpha", off), ("1-coef_alpha", coef), ("1-cos_AB", apart)):
        assert found(quantity).n == 60
        assert found(quantity).mean == pytest.approx(values.mean().item(), rel=1e-9)
        assert found(quantity).std == pytest.approx(values.std().item(), rel=1e-9)  # unbiased
    ratio = off.mean() / apart.mean()
    assert found("cos_ratio").mean == pytest.approx(ratio.item(), rel=1e-9)
    total = 1 - (f * m).sum() / (f.norm() * m.norm())
    assert found("set_1-cos_alpha").mean == pytest.approx(total.item(), rel=1e-7)
    c = ((f * m).sum() / (f * f).sum()).item()
    assert found("set_c").mean == pytest.approx(c, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.25, 0.75])  # half-way both are equally far from 1
def test_null_of_the_nearest_endpoint_by_hand(pair, rows, xy, alpha):
    """Image by image, over both endpoints: the smaller 1-cos, and the coefficient nearer to 1."""
    f_a, f_b = (hidden(n, xy[0])["FC 2"] for n in pair)
    m = alpha * f_a + (1 - alpha) * f_b
    where = {"site": "FC 2", "alpha": alpha, "role": "null", "kind": "nearest endpoint"}
    cosine = torch.stack([1 - F.cosine_similarity(f, m, dim=1) for f in (f_a, f_b)]).amin(0)
    assert find(rows, "1-cos_alpha", **where).mean == pytest.approx(cosine.mean().item(), rel=1e-9)
    ends = torch.stack([1 - (f * m).sum(1) / (m * m).sum(1) for f in (f_a, f_b)])
    nearest = ends.gather(0, ends.abs().argmin(0, keepdim=True))[0]
    found = find(rows, "1-coef_alpha", **where)
    assert found.mean == pytest.approx(nearest.mean().item(), rel=1e-9)
    assert found.std == pytest.approx(nearest.std().item(), rel=1e-9)


def dist(x, y):
    return ((x - y).square().sum() / (x.norm() * y.norm())).item()


@pytest.mark.parametrize("k", [2, 3, 4])
def test_commutativity_by_hand(pair, rows, xy, k):
    w_a, w_b = (getattr(n, f"fc{k}").weight.detach() for n in pair)
    h_a, h_b = (hidden(n, xy[0])[f"in {k}"] for n in pair)
    left, right = h_a @ w_a.T + h_b @ w_b.T, h_b @ w_a.T + h_a @ w_b.T
    for quantity, expected in (
        ("dist_com", dist(left, right)),
        ("dist_W", dist(w_a, w_b)),
        ("dist_H", dist(h_a, h_b)),
    ):
        assert find(rows, quantity, site=f"FC {k}").mean == pytest.approx(expected, rel=1e-9)
    # at the first map both sides are equal by construction
    assert not [r for r in rows if r.site == "FC 1" and r.quantity == "dist_com"]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_weak_additivity_by_hand(pair, rows, xy, k):
    x, y = (hidden(n, xy[0])[f"FC {k} (pre)"] for n in pair)
    expected = dist((x + y).relu(), x.relu() + y.relu())
    assert find(rows, "dist_add", site=f"FC {k}").mean == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_stitching_by_hand(xy, k):
    a, b = mlp(0), mlp(7)
    rows, (x, y) = measure(a, b, loader(), [Stitching()]), xy

    def through(bottom, top):
        h = hidden(bottom, x)[f"FC {k}"]
        for layer in range(k + 1, 4):
            h = getattr(top, f"fc{layer}")(h).relu()
        return error(top.fc4(h), y)

    assert through(a, b) != through(b, a)
    for direction, expected in (("A to B", through(a, b)), ("B to A", through(b, a))):
        found = find(rows, "stitched_error", site=f"FC {k}", direction=direction)
        assert found.mean == pytest.approx(expected)


def test_barrier_by_hand(pair, rows, xy):
    a, b = pair
    x, y = xy
    curves = {"error": {}, "loss": {}}
    for alpha in [k / 20 for k in range(21)]:
        logits = between(a, b, alpha)(x).detach()
        curves["error"][alpha] = error(logits, y)
        curves["loss"][alpha] = F.cross_entropy(logits, y).item()
    for quantity, curve in curves.items():
        for alpha, value in curve.items():
            found = find(rows, quantity, alpha=alpha).mean
            assert found == pytest.approx(value, rel=1e-12)
        over = max(curve.values()) - (curve[0.0] + curve[1.0]) / 2
        chord = max(v - (t * curve[1.0] + (1 - t) * curve[0.0]) for t, v in curve.items())
        assert find(rows, f"{quantity}_barrier").mean == pytest.approx(over)
        assert find(rows, f"{quantity}_barrier_chord").mean == pytest.approx(chord)
    differ = (a(x).argmax(1) != b(x).argmax(1)).double().mean().item()
    assert find(rows, "disagreement").mean == pytest.approx(differ) and differ > 0
    flat = [torch.cat([p.detach().flatten() for p in n.parameters()]) for n in pair]
    expected = (flat[0] - flat[1]).norm() / (0.5 * (flat[0].norm() + flat[1].norm()))
    assert find(rows, "weight_distance").mean == pytest.approx(expected.item(), rel=1e-12)


# properties

ZERO = {"1-cos_alpha", "1-cos_AB", "1-coef_alpha", "cos_ratio", "set_1-cos_alpha"}
ZERO |= {"dist_com", "dist_W", "dist_H", "dist_add", "disagreement", "weight_distance"}
ZERO |= {"dist_transfer", "dist_weights", "commutator_energy", "sign_energy", "shuffle_energy"}
ZERO |= {f"{what}_barrier{name}" for what in ("error", "loss") for name in ("", "_chord")}


@settings(max_examples=8)
@given(seed=seeds)
def test_a_network_with_itself_is_exactly_linear(seed):
    a = mlp(seed)
    rows = measure(a, a, loader(seed=seed), everything())
    found = [r for r in rows if r.quantity in ZERO and r.kind != "shuffled images"]
    assert {r.quantity for r in found} == ZERO
    assert not [r for r in found if r.mean]
    assert {r.mean for r in rows if r.quantity == "set_c"} == {1}
    assert len({r.mean for r in rows if r.quantity in ("error", "stitched_error")}) == 1


@settings(max_examples=4)  # each takes a second
@given(seed=seeds, batch=st.integers(1, 60))
def test_neither_batch_size_nor_order_matter(seed, batch):
    a = mlp(seed)
    b = near(a, seed + 1)
    x, y = loader(batch=60, seed=seed)[0]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    mixed = list(zip(x[order].split(batch), y[order].split(batch)))
    plain, mixed = (measure(a, b, data, everything()) for data in ([(x, y)], mixed))
    # the null of shuffled images is one of the batch
    plain, mixed = ([r for r in rows if r.kind != "shuffled images"] for rows in (plain, mixed))
    for one, other in zip(plain, mixed, strict=True):
        assert replace(one, mean=0, std=0) == replace(other, mean=0, std=0)
        assert one.mean == pytest.approx(other.mean, rel=1e-11, abs=1e-12)
        assert one.std is None or one.std == pytest.approx(other.std, rel=1e-11, abs=1e-12)


def test_together_or_alone_and_seen_by_views_the_metrics_agree(pair):
    together = measure(*pair, loader(), everything())
    assert measure(*pair, loader(), ["llfc"]) == measure(*pair, loader(), [LLFC()])
    assert together == sum((measure(*pair, loader(), [metric]) for metric in everything()), [])
    assert together == measure(*map(View, pair), loader(), everything())


def test_a_dtype_that_is_asked_for_is_used():
    """Weights and images are rounded once, and images may be in the dtype that is asked for."""
    a, b = mlp(0), near(mlp(0), 1)
    double = measure(a, b, loader(), everything())
    a, b = a.float(), b.float()
    for images in (loader(dtype=torch.float32), loader()):
        again = measure(a, b, images, everything(), dtype=torch.float64)
        found = zip(again, double, strict=True)
        worst = max(abs(o.mean - d.mean) / max(1.0, d.mean) for o, d in found)
        assert 0 < worst < 1e-5


def test_reductions_are_in_float64_whatever_the_networks_are_in():
    """From the same float32 features, the sums agree with float64 ones to far more than float32 has
    digits.
    """
    a = mlp(0, dtype=torch.float32)
    b, data = near(a, 1, 0.01), loader(batch=60, dtype=torch.float32)
    nets = (a, b, between(a, b, 0.5).float())
    single = [hidden(n, data[0][0]) for n in nets]
    f_a, f_b, f = ({k: v.double() for k, v in values.items()} for values in single)
    m = (f_a["FC 2"] + f_b["FC 2"]) / 2
    rows = measure(a, b, data, everything())
    for quantity, alpha, x, y in (
        ("1-cos_AB", None, f_a["FC 2"], f_b["FC 2"]),
        ("1-cos_alpha", 0.5, f["FC 2"], m),
    ):
        half = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1) / 2
        found = find(rows, quantity, site="FC 2", alpha=alpha).mean
        assert found == pytest.approx(half.mean().item(), rel=1e-9, abs=0)
    c = (f["FC 2"] * m).sum() / f["FC 2"].square().sum()
    w_a, w_b = (n.fc2.weight.detach().double() for n in (a, b))
    d_w = (a.fc2.weight - b.fc2.weight).detach().double()
    dist_w = d_w.square().sum() / (w_a.norm() * w_b.norm())
    loss = F.cross_entropy(f["logits"], data[0][1])
    for quantity, where, expected in (
        ("set_c", {"site": "FC 2", "alpha": 0.5}, c),
        ("dist_W", {"site": "FC 2"}, dist_w),
        ("loss", {"alpha": 0.5}, loss),
    ):
        assert find(rows, quantity, **where).mean == pytest.approx(expected.item(), rel=1e-11)


def test_zero_features_are_counted_and_do_not_poison_the_mean():
    a, b = mlp(0), near(mlp(0), 1)
    for network in (a, b):
        network.fc2.bias.data -= 1000  # FC 2 is dead for every image
    rows = measure(a, b, loader(), everything())
    assert find(rows, "zero_features", site="FC 2").mean == 60
    for quantity in ("1-cos_alpha", "1-coef_alpha"):
        assert find(rows, quantity, site="FC 2", alpha=0.5).mean == 0
    assert all(math.isfinite(r.mean) for r in [*rows, *measure(a, a, loader(), everything())])
    b.fc2.bias.data += 1000
    rows = measure(a, b, loader(), [LLFC()])  # of A alone
    assert find(rows, "1-cos_AB", site="FC 2").mean == 1
    assert find(rows, "zero_features", site="FC 2").mean == 60


@pytest.mark.parametrize("seed", range(3))
def test_a_layer_that_dies_half_way_is_at_one_from_the_mean(seed):
    """Rounding leaves |f|^2 a little above or below 0 there, and neither may decide."""
    a, b = mlp(seed), mlp(seed)
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(16, 16, generator=g, dtype=torch.float64)
    for network, sign in ((a, 1.0), (b, -1.0)):
        network.fc2.weight.data.copy_(sign * weight)
        network.fc2.bias.data.zero_()
    rows = measure(a, b, loader(), [LLFC((0.5,))])
    for quantity in ("1-cos_alpha", "1-coef_alpha", "set_1-cos_alpha"):
        found = find(rows, quantity, site="FC 2", alpha=0.5).mean
        assert found == pytest.approx(1, abs=1e-12)
    assert math.isnan(find(rows, "set_c", site="FC 2", alpha=0.5).mean)


@pytest.mark.parametrize("c", [0.3, 2.3])
def test_opposite_maps_give_a_real_distance(c):
    """H_B = c H_A with W_B = -c W_A or W_B = -W_A / c: one of the two sides vanishes, up to the
    sign of its rounding.
    """
    for seed in range(20):
        torch.manual_seed(seed)
        a = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)).double()
        b = near(a, 0)
        b[0].weight.data = c * a[0].weight.data
        b[1].weight.data = -(c if seed % 2 else 1 / c) * a[1].weight.data
        rows = measure(a, b, loader(shape=(6,)), [Commutativity()])
        assert all(isinstance(r.mean, float) for r in rows)


@pytest.mark.parametrize("make, shape", [(mlp, (1, 3, 4)), (conv, (2, 5, 5))])
def test_nothing_waits_for_the_device(make, shape):
    waits_for_no_device(make(0), make(1), loader(shape=shape), everything())


# weights


def test_interpolation_is_exact_at_its_ends_and_keeps_integers():
    a, b = ({**mlp(s, dtype=torch.float32).state_dict(), "count": torch.tensor(s)} for s in (3, 4))
    for alpha, end in ((1.0, a), (0.0, b)):
        found = interpolate(a, b, alpha)
        assert all(torch.equal(found[k], end[k]) for k in a if k != "count") and found["count"] == 3
    assert all(torch.equal(v, a[k]) for k, v in interpolate(a, a, 0.3).items())


# bad input


# labels out of range: a device would crash on them in the loss
SHIFTED = [(x, y + 3) for x, y in loader()]
PIXELS = loader(shape=(2, 5, 5))


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda: measure(mlp(0), mlp(0, hidden=17), loader(), [LLFC()]), "fc1.weight"),
        (lambda: measure(mlp(0), broken(math.inf), loader(), [LLFC()]), "network B: 'fc2.weight'"),
        (lambda: measure(mlp(0), mlp(1), [], [LLFC()]), "no images"),
        (lambda: measure(mlp(0), mlp(1), SHIFTED, [LLFC()]), "3 to 7"),
        (lambda: LLFC((0.5, 1.2)), "1.2"),
        (lambda: measure(mlp(0), mlp(1), loader(), [LLFC(sites=["FC 9"])]), "FC 9"),
        (lambda: Barrier((0, 0.5, 1)), "grid of alpha"),
        (
            lambda: measure(
                *(conv(k, make=Beside) for k in (0, 1)), PIXELS, [Stitching(["relu2"])]
            ),
            "relu2",
        ),
        (lambda: interpolate({"w": torch.ones(3)}, {"w": torch.ones(1)}, 0.5), "'w'"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_a_network_that_the_graph_does_not_follow_is_named():
    with pytest.raises(UntraceableError, match="InPlace"):
        measure(InPlace(), InPlace(), loader(dtype=torch.float32), [LLFC()])


def test_an_image_that_is_no_number_is_measured_as_none_and_not_called_untraceable():
    (x, y), *_ = loader()
    rows = measure(mlp(0), mlp(1), [(torch.full_like(x, torch.nan), y)], [Commutativity()])
    found = [row.mean for row in rows if row.quantity == "dist_com"]
    assert found and all(map(math.isnan, found))
