"""Appendix A.1 and A.2 as code: the split of LLFC's residual, Lemma 1, Theorem 1, and what is
expected of random displacements.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llfc_book import records
from llfc_book.appendix import construct, generic
from llfc_book.appendix.construct import (
    commuting_pair,
    conditions,
    normalised_pair,
    small_images,
    small_networks,
)
from llfc_book.appendix.lemma import Margins, margin, rescaled, survives, tight_pair, without_llfc
from llfc_book.show import decomposition as shown
from llfc_book.show.select import of
from nets import conv, find, loader, mlp, near
from torch import Tensor, nn
from torch.nn import functional as F

from llfc_lib.metrics import LLFC, Barrier, displacement_null, measure
from llfc_lib.metrics.decomposition import PARTS, Decomposition, decompose, relu_gap, relu_slope
from llfc_lib.models import VGG16, ResNet20
from llfc_lib.models.view import View
from llfc_lib.models.weights import interpolate

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
    assert (
        parts["FC 1"] <= {"relu"}
        and parts["FC 2"] <= own | {"carried"}
        and parts["logits"] <= {"carried", "commutativity"}
    )
    parts = adds_up(
        conv(seed), near(conv(seed), seed + 1, size), draw(4, 2, 5, 5, seed=seed), alpha
    )
    assert parts["relu2"] <= own | {"carried"}


def test_the_parts_add_up_in_the_networks_of_the_book():
    torch.manual_seed(0)
    for network, more in ((VGG16(1, 4), {"pooling"}), (ResNet20(1, 4), {"skipped"})):
        network = with_statistics(network)
        parts = adds_up(network, near(network, 1, 0.2), draw(6, 1, 16, 16), 0.3)
        # a node whose residual is not carried as it says would leave a part "other"
        assert (
            set().union(*parts.values())
            == {"carried", "commutativity", "relu", "normalisation"} | more
        )


def test_own_parts_are_what_the_text_says():
    a, b, x, alpha = mlp(0), near(mlp(0), 1), draw(30, 12), 0.3
    split = decompose(a, b, x, alpha)
    d_w, d_h = a.fc4.weight - b.fc4.weight, split["FC 3"].difference
    torch.testing.assert_close(
        split["logits"].parts["commutativity"], -alpha * (1 - alpha) * d_h @ d_w.T.detach()
    )
    w = alpha * a.fc4.weight + (1 - alpha) * b.fc4.weight
    torch.testing.assert_close(
        split["logits"].parts["carried"], split["FC 3"].residual @ w.T.detach()
    )
    torch.testing.assert_close(
        split["FC 1"].parts["relu"], relu_gap(a.fc1(x), b.fc1(x), alpha).detach()
    )
    assert set(split["FC 1"].parts) == {"relu"}


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
    a = (
        nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 3, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12, 2),
        )
        .double()
        .eval()
    )
    b, x, alpha = near(a, 1, 0.8), draw(8, 1, 6, 6), 0.4
    b[3].load_state_dict(
        a[3].state_dict()
    )  # so that the pooling's part is all that the second convolution carries from it
    first = decompose(a, b, x, alpha)["1"]
    f_a, f_b = first.mean + (1 - alpha) * first.difference, first.mean - alpha * first.difference
    pool = a[2]
    own = pool(first.mean) - alpha * pool(f_a) - (1 - alpha) * pool(f_b)
    assert float(own.max()) <= EXACT and float(own.min()) < -1e-3
    apart = construct._no_common_maximiser(pool, f_a, f_b)
    assert bool((own[~apart].abs() < EXACT).all()) and bool((own[apart] < 0).all())
    split = decompose(a, b, x, alpha)["4"]
    middle, relu = (
        View(a).with_state(interpolate(a.state_dict(), b.state_dict(), alpha)),
        View(a).sites[0].node,
    )
    z, z_mean = (
        a[3](pool(middle.run(x, {relu})[relu])),
        a[3](alpha * pool(f_a) + (1 - alpha) * pool(f_b)),
    )
    expected = relu_slope(z, z_mean) * F.conv2d(own, a[3].weight)
    torch.testing.assert_close(split.parts["pooling"], expected.detach(), rtol=1e-9, atol=1e-12)


class Foreign(nn.Module):
    """Nothing of ours: functional calls, layer normalisation, GELU, a gate, concatenation, a raw
    parameter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.gate = nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.scale, self.weight = (
            nn.Parameter(torch.rand(8) + 0.5),
            nn.Parameter(torch.randn(6, 16)),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.first(x)))
        g = F.gelu(self.gate(h)) * h * self.scale
        return F.linear(torch.cat((g, h), 1), self.weight)


class FunctionalPooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(self.conv(x), 2).relu()
        return self.fc(h.flatten(1))


def test_the_parts_add_up_in_networks_of_others():
    torch.manual_seed(0)
    a = Foreign().double().eval()
    parts = adds_up(a, near(a, 1), draw(10, 12), 0.6)
    assert {"normalisation", "other"} <= parts["logits"] | parts[next(iter(parts))]
    a = FunctionalPooling().double().eval()
    assert "pooling" in adds_up(a, near(a, 1), draw(10, 1, 6, 6), 0.6)["relu"]


def test_operations_that_give_several_tensors_are_refused():
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 8)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.fc(x).chunk(2, 1)
            return torch.relu(left) * right

    a = Halves().double().eval()
    with pytest.raises(ValueError, match="gives several tensors"):
        decompose(a, near(a, 1), draw(5, 12))


def test_nothing_is_left_between_a_network_and_itself_or_at_an_end():
    a, b, x = mlp(0), near(mlp(0), 1), draw(10, 12)
    assert all(
        float(value.abs().max()) == 0
        for s in decompose(a, a, x).values()
        for value in (s.residual, *s.parts.values())
    )
    for alpha in (0.0, 1.0):
        assert all(float(s.residual.abs().max()) == 0 for s in decompose(a, b, x, alpha).values())
    with pytest.raises(ValueError, match="outside"):
        decompose(a, b, x, 1.5)


