"""Nulls by simulation: each gives what it says where its assumption holds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import conv, find, loader, mlp, near
from torch import nn

from llfc_lib.metrics import (
    LLFC,
    Barrier,
    Commutativity,
    WeakAdditivity,
    displacement_null,
    matched_scale,
    measure,
)
from llfc_lib.metrics.displacement import displace, last_hidden, random_difference
from llfc_lib.metrics.llfc import one_minus_cos
from llfc_lib.metrics.measure import ratio
from llfc_lib.models.view import View

KINDS = ("rotation", "entries", "gaussian")


class TwoMaps(nn.Module):
    """Linear maps with nothing in between: what enters the second is drawn, not learned."""

    def __init__(self, w1: torch.Tensor, w2: torch.Tensor) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(w.shape[1], w.shape[0], bias=False) for w in (w1, w2))
        self.first.weight.data, self.second.weight.data = w1, w2

    def forward(self, x):
        return self.second(self.first(x))


def generic(seed: int, correlation: float, n: int = 120):
    """Two such networks whose weights are Gaussian with this cosine similarity, and no other
    structure.
    """
    g = torch.Generator().manual_seed(seed)

    def two(shape):
        base, a, b = (torch.randn(*shape, generator=g, dtype=torch.float64) for _ in range(3))
        return [(correlation**0.5 * base + (1 - correlation) ** 0.5 * x) / n**0.5 for x in (a, b)]

    (a1, b1), (a2, b2) = two((n, n)), two((n, n))
    x = torch.randn(400, n, generator=g, dtype=torch.float64)
    return TwoMaps(a1, a2), TwoMaps(b1, b2), [(x, torch.zeros(400, dtype=torch.long))]


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_without_structure_dist_com_is_what_both_nulls_say(correlation):
    found = []
    for seed in range(5):
        rows = measure(*generic(seed, correlation), [Commutativity()])
        null = {"site": "second", "role": "null"}
        found.append(
            [
                find(rows, "dist_com", site="second").mean,
                find(rows, "dist_com", **null, kind="formula").mean,
                find(rows, "dist_com", **null, kind="shuffled units").mean,
            ]
        )
    value, formula, shuffled = np.mean(found, axis=0)
    assert value == pytest.approx(formula, rel=0.03) and value == pytest.approx(shuffled, rel=0.03)


def test_the_formula_in_terms_of_the_two_similarities():
    """For equal norms r = (1 - rhoW)(1 - rhoH) / ((1 + rhoW)(1 + rhoH)); Dist = 2 (1 - rho)."""
    rows = measure(*generic(0, 0.8), [Commutativity()])
    rho_w, rho_h = (1 - find(rows, f"dist_{q}", site="second").mean / 2 for q in "WH")
    r = (1 - rho_w) * (1 - rho_h) / ((1 + rho_w) * (1 + rho_h))
    formula = find(rows, "dist_com", site="second", role="null", kind="formula").mean
    assert formula == pytest.approx(4 * r / (1 + r), rel=0.02)


def test_shuffling_loses_the_alignment_that_the_formula_does_not_see():
    """dH lies in the row space of dW: the measured value exceeds what shuffled units give."""
    g = torch.Generator().manual_seed(0)
    n = 100
    w = torch.randn(n, n, generator=g, dtype=torch.float64) / n**0.5
    u, v = (torch.randn(n, 1, generator=g, dtype=torch.float64) for _ in range(2))
    d_w, lift = 0.1 * u @ v.T, 0.1 * v @ torch.randn(1, n, generator=g, dtype=torch.float64)
    first = torch.randn(n, n, generator=g, dtype=torch.float64) / n**0.5
    a, b = TwoMaps(first, w), TwoMaps(first + lift, w + d_w)
    rows = measure(
        a,
        b,
        [
            (
                torch.randn(300, n, generator=g, dtype=torch.float64),
                torch.zeros(300, dtype=torch.long),
            )
        ],
        [Commutativity()],
    )
    value = find(rows, "dist_com", site="second").mean
    assert (
        value > 5 * find(rows, "dist_com", site="second", role="null", kind="shuffled units").mean
    )
    assert value > 5 * find(rows, "dist_com", site="second", role="null", kind="formula").mean


def test_nearest_endpoint_is_a_quarter_of_the_baseline_half_way():
    """For small angles and equal norms, the angle to the middle is half of the angle between: a
    quarter in 1 - cos.
    """
    a = mlp(0, hidden=64)
    rows = measure(a, near(a, 1, 0.05), loader(), [LLFC()])
    for site in ("FC 1", "FC 2", "FC 3"):
        assert find(rows, "cos_ratio", site=site, alpha=0.5, role="null").mean == pytest.approx(
            0.25, abs=0.01
        )


@pytest.mark.parametrize("shape", ["linear", "conv"])
def test_shuffled_images_give_the_value_of_unrelated_gaussians(shape):
    """Pre-activations that agree perfectly are weakly additive; shuffled, as independent ones are:
    0.16 (mean 0).
    """
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 8, *((2, 2) if shape == "conv" else ()), generator=g, dtype=torch.float64)

    class Rectify(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()
            self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x):
            return self.relu(x * self.scale).flatten(1)

    y = torch.zeros(4000, dtype=torch.long)
    rows = measure(Rectify(), Rectify(), [(x, y)], [WeakAdditivity()])
    assert find(rows, "dist_add").mean == 0
    shuffled = find(rows, "dist_add", role="null", kind="shuffled images").mean
    i, j = (torch.randn(10**6, generator=g, dtype=torch.float64) for _ in range(2))
    one, other = (i + j).relu(), i.relu() + j.relu()
    expected = ratio(float((one - other).square().sum()), float(one.norm() * other.norm()))
    assert shuffled == pytest.approx(expected, rel=0.05) == pytest.approx(0.16, abs=0.02)


def test_shuffled_images_keep_every_units_values():
    metric = WeakAdditivity()
    metric.batches = 0
    x = torch.arange(60.0).view(10, 3, 2)
    shifted = metric._shifted(x, "site")
    assert torch.equal(shifted.sort(0).values, x.sort(0).values)  # each unit's own values
    assert not (shifted == x).any()  # never the same image
    assert torch.equal(
        shifted[:, :, 1] - shifted[:, :, 0], torch.ones(10, 3)
    )  # a channel moves as a whole


# displacement


def test_what_each_displacement_keeps():
    a, b = mlp(0).state_dict(), mlp(1).state_dict()
    moved = {kind: random_difference(a, b, kind, ("test",)) for kind in KINDS}
    for name in a:
        d = b[name] - a[name]
        for kind in KINDS:
            new = moved[kind][name]
            assert new.shape == d.shape and not torch.allclose(new, d)
            assert new.norm().item() == pytest.approx(d.norm().item(), rel=1e-12)
        assert torch.equal(
            moved["entries"][name].flatten().sort().values, d.flatten().sort().values
        )
        if d.ndim == 2:
            torch.testing.assert_close(
                torch.linalg.svdvals(moved["rotation"][name]), torch.linalg.svdvals(d)
            )
            torch.testing.assert_close(
                moved["rotation"][name].T @ moved["rotation"][name], d.T @ d
            )  # output units turned


def test_weight_and_bias_of_a_layer_are_turned_together():
    a, b = mlp(0).state_dict(), mlp(1).state_dict()
    d_w, d_b = b["fc2.weight"] - a["fc2.weight"], b["fc2.bias"] - a["fc2.bias"]
    moved = random_difference(a, b, "rotation", ("test",))
    torch.testing.assert_close(moved["fc2.weight"].T @ moved["fc2.bias"], d_w.T @ d_b)


def test_draws_are_repeatable_and_differ():
    a, b = mlp(0).state_dict(), mlp(1).state_dict()
    for kind in KINDS:
        first, again, other = (
            random_difference(a, b, kind, ("x", k))["fc2.weight"] for k in (0, 0, 1)
        )
        assert torch.equal(first, again) and not torch.allclose(first, other)


def test_rotations_are_uniform():
    """The mean of q_00 is 0 and of q_00^2 is 1/n; without fixing the signs of QR the mean would not
    vanish.
    """
    a = {"w": torch.zeros(4, 4, dtype=torch.float64)}
    b = {"w": torch.eye(4, dtype=torch.float64)}
    q = torch.stack([random_difference(a, b, "rotation", (k,))["w"] for k in range(2000)])
    assert abs(q[:, 0, 0].mean()) < 0.05 and q[:, 0, 0].square().mean().item() == pytest.approx(
        0.25, abs=0.02
    )


def test_buffers_stay_as_they_are():
    torch.manual_seed(0)
    make = lambda: nn.Sequential(
        nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)
    ).double()  # noqa: E731
    a, b = make().state_dict(), make().state_dict()
    b["1.running_mean"] += 1
    buffers = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    partner = displace(a, random_difference(a, b, "gaussian", (0,), buffers), 1.0)
    assert all(torch.equal(partner[name], a[name]) for name in buffers)
    assert not torch.equal(partner["0.weight"], a["0.weight"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make, shape", [(mlp, (1, 3, 4)), (conv, (2, 5, 5))])
def test_matched_partners_are_as_far_away_as_they_should_be(kind, make, shape):
    a = make(0)
    view, images = View(a), torch.cat([x for x, _ in loader(shape=shape)])
    node = last_hidden(view)
    moved = random_difference(view.state(), View(near(a, 1)).state(), kind, ("test",))
    for target in (0.001, 0.05, 0.2):
        t = matched_scale(view, moved, images, target)
        features = [
            v.run(images, {node})[node].flatten(1)
            for v in (view, view.with_state(displace(view.state(), moved, t)))
        ]
        assert one_minus_cos(*features).mean().item() == pytest.approx(target, rel=0.021)


def test_a_distance_that_no_scale_reaches_gives_nan():
    view, images = View(mlp(0)), loader(batch=60)[0][0]
    still = {name: torch.zeros_like(value) for name, value in view.state().items()}
    assert math.isnan(matched_scale(view, still, images, 0.1))
    moved = random_difference(view.state(), mlp(1).state_dict(), "gaussian", ("test",))
    assert math.isnan(
        matched_scale(view, moved, images, 1.9)
    )  # after a ReLU no angle exceeds a right one
    rows = displacement_null(
        mlp(0), mlp(0), loader(), lambda: [LLFC()], "gaussian", matched=True, draws=2
    )
    assert rows == [] or all(r.n <= 2 for r in rows)


def test_displacement_null_is_the_mean_over_its_draws():
    a = mlp(0)
    b = near(a, 1)
    rows = displacement_null(
        a, b, loader(), lambda: [LLFC(), Barrier()], "entries", draws=3, seed="s"
    )
    assert {(r.role, r.kind) for r in rows} == {("null", "entries t=1")}
    values, errors = [], []
    for draw in range(3):
        partner = mlp(0)
        partner.load_state_dict(
            displace(
                a.state_dict(),
                random_difference(a.state_dict(), b.state_dict(), "entries", ("s", draw)),
                1.0,
            )
        )
        own = measure(a, partner, loader(), [LLFC(), Barrier()])
        values.append(find(own, "cos_ratio", site="FC 2", alpha=0.5).mean)
        errors.append(find(own, "error", alpha=0.0).mean)
    row = find(rows, "cos_ratio", site="FC 2", alpha=0.5, role="null")
    assert (
        row.mean == pytest.approx(np.mean(values))
        and row.std == pytest.approx(np.std(values, ddof=1))
        and row.n == 3
    )
    assert find(rows, "error", alpha=0.0, role="null").mean == pytest.approx(
        np.mean(errors)
    )  # the partner's own error
    assert find(rows, "t", role="null").mean == 1


def test_a_matched_displacement_null_has_the_pairs_distance():
    a = mlp(0)
    b = near(a, 1)
    pair = find(measure(a, b, loader(), [LLFC()]), "1-cos_AB", site="FC 3").mean
    for kind in KINDS:
        rows = displacement_null(a, b, loader(), lambda: [LLFC()], kind, matched=True, draws=2)
        assert find(rows, "1-cos_AB", site="FC 3", role="null").mean == pytest.approx(
            pair, rel=0.025
        )


def test_unknown_displacement():
    with pytest.raises(ValueError, match="unknown displacement 'rotate'; choose one of"):
        random_difference(mlp(0).state_dict(), mlp(1).state_dict(), "rotate", (0,))


@given(seed=st.integers(0, 1000))
def test_displacing_by_nothing_gives_a_itself(seed):
    a = mlp(seed).state_dict()
    assert all(
        torch.equal(v, a[k])
        for k, v in displace(a, random_difference(a, a, "gaussian", (seed,)), 1.0).items()
    )
