"""Data sets, whole in memory: images as uint8 on the device, a batch is an index draw.

``load(name)`` looks for ``<data folder>/<name>.npz`` first, then asks torchvision to download.
``digits`` comes with scikit-learn and needs neither. To add a data set is one entry in
:data:`SETS`.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llfc_lib.data.tiny_imagenet import download_tiny_imagenet

KEYS = ("x_train", "y_train", "x_test", "y_test")
Arrays = dict[str, np.ndarray]  # by these keys


def data_dir() -> Path:
    """Folder of ``<name>.npz`` archives: ``$LLFC_DATA``, else ``~/.cache/llfc-book/data``."""
    return Path(os.environ.get("LLFC_DATA") or Path.home() / ".cache" / "llfc-book" / "data")


@dataclass(frozen=True)
class Dataset:
    """Images ``x_*`` (uint8, N x C x H x W) and labels ``y_*`` (int64, N) of both splits.

    ``source`` is a sentence to print wherever the set is named; ``sha256`` is the digest of the
    four arrays as stored; ``mean`` and ``std`` (per channel, of pixels scaled to [0, 1]) normalise.

    Source: the sets of B.1.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int
    source: str
    sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0  # the largest pixel value
    normalisation: str = "per-channel mean and std"

    def normalised(self, how: str) -> "Dataset":
        """The same images, normalised ``how`` a recipe says: one of :data:`NORMALISATIONS`.

        ValueError for another one, or for ImageNet's three channels where the images have not as
        many.
        """
        if how not in NORMALISATIONS:
            raise ValueError(f"unknown normalisation {how!r}; choose one of {NORMALISATIONS}")
        channels = self.x_train.shape[1]
        if how == "ImageNet mean and std" and channels != 3:
            raise ValueError(f"{how} needs three channels, {self.name} has {channels}")
        own = SETS.get(self.name, self)
        mean, std = {
            NORMALISATIONS[0]: (own.mean, own.std),
            NORMALISATIONS[1]: ((0.0,) * channels, (1.0,) * channels),
            NORMALISATIONS[2]: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        }[how]
        return replace(self, mean=mean, std=std, normalisation=how)

    def to(self, device: torch.device | str) -> "Dataset":
        """The same set with its images and labels on ``device``."""
        return replace(self, **{key: getattr(self, key).to(device) for key in KEYS})

    def normalise(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Pixels (uint8, N x C x H x W) to (x / scale - mean) / std in ``dtype``."""
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, dtype=dtype, device=x.device).view(shape)
        std = torch.tensor(self.std, dtype=dtype, device=x.device).view(shape)
        return x.to(dtype).div_(self.scale).sub_(mean).div_(std)

    def loader(
        self,
        split: str = "test",
        batch: int = 1000,
        dtype: torch.dtype = torch.float32,
        first: int | None = None,
    ) -> "Loader":
        """Normalised batches of ``split`` ("train" or "test") in their stored order, as often as
        asked; or only of its ``first`` images. ValueError for another split."""
        if split not in ("train", "test"):
            raise ValueError(f"unknown split {split!r}; choose 'train' or 'test'")
        return Loader(self, split, batch, dtype, first)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.x_train.shape[1:]
        return channels, height, width


@dataclass(frozen=True)
class Loader:
    """Re-iterable over (x, y) batches of a data set, normalised as they are drawn."""

    data: Dataset
    split: str
    batch: int
    dtype: torch.dtype
    first: int | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = getattr(self.data, f"x_{self.split}"), getattr(self.data, f"y_{self.split}")
        count = min(len(y), self.first or len(y))
        for start in range(0, count, self.batch):
            rows = slice(start, min(start + self.batch, count))
            yield self.data.normalise(x[rows], self.dtype), y[rows]


NORMALISATIONS = ("per-channel mean and std", "pixels in [0, 1]", "ImageNet mean and std")


def load(name: str, folder: Path | None = None, normalise: str = NORMALISATIONS[0]) -> Dataset:
    """The data set ``name``, on the CPU, normalised as :meth:`Dataset.normalised` says.

    Raises ValueError for an unknown name, an empty set, labels out of range or an archive of
    another form, FileNotFoundError (saying what to do) where there is neither an archive nor a
    network.

    Source: B.1; MNIST is by LeCun et al. (1998), CIFAR-10 by Krizhevsky (2009), Tiny-ImageNet by
    Li, Karpathy and Johnson, the digits are scikit-learn's.
    """
    if name not in SETS:
        raise ValueError(f"unknown data set {name!r}; choose one of {sorted(SETS)}")
    archive = (folder or data_dir()) / f"{name}.npz"
    if SETS[name].embedded:
        arrays, source = SETS[name].fetch(archive.parent)
    elif archive.exists():
        arrays, source = _read_archive(archive)
    else:
        arrays, source = _download(name, archive)
    return _dataset(name, arrays, source).normalised(normalise)


def _dataset(name: str, arrays: Arrays, source: str) -> Dataset:
    entry = SETS[name]
    digest = hashlib.sha256()
    for key in KEYS:
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    tensors = {}
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if len(x) == 0 or len(x) != len(y):
            raise ValueError(f"{name}: the {split} split has {len(x)} images and {len(y)} labels")
        if y.min() < 0 or y.max() >= entry.classes:
            raise ValueError(
                f"{name}: {split} labels run from {y.min()} to {y.max()}, outside"
                f" 0..{entry.classes - 1}"
            )
        x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
        tensors[f"x_{split}"] = torch.from_numpy(np.ascontiguousarray(x))
        tensors[f"y_{split}"] = torch.from_numpy(y.astype(np.int64))
    x_train, y_train, x_test, y_test = (tensors[key] for key in KEYS)
    told = entry.classes, source, digest.hexdigest(), entry.mean, entry.std, entry.scale
    return Dataset(name, x_train, y_train, x_test, y_test, *told)


def _digits(_folder: Path) -> tuple[Arrays, str]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # Mixed once by a fixed draw: the stored order groups the writers, and the last ones are unlike
    # the first.
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(bunch.target))
    x, y = bunch.images.astype(np.uint8)[order], bunch.target.astype(np.uint8)[order]
    arrays = {"x_train": x[:1297], "y_train": y[:1297], "x_test": x[1297:], "y_test": y[1297:]}
    source = (
        "scikit-learn's digits (8 x 8 pixels), mixed once and split into 1,297 train / 500 test"
        " images"
    )
    return arrays, source


def _read_archive(path: Path) -> tuple[Arrays, str]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in KEYS}, str(archive["source"])
    except Exception as error:
        raise ValueError(
            f"{path} is not a whole archive with {', '.join(KEYS)} and source ({error}); remove it"
            " and unpack it again"
        ) from error


def _download(name: str, archive: Path) -> tuple[Arrays, str]:
    try:
        arrays, source = SETS[name].fetch(archive.parent)
        return {key: arrays[key] for key in KEYS}, source
    # torchvision raises what the network gave it: URLError, RuntimeError, OSError ...
    except Exception as error:
        raise FileNotFoundError(
            f"{name} is not at {archive} and could not be downloaded ({error}). Either connect to"
            f" the network, or put an archive there with the arrays {', '.join(KEYS)} (uint8) and a"
            " sentence `source`, or set LLFC_DATA to the folder that has it; profile 'smoke' needs"
            " no data at all"
        ) from error


def _from_torchvision(kind: str, folder: Path) -> tuple[Arrays, str]:
    """Both splits of torchvision's data set ``kind``, the name of its class."""
    from llfc_lib.data.torchvision import torchvision

    official = getattr(torchvision().datasets, kind)
    train, test = (official(str(folder), train=t, download=True) for t in (True, False))
    arrays = {
        f"{part}_{split}": np.asarray(value).astype(np.uint8)
        for split, s in (("train", train), ("test", test))
        for part, value in (("x", s.data), ("y", s.targets))
    }
    sizes = f"official {len(train):,} train / {len(test):,} test images"
    return arrays, f"{kind.lower()}, {sizes}, downloaded through torchvision"


@dataclass(frozen=True)
class Entry:
    """What there is to know of a data set before it is loaded.

    ``fetch`` takes the data folder and gives the four arrays (uint8, images N x H x W or N x H x W
    x C) and a sentence on their source; it may raise anything where there is no network.
    ``embedded``: an installed package has the set, so that neither an archive nor a network is
    asked. The other fields are those of :class:`Dataset`.
    """

    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fetch: Callable[[Path], tuple[Arrays, str]]
    scale: float = 255.0
    embedded: bool = False


# Means and standard deviations of the authors' loaders (zzp1012/LLFC, src/data), which have neither
# digits nor Tiny-ImageNet: for those our own, measured over all pixels of a channel in the training
# split (of our 50 classes).
SETS: dict[str, Entry] = {
    "digits": Entry(10, (0.3054,), (0.3759,), _digits, scale=16.0, embedded=True),
    "mnist": Entry(10, (0.1307,), (0.3081,), partial(_from_torchvision, "MNIST")),
    "cifar10": Entry(
        10,
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
        partial(_from_torchvision, "CIFAR10"),
    ),
    "tiny_imagenet_50": Entry(
        50, (0.4698, 0.4507, 0.3799), (0.2625, 0.2491, 0.2612), download_tiny_imagenet
    ),
}
