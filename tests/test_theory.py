"""Appendix A.1 and A.2 as code: the split of LLFC's residual, Lemma 1, Theorem 1, and what is
expected of random displacements.
"""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llfc_book.appendix import generic
from llfc_book.appendix.construct import (
    commuting_pair,
    conditions,
    normalised_pair,
    small_images,
    small_networks,
)
from llfc_book.appendix.lemma import Margins, margin, survives, tight_pair, without_llfc
from nets import conv, find, loader, mlp, near
from torch import Tensor, nn
from torch.nn import functional as F

from llfc_lib.metrics import LLFC, Barrier, measure
from llfc_lib.metrics.decomposition import PARTS, Decomposition, decompose, relu_gap, relu_slope
from llfc_lib.models import MLP, VGG16, ResNet20
from llfc_lib.models.view import View
from llfc_lib.models.weights import interpolate
from llfc_lib.streams import generator

EXACT = 1e-12


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def worst(a: nn.Module, b: nn.Module, x: Tensor, alpha: float = 0.3, **how) -> float:
    """The largest |e| / |f_A - f_B| of any site."""
    return max(
        float(s.residual.norm() / s.difference.norm())
        for s in decompose(a, b, x, alpha, **how).values()
    )


def adds_up(a: nn.Module, b: nn.Module, x: Tensor, alpha: float) -> dict[str, set[str]]:
    """The names of the parts of every site, after a check that parts and origins add up to what is
    observed without the split.
    """
    middle = View(a).with_state(interpolate(View(a).state(), View(b).state(), alpha))
    nodes = {site.name: site.node for site in View(a).sites}
    values = [view.run(x, set(nodes.values())) for view in (View(a), View(b), middle)]
    found = decompose(a, b, x, alpha)
    assert list(found) == list(nodes)
    for name, split in found.items():
        f_a, f_b, f = (v[nodes[name]] for v in values)
        e = f - alpha * f_a - (1 - alpha) * f_b
        assert set(split.parts) <= set(PARTS)
        for pieces in (split.parts, split.origins):
            assert float((sum(pieces.values()) - e).norm()) <= EXACT * float(e.norm())
    return {name: set(split.parts) for name, split in found.items()}


def with_statistics(network: nn.Module, seed: int = 0) -> nn.Module:
    """Running statistics and affine parameters as after training: none of them 0 or 1."""
    torch.manual_seed(seed)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_var.uniform_(0.5, 2)
            m.running_mean.normal_()
            m.weight.data.uniform_(0.5, 2)
    return network.double().eval()


# the split


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.floats(0.1, 0.9), st.floats(0.2, 2.0))
def test_the_parts_add_up_in_perceptrons_and_small_convolutional_networks(seed, alpha, size):
    parts = adds_up(mlp(seed), near(mlp(seed), seed + 1, size), draw(20, 12, seed=seed), alpha)
    own = {"commutativity", "relu"}
    assert parts["FC 1"] <= {"relu"} and parts["FC 2"] <= own | {"carried"}
    assert parts["logits"] <= {"carried", "commutativity"}
    images = draw(4, 2, 5, 5, seed=seed)
    parts = adds_up(conv(seed), near(conv(seed), seed + 1, size), images, alpha)
    assert parts["relu2"] <= own | {"carried"}


@pytest.mark.parametrize(
    "network, more", [(VGG16, "pooling"), (ResNet20, "skipped")], ids=["VGG-16", "ResNet-20"]
)
def test_the_parts_add_up_in_the_networks_of_the_book(network, more):
    torch.manual_seed(0)
    network = with_statistics(network(1, 4))
    parts = adds_up(network, near(network, 1, 0.2), draw(2, 1, 16, 16), 0.3)
    # a node whose residual is not carried as it says would leave a part "other"
    every = set().union(*parts.values())
    assert every == {"carried", "commutativity", "relu", "normalisation", more}


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_what_a_relu_adds_and_carries(seed, alpha):
    z_a, z_b, z = draw(3, 50, seed=seed)
    z_a[:3] = 0
    z_b[1:5] = 0
    mean = alpha * z_a + (1 - alpha) * z_b
    direct = torch.relu(mean) - alpha * torch.relu(z_a) - (1 - alpha) * torch.relu(z_b)
    torch.testing.assert_close(relu_gap(z_a, z_b, alpha), direct, rtol=EXACT, atol=EXACT)
    slope = relu_slope(z, mean)
    assert bool(((slope >= 0) & (slope <= 1)).all())
    torch.testing.assert_close(
        slope * (z - mean), torch.relu(z) - torch.relu(mean), rtol=EXACT, atol=EXACT
    )


