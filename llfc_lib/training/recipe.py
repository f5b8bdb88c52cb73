"""What a network is trained with: one setting as data, and the hash that names it."""

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any, ClassVar

TRAINING_VERSION = 1  # raise it when the loop would learn other bits from the same recipe


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Units: epochs unless a name says otherwise; ``lr`` is the peak
    learning rate.

    ``model`` and ``model_args`` name the network (:data:`llfc_lib.models.MODELS`), ``data`` the
    data set. ``schedule`` is "constant", "steps" (times 0.1 at each epoch of ``drops``) or "cosine"
    (to 0), after a linear warm-up of ``warmup`` epochs. ``spawn_epoch`` is the epoch after which
    children fork (None: networks are independent). ``speedups`` are the ways to compute it faster
    that a measurement found to pay (see :func:`llfc_lib.training.loop.speedups`), ``kept`` the
    epochs after which the network is kept as it is then, beside the last; neither is part of its
    identity.

    Source: the settings that B.1 names.
    """

    name: str
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
    speedups: tuple[str, ...] = ()
    kept: tuple[int, ...] = ()

    #: Fields that do not change what is learned.
    UNHASHED: ClassVar[frozenset[str]] = frozenset({"name", "speedups", "kept"})

    def identity(self) -> dict[str, Any]:
        """The fields that change what is learned, defaults left out: a field added later renames no
        old run.
        """
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in self.UNHASHED and getattr(self, f.name) != f.default
        }

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that name :meth:`identity`."""
        text = json.dumps({**self.identity(), "version": TRAINING_VERSION}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
