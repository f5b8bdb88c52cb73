"""One call for a pair of networks: against the functions it calls, and everything that a user may
get wrong.
"""

import copy
import os
import pickle
import re
import weakref
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from nets import conv, find, loader, mlp, near
from torch import Tensor, nn
from torch.nn import functional as F

from llfc_lib import compare as module
from llfc_lib.compare import CONTROL, compare, load_weights
from llfc_lib.matching.activation import activation_matching
from llfc_lib.matching.symmetry import UnsupportedOperation, permuted, symmetry
from llfc_lib.matching.weight import objective, weight_matching
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

# small networks have some; what is said of them has a test of its own
DEAD = "ignore:units that respond to no image"
pytestmark = pytest.mark.filterwarnings(DEAD)


class Norm(nn.Module):
    """Running statistics, a residual sum and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.relu, self.drop, self.fc = nn.ReLU(), nn.Dropout(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.norm1(self.conv1(x)))
        h = self.relu(self.norm2(self.conv2(h)) + h)
        return self.fc(self.drop(h.mean((2, 3))))


def norm(seed: int, dtype: torch.dtype = torch.float64) -> Norm:
    """Statistics as after a little training."""
    torch.manual_seed(seed)
    network = Norm().to(dtype)
    with torch.no_grad():
        for x, _ in loader(seed=seed, dtype=dtype):
            network(x)
    return network.eval()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.third = nn.Linear(8, 8)
        self.third.weight = self.second.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.third(F.relu(self.second(F.relu(self.first(x.flatten(1))))))))


def lively(seed: int) -> nn.Module:
    """No unit is dead: of those, activations cannot tell one from the other."""
    network = mlp(seed)
    for layer in (network.fc1, network.fc2, network.fc3):
        nn.init.constant_(layer.bias, 0.5)
    return network


def tied(seed: int) -> Tied:
    torch.manual_seed(seed)
    return Tied().double().eval()


TEST, TRAIN = loader(40), loader(50, seed=1)  # batches of 25 and 15, and of 25 alone


def untied(seed: int) -> Tied:
    network = tied(seed)
    network.third.weight = nn.Parameter(network.third.weight.detach().clone())
    return network


def hidden_order(network: nn.Module, seed: int = 0) -> nn.Module:
    """The same function, its units in a random order."""
    sym = symmetry(network, TEST[0][0])
    return permuted(network, sym, sym.random("planted", seed))


def standard(nulls: bool = True) -> list:
    return [LLFC(), Commutativity(nulls=nulls), Stitching(), Barrier(NEEDED)]


def without_dead_units(rows: list) -> list:
    return [row for row in rows if not row.quantity.startswith("dead_units")]


# against the functions it calls


@pytest.mark.parametrize("matching", ["weight", "activation", None])
def test_the_rows_are_those_of_the_single_functions(matching):
    a, b = norm(0), norm(1)
    found = compare(a, b, TEST, matching, TRAIN, seeds=1, draws=1, grid=NEEDED, seed=5)
    calibration = [x for x, _ in TRAIN]

    def both(partner: nn.Module) -> list:
        return measure(a, partner, TEST, standard()) + measure(
            a, partner, TEST, [LLFC(), Barrier(NEEDED)], calibration=calibration
        )

    control = [
        replace(row, role="control", kind=f"{CONTROL}: {row.kind}" if row.kind else CONTROL)
        for row in both(b)
    ]
    null = displacement_null(
        a,
        found.partner,
        TEST,
        lambda: standard(False),
        "rotation",
        matched=True,
        draws=1,
        seed=5,
        calibration=calibration,
    )
    assert (
        without_dead_units(found.rows) == both(found.partner) + (control if matching else []) + null
    )
    assert found.images == 40 and {row.role for row in null} == {"null"}
    assert {row.statistics for row in found.rows} == {"interpolated", "recomputed"}


def test_without_training_images_nothing_is_recomputed():
    a, b = norm(0), norm(1)
    found = compare(a, b, TEST, None, draws=0, grid=NEEDED)
    assert without_dead_units(found.rows) == measure(a, b, TEST, standard())


def test_nets_without_running_statistics_are_measured_once():
    found = compare(mlp(0), mlp(1), TEST, None, TRAIN, draws=0, grid=NEEDED)
    assert {row.statistics for row in found.rows} == {"interpolated"}


def test_another_precision():
    a, b = mlp(0, dtype=torch.float32), mlp(1, dtype=torch.float32)
    single = loader(40, dtype=torch.float32)
    found = compare(a, b, single, draws=1, grid=NEEDED, dtype=torch.float64)
    assert find(found.rows, "cos_ratio", site="FC 2", alpha=0.5) == find(
        measure(a, found.partner, single, [LLFC()], torch.float64),
        "cos_ratio",
        site="FC 2",
        alpha=0.5,
    )
    assert found.partner.fc1.weight.dtype == torch.float32
    null = displacement_null(
        a, found.partner, single, lambda: standard(False), "rotation", True, 1, 0, torch.float64
    )
    assert found.rows[-len(null) :] == null


# matching


def test_weight_matching_takes_the_lowest_training_loss_half_way():
    a, b = mlp(0), mlp(1)
    found = compare(a, b, TEST, train_loader=TRAIN, seeds=4, draws=0, grid=NEEDED, seed=3)
    sym = symmetry(a, TEST[0][0])
    x, y = (torch.cat(part) for part in zip(*TRAIN))
    for k, attempt in enumerate(found.attempts):
        result = weight_matching(sym, a.state_dict(), b.state_dict(), (3, k))
        assert all(
            torch.equal(attempt.permutations[name], p) for name, p in result.permutations.items()
        )
        assert attempt.objective == result.objective
        half = mlp(0)
        half.load_state_dict(
            interpolate(a.state_dict(), sym.apply(b.state_dict(), result.permutations), 0.5)
        )
        assert attempt.loss == pytest.approx(F.cross_entropy(half(x), y).item())
    losses = [attempt.loss for attempt in found.attempts]
    assert len(losses) == 4 and losses[found.chosen] == min(losses) < max(losses)
    assert found.permutations is found.attempts[found.chosen].permutations
    expected = sym.apply(b.state_dict(), found.permutations)
    assert all(
        torch.equal(value, expected[name]) for name, value in found.partner.state_dict().items()
    )


def test_the_loss_half_way_is_that_with_recomputed_statistics():
    a, b = norm(0), norm(1)
    found = compare(a, b, TEST, train_loader=TRAIN, seeds=1, draws=0, grid=NEEDED)
    again = measure(a, found.partner, TRAIN, [Barrier(NEEDED)], calibration=[x for x, _ in TRAIN])
    assert found.attempts[0].loss == pytest.approx(find(again, "loss", alpha=0.5).mean)


def test_without_training_images_the_highest_objective_is_taken():
    a, b = mlp(0), mlp(1)
    found = compare(a, b, TEST, seeds=4, draws=0, grid=NEEDED)
    values = [attempt.objective for attempt in found.attempts]
    assert values[found.chosen] == max(values) > min(values) and found.attempts[0].loss is None
    assert objective(
        found.symmetry, a.state_dict(), b.state_dict(), found.permutations
    ) == pytest.approx(max(values))


@pytest.mark.parametrize("train", [None, TRAIN])
def test_activation_matching_looks_at_training_images_if_there_are_any(train):
    a, b = conv(0), conv(1)
    test = loader(40, shape=(2, 4, 4))
    train = train and loader(50, shape=(2, 4, 4), seed=1)
    found = compare(a, b, test, "activation", train, draws=0, grid=NEEDED)
    expected = activation_matching(found.symmetry, a, b, train or test)
    other = activation_matching(found.symmetry, a, b, loader(50, shape=(2, 4, 4), seed=2))
    assert all(
        torch.equal(p, expected.permutations[name]) for name, p in found.permutations.items()
    )
    assert (
        [attempt.objective for attempt in found.attempts]
        == [expected.objective]
        != [other.objective]
    )


def test_without_a_matching_b_is_measured_as_it_is():
    a = mlp(0)
    b = near(a, 1)
    found = compare(a, b, TEST, None, grid=NEEDED)
    assert found.partner is b and found.permutations == {} and found.symmetry is None
    assert {row.role for row in found.rows} == {"value", "null"}


@pytest.mark.parametrize("make", [lively, norm, tied])
@pytest.mark.parametrize("matching", ["weight", "activation"])
def test_a_planted_order_of_units_is_found_and_nothing_is_left(make, matching):
    a = make(0)
    found = compare(a, hidden_order(a), TEST, matching, TRAIN, draws=1, grid=NEEDED)
    for quantity in ("1-cos_AB", "cos_ratio", "dist_com", "weight_distance", "disagreement"):
        values = [
            row.mean for row in found.rows if row.quantity == quantity and row.role == "value"
        ]
        assert values and max(values) < 1e-12, quantity
    for barrier in ("error_barrier", "loss_barrier_chord"):
        assert find(found.rows, barrier, statistics="interpolated").mean == pytest.approx(
            0, abs=1e-12
        )
    control = find(found.rows, "weight_distance", role="control", statistics="interpolated")
    assert control.kind == CONTROL and control.mean > 0.5


def test_a_network_with_itself():
    a = norm(0)
    found = compare(a, a, TEST, None, TRAIN, grid=NEEDED)
    zero = [
        row.mean
        for row in found.rows
        if row.quantity in ("1-cos_AB", "1-cos_alpha", "dist_com", "error_barrier", "disagreement")
    ]
    assert len(zero) > 20 and max(zero) == 0.0
    assert not any(
        row.kind == "rotation matched" for row in found.rows
    )  # no random partner is at distance 0
    alt = found.figure().alt  # nothing to draw on a logarithmic axis
    assert (
        "nan" not in alt
        and "control" not in alt
        and "recomputed 0" in alt
        and ", 0 of 2 displaced partners." in alt
    )


def test_networks_without_anything_to_permute():
    def linear(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).double()

    found = compare(linear(0), linear(1), TEST)
    assert (
        len(found.symmetry) == 0
        and find(found.rows, "cos_ratio", site="logits", alpha=0.5).mean < 1e-12
    )


# what stays as it is


@pytest.mark.parametrize("matching", ["weight", "activation", None])
def test_the_networks_stay_as_they_are(matching):
    nets = norm(0).train(), norm(1).train()
    for network in nets:
        network(TEST[0][0]).sum().backward()
        network.conv1.weight.requires_grad_(False)
    before = [copy.deepcopy(network.state_dict()) for network in nets]
    grads = [
        [None if p.grad is None else p.grad.clone() for p in network.parameters()]
        for network in nets
    ]
    torch.manual_seed(7)
    random = torch.get_rng_state()
    found = compare(*nets, TEST, matching, TRAIN, draws=1, grid=NEEDED)
    assert torch.equal(torch.get_rng_state(), random)
    for network, state, old in zip(nets, before, grads, strict=True):
        assert all(m.training for m in network.modules())
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert all(
            p.grad is g is None or torch.equal(p.grad, g)
            for p, g in zip(network.parameters(), old, strict=True)
        )
        assert not network.conv1.weight.requires_grad and network.fc.weight.requires_grad
    if matching:
        assert (
            found.partner is not nets[1]
            and found.partner.conv1.weight.data_ptr() != nets[1].conv1.weight.data_ptr()
        )


class Stream:
    """Batches that are made when they are asked for, and how many of them were ever there at once."""

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
    assert (
        test.most <= 2 and train.most <= 3
    )  # one in use, one in the making; two kept for the statistics


def test_batches_for_statistics_are_of_one_size():
    assert [len(x) for x in module._calibration(loader(60))] == [25, 25]
    assert sum(len(x) for x in module._calibration([(torch.zeros(700, 1), None)] * 9)) == 2100


# bad input


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x.flatten(1))
        return h if h.sum() > 0 else -h


def broken(value: float) -> nn.Module:
    network = mlp(1)
    network.fc2.weight.data[3, 4] = value
    return network


def plain(activation: type[nn.Module] = nn.ReLU, padding: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=padding, padding_mode="zeros" if padding else "circular"),
        activation(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ).double()


def attention() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(2), nn.TransformerEncoderLayer(12, 2, 16), nn.Flatten(), nn.Linear(12, 5)
    ).double()


EMPTY = [(torch.empty(0, 1, 3, 4, dtype=torch.float64), torch.empty(0, dtype=torch.long))]
BAD = {
    "other width": (
        lambda: compare(mlp(0), mlp(1, hidden=9), TEST),
        ValueError,
        r"networks differ: 'fc1.weight' is \(16, 12\) in A and \(9, 12\) in B",
    ),
    "other network": (
        lambda: compare(mlp(0), norm(1), TEST),
        ValueError,
        "networks differ: .* only one of them",
    ),
    "other activation": (
        lambda: compare(plain(), plain(nn.Tanh), TEST),
        ValueError,
        r"networks differ: '1' is ReLU.* in A and Tanh",
    ),
    "other padding": (
        lambda: compare(plain(), plain(padding=0), TEST),
        ValueError,
        "networks differ: '0' is Conv2d.*padding",
    ),
    "NaN in A": (
        lambda: compare(broken(float("nan")), mlp(0), TEST),
        ValueError,
        "network A: 'fc2.weight' holds NaN",
    ),
    "infinity in B": (
        lambda: compare(mlp(0), broken(float("inf")), TEST),
        ValueError,
        "network B: 'fc2.weight' holds NaN or inf",
    ),
    "untraceable": (
        lambda: compare(Branching().double(), Branching().double(), TEST),
        UntraceableError,
        "cannot follow the forward pass of Branching",
    ),
    "unknown symmetry": (
        lambda: compare(attention(), attention(), TEST),
        UnsupportedOperation,
        "TransformerEncoderLayer.*compare with matching=None",
    ),
    "unknown matching": (
        lambda: compare(mlp(0), mlp(1), TEST, "weights"),
        ValueError,
        "unknown matching 'weights'; choose one of",
    ),
    "tied in one only": (
        lambda: compare(tied(0), untied(1), TEST, None),
        ValueError,
        "'second.weight' and 'third.weight' are one parameter in only one",
    ),
    "fewer than no draws": (
        lambda: compare(mlp(0), mlp(1), TEST, draws=-1),
        ValueError,
        "draws = -1: there cannot be fewer",
    ),
    "no seeds": (
        lambda: compare(mlp(0), mlp(1), TEST, seeds=0),
        ValueError,
        "seeds = 0: there must be at least one",
    ),
    "bad grid": (
        lambda: compare(mlp(0), mlp(1), TEST, grid=(0, 1)),
        ValueError,
        "grid of alpha has 2 points",
    ),
    "empty loader": (
        lambda: compare(mlp(0), mlp(1), []),
        ValueError,
        "loader: the loader gave no images",
    ),
    "empty batch": (
        lambda: compare(mlp(0), mlp(1), EMPTY),
        ValueError,
        "loader: the loader gave no images",
    ),
    "empty train_loader": (
        lambda: compare(mlp(0), mlp(1), TEST, train_loader=[]),
        ValueError,
        "train_loader: the loader gave no images",
    ),
    "no labels": (
        lambda: compare(mlp(0), mlp(1), [x for x, _ in TEST]),
        ValueError,
        r"loader must give \(images, labels\), two tensors; its first batch is a Tensor",
    ),
    "a dictionary": (
        lambda: compare(mlp(0), mlp(1), [{"x": 1}]),
        ValueError,
        "two tensors; its first batch is a dict",
    ),
    "three parts": (
        lambda: compare(mlp(0), mlp(1), [(*TEST[0], 1)]),
        ValueError,
        "its first batch is a tuple of 3",
    ),
    "one-hot labels": (
        lambda: compare(mlp(0), mlp(1), [(x, F.one_hot(y)) for x, y in TEST]),
        ValueError,
        "labels must be class numbers",
    ),
    "float labels": (
        lambda: compare(mlp(0), mlp(1), [(x, y.float()) for x, y in TEST]),
        ValueError,
        "labels must be class numbers.*float32",
    ),
    "NaN images": (
        lambda: compare(mlp(0), mlp(1), [(x * float("nan"), y) for x, y in TEST]),
        ValueError,
        "loader: images hold NaN",
    ),
    "iterator": (
        lambda: compare(mlp(0), mlp(1), iter(TEST)),
        ValueError,
        "loader is an iterator and gives its images only once",
    ),
    "iterator to train on": (
        lambda: compare(mlp(0), mlp(1), TEST, train_loader=iter(TRAIN)),
        ValueError,
        "train_loader is an iterator",
    ),
    "wrong labels": (
        lambda: compare(mlp(0), mlp(1), [(x, y + 1) for x, y in TEST], draws=0),
        ValueError,
        "labels run from 1 to 5, outside 0..4",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_in_words(what):
    call, kind, message = BAD[what]
    with pytest.raises(kind, match=message):
        call()


def test_networks_whose_symmetry_is_unknown_can_be_compared_unmatched():
    torch.manual_seed(0)
    found = compare(attention(), attention(), TEST, None, grid=NEEDED)
    assert find(found.rows, "error", alpha=0.5).n == 40


def test_statistics_that_training_has_not_moved_hide_no_wrong_symmetry(monkeypatch):
    """Means of 0 and variances of 1 are the same in any order; the check draws others."""
    right = module.symmetry

    def without_means(network, x):
        sym = right(network, x)
        sym.permutations = tuple(
            replace(p, uses=tuple(u for u in p.uses if not u.parameter.endswith("running_mean")))
            for p in sym
        )
        return sym

    monkeypatch.setattr(module, "symmetry", without_means)
    with pytest.raises(RuntimeError, match=r"differs from f\(B\)"):
        compare(Norm().double().eval(), Norm().double().eval(), TEST, draws=0, grid=NEEDED)


@pytest.mark.parametrize("wrong", ["any permutations", "those found"])
def test_a_wrong_symmetry_stops_everything_before_a_number_is_made(monkeypatch, wrong):
    """Found by the check on random permutations, or by the one on those that the matching chose."""
    a, b = mlp(0), mlp(1)
    if wrong == "any permutations":
        right = module.symmetry

        def without_biases(network, x):
            sym = right(network, x)
            sym.permutations = tuple(
                replace(p, uses=tuple(u for u in p.uses if not u.parameter.endswith("bias")))
                for p in sym
            )
            return sym

        monkeypatch.setattr(module, "symmetry", without_biases)
    else:
        real, calls = module.check_symmetry, []

        def fails_the_second_time(network, sym, x, permutations=None, **options):
            calls.append(permutations)
            if permutations is not None:
                raise RuntimeError("f(pi(B)) differs from f(B)")
            return real(network, sym, x, permutations, **options)

        monkeypatch.setattr(module, "check_symmetry", fails_the_second_time)
    monkeypatch.setattr(module, "measure", lambda *args: pytest.fail("measured all the same"))
    with pytest.raises(RuntimeError, match=r"f\(pi\(B\)\) differs from f\(B\)"):
        compare(a, b, TEST)


def test_tied_parameters_are_compared():
    a, b = tied(0), tied(1)
    found = compare(a, b, TEST, seeds=1, draws=1, grid=NEEDED)
    assert found.partner.third.weight is found.partner.second.weight
    x = TEST[0][0]
    assert torch.allclose(found.partner(x), b(x), rtol=0, atol=1e-12)


def dying(seed: int, dead: int) -> nn.Module:
    """An MLP whose first ``dead`` units of layer 2 never respond, and all others at once do."""
    network = mlp(seed)
    with torch.no_grad():
        for layer in (network.fc1, network.fc2, network.fc3):
            layer.weight.abs_()
            layer.bias.fill_(9.0)
        network.fc2.weight[:dead], network.fc2.bias[:dead] = 0.0, -1.0
    return network


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("matching", ["weight", "activation", None])
def test_dead_units_are_counted_in_one_warning(matching):
    with pytest.warns(UserWarning) as told:
        found = compare(dying(0, 3), dying(1, 2), TEST, matching, draws=0, grid=NEEDED)
    assert len(told) == 1 and re.search(
        "units that respond to no image: 3 of A.* 2 of B", str(told[0].message)
    )
    assert told[0].filename == __file__ or matching == "activation"
    dead = {
        (row.quantity, row.site): row.mean
        for row in found.rows
        if row.quantity.startswith("dead_units")
    }
    assert dead == {("dead_units_A", "FC 2"): 3, ("dead_units_B", "FC 2"): 2}


@pytest.mark.filterwarnings("error")
def test_living_networks_give_no_warning():
    found = compare(dying(0, 0), dying(1, 0), TEST, draws=0, grid=NEEDED)
    assert not any(row.quantity.startswith("dead_units") for row in found.rows)


def test_a_unit_that_responds_in_one_batch_only_is_not_dead():
    network = mlp(0)
    with torch.no_grad():
        network.fc1.weight.abs_()
        network.fc1.bias.fill_(-1.0)  # silent on a black image
    batches = [
        (torch.zeros_like(x), y) if k != 1 else (3 * x.abs(), y) for k, (x, y) in enumerate(TEST)
    ]
    found = compare(network, network, batches, None, grid=NEEDED)
    assert not any(
        row.quantity.startswith("dead_units") and row.site == "FC 1" for row in found.rows
    )


# files


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


FORMS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "DataParallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "nested and compiled": lambda state: {
        "model": {f"_orig_mod.{name}": value for name, value in state.items()}
    },
    "before batches were counted": lambda state: {
        n: v for n, v in state.items() if not n.endswith("num_batches_tracked")
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_state_dicts_go_round(tmp_path, form):
    network, path = norm(0), tmp_path / "weights.pt"
    torch.save(FORMS[form](network.state_dict()), path)
    other = norm(1)
    other.norm1.num_batches_tracked.fill_(network.norm1.num_batches_tracked)
    assert load_weights(other, str(path)) is other and same(other, network)


@pytest.mark.parametrize("form", ["plain", "DataParallel"])
def test_safetensors_go_round(tmp_path, form):
    network, path = norm(0), tmp_path / "weights.safetensors"
    safetensors.torch.save_file(FORMS[form](network.state_dict()), path)
    assert same(load_weights(norm(1), path), network)


def test_tied_parameters_that_are_stored_once(tmp_path):
    network = tied(0)
    safetensors.torch.save_model(network, str(tmp_path / "tied.safetensors"))
    assert same(load_weights(tied(1), tmp_path / "tied.safetensors"), network)


def test_a_network_may_really_have_a_part_called_module(tmp_path):
    network = nn.Sequential()
    network.add_module("module", nn.Linear(2, 2))
    torch.save(network.state_dict(), tmp_path / "w.pt")
    other = copy.deepcopy(network)
    nn.init.zeros_(other.module.weight)
    assert same(load_weights(other, tmp_path / "w.pt"), network)


def test_networks_from_files_are_compared(tmp_path):
    torch.save(mlp(0).state_dict(), tmp_path / "a.pt")
    safetensors.torch.save_file(mlp(1).state_dict(), tmp_path / "b.safetensors")
    nets = [load_weights(mlp(9), tmp_path / name) for name in ("a.pt", "b.safetensors")]
    assert (
        compare(*nets, TEST, draws=0, grid=NEEDED).rows
        == compare(mlp(0), mlp(1), TEST, draws=0, grid=NEEDED).rows
    )


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def change(**entries) -> dict:
    return {
        name: value for name, value in (mlp(0).state_dict() | entries).items() if value is not None
    }


UNFIT = {
    "missing": (change(**{"fc2.bias": None}), "does not fit MLP: missing: fc2.bias$"),
    "unexpected": (change(fc9=torch.zeros(1)), "unexpected: fc9$"),
    "another shape": (
        change(**{"fc1.bias": torch.zeros(3)}),
        r"of another shape: fc1.bias is \(3,\) in the file and \(16,\) in the network",
    ),
    "no tensor": (change(**{"fc1.bias": 3}), "fc1.bias is a int in the file"),
    "another network": (
        norm(0).state_dict(),
        "missing: fc1.weight, fc1.bias, fc2.weight and 5 more; unexpected: ",
    ),
    "a list": ([1, 2], "holds a list, not a state dict"),
    "nothing": ({}, "missing: fc1.weight"),
    "code": (Evil(), "asks for (posix|nt).mkdir; only tensors are read, no code is executed"),
    "code beside weights": (change() | {"extra": Evil()}, "asks for (posix|nt).mkdir"),
    "a whole network": (nn.Linear(2, 2), "asks for torch.nn.modules.linear.Linear; only tensors"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_files_that_do_not_fit_are_refused(tmp_path, monkeypatch, what):
    content, message = UNFIT[what]
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    monkeypatch.chdir(tmp_path)
    network = mlp(5)
    with pytest.raises(ValueError, match=message) as error:
        load_weights(network, path)
    assert str(path) in str(error.value) and "weights_only" not in str(error.value)
    assert same(network, mlp(5)) and not (tmp_path / "executed").exists()


def test_a_plain_pickle_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"fc1.weight": Evil()}, protocol=2))
    with pytest.raises(ValueError, match="no code is executed"):
        load_weights(mlp(0), tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_damaged_files_are_refused(tmp_path, name, keep):
    path = tmp_path / name
    (
        torch.save(mlp(0).state_dict(), path)
        if name == "w.pt"
        else safetensors.torch.save_file(mlp(0).state_dict(), path)
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match="is damaged, or no file of weights"):
        load_weights(mlp(1), path)
    with pytest.raises(FileNotFoundError):
        load_weights(mlp(1), tmp_path / f"no {name}")


# what it shows


@pytest.fixture(scope="module")
def found():
    return compare(norm(0), norm(1), TEST, "weight", TRAIN, seeds=2, draws=1)


def test_the_table_holds_the_rows(found):
    table = found.table()
    assert table.columns[:2].tolist() == ["pair", "pair / smallest null"]
    cell = table.loc[("cos_ratio", "relu#2")]
    for column, where in {
        "pair": {},
        "pair, recomputed": {"statistics": "recomputed"},
        CONTROL: {"role": "control", "kind": CONTROL},
        "null: nearest endpoint": {"role": "null", "kind": "nearest endpoint"},
        "null: rotation matched": {"role": "null", "kind": "rotation matched"},
        f"{CONTROL}: nearest endpoint": {"role": "control", "kind": f"{CONTROL}: nearest endpoint"},
    }.items():
        where = {"statistics": "interpolated", **where}
        assert cell[column] == find(found.rows, "cos_ratio", site="relu#2", alpha=0.5, **where).mean
    assert cell["pair / smallest null"] == cell["pair"] / min(
        cell["null: nearest endpoint"], cell["null: rotation matched"]
    )
    com, w, h = (table.loc[(quantity, "conv2")] for quantity in ("dist_com", "dist_W", "dist_H"))
    turned = (
        com["null: rotation matched"]
        * w["pair"]
        * h["pair"]
        / w["null: rotation matched"]
        / h["null: rotation matched"]
    )
    assert com["pair / smallest null"] == pytest.approx(
        com["pair"] / min(*com[["null: formula", "null: shuffled units"]], turned), rel=1e-12
    )
    assert (
        table.loc["error_barrier_chord"].shape[0] == 1
        and table.loc[("stitched_error", "relu A to B"), "pair"] >= 0
    )
    assert table["pair / smallest null"].dropna().index.get_level_values(0).unique().tolist() == [
        "cos_ratio",
        "1-cos_alpha",
        "dist_com",
    ]
    assert table.index.is_unique and table["pair"].notna().all()


def test_a_displaced_partner_is_compared_at_the_pairs_distances():
    """Half the distance in weights and in features: a quarter of the product says no more than the
    whole of the pair.
    """

    def rows(com, w, h, **what):
        return [
            Row(quantity, value, site="fc2", **what)
            for quantity, value in (("dist_com", com), ("dist_W", w), ("dist_H", h))
        ]

    turned = {"role": "null", "kind": "rotation matched"}
    found = module.Comparison(
        [
            *rows(0.02, 2.0, 1.0),
            *rows(0.005, 1.0, 0.5, **turned),
            Row("dist_com", 0.08, site="fc2", role="null", kind="formula"),
            Row("cos_ratio", 0.1, site="fc1", alpha=0.5),
            Row("cos_ratio", 0.2, site="fc1", alpha=0.5, **turned),
        ],
        1,
        None,
        mlp(0),
    )
    share = found.table()["pair / smallest null"]
    assert share[("dist_com", "fc2")] == pytest.approx(1.0) and share[
        ("cos_ratio", "fc1")
    ] == pytest.approx(0.5)


def test_errors_are_given_at_both_ends_and_half_way(found):
    errors = found.table().loc["error", "pair"]
    assert {place: errors[place] for place in errors.index} == {
        place: find(found.rows, "error", alpha=alpha, statistics="interpolated").mean
        for place, alpha in (("A", 1.0), ("half-way", 0.5), ("B", 0.0))
    }


def test_another_alpha(found):
    assert (
        found.table(0.25).loc[("cos_ratio", "logits"), "pair"]
        == find(found.rows, "cos_ratio", site="logits", alpha=0.25, statistics="interpolated").mean
    )


def test_the_frame_is_tidy(found):
    frame = found.frame()
    assert len(frame) == len(found.rows) and frame["mean"].tolist() == [
        row.mean for row in found.rows
    ]


def test_the_summary_names_every_matching_and_the_means(found):
    text = str(found)
    lines = text.splitlines()
    assert lines[0] == "weight matching, 40 images, 1 of 1 displaced partners" and lines[
        1 + found.chosen
    ].endswith(", chosen")
    assert not lines[2 - found.chosen].endswith("chosen")
    for k, attempt in enumerate(found.attempts):
        assert (
            f"matching {k}: objective {attempt.objective:.6g}, training loss half-way"
            f" {attempt.loss:.4g}" in lines[1 + k]
        )
    mean = found.table().loc["cos_ratio", "pair"].mean()
    assert f" {mean:.3g} " in next(line for line in lines if line.startswith("cos_ratio  "))
    assert not any("formula" in line for line in lines)
    assert "not matched, 40 images\n" in str(
        compare(mlp(0), mlp(1), TEST, None, draws=0, grid=NEEDED)
    )


@pytest.fixture(scope="module")
def shown(found):
    return found.figure()


def test_the_figure_draws_the_rows(found, shown):
    assert [axis.get_ylabel().split("\n")[0] for axis in shown.figure.axes][::4] == [
        "error (%)",
        "commutativity: Dist$_{com}$",
    ]
    for axis in shown.figure.axes:
        assert (
            axis.get_xlabel()
            and axis.get_ylabel()
            and len(axis.get_legend_handles_labels()[1]) >= 4
        )
        assert all(text.get_size() >= 7 for text in axis.get_xticklabels())
    lines = {line.get_label(): line for line in shown.figure.axes[4].lines}
    for label, column in (
        ("the pair", "pair"),
        ("control: before matching", CONTROL),
        ("null: displaced at random, as far", "null: rotation matched"),
        ("null: formula (commutativity)", "null: formula"),
        ("null: shuffled units (commutativity)", "null: shuffled units"),
    ):
        assert lines[label].get_ydata().tolist() == found.table().loc["dist_com", column].tolist()
    errors = {line.get_label(): line for line in shown.figure.axes[0].lines}
    assert errors["the pair"].get_xdata().tolist() == [k / 20 for k in range(21)]
    assert (
        errors["the pair"].get_ydata()[10] == 100 * found.table().loc[("error", "half-way"), "pair"]
    )
    assert (
        errors["the pair, recomputed"].get_ydata()[0]
        == 100 * found.table().loc[("error", "B"), "pair, recomputed"]
    )


def test_the_figures_words_hold_the_numbers(found, shown):
    table = found.table()
    assert f"LLFC ratio: the pair {table.loc['cos_ratio', 'pair'].mean():.2g}, " in shown.alt
    assert (
        f"null: formula (commutativity) {table.loc['dist_com', 'null: formula'].mean():.2g}"
        in shown.alt
    )
    assert (
        shown.alt.startswith("weight matching, 40 images, 1 of 1 displaced partners. ")
        and "nan" not in shown.alt
    )
    assert (
        len(shown.png) < 400_000
        and shown._repr_mimebundle_()[0]["text/plain"] == f"<figure: {shown.alt}>"
    )


def test_a_table_for_a_page_leaves_out_empty_columns(found):
    from llfc_book.show.tables import comparison

    text = comparison(found.table().loc[["dist_com"]], "A caption.", "tbl-x").text
    assert text.count("* - ") == 1 + len(found.table().loc["dist_com"]) and ":name: tbl-x" in text
    assert "null: formula" in text and "nearest endpoint" not in text and "nan" not in text
    assert f"{found.table().loc[('dist_com', 'conv2'), 'pair']:.3g}" in text
