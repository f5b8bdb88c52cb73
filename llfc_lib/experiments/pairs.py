"""The networks of a pair, and everything that is measured on them.

Pair k of a recipe is children A and B of seed k. Its control is A of seed k beside A of seed k + 1: two
independently initialised networks, so n pairs need 2n + 1 networks. Neighbouring controls share a network.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from llfc_lib.data import Dataset, load
from llfc_lib.metrics import (LLFC, Barrier, Commutativity, Row, Stitching, WeakAdditivity, displacement_null,
                              measure)
from llfc_lib.places import ENDPOINTS
from llfc_lib.training import checkpoints
from llfc_lib.training.checkpoints import Checkpoint
from llfc_lib.training.loop import new_network, run_key, train
from llfc_lib.training.recipes import Recipe, recipe

ALPHAS = (0.25, 0.5, 0.75)
FULL_GRID = tuple(np.linspace(0, 1, 21).round(2).tolist())
COARSE_GRID = (0.0, *ALPHAS, 1.0)
DISPLACEMENTS = tuple((kind, matched) for matched in (False, True) for kind in ("rotation", "entries", "gaussian"))
DRAWS = 10
BATCH = 1000

#: Small networks are measured in float64: what a chapter prints then agrees between processors.
DTYPE = {"smoke": torch.float64, "lite": torch.float32, "paper": torch.float32}


def members(name: str, pair: int) -> dict[str, tuple[int, str]]:
    """The (seed, branch) of the networks that pair ``pair`` of recipe ``name`` needs.

    Pairs that ask when to spawn have no independent network: spawned at epoch 0, they are not connected themselves.
    """
    children = {"A": (pair, "A"), "B": (pair, "B")}
    return children if "spawn_at" in name else {**children, "independent": (pair + 1, "A")}


def shipped_path(profile: str, name: str, seed: int, branch: str) -> Path:
    return ENDPOINTS / profile / f"{name}-{seed}{branch}.safetensors"


def endpoint(profile: str, name: str, seed: int, branch: str, data: Dataset, device: str = "cpu",
             retrain: bool = False) -> Checkpoint:
    """A finished network: as shipped with the project, else from the cache, else trained now.

    ``retrain`` passes the shipped one over. CheckpointError if the shipped file is damaged or of another recipe.
    """
    r = recipe(name, profile)
    shipped = shipped_path(profile, name, seed, branch)
    if shipped.exists() and not retrain:
        return checkpoints.read(shipped, run_key(r, seed, branch, data))
    return train(r, seed, branch, data, device)


def as_network(r: Recipe, checkpoint: Checkpoint, data: Dataset) -> nn.Module:
    network = new_network(r, data)
    network.load_state_dict(checkpoint.model)
    return network.eval()


def networks(profile: str, name: str, pair: int = 0, device: str = "cpu", retrain: bool = False
             ) -> tuple[dict[str, nn.Module], Dataset]:
    """The pair's networks ("A", "B", "independent") and its data set, on ``device``."""
    r = recipe(name, profile)
    data = load(r.data)
    found = {who: as_network(r, endpoint(profile, name, seed, branch, data, device, retrain), data).to(device)
             for who, (seed, branch) in members(name, pair).items()}
    return found, data.to(device)


def standard_metrics(grid: Sequence[float] = FULL_GRID, pre: bool = False) -> list:
    """Every metric of the appendix, for one pass over a pair."""
    return [LLFC(ALPHAS, pre=pre), Commutativity(), WeakAdditivity(), Stitching(), Barrier(grid)]


def as_control(rows: Sequence[Row], kind: str) -> list[Row]:
    """Rows of a control pair; its own nulls stay beside it, named after it."""
    return [replace(row, role="control", kind=f"{kind}: {row.kind}" if row.kind else kind) for row in rows]


def measure_pair(profile: str, nets: dict[str, nn.Module], data: Dataset,
                 metrics: Callable[[Sequence[float], bool], list] = standard_metrics) -> list[Row]:
    """The pair with its nulls, the independent pair, and A with itself."""
    loader, dtype = data.loader("test", BATCH, DTYPE[profile]), DTYPE[profile]
    return [
        *measure(nets["A"], nets["B"], loader, metrics(FULL_GRID, True), dtype=dtype),
        *as_control(measure(nets["A"], nets["independent"], loader, metrics(FULL_GRID, False), dtype=dtype),
                    "independent"),
        *as_control(measure(nets["A"], nets["A"], loader, metrics(COARSE_GRID, False), dtype=dtype), "itself"),
    ]


def measure_displaced(profile: str, name: str, pair: int, nets: dict[str, nn.Module], data: Dataset, kind: str,
                      matched: bool, metrics: Callable[[Sequence[float], bool], list] = standard_metrics,
                      draws: int | None = None) -> list[Row]:
    """The displacement null of one kind: every quantity, with partners that training did not make."""
    loader = data.loader("test", BATCH, DTYPE[profile])
    return displacement_null(nets["A"], nets["B"], loader, lambda: metrics(COARSE_GRID, False), kind=kind,
                             matched=matched, draws=draws or DRAWS, seed=f"{name}/{pair}", dtype=DTYPE[profile])


def curve_rows(name: str, checkpoint: Checkpoint) -> list[Row]:
    """The training curve of one network, a row an epoch and quantity."""
    return [Row(quantity, entry[quantity], kind=name, epoch=entry["epoch"])
            for entry in checkpoint.history for quantity in ("train_loss", "train_error", "test_loss", "test_error")]