def test_max_pooling_adds_what_differing_maximisers_lose():
    """relu -> pooling: the pooling's own part is max m - alpha max f_A - (1 - alpha) max f_B, where
    windows have no common maximiser.
    """
    torch.manual_seed(3)
    first, pool, second = nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 3, 1)
    head = (nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    a = nn.Sequential(first, nn.ReLU(), pool, second, *head).double().eval()
    b, x, alpha = near(a, 1, 0.8), draw(8, 1, 6, 6), 0.4
    # so that the pooling's part is all that the second convolution carries from it
    b[3].load_state_dict(second.state_dict())
    split = decompose(a, b, x, alpha)
    mean, difference = split["1"].mean, split["1"].difference
    f_a, f_b = mean + (1 - alpha) * difference, mean - alpha * difference
    own = pool(mean) - alpha * pool(f_a) - (1 - alpha) * pool(f_b)
    assert float(own.max()) <= EXACT and float(own.min()) < -1e-3
    middle = View(a).with_state(interpolate(a.state_dict(), b.state_dict(), alpha))
    relu = View(a).sites[0].node
    z = second(pool(middle.run(x, {relu})[relu]))
    z_mean = second(alpha * pool(f_a) + (1 - alpha) * pool(f_b))
    expected = relu_slope(z, z_mean) * F.conv2d(own, second.weight)
    found = split["4"].parts["pooling"]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=EXACT)


class Foreign(nn.Module):
    """Nothing of ours: functional calls, layer normalisation, GELU, a gate, concatenation, a raw
    parameter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.gate = nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.weight = nn.Parameter(torch.randn(6, 16))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.first(x)))
        g = F.gelu(self.gate(h)) * h * self.scale
        return F.linear(torch.cat((g, h), 1), self.weight)


def test_the_parts_add_up_in_a_network_of_others():
    torch.manual_seed(0)
    a = Foreign().double().eval()
    parts = adds_up(a, near(a, 1), draw(10, 12), 0.6)
    assert {"normalisation", "other"} <= parts["logits"] | parts[next(iter(parts))]


def test_nothing_is_left_between_a_network_and_itself_or_at_an_end():
    a, b, x = mlp(0), near(mlp(0), 1), draw(10, 12)
    for split in decompose(a, a, x).values():
        assert not any(bool(value.any()) for value in (split.residual, *split.parts.values()))
    for alpha in (0.0, 1.0):
        assert not any(bool(s.residual.any()) for s in decompose(a, b, x, alpha).values())


class Halves(nn.Module):
    """An operation that gives several tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.fc(x).chunk(2, 1)
        return torch.relu(left) * right


@pytest.mark.parametrize(
    "network, alpha, message",
    [(mlp(0), 1.5, "outside"), (Halves().double().eval(), 0.5, "gives several tensors")],
)
def test_what_cannot_be_split_is_refused(network, alpha, message):
    with pytest.raises(ValueError, match=message):
        decompose(network, near(network, 1), draw(5, 12), alpha)


def energy(x: Tensor) -> float:
    return float(x.detach().square().sum())


def test_the_metric_is_the_split_of_the_whole_set():
    a, b = mlp(0), near(mlp(0), 1)
    rows = measure(a, b, loader(60, batch=25), [Decomposition((0.3,))])
    split = decompose(a, b, torch.cat([x for x, _ in loader(60)]), 0.3)
    for site, s in split.items():
        e, m = s.residual, s.mean
        f = m + e
        c = float((f * m).sum()) / energy(f)
        left = c * f - m  # what no factor mends
        expected = {
            "e_over_d": energy(e) / energy(s.difference),
            "e_over_m": energy(e) / energy(m),
            "c": c,
            "turned_over_d": energy(left) / energy(s.difference),
        }
        for name, part in s.parts.items():
            expected[f"share_{name}"] = float((part * e).sum()) / energy(e)
            expected[f"turned_{name}"] = float((part * left).sum()) / energy(left)
            assert s.shares()[name] == pytest.approx(expected[f"share_{name}"], rel=1e-9)
        found = {r.quantity: r.mean for r in rows if r.site == site}
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        origins = [v for q, v in found.items() if q.startswith("origin_")]
        assert sum(origins) == pytest.approx(1, rel=1e-6)
        assert found["identity_error"] < EXACT and found["bound"] >= 1 - 1e-9