def test_the_metric_is_the_split_of_the_whole_set():
    a, b = mlp(0), near(mlp(0), 1)
    rows = measure(a, b, loader(60, batch=25), [Decomposition((0.3,))])
    split = decompose(a, b, torch.cat([x for x, _ in loader(60)]), 0.3)
    for site, s in split.items():
        e = s.residual
        assert find(rows, "e_over_d", site=site).mean == pytest.approx(
            float(e.square().sum() / s.difference.square().sum()), rel=1e-9
        )
        assert find(rows, "e_over_m", site=site).mean == pytest.approx(
            float(e.square().sum() / s.mean.square().sum()), rel=1e-9
        )
        assert sum(s.shares().values()) == pytest.approx(1) and set(s.shares()) == set(s.parts)
        for name, part in s.parts.items():
            assert s.shares()[name] == pytest.approx(
                find(rows, f"share_{name}", site=site).mean, rel=1e-9
            )
            assert find(rows, f"share_{name}", site=site).mean == pytest.approx(
                float((part * e).sum() / e.square().sum()), rel=1e-9
            )
        m, f = s.mean, s.mean + e
        c = float((f * m).sum() / f.square().sum())
        left = c * f - m  # what no factor mends
        assert find(rows, "c", site=site).mean == pytest.approx(c, rel=1e-9)
        assert find(rows, "turned_over_d", site=site).mean == pytest.approx(
            float(left.square().sum() / s.difference.square().sum()), rel=1e-6
        )
        for name, part in s.parts.items():
            assert find(rows, f"turned_{name}", site=site).mean == pytest.approx(
                float((part * left).sum() / left.square().sum()), rel=1e-5
            )
        for prefix in ("share_", "turned_", "origin_"):
            shares = [
                r.mean
                for r in rows
                if r.quantity.startswith(prefix) and r.site == site and "_over_" not in r.quantity
            ]
            assert sum(shares) == pytest.approx(1, rel=1e-6)
        assert find(rows, "identity_error", site=site).mean < EXACT
        assert find(rows, "bound", site=site).mean >= 1 - 1e-9
    a, b = a.requires_grad_(False), b.requires_grad_(False)
    z_a, z_b = (net.fc1(torch.cat([x for x, _ in loader(60)]).flatten(1)) for net in (a, b))
    assert find(rows, "flips", site="FC 1").mean == pytest.approx(
        float((z_a * z_b < 0).double().mean())
    )
    assert find(rows, "active", site="FC 1").mean == pytest.approx(
        float(((z_a > 0).double() + (z_b > 0).double()).mean() / 2)
    )
    h_a, h_b = (F.relu(z) for z in (z_a, z_b))
    d_z = z_a - z_b
    assert find(rows, "flipped", site="FC 1").mean == pytest.approx(
        float(d_z[z_a * z_b < 0].square().sum() / d_z.square().sum())
    )
    assert find(rows, "passed", site="FC 1").mean == pytest.approx(
        float((h_a - h_b).square().sum() / d_z.square().sum())
    )
    assert find(rows, "moved", site="FC 2").mean == pytest.approx(
        float((h_a - h_b).square().sum() / (0.5 * (h_a + h_b)).square().sum())
    )
    d_w, w = a.fc2.weight - b.fc2.weight, 0.5 * (a.fc2.weight + b.fc2.weight)
    below = (h_a - h_b) @ w.T
    rest = a.fc2(h_a) - b.fc2(h_b) - below
    assert find(rows, "fresh", site="FC 2").mean == pytest.approx(
        float(rest.square().sum() / (rest.square().sum() + below.square().sum()))
    )
    crossed, plain = (h_a - h_b) @ d_w.T, 0.5 * (h_a + h_b) @ d_w.T
    assert find(rows, "aligned", site="FC 2").mean == pytest.approx(
        float(crossed.square().sum() / plain.square().sum()) / find(rows, "moved", site="FC 2").mean
    )


def test_statistics_can_be_recomputed_and_no_bound_is_given_for_what_is_no_chain():
    network = with_statistics(ResNet20(1, 4))
    x = draw(12, 1, 8, 8)
    rows = measure(
        network,
        near(network, 1, 0.2),
        [(x, torch.zeros(12, dtype=torch.long))],
        [Decomposition()],
        calibration=[x],
    )
    assert all(r.mean < EXACT for r in rows if r.quantity == "identity_error") and not any(
        r.quantity == "bound" for r in rows
    )
    assert not any(
        r.quantity == "bound"
        for r in measure(conv(0), near(conv(0), 1), loader(shape=(2, 5, 5)), [Decomposition()])
    )


# Theorem 1


@pytest.mark.parametrize(
    "name", ["perceptron", "convolutions", "convolutions and max-pooling", "residual sum"]
)
def test_theorem_1_holds_where_its_conditions_do_and_fails_without_each(name):
    network, x = small_networks()[name], small_images()
    for dropped in ("", "commute", "signs", *(("maximisers",) if "pooling" in name else ())):
        a, b = commuting_pair(network, x, **({dropped: False} if dropped else {}))
        now = conditions(a, b, x)
        broken = {
            "commute": now.commutativity > 1e-3,
            "signs": now.signs > 1e-3,
            "maximisers": now.maximisers > 1e-3,
        }
        assert {key for key, value in broken.items() if value} == ({dropped} if dropped else set())
        assert now.commutativity < 1e-14 or dropped == "commute"
        apart = (
            float(
                sum((p - q).detach().square().sum() for p, q in zip(a.parameters(), b.parameters()))
            )
            ** 0.5
        )
        assert apart > 0.05
        for alpha in (0.1, 0.5, 0.9):
            assert worst(a, b, x, alpha) > 1e-3 if dropped else worst(a, b, x, alpha) < 1e-11


def test_theorem_1_needs_few_images():
    with pytest.raises(ValueError, match="take fewer images"):
        commuting_pair(small_networks()["perceptron"], small_images(200))


