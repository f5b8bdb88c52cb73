"""Training: spawning, resuming to the same bits, checkpoints that are refused, streams that differ."""

import random
from dataclasses import replace

import pytest
import torch
from llfc_book.study import runs
from llfc_book.study.settings import PAIRS, PROFILES, RECIPES, recipe, reductions

from llfc_lib.data import load
from llfc_lib.streams import generator, seed_of
from llfc_lib.training import checkpoints, loop
from llfc_lib.training.checkpoints import Checkpoint, CheckpointError
from llfc_lib.training.recipe import Recipe


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture
def short():
    """A small recipe with a trunk of two epochs and two more for the children."""
    return replace(
        recipe("mlp_mnist_spawn", "smoke"), model_args=(("hidden", 16),), epochs=4, spawn_epoch=2
    )


def same(a: Checkpoint, b: Checkpoint, optimiser: bool = True) -> bool:
    parts = [(a.model, b.model)] + ([(a.optimiser, b.optimiser)] if optimiser else [])
    return all(
        x.keys() == y.keys() and x and all(torch.equal(x[k], y[k]) for k in x) for x, y in parts
    )


def start(r: Recipe, data, seed: int = 0) -> Checkpoint:
    return Checkpoint(dict(loop.new_network(r, data, seed).state_dict()))


# recipes


def test_the_seven_settings_of_b1_and_our_variant():
    printed = [r for r in RECIPES.values() if not r.is_variant and not r.matching]
    assert len(printed) == 7
    assert [r.trained_as for r in RECIPES.values() if r.matching == "ste"] == [
        "mlp_mnist_perm",
        "mlp_cifar10_perm",
    ]
    mlp = RECIPES["mlp_mnist_spawn"]
    assert (mlp.lr, mlp.batch, mlp.epochs, mlp.spawn_epoch) == (1.2e-4, 60, 30, 0)
    assert RECIPES["resnet20_cifar10_spawn"].drops == (80, 120)


def test_hash_names_what_is_learned_and_nothing_else():
    r = RECIPES["mlp_mnist_spawn"]
    assert replace(r, title="another title", choices={}).hash == r.hash
    assert (
        len(
            {
                replace(r, **change).hash
                for change in (
                    {},
                    {"lr": 1e-3},
                    {"epochs": 29},
                    {"batch": 61},
                    {"weight_decay": 1e-4},
                    {"data": "digits"},
                    {"spawn_epoch": 1},
                )
            }
        )
        == 7
    )