def test_what_else_is_told_of_a_layer_by_hand():
    a, b = mlp(0).requires_grad_(False), near(mlp(0), 1).requires_grad_(False)
    rows = measure(a, b, loader(60, batch=25), [Decomposition((0.3,))])
    x = torch.cat([x for x, _ in loader(60)]).flatten(1)
    z_a, z_b = (net.fc1(x) for net in (a, b))
    h_a, h_b = (F.relu(z) for z in (z_a, z_b))
    d_z, d_h, middle = z_a - z_b, h_a - h_b, 0.5 * (h_a + h_b)
    d_w, w = a.fc2.weight - b.fc2.weight, 0.5 * (a.fc2.weight + b.fc2.weight)
    below = d_h @ w.T
    rest = a.fc2(h_a) - b.fc2(h_b) - below
    moved = energy(d_h) / energy(middle)
    for site, quantity, expected in (
        ("FC 1", "flips", float((z_a * z_b < 0).double().mean())),
        ("FC 1", "active", float(((z_a > 0).double() + (z_b > 0).double()).mean() / 2)),
        ("FC 1", "flipped", energy(d_z[z_a * z_b < 0]) / energy(d_z)),
        ("FC 1", "passed", energy(d_h) / energy(d_z)),
        ("FC 2", "moved", moved),
        ("FC 2", "fresh", energy(rest) / (energy(rest) + energy(below))),
        ("FC 2", "aligned", energy(d_h @ d_w.T) / energy(middle @ d_w.T) / moved),
    ):
        assert find(rows, quantity, site=site).mean == pytest.approx(expected), quantity


# Theorem 1


@pytest.mark.parametrize(
    "name", ["perceptron", "convolutions", "convolutions and max-pooling", "residual sum"]
)
def test_theorem_1_holds_where_its_conditions_do_and_fails_without_each(name):
    network, x = small_networks()[name], small_images()
    for dropped in ("", "commute", "signs", *(("maximisers",) if "pooling" in name else ())):
        a, b = commuting_pair(network, x, **({dropped: False} if dropped else {}))
        now = conditions(a, b, x)
        found = {"commute": now.commutativity, "signs": now.signs, "maximisers": now.maximisers}
        assert {key for key, value in found.items() if value > 1e-3} == {dropped} - {""}
        assert now.commutativity < 1e-14 or dropped == "commute"
        assert sum(energy(p - q) for p, q in zip(a.parameters(), b.parameters())) > 0.05**2
        for alpha in (0.1, 0.5, 0.9):
            assert worst(a, b, x, alpha) > 1e-3 if dropped else worst(a, b, x, alpha) < 1e-11


@pytest.mark.parametrize(
    "kind, breaks",
    [("none", False), ("batch normalisation", True), ("layer normalisation", True)],
)
def test_normalisation_breaks_the_theorem_while_both_conditions_hold(kind, breaks):
    x = small_images(40)
    a, b = normalised_pair(kind, x)
    now = conditions(a, b, x)
    assert now.commutativity == now.signs == now.maximisers == 0
    for how in ({}, {"calibration": [x]}):
        found = worst(a, b, x, **how)
        assert found > 0.01 if breaks else found < 1e-13


# Lemma 1


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_lemma_1_on_any_logits(seed, alpha):
    f_a, f_b = draw(2, 40, 4, seed=seed)
    y = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(seed))
    of_a, of_b, of_mean = (margin(f, y) for f in (f_a, f_b, alpha * f_a + (1 - alpha) * f_b))
    assert bool((of_mean >= alpha * of_a + (1 - alpha) * of_b - EXACT).all())
    assert not bool(((of_mean <= 0) & (of_a > 0) & (of_b > 0)).any())
    assert torch.equal(f_a.argmax(1) == y, of_a > 0)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 3))
