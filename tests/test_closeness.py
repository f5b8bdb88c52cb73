"""Partners at equal distance: on pairs whose answer is known, and against loops over images."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from llfc_book.study.closeness import (
    TOLERANCE,
    Linearity,
    _cycle,
    _nearest,
    _Origin,
    closeness,
    linearity,
)
from nets import conv, find, loader, mlp, near
from torch import nn

from llfc_lib.matching import permuted, symmetry
from llfc_lib.metrics import Row
from llfc_lib.metrics.displacement import displace, random_difference
from llfc_lib.models.statistics import recomputed
from llfc_lib.models.view import View
from llfc_lib.models.weights import interpolate

SITES = ("FC 1", "FC 2", "FC 3")


def gaussian_partner(a: nn.Module, like: nn.Module, seed: int, t: float = 1.0) -> nn.Module:
    """A + t G with G Gaussian of the norms of like - A."""
    other = copy.deepcopy(a)
    other.load_state_dict(
        displace(
            a.state_dict(),
            random_difference(a.state_dict(), like.state_dict(), "gaussian", ("test", seed)),
            t,
        )
    )
    return other


def null(rows: list[Row], quantity: str, site: str, kind: str) -> Row:
    """Of partners from A and from B, the mean."""
    both = [
        find(rows, quantity, site=site, role="null", kind=kind, direction=f"from {who}")
        for who in "AB"
    ]
    return replace(both[0], mean=(both[0].mean + both[1].mean) / 2, n=both[0].n + both[1].n)


def half_way(a: nn.Module, b: nn.Module) -> nn.Module:
    other = copy.deepcopy(a)
    other.load_state_dict(interpolate(a.state_dict(), b.state_dict(), 0.5))
    return other


def nodes_of(view: View) -> dict[str, str]:
    return {site.name: site.node for site in view.sites}


def test_rho_and_distance_are_what_a_loop_over_images_finds():
    a, b, images = mlp(0), near(mlp(0), 1), loader(30)
    view = View(a)
    found = linearity(view, View(b), View(half_way(a, b)), images, nodes_of(view))

    def features(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h1 = torch.relu(net.fc1(x.flatten(1)))
        h2 = torch.relu(net.fc2(h1))
        h3 = torch.relu(net.fc3(h2))
        return {"FC 1": h1, "FC 2": h2, "FC 3": h3, "logits": net.fc4(h3)}

    off: dict[str, list[float]] = {}
    apart: dict[str, list[float]] = {}
    with torch.no_grad():
        for x, _ in images:
            f_a, f_b, f_half = features(a, x), features(b, x), features(half_way(a, b), x)
            for site in f_a:
                for i in range(len(x)):
                    mean = (f_a[site][i] + f_b[site][i]) / 2
                    off.setdefault(site, []).append(
                        1
                        - float(
                            torch.dot(f_half[site][i], mean) / f_half[site][i].norm() / mean.norm()
                        )
                    )
                    apart.setdefault(site, []).append(
                        1
                        - float(
                            torch.dot(f_a[site][i], f_b[site][i])
                            / f_a[site][i].norm()
                            / f_b[site][i].norm()
                        )
                    )
    for site in off:
        assert found.rho[site] == pytest.approx(
            math.sqrt(sum(off[site]) / sum(apart[site])), rel=1e-9
        )
        assert found.distance[site] == pytest.approx(math.sqrt(sum(apart[site]) / 30), rel=1e-9)
    # the standard error is that of an independent way: leaving out one image at a time
    pairs = list(zip(off["FC 2"], apart["FC 2"]))
    jack = [
        math.sqrt(
            sum(u for j, (u, _) in enumerate(pairs) if j != i)
            / sum(v for j, (_, v) in enumerate(pairs) if j != i)
        )
        for i in range(30)
    ]
    mean = sum(jack) / 30
    assert found.standard_error["FC 2"] == pytest.approx(
        math.sqrt(29 / 30 * sum((j - mean) ** 2 for j in jack)), rel=0.1
    )
    wrong = [
        sum(float((net(x).argmax(1) != y).sum()) for x, y in images) / 30
        for net in (a, b, half_way(a, b))
    ]
    assert list(found.errors) == pytest.approx(wrong) and found.images == 30


def test_an_endpoint_half_way_is_at_one_half_and_a_linear_path_at_zero():
    a = mlp(0)
    b = near(a, 1, 0.02)
    view = View(a)
    found = linearity(view, View(b), View(b), loader(), nodes_of(view))
    assert all(found.rho[site] == pytest.approx(0.5, rel=0.01) for site in SITES)
    b = copy.deepcopy(a)
    with torch.no_grad():
        b.fc4.weight.add_(
            torch.randn(
                b.fc4.weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
            )
        )
    found = linearity(view, View(b), View(half_way(a, b)), loader(), nodes_of(view))
    assert (
        found.distance["logits"] > 0.1 and found.rho["logits"] < 1e-7
    )  # logits are linear in the last layer
    assert math.isnan(found.rho["FC 1"]) and found.distance["FC 1"] == 0  # nothing differs there


def test_a_pair_that_is_a_gaussian_step_is_as_linear_as_its_spread_partners():
    a = mlp(0, hidden=64)
    b = gaussian_partner(a, near(a, 5, 0.4), 7)
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
    b = permuted(
        a,
        sym,
        {
            p.name: _cycle(torch.randperm(p.size, generator=torch.Generator().manual_seed(k)), 20)
            for k, p in enumerate(sym)
        },
    )
    rows = closeness(a, b, images, sym, draws=4)
    for site in SITES:
        own, partner = find(rows, "rho", site=site), null(rows, "rho", site, "sparse")
        assert own.mean / partner.mean == pytest.approx(1, abs=0.12)
        # and a spread partner is far more linear than a few units that have moved altogether
        assert null(rows, "rho", site, "spread").mean < 0.8 * own.mean
    with torch.no_grad():
        error = sum(float((a(x).argmax(1) != y).sum()) for x, y in images) / 100
    assert null(rows, "partner_error", "FC 1", "sparse").mean == pytest.approx(
        error
    )  # the same function
    assert not [row for row in rows if row.kind == "sparse" and row.site == "logits"]


def test_where_no_partner_is_as_far_there_is_none_and_no_number():
    a = mlp(0, hidden=32)
    b = copy.deepcopy(a)
    with (
        torch.no_grad()
    ):  # forty times as large and hardly turned: even a quarter of that step is much too far
        for p in (b.fc1.weight, b.fc1.bias):
            p.mul_(40).add_(
                0.4
                * torch.randn(p.shape, generator=torch.Generator().manual_seed(0), dtype=p.dtype)
            )
    rows = closeness(a, b, loader(), draws=2)
    assert find(rows, "distance", site="FC 1").mean > 0
    assert null(rows, "no_partner", "FC 1", "spread").mean == 1
    assert not [
        row for row in rows if row.role == "null" and row.quantity == "rho" and row.site == "FC 1"
    ]
    b = copy.deepcopy(a)
    with torch.no_grad():
        b.fc4.bias.add_(1.0)
    rows = closeness(a, b, loader(), symmetry(a, loader()[0][0]), draws=1)
    for kind in ("spread", "sparse"):
        assert null(rows, "no_partner", "FC 2", kind).mean == 1
        assert not [
            row for row in rows if row.kind == kind and row.quantity == "rho" and row.site == "FC 2"
        ]


def test_the_smallest_step_is_taken():
    """Where the distance falls again behind its peak, the target is reached more than once."""
    distances = {0.25: 0.1, 0.5: 0.3, 1.0: 0.9, 2.0: 0.31, 4.0: 0.2, 8.0: 0.9}
    looks = {
        t: Linearity({"x": d}, {"x": d}, {"x": 0.0}, {"x": 0}, (0.0, 0.0, 0.0), 1)
        for t, d in distances.items()
    }
    assert _nearest(looks.__getitem__, looks, "x", 0.304)["t"] == 0.5
    assert (
        _nearest(looks.__getitem__, looks, "x", 0.05) is None
        and _nearest(looks.__getitem__, looks, "x", 2.0) is None
    )

    def look(t: float) -> Linearity:  # distance t
        looks[t] = Linearity({"x": t}, {"x": t}, {"x": 0.0}, {"x": 0}, (0.0, 0.0, 0.0), 1)
        return looks[t]

    looks = {}
    look(0.25), look(8.0)
    found = _nearest(look, looks, "x", 3.0)
    assert (
        found["t"] == pytest.approx(3.0, rel=TOLERANCE) and len(looks) == 3
    )  # a power of t: one look is enough


def test_a_site_that_is_dead_has_no_rho_and_images_without_features_are_left_out():
    a, b = mlp(0), near(mlp(0), 1)
    with torch.no_grad():
        a.fc2.bias.fill_(-100.0)
    rows = closeness(a, b, loader(), draws=1)
    assert (
        find(rows, "zero_features", site="FC 2").mean == 60
        and find(rows, "zero_features", site="FC 2").n == 60
    )
    assert not [row for row in rows if row.site == "FC 2" and row.quantity in ("rho", "distance")]
    assert null(rows, "no_partner", "FC 2", "spread").mean == 1
    a = mlp(0)
    with torch.no_grad():  # a layer that responds to some images only
        a.fc1.weight.fill_(1.0)
        a.fc1.bias.zero_()
    view = View(a)
    images = loader(40)
    found = linearity(view, View(b), View(half_way(a, b)), images, nodes_of(view))
    silent = sum(int((x.flatten(1).sum(1) <= 0).sum()) for x, _ in images)
    assert 0 < silent < 40 and found.zero["FC 1"] == silent
    kept = [(x[x.flatten(1).sum(1) > 0], y[x.flatten(1).sum(1) > 0]) for x, y in images]
    rest = linearity(view, View(b), View(half_way(a, b)), kept, nodes_of(view))
    assert found.rho["FC 1"] == pytest.approx(rest.rho["FC 1"]) and found.distance[
        "FC 1"
    ] == pytest.approx(rest.distance["FC 1"])


def test_batches_do_not_matter():
    a, b = mlp(0), near(mlp(0), 1)
    one, two = (closeness(a, b, loader(60, batch=batch), draws=1, seed="s") for batch in (60, 7))
    assert len(one) == len(two)
    for x, y in zip(one, two):
        assert (x.quantity, x.site, x.role, x.kind, x.direction, x.n) == (
            y.quantity,
            y.site,
            y.role,
            y.kind,
            y.direction,
            y.n,
        )
        assert x.mean == pytest.approx(y.mean, rel=1e-9, nan_ok=True)
    other = closeness(a, b, loader(60), draws=1, seed="another")
    assert null(other, "t", "FC 2", "spread").mean != null(one, "t", "FC 2", "spread").mean


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.relu(self.bn(self.conv(x))).mean((2, 3)))


def test_running_statistics_of_all_networks_are_recomputed():
    torch.manual_seed(0)
    a = Normalised().double().eval()
    b = near(a, 1, 0.5)
    images = loader(40, (2, 6, 6))
    calibration = [x for x, _ in loader(50, (2, 6, 6), batch=25, seed=3)]
    with_, without = (
        closeness(a, b, images, draws=1, calibration=calibration),
        closeness(a, b, images, draws=1),
    )
    assert find(with_, "rho", site="relu").mean != find(without, "rho", site="relu").mean
    # with the statistics of the batches it is calibrated on, a network forgets those that it came
    # with
    spoiled = copy.deepcopy(b)
    spoiled.bn.running_mean.fill_(50.0)
    again = closeness(a, spoiled, images, draws=1, calibration=calibration)
    for kind in (None, "spread"):
        one, two = (
            find(rows, "rho", site="relu") if kind is None else null(rows, "rho", "relu", kind)
            for rows in (again, with_)
        )
        assert one.mean == pytest.approx(two.mean, rel=1e-9)


def test_the_network_half_way_to_a_partner_has_statistics_of_its_own():
    torch.manual_seed(0)
    a = Normalised().double().eval()
    calibration = [x for x, _ in loader(50, (2, 6, 6), batch=25, seed=3)]
    view, partner = recomputed(View(a), calibration), recomputed(View(near(a, 1, 0.8)), calibration)
    images = list(loader(40, (2, 6, 6)))
    found = _Origin(view, images, nodes_of(view), calibration).beside(partner)
    between = View(a).with_state(interpolate(view.state(), partner.state(), 0.5))
    assert found == linearity(
        view, partner, recomputed(between, calibration), images, nodes_of(view)
    )
    assert (
        found.rho["relu"] != linearity(view, partner, between, images, nodes_of(view)).rho["relu"]
    )


def test_partners_start_from_a_and_from_b():
    a, b, images = mlp(0, hidden=64), near(mlp(0, hidden=64), 1, 0.8), loader(200)
    with torch.no_grad():
        errors = [
            sum(float((net(x).argmax(1) != y).sum()) for x, y in images) / 200 for net in (a, b)
        ]
    assert errors[0] != errors[1]
    rows = closeness(a, b, images, symmetry(a, images[0][0]), draws=2)
    found = null(rows, "partner_error", "FC 1", "sparse")  # of the same functions as A and B
    assert found.mean == pytest.approx(sum(errors) / 2) and found.n == 4


def test_a_residual_stream_is_matched_at_its_last_site():
    a, images = conv(0), loader(80, (2, 6, 6))
    b = near(a, 1, 0.4)
    sym = symmetry(a, images[0][0])
    rows = closeness(a, b, images, sym, draws=3, sites=["relu1", "relu2"])
    assert {row.site for row in rows} == {"relu1", "relu2", ""}
    assert null(rows, "no_partner", "relu2", "sparse").n == 6


def test_refusals():
    a, b = mlp(0), near(mlp(0), 1)
    with pytest.raises(ValueError, match="draws = 0"):
        closeness(a, b, loader(), draws=0)
    with pytest.raises(ValueError, match="unknown site 'FC 9'; this network has"):
        closeness(a, b, loader(), draws=1, sites=["FC 9"])
    with pytest.raises(ValueError, match="gave no images"):
        closeness(a, b, [], draws=1)
    with pytest.raises(ValueError, match="networks differ"):
        closeness(a, mlp(0, hidden=8), loader(), draws=1)
