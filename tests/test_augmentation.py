"""Batched augmentation, and the fast training path against a plain one."""

import math
from dataclasses import replace

import pytest
import torch
from llfc_book import places
from llfc_book.study import publish, runs, units
from llfc_book.study.settings import recipe
from torch import nn

from llfc_lib.data import load
from llfc_lib.data.augment import DEGREES, ZOOM, Augmenter, Resampler, augmenter_for
from llfc_lib.data.torchvision import torchvision
from llfc_lib.models import build
from llfc_lib.streams import generator, seed_of
from llfc_lib.training import checkpoints, loop
from llfc_lib.training.checkpoints import Checkpoint

BOTH = ("crop", "flip")


def colour(n: int = 50, side: int = 32) -> torch.Tensor:
    return torch.randint(
        1, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def test_crops_and_flips_are_torchvisions_on_the_same_draws():
    transform = torchvision().transforms.functional
    x = colour()
    augmenter = Augmenter(x, BOTH)
    draws, index = (
        augmenter.draw(0, "A", 3),
        torch.randperm(50, generator=torch.Generator().manual_seed(1)),
    )
    batch = augmenter.batch(index, draws)
    for k, i in enumerate(index.tolist()):
        image = transform.crop(
            transform.pad(x[i], 4), int(draws.top[i]), int(draws.left[i]), 32, 32
        )
        assert torch.equal(batch[k], transform.hflip(image) if draws.flip[i] else image)
    assert batch.is_contiguous(memory_format=torch.channels_last) and batch.dtype == torch.uint8


def test_every_place_and_both_sides_occur():
    draws = Augmenter(colour(2000, 8), BOTH).draw(0, "A", 0)
    assert (
        set(draws.top.tolist()) == set(draws.left.tolist()) == {0, 1, 2}
    )  # a border of an eighth: 1 pixel at 8
    assert 0.45 < draws.flip.double().mean() < 0.55
    wide = Augmenter(colour(2000, 32), BOTH).draw(0, "A", 0)
    assert set(wide.top.tolist()) == set(range(9)) and not torch.equal(wide.top, wide.left)
    assert not Augmenter(colour(20), ("crop",)).draw(0, "A", 0).flip.any()
    assert not Augmenter(colour(20), ("flip",)).draw(0, "A", 0).top.any()


def test_draws_differ_between_epochs_and_children_and_repeat():
    augmenter = Augmenter(colour(500, 8), BOTH)
    names = [(0, "A", 0), (0, "A", 1), (0, "B", 0), (1, "A", 0)]
    drawn = [augmenter.draw(*name) for name in names]
    for j, one in enumerate(drawn):
        assert torch.equal(one.top, augmenter.draw(*names[j]).top)
        assert all(
            not torch.equal(one.top, other.top) and not torch.equal(one.flip, other.flip)
            for other in drawn[:j]
        )


# the loop


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    return replace(data, x_train=data.x_train[:300], y_train=data.y_train[:300])


def small(name="resnet20_cifar10_spawn", **change):
    return replace(
        recipe(name, "smoke"),
        **{
            "model_args": (("width", 4),),
            "epochs": 2,
            "spawn_epoch": 0,
            "augment": BOTH,
            "batch": 64,
            **change,
        },
    )


def start(r, data) -> Checkpoint:
    return Checkpoint({k: v.clone() for k, v in loop.new_network(r, data).state_dict().items()})


def plain(r, data) -> tuple[nn.Module, list[float]]:
    """What a reader would write: one image after the other is cropped and flipped, usual memory,
    SGD not fused.
    """
    transform = torchvision().transforms.functional
    model = loop.new_network(r, data).train()
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=r.lr,
        momentum=r.momentum,
        weight_decay=r.weight_decay,
        fused=False,
        foreach=False,
    )
    losses = []
    for epoch in range(r.epochs):
        branch = "trunk" if epoch < r.spawn_epoch else "A"
        optimiser.param_groups[0]["lr"] = r.lr / 10 ** sum(epoch >= drop for drop in r.drops)
        torch.manual_seed(seed_of(0, branch, epoch, "dropout"))
        order = torch.randperm(len(data.y_train), generator=generator(0, branch, epoch, "order"))
        draws = Augmenter(data.x_train, r.augment).draw(0, branch, epoch)
        total = 0.0
        for index in order.split(r.batch):
            x = torch.stack(
                [
                    transform.crop(
                        transform.pad(data.x_train[i], 1),
                        int(draws.top[i]),
                        int(draws.left[i]),
                        8,
                        8,
                    )
                    for i in index
                ]
            )
            x = torch.stack(
                [transform.hflip(image) if draws.flip[i] else image for image, i in zip(x, index)]
            )
            loss = nn.functional.cross_entropy(
                model((x / data.scale - data.mean[0]) / data.std[0]), data.y_train[index]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(index)
        losses.append(total / len(data.y_train))
    return model, losses


@pytest.mark.parametrize(
    "fast, tolerance",
    [((), 1e-5), (("channels last",), 1e-5), (("channels last", "bf16 autocast"), 0.05)],
)
def test_the_fast_path_learns_what_the_plain_one_learns(digits, fast, tolerance):
    """Losses of the first two epochs within ``tolerance``: rounding in float32, 8 bits of mantissa
    in bf16. At a rate of
    0.01: at 0.05 these few steps amplify a rounding error ten thousand times."""
    r = small(speedups=fast, lr=0.01)
    if loop.speedups(r, "cpu") != fast:
        pytest.skip("this processor has no bf16")
    model, losses = plain(r, digits)
    found = loop.fit(start(r, digits), r, digits, (0, "A"), r.epochs)
    assert [h["train_loss"] for h in found.history] == pytest.approx(losses, abs=tolerance)
    assert losses[1] < losses[0] - 5 * 0.05  # something was learned, more than any tolerance here
    assert all(h.get("speedups", "") == ", ".join(fast) for h in found.history)
    if fast != ("channels last", "bf16 autocast"):
        apart = max(
            (found.model[k].double() - v.double()).abs().max().item()
            for k, v in model.state_dict().items()
        )
        assert apart < 10 * tolerance


def test_a_spawned_child_learns_what_a_plain_loop_learns(digits, tmp_path):
    """Momentum runs on through the spawn, the rate drops at its epoch, the images come in the
    child's own order. A perceptron: without normalisation, rounding stays small for as long as this
    takes."""
    r = small(
        "mlp_mnist_spawn",
        model_args=(("hidden", 16),),
        optimiser="sgd",
        lr=0.05,
        momentum=0.9,
        schedule="steps",
        epochs=4,
        spawn_epoch=2,
        drops=(3,),
    )
    model, losses = plain(r, digits)
    found = runs.train(r, 0, "A", digits, cache=tmp_path)
    assert [h["train_loss"] for h in found.history] == pytest.approx(losses, abs=1e-5)
    apart = max(
        (found.model[k].double() - v.double()).abs().max().item()
        for k, v in model.state_dict().items()
    )
    assert apart < 1e-4
    for change in ({"drops": ()}, {"momentum": 0.0}):  # what the tolerance would have to miss
        other, _ = plain(replace(r, **change), digits)
        assert (
            max(
                (found.model[k].double() - v.double()).abs().max().item()
                for k, v in other.state_dict().items()
            )
            > 1e-2
        )


def test_autocast_is_entered_in_training_and_nowhere_else(digits, monkeypatch):
    seen = []

    class Probe(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            seen.append(
                (self.training, torch.is_autocast_enabled("cpu"), self.fc(x.flatten(1)).dtype)
            )
            return self.fc(x.flatten(1))

    monkeypatch.setattr(loop, "new_network", lambda *_: Probe())
    for fast, dtype in (((), torch.float32), (("bf16 autocast",), torch.bfloat16)):
        monkeypatch.setattr(loop, "speedups", lambda *_, fast=fast: fast)
        seen.clear()
        r = small(epochs=1)
        loop.fit(start(r, digits), r, digits, (0, "A"), 1)
        assert set(seen) == {(True, bool(fast), dtype), (False, False, torch.float32)}


@pytest.mark.parametrize(
    "name, change",
    [
        ("resnet20_cifar10_spawn", {}),
        ("vgg16_cifar10_spawn", {"optimiser": "sgd", "lr": 0.05, "momentum": 0.9}),
    ],
)
def test_a_killed_and_resumed_run_equals_an_undisturbed_one(digits, tmp_path, name, change):
    """To the bit: batch-norm statistics, momentum and dropout included."""
    r = small(name, epochs=3, speedups=("channels last",), **change)
    undisturbed = loop.fit(start(r, digits), r, digits, (0, "A"), 3)

    class Killed(Exception):
        pass

    def kill(checkpoint):
        checkpoints.write(tmp_path / "run.safetensors", checkpoint, "key")
        raise Killed

    with pytest.raises(Killed):
        loop.fit(start(r, digits), r, digits, (0, "A"), 3, save=kill)
    resumed = loop.fit(
        checkpoints.read(tmp_path / "run.safetensors", "key"), r, digits, (0, "A"), 3
    )
    assert [k for k, v in undisturbed.model.items() if not torch.equal(v, resumed.model[k])] == []
    assert any("running_var" in k for k in resumed.model) and undisturbed.optimiser
    assert all(torch.equal(v, resumed.optimiser[k]) for k, v in undisturbed.optimiser.items())


@pytest.mark.parametrize("name", ["resnet20", "vgg16"])
def test_a_training_step_on_device_meta(name):
    """Nothing in the step asks the device for a number."""
    with torch.device("meta"):
        model = build(name, (3, 32, 32), 10)
    r = replace(recipe("resnet20_cifar10_spawn"), speedups=())
    augmenter = Augmenter(torch.empty(6, 3, 32, 32, dtype=torch.uint8, device="meta"), BOTH)
    index = torch.zeros(4, dtype=torch.int64, device="meta")
    x = augmenter.batch(index, augmenter.draw(0, "A", 0)).float()
    out = loop.train_step(model, loop.make_optimiser(r, model), x, index)
    assert out.device.type == "meta" and out.shape == (2,) and x.shape == (4, 3, 32, 32)


def test_speedups_are_no_part_of_a_recipes_name():
    r = recipe("resnet20_cifar10_spawn")
    assert r.speedups and replace(r, speedups=()).hash == r.hash
    assert loop.speedups(replace(r, speedups=()), "cpu") == ()


def test_a_long_unfinished_run_is_kept_and_goes_when_it_is_complete(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("LLFC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(places, "UNFINISHED", tmp_path / "kept")
    monkeypatch.setattr(units, "dataset", lambda name: digits)
    monkeypatch.setattr(publish, "dataset", lambda name: digits)
    r = small()
    monkeypatch.setattr(units, "recipe", lambda name, profile: r)
    unit = units.Unit("smoke", r.name, 0, "train A")
    key, finished = runs.run_key(r, 0, "A", digits), unit.path()
    first = loop.fit(start(r, digits), r, digits, (0, "A"), 1)
    finished.parent.mkdir(parents=True)
    checkpoints.write(runs.latest_path(finished), first, key)
    assert publish._keep_unfinished([unit]) == []  # a few seconds are not worth it
    monkeypatch.setattr(publish, "LONG", 0.0)
    assert publish._keep_unfinished([unit]) and runs.unfinished_path(finished).exists()
    assert publish._keep_unfinished([unit]) == []  # once
    runs.latest_path(finished).unlink()  # another machine: the cache is empty
    seen = []

    def fit(start: Checkpoint, *_: object, **__: object) -> Checkpoint:
        seen.append(start.epoch)
        return replace(first, epoch=2)

    monkeypatch.setattr(runs, "fit", fit)
    runs.train(r, 0, "A", digits)
    assert seen == [1] and finished.exists()
    assert publish._keep_unfinished([unit]) and not runs.unfinished_path(finished).exists()


# resized crops and rotations (B.1.2)

ALL_RESAMPLED = ("resized crop", "flip", "rotate")


def test_without_any_draw_an_image_stays_as_it_is():
    x = colour(5)
    resampler = Resampler(x, ())
    index = torch.arange(5)
    assert torch.allclose(resampler.batch(index, resampler.draw("stay")), x.float(), atol=1e-3)


def test_a_flip_is_a_flip_and_half_of_the_images_have_one():
    x = colour(400, 8)
    resampler = Resampler(x, ("flip",))
    found = resampler.batch(torch.arange(400), resampler.draw(0))
    same, turned = (
        (found - other.float()).abs().amax((1, 2, 3)) < 1e-3 for other in (x, x.flip(-1))
    )
    assert torch.equal(same, ~turned) and 150 < int(same.sum()) < 250


def test_zoom_rotation_and_place_as_recorded():
    """Each draw is turned * mirrored / zoom plus a place of the window; undone, its parts lie
    within their ranges.
    """
    draws = Resampler(colour(4000, 8), ALL_RESAMPLED).draw(1)
    linear, shift = draws[:, :, :2], draws[:, :, 2]
    zoom = 1 / torch.linalg.det(linear).abs().sqrt()
    assert ZOOM[0] <= zoom.min() < 0.81 and 1.19 < zoom.max() <= ZOOM[1] + 1e-5
    assert float((zoom.log() < 0).float().mean()) == pytest.approx(
        math.log(1 / 0.8) / math.log(1.2 / 0.8), abs=0.03
    )  # log-uniform
    angle = torch.rad2deg(torch.atan2(-linear[:, 1, 0], linear[:, 1, 1]))
    assert angle.abs().max() <= DEGREES + 1e-3 and angle.min() < -29 and angle.max() > 29
    # the window stays inside a zoomed image, and around one that is smaller
    assert ((shift * zoom[:, None]).abs() <= (zoom - 1).abs()[:, None] + 1e-5).all()
    assert 0.4 < float((torch.linalg.det(linear) < 0).float().mean()) < 0.6  # mirrored


def test_rotation_by_torchvision_is_ours():
    turn = torchvision().transforms.functional.rotate
    x = colour(3, 32)
    resampler = Resampler(x, ("rotate",))
    draws = resampler.draw(2)
    for k in range(3):
        angle = float(torch.rad2deg(torch.atan2(draws[k, 1, 0], draws[k, 0, 0])))
        mode = torchvision().transforms.InterpolationMode.BILINEAR
        expected = turn(x[k].float(), angle, mode)
        found = resampler.batch(torch.tensor([k]), draws)[0]
        inner = slice(8, 24)  # torchvision rounds differently at the border
        assert (found - expected)[:, inner, inner].abs().max() < 1.0, (angle, k)


def test_what_lies_outside_is_black_and_small_images_lie_anywhere():
    white = torch.full((300, 1, 16, 16), 255, dtype=torch.uint8)
    resampler = Resampler(white, ("resized crop",))
    draws = resampler.draw(3)
    found = resampler.batch(torch.arange(300), draws)
    small = 1 / draws[:, 0, 0] < 0.95
    assert (found[small].amin((1, 2, 3)) < 160).all() and found[
        1 / draws[:, 0, 0] > 1
    ].min() > 150  # a little darker at the edge
    left, right = found[small][:, 0, 8, 0], found[small][:, 0, 8, -1]
    assert (left > 200).any() and (right > 200).any()  # not always in the middle


def test_which_augmenter_for_which_kinds():
    assert augmenter_for(colour(2), ()) is None
    assert isinstance(augmenter_for(colour(2), ("crop", "flip")), Augmenter)
    assert isinstance(augmenter_for(colour(2), ("rotate",)), Resampler)
    with pytest.raises(ValueError, match="augmentation .'crop'. is not built together"):
        augmenter_for(colour(2), ("crop", "rotate"))
