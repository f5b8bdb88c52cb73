"""Intervals of barriers and stitched networks: against Barrier and Stitching, a plain loop, and
simulated test sets.
"""

import math

import numpy as np
import pytest
import torch
from llfc_book.study import connected
from llfc_book.study.connected import Connected, StitchedExcess, barriers, bootstrap_means
from nets import find, loader, mlp, near, waits_for_no_device, whole
from scipy.stats import binom, norm

from llfc_lib.metrics import Barrier, Stitching, measure
from llfc_lib.metrics.barrier import GRID, NEEDED
from llfc_lib.models.weights import interpolate
from llfc_lib.streams import numpy_generator


@pytest.fixture(scope="module")
def pair():
    a = mlp(0)
    return a, near(a, 1, 1.0)


@pytest.fixture(scope="module")
def images(pair):
    """A few hundred images, of which A takes most and B some for their class."""
    x = torch.cat([x for x, _ in loader(240)])
    y = pair[0](x).argmax(1)
    y[::7] = (y[::7] + 1) % 5
    return list(zip(x.split(50), y.split(50), strict=True))


@torch.no_grad()
def by_hand(pair, images):
    """What each image adds to the curve of errors (images x alphas)."""
    (x, y), columns = whole(images), []
    for alpha in GRID:
        network = mlp(0)
        network.load_state_dict(interpolate(pair[0].state_dict(), pair[1].state_dict(), alpha))
        columns.append((network(x).argmax(1) != y).double())
    return torch.stack(columns, 1).numpy()


# Connected


@pytest.mark.parametrize("grid", [GRID, NEEDED, (1, 0.25, 0.75, 0.5, 0)])
def test_the_estimate_is_that_of_barrier(pair, images, grid):
    rows, others = (measure(*pair, images, [m]) for m in (Connected(grid, 20), Barrier(grid)))
    low, high = (find(rows, f"error_barrier_{end}") for end in ("lower", "upper"))
    one, other = find(rows, "error_barrier"), find(others, "error_barrier")
    assert one.mean == pytest.approx(other.mean, rel=0, abs=1e-12) and one.n == other.n == 240
    assert one.mean > 0 and one.std > 0 and len(rows) == 3
    assert low.n == high.n == 240 and low.mean < high.mean


def test_a_network_with_itself_has_no_barrier(pair, images):
    rows = measure(pair[0], pair[0], images, [Connected(NEEDED, 50)])
    assert len(rows) == 3 and all(abs(r.mean) < 1e-12 for r in rows)
    assert find(rows, "error_barrier").std < 1e-12


@pytest.mark.parametrize("seed", [0, 3])
def test_the_interval_by_a_plain_loop(pair, images, seed):
    values, resamples, draws = by_hand(pair, images), 300, []
    rng = numpy_generator("bootstrap", seed)
    for _ in range(resamples):
        drawn = values[rng.integers(0, len(values), len(values))]
        curve = [float(np.mean(drawn[:, k])) for k in range(len(GRID))]
        draws.append(max(curve) - (curve[0] + curve[-1]) / 2)
    rows = measure(*pair, images, [Connected(resamples=resamples, seed=seed)])
    limits = (find(rows, f"error_barrier_{end}").mean for end in ("lower", "upper"))
    expected = np.std(draws, ddof=1), *np.percentile(draws, (2.5, 97.5))
    assert (find(rows, "error_barrier").std, *limits) == pytest.approx(expected, rel=1e-9)


def test_a_resample_is_the_same_in_chunks_of_any_size(monkeypatch):
    values = np.random.default_rng(0).random((31, 4))
    plain = bootstrap_means(values, 50)
    for size in (1, 31 * 7, 31 * 50):
        monkeypatch.setattr(connected, "CHUNK", size)
        np.testing.assert_allclose(bootstrap_means(values, 50), plain, rtol=1e-13)
    assert not np.allclose(bootstrap_means(values, 50, seed=1), plain)


def simulated(rng, n, errors, shared=0.5):
    """A test set: n images, wrong at each alpha with the probability ``errors``; hard ones are hard
    at every alpha.
    """
    hard, own = rng.standard_normal((n, 1)), rng.standard_normal((n, len(errors)))
    return (math.sqrt(shared) * hard + math.sqrt(1 - shared) * own > norm.isf(errors)).astype(float)


