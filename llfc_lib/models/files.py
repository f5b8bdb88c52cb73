"""Weights out of files."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Fill ``network`` from a .safetensors file, or from one that ``torch.save`` made of a state
    dict; returns it.

    No code of the file is executed. A state dict may lie under "state_dict", "model" or
    "model_state_dict", its names may begin with "module." (DataParallel) or "_orig_mod."
    (compiled). FileNotFoundError; ValueError for a damaged file, one that needs code to be read, or
    weights of another network, which is then left as it was.
    """
    state: Mapping[str, Any] = _read(Path(path))
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
            break
    own = network.state_dict(keep_vars=True)
    for prefix in ("module.", "_orig_mod."):
        wrapped, ours = (all(name.startswith(prefix) for name in names) for names in (state, own))
        if wrapped and not ours:
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    # a tied parameter may be stored once, and old files do not count batches
    first = {id(own[name]): value for name, value in state.items() if name in own}
    tied = {name: first[id(value)] for name, value in own.items() if id(value) in first}
    state = {**tied, **state}
    missing = [
        name for name in own if name not in state and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in state if name not in own]
    other = [
        f"{name} is {_told(value)} in the file and {_told(own[name])} in the network"
        for name, value in state.items()
        if name in own and _told(value) != _told(own[name])
    ]
    if missing or unexpected or other:
        parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
        raise ValueError(
            f"{path} does not fit {type(network).__name__}: "
            + "; ".join(
                f"{what}: {', '.join(names[:3])}{f' and {len(names) - 3} more' * (len(names) > 3)}"
                for what, names in parts
                if names
            )
        )
    network.load_state_dict(state, strict=False)
    return network


def _read(path: Path) -> Mapping[str, Any]:
    path.stat()  # FileNotFoundError; any other OSError below comes from what is in the file
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{path} {f'asks for {wanted[1]}' if wanted else 'is no file of weights'}; only tensors"
            " are read, no code is executed. If you trust it, load it yourself and save its"
            " state_dict()"
        ) from None  # torch: "set it to False"
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged, or no file of weights ({error})") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict")
    return state


def _told(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