@settings(deadline=None)
@given(st.floats(-5, 5), st.floats(-5, 5))
def test_sum_additivity_of_the_relu_is_agreement_of_signs_and_gives_every_alpha(x, y):
    def relu(t: float) -> float:
        return max(t, 0.0)

    additive = math.isclose(relu(x + y), relu(x) + relu(y), rel_tol=1e-12, abs_tol=1e-300)
    if abs(x * y) > 1e-6 or x * y == 0:
        assert additive == (x * y >= 0)
    if x * y >= 0:
        for alpha in (0.0, 0.2, 0.5, 1.0):
            mean = alpha * x + (1 - alpha) * y
            assert relu(mean) == pytest.approx(
                alpha * relu(x) + (1 - alpha) * relu(y), rel=1e-12, abs=1e-300
            )


def test_normalisation_breaks_the_theorem_while_both_conditions_hold():
    x = small_images(40)
    for kind, breaks in (
        ("none", False),
        ("batch normalisation", True),
        ("layer normalisation", True),
    ):
        a, b = normalised_pair(kind, x)
        now = conditions(a, b, x)
        assert now.commutativity == now.signs == now.maximisers == 0
        for how in ({}, {"calibration": [x]}):
            assert (worst(a, b, x, **how) > 0.01) == breaks and (worst(a, b, x, **how) < 1e-13) == (
                not breaks
            )
    with pytest.raises(ValueError, match="unknown normalisation 'group'"):
        normalised_pair("group", x)


# Lemma 1


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_lemma_1_on_any_logits(seed, alpha):
    f_a, f_b = draw(2, 40, 4, seed=seed)
    y = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(seed))
    wrong_a, wrong_b = (margin(f, y) <= 0 for f in (f_a, f_b))
    mean = alpha * f_a + (1 - alpha) * f_b
    assert bool(
        (margin(mean, y) >= alpha * margin(f_a, y) + (1 - alpha) * margin(f_b, y) - 1e-12).all()
    )
    assert not bool(((margin(mean, y) <= 0) & ~(wrong_a | wrong_b)).any())
    assert bool(((f_a.argmax(1) == y) == ~wrong_a).all())


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
    if size < 0.1:
        assert bool(survives(mean, 3 * logits + 7, y, scaled=True).any()) and bool(
            survives(mean, logits, y).any()
        )


def test_the_margin_argument_cannot_be_improved():
    """A feature error of just over margin / sqrt(2), in the worst direction, changes the class."""
    mean, y = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64), torch.tensor([0])
    worst_direction = torch.tensor([[-1.0, 1.0, 0.0]], dtype=torch.float64) / 2**0.5
    for size, right in ((2 / 2**0.5 * 0.999, True), (2 / 2**0.5 * 1.001, False)):
        logits = mean + size * worst_direction
        assert bool(survives(mean, logits, y)) == bool(margin(logits, y) > 0) == right


@pytest.mark.parametrize("wrong, depth", [(2, 4.0), (5, 10.0)])
def test_the_bound_of_lemma_1_is_attained(wrong, depth):
    a, b, x, y = tight_pair(20, wrong, depth)
    low, high = 1 / (1 + depth), depth / (1 + depth)
    grid = (0.0, low - 0.01, low + 0.01, 0.25, 0.5, 0.75, high - 0.01, high + 0.01, 1.0)
    rows = measure(a, b, [(x, y)], [Barrier(grid), Margins((0.5,)), LLFC()])
    errors = [find(rows, "error", alpha=alpha).mean for alpha in grid]
    assert errors == pytest.approx(
        [wrong / 20 * (2 if low < alpha < high else 1) for alpha in grid]
    )
    assert (
        find(rows, "error_between").mean
        == find(rows, "twice_epsilon").mean
        == find(rows, "error_either").mean
        == pytest.approx(wrong / 10)
    )
    assert all(
        r.mean == pytest.approx(0, abs=1e-12)
        for r in rows
        if r.quantity in ("1-cos_alpha", "1-coef_alpha") and r.role == "value"
    )
    with pytest.raises(ValueError, match="images of their own"):
        tight_pair(20, 11)