def test_what_the_margin_survives_is_classified_correctly(seed, size):
    mean, noise = draw(2, 200, 5, seed=seed)
    y = torch.randint(0, 5, (200,), generator=torch.Generator().manual_seed(seed))
    logits = mean + size * noise
    for scaled in (False, True):
        moved = 3 * logits + 7 if scaled else logits  # neither moves the largest logit
        certified = survives(mean, moved, y, scaled)
        assert bool((margin(moved, y)[certified] > 0).all())
        assert size >= 0.1 or bool(certified.any())


def test_the_margin_argument_cannot_be_improved():
    """A feature error of just over margin / sqrt(2), in the worst direction, changes the class."""
    mean, y = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64), torch.tensor([0])
    worst_direction = torch.tensor([[-1.0, 1.0, 0.0]], dtype=torch.float64) / 2**0.5
    for size, right in ((2 / 2**0.5 * 0.999, True), (2 / 2**0.5 * 1.001, False)):
        logits = mean + size * worst_direction
        assert bool(survives(mean, logits, y)) == bool(margin(logits, y) > 0) == right


@pytest.mark.parametrize(
    "move, plain, scaled",
    [
        (lambda f: f, True, True),
        (lambda f: 0.1 * f + 5, False, True),
        (lambda f: -f, False, False),
    ],
)
def test_a_factor_and_a_shift_of_all_logits_cost_nothing_and_only_then(move, plain, scaled):
    mean, y = torch.tensor([[3.0, 1.0, -1.0]], dtype=torch.float64), torch.tensor([0])
    assert bool(survives(mean, move(mean), y)) == plain
    assert bool(survives(mean, move(mean), y, scaled=True)) == scaled


@pytest.mark.parametrize("wrong, depth", [(2, 4.0), (5, 10.0)])
def test_the_bound_of_lemma_1_is_attained(wrong, depth):
    a, b, x, y = tight_pair(20, wrong, depth)
    low, high = 1 / (1 + depth), depth / (1 + depth)
    grid = (0.0, low - 0.01, low + 0.01, 0.25, 0.5, 0.75, high - 0.01, high + 0.01, 1.0)
    rows = measure(a, b, [(x, y)], [Barrier(grid), Margins((0.5,)), LLFC()])
    errors = [find(rows, "error", alpha=alpha).mean for alpha in grid]
    factors = [2 if low < alpha < high else 1 for alpha in grid]
    assert errors == pytest.approx([wrong / 20 * factor for factor in factors])
    for quantity in ("error_between", "twice_epsilon", "error_either"):
        assert find(rows, quantity).mean == pytest.approx(wrong / 10)
    linear = [r for r in rows if r.quantity in ("1-cos_alpha", "1-coef_alpha")]
    assert {r.quantity for r in linear} == {"1-cos_alpha", "1-coef_alpha"}
    assert all(abs(r.mean) < EXACT for r in linear if r.role == "value")


def rescaled(network, factor):
    """The same function, its first layer ``factor`` times as large, the second as much smaller."""
    other = copy.deepcopy(network)
    for parameter in other.fc1.parameters():
        parameter.data *= factor
    other.fc2.weight.data /= factor
    return other


def test_the_factor_c_is_needed():
    a = mlp(0)
    for layer in (a.fc2, a.fc3, a.fc4):
        layer.bias.data.zero_()
    b, x, alpha, factor = rescaled(a, 10.0), draw(20, 12), 0.25, 10.0
    torch.testing.assert_close(b(x), a(x))
    split = decompose(a, b, x, alpha)
    assert float(split["FC 1"].residual.abs().max()) < EXACT
    c = 1 / ((alpha + (1 - alpha) * factor) * (alpha + (1 - alpha) / factor))
    for site in ("FC 2", "FC 3", "logits"):
        between = split[site].residual + split[site].mean
        torch.testing.assert_close(c * between, split[site].mean)
    assert c < 0.4


def test_linear_connectivity_does_not_need_llfc():
    a, b = without_llfc(mlp(0))
    rows = measure(a, b, loader(), [Barrier((0.0, 0.25, 0.5, 0.75, 1.0)), LLFC()])
    assert find(rows, "error_barrier").mean == 0
    assert find(rows, "loss_barrier").mean == pytest.approx(0, abs=EXACT)
    half = [r for r in rows if r.quantity == "cos_ratio" and r.alpha == 0.5 and r.role == "value"]
    assert {r.site for r in half} == {"FC 1", "FC 2", "FC 3", "logits"}
    assert min(r.mean for r in half) > 0.5  # the nearest endpoint would give about 0.25


