"""Training: spawning, resuming to the same bits, refused checkpoints, streams that differ."""

import multiprocessing
import random
import sys
from dataclasses import replace
from itertools import cycle

import nets
import pytest
import torch
from llfc_book.study import runs
from llfc_book.study.settings import RECIPES, recipe

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
    kept = nets.same(a.optimiser, b.optimiser) and bool(a.optimiser) if optimiser else True
    return nets.same(a.model, b.model) and kept


def start(r: Recipe, data, seed: int = 0) -> Checkpoint:
    return Checkpoint(dict(loop.new_network(r, data, seed).state_dict()))


# recipes


def test_hash_names_what_is_learned_and_nothing_else():
    r = RECIPES["mlp_mnist_spawn"]
    told = {"title": "another", "choices": {}, "shipped": "none", "speedups": ("bf16 autocast",)}
    assert replace(r, **told).hash == r.hash
    changes = {"lr": 1e-3, "epochs": 29, "batch": 61, "weight_decay": 1e-4, "spawn_epoch": 1}
    changed = {replace(r, **{name: value}).hash for name, value in changes.items()}
    assert len(changed | {r.hash}) == 6


def test_profiles_reduce_a_recipe():
    assert recipe("mlp_mnist_spawn", "lite").epochs == 6
    assert recipe("mlp_mnist_spawn", "paper") == RECIPES["mlp_mnist_spawn"]


MLP = RECIPES["mlp_mnist_spawn"]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda _: recipe("mlp_mnist_spwan"), "unknown recipe 'mlp_mnist_spwan'; choose one of"),
        (lambda _: recipe("resnet20x32_cifar10_perm", "lite"), "has no profile 'lite' yet"),
        (lambda data: loop.new_network(replace(MLP, init="orthogonal"), data), "'orthogonal'"),
        (lambda data: loop.new_network(RECIPES["mlp_mnist_perm"], data), "wants pixels in .0, 1."),
        (lambda data: loop.new_network(replace(MLP, model="vgg61"), data), "unknown model 'vgg61'"),
    ],
)
def test_what_is_unknown_or_not_built_is_refused(digits, call, message):
    with pytest.raises(ValueError, match=message):
        call(digits)


def test_lecuns_normal_has_variance_one_over_inputs_and_ends_at_two_deviations(digits):
    r = replace(MLP, init="lecun normal")
    weight = loop.new_network(r, digits).fc2.weight.detach() * 512**0.5
    assert weight.std().item() == pytest.approx(1, rel=0.01)
    assert 2.2 < weight.abs().max() < 2 / 0.8796 + 0.001


def test_learning_rates():
    steps = RECIPES["resnet20_cifar10_spawn"]
    for epochs, rate in (((0, 79.9), 0.1), ((80, 119.9), 0.01), ((120, 159), 0.001)):
        assert [loop.learning_rate(steps, e) for e in epochs] == pytest.approx([rate] * 2)
    cosine = RECIPES["mlp_cifar10_perm"]
    for epoch, rate in ((0, 1e-6), (0.5, 0.05), (1, 0.1), (50.5, 0.05)):
        assert loop.learning_rate(cosine, epoch) == pytest.approx(rate, rel=1e-3)
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


def test_every_step_has_its_rate_and_batches_of_the_children_differ(digits, short, monkeypatch):
    seen: list[tuple[int, float]] = []
    rates: list[float] = []

    def step(model, optimiser, x, y, autocast):
        seen.append((len(y), x.sum().item()))
        rates.append(optimiser.param_groups[0]["lr"])
        return torch.zeros(2)

    monkeypatch.setattr(loop, "train_step", step)
    r = replace(short, schedule="cosine")
    network = loop.new_network(r, digits)
    optimiser = loop.make_optimiser(r, network)
    for branch in "AB":
        loop.train_epoch(network, optimiser, digits, r, 1, (0, branch))
    assert [size for size, _ in seen] == ([60] * 21 + [37]) * 2  # the last, partial one is kept
    assert not set(seen[:22]) & set(seen[22:])
    assert rates == [loop.learning_rate(r, 1 + k * 60 / 1297) for k in range(22)] * 2


