"""Data sets: what is loaded, how it is normalised, and what happens when it is not there."""

import io
import re
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from llfc_lib import data
from llfc_lib.data.tiny_imagenet import ROOT, URL, read_tiny_imagenet
from llfc_lib.data.torchvision import torchvision


def write_archive(path, labels_from=0, n=30, **change):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (n, 28, 28), np.uint8),
        "y_train": np.arange(n, dtype=np.uint8) % 10,
        "x_test": rng.integers(0, 256, (n, 28, 28), np.uint8),
        "y_test": np.arange(n, dtype=np.uint8) % 10,
        "source": np.array("a toy set"),
    }
    arrays["y_test"] = arrays["y_test"] + np.uint8(labels_from)
    np.savez(path, **{**arrays, **change})


def test_digits_are_embedded_and_normalised():
    digits = data.load("digits")
    assert digits.x_train.shape == (1297, 1, 8, 8) and digits.x_test.shape == (500, 1, 8, 8)
    assert digits.x_train.dtype == torch.uint8 and digits.y_train.dtype == torch.int64
    x = digits.normalise(digits.x_train, torch.float64)
    assert abs(x.mean()) < 1e-3 and abs(x.std() - 1) < 1e-3
    # every class in both splits, no image in both
    assert set(digits.y_train.tolist()) == set(digits.y_test.tolist()) == set(range(10))


def test_loader_gives_every_image_once_in_order():
    digits = data.load("digits")
    batches = list(digits.loader("test", batch=64, dtype=torch.float64))
    assert [len(y) for _, y in batches] == [64] * 7 + [52]
    x, y = (torch.cat(parts) for parts in zip(*batches))
    assert torch.equal(y, digits.y_test)
    assert torch.equal(x, digits.normalise(digits.x_test, torch.float64))
    part = list(digits.loader("test", 64, first=100))
    assert [len(labels) for _, labels in part] == [64, 36] and torch.equal(part[1][1], y[64:100])
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        digits.loader("tset")
    with pytest.raises(ValueError, match="unknown data set 'mnsit'.*mnist"):
        data.load("mnsit")


def test_archive_is_read_before_any_network(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (30, 32, 32, 3), np.uint8)
    write_archive(tmp_path / "cifar10.npz", x_train=colour, x_test=colour)
    cifar = data.load("cifar10", tmp_path)
    assert (cifar.source, cifar.image_shape, cifar.classes) == ("a toy set", (3, 32, 32), 10)
    # channels first, not a mere reshape
    assert torch.equal(cifar.x_train[3, 1], torch.from_numpy(colour[3, :, :, 1]))


def test_digest_changes_with_one_pixel(tmp_path):
    digests, pixels = set(), np.zeros((30, 28, 28), np.uint8)
    for value in (0, 1):
        pixels[0, 0, 0] = value
        write_archive(tmp_path / "mnist.npz", x_train=pixels)
        digests.add(data.load("mnist", tmp_path).sha256)
    assert len(digests) == 2