# what is expected of a random displacement


def gaussian_ratio(t: float, depth: int, alpha: float = 0.5) -> list[float]:
    """r after each of ``depth`` ReLU layers of a wide network with independent Gaussian weights,
    displaced by ``t`` times such weights.

    After l layers |dZ|^2 / |Z|^2 = l t^2, half of which comes back through every ReLU, and a share
    arctan(t sqrt(l)) / pi of units flips: r_l = (alpha (1 - alpha))^2 [(l - 1) t^2 / 2 + (4 / 3 l)
    sum_{k <= l} k arctan(t sqrt(k)) / pi]. Width does not enter.
    """
    weight = (alpha * (1 - alpha)) ** 2
    flips = [k * math.atan(t * math.sqrt(k)) / math.pi for k in range(1, depth + 1)]
    return [weight * ((k - 1) * t**2 / 2 + 4 / 3 * sum(flips[:k]) / k) for k in range(1, depth + 1)]


def gaussian_pair(
    width: int, t: float, seed: object = 0, inputs: int = 64, classes: int = 10
) -> tuple[MLP, MLP]:
    """An MLP with independent N(0, 2/n) weights and no biases, and one displaced by ``t`` times an
    independent draw of the same; float64.
    """
    draw = generator("gaussian pair", width, seed)
    nets = [MLP(inputs, width, classes).double().eval() for _ in range(2)]
    for own, other in zip(nets[0].modules(), nets[1].modules()):
        if isinstance(own, nn.Linear):
            first, second = (
                torch.randn(own.weight.shape, generator=draw, dtype=torch.float64)
                * math.sqrt(2 / own.in_features)
                for _ in range(2)
            )
            own.weight.data, other.weight.data = first, first + t * second
            own.bias.data.zero_()
            other.bias.data.zero_()
    return nets[0], nets[1]


def gaussian_images(number: int = 200, inputs: int = 64) -> list[tuple[Tensor, Tensor]]:
    """A loader of one batch of independent N(0, 1) images, with labels of no meaning."""
    draw = generator("gaussian images", number)
    return [
        (
            torch.randn(number, inputs, generator=draw, dtype=torch.float64),
            torch.zeros(number, dtype=torch.long),
        )
    ]


@pytest.mark.parametrize("t", [0.05, 0.3])
@pytest.mark.parametrize("width", [64, 256])
def test_gaussian_networks_are_as_linear_as_expected(width, t):
    measured, foretold = [], []
    for seed in range(4):
        a, b = gaussian_pair(width, t, seed)
        rows = measure(a, b, gaussian_images(), [Decomposition()])
        measured.append([r.mean for r in rows if r.quantity == "e_over_d"])
        known = {(row.quantity, row.site): row.mean for row in rows if row.alpha is None}
        sites = [row.site for row in rows if row.quantity == "bound"]
        maps = [None, *(row.site for row in rows if row.quantity == "moved")]
        foretold.append(list(generic.chain(sites, maps, known, 0.5).values()))
    mean, ratio = torch.tensor(measured).mean(0), torch.tensor(gaussian_ratio(t, 3))
    torch.testing.assert_close(mean[:3], ratio, rtol=0.12, atol=0)
    torch.testing.assert_close(mean, torch.tensor(foretold).mean(0), rtol=0.2, atol=0)


def test_the_expectation_is_of_second_order_in_alpha():
    whole, quarter = (gaussian_ratio(0.1, 3, alpha) for alpha in (0.5, 0.1))
    assert [q / w for q, w in zip(quarter, whole)] == pytest.approx([(0.09 / 0.25) ** 2] * 3)
    assert generic.relu_term(0.1, 0.5, 0.5) == pytest.approx(0.1 / 0.5 / 48)
    assert generic.layer_term(0.02, 0.3, 0.25, 0.5) == pytest.approx(0.75 * 0.02 + 0.25 * 0.3 / 16)


