"""The networks of a pair: where they lie, what they were on the way, and as they are measured.

What a pair is, its family says (:mod:`llfc_book.study.families`).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
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
    name = recipe(name, profile).trained_as
    r = recipe(name, profile)
    shipped = shipped_path(profile, name, seed, branch)
    if shipped.exists() and not retrain:
        return checkpoints.read(shipped, run_key(r, seed, branch, data))
    return train(r, seed, branch, data, device)


def shipped_kept_path(profile: str, name: str, seed: int, branch: str, epoch: int) -> Path:
    """Where a network as it was after ``epoch`` lies in the tracked tree, if it is shipped."""
    return kept_path(shipped_path(profile, name, seed, branch), epoch)


def earlier(
    epoch: int, last: Checkpoint, profile: str, name: str, seed: int, branch: str, data: Dataset
) -> Checkpoint | None:
    """What the finished network ``last`` was after ``epoch``, shipped or in the cache. None where
    neither holds a whole file of its very run: networks trained anew have other bits on another
    processor."""
    r = recipe(recipe(name, profile).trained_as, profile)
    for path in (
        shipped_kept_path(profile, r.name, seed, branch, epoch),
        kept_path(run_path(r, seed, branch, data), epoch),
    ):
        with suppress(CheckpointError):
            found = (
                checkpoints.read(path, run_key(r, seed, branch, data)) if path.exists() else None
            )
            if (
                found and found.history == last.history[:epoch]
            ):  # it holds the seconds of every epoch: no two runs have the same
                return found
    return None


def endpoint_after(
    epoch: int, profile: str, name: str, seed: int, branch: str, data: Dataset, device: str = "cpu"
) -> Checkpoint:
    """The network after ``epoch``, the last or one of its recipe's ``kept``: as shipped, else from
    the cache; trained now where there is no finished one.

    CheckpointError where a finished network's earlier epoch is not here.
    """
    r = recipe(recipe(name, profile).trained_as, profile)
    last = endpoint(profile, name, seed, branch, data, device)
    found = last if epoch == r.epochs else earlier(epoch, last, profile, name, seed, branch, data)
    if found is None:
        shipped = shipped_path(profile, r.name, seed, branch)
        raise CheckpointError(
            f"what {r.name}, seed {seed}, {branch} was after epoch {epoch} is not here; remove"
            f" {shipped if shipped.exists() else run_path(r, seed, branch, data)} and measure its"
            " pairs anew"
        )
    return found


def lacks_epochs(profile: str, name: str, seed: int, branch: str, data: Dataset) -> bool:
    """Whether a finished network is here, and not all that its recipe keeps of it on the way."""
    r = recipe(recipe(name, profile).trained_as, profile)
    if (
        not shipped_path(profile, r.name, seed, branch).exists()
        and not run_path(r, seed, branch, data).exists()
    ):
        return False
    last = endpoint(profile, name, seed, branch, data)
    return any(
        earlier(epoch, last, profile, name, seed, branch, data) is None
        for epoch in r.kept
        if epoch < r.epochs
    )


def as_network(r: Recipe, checkpoint: Checkpoint, data: Dataset) -> nn.Module:
    """The checkpoint as a network of the recipe, in evaluation mode and channels-last memory."""
    network = new_network(r, data)
    network.load_state_dict(checkpoint.model)
    return network.eval().to(
        memory_format=torch.channels_last
    )  # convolutions are twice as fast in this order


def networks(
    profile: str,
    name: str,
    pair: int = 0,
    device: str = "cpu",
    retrain: bool = False,
    only: Sequence[str] | None = None,
) -> tuple[dict[str, nn.Module], Dataset]:
    """The pair's networks ("A", "B", "independent", or ``only`` some) and its data set, on
    ``device``; B not yet matched.
    """
    r = recipe(recipe(name, profile).trained_as, profile)
    data = load(r.data, normalise=r.normalise)
    found = {
        who: (
            as_network(r, endpoint(profile, name, seed, branch, data, device, retrain), data).to(
                device
            )
        )
        for who, (seed, branch) in recipe(name, profile).members(pair).items()
        if only is None or who in only
    }
    return found, data.to(device)


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

    def loader(self, split: str, first: int | None = None, batch: int | None = None) -> Loader:
        """Batches of the ``first`` images of "test" or "train" (None: all), as many at a time as
        planned.
        """
        return self.data.loader(split, batch or self.setting.plan.batch, self.dtype, first)

    @cached_property
    def calibration(self) -> list[Tensor] | None:
        """Batches of training images, augmented as in training by a draw of their own, to recompute
        statistics on. None where there are none.
        """
        return calibration(self.data, self.setting, self.setting.plan.calibration)


def load_pair(
    setting: Setting,
    index: int,
    device: str = "cpu",
    retrain: bool = False,
    only: Sequence[str] | None = None,
) -> Pair:
    """The pair with the networks ``only``, or all; B not yet matched."""
    nets, data = networks(setting.profile, setting.name, index, device, retrain, only)
    return Pair(setting, index, nets, data, device)


def calibration(data: Dataset, setting: Recipe, images: int) -> list[Tensor] | None:
    """Batches of training images, augmented as in training by a draw of their own, to recompute
    statistics on.
    """
    if not images:
        return None
    augmenter = augmenter_for(data.x_train, setting.augment) or Augmenter(data.x_train, ())
    draws = augmenter.draw("calibration", setting.name)
    order = torch.randperm(
        len(data.y_train), generator=generator("calibration", setting.name, "order")
    )[:images]
    batches = order.to(data.x_train.device).split(min(500, images))
    return [data.normalise(augmenter.batch(index, draws)).contiguous() for index in batches]


def as_control(rows: Sequence[Row], kind: str) -> list[Row]:
    """Rows of a control pair; its own nulls stay beside it, named after it."""
    return [
        replace(row, role="control", kind=f"{kind}: {row.kind}" if row.kind else kind)
        for row in rows
    ]