def test_archives_that_cannot_be_trusted_are_named(tmp_path):
    path = tmp_path / "mnist.npz"
    write_archive(path, labels_from=7)
    with pytest.raises(ValueError, match="test labels run from 7 to 16, outside 0..9"):
        data.load("mnist", tmp_path)
    write_archive(path, x_train=np.zeros((0, 28, 28), np.uint8), y_train=np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="train split has 0 images"):
        data.load("mnist", tmp_path)
    write_archive(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="mnist.npz is not a whole archive"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("name", sorted(set(data.SETS) - {"digits"}))
def test_neither_archive_nor_network_says_what_to_do(name, tmp_path, monkeypatch):
    asked = []

    # the one door through which torchvision goes to the network
    def refuse(request, *_args, **_kwargs):
        asked.append(request.full_url)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    said = "could not be downloaded.*no route to host.*LLFC_DATA.*smoke"
    with pytest.raises(FileNotFoundError, match=rf"(?s){name}\.npz.*{said}"):
        data.load(name, tmp_path)
    assert asked


def test_download_through_torchvision(tmp_path, monkeypatch):
    class Fake(list):
        def __init__(self, root, train, download):
            super().__init__([1, 2, 3, 4, 5][: 5 if train else 3])
            self.targets = list(self)
            self.data = torch.full((len(self.targets), 28, 28), 7, dtype=torch.uint8)

    monkeypatch.setattr(torchvision().datasets, "MNIST", Fake)
    mnist = data.load("mnist", tmp_path)
    assert len(mnist.y_train) == 5 and mnist.y_test.tolist() == [1, 2, 3]
    assert "torchvision" in mnist.source


# Tiny-ImageNet


def jpeg(number, grey=False):
    """A JPEG of one colour, by number, which compression leaves as it is to a unit or two; or a
    grey one.
    """
    colour = 10 * number if grey else (10 * number, 255 - 10 * number, 5 * number)
    file = io.BytesIO()
    Image.new("L" if grey else "RGB", (64, 64), colour).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_zip(path, wnids=("n20", "n03", "n10")):
    """The official zip's layout: classes in no order, each with images 2, 0 and 10 (grey); four for
    validation.
    """
    with zipfile.ZipFile(path, "w") as files:
        files.writestr(f"{ROOT}/wnids.txt", "".join(f"{wnid}\n" for wnid in wnids))
        for c, wnid in enumerate(wnids):
            folder = f"{ROOT}/train/{wnid}"
            files.writestr(f"{folder}/{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t62\t0\t62\n")
            for i, number in enumerate((2, 0, 10)):
                image = jpeg(3 * c + i, grey=number == 10)
                files.writestr(f"{folder}/images/{wnid}_{number}.JPEG", image)
        lines = []
        for i, number in enumerate((11, 10, 9, 0)):
            files.writestr(f"{ROOT}/val/images/val_{number}.JPEG", jpeg(number))
            lines.append(f"val_{number}.JPEG\t{wnids[i % len(wnids)]}\t0\t32\t44\t62\n")
        files.writestr(f"{ROOT}/val/val_annotations.txt", "".join(lines))


def test_tiny_imagenet_is_read_by_class_and_number(tmp_path):
    write_zip(tmp_path / "tiny.zip")
    # n03 and n10, second and third in the zip
    arrays = read_tiny_imagenet(tmp_path / "tiny.zip", classes=2)
    assert arrays.keys() == set(data.KEYS)
    assert {value.dtype for value in arrays.values()} == {np.dtype("uint8")}
    assert arrays["x_train"].shape == (6, 64, 64, 3) and arrays["x_test"].shape == (2, 64, 64, 3)
    assert arrays["y_train"].tolist() == [0, 0, 0, 1, 1, 1]
    red = arrays["x_train"][:, 32, 32, 0].astype(int)  # images 0, 2 and 10 of either class
    assert np.abs(red - 10 * np.array([4, 3, 5, 7, 6, 8])).max() <= 2
    grey, coloured = arrays["x_train"][[2, 5]], arrays["x_train"][[0, 1, 3, 4]]
    assert (grey == grey[..., :1]).all() and not (coloured[..., 0] == coloured[..., 1]).any()
    # validation images 9 (n10) and 10 (n03); 0 and 11 show n20
    assert arrays["y_test"].tolist() == [1, 0]
    assert np.abs(arrays["x_test"][:, 0, 0, 0].astype(int) - [90, 100]).max() <= 2
    with pytest.raises(ValueError, match="lists 3 classes, fewer than 4"):
        read_tiny_imagenet(tmp_path / "tiny.zip", classes=4)


def test_tiny_imagenet_is_downloaded_and_loaded(tmp_path, monkeypatch):
    def download(url, root, filename=None, md5=None):
        assert url == URL and re.fullmatch("[0-9a-f]{32}", md5)
        write_zip(tmp_path / "tiny-imagenet-200.zip", [f"n{i:02d}" for i in range(60)])

    monkeypatch.setattr(torchvision().datasets.utils, "download_url", download)
    tiny = data.load("tiny_imagenet_50", tmp_path)
    assert tiny.x_train.shape == (150, 3, 64, 64)
    assert tiny.classes == 50 and tiny.y_train.max() == 49
    assert "first 50 of its 200 classes" in tiny.source


def test_a_zip_of_another_layout_is_told(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as files:
        files.writestr("words.txt", "none")
    monkeypatch.setattr(torchvision().datasets.utils, "download_url", lambda *_, **__: None)
    with pytest.raises(FileNotFoundError, match="(?s)wnids.txt.*LLFC_DATA"):
        data.load("tiny_imagenet_50", tmp_path)


def test_an_entry_is_all_that_a_new_set_needs(tmp_path, monkeypatch):
    images, labels = np.full((4, 5, 5), 51, np.uint8), np.array([0, 1, 2, 0], np.uint8)
    arrays = dict(zip(data.KEYS, (images, labels, images, labels), strict=True))
    entry = data.Entry(3, (0.2,), (0.5,), lambda folder: (arrays, f"made in {folder.name}"))
    monkeypatch.setitem(data.SETS, "toy", entry)
    toy = data.load("toy", tmp_path)
    assert toy.source == f"made in {tmp_path.name}"
    assert toy.classes == 3 and toy.image_shape == (1, 5, 5)
    assert toy.normalise(toy.x_train).abs().max() < 1e-6
    raw = toy.normalised("pixels in [0, 1]")
    assert (raw.mean, raw.std) == ((0.0,), (1.0,))
    assert raw.normalised(data.NORMALISATIONS[0]).mean == (0.2,)