def test_the_factor_c_is_needed():
    a = mlp(0)
    for layer in (a.fc2, a.fc3, a.fc4):
        layer.bias.data.zero_()
    b, x, alpha, factor = rescaled(a, 10.0), draw(20, 12), 0.25, 10.0
    torch.testing.assert_close(b(x), a(x))
    split = decompose(a, b, x, alpha)
    assert float(split["FC 1"].residual.abs().max()) < 1e-12
    c = 1 / ((alpha + (1 - alpha) * factor) * (alpha + (1 - alpha) / factor))
    for site in ("FC 2", "FC 3", "logits"):
        between = split[site].residual + split[site].mean
        torch.testing.assert_close(c * between, split[site].mean)
    assert c < 0.4
    with pytest.raises(ValueError, match="must be positive"):
        rescaled(a, 0.0)


def test_linear_connectivity_does_not_need_llfc():
    a, b = without_llfc(mlp(0))
    rows = measure(a, b, loader(), [Barrier((0.0, 0.25, 0.5, 0.75, 1.0)), LLFC()])
    assert find(rows, "error_barrier").mean == 0 and find(
        rows, "loss_barrier"
    ).mean == pytest.approx(0, abs=1e-12)
    ratios = {
        r.site: r.mean
        for r in rows
        if r.quantity == "cos_ratio" and r.alpha == 0.5 and r.role == "value"
    }
    assert (
        set(ratios) == {"FC 1", "FC 2", "FC 3", "logits"} and min(ratios.values()) > 0.5
    )  # the nearest endpoint would give about 0.25


# what is expected of a random displacement


@pytest.mark.parametrize("t", [0.05, 0.3])
@pytest.mark.parametrize("width", [64, 256])
def test_gaussian_networks_are_as_linear_as_expected(width, t):
    measured, foretold = [], []
    for seed in range(4):
        a, b = generic.gaussian_pair(width, t, seed)
        rows = measure(a, b, generic.gaussian_images(), [Decomposition()])
        measured.append([r.mean for r in rows if r.quantity == "e_over_d"])
        foretold.append(list(generic.expected(rows).values()))
    mean = torch.tensor(measured).mean(0)
    torch.testing.assert_close(
        mean[:3], torch.tensor(generic.gaussian_ratio(t, 3)), rtol=0.12, atol=0
    )
    torch.testing.assert_close(mean, torch.tensor(foretold).mean(0), rtol=0.2, atol=0)


def test_the_expectation_is_of_second_order_in_alpha_and_refuses_other_networks():
    whole, quarter = (generic.gaussian_ratio(0.1, 3, alpha) for alpha in (0.5, 0.1))
    assert [q / w for q, w in zip(quarter, whole)] == pytest.approx([(0.09 / 0.25) ** 2] * 3)
    assert generic.relu_term(0.1, 0.5, 0.5) == pytest.approx(0.1 / 0.5 / 48)
    assert generic.layer_term(0.02, 0.3, 0.25, 0.5) == pytest.approx(0.75 * 0.02 + 0.25 * 0.3 / 16)
    with pytest.raises(ValueError, match="no chain"):
        generic.expected(
            measure(conv(0), near(conv(0), 1), loader(shape=(2, 5, 5)), [Decomposition()])
        )


def test_displaced_partners_can_be_decomposed():
    rows = displacement_null(
        mlp(0),
        near(mlp(0), 1),
        loader(),
        lambda: [Decomposition(), Margins((0.5,))],
        "rotation",
        matched=True,
        draws=2,
    )
    assert {r.role for r in rows} == {"null"} and sum(
        r.mean for r in rows if r.quantity.startswith("share_") and r.site == "FC 2"
    ) == pytest.approx(1)