def test_profiles_say_what_they_reduce():
    assert reductions("mlp_mnist_spawn", "paper") == ""
    assert "epochs 30 -> 6" in reductions("mlp_mnist_spawn", "lite")
    assert recipe("mlp_mnist_spawn", "paper") == RECIPES["mlp_mnist_spawn"]
    for profile in PROFILES:
        for name in PAIRS[profile]:
            assert recipe(name, profile).epochs <= RECIPES[name].epochs


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: recipe("mlp_mnist_spwan"), "unknown recipe 'mlp_mnist_spwan'; choose one of"),
        (lambda: recipe("mlp_mnist_spawn", "smok"), "unknown profile 'smok'; choose one of"),
        (lambda: recipe("resnet20x32_cifar10_perm", "lite"), "has no profile 'lite' yet"),
    ],
)
def test_unknown_names(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_setting_that_is_not_built_is_refused(digits):
    with pytest.raises(ValueError, match="init = 'orthogonal' is not built yet"):
        loop.new_network(replace(RECIPES["mlp_mnist_spawn"], init="orthogonal"), digits)
    with pytest.raises(ValueError, match="wants pixels in .0, 1., digits comes with per-channel"):
        loop.new_network(RECIPES["mlp_mnist_perm"], digits)
    with pytest.raises(ValueError, match="unknown model 'vgg61'"):
        loop.new_network(replace(RECIPES["mlp_mnist_spawn"], model="vgg61"), digits)


def test_learning_rates():
    steps = RECIPES["resnet20_cifar10_spawn"]
    assert [round(loop.learning_rate(steps, e), 6) for e in (0, 79.9, 80, 119.9, 120, 159)] == [
        0.1,
        0.1,
        0.01,
        0.01,
        0.001,
        0.001,
    ]
    cosine = RECIPES["mlp_cifar10_perm"]
    assert loop.learning_rate(cosine, 0) == pytest.approx(1e-6)
    assert loop.learning_rate(cosine, 0.5) == pytest.approx(0.05, rel=1e-3)
    assert loop.learning_rate(cosine, 1) == pytest.approx(0.1)
    assert loop.learning_rate(cosine, 50.5) == pytest.approx(0.05)
    assert loop.learning_rate(cosine, 100) == pytest.approx(0, abs=1e-12)


# streams


def test_streams_are_independent_and_repeatable():
    def order(*name):
        return torch.randperm(1000, generator=generator(*name))

    assert torch.equal(order(0, "A", 3, "order"), order(0, "A", 3, "order"))
    assert seed_of(1, 11) != seed_of(11, 1)
    assert not torch.equal(order(0, "A", 3, "order"), order(0, "A", 3, "crop"))
    # no epoch of one child is drawn in the same order as any epoch of the other
    orders = {
        tuple(order(0, branch, epoch, "order").tolist()) for branch in "AB" for epoch in range(30)
    }
    assert len(orders) == 60


def test_batches_of_the_children_differ(digits, short, monkeypatch):
    seen = []
    monkeypatch.setattr(
        loop,
        "train_step",
        lambda model, optimiser, x, y, autocast: seen.append(x.sum().item()) or torch.zeros(2),
    )
    network = loop.new_network(short, digits)
    optimiser = loop.make_optimiser(short, network)
    for branch in "AB":
        loop.train_epoch(network, optimiser, digits, short, 0, (0, branch))
    half = len(seen) // 2
    assert half == 22 and not set(seen[:half]) & set(seen[half:])


def test_the_last_partial_batch_is_kept(digits, short, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        loop,
        "train_step",
        lambda model, optimiser, x, y, autocast: sizes.append(len(y)) or torch.zeros(2),
    )
    network = loop.new_network(short, digits)
    loop.train_epoch(network, loop.make_optimiser(short, network), digits, short, 0, (0, "A"))
    assert sizes == [60] * 21 + [37]


# spawning and resuming


def test_training_learns(digits):
    run = runs.train(recipe("mlp_mnist_spawn", "smoke"), 0, "A", digits)
    assert (
        run.history[-1]["test_error"] < 0.06
        and run.history[-1]["train_loss"] < 0.3 * run.history[0]["train_loss"]
    )


def test_a_child_on_the_trunks_own_stream_continues_it_bit_for_bit(digits, short):
    straight = loop.fit(start(short, digits), short, digits, (0, "trunk"), until=4)
    forked = loop.fit(start(short, digits), short, digits, (0, "trunk"), until=2)
    assert same(straight, loop.fit(forked, short, digits, (0, "trunk"), until=4))
    assert not same(straight, loop.fit(forked, short, digits, (0, "A"), until=4))
    # without the optimiser's state it would be another experiment
    bare = Checkpoint(forked.model, {}, forked.epoch)
    assert not same(straight, loop.fit(bare, short, digits, (0, "trunk"), until=4))


def test_children_share_the_trunk_and_then_part(digits, short):
    a, b = (runs.train(short, 0, branch, digits) for branch in "AB")
    trunk = runs.train(short, 0, "trunk", digits)
    assert trunk.epoch == 2 and trunk.optimiser and a.history[:2] == b.history[:2] == trunk.history
    assert not same(a, b, optimiser=False)
    assert (
        len({runs.train(short, 1, "A", digits).digest(), a.digest(), b.digest(), trunk.digest()})
        == 4
    )


def test_children_of_epoch_0_share_the_initialisation(digits):
    r = replace(recipe("mlp_mnist_spawn", "smoke"), epochs=0)
    a, b = (runs.train(r, 0, branch, digits) for branch in "AB")
    assert same(a, b, optimiser=False) and not same(
        a, runs.train(r, 1, "A", digits), optimiser=False
    )


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_a_random_step_it_resumes_to_the_same_bits(
    digits, short, seed, monkeypatch, tmp_path
):
    undisturbed = runs.train(short, 0, "A", digits, cache=tmp_path / "whole")
    rng, step, taken = random.Random(seed), loop.train_step, 0
    kills = {rng.randrange(1, 88) for _ in range(3)}

    def mortal(*args):
        nonlocal taken
        taken += 1
        if taken in kills:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(loop, "train_step", mortal)
    for _ in range(10):
        try:
            resumed = runs.train(short, 0, "A", digits, cache=tmp_path / "killed")
            break
        except KeyboardInterrupt:
            continue
    assert taken > 88  # it was killed, and only the epoch in progress was lost
    assert taken <= 88 + 22 * len(kills)
    assert same(undisturbed, resumed, optimiser=False)


def test_a_finished_run_is_not_trained_again(digits, short, monkeypatch):
    first = runs.train(short, 0, "A", digits)
    monkeypatch.setattr(loop, "train_step", lambda *_: pytest.fail("trained again"))
    assert same(first, runs.train(short, 0, "A", digits), optimiser=False)


def test_a_diverged_run_says_so(digits, short):
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        runs.train(replace(short, optimiser="sgd", lr=1e6), 0, "A", digits)


def test_a_training_step_and_evaluation_run_on_device_meta(digits, short):
    """Device meta refuses CPU operands and any wait for a result, so another device needs nothing
    but its name.
    """
    data = digits.to("meta")
    network = loop.new_network(short, digits).to("meta")
    optimiser = loop.make_optimiser(short, network)
    assert loop.train_epoch(network, optimiser, data, short, 0, (0, "A")).device.type == "meta"
    assert loop.evaluate(network, data).device.type == "meta"
    with pytest.raises((NotImplementedError, RuntimeError)):  # the check can fail
        loop.evaluate(network, data).tolist()


# checkpoints


def test_checkpoint_round_trip(digits, short, tmp_path):
    run = loop.fit(start(short, digits), short, digits, (0, "A"), until=1)
    checkpoints.write(tmp_path / "x.safetensors", run, "key")
    back = checkpoints.read(tmp_path / "x.safetensors", "key")
    assert (
        same(run, back)
        and back.epoch == 1
        and back.history == run.history
        and back.digest() == run.digest()
    )


def test_foreign_truncated_and_altered_checkpoints_are_refused(digits, short, tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoints.write(path, start(short, digits), "key")
    with pytest.raises(
        CheckpointError, match="x.safetensors belongs to another run .key, not other."
    ):
        checkpoints.read(path, "other")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="x.safetensors is damaged or truncated"):
        checkpoints.read(path, "key")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="x.safetensors does not match its own digest"):
        checkpoints.read(path, "key")


