"""Nulls by simulation: each gives what it says where its assumption holds."""

import math

import numpy as np
import pytest
import torch
from nets import Net, find, loader, mlp, near, same
from torch import nn

from llfc_lib.metrics import (
    LLFC,
    Barrier,
    Commutativity,
    WeakAdditivity,
    displace,
    displacement_null,
    matched_scale,
    measure,
)
from llfc_lib.metrics.displacement import random_difference
from llfc_lib.metrics.measure import ratio
from llfc_lib.models.view import View

KINDS = ("rotation", "entries", "gaussian")
STATE_A, STATE_B = (mlp(k).state_dict() for k in (0, 1))


def two_maps(w1: torch.Tensor, w2: torch.Tensor) -> nn.Module:
    """Linear maps with nothing in between: what enters the second is drawn, not learned."""
    maps = {name: nn.Linear(*w.T.shape, bias=False) for name, w in (("first", w1), ("second", w2))}
    maps["first"].weight.data, maps["second"].weight.data = w1, w2
    return Net(lambda s, x: s.second(s.first(x)), **maps)


def dist_com(a: nn.Module, b: nn.Module, x: torch.Tensor) -> list[float]:
    """Of the second map: the value, and its nulls by formula and by shuffled units."""
    rows = measure(a, b, [(x, torch.zeros(len(x), dtype=torch.long))], [Commutativity()])
    kinds = [{}, *({"role": "null", "kind": kind} for kind in ("formula", "shuffled units"))]
    return [find(rows, "dist_com", site="second", **where).mean for where in kinds]


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_without_structure_dist_com_is_what_both_nulls_say(correlation):
    """Networks whose weights are Gaussian with this cosine similarity: for equal norms the formula
    is r = (1 - rhoW)(1 - rhoH) / ((1 + rhoW)(1 + rhoH)), Dist = 4 r / (1 + r).
    """
    found, n = [], 120
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        two = []
        for _ in range(2):
            base, *own = (torch.randn(n, n, generator=g, dtype=torch.float64) for _ in range(3))
            two.append(
                [(correlation**0.5 * base + (1 - correlation) ** 0.5 * w) / n**0.5 for w in own]
            )
        (a1, b1), (a2, b2) = two
        x = torch.randn(400, n, generator=g, dtype=torch.float64)
        found.append(dist_com(two_maps(a1, a2), two_maps(b1, b2), x))
        h_a, h_b = x @ a1.T, x @ b1.T
        rho_w, rho_h = (
            float((u * v).sum() / (u.norm() * v.norm())) for u, v in ((a2, b2), (h_a, h_b))
        )
        r = (1 - rho_w) * (1 - rho_h) / ((1 + rho_w) * (1 + rho_h))
        assert found[-1][1] == pytest.approx(4 * r / (1 + r), rel=0.02)
    value, formula, shuffled = np.mean(found, axis=0)
    assert value == pytest.approx(formula, rel=0.03) and value == pytest.approx(shuffled, rel=0.03)


def test_shuffling_loses_the_alignment_that_the_formula_does_not_see():
    """dH lies in the row space of dW: the measured value exceeds what shuffled units give."""
    g, n = torch.Generator().manual_seed(0), 100

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    w, first, v = draw(n, n) / n**0.5, draw(n, n) / n**0.5, draw(n, 1)
    d_w, lift = 0.1 * draw(n, 1) @ v.T, 0.1 * v @ draw(1, n)
    value, formula, shuffled = dist_com(
        two_maps(first, w), two_maps(first + lift, w + d_w), draw(300, n)
    )
    assert value > 5 * shuffled and value > 5 * formula


@pytest.mark.parametrize("shape", [(8,), (8, 2, 2)])
def test_shuffled_images_give_the_value_of_unrelated_gaussians(shape):
    """Pre-activations that agree perfectly are weakly additive; shuffled, as independent ones are:
    0.16 (mean 0).
    """
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, *shape, generator=g, dtype=torch.float64)
    y = torch.zeros(4000, dtype=torch.long)
    scale = nn.Parameter(torch.ones(1, dtype=torch.float64))
    network = Net(lambda s, x: s.relu(x * s.scale).flatten(1), relu=nn.ReLU(), scale=scale)
    rows = measure(network, network, [(x, y)], [WeakAdditivity()])
    assert find(rows, "dist_add").mean == 0
    shuffled = find(rows, "dist_add", role="null", kind="shuffled images").mean
    i, j = (torch.randn(10**6, generator=g, dtype=torch.float64) for _ in range(2))
    one, other = (i + j).relu(), i.relu() + j.relu()
    expected = ratio(float((one - other).square().sum()), float(one.norm() * other.norm()))
    assert shuffled == pytest.approx(expected, rel=0.05) == pytest.approx(0.16, abs=0.02)


