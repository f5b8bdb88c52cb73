"""The commutativity residual and its joint minimum: against explicit matrices, explicit loops and
enumeration.
"""

from functools import cache
from itertools import permutations as orders
from itertools import product
from math import factorial

import pytest
import torch
from llfc_book.appendix.joint import Residual, enumerate_residual, local_search
from llfc_book.study.measures import joint as experiment
from llfc_book.study.pairs import Pair
from llfc_book.study.settings import recipe
from nets import broken, conv, find, loader, mlp, near, whole
from torch import nn

from llfc_lib.data import Dataset, load
from llfc_lib.matching import activation_matching, objective, permuted, symmetry, weight_matching

DOUBLE = torch.float64
DATA = loader(60, (5,), 25)
X = whole(DATA)[0]
pytestmark = pytest.mark.filterwarnings("ignore:units that respond to no image")


@cache
def digits() -> Dataset:
    return load("digits", normalise="pixels in [0, 1]")


def chain(seed: int, *hidden: int, bias: bool = True, ends: tuple = (5, 3)) -> nn.Module:
    torch.manual_seed(seed)
    sizes, layers = (ends[0], *hidden, ends[1]), []
    for n, m in zip(sizes, sizes[1:]):
        layers += [nn.Linear(n, m, bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(DOUBLE).eval()


def two(seed: int, *hidden: int, **more) -> tuple[nn.Module, nn.Module, Residual]:
    a, b = chain(2 * seed, *hidden, **more), chain(2 * seed + 1, *hidden, **more)
    return a, b, Residual(a, b, DATA)


@torch.no_grad()
def written_out(a: nn.Module, b: nn.Module, permutations: dict) -> dict[str, float]:
    """The same sums with permutation matrices and all features."""
    w_a, w_b = ([layer for layer in net if isinstance(layer, nn.Linear)] for net in (a, b))
    p = [torch.eye(w_a[0].in_features, dtype=DOUBLE)]
    p += [
        torch.eye(w.out_features, dtype=DOUBLE)[permutations[name]]
        for w, name in zip(w_b, permutations)
    ]
    p += [torch.eye(w_a[-1].out_features, dtype=DOUBLE)]
    h_a, h_b = X.T, X.T
    found = {"value": 0.0, "weights": 0.0, "features": 0.0}
    for k, (u, v) in enumerate(zip(w_a, w_b)):
        d_w, d_h = u.weight - p[k + 1] @ v.weight @ p[k].T, h_a - p[k] @ h_b
        found["value"] += float((d_w @ d_h).square().sum())
        found["weights"] += float(d_w.square().sum())
        if u.bias is not None:
            found["weights"] += float((u.bias - p[k + 1] @ v.bias).square().sum())
        found["features"] += float(d_h.square().sum())
        h_a, h_b = u(h_a.T).relu().T, v(h_b.T).relu().T
    return found


def every_order(residual: Residual) -> list[dict]:
    each = [list(map(torch.tensor, orders(range(p.size)))) for p in residual.sym]
    return [dict(zip(residual.sym.identity(), one)) for one in product(*each)]


SHAPES = [((7,), True), ((4, 6), True), ((6, 3, 5), True), ((4, 6), False)]


@pytest.mark.parametrize("hidden, bias", SHAPES)
def test_values_are_those_of_explicit_matrices(hidden, bias):
    for seed in range(3):
        a, b, residual = two(seed, *hidden, bias=bias)
        for p in (residual.sym.identity(), residual.sym.random(seed)):
            plain = written_out(a, b, p)
            assert residual.value(p) == pytest.approx(plain["value"], rel=1e-11)
            assert residual.weights(p) == pytest.approx(plain["weights"], rel=1e-12)
            assert residual.features(p) == pytest.approx(plain["features"], rel=1e-11)
            for k, name in enumerate(p):  # what it touches is all of it only with few layers
                touched, part = len({k, k + 1} - {0, len(p) + 1}), residual.value(p, name)
                assert part <= residual.value(p) + 1e-12
                assert (touched < len(p)) == (part < residual.value(p) * (1 - 1e-9))
        assert residual.value({}) == residual.value(residual.sym.identity())


@pytest.mark.parametrize("hidden, bias", SHAPES)
def test_what_a_swap_changes_is_what_recomputing_gives(hidden, bias):
    _, _, residual = two(1, *hidden, bias=bias)
    p, rounding = residual.sym.random(1), 1e-12 * residual.scale
    before = residual.value(p)
    for name, own in p.items():
        delta = residual.swap_deltas(p, name)
        assert torch.equal(delta, delta.T) and delta.diagonal().abs().max() < rounding
        for i in range(len(own)):
            for j in range(i):
                order = own.clone()
                order[i], order[j] = own[j], own[i]
                change = residual.value({**p, name: order}) - before
                assert float(delta[i, j]) == pytest.approx(change, abs=rounding)


@pytest.mark.parametrize(
    "hidden, bias", [((3,), True), ((3, 3), True), ((2, 3, 2), True), ((3, 3), False)]
)
def test_enumeration_is_what_explicit_matrices_give(hidden, bias):
    for seed in range(2):
        a, b, residual = two(seed, *hidden, bias=bias)
        chosen = every_order(residual)
        plain = [written_out(a, b, one)["value"] for one in chosen]
        values = enumerate_residual(residual)
        assert values.shape == tuple(map(factorial, hidden))
        assert values.flatten().tolist() == pytest.approx(plain, rel=1e-10)
        least = chosen[int(values.argmin())]
        assert residual.value(least) == pytest.approx(min(plain), rel=1e-10)


def test_activation_matching_minimises_the_features():
    for seed in range(5):
        a, b, residual = two(seed, 5, 4)
        found = activation_matching(residual.sym, a, b, DATA).permutations
        least = min(map(residual.features, every_order(residual)))
        assert residual.features(found) == pytest.approx(least, rel=1e-10)


def test_weight_matching_minimises_the_weights_in_each_permutation():
    """With one hidden layer the minimum itself; with two of four units each in 6 of 10 draws."""
    reached = 0
    for seed in range(10):
        for hidden in ((5,), (4, 4)):
            a, b, residual = two(seed, *hidden)
            states = a.state_dict(), b.state_dict()
            found = weight_matching(residual.sym, *states, seed)
            value = residual.weights(found.permutations)
            least = min(map(residual.weights, every_order(residual)))
            gain = found.objective - objective(residual.sym, *states, {})
            assert residual.weights({}) - value == pytest.approx(2 * gain, abs=1e-10)
            if len(hidden) == 1:
                assert value == pytest.approx(least, rel=1e-10)
                continue
            reached += value <= least * (1 + 1e-10)
            for name in found.permutations:
                others = [
                    residual.weights({**found.permutations, name: torch.tensor(order)})
                    for order in orders(range(4))
                ]
                assert value == pytest.approx(min(others), rel=1e-6)
    assert reached >= 5


@pytest.mark.parametrize("hidden, often", [((5,), 19), ((3, 3), 18)])
def test_local_search_finds_the_minimum_of_tiny_networks(hidden, often):
    """In so many of 20 draws at least, from the best of four random starts."""
    reached = 0
    for seed in range(20):
        _, _, residual = two(seed, *hidden)
        least = float(enumerate_residual(residual).min())
        starts = [residual.sym.random(seed, k) for k in range(4)]
        values = [local_search(residual, start, seed).value for start in starts]
        assert min(values) >= least * (1 - 1e-9)
        reached += min(values) <= least * (1 + 1e-9)
    assert reached >= often


@pytest.mark.parametrize("hidden", [(12,), (12, 12, 12)])
def test_local_search_never_raises_the_residual_and_ends_where_no_swap_lowers_it(hidden):
    _, _, residual = two(3, *hidden)
    start = residual.sym.random(0)
    kept = {name: p.clone() for name, p in start.items()}
    values = [residual.value(start)]
    for passes in range(1, 4):
        found = local_search(residual, start, 5, passes)
        assert found.value == residual.value(found.permutations)
        values.append(found.value)
    assert all(x >= y for x, y in zip(values, values[1:])) and values[0] > values[-1]
    found = local_search(residual, start, 5)
    assert found.converged and found.value <= values[-1]
    assert all(torch.equal(start[name], p) for name, p in kept.items())
    for name in start:
        assert residual.swap_deltas(found.permutations, name).min() >= -1e-12 * residual.scale
    last = local_search(residual, found.permutations, 6)
    assert last.value == found.value


def test_units_that_are_alike_do_not_keep_the_search_going():
    """Gains are equal, or all are rounding."""
    a = chain(0, 6, 6)
    for layer in (a[0], a[2]):
        layer.weight.data[3:], layer.bias.data[3:] = layer.weight.data[:3], layer.bias.data[:3]
    residual = Residual(a, near(a, 0, 0.5), DATA)
    assert local_search(residual, residual.sym.random(0)).converged
    found = local_search(Residual(a, a, DATA), passes=1)
    assert found.converged and all(p.equal(torch.arange(6)) for p in found.permutations.values())


@pytest.mark.parametrize("hidden", [(6,), (5, 5), (20, 30, 20)])
def test_a_planted_permutation_is_the_minimum_and_its_residual_0(hidden):
    a = chain(0, *hidden)
    sym = symmetry(a, DATA[0][0])
    planted, tolerance = sym.random("planted"), 1e-13
    residual = Residual(a, permuted(a, sym, planted), DATA)
    back = {name: torch.argsort(p) for name, p in planted.items()}
    size = residual.value({})
    assert size > 1e-3 * residual.scale and abs(residual.value(back)) < tolerance * size
    assert residual.weights(back) == 0
    assert abs(residual.features(back)) < tolerance * residual.features({})
    if max(hidden) <= 6:
        values = enumerate_residual(residual)
        assert abs(values.min()) < tolerance * size
        assert (values > 1e-6 * size).sum() == values.numel() - 1
        assert residual.value(back) == pytest.approx(float(values.min()), abs=tolerance * size)


class Other(nn.Module):
    """Layers of six units in another form than a chain."""

    def __init__(self, form: str):
        super().__init__()
        self.form, self.fc1, self.fc2 = form, nn.Linear(5, 6), nn.Linear(6, 6)
        self.fc3 = nn.Linear(12 if form == "flattened" else 6, 3)

    def forward(self, x):
        h = self.fc1(x).relu()
        if self.form == "residual":  # one permutation on both axes
            return self.fc3((h + self.fc2(h)).relu())
        return self.fc3(torch.cat((h, h), 1))  # every unit enters the next layer at two places


NORM = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize(
    "a, b, data, named",
    [
        *((n.double(), n, DATA, "no chain") for n in (Other("residual"), Other("flattened"), NORM)),
        (conv(0), conv(1), loader(10, (2, 6, 6)), "'conv1'"),
        (chain(0, 4), chain(1, 4), [], "no images"),
        (mlp(0), broken(float("nan")), loader(), "network B"),
    ],
)
def test_networks_and_images_that_do_not_fit_are_refused(a, b, data, named):
    with pytest.raises(ValueError, match=named):
        Residual(a, b, data)


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda residual: residual.value({"0": torch.tensor([0, 1, 2, 2])}), "'0'"),
        (lambda residual: residual.value({"fc9": torch.arange(4)}), "'fc9'"),
        (lambda _: enumerate_residual(two(0, 5, 5, 5)[2]), "cannot be enumerated"),
    ],
)
def test_what_makes_no_sense_is_refused(call, named):
    with pytest.raises(ValueError, match=named):
        call(two(0, 4, 4)[2])


