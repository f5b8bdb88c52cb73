"""Independent random streams, each named by what it is for and seeded by a hash of that name.

No generator is carried from epoch to epoch: the draws of an epoch follow from (seed, stream, epoch,
purpose) alone. So a checkpoint needs to hold no generator state, a resumed run draws what an
undisturbed one would, and two children never see each other's order shifted by one, as they do
where seeds are added up.
"""

import hashlib

import numpy as np
import torch


def seed_of(*name: object) -> int:
    """63 bits of SHA-256 of the parts of ``name``."""
    text = "/".join(map(str, name))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*name: object) -> torch.Generator:
    """A CPU generator; what is drawn from it is then moved, so that every device sees the same
    draws.
    """
    return torch.Generator().manual_seed(seed_of(*name))


def numpy_generator(*name: object) -> np.random.Generator:
    """A generator of numpy, whose normal draws are equal on every processor: for nulls."""
    return np.random.Generator(np.random.Philox(seed_of(*name)))