def test_a_damaged_run_is_set_aside_named_and_trained_again(digits, short):
    first = runs.train(short, 0, "A", digits)
    path = runs.run_path(short, 0, "A", digits)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.warns(UserWarning, match=f"{path.name} is damaged.*not used"):
        again = runs.train(short, 0, "A", digits)
    assert same(first, again, optimiser=False) and path.with_suffix(".rejected").exists()


def test_unwritable_cache(digits, short, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the cache should be")
    with pytest.raises(PermissionError, match="cannot write to .*set LLFC_CACHE"):
        runs.train(short, 0, "A", digits, cache=blocked)


def test_progress_names_epoch_loss_and_time_left(digits, short, monkeypatch, tmp_path):
    monkeypatch.setenv("LLFC_PROGRESS", str(tmp_path / "lines"))
    monkeypatch.setattr("llfc_lib.progress.MINIMUM_SECONDS", 0)
    runs.train(short, 0, "A", digits)
    lines = (tmp_path / "lines").read_text().splitlines()
    assert [line.split(", training")[0] for line in lines] == [
        f"mlp_mnist_spawn, seed 0, trunk: {k} of 2" for k in (1, 2)
    ] + [f"mlp_mnist_spawn, seed 0, A: {k} of 4" for k in (3, 4)]
    assert all("training loss" in line and line.endswith("s left") for line in lines)