def test_the_experiment_tells_every_candidate_beside_its_nulls():
    data = digits()
    a, b = (
        nn.Sequential(nn.Flatten(), *chain(seed, 10, 10, ends=(64, 10))).eval() for seed in (0, 1)
    )
    images = data.loader("train", 500, DOUBLE)
    residual, (x, y) = Residual(a, b, images), whole(list(images))
    sym, states = residual.sym, (a.state_dict(), b.state_dict())
    candidates = {
        "activation": activation_matching(sym, a, b, images).permutations,
        "weight": weight_matching(sym, *states).permutations,
    }
    pair = Pair(recipe("mlp_mnist_perm_weight", "smoke"), 0, {"A": a, "B": b}, data)
    rows = experiment.rows(pair, candidates)
    for kind, p in candidates.items():
        middle, moved = permuted(a, sym, {}), sym.apply(states[1], p)
        middle.load_state_dict({key: (v + moved[key]) / 2 for key, v in states[0].items()})
        with torch.no_grad():
            loss = float(nn.functional.cross_entropy(middle(x), y))
        for quantity, expected in {
            "residual": residual.value(p),
            "factor_weights_share": residual.weights(p) / residual.weights({}),
            "factor_features_share": residual.features(p) / residual.features({}),
            "loss_half_way": loss,
        }.items():
            assert find(rows, quantity, kind=kind).mean == pytest.approx(expected, rel=1e-9)
    best_of = {"residual": "local search", "factor_features": "activation"}
    for quantity, best in {**best_of, "factor_weights": "weight"}.items():
        means = {row.kind: row.mean for row in rows if row.quantity == f"{quantity}_share"}
        assert min(means, key=means.get) == best and len(means) == 5
        assert find(rows, f"{quantity}_share", role="null", kind="before matching").mean == 1
        assert find(rows, f"{quantity}_share", role="null", kind="random order")


def test_tiny_networks_are_set_beside_all_their_permutations():
    for steps, trained in ((0, "untrained"), (30, "trained")):
        rows = experiment.tiny(digits(), ((4,), (3, 3)), draws=2, steps=steps)
        for site in (f"4 units, {trained}", f"3 and 3 units, {trained}"):
            for kind in ("activation", "weight", "random order"):
                role = "null" if kind == "random order" else "value"
                low, high, share = (
                    find(rows, quantity, site=site, kind=kind, role=role).mean
                    for quantity in ("over_minimum/0.1", "over_minimum/0.9", "at_minimum")
                )
                assert high >= low >= 1 - 1e-9 and share in (0, 0.5, 1)
                assert (share == 1) == (high < 1 + 1e-9)
