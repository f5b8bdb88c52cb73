"""ResNet-20 with layer norm: its parameters, its normalisation, and the checkpoints that its recipe
keeps.
"""

import shutil
from dataclasses import replace

import pytest
import torch
from llfc_book import places
from llfc_book.study import pairs, runs
from llfc_book.study.measures import sweep
from llfc_book.study.pairs import Pair
from llfc_book.study.runs import kept_path, run_key, run_path
from llfc_book.study.settings import RECIPES, group, recipe
from nets import find, same
from torch import nn

from llfc_lib.data import load
from llfc_lib.models import build
from llfc_lib.models.resnet import ChannelNorm
from llfc_lib.training import checkpoints, loop
from llfc_lib.training.checkpoints import CheckpointError

BY_CODE = "resnet20x0.5_cifar10_perm_code"
KEPT = (0, 1, 2, 5, 12, 24)


def network(width: int, channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build("resnet20_ln", (channels, 32, 32), 10, width=width).eval()


def test_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in network(4).parameters()) == 18_814
        wide = build("resnet20_ln", (3, 32, 32), 10)  # at the paper's width
        # 297.4 million in the code of Ainsworth et al.
        assert sum(p.numel() for p in wide.parameters()) == 297_355_786


def test_the_norm_is_over_the_channels_of_each_pixel():
    torch.manual_seed(1)
    norm, x = ChannelNorm(6).double(), torch.randn(3, 6, 4, 5, dtype=torch.float64)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    pixels = x.permute(0, 2, 3, 1)
    centred = pixels - pixels.mean(-1, keepdim=True)
    standard = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
    want = (standard * norm.weight + norm.bias).permute(0, 3, 1, 2)
    torch.testing.assert_close(norm(x), want, rtol=1e-12, atol=1e-12)
    # a pixel without variance gives the shift, not a division by zero
    flat = torch.full((1, 6, 1, 1), 2.0, dtype=torch.float64)
    torch.testing.assert_close(norm(flat).flatten(), norm.bias.data)


def test_shortcuts_are_convolutions_only_where_the_stride_is_not_one():
    net = network(4)
    names = [f"{s}-{k}" for s in (1, 2, 3) for k in (1, 2, 3)]
    shortcuts = {k: net.get_submodule(f"block{k.replace('-', '_')}.shortcut") for k in names}
    kinds = {name for name, layer in shortcuts.items() if isinstance(layer, nn.Sequential)}
    assert kinds == {"2-1", "3-1"}
    conv = shortcuts["2-1"][0]
    assert conv.kernel_size == (3, 3) and conv.stride == (2, 2) and conv.bias is None


def test_settings_are_the_appendix_and_the_code_beside_it():
    ours, code = RECIPES["resnet20x32_cifar10_perm"], RECIPES[BY_CODE]
    assert (ours.warmup, ours.weight_decay, ours.lr, ours.momentum) == (1, 5e-4, 0.1, 0.9)
    assert (code.warmup, code.weight_decay) == (5, 1e-4) and dict(code.model_args) == {"width": 8}
    assert len(group("layer norm")) == 5
    for name in group("layer norm"):
        r = recipe(name, "lite")
        factor = float(name.removeprefix("resnet20x").partition("_")[0])
        width = dict(r.model_args)["width"]
        assert (width, r.epochs, r.kept, r.schedule) == (16 * factor, 24, KEPT, "cosine")
        # what is kept on the way changes nothing that is learned
        assert replace(r, kept=()).hash == r.hash


# checkpoints on the way