def test_the_interval_covers_the_truth():
    """Errors of 10 and 20 % at the ends, 40 % half-way, as many as 60 sets of 400 images."""
    errors = np.array([0.2, 0.22, 0.4, 0.15, 0.1])
    truth = float(barriers(errors, NEEDED))
    assert truth == pytest.approx(0.25)
    rng, sets, covered, above = np.random.default_rng(1), 60, 0, 0
    for k in range(sets):
        draws = barriers(bootstrap_means(simulated(rng, 400, errors), 200, k), NEEDED)
        low, high = np.percentile(draws, connected.PERCENTILES)
        covered += low <= truth <= high
        above += truth > high
    low, high = binom.ppf((0.001, 0.999), sets, 0.95)
    assert low <= covered <= high
    assert above <= binom.ppf(0.999, sets, 0.025)


def test_the_order_and_size_of_batches_do_not_matter(pair, images):
    x, y = whole(images)
    order = torch.randperm(240, generator=torch.Generator().manual_seed(0))
    small = list(zip(x.split(17), y.split(17), strict=True))
    plain, parts, mixed = (
        measure(*pair, data, [Connected(NEEDED, 30), StitchedExcess(resamples=30)])
        for data in (images, small, [(x[order], y[order])])
    )
    for row, part, other in zip(plain, parts, mixed, strict=True):
        assert row.quantity == part.quantity == other.quantity
        assert row.mean == pytest.approx(part.mean, rel=1e-12, abs=1e-12)
        if not row.quantity.endswith(("_lower", "_upper")):  # of other draws of images
            assert row.mean == pytest.approx(other.mean, rel=1e-12, abs=1e-12)


def test_the_seed_draws_other_images(pair, images):
    one, again, other = (
        measure(*pair, images, [Connected(NEEDED, 30, seed), StitchedExcess(30, seed)])
        for seed in (0, 0, 1)
    )
    assert one == again
    changed = {r.quantity for r, s in zip(one, other, strict=True) if r.mean != s.mean}
    assert changed and all(q.endswith(("_lower", "_upper")) for q in changed)


# StitchedExcess


def test_the_excess_is_the_stitched_error_over_the_mean_of_the_ends(pair, images):
    rows = measure(*pair, images, [Stitching(), StitchedExcess(20), Barrier(NEEDED)])
    ends = sum(find(rows, "error", alpha=alpha).mean for alpha in (0.0, 1.0)) / 2
    stitched = [r for r in rows if r.quantity == "stitched_error"]
    assert {r.site for r in stitched} == {"FC 1", "FC 2", "FC 3"}
    for r in stitched:
        found = find(rows, "stitched_excess", site=r.site, direction=r.direction)
        assert found.mean == pytest.approx(r.mean - ends, rel=0, abs=1e-12) and found.n == 240
    assert len([r for r in rows if r.quantity.startswith("stitched_excess")]) == 3 * len(stitched)


@torch.no_grad()
def test_its_spread_is_the_standard_error_of_paired_images(pair, images):
    rows, (x, y) = measure(*pair, images, [StitchedExcess()]), whole(images)
    for direction, bottom, top in (("A to B", *pair), ("B to A", *pair[::-1])):
        h = bottom.fc2(bottom.fc1(x.flatten(1)).relu()).relu()
        wrong, *ends = (
            logits.argmax(1) != y for logits in (top.fc4(top.fc3(h).relu()), pair[0](x), pair[1](x))
        )
        values = wrong.double() - (ends[0].double() + ends[1].double()) / 2
        found = find(rows, "stitched_excess", site="FC 2", direction=direction)
        assert found.mean == pytest.approx(values.mean().item(), abs=1e-12) and found.mean != 0
        se = values.std(correction=0).item() / math.sqrt(240)
        assert found.std == pytest.approx(
            se, rel=0.08
        )  # 2,000 resamples: five times their own 1.6 %
        for end, z in (("lower", -1.96), ("upper", 1.96)):
            limit = find(rows, f"stitched_excess_{end}", site="FC 2", direction=direction).mean
            assert limit == pytest.approx(found.mean + z * se, abs=0.3 * se)


# both


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda: Connected(resamples=0), "resamples = 0"),
        (lambda: Connected((0, 0.5, 1)), "3 points"),
        (lambda: Connected((0, 0.25, 0.5, 0.75, 1.2)), "1.2"),
        (lambda: StitchedExcess(0), "resamples = 0"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_nothing_waits_for_the_device():
    waits_for_no_device(mlp(0), mlp(1), loader(), [Connected(), StitchedExcess()])
