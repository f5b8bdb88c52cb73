"""What a network is trained with: one setting as data, and the hash that names it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

TRAINING_VERSION = 1  # raise it when the loop would learn other bits from the same recipe


@dataclass(frozen=True)
class Recipe:
    """One setting of B.1. Units: epochs unless a name says otherwise; ``lr`` is the peak learning
    rate.

    ``schedule`` is "constant", "steps" (times 0.1 at each epoch of ``drops``) or "cosine" (to 0),
    after a linear warm-up of ``warmup`` epochs. ``spawn_epoch`` is the epoch after which children
    fork (None: networks are independent). ``matching`` is the method that brings the two networks
    of a pair together ("activation", "weight", "ste"; none where they were spawned) with its
    settings in ``matching_args``; networks are trained as the recipe ``trained_as``. ``speedups``
    are the ways to compute it faster that a measurement found to pay (see
    :func:`llfc_lib.training.loop.speedups`); they are no part of its identity. ``kept`` are the
    epochs after which the network is kept as it is then, beside the last. ``shipped`` says which
    networks go into the tracked tree: "small" (small ones of every pair, larger ones of the first),
    "every" (those of every pair) or "none". ``choices`` maps a field that the appendix leaves out
    to the reason for our value.

    Source: B.1.
    """

    name: str
    section: str
    title: str
    model: str
    data: str
    epochs: int
    batch: int
    optimiser: str
    lr: float
    model_args: tuple[tuple[str, Any], ...] = ()
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    drops: tuple[int, ...] = ()
    warmup: int = 0
    augment: tuple[str, ...] = ()
    normalise: str = "per-channel mean and std"
    init: str = "PyTorch default"
    spawn_epoch: int | None = None
    matching: str = ""
    matching_args: tuple[tuple[str, Any], ...] = ()
    base: str = ""
    speedups: tuple[str, ...] = ()
    kept: tuple[int, ...] = ()
    shipped: str = "small"
    choices: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)

    def identity(self) -> dict[str, Any]:
        """The fields that change what is learned, defaults left out: a field added later renames no
        old run.
        """
        told = {"name", "section", "title", "choices", "speedups", "base", "kept", "shipped"}
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in told and getattr(self, f.name) != f.default
        }

    @property
    def trained_as(self) -> str:
        """The recipe whose networks these are: matching them trains none."""
        return self.base or self.name

    @property
    def is_variant(self) -> bool:
        """Not a setting of the paper but a change of one."""
        return any("our variant" in why for why in self.choices.values())

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that name :meth:`identity`."""
        text = json.dumps({**self.identity(), "version": TRAINING_VERSION}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
