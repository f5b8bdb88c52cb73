"""ResNet-20 with layer norm: its parameters, its normalisation, its symmetries, and the checkpoints
that its recipe keeps.
"""

import shutil
from dataclasses import replace

import pytest
import torch
from llfc_book import places
from llfc_book.study import pairs, runs, widths
from llfc_book.study.runs import kept_path, run_key, run_path
from llfc_book.study.settings import KEPT, LAYER_NORM, LAYER_NORM_BY_CODE, RECIPES, recipe
from torch import nn

from llfc_lib.data import load
from llfc_lib.data.augment import Resampler, augmenter_for
from llfc_lib.matching import check_symmetry, symmetry, weight_matching
from llfc_lib.matching.symmetry import randomise_norms
from llfc_lib.models import build
from llfc_lib.models.resnet import ChannelNorm
from llfc_lib.models.view import View
from llfc_lib.training import checkpoints, loop
from llfc_lib.training.checkpoints import CheckpointError


def network(width: int, channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build("resnet20_ln", (channels, 32, 32), 10, width=width).eval()


def parameters(m: float, channels: int = 3, classes: int = 10) -> int:
    """By hand: a stage of c channels has six 3 x 3 convolutions from c (its first from half of it,
    where the shortcut is one more), a norm of 2 c numbers behind each."""
    c = int(16 * m)
    stem, classifier = 9 * channels * c + 2 * c, 4 * c * classes + classes
    first = 6 * (9 * c * c + 2 * c)
    wider = sum(9 * (w // 2) * w * 2 + 5 * 9 * w * w + 7 * 2 * w for w in (2 * c, 4 * c))
    return stem + first + wider + classifier


@pytest.mark.parametrize("m", [0.25, 1])
def test_number_of_parameters(m):
    assert sum(p.numel() for p in network(int(16 * m)).parameters()) == parameters(m)


def test_number_of_parameters_at_the_paper_s_width():
    with torch.device("meta"):
        count = sum(p.numel() for p in build("resnet20_ln", (3, 32, 32), 10).parameters())
    assert (
        count == parameters(32) and 297.3e6 < count < 297.6e6
    )  # 297.4 million in the code of Ainsworth et al.


def test_the_norm_is_over_the_channels_of_each_pixel():
    torch.manual_seed(1)
    norm, x = ChannelNorm(6).double(), torch.randn(3, 6, 4, 5, dtype=torch.float64)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    want = torch.empty_like(x)
    for n in range(3):
        for i in range(4):
            for j in range(5):
                pixel = x[n, :, i, j]
                variance = ((pixel - pixel.mean()) ** 2).mean()
                want[n, :, i, j] = (pixel - pixel.mean()) / torch.sqrt(
                    variance + 1e-6
                ) * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), want, rtol=1e-12, atol=1e-12)
    flat = torch.full(
        (1, 6, 1, 1), 2.0, dtype=torch.float64
    )  # a pixel without variance gives the shift, not a division by zero
    torch.testing.assert_close(norm(flat).flatten(), norm.bias.data)


def test_shortcuts_are_convolutions_only_where_the_stride_is_not_one():
    net = network(4)
    kinds = {
        f"{s}_{k}": type(net.get_submodule(f"block{s}_{k}.shortcut")).__name__
        for s in (1, 2, 3)
        for k in (1, 2, 3)
    }
    assert {name for name, kind in kinds.items() if kind == "Sequential"} == {"2_1", "3_1"}
    conv = net.get_submodule("block2_1.shortcut.0")
    assert conv.kernel_size == (3, 3) and conv.stride == (2, 2) and conv.bias is None
    view = View(net)
    assert [s.name for s in view.sites if s.cut] == [
        "Conv 1",
        *(f"Block {s}-{k}" for s in (1, 2, 3) for k in (1, 2, 3)),
        "logits",
    ]
    assert [s.name for s in view.sites][1:3] == [
        "Block 1-1 inner",
        "Block 1-1",
    ] and "Block 2-1 shortcut" in [m.name for m in view.maps]


def test_every_residual_stream_has_one_permutation_and_the_function_survives_all_of_them():
    net, x = network(4).double(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    randomise_norms(net)
    sym = symmetry(net, x)
    assert sorted(p.size for p in sym) == sorted(
        [4] * 4 + [8] * 4 + [16] * 4
    )  # a stream a stage, and the inside of each block
    stream = sym["conv"]
    assert {(u.parameter, u.axis) for u in stream.uses} >= {
        ("conv.weight", 0),
        ("norm.weight", 0),
        ("block1_2.conv2.weight", 0),
        ("block2_1.conv1.weight", 1),
        ("block2_1.shortcut.0.weight", 1),
    }
    assert check_symmetry(net, sym, x) < 1e-10
    assert all(p.site is not None for p in sym)
    # matched to itself in another order, the order is found
    planted = sym.random("planted")
    other = sym.apply(net.state_dict(), planted)
    found = weight_matching(sym, net.state_dict(), other)
    assert all(
        torch.equal(planted[name][found.permutations[name]], torch.arange(sym[name].size))
        for name in planted
    )


def test_augmentation_is_one_resampling_of_crop_flip_and_rotation():
    for name in (*LAYER_NORM, LAYER_NORM_BY_CODE):
        r = recipe(name, "lite")
        assert set(r.augment) == {"resized crop", "flip", "rotate"}
        assert isinstance(
            augmenter_for(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), r.augment), Resampler
        )


def test_settings_are_the_appendix_and_the_code_beside_it():
    ours, code = RECIPES["resnet20x32_cifar10_perm"], RECIPES[LAYER_NORM_BY_CODE]
    assert (ours.warmup, ours.weight_decay, ours.lr, ours.momentum, ours.schedule) == (
        1,
        5e-4,
        0.1,
        0.9,
        "cosine",
    )
    assert (code.warmup, code.weight_decay) == (5, 1e-4) and dict(code.model_args) == {"width": 8}
    assert ours.hash == "3818c6ebb8cedf83"  # runs are named by it
    for name, m in LAYER_NORM.items():
        r = recipe(name, "lite")
        assert (dict(r.model_args)["width"], r.epochs, r.kept) == (
            16 * m,
            24,
            KEPT,
        ) and r.is_variant
        assert loop.learning_rate(r, 24) == pytest.approx(0, abs=1e-12) and loop.learning_rate(
            r, 1
        ) == pytest.approx(0.1)
        assert (
            replace(r, kept=()).hash == r.hash
        )  # what is kept on the way changes nothing that is learned


# checkpoints on the way


@pytest.fixture
def tiny(monkeypatch):
    """The smoke recipe, shorter, on 64 digits."""
    r = replace(recipe("resnet20x0.25_cifar10_perm", "smoke"), epochs=3, kept=(0, 1, 3))
    data = load("digits", normalise=r.normalise)
    return r, replace(
        data,
        x_train=data.x_train[:64],
        y_train=data.y_train[:64],
        x_test=data.x_test[:32],
        y_test=data.y_test[:32],
    )


def test_networks_are_kept_after_the_epochs_that_the_recipe_names(tiny):
    r, data = tiny
    done = runs.train(r, 0, "A", data)
    path, key = run_path(r, 0, "A", data), run_key(r, 0, "A", data)
    kept = {epoch: checkpoints.read(kept_path(path, epoch), key) for epoch in (0, 1)}
    assert sorted(path.parent.glob("*.epoch*")) == sorted(
        kept_path(path, epoch) for epoch in kept
    )  # the last is the run itself
    assert [c.epoch for c in kept.values()] == [0, 1] and not any(
        c.optimiser for c in kept.values()
    )
    assert done.digest() != kept[1].digest() != kept[0].digest()
    start = loop.new_network(r, data, 0).state_dict()
    assert all(torch.equal(kept[0].model[name], value) for name, value in start.items())
    # the network after one epoch is that of a run that ends there, on the same draws
    alone = loop.fit(checkpoints.Checkpoint(dict(start)), r, data, (0, "A"), 1)
    assert alone.digest() == kept[1].digest()


def test_a_run_that_is_stopped_keeps_the_same_networks(tiny, monkeypatch):
    r, data = tiny
    whole = runs.train(r, 0, "A", data)
    path, key = run_path(r, 0, "A", data), run_key(r, 0, "A", data)
    digests = [checkpoints.read(kept_path(path, epoch), key).digest() for epoch in (0, 1)]
    for file in path.parent.glob("*"):
        file.unlink()
    write, count = checkpoints.write, [0]

    def stops(*args):
        count[0] += 1
        if count[0] == 4:  # after epoch 1 was kept, before it became the latest
            raise KeyboardInterrupt
        write(*args)

    monkeypatch.setattr(checkpoints, "write", stops)
    with pytest.raises(KeyboardInterrupt):
        runs.train(r, 0, "A", data)
    monkeypatch.setattr(checkpoints, "write", write)
    assert runs.train(r, 0, "A", data).digest() == whole.digest()
    assert [checkpoints.read(kept_path(path, epoch), key).digest() for epoch in (0, 1)] == digests


def cut_after(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run stops when it is about to train further."""
    train_epoch = loop.train_epoch

    def stops(model, optimiser, data, r, now, *rest):
        if now == epoch:
            raise KeyboardInterrupt
        return train_epoch(model, optimiser, data, r, now, *rest)

    monkeypatch.setattr(loop, "train_epoch", stops)


def test_a_run_that_goes_on_elsewhere_brings_what_it_kept(tiny, monkeypatch, tmp_path):
    r, data = tiny
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        cut_after(2, patch)
        runs.train(r, 0, "A", data)
    path, key = run_path(r, 0, "A", data), run_key(r, 0, "A", data)
    monkeypatch.setattr(places, "UNFINISHED", tmp_path / "unfinished")
    (tmp_path / "unfinished").mkdir()
    shutil.copy(runs.latest_path(path), runs.unfinished_path(path))
    for epoch in (0, 1):
        shutil.copy(kept_path(path, epoch), runs.unfinished_kept_path(path, epoch))
    monkeypatch.setenv("LLFC_CACHE", str(tmp_path / "another"))
    path = run_path(r, 0, "A", data)
    done = runs.train(r, 0, "A", data)
    assert [checkpoints.read(kept_path(path, epoch), key).history for epoch in (0, 1)] == [
        done.history[:0],
        done.history[:1],
    ]
    # without them it begins anew, and says so
    monkeypatch.setenv("LLFC_CACHE", str(tmp_path / "third"))
    runs.unfinished_kept_path(path, 1).unlink()
    with pytest.warns(UserWarning, match="what it kept after epoch 1 is gone"):
        again = runs.train(r, 0, "A", data)
    assert again.digest() == done.digest() and kept_path(run_path(r, 0, "A", data), 1).exists()


def test_epochs_of_another_run_are_refused(tiny, monkeypatch, tmp_path):
    """On another processor a network comes out with other bits: its epochs are not those of the
    network that is shipped.
    """
    r, data = tiny
    name = "resnet20x0.25_cifar10_perm"
    monkeypatch.setattr(
        pairs, "recipe", lambda n, p: replace(recipe(n, p), epochs=3, kept=(0, 1, 3))
    )
    monkeypatch.setattr(pairs, "ENDPOINTS", tmp_path)
    runs.train(r, 0, "A", data)
    path, key = run_path(r, 0, "A", data), run_key(r, 0, "A", data)
    assert pairs.endpoint_after(1, "smoke", name, 0, "A", data).epoch == 1
    assert (
        pairs.endpoint_after(3, "smoke", name, 0, "A", data).digest()
        == pairs.endpoint("smoke", name, 0, "A", data).digest()
    )
    shipped = pairs.shipped_path("smoke", name, 0, "A")
    shipped.parent.mkdir(parents=True)
    other = checkpoints.read(path, key)
    other.history = [{**entry, "seconds": 99.0} for entry in other.history]
    checkpoints.write(shipped, other, key)
    monkeypatch.setattr(
        pairs, "train", lambda *_: pytest.fail("trained for nothing: it would be another network")
    )
    with pytest.raises(
        CheckpointError,
        match="was after epoch 1 is not here; remove .*-0A.safetensors and measure its pairs anew",
    ):
        pairs.endpoint_after(1, "smoke", name, 0, "A", data)
    assert pairs.lacks_epochs("smoke", name, 0, "A", data)
    assert not pairs.lacks_epochs("smoke", name, 1, "A", data)  # it is to be trained yet


def test_of_two_files_that_of_the_networks_own_run_is_read(tiny, monkeypatch, tmp_path):
    r, data = tiny
    name, key = "resnet20x0.25_cifar10_perm", run_key(r, 0, "A", data)
    monkeypatch.setattr(
        pairs, "recipe", lambda n, p: replace(recipe(n, p), epochs=3, kept=(0, 1, 3))
    )
    monkeypatch.setattr(pairs, "ENDPOINTS", tmp_path)
    runs.train(r, 0, "A", data)
    assert not pairs.lacks_epochs("smoke", name, 0, "A", data)
    here, shipped = (
        kept_path(run_path(r, 0, "A", data), 1),
        pairs.shipped_kept_path("smoke", name, 0, "A", 1),
    )
    shipped.parent.mkdir(parents=True)
    mine = checkpoints.read(here, key)
    other = replace(
        mine,
        model={n: v + 1 for n, v in mine.model.items()},
        history=[{**mine.history[0], "seconds": 99.0}],
    )
    for mine_at, other_at in ((here, shipped), (shipped, here)):
        checkpoints.write(mine_at, mine, key)
        checkpoints.write(other_at, other, key)
        assert pairs.endpoint_after(1, "smoke", name, 0, "A", data).digest() == mine.digest()
    shipped.write_bytes(b"damaged")
    assert pairs.lacks_epochs("smoke", name, 0, "A", data)


def test_the_sweep_reads_them_and_measures_each(tiny, monkeypatch, tmp_path):
    r, data = tiny
    monkeypatch.setattr(
        pairs, "ENDPOINTS", tmp_path
    )  # those that are shipped are of the recipe as it is
    name = "resnet20x0.25_cifar10_perm_weight"
    monkeypatch.setattr(widths, "recipe", lambda *_: r)
    monkeypatch.setattr(
        pairs, "recipe", lambda n, p: replace(recipe(n, p), epochs=3, kept=(0, 1, 3))
    )
    rows = widths.sweep("smoke", name, 0, data)
    assert {row.epoch for row in rows} == {0, 1, 3}
    kinds = {(row.role, row.kind) for row in rows}
    assert kinds == {("value", ""), ("control", "unmatched"), ("null", "gaussian matrix")}
    cosines = {
        row.role: row.mean for row in rows if row.quantity == "matched_cosine" and row.epoch == 0
    }
    assert cosines["value"] > cosines["control"] > 0.1  # scales of 1 make strangers alike
    first = pairs.endpoint_after(0, "smoke", name, 0, "A", data)
    weight = first.model["block2_1.conv2.weight"].double().flatten(1)
    spectrum = torch.linalg.svdvals(weight)
    want = float(spectrum.square().sum() / spectrum[0] ** 2)
    found = [
        row
        for row in rows
        if row.quantity.startswith("stable_rank")
        and row.site == "Block 2-1 conv 2"
        and row.epoch == 0
        and row.role == "value"
    ]
    assert [row.mean for row in found if row.quantity == "stable_rank_W"] == [pytest.approx(want)]
    assert [row.mean for row in found if row.quantity == "stable_rank_share_W"] == [
        pytest.approx(want / 8)
    ]  # of 8 outputs x 72 inputs
    barriers = {
        (row.role, row.epoch): row.mean
        for row in rows
        if row.quantity == "loss_barrier_chord_on_training"
    }
    assert len(barriers) == 6
    cosine = {
        row.epoch: row.mean
        for row in rows
        if row.quantity == "matched_cosine" and row.role == "value"
    }
    assert 0 < cosine[0] < 1 and cosine[0] != cosine[1]
