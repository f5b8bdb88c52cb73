"""The networks of a pair: where they lie, what they were on the way, and as they are measured.

What a pair is, its family says (:mod:`llfc_book.study.settings`).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llfc_book.places import ENDPOINTS
from llfc_book.study.runs import kept_path, run_key, run_path, train
from llfc_book.study.settings import Setting, recipe
from llfc_lib.data import Dataset, load
from llfc_lib.data.augment import Augmenter, augmenter_for
from llfc_lib.metrics import Row
from llfc_lib.metrics.measure import Loader
from llfc_lib.streams import generator
from llfc_lib.training import checkpoints
from llfc_lib.training.checkpoints import Checkpoint, CheckpointError
from llfc_lib.training.loop import new_network
from llfc_lib.training.recipe import Recipe


def trained_as(profile: str, name: str) -> Setting:
    """The recipe whose networks the pairs of ``name`` are."""
    return recipe(recipe(name, profile).trained_as, profile)


def shipped_path(profile: str, name: str, seed: int, branch: str) -> Path:
    """Where a finished network lies in the tracked tree, if it is shipped."""
    return ENDPOINTS / profile / f"{name}-{seed}{branch}.safetensors"


def endpoint(
    profile: str,
    name: str,
    seed: int,
    branch: str,
    data: Dataset,
    device: str = "cpu",
    retrain: bool = False,
) -> Checkpoint:
    """A finished network: as shipped with the project, else from the cache, else trained now.

    ``retrain`` passes the shipped one over. CheckpointError if the shipped file is damaged or of
    another recipe.
    """
    r = trained_as(profile, name)
    shipped = shipped_path(profile, r.name, seed, branch)
    if shipped.exists() and not retrain:
        return checkpoints.read(shipped, run_key(r, seed, branch, data))
    return train(r, seed, branch, data, device)


def endpoint_after(
    epoch: int, profile: str, name: str, seed: int, branch: str, data: Dataset, device: str = "cpu"
) -> Checkpoint:
    """The network after ``epoch``, the last or one of its recipe's ``kept``: as shipped, else from
    the cache; trained now where there is no finished one.

    CheckpointError where a finished network's earlier epoch is not here: trained anew it would have
    other bits on another processor.
    """
    r = trained_as(profile, name)
    last = endpoint(profile, name, seed, branch, data, device)
    if epoch == r.epochs:
        return last
    shipped, cached = (
        shipped_path(profile, r.name, seed, branch),
        run_path(r, seed, branch, data),
    )
    for path in (shipped, cached):
        with suppress(CheckpointError):
            found = checkpoints.read(kept_path(path, epoch), run_key(r, seed, branch, data))
            # a history holds the seconds of every epoch: no two runs have the same
            if found.history == last.history[:epoch]:
                return found
    raise CheckpointError(
        f"what {r.name}, seed {seed}, {branch} was after epoch {epoch} is not here; remove"
        f" {shipped if shipped.exists() else cached} and measure its pairs anew"
    )


def digest(profile: str, name: str, seed: int, branch: str, data: Dataset) -> str | None:
    """Digest of the network at hand, shipped or in the cache. None if there is none to trust."""
    r = trained_as(profile, name)
    shipped = shipped_path(profile, r.name, seed, branch)
    path = shipped if shipped.exists() else run_path(r, seed, branch, data)
    return digest_at(path, run_key(r, seed, branch, data))


def digest_at(path: Path, key: str) -> str | None:
    """The same of the file ``path`` of the run ``key``, read once while it stays as it is."""
    if not path.exists():
        return None
    state = path.stat()
    return _digest_at(path, key, state.st_mtime_ns, state.st_size)


@cache
def _digest_at(path: Path, key: str, changed: int, size: int) -> str | None:
    try:
        return checkpoints.read(path, key).digest()
    except CheckpointError:
        return None


def as_network(r: Recipe, checkpoint: Checkpoint, data: Dataset) -> nn.Module:
    """The checkpoint as a network of the recipe, in evaluation mode and channels-last memory, in
    which convolutions are twice as fast.
    """
    network = new_network(r, data)
    network.load_state_dict(checkpoint.model)
    return network.eval().to(memory_format=torch.channels_last)


@dataclass
class Pair:
    """A pair as it is measured: its networks by what they are in it ("A", "B", "independent";
    "unmatched" is B before a matching), with the data and the device.

    ``extra`` is what a part keeps beside its rows.
    """

    setting: Setting
    index: int
    nets: dict[str, nn.Module]
    data: Dataset
    device: str = "cpu"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its random draws go by."""
        return f"{self.setting.name}/{self.index}"

    @property
    def dtype(self) -> torch.dtype:
        """The precision it is measured in."""
        return self.setting.scale.dtype

    def in_dtype(self, *who: str) -> list[nn.Module]:
        """Networks in that precision."""
        return [self.nets[one].to(self.dtype) for one in who]

    def loader(self, split: str, first: int | None = None) -> Loader:
        """Batches of the ``first`` images of "test" or "train" (None: all), as many at a time as
        planned.
        """
        return self.data.loader(split, self.setting.plan.batch, self.dtype, first)

    @cached_property
    def calibration(self) -> list[Tensor] | None:
        """Batches of training images to recompute statistics on (:func:`calibration`)."""
        return calibration(self.data, self.setting, self.setting.plan.calibration)


def load_pair(
    setting: Setting,
    index: int,
    device: str = "cpu",
    retrain: bool = False,
    only: Sequence[str] = ("A", "B", "independent"),
) -> Pair:
    """The pair with those of its networks that ``only`` names, on ``device``; B not yet matched."""
    profile, r = setting.profile, trained_as(setting.profile, setting.name)
    data, nets = load(r.data, normalise=r.normalise), {}
    for who, (seed, branch) in setting.members(index).items():
        if who in only:
            found = endpoint(profile, r.name, seed, branch, data, device, retrain)
            nets[who] = as_network(r, found, data).to(device)
    return Pair(setting, index, nets, data.to(device), device)


def calibration(data: Dataset, setting: Recipe, images: int) -> list[Tensor] | None:
    """Batches of training images, augmented as in training by a draw of their own, to recompute
    statistics on. None for no ``images``.
    """
    if not images:
        return None
    augmenter = augmenter_for(data.x_train, setting.augment) or Augmenter(data.x_train, ())
    draws = augmenter.draw("calibration", setting.name)
    drawn = generator("calibration", setting.name, "order")
    order = torch.randperm(len(data.y_train), generator=drawn)[:images]
    batches = order.to(data.x_train.device).split(min(500, images))
    return [data.normalise(augmenter.batch(index, draws)).contiguous() for index in batches]


def as_control(rows: Sequence[Row], kind: str) -> list[Row]:
    """Rows of a control pair; its own nulls stay beside it, named after it."""
    return [
        replace(row, role="control", kind=f"{kind}: {row.kind}" if row.kind else kind)
        for row in rows
    ]