def test_shares_of_lemma_1_are_counted_as_they_are_named():
    """Five images, two classes, counted by hand at alpha = 1/4: logits of A and B are given by the
    images themselves.
    """
    a, b = (
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval() for _ in range(2)
    )
    for net, columns in ((a, (0, 1)), (b, (2, 3))):
        for p in net.parameters():
            p.data.zero_()
        net[0].weight.data = torch.eye(4, dtype=torch.float64)
        net[2].weight.data[[0, 1], list(columns)] = 1.0
    x = torch.tensor(
        [[4, 1, 4, 1], [4, 1, 1, 3], [1, 4, 4, 1], [1, 2, 1, 9], [4, 1, 4, 0.9]],
        dtype=torch.float64,
    )
    y = torch.tensor(
        [0, 0, 0, 1, 0]
        # A errs on the third, B on the second; m = (x_A + 3 x_B) / 4 on the second: margin (3 - 6) / 4
    )
    rows = measure(a, b, [(x, y)], [Margins((0.25,))])
    share = {r.quantity: r.mean for r in rows}
    assert share["error_either"] == pytest.approx(2 / 5) and share[
        "twice_epsilon"
    ] == pytest.approx(2 / 5)
    assert (
        share["error_between"] == share["error_mean_logits"] == pytest.approx(1 / 5)
    )  # f_alpha = m here: one layer differs
    assert share["not_certified"] == share["not_certified_scaled"] == pytest.approx(2 / 5)
    b[2].bias.data[:] = torch.tensor([0.0, 7.0])  # now B errs on four, A on one
    rows = measure(a, b, [(x, y)], [Margins((0.25,))])
    share = {r.quantity: r.mean for r in rows}
    assert share["twice_epsilon"] == pytest.approx(2 * 4 / 5) and share[
        "error_either"
    ] == pytest.approx(4 / 5)
    b.load_state_dict(
        {
            name: {"0.weight": 10, "2.weight": 0.1}.get(name, 1) * value
            for name, value in a.state_dict().items()
        }
    )
    share = {
        r.quantity: r.mean for r in measure(a, b, [(x, y)], [Margins((0.25,))])
    }  # one function: between, the logits are 2.5 times as large
    assert (
        share["error_between"] == share["not_certified_scaled"] == pytest.approx(1 / 5)
        and share["not_certified"] == 1
    )


def test_a_factor_and_a_shift_of_all_logits_cost_nothing_and_only_then():
    mean, y = torch.tensor([[3.0, 1.0, -1.0]], dtype=torch.float64), torch.tensor([0])
    for moved, plain, scaled in (
        (mean, True, True),
        (0.1 * mean, False, True),
        (mean + 5, False, True),
        (0.1 * mean + 5, False, True),
        (-mean, False, False),
        (mean[:, [1, 0, 2]], False, False),
    ):
        assert (bool(survives(mean, moved, y)), bool(survives(mean, moved, y, scaled=True))) == (
            plain,
            scaled,
        )


def test_origins_name_where_a_piece_arose():
    """Two layers by hand: what FC 1's ReLU added and the second ReLU let through is the ReLU's
    still, what failed to commute commutativity's.
    """
    a, b, x, alpha = mlp(0), near(mlp(0), 1), draw(30, 12), 0.3
    split = decompose(a, b, x, alpha)
    w = (alpha * a.fc2.weight + (1 - alpha) * b.fc2.weight).detach()
    z_a, z_b = (net.fc2(torch.relu(net.fc1(x))).detach() for net in (a, b))
    between = View(a).with_state(interpolate(View(a).state(), View(b).state(), alpha))
    z = between.module.fc2(torch.relu(between.module.fc1(x))).detach()
    slope = relu_slope(z, alpha * z_a + (1 - alpha) * z_b)
    crossed = (
        -alpha * (1 - alpha) * split["FC 1"].difference @ (a.fc2.weight - b.fc2.weight).T.detach()
    )
    torch.testing.assert_close(split["FC 2"].origins["commutativity"], slope * crossed)
    torch.testing.assert_close(
        split["FC 2"].origins["relu"],
        slope * (split["FC 1"].residual @ w.T) + relu_gap(z_a, z_b, alpha),
    )


