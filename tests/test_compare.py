"""One call for a pair of networks: against the functions it calls, and everything that a user may
get wrong.
"""

import copy
import importlib
import math
import os
import pickle
import weakref
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from nets import InPlace, Net, Norm, broken, conv, find, lively, loader, mlp, norm, same, whole
from torch import nn
from torch.nn import functional as F

from llfc_lib.compare import CONTROL, Comparison, compare, load_weights
from llfc_lib.matching import (
    METHODS,
    Found,
    Symmetry,
    UnsupportedOperation,
    activation_matching,
    objective,
    permuted,
    straight_through,
    symmetry,
    weight_matching,
)
from llfc_lib.metrics import (
    LLFC,
    Barrier,
    Commutativity,
    Row,
    Stitching,
    displacement_null,
    measure,
)
from llfc_lib.metrics.barrier import NEEDED
from llfc_lib.models.view import UntraceableError
from llfc_lib.models.weights import interpolate
from llfc_lib.registry import Registry

module = importlib.import_module("llfc_lib.compare")
# small networks have some; what is said of them has a test of its own
pytestmark = pytest.mark.filterwarnings("ignore:units that respond to no image")
TEST, TRAIN = loader(40), loader(50, seed=1)  # batches of 25 and 15, and of 25 alone


def tied(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = Net(
        lambda s, x: s.out(s.third(s.second(s.first(x.flatten(1)).relu()).relu()).relu()),
        first=nn.Linear(12, 8),
        second=nn.Linear(8, 8),
        out=nn.Linear(8, 5),
        third=nn.Linear(8, 8),
    )
    network.third.weight = network.second.weight
    return network.double().eval()


def untied(seed: int) -> nn.Module:
    network = tied(seed)
    network.third.weight = nn.Parameter(network.third.weight.detach().clone())
    return network


def hidden_order(network: nn.Module) -> nn.Module:
    """The same function, its units in a random order."""
    sym = symmetry(network, TEST[0][0])
    return permuted(network, sym, sym.random("planted", 0))


def standard(nulls: bool = True) -> list:
    return [LLFC(), Commutativity(nulls=nulls), Stitching(), Barrier(NEEDED)]


def without_dead_units(rows: list) -> list:
    return [row for row in rows if not row.quantity.startswith("dead_units")]


# against the functions it calls


@pytest.mark.parametrize("matching, dtype", [("weight", None), (None, torch.float32)])
def test_the_rows_are_those_of_the_single_functions(matching, dtype):
    a, b, calibration = norm(0), norm(1), [x for x, _ in TRAIN]
    options = {"seeds": 1, "draws": 1, "grid": NEEDED, "dtype": dtype, "seed": 5}
    found = compare(a, b, TEST, matching, TRAIN, **options)

    def both(partner: nn.Module) -> list:
        again = measure(a, partner, TEST, [LLFC(), Barrier(NEEDED)], dtype, calibration)
        return measure(a, partner, TEST, standard(), dtype) + again

    control = [
        replace(row, role="control", kind=f"{CONTROL}: {row.kind}" if row.kind else CONTROL)
        for row in both(b)
    ]
    partner, more = found.partner, (True, 1, 5, dtype, calibration)
    null = displacement_null(a, partner, TEST, lambda: standard(False), "rotation", *more)
    expected = both(partner) + (control if matching else []) + null
    assert without_dead_units(found.rows) == expected and found.images == 40
    assert {row.role for row in null} == {"null"}
    assert {row.statistics for row in found.rows} == {"interpolated", "recomputed"}
    assert partner.fc.weight.dtype == torch.float64


def test_only_running_statistics_and_training_images_are_measured_again():
    a, b = norm(0), norm(1)
    found = compare(a, b, TEST, None, draws=0, grid=NEEDED)
    assert without_dead_units(found.rows) == measure(a, b, TEST, standard())
    found = compare(mlp(0), mlp(1), TEST, None, TRAIN, draws=0, grid=NEEDED)
    assert {row.statistics for row in found.rows} == {"interpolated"}


# matching


def test_weight_matching_takes_the_lowest_training_loss_half_way():
    a, b, (x, y) = mlp(0), mlp(1), whole(TRAIN)
    found = compare(a, b, TEST, train_loader=TRAIN, seeds=4, draws=0, grid=NEEDED, seed=3)
    sym, state, half = symmetry(a, x), a.state_dict(), mlp(0)
    for k, attempt in enumerate(found.attempts):
        result = weight_matching(sym, state, b.state_dict(), (3, k))
        assert same(attempt.permutations, result.permutations)
        assert attempt.objective == result.objective
        moved = sym.apply(b.state_dict(), result.permutations)
        half.load_state_dict(interpolate(state, moved, 0.5))
        assert attempt.loss == pytest.approx(F.cross_entropy(half(x), y).item())
    losses = [attempt.loss for attempt in found.attempts]
    assert len(losses) == 4 and losses[found.chosen] == min(losses) < max(losses)
    assert found.permutations is found.attempts[found.chosen].permutations
    expected = sym.apply(b.state_dict(), found.permutations)
    assert same(found.partner.state_dict(), expected)


def test_the_loss_half_way_is_that_with_recomputed_statistics():
    """On the first batches, all of one size, since each counts alike; the loss is that of all."""
    a, b, train = norm(0), norm(1), loader(60, seed=1)  # batches of 25, 25 and 10
    found = compare(a, b, TEST, train_loader=train, seeds=1, draws=0, grid=NEEDED)
    calibration = [x for x, _ in train[:2]]
    again = measure(a, found.partner, train, [Barrier(NEEDED)], calibration=calibration)
    assert found.attempts[0].loss == pytest.approx(find(again, "loss", alpha=0.5).mean)


def test_without_training_images_the_highest_objective_is_taken():
    a, b = mlp(0), mlp(1)
    found = compare(a, b, TEST, seeds=4, draws=0, grid=NEEDED)
    values = [attempt.objective for attempt in found.attempts]
    assert values[found.chosen] == max(values) > min(values) and found.attempts[0].loss is None
    value = objective(found.symmetry, a.state_dict(), b.state_dict(), found.permutations)
    assert value == pytest.approx(max(values))


@pytest.mark.parametrize("train", [None, loader(50, (2, 4, 4), seed=1)])
def test_activation_matching_looks_at_training_images_if_there_are_any(train):
    a, b, test = conv(0), conv(1), loader(40, (2, 4, 4))
    found = compare(a, b, test, "activation", train, draws=0, grid=NEEDED)
    expected = activation_matching(found.symmetry, a, b, train or test)
    other = activation_matching(found.symmetry, a, b, loader(50, (2, 4, 4), seed=2))
    assert same(found.permutations, expected.permutations)
    assert found.attempts[0].objective == expected.objective != other.objective


@pytest.mark.parametrize("make", [lively, norm, tied])
@pytest.mark.parametrize("matching", ["weight", "activation"])
def test_a_planted_order_of_units_is_found_and_nothing_is_left(make, matching):
    a = make(0)
    found = compare(a, hidden_order(a), TEST, matching, TRAIN, draws=1, grid=NEEDED)
    own = [row for row in found.rows if row.role == "value"]
    for quantity in ("1-cos_AB", "cos_ratio", "dist_com", "weight_distance", "disagreement"):
        values = [row.mean for row in own if row.quantity == quantity]
        assert values and max(values) < 1e-12, quantity
    for quantity in ("error_barrier", "loss_barrier_chord"):
        value = find(own, quantity, statistics="interpolated").mean
        assert value == pytest.approx(0, abs=1e-12)
    control = find(found.rows, "weight_distance", role="control", statistics="interpolated")
    assert control.kind == CONTROL and control.mean > 0.5


# what stays as it is


@pytest.mark.parametrize("matching", ["weight", "activation", None])
def test_the_networks_stay_as_they_are(matching):
    nets = norm(0).train(), norm(1).train()
    nets[0].norm1.eval()  # frozen, as in fine-tuning
    for network in nets:
        network(TEST[0][0]).sum().backward()
        network.conv1.weight.requires_grad_(False)
    before = copy.deepcopy(nets)  # which leaves gradients out
    grads = [[copy.deepcopy(p.grad) for p in network.parameters()] for network in nets]
    random = torch.get_rng_state()
    partner = compare(*nets, TEST, matching, TRAIN, draws=1, grid=NEEDED).partner
    assert torch.equal(torch.get_rng_state(), random)
    for network, old, own in zip(nets, before, grads, strict=True):
        assert [m.training for m in network.modules()] == [m.training for m in old.modules()]
        assert same(network.state_dict(), old.state_dict())
        for p, q, grad in zip(network.parameters(), old.parameters(), own, strict=True):
            assert p.requires_grad is q.requires_grad and torch.equal(p.grad, grad)
    if matching:
        assert partner.conv1.weight.data_ptr() != nets[1].conv1.weight.data_ptr()


class Stream:
    """Batches that are made when they are asked for, and how many were ever there at once."""

    def __init__(self, seed: int) -> None:
        self.seed, self.most, self.passes = seed, 0, 0

    def __iter__(self):
        self.passes += 1
        alive = []
        for k in range(8):
            batch = loader(20, batch=20, seed=100 * self.seed + k)[0]
            alive.append(weakref.ref(batch[0]))
            self.most = max(self.most, sum(ref() is not None for ref in alive))
            yield batch
            del batch


def test_loaders_are_streamed(monkeypatch):
    monkeypatch.setattr(module, "CALIBRATED", 40)
    test, train = Stream(1), Stream(2)
    found = compare(norm(0), norm(1), test, "weight", train, seeds=2, draws=0, grid=NEEDED)
    assert found.images == 160 and test.passes > 2 and train.passes > 2
    # one in use, one in the making; two kept for the statistics
    assert test.most <= 2 and train.most <= 3


# bad input


def plain(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), activation, nn.Linear(8, 5)).double()


