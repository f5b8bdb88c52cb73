"""The book's networks as runs: trained once, kept in a cache, gone on with after a kill.

A run is (recipe, seed, branch): branch "trunk" ends at ``recipe.spawn_epoch``, children ("A", "B",
...) fork from its full checkpoint and draw from streams of their own. Runs are named by a hash of
recipe, seed, branch and data, saved after every epoch, and go on after a kill to the same bits as
an undisturbed run on that device.
"""

import hashlib
import json
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from llfc_book import places
from llfc_book.places import cache_dir
from llfc_lib.data import Dataset
from llfc_lib.training import checkpoints
from llfc_lib.training.checkpoints import Checkpoint, CheckpointError
from llfc_lib.training.loop import fit, new_network
from llfc_lib.training.recipe import Recipe


def run_key(recipe: Recipe, seed: int, branch: str, data: Dataset) -> str:
    """Sixteen hexadecimal digits that name the run: recipe, seed, branch and the digest of the
    data.
    """
    text = json.dumps([recipe.hash, seed, branch, data.sha256])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_path(
    recipe: Recipe, seed: int, branch: str, data: Dataset, cache: Path | None = None
) -> Path:
    """Where the finished run is kept: in the folder ``cache``, else in the book's own."""
    name = f"{recipe.name}-{seed}{branch}-{run_key(recipe, seed, branch, data)}"
    return (cache or cache_dir()) / "runs" / f"{name}.safetensors"


def latest_path(path: Path) -> Path:
    """Where the run that ends at ``path`` keeps its last finished epoch."""
    return path.with_suffix(".latest.safetensors")


def kept_path(path: Path, epoch: int) -> Path:
    """Where the run that ends at ``path`` keeps its weights after ``epoch``, one of its recipe's
    ``kept``.
    """
    return path.with_suffix(f".epoch{epoch}.safetensors")


def unfinished(file: Path) -> Path:
    """Where ``file`` of a run too long to be left to a cache is kept while it is unfinished: in the
    tracked tree.
    """
    return places.UNFINISHED / file.name


def train(
    recipe: Recipe,
    seed: int,
    branch: str,
    data: Dataset,
    device: torch.device | str = "cpu",
    cache: Path | None = None,
) -> Checkpoint:
    """The finished run, from the cache or trained now (resumed where it was stopped).

    ``branch`` "trunk" stops at the epoch of spawning and keeps its optimiser; a child starts from
    the trunk's full checkpoint. A damaged or foreign checkpoint is named in a warning, set aside
    and never used.

    Source: B.1.1; spawning is by Frankle et al. (2020).
    """
    path, key = run_path(recipe, seed, branch, data, cache), run_key(recipe, seed, branch, data)
    until = recipe.spawn_epoch or 0 if branch == "trunk" else recipe.epochs
    latest, found = latest_path(path), _read_or_set_aside(path, key)
    for file in (latest, unfinished(latest)):
        if found is None:
            found = _read_or_set_aside(file, key)
            if found is not None and not _with_what_was_kept(found, recipe, path, key):
                found = None
    if found is None and branch != "trunk" and recipe.spawn_epoch:
        found = train(recipe, seed, "trunk", data, device, cache)
    if found is None:
        state = new_network(recipe, data, seed).state_dict()
        found = Checkpoint({name: value.clone() for name, value in state.items()})

    def save(checkpoint: Checkpoint) -> None:
        # what is kept first: a run stopped in between comes by here again
        if checkpoint.epoch in recipe.kept and checkpoint.epoch < until:
            then = replace(checkpoint, optimiser={})
            checkpoints.write(kept_path(path, checkpoint.epoch), then, key)
        checkpoints.write(latest, checkpoint, key)

    if found.epoch < until:
        if found.epoch == 0:
            save(found)
        title, stream = f"{recipe.name}, seed {seed}, {branch}", (seed, branch)
        found = fit(found, recipe, data, stream, until, device, save, title)
    if not path.exists():
        if branch != "trunk":
            found.optimiser = {}
        checkpoints.write(path, found, key)
        latest.unlink(missing_ok=True)
    return found


def _with_what_was_kept(found: Checkpoint, recipe: Recipe, path: Path, key: str) -> bool:
    """Whether all that the recipe keeps of the run's epochs so far is in the cache, fetched from
    the tracked tree if need be.

    A run that lost some of it begins anew: its later epochs could not give it back.
    """
    for epoch in (epoch for epoch in recipe.kept if epoch <= found.epoch):
        here = kept_path(path, epoch)
        for file in (here, unfinished(here)):
            kept = _read_or_set_aside(file, key)
            if kept is not None and kept.history == found.history[:epoch]:
                checkpoints.write(here, kept, key)
                break
        else:
            warnings.warn(
                f"{path.stem} goes on from its start: what it kept after epoch {epoch} is gone",
                stacklevel=3,
            )
            return False
    return True


def _read_or_set_aside(path: Path, key: str) -> Checkpoint | None:
    if not path.exists():
        return None
    try:
        return checkpoints.read(path, key)
    except CheckpointError as error:
        aside = path.with_suffix(".rejected")
        path.rename(aside)
        warnings.warn(f"{error}. It was moved to {aside.name} and is not used.", stacklevel=2)
        return None