# displacement


@pytest.mark.parametrize("kind", KINDS)
def test_what_each_displacement_keeps(kind):
    moved, again, other = (random_difference(STATE_A, STATE_B, kind, ("x", k)) for k in (0, 0, 1))
    assert same(moved, again)
    for name, new in moved.items():
        d = STATE_B[name] - STATE_A[name]
        assert new.shape == d.shape and not torch.allclose(new, d)
        assert not torch.allclose(new, other[name])
        assert new.norm().item() == pytest.approx(d.norm().item(), rel=1e-12)
        if kind == "entries":
            assert torch.equal(new.flatten().sort().values, d.flatten().sort().values)
        if kind == "rotation" and d.ndim == 2:  # output units turned, weight and bias together
            bias = name.replace("weight", "bias")
            d_b = STATE_B[bias] - STATE_A[bias]
            torch.testing.assert_close(new.T @ new, d.T @ d)
            torch.testing.assert_close(new.T @ moved[bias], d.T @ d_b)


def test_rotations_are_uniform():
    """The mean of q_00 is 0 and of q_00^2 is 1/n; without fixing the signs of QR the mean would not
    vanish.
    """
    a = {"w": torch.zeros(4, 4, dtype=torch.float64)}
    b = {"w": torch.eye(4, dtype=torch.float64)}
    q = torch.stack([random_difference(a, b, "rotation", (k,))["w"][0, 0] for k in range(2000)])
    assert abs(q.mean()) < 0.05 and q.square().mean().item() == pytest.approx(0.25, abs=0.02)


def test_buffers_stay_as_they_are():
    a, b = (nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8)).state_dict() for _ in range(2))
    b["1.running_mean"] += 1
    buffers = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    partner = displace(a, random_difference(a, b, "gaussian", (0,), buffers), 1.0)
    assert all(torch.equal(partner[name], a[name]) for name in buffers)
    assert not torch.equal(partner["0.weight"], a["0.weight"])


def test_a_distance_that_no_scale_reaches_gives_nan():
    view, images = View(mlp(0)), loader(batch=60)[0][0]
    still = {name: torch.zeros_like(value) for name, value in view.state().items()}
    assert math.isnan(matched_scale(view, still, images, 0.1))
    moved = random_difference(STATE_A, STATE_B, "gaussian", ("test",))
    # after a ReLU no angle exceeds a right one
    assert math.isnan(matched_scale(view, moved, images, 1.9))


def test_displacement_null_is_the_mean_over_its_draws():
    a = mlp(0)
    b, partner = near(a, 1), mlp(0)

    def metrics():
        return [LLFC((0.5,)), Barrier((0, 0.25, 0.5, 0.75, 1))]

    rows = displacement_null(a, b, loader(), metrics, "entries", draws=3, seed="s")
    assert {(r.role, r.kind) for r in rows} == {("null", "entries t=1")}
    own = []
    for draw in range(3):
        moved = random_difference(a.state_dict(), b.state_dict(), "entries", ("s", draw))
        partner.load_state_dict(displace(a.state_dict(), moved, 1.0))
        own.append(measure(a, partner, loader(), metrics()))
    for quantity, where in (("cos_ratio", {"site": "FC 2", "alpha": 0.5}), ("error", {"alpha": 0})):
        values = [find(one, quantity, **where).mean for one in own]
        row = find(rows, quantity, role="null", **where)
        assert row.mean == pytest.approx(np.mean(values)) and row.n == 3
        assert row.std == pytest.approx(np.std(values, ddof=1))
    assert find(rows, "t", role="null").mean == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_matched_displacement_null_has_the_pairs_distance(kind):
    a = mlp(0)
    b, where = near(a, 1), {"quantity": "1-cos_AB", "site": "FC 3"}
    pair = find(measure(a, b, loader(), [LLFC()]), **where).mean
    rows = displacement_null(a, b, loader(), lambda: [LLFC()], kind, matched=True, draws=2)
    assert find(rows, **where, role="null").mean == pytest.approx(pair, rel=0.025)
