"""Batched augmentation, and the fast training path against a plain one."""

import math
from dataclasses import replace

import pytest
import torch
from llfc_book.study import runs
from llfc_book.study.settings import recipe
from torch import nn

from llfc_lib.data import load
from llfc_lib.data.augment import DEGREES, ZOOM, Augmenter, Resampler, augmenter_for
from llfc_lib.data.torchvision import torchvision
from llfc_lib.streams import generator, seed_of
from llfc_lib.training import checkpoints, loop
from llfc_lib.training.checkpoints import Checkpoint

BOTH = ("crop", "flip")


def colour(n: int = 50, side: int = 32) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (n, 3, side, side), generator=g, dtype=torch.uint8)


def one_by_one(x: torch.Tensor, draws, index: torch.Tensor) -> torch.Tensor:
    """The images of that index, cropped and flipped one after the other as torchvision does it."""
    transform, side = torchvision().transforms.functional, x.shape[-1]
    images = []
    for i in index.tolist():
        padded = transform.pad(x[i], side // 8)
        image = transform.crop(padded, int(draws.top[i]), int(draws.left[i]), side, side)
        images.append(transform.hflip(image) if draws.flip[i] else image)
    return torch.stack(images)


def test_crops_and_flips_are_torchvisions_on_the_same_draws():
    x = colour()
    augmenter = Augmenter(x, BOTH)
    draws = augmenter.draw(0, "A", 3)
    index = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    batch = augmenter.batch(index, draws)
    assert torch.equal(batch, one_by_one(x, draws, index))
    assert batch.is_contiguous(memory_format=torch.channels_last) and batch.dtype == torch.uint8


def test_every_place_and_both_sides_occur():
    wide = Augmenter(colour(2000, 32), BOTH).draw(0, "A", 0)
    assert set(wide.top.tolist()) == set(wide.left.tolist()) == set(range(9))
    assert not torch.equal(wide.top, wide.left) and 0.45 < wide.flip.double().mean() < 0.55
    assert not Augmenter(colour(20), ("crop",)).draw(0, "A", 0).flip.any()
    assert not Augmenter(colour(20), ("flip",)).draw(0, "A", 0).top.any()


def test_draws_differ_between_epochs_and_children_and_repeat():
    augmenter = Augmenter(colour(500, 8), BOTH)
    names = [(0, "A", 0), (0, "A", 1), (0, "B", 0), (1, "A", 0)]
    for field in ("top", "left", "flip"):
        drawn, again = (
            [tuple(getattr(augmenter.draw(*name), field).tolist()) for name in names]
            for _ in range(2)
        )
        assert drawn == again and len(set(drawn)) == len(names)


# the loop


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    return replace(data, x_train=data.x_train[:300], y_train=data.y_train[:300])


def small(name="resnet20_cifar10_spawn", **change):
    fields = {"model_args": (("width", 4),), "epochs": 2, "spawn_epoch": 0}
    fields |= {"augment": BOTH, "batch": 64}
    return replace(recipe(name, "smoke"), **{**fields, **change})


def start(r, data) -> Checkpoint:
    return Checkpoint({k: v.clone() for k, v in loop.new_network(r, data).state_dict().items()})


def plain(r, data) -> tuple[nn.Module, list[float]]:
    """What a reader would write: one image after the other is cropped and flipped, usual memory,
    SGD not fused.
    """
    model = loop.new_network(r, data).train()
    usual = {"momentum": r.momentum, "weight_decay": r.weight_decay}
    optimiser = torch.optim.SGD(model.parameters(), lr=r.lr, **usual, fused=False, foreach=False)
    losses = []
    for epoch in range(r.epochs):
        branch = "trunk" if epoch < r.spawn_epoch else "A"
        optimiser.param_groups[0]["lr"] = r.lr / 10 ** sum(epoch >= drop for drop in r.drops)
        torch.manual_seed(seed_of(0, branch, epoch, "dropout"))
        order = torch.randperm(len(data.y_train), generator=generator(0, branch, epoch, "order"))
        draws = Augmenter(data.x_train, r.augment).draw(0, branch, epoch)
        total = 0.0
        for index in order.split(r.batch):
            x = one_by_one(data.x_train, draws, index) / data.scale
            logits = model((x - data.mean[0]) / data.std[0])
            loss = nn.functional.cross_entropy(logits, data.y_train[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(index)
        losses.append(total / len(data.y_train))
    return model, losses


def apart(found: Checkpoint, model: nn.Module) -> float:
    """The largest difference of any weight."""
    state = model.state_dict()
    return max(float((found.model[k].double() - v.double()).abs().max()) for k, v in state.items())


@pytest.mark.parametrize(
    "fast, tolerance",
    [((), 1e-5), (("channels last",), 1e-5), (("channels last", "bf16 autocast"), 0.05)],
)
def test_the_fast_path_learns_what_the_plain_one_learns(digits, fast, tolerance):
    """Losses of the first two epochs within ``tolerance``: rounding in float32, 8 bits of mantissa
    in bf16. At a rate of 0.01: at 0.05 these few steps amplify a rounding error ten thousand times.
    """
    r = small(speedups=fast, lr=0.01)
    if loop.speedups(r, "cpu") != fast:
        pytest.skip("this processor has no bf16")
    model, losses = plain(r, digits)
    found = loop.fit(start(r, digits), r, digits, (0, "A"), r.epochs)
    assert [h["train_loss"] for h in found.history] == pytest.approx(losses, abs=tolerance)
    assert losses[1] < losses[0] - 5 * 0.05  # something was learned, more than any tolerance here
    assert all(h.get("speedups", "") == ", ".join(fast) for h in found.history)
    if "bf16 autocast" not in fast:
        assert apart(found, model) < 10 * tolerance


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
    assert apart(found, model) < 1e-4
    for change in ({"drops": ()}, {"momentum": 0.0}):  # what the tolerance would have to miss
        assert apart(found, plain(replace(r, **change), digits)[0]) > 1e-2


def test_autocast_is_entered_in_training_and_nowhere_else(digits, monkeypatch):
    seen = []

    class Probe(nn.Linear):
        def forward(self, x):
            out = super().forward(x.flatten(1))
            seen.append((self.training, torch.is_autocast_enabled("cpu"), out.dtype))
            return out

    monkeypatch.setattr(loop, "new_network", lambda *_: Probe(64, 10))
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


# resized crops and rotations (B.1.2)

ALL_RESAMPLED = ("resized crop", "flip", "rotate")


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
    log_uniform = math.log(1 / 0.8) / math.log(1.2 / 0.8)
    assert float((zoom.log() < 0).float().mean()) == pytest.approx(log_uniform, abs=0.03)
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
    assert (found[small].amin((1, 2, 3)) < 160).all()
    assert found[1 / draws[:, 0, 0] > 1].min() > 150  # a little darker at the edge
    left, right = found[small][:, 0, 8, 0], found[small][:, 0, 8, -1]
    assert (left > 200).any() and (right > 200).any()  # not always in the middle


def test_which_augmenter_for_which_kinds():
    assert augmenter_for(colour(2), ()) is None
    assert isinstance(augmenter_for(colour(2), ("crop", "flip")), Augmenter)
    assert isinstance(augmenter_for(colour(2), ("rotate",)), Resampler)
    with pytest.raises(ValueError, match="not built together"):
        augmenter_for(colour(2), ("crop", "rotate"))