def test_the_bound_is_the_printed_one_with_the_spectral_norm():
    a, b = mlp(0), near(mlp(0), 1)
    rows, split = (
        measure(a, b, loader(60, batch=60), [Decomposition((0.3,))]),
        decompose(a, b, loader(60, batch=60)[0][0], 0.3),
    )
    expected = 0.0
    for site, layer in (("FC 1", "fc1"), ("FC 2", "fc2"), ("FC 3", "fc3"), ("logits", "fc4")):
        w = (0.3 * getattr(a, layer).weight + 0.7 * getattr(b, layer).weight).detach()
        own = sum(
            float(part.norm()) for name, part in split[site].parts.items() if name != "carried"
        )
        expected = float(torch.linalg.svdvals(w)[0]) * expected + own
        assert find(rows, "bound", site=site).mean == pytest.approx(
            expected / float(split[site].residual.norm()), rel=1e-9
        )


def a_record(*parts: tuple[str, str, float], pair: str = "mlp_mnist_spawn/0") -> pd.DataFrame:
    """Gaussian networks in the place of a pair and its partners: role, kind and relative
    displacement of each.
    """
    rows = [
        replace(row, role=role, kind=kind)
        for role, kind, t in parts
        for row in measure(
            *generic.gaussian_pair(16, t), generic.gaussian_images(40), [Decomposition()]
        )
    ]
    told = {
        "recipe": "mlp_mnist_spawn",
        "data": {"name": "toy", "source": "toy"},
        "profile": "smoke",
    }
    return records.live_record(
        "decomposition",
        "smoke",
        {pair: told},
        {pair: rows},
        model="mlp",
        data="toy",
        method="spawning",
    ).frame()


def test_the_table_against_chance_says_what_each_partner_should_give():
    parts = (
        ("value", "", 0.1),
        ("control", "independent", 0.8),
        ("null", "rotation matched", 0.3),
        ("null", "gaussian matched", 0.5),
    )
    found = shown.expected_table(a_record(*parts)).set_index(["partner", "site"])
    assert list(dict.fromkeys(found.index.get_level_values("partner"))) == [
        "the pair",
        "independent",
        "displaced, rotated",
        "displaced, Gaussian",
    ]
    for (_, _, t), word in zip(
        parts, ("the pair", "independent", "displaced, rotated", "displaced, Gaussian")
    ):
        rows = measure(
            *generic.gaussian_pair(16, t), generic.gaussian_images(40), [Decomposition()]
        )
        assert found.loc[word, "expected"].to_dict() == pytest.approx(generic.expected(rows))
        for quantity, column in (("e_over_d", "measured"), ("turned_over_d", "turned")):
            assert found.loc[word, column].to_dict() == pytest.approx(
                {r.site: r.mean for r in rows if r.quantity == quantity}
            )


def test_the_figures_of_parts_and_origins_say_their_means():
    frame = a_record(("value", "", 0.1), ("null", "rotation matched", 0.3))
    rows = measure(*generic.gaussian_pair(16, 0.1), generic.gaussian_images(40), [Decomposition()])
    said = {(r.quantity, r.site): r.mean for r in rows}
    alt = shown.parts(of(frame, "mlp_mnist_spawn")).alt
    assert (
        f"the pair: carried from the layer below {said['share_carried', 'FC 3']:.2f}, commutativity"
        f" {said['share_commutativity', 'FC 3']:.2f}" in alt
    )
    theirs = measure(
        *generic.gaussian_pair(16, 0.3), generic.gaussian_images(40), [Decomposition()]
    )
    medians = np.median(
        [
            value
            for each in (rows, theirs)
            for r in each
            for value in [r.mean]
            if (r.quantity, r.site) == ("origin_relu", "logits")
        ]
    )
    assert f"ReLU, logits {medians:.2f}" in shown.every_pair(frame).alt
