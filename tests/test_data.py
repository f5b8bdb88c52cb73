"""Data sets: what is loaded, how it is normalised, and what happens when it is not there."""

import numpy as np
import pytest
import torch

from llfc_lib import data


def write_archive(path, labels_from=0, n=30, **change):
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.integers(0, 256, (n, 28, 28), np.uint8), "y_train": np.arange(n, dtype=np.uint8) % 10,
              "x_test": rng.integers(0, 256, (n, 28, 28), np.uint8), "y_test": np.arange(n, dtype=np.uint8) % 10,
              "source": np.array("a toy set")}
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
    assert digits.sha256 == data.load("digits").sha256


def test_loader_gives_every_image_once_in_order():
    digits = data.load("digits")
    batches = list(digits.loader("test", batch=64, dtype=torch.float64))
    assert [len(y) for _, y in batches] == [64] * 7 + [52]
    assert torch.equal(torch.cat([y for _, y in batches]), digits.y_test)
    assert torch.equal(torch.cat([x for x, _ in batches]), digits.normalise(digits.x_test, torch.float64))
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        digits.loader("tset")


def test_archive_is_read_before_any_network(tmp_path):
    write_archive(tmp_path / "mnist.npz")
    mnist = data.load("mnist", tmp_path)
    assert mnist.source == "a toy set" and mnist.x_train.shape == (30, 1, 28, 28) and mnist.classes == 10
    colour = np.random.default_rng(1).integers(0, 256, (30, 32, 32, 3), np.uint8)
    write_archive(tmp_path / "cifar10.npz", x_train=colour, x_test=colour)
    cifar = data.load("cifar10", tmp_path)
    assert cifar.image_shape == (3, 32, 32)
    assert torch.equal(cifar.x_train[3, 1], torch.from_numpy(colour[3, :, :, 1]))  # channels first, not a mere reshape


def test_digest_changes_with_one_pixel(tmp_path):
    write_archive(tmp_path / "mnist.npz")
    before = data.load("mnist", tmp_path).sha256
    pixels = np.zeros((30, 28, 28), np.uint8)
    pixels[0, 0, 0] = 1
    write_archive(tmp_path / "mnist.npz", x_train=pixels)
    one = data.load("mnist", tmp_path).sha256
    write_archive(tmp_path / "mnist.npz", x_train=np.zeros((30, 28, 28), np.uint8))
    assert len({before, one, data.load("mnist", tmp_path).sha256}) == 3


def test_unknown_set_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown data set 'mnsit'.*mnist"):
        data.load("mnsit")


def test_labels_out_of_range(tmp_path):
    write_archive(tmp_path / "mnist.npz", labels_from=7)
    with pytest.raises(ValueError, match="test labels run from 7 to 16, outside 0..9"):
        data.load("mnist", tmp_path)


def test_empty_data(tmp_path):
    write_archive(tmp_path / "mnist.npz", x_train=np.zeros((0, 28, 28), np.uint8), y_train=np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="train split has 0 images"):
        data.load("mnist", tmp_path)


def test_truncated_archive_is_named(tmp_path):
    write_archive(tmp_path / "mnist.npz")
    whole = (tmp_path / "mnist.npz").read_bytes()
    (tmp_path / "mnist.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="mnist.npz is not a whole archive"):
        data.load("mnist", tmp_path)


def test_neither_archive_nor_network_says_what_to_do(tmp_path, monkeypatch):
    from llfc_lib.data.torchvision import torchvision

    def refuse(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision().datasets, "MNIST", refuse)
    with pytest.raises(FileNotFoundError, match="(?s)mnist.npz.*no route to host.*LLFC_DATA.*smoke"):
        data.load("mnist", tmp_path)


def test_download_through_torchvision(tmp_path, monkeypatch):
    from llfc_lib.data.torchvision import torchvision

    class Fake:
        def __init__(self, root, train, download):
            self.targets = [1, 2, 3, 4, 5][: 5 if train else 3]
            self.data = torch.full((len(self.targets), 28, 28), 7, dtype=torch.uint8)

        def __len__(self):
            return len(self.targets)

    monkeypatch.setattr(torchvision().datasets, "MNIST", Fake)
    mnist = data.load("mnist", tmp_path)
    assert len(mnist.y_train) == 5 and mnist.y_test.tolist() == [1, 2, 3] and "torchvision" in mnist.source