# spawning and resuming


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
    trunk, other = runs.train(short, 0, "trunk", digits), runs.train(short, 1, "A", digits)
    assert trunk.epoch == 2 and trunk.optimiser and a.history[:2] == b.history[:2] == trunk.history
    assert len({run.digest() for run in (a, b, trunk, other)}) == 4
    assert a.history[-1]["train_loss"] < 0.9 * a.history[0]["train_loss"]
    short = replace(short, epochs=0, spawn_epoch=0)
    a, b = (runs.train(short, 0, branch, digits) for branch in "AB")
    assert same(a, b, optimiser=False)  # the initialisation


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
    before = taken
    runs.train(short, 0, "A", digits, cache=tmp_path / "killed")
    assert taken == before  # what is finished is not trained again


def test_a_diverged_run_says_so(digits, short):
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        runs.train(replace(short, optimiser="sgd", lr=1e6), 0, "A", digits)


@pytest.mark.parametrize("network", ["mlp_mnist", "resnet20_cifar10", "vgg16_cifar10"])
def test_a_training_step_and_evaluation_run_on_device_meta(digits, network):
    """Device meta refuses CPU operands and any wait for a result, so another device needs nothing
    but its name.
    """
    few = replace(digits, x_train=digits.x_train[:100], y_train=digits.y_train[:100])
    r, data = recipe(f"{network}_spawn", "smoke"), few.to("meta")
    network = loop.new_network(r, digits).to("meta")
    network, augmenter = loop.prepare(network, replace(r, augment=("crop", "flip")), data, ())
    optimiser = loop.make_optimiser(r, network)
    how = ((0, "A"), augmenter)
    assert loop.train_epoch(network, optimiser, data, r, 0, *how).device.type == "meta"
    assert loop.evaluate(network, data).device.type == "meta"
    with pytest.raises((NotImplementedError, RuntimeError)):  # the check can fail
        loop.evaluate(network, data).tolist()


# checkpoints


def test_checkpoints_come_back_and_foreign_truncated_and_altered_ones_are_refused(
    digits, short, tmp_path
):
    path = tmp_path / "x.safetensors"
    run = loop.fit(start(short, digits), short, digits, (0, "A"), until=1)
    checkpoints.write(path, run, "key")
    back, whole = checkpoints.read(path, "key"), path.read_bytes()
    assert same(run, back) and (back.epoch, back.history) == (1, run.history)
    assert back.digest() == run.digest()
    renamed = {f"{name}x": value for name, value in run.model.items()}
    assert Checkpoint(renamed).digest() != run.digest()
    altered = whole[:-1] + bytes([whole[-1] ^ 1])
    for content, key, message in (
        (whole, "other", "belongs to another run .key, not other."),
        (whole[:-100], "key", "is damaged or truncated"),
        (altered, "key", "does not match its own digest"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"x.safetensors {message}"):
            checkpoints.read(path, key)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_checkpoint_that_is_replaced_while_it_is_read_is_the_old_one_or_the_new(tmp_path):
    path, contents = tmp_path / "x.safetensors", []
    for epoch in (0, 1):
        run = Checkpoint({"w": torch.full((50_000,), float(epoch))}, epoch=epoch)
        checkpoints.write(path, run, "key")
        contents.append(path.read_bytes())

    def replace_without_end() -> None:
        for content in cycle(contents):
            checkpoints.atomic_write(path, content)

    writer = multiprocessing.get_context("fork").Process(target=replace_without_end, daemon=True)
    writer.start()
    try:
        found = [checkpoints.read(path, "key") for _ in range(1000)]
    finally:
        writer.kill()
    assert {run.epoch for run in found} == {0, 1}
    assert all((run.model["w"] == run.epoch).all() for run in found)


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
    for line, said in zip(lines, ("trunk: 1 of 2", "trunk: 2 of 2", "A: 3 of 4", "A: 4 of 4")):
        assert said in line and "training loss" in line and line.endswith("s left")
    assert len(lines) == 4
