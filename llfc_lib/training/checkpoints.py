"""Checkpoints as safetensors: written atomically, refused when truncated, damaged or of another
run.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be trusted; the message names the file and the way out."""


@dataclass
class Checkpoint:
    """Everything a run needs to go on: weights, optimiser state, finished epochs, and its history.

    ``optimiser`` maps "<parameter index>/<name>" to a tensor, as
    :meth:`torch.optim.Optimizer.state_dict` numbers them. ``history`` has one entry an epoch:
    losses (nats), errors (fractions), seconds.
    """

    model: dict[str, Tensor]
    optimiser: dict[str, Tensor] = field(default_factory=dict)
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def digest(self) -> str:
        """SHA-256 of the weights, by name: what a record quotes."""
        return _digest(self.model)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        flat = tensors[name].detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write(path: Path, checkpoint: Checkpoint, key: str) -> None:
    """Write atomically. ``key`` names the run; :func:`read` asks for it."""
    parts = {"model": checkpoint.model, "optimiser": checkpoint.optimiser}
    tensors = {
        f"{part}/{name}": value.detach().cpu().contiguous()
        for part, values in parts.items()
        for name, value in values.items()
    }
    meta = {
        "key": key,
        "digest": _digest(tensors),
        "epoch": str(checkpoint.epoch),
        "history": json.dumps(checkpoint.history),
    }
    writable(path.parent)
    atomic_write(path, save(tensors, meta))


def read(path: Path, key: str) -> Checkpoint:
    """The checkpoint at ``path``. CheckpointError if it is not whole or not of the run ``key``."""
    try:
        # in one go: a run that goes on may put another file in its place meanwhile
        content = path.read_bytes()
        tensors = dict(sorted(load(content).items()))
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or truncated ({error}); remove it and run again"
        ) from error
    meta = header.get("__metadata__", {})
    if meta.get("key") != key:
        raise CheckpointError(
            f"{path} belongs to another run ({meta.get('key')}, not {key}); remove it and run again"
        )
    if meta.get("digest") != _digest(tensors):
        raise CheckpointError(
            f"{path} does not match its own digest: it was altered; remove it and run again"
        )
    part = {
        kind: {
            name.removeprefix(f"{kind}/"): t
            for name, t in tensors.items()
            if name.startswith(f"{kind}/")
        }
        for kind in ("model", "optimiser")
    }
    return Checkpoint(
        part["model"], part["optimiser"], int(meta["epoch"]), json.loads(meta["history"])
    )


def writable(folder: Path) -> Path:
    """Make ``folder`` and return it; one that cannot be written to is a PermissionError that says
    what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"cannot write to {folder} ({error.strerror}); set LLFC_CACHE to a folder that you can"
            " write to"
        ) from error
    return folder


def atomic_write(path: Path, content: bytes) -> None:
    """Write ``content`` so that a kill at any moment leaves the old file or the new one, never half
    of one.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