def attention() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 2, 16)
    return nn.Sequential(nn.Flatten(2), layer, nn.Flatten(), nn.Linear(12, 5)).double()


NETWORKS = {  # the networks, and what the refusal names
    "other width": (mlp(0), mlp(1, hidden=9), "'fc1.weight'"),
    "other network": (mlp(0), norm(1), "only one of them"),
    "other activation": (plain(nn.ReLU()), plain(nn.Tanh()), "'2' is ReLU.* Tanh"),
    "other slope": (plain(nn.LeakyReLU(0.1)), plain(nn.LeakyReLU(0.2)), "'2' is LeakyReLU"),
    "NaN in A": (broken(math.nan), mlp(0), "network A: 'fc2.weight'"),
    "tied in one only": (tied(0), untied(1), "'second.weight' and 'third.weight'"),
    "untraceable": (InPlace().double(), InPlace().double(), "InPlace"),
    "unknown symmetry": (attention(), attention(), "TransformerEncoderLayer.*matching=None"),
}
LOADERS = {
    "empty": (lambda: [], "no images"),
    "no labels": (lambda: [x for x, _ in TEST], "Tensor"),
    "one-hot labels": (lambda: [(x, F.one_hot(y)) for x, y in TEST], "labels"),
    "NaN images": (lambda: [(x * math.nan, y) for x, y in TEST], "NaN"),
    "iterator": (lambda: iter(TEST), "iterator"),
}


