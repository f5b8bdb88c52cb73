"""Partners at equal distance: on pairs whose answer is known, and against loops over images."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from llfc_book.study.closeness import (
    TOLERANCE,
    Linearity,
    Origin,
    _nearest,
    closeness,
    cycle,
    linearity,
)
from nets import find, loader, mlp, near, norm, whole
from torch import nn

from llfc_lib.matching import permuted, symmetry
from llfc_lib.metrics import Row, displace
from llfc_lib.metrics.displacement import random_difference
from llfc_lib.models.statistics import recomputed
from llfc_lib.models.view import View
from llfc_lib.models.weights import interpolate

SITES = ("FC 1", "FC 2", "FC 3")


@torch.no_grad()
def error(network: nn.Module, images: list) -> float:
    x, y = whole(images)
    return (network(x).argmax(1) != y).double().mean().item()


def null(rows: list[Row], quantity: str, site: str, kind: str) -> Row:
    """Of partners from A and from B, the mean."""
    where = {"quantity": quantity, "site": site, "role": "null", "kind": kind}
    a, b = (find(rows, **where, direction=f"from {who}") for who in "AB")
    return replace(a, mean=(a.mean + b.mean) / 2, n=a.n + b.n)


def has(rows: list[Row], **where: object) -> bool:
    return any(all(getattr(row, key) == value for key, value in where.items()) for row in rows)


def half_way(a: nn.Module, b: nn.Module) -> nn.Module:
    other = copy.deepcopy(a)
    other.load_state_dict(interpolate(a.state_dict(), b.state_dict(), 0.5))
    return other


def nodes_of(view: View) -> dict[str, str]:
    return {site.name: site.node for site in view.sites}


@torch.no_grad()
def test_rho_and_distance_are_what_single_images_give():
    a, b, images = mlp(0), near(mlp(0), 1), loader(30)
    half, (x, _) = half_way(a, b), whole(images)
    found = linearity(View(a), View(b), View(half), images, nodes_of(View(a)))

    def features(net: nn.Module) -> dict[str, torch.Tensor]:
        h1 = torch.relu(net.fc1(x.flatten(1)))
        h2 = torch.relu(net.fc2(h1))
        h3 = torch.relu(net.fc3(h2))
        return {"FC 1": h1, "FC 2": h2, "FC 3": h3, "logits": net.fc4(h3)}

    f_a, f_b, f_half = map(features, (a, b, half))
    off, apart = (
        {s: 1 - torch.cosine_similarity(f[s], g[s], dim=1) for s in f}
        for f, g in ((f_half, {s: (f_a[s] + f_b[s]) / 2 for s in f_a}), (f_a, f_b))
    )
    for site in off:
        rho, distance = (off[site].sum() / apart[site].sum()).sqrt(), apart[site].mean().sqrt()
        assert found.rho[site] == pytest.approx(rho.item(), rel=1e-9)
        assert found.distance[site] == pytest.approx(distance.item(), rel=1e-9)
    wrong = [error(net, images) for net in (a, b, half)]
    assert list(found.errors) == pytest.approx(wrong) and found.images == 30


def test_an_endpoint_half_way_is_at_one_half_and_a_linear_path_at_zero():
    a = mlp(0)
    b, view = near(a, 1, 0.02), View(a)
    found = linearity(view, View(b), View(b), loader(), nodes_of(view))
    assert all(found.rho[site] == pytest.approx(0.5, rel=0.01) for site in SITES)
    b = copy.deepcopy(a)
    b.fc4.weight.data += mlp(7).fc4.weight.data
    found = linearity(view, View(b), View(half_way(a, b)), loader(), nodes_of(view))
    # logits are linear in the last layer, and nothing differs before it
    assert found.distance["logits"] > 0.01 and found.rho["logits"] < 1e-7
    assert math.isnan(found.rho["FC 1"]) and found.distance["FC 1"] == 0


def test_a_pair_that_is_a_gaussian_step_is_as_linear_as_its_spread_partners():
    a, b = mlp(0, hidden=64), mlp(0, hidden=64)
    state, like = a.state_dict(), near(a, 5, 0.4).state_dict()
    b.load_state_dict(displace(state, random_difference(state, like, "gaussian", ("test", 7)), 1.0))
    rows = closeness(a, b, loader(100), draws=4)
    for site in SITES:
        own, partner = find(rows, "rho", site=site), null(rows, "rho", site, "spread")
        assert partner.n == 8 and own.mean / partner.mean == pytest.approx(1, abs=0.12)
        assert null(rows, "t", site, "spread").mean == pytest.approx(1, abs=0.12)
        reached = null(rows, "distance", site, "spread").mean
        assert abs(reached / find(rows, "distance", site=site).mean - 1) <= TOLERANCE
        assert null(rows, "no_partner", site, "spread").mean == 0


def test_a_pair_that_is_a_cycle_of_units_is_as_linear_as_its_sparse_partners():
    a, images = mlp(0, hidden=64), loader(100)
    sym = symmetry(a, images[0][0])
    g = torch.Generator().manual_seed(0)
    moved = {p.name: cycle(torch.randperm(p.size, generator=g), 20) for p in sym}
    rows = closeness(a, permuted(a, sym, moved), images, sym, draws=4)
    for site in SITES:
        own, partner = find(rows, "rho", site=site), null(rows, "rho", site, "sparse")
        assert own.mean / partner.mean == pytest.approx(1, abs=0.12)
        # and a spread partner is far more linear than a few units that have moved altogether
        assert null(rows, "rho", site, "spread").mean < 0.8 * own.mean
    # the same function
    found = null(rows, "partner_error", "FC 1", "sparse").mean
    assert found == pytest.approx(error(a, images))
    assert not has(rows, kind="sparse", site="logits")


def test_where_no_partner_is_as_far_there_is_none_and_no_number():
    a = mlp(0, hidden=32)
    b, g = copy.deepcopy(a), torch.Generator().manual_seed(0)
    # forty times as large and hardly turned: even a quarter of that step is much too far
    for p in (b.fc1.weight, b.fc1.bias):
        p.data.mul_(40).add_(0.4 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    rows = closeness(a, b, loader(), draws=2)
    assert find(rows, "distance", site="FC 1").mean > 0
    assert null(rows, "no_partner", "FC 1", "spread").mean == 1
    assert not has(rows, role="null", quantity="rho", site="FC 1")
    b = copy.deepcopy(a)
    b.fc4.bias.data += 1.0
    rows = closeness(a, b, loader(), symmetry(a, loader()[0][0]), draws=1)
    for kind in ("spread", "sparse"):
        assert null(rows, "no_partner", "FC 2", kind).mean == 1
        assert not has(rows, kind=kind, quantity="rho", site="FC 2")


def test_the_smallest_step_is_taken():
    """Where the distance falls again behind its peak, the target is reached more than once."""
    distances = {0.25: 0.1, 0.5: 0.3, 1.0: 0.9, 2.0: 0.31, 4.0: 0.2, 8.0: 0.9}
    looks = {
        t: Linearity({"x": d}, {"x": d}, {"x": 0}, (0.0, 0.0, 0.0), 1) for t, d in distances.items()
    }
    assert _nearest(looks.__getitem__, looks, "x", 0.304)["t"] == 0.5
    assert _nearest(looks.__getitem__, looks, "x", 0.05) is None
    assert _nearest(looks.__getitem__, looks, "x", 2.0) is None


def test_a_site_that_is_dead_has_no_rho_and_images_without_features_are_left_out():
    a, b = mlp(0), near(mlp(0), 1)
    a.fc2.bias.data.fill_(-100.0)
    rows = closeness(a, b, loader(), draws=1)
    dead = find(rows, "zero_features", site="FC 2")
    assert dead.mean == dead.n == 60
    assert not has(rows, site="FC 2", quantity="rho")
    assert not has(rows, site="FC 2", quantity="distance")
    assert null(rows, "no_partner", "FC 2", "spread").mean == 1
    a = mlp(0)  # a layer that responds to some images only
    a.fc1.weight.data.fill_(1.0)
    a.fc1.bias.data.zero_()
    views, (x, y) = [View(n) for n in (a, b, half_way(a, b))], whole(loader(40))
    seen = x.flatten(1).sum(1) > 0
    found, rest = (
        linearity(*views, data, nodes_of(views[0])) for data in ([(x, y)], [(x[seen], y[seen])])
    )
    assert 0 < (~seen).sum() < 40 and found.zero["FC 1"] == (~seen).sum()
    assert found.rho["FC 1"] == pytest.approx(rest.rho["FC 1"])
    assert found.distance["FC 1"] == pytest.approx(rest.distance["FC 1"])


def test_batches_do_not_matter_and_the_seed_does():
    a, b = mlp(0), near(mlp(0), 1)
    one, two = (closeness(a, b, loader(60, batch=batch), draws=1, seed="s") for batch in (60, 7))
    for x, y in zip(one, two, strict=True):
        assert replace(x, mean=0, std=0) == replace(y, mean=0, std=0)
        assert x.mean == pytest.approx(y.mean, rel=1e-9, nan_ok=True)
    other = closeness(a, b, loader(60), draws=1, seed="another")
    assert null(other, "t", "FC 2", "spread").mean != null(one, "t", "FC 2", "spread").mean


CALIBRATION = [x for x, _ in loader(50, seed=3)]


def test_running_statistics_of_all_networks_are_recomputed():
    a = norm(0)
    b, images = near(a, 1, 0.5), loader(40)
    rows = closeness(a, b, images, draws=1, calibration=CALIBRATION)
    without = closeness(a, b, images, draws=1)
    assert find(rows, "rho", site="relu").mean != find(without, "rho", site="relu").mean
    # with the statistics of the batches it is calibrated on, a network forgets those that it came
    # with
    b.norm1.running_mean.fill_(50.0)
    again = closeness(a, b, images, draws=1, calibration=CALIBRATION)
    for one, two in zip(again, rows, strict=True):
        assert one.mean == pytest.approx(two.mean, rel=1e-9, nan_ok=True)


def test_the_network_half_way_to_a_partner_has_statistics_of_its_own():
    view, partner = (recomputed(View(n), CALIBRATION) for n in (norm(0), near(norm(0), 1, 0.8)))
    images, nodes = loader(40), nodes_of(view)
    found = Origin(view, images, nodes, CALIBRATION).beside(partner)
    between = view.with_state(interpolate(view.state(), partner.state(), 0.5))
    fresh = recomputed(between, CALIBRATION)
    assert found == linearity(view, partner, fresh, images, nodes)
    assert found.rho["relu"] != linearity(view, partner, between, images, nodes).rho["relu"]


def test_partners_start_from_a_and_from_b():
    a, images = mlp(0, hidden=64), loader(200)
    b = near(a, 1, 0.8)
    errors = [error(net, images) for net in (a, b)]
    assert errors[0] != errors[1]
    rows = closeness(a, b, images, symmetry(a, images[0][0]), draws=2)
    found = null(rows, "partner_error", "FC 1", "sparse")  # of the same functions as A and B
    assert found.mean == pytest.approx(sum(errors) / 2) and found.n == 4


@pytest.mark.parametrize(
    "b, images, options, named",
    [
        (mlp(1), loader(), {"draws": 0}, "draws = 0"),
        (mlp(1), [], {}, "no images"),
        (mlp(0, hidden=8), loader(), {}, "networks differ"),
    ],
)
def test_what_makes_no_sense_is_refused(b, images, options, named):
    with pytest.raises(ValueError, match=named):
        closeness(mlp(0), b, images, **{"draws": 1, **options})