NAME, EPOCHS = "resnet20x0.25_cifar10_perm", {"epochs": 3, "kept": (0, 1, 3)}


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The smoke recipe, shorter, on 64 digits; none of its networks is shipped."""
    monkeypatch.setattr(pairs, "recipe", lambda n, p: replace(recipe(n, p), **EPOCHS))
    monkeypatch.setattr(pairs, "ENDPOINTS", tmp_path / "endpoints")
    r = replace(recipe(NAME, "smoke"), **EPOCHS)
    data = load("digits", normalise=r.normalise)
    first = {key: getattr(data, key)[:64] for key in ("x_train", "y_train", "x_test", "y_test")}
    return r, replace(data, **first)


def kept(r, data) -> dict[int, checkpoints.Checkpoint]:
    """What a run of the recipe has kept."""
    path, key = run_path(r, 0, "A", data), run_key(r, 0, "A", data)
    return {epoch: checkpoints.read(kept_path(path, epoch), key) for epoch in (0, 1)}


def test_networks_are_kept_after_the_epochs_that_the_recipe_names(tiny):
    r, data = tiny
    done = runs.train(r, 0, "A", data)
    found, path = kept(r, data), run_path(r, 0, "A", data)
    # the last is the run itself
    assert sorted(path.parent.glob("*.epoch*")) == [kept_path(path, epoch) for epoch in (0, 1)]
    assert not any(c.optimiser for c in found.values())
    assert done.digest() != found[1].digest() != found[0].digest()
    start = loop.new_network(r, data, 0).state_dict()
    assert same({name: found[0].model[name] for name in start}, start)
    # the network after one epoch is that of a run that ends there, on the same draws
    alone = loop.fit(checkpoints.Checkpoint(dict(start)), r, data, (0, "A"), 1)
    assert alone.digest() == found[1].digest()


def test_a_run_that_is_stopped_keeps_the_same_networks(tiny, monkeypatch):
    r, data = tiny
    whole, path = runs.train(r, 0, "A", data), run_path(r, 0, "A", data)
    digests = [c.digest() for c in kept(r, data).values()]
    for file in path.parent.glob("*"):
        file.unlink()
    write, count = checkpoints.write, [0]

    def stops(*args):
        count[0] += 1
        if count[0] == 4:  # after epoch 1 was kept, before it became the latest
            raise KeyboardInterrupt
        write(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "write", stops)
        runs.train(r, 0, "A", data)
    assert runs.train(r, 0, "A", data).digest() == whole.digest()
    assert [c.digest() for c in kept(r, data).values()] == digests


def test_a_run_that_goes_on_elsewhere_brings_what_it_kept(tiny, monkeypatch, tmp_path):
    r, data = tiny
    train_epoch = loop.train_epoch

    def stops(model, optimiser, data, r, epoch, *rest):
        if epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(model, optimiser, data, r, epoch, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "train_epoch", stops)
        runs.train(r, 0, "A", data)
    path = run_path(r, 0, "A", data)
    monkeypatch.setattr(places, "UNFINISHED", tmp_path / "unfinished")
    (tmp_path / "unfinished").mkdir()
    shutil.copy(runs.latest_path(path), runs.unfinished(runs.latest_path(path)))
    for epoch in (0, 1):
        shutil.copy(kept_path(path, epoch), runs.unfinished(kept_path(path, epoch)))
    monkeypatch.setenv("LLFC_CACHE", str(tmp_path / "another"))
    done = runs.train(r, 0, "A", data)
    assert {k: c.history for k, c in kept(r, data).items()} == {0: [], 1: done.history[:1]}
    # without them it begins anew, and says so
    monkeypatch.setenv("LLFC_CACHE", str(tmp_path / "third"))
    runs.unfinished(kept_path(path, 1)).unlink()
    with pytest.warns(UserWarning, match="epoch 1"):
        again = runs.train(r, 0, "A", data)
    assert again.digest() == done.digest() and kept(r, data)


def after(epoch: int, data) -> checkpoints.Checkpoint:
    return pairs.endpoint_after(epoch, "smoke", NAME, 0, "A", data)


def test_epochs_of_another_run_are_refused(tiny, monkeypatch):
    """On another processor a network comes out with other bits: its epochs are not those of the
    network that is shipped.
    """
    r, data = tiny
    runs.train(r, 0, "A", data)
    path, key = run_path(r, 0, "A", data), run_key(r, 0, "A", data)
    assert after(1, data).epoch == 1
    last = pairs.endpoint("smoke", NAME, 0, "A", data)
    assert after(3, data).digest() == last.digest()
    shipped = pairs.shipped_path("smoke", NAME, 0, "A")
    shipped.parent.mkdir(parents=True)
    other = checkpoints.read(path, key)
    other.history = [{**entry, "seconds": 99.0} for entry in other.history]
    checkpoints.write(shipped, other, key)
    monkeypatch.setattr(pairs, "train", lambda *_: pytest.fail("it would be another network"))
    with pytest.raises(CheckpointError, match="epoch 1.*-0A.safetensors"):
        after(1, data)


def test_of_two_files_that_of_the_networks_own_run_is_read(tiny):
    r, data = tiny
    key = run_key(r, 0, "A", data)
    runs.train(r, 0, "A", data)
    here = kept_path(run_path(r, 0, "A", data), 1)
    shipped = kept_path(pairs.shipped_path("smoke", NAME, 0, "A"), 1)
    shipped.parent.mkdir(parents=True)
    mine = checkpoints.read(here, key)
    model = {name: value + 1 for name, value in mine.model.items()}
    other = replace(mine, model=model, history=[{**mine.history[0], "seconds": 99.0}])
    for mine_at, other_at in ((here, shipped), (shipped, here)):
        checkpoints.write(mine_at, mine, key)
        checkpoints.write(other_at, other, key)
        assert after(1, data).digest() == mine.digest()
    here.write_bytes(b"damaged")
    shipped.unlink()
    with pytest.raises(CheckpointError, match="after epoch 1 is not here"):
        after(1, data)


def test_the_sweep_reads_them_and_measures_each(tiny):
    r, data = tiny
    setting = replace(recipe(f"{NAME}_weight", "smoke"), **EPOCHS)
    rows = sweep.sweep(Pair(setting, 0, {}, data))
    assert {row.epoch for row in rows} == {0, 1, 3}
    matched, before = (
        find(rows, "matched_cosine", epoch=0, role=role).mean for role in ("value", "control")
    )
    assert 1 > matched > before > 0.1  # scales of 1 make strangers alike
    weight = after(0, data).model["block2_1.conv2.weight"]
    spectrum = torch.linalg.svdvals(weight.double().flatten(1))
    rank = float(spectrum.square().sum() / spectrum[0] ** 2)
    where = {"site": "Block 2-1 conv 2", "epoch": 0}
    assert find(rows, "stable_rank_W", **where).mean == pytest.approx(rank)
    # of 8 outputs x 72 inputs
    assert find(rows, "stable_rank_share_W", **where).mean == pytest.approx(rank / 8)
