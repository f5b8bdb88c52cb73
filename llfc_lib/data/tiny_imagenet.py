"""Tiny-ImageNet, read out of its official zip; not one of torchvision's data sets."""

from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import numpy as np

from llfc_lib.data.torchvision import torchvision

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
# without it, a download that was cut short would pass for the zip
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
ROOT = "tiny-imagenet-200"
CLASSES = 50


def download_tiny_imagenet(folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of :func:`read_tiny_imagenet` and a sentence on their source; the zip (248 MB)
    stays in ``folder``.

    Raises what torchvision raises: URLError or OSError without a network, RuntimeError for a file
    with another digest.

    Source: Tiny-ImageNet by Li, Karpathy and Johnson; the zip's digest as published loaders give
    it.
    """
    torchvision().datasets.utils.download_url(URL, str(folder), md5=MD5)
    arrays = read_tiny_imagenet(folder / URL.rsplit("/", 1)[1])
    train, test = len(arrays["y_train"]), len(arrays["y_test"])
    source = (
        f"Tiny-ImageNet, the first {CLASSES} of its 200 classes by WordNet id, {train:,} train"
        f" / {test:,} test images (the official validation images), downloaded through torchvision"
    )
    return arrays, source


def read_tiny_imagenet(archive: Path, classes: int = CLASSES) -> dict[str, np.ndarray]:
    """Images ``x_train``, ``x_test`` (uint8, N x 64 x 64 x 3) and labels ``y_train``, ``y_test``
    (uint8, N) of the zip.

    Only the first ``classes`` by WordNet id are kept, labelled 0, 1, ... in that order. Training
    images are ordered by class and number, test images (the official validation images) by number.
    Grey JPEGs become three equal channels. ValueError where the zip lists fewer classes, KeyError
    where a file is missing.

    Source: Tiny-ImageNet's own layout; the 50 classes are our choice.
    """
    with ZipFile(archive) as files:
        wnids = sorted(files.read(f"{ROOT}/wnids.txt").decode().split())[:classes]
        if len(wnids) < classes:
            raise ValueError(f"{archive} lists {len(wnids)} classes, fewer than {classes}")
        label = {wnid: i for i, wnid in enumerate(wnids)}
        paths = [PurePosixPath(name) for name in files.namelist() if name.endswith(".JPEG")]
        train = [
            (p, label[p.parts[2]]) for p in paths if p.parts[1] == "train" and p.parts[2] in label
        ]
        lines = files.read(f"{ROOT}/val/val_annotations.txt").decode().splitlines()
        annotated = (line.split()[:2] for line in lines)  # the rest of a line is a bounding box
        val = [
            (PurePosixPath(ROOT, "val", "images", name), label[wnid])
            for name, wnid in annotated
            if wnid in label
        ]
        train.sort(key=lambda item: (item[1], _number(item[0])))
        val.sort(key=lambda item: _number(item[0]))
        return {
            "x_train": np.stack([_pixels(files, path) for path, _ in train]),
            "y_train": np.array([y for _, y in train], np.uint8),
            "x_test": np.stack([_pixels(files, path) for path, _ in val]),
            "y_test": np.array([y for _, y in val], np.uint8),
        }


def _number(path: PurePosixPath) -> int:
    """12 of ``val_12.JPEG`` and of ``n01443537_12.JPEG``."""
    return int(path.stem.rsplit("_", 1)[1])


def _pixels(files: ZipFile, path: PurePosixPath) -> np.ndarray:
    from PIL import Image  # torchvision brings it along; nothing else in the library needs it

    with files.open(str(path)) as file, Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