@pytest.mark.parametrize("what", NETWORKS)
def test_networks_that_cannot_be_compared_are_refused(what):
    a, b, named = NETWORKS[what]
    kind = {"untraceable": UntraceableError, "unknown symmetry": UnsupportedOperation}
    with pytest.raises(kind.get(what, ValueError), match=named):
        compare(a, b, TEST)


@pytest.mark.parametrize("options", [{"draws": -1}, {"seeds": 0}])
def test_options_that_make_no_sense_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} = "):
        compare(mlp(0), mlp(1), TEST, **options)


@pytest.mark.parametrize("what", LOADERS)
def test_loaders_that_cannot_be_used_are_refused(what):
    make, named = LOADERS[what]
    with pytest.raises(ValueError, match=f"^loader.*{named}"):
        compare(mlp(0), mlp(1), make())
    with pytest.raises(ValueError, match=f"^train_loader.*{named}"):
        compare(mlp(0), mlp(1), TEST, train_loader=make())


def test_networks_whose_symmetry_is_unknown_can_be_compared_unmatched():
    found = compare(attention(), attention(), TEST, None, grid=NEEDED)
    assert find(found.rows, "error", alpha=0.5).n == 40


# running statistics of networks that were not trained are 0 and 1: the check draws others
@pytest.mark.parametrize("make, lost", [(mlp, "bias"), (lambda k: Norm().double(), "running_mean")])
def test_a_wrong_symmetry_stops_everything_before_a_number_is_made(monkeypatch, make, lost):
    right = module.symmetry

    def wrong(network, x):
        sym = right(network, x)
        kept = (
            replace(p, uses=tuple(u for u in p.uses if not u.parameter.endswith(lost))) for p in sym
        )
        return Symmetry(tuple(kept), sym.shapes, sym.trained)

    monkeypatch.setattr(module, "symmetry", wrong)
    monkeypatch.setattr(module, "measure", lambda *args: pytest.fail("measured all the same"))
    with pytest.raises(RuntimeError, match=r"f\(pi\(B\)\)"):
        compare(make(0), make(1), TEST)


def test_the_order_that_was_found_is_checked_as_well(monkeypatch):
    checked, real = [], module.check_symmetry

    def spy(network, sym, x, permutations=None, **options):
        checked.append(permutations)
        return real(network, sym, x, permutations, **options)

    monkeypatch.setattr(module, "check_symmetry", spy)
    found = compare(mlp(0), mlp(1), TEST, draws=0, grid=NEEDED)
    assert checked[0] is None and checked[1] is found.permutations and len(checked) == 2