def test_shares_of_lemma_1_are_counted_as_they_are_named():
    """Five images, two classes, counted by hand at alpha = 1/4: logits of A and B are given by the
    images themselves. A errs on the third, B on the second, where m = (x_A + 3 x_B) / 4 has the
    margin (3 - 6) / 4.
    """
    a, b = (
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval() for _ in range(2)
    )
    for net, columns in ((a, (0, 1)), (b, (2, 3))):
        for p in net.parameters():
            p.data.zero_()
        net[0].weight.data = torch.eye(4, dtype=torch.float64)
        net[2].weight.data[[0, 1], list(columns)] = 1.0
    x = torch.tensor([[4, 1, 4, 1], [4, 1, 1, 3], [1, 4, 4, 1], [1, 2, 1, 9], [4, 1, 4, 0.9]])
    y = torch.tensor([0, 0, 0, 1, 0])

    def shares(*names: str) -> list[float]:
        rows = measure(a, b, [(x.double(), y)], [Margins((0.25,))])
        return [find(rows, name).mean for name in names]

    assert shares("error_either", "twice_epsilon") == pytest.approx([2 / 5, 2 / 5])
    # f_alpha = m here: one layer differs
    assert shares("error_between", "error_mean_logits") == pytest.approx([1 / 5, 1 / 5])
    assert shares("not_certified", "not_certified_scaled") == pytest.approx([2 / 5, 2 / 5])
    b[2].bias.data[:] = torch.tensor([0.0, 7.0])  # now B errs on four, A on one
    assert shares("error_either", "twice_epsilon") == pytest.approx([4 / 5, 2 * 4 / 5])
    # one function: between, the logits are 2.5 times as large
    factors = {"0.weight": 10, "2.weight": 0.1}
    b.load_state_dict({name: factors.get(name, 1) * v for name, v in a.state_dict().items()})
    assert shares("error_between", "not_certified_scaled") == pytest.approx([1 / 5, 1 / 5])
    assert shares("not_certified") == [1]


def test_parts_and_origins_are_what_the_text_says():
    """Two layers and the logits by hand: what FC 1's ReLU added and the second ReLU let through is
    the ReLU's still, what failed to commute commutativity's.
    """
    a, b = mlp(0).requires_grad_(False), near(mlp(0), 1).requires_grad_(False)
    x, alpha = draw(30, 12), 0.3
    split = decompose(a, b, x, alpha)
    w = {
        n: alpha * getattr(a, n).weight + (1 - alpha) * getattr(b, n).weight for n in ("fc2", "fc4")
    }
    crossed = {
        n: -alpha
        * (1 - alpha)
        * split[site].difference
        @ (getattr(a, n).weight - getattr(b, n).weight).T
        for n, site in (("fc2", "FC 1"), ("fc4", "FC 3"))
    }
    z_a, z_b = (net.fc2(torch.relu(net.fc1(x))) for net in (a, b))
    between = View(a).with_state(interpolate(View(a).state(), View(b).state(), alpha)).module
    z = between.fc2(torch.relu(between.fc1(x)))
    slope = relu_slope(z, alpha * z_a + (1 - alpha) * z_b)
    passed = slope * (split["FC 1"].residual @ w["fc2"].T)
    assert set(split["FC 1"].parts) == {"relu"}
    for found, expected in (
        (split["logits"].parts["commutativity"], crossed["fc4"]),
        (split["logits"].parts["carried"], split["FC 3"].residual @ w["fc4"].T),
        (split["FC 1"].parts["relu"], relu_gap(a.fc1(x), b.fc1(x), alpha)),
        (split["FC 2"].origins["commutativity"], slope * crossed["fc2"]),
        (split["FC 2"].origins["relu"], passed + relu_gap(z_a, z_b, alpha)),
    ):
        torch.testing.assert_close(found, expected)


def test_the_bound_is_the_printed_one_with_the_spectral_norm():
    a, b, images = mlp(0), near(mlp(0), 1), loader(60, batch=60)
    rows, split = measure(a, b, images, [Decomposition((0.3,))]), decompose(a, b, images[0][0], 0.3)
    expected = 0.0
    for site, layer in (("FC 1", "fc1"), ("FC 2", "fc2"), ("FC 3", "fc3"), ("logits", "fc4")):
        w = (0.3 * getattr(a, layer).weight + 0.7 * getattr(b, layer).weight).detach()
        own = [float(p.norm()) for name, p in split[site].parts.items() if name != "carried"]
        expected = float(torch.linalg.svdvals(w)[0]) * expected + sum(own)
        bound = expected / float(split[site].residual.norm())
        assert find(rows, "bound", site=site).mean == pytest.approx(bound, rel=1e-9)