def dying(seed: int, dead: int) -> nn.Module:
    """Only the first ``dead`` units of layer 2 never respond."""
    network = lively(seed)
    network.fc3.bias.data += 9.0
    network.fc2.weight.data[:dead], network.fc2.bias.data[:dead] = 0.0, -1.0
    return network


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("matching", ["weight", "activation", None])
def test_dead_units_are_counted_in_one_warning(matching):
    with pytest.warns(UserWarning, match="3 of A.* 2 of B") as told:
        found = compare(dying(0, 3), dying(1, 2), TEST, matching, draws=0, grid=NEEDED)
    assert len(told) == 1
    assert told[0].filename == __file__ or matching == "activation"
    dead = [row for row in found.rows if row.quantity.startswith("dead_units")]
    assert {row.site for row in dead} == {"FC 2"}
    assert {row.quantity: row.mean for row in dead} == {"dead_units_A": 3, "dead_units_B": 2}


def test_a_unit_that_responds_in_one_batch_only_is_not_dead():
    network = mlp(0)
    network.fc1.weight.data.abs_()
    network.fc1.bias.data.fill_(-1.0)  # silent on a black image
    (x, y), (z, labels) = TEST
    found = compare(network, network, [(0 * x, y), (3 * z.abs(), labels)], None, grid=NEEDED)
    assert not [r for r in found.rows if r.quantity.startswith("dead_units") and r.site == "FC 1"]


# files

FORMS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "DataParallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "nested and compiled": lambda state: {
        "model": {f"_orig_mod.{name}": value for name, value in state.items()}
    },
    "before batches were counted": lambda state: {
        n: v for n, v in state.items() if not n.endswith("num_batches_tracked")
    },
}


def save(state: object, path) -> None:
    (safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save)(state, path)


@pytest.mark.parametrize(
    "form, name", [*((form, "w.pt") for form in FORMS), ("plain", "w.safetensors")]
)
def test_state_dicts_go_round(tmp_path, form, name):
    network, other = norm(0), norm(1)
    save(FORMS[form](network.state_dict()), tmp_path / name)
    assert load_weights(other, str(tmp_path / name)) is other
    assert same(other.state_dict(), network.state_dict())


def test_tied_parameters_that_are_stored_once(tmp_path):
    network, path = tied(0), tmp_path / "tied.safetensors"
    safetensors.torch.save_model(network, str(path))
    assert same(load_weights(tied(1), path).state_dict(), network.state_dict())


def test_a_network_may_really_have_a_part_called_module(tmp_path):
    network = nn.Sequential()
    network.add_module("module", nn.Linear(2, 2))
    torch.save(network.state_dict(), tmp_path / "w.pt")
    other = copy.deepcopy(network)
    nn.init.zeros_(other.module.weight)
    assert same(load_weights(other, tmp_path / "w.pt").state_dict(), network.state_dict())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def change(**entries) -> dict:
    return {k: v for k, v in (mlp(0).state_dict() | entries).items() if v is not None}


UNFIT = {
    "missing": (change(**{"fc2.bias": None}), "fc2.bias"),
    "unexpected": (change(fc9=torch.zeros(1)), "fc9"),
    "another shape": (change(**{"fc1.bias": torch.zeros(3)}), "fc1.bias"),
    "no tensor": (change(**{"fc1.bias": 3}), "fc1.bias"),
    "a list": ([1, 2], "list"),
    "code beside weights": (change() | {"extra": Evil()}, "mkdir"),
    "a plain pickle": (pickle.dumps({"fc1.weight": Evil()}, protocol=2), "mkdir"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_files_that_do_not_fit_are_refused(tmp_path, monkeypatch, what):
    (content, named), path, network = UNFIT[what], tmp_path / "weights.pt", mlp(5)
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=named) as error:
        load_weights(network, path)
    assert str(path) in str(error.value) and "weights_only" not in str(error.value)
    assert same(network.state_dict(), mlp(5).state_dict())
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_damaged_files_are_refused(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(FileNotFoundError):
        load_weights(mlp(1), path)
    save(mlp(0).state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_weights(mlp(1), path)


# what can be chosen by name


def test_a_name_that_another_module_has_taken_is_refused_and_a_cell_may_be_run_again():
    registry = Registry("thing")
    for _ in range(2):

        def again():
            return 1

        registry.register("one")(again)
    assert registry.get("one") is again and registry.names() == ["one"]
    with pytest.raises(ValueError, match="there is a thing 'one' already"):
        registry.register("one")(math.sqrt)


def test_compare_runs_any_method_that_is_registered(monkeypatch):
    a, b, seen = mlp(0), mlp(1), []

    def match(sym, a, b, loader, seed):
        seen.append((seed, next(iter(loader))[0]))
        return Found(sym.random(seed), float(seed[1]))

    monkeypatch.setitem(METHODS._entries, "first images", match)
    found = compare(a, b, loader(), "first images", draws=0, grid=NEEDED, seed=7)
    assert [seed for seed, _ in seen] == [(7, 0), (7, 1), (7, 2)] and found.chosen == 2
    assert all(torch.equal(images, loader()[0][0]) for _, images in seen)
    assert same(found.permutations, found.symmetry.random((7, 2)))


def test_the_straight_through_estimator_needs_no_more_than_two_networks_and_images():
    a, b, images = mlp(0), mlp(1), loader()
    sym = symmetry(a, images[0][0])
    own = straight_through(sym, a, b, images, images, 5, lr=3.0, seed="s")
    found = METHODS.get("ste")(sym, a, b, images, "s", lr=3.0)
    assert found.objective == -min(own.history) > -max(own.history)
    assert same(found.permutations, own.best)


# what it shows


@pytest.fixture(scope="module")
def found():
    return compare(norm(0), norm(1), TEST, "weight", TRAIN, seeds=2, draws=1)


def test_the_table_holds_the_rows(found):
    table, nearest = found.table(), f"{CONTROL}: nearest endpoint"
    cell = table.loc[("cos_ratio", "relu#2")]
    for column, where in {
        "pair": {},
        "pair, recomputed": {"statistics": "recomputed"},
        CONTROL: {"role": "control", "kind": CONTROL},
        "null: nearest endpoint": {"role": "null", "kind": "nearest endpoint"},
        "null: rotation matched": {"role": "null", "kind": "rotation matched"},
        nearest: {"role": "control", "kind": nearest},
    }.items():
        where = {"statistics": "interpolated", **where}
        assert cell[column] == find(found.rows, "cos_ratio", site="relu#2", alpha=0.5, **where).mean
    smallest = min(cell["null: nearest endpoint"], cell["null: rotation matched"])
    assert cell["pair / smallest null"] == cell["pair"] / smallest
    compared = table["pair / smallest null"].dropna().index.get_level_values(0)
    assert set(compared) == {"cos_ratio", "1-cos_alpha", "dist_com"}  # where 0 is perfect structure
    row = find(found.rows, "cos_ratio", site="logits", alpha=0.25, statistics="interpolated")
    assert found.table(0.25).loc[("cos_ratio", "logits"), "pair"] == row.mean


def test_a_displaced_partner_is_compared_at_the_pairs_distances():
    """Half the distance in weights and in features: a quarter of the product says no more than the
    whole of the pair.
    """

    def rows(com, w, h, **what):
        values = (("dist_com", com), ("dist_W", w), ("dist_H", h))
        return [Row(quantity, value, site="fc2", **what) for quantity, value in values]

    turned = {"role": "null", "kind": "rotation matched"}
    found = [*rows(0.02, 2.0, 3.0), *rows(0.005, 1.0, 1.5, **turned)]
    found.append(Row("dist_com", 0.08, site="fc2", role="null", kind="formula"))
    found.append(Row("cos_ratio", 0.1, site="fc1", alpha=0.5))
    found.append(Row("cos_ratio", 0.2, site="fc1", alpha=0.5, **turned))
    share = Comparison(found, 1, None, mlp(0)).table()["pair / smallest null"]
    assert share[("dist_com", "fc2")] == pytest.approx(1.0)
    assert share[("cos_ratio", "fc1")] == pytest.approx(0.5)


def test_the_figure_draws_the_rows_and_its_words_hold_the_numbers(found):
    shown, table = found.figure(), found.table()
    drawn = [line.get_ydata().tolist() for line in shown.figure.axes[4].lines]
    nulls = ("rotation matched", "formula", "shuffled units")
    for column in ("pair", CONTROL, *(f"null: {kind}" for kind in nulls)):
        assert table.loc["dist_com", column].tolist() in drawn, column
    errors = {line.get_label(): line for line in shown.figure.axes[0].lines}
    own, again = (errors[label].get_ydata() for label in ("the pair", "the pair, recomputed"))
    assert own[10] == 100 * table.loc[("error", "half-way"), "pair"]
    assert again[0] == 100 * table.loc[("error", "B"), "pair, recomputed"]
    for quantity, column in (("cos_ratio", "pair"), ("dist_com", "null: formula")):
        assert f"{table.loc[quantity, column].mean():.2g}" in shown.alt
