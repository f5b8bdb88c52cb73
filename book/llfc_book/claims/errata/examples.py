"""What the checks compute with: draws, small networks that satisfy both conditions exactly,
captions, records.
"""

import itertools
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy import ndarray
from torch import nn

from llfc_book import records
from llfc_book.claims import verdicts
from llfc_book.claims.claims import CLAIMS
from llfc_book.claims.errata.listing import Evidence
from llfc_book.study.settings import RECIPES
from llfc_lib.models import build
from llfc_lib.streams import numpy_generator

ROUNDING = 1e-10  # float64: what lies below is no difference
DRAWS = 20  # of random layers, where one is not enough
LLFC, GRB, OLTH = (
    "zzp1012/LLFC 2575007",
    "samuela/git-re-basin ef40098",
    "facebookresearch/open_lth 2ce732f",
)


def draw(*name: object, shape: tuple[int, ...]) -> ndarray:
    """Normal numbers, the same on every processor."""
    return numpy_generator("errata", *name).standard_normal(shape)


def off(left: ndarray, right: ndarray) -> float:
    """The largest difference, relative to the largest entry."""
    return float(np.abs(left - right).max() / max(np.abs(left).max(), np.abs(right).max()))


def told(gap: float) -> str:
    """A relative difference in words."""
    return "0 to rounding" if gap < ROUNDING else f"{gap:.3g}"


def same(*pairs: tuple[ndarray, ndarray], what: str = "both sides differ by") -> Evidence:
    """Evidence that both sides of every pair agree to rounding."""
    gap = max(off(np.asarray(left, float), np.asarray(right, float)) for left, right in pairs)
    return Evidence(gap < ROUNDING, f"{what} {told(gap)}")


def against(printed: dict, code: dict, ours: dict | None = None) -> Evidence:
    """Values of the appendix beside those of a program; corrected if the library's recipe for that
    program has the latter.
    """
    words = "; ".join(
        f"{name} {printed[name]} against {code[name]}"
        for name in code
        if printed[name] != code[name]
    )
    return Evidence(printed == code, words, None if ours is None else ours == code)


def fields(recipe: str, *names: str) -> dict:
    """Some settings of a recipe by name."""
    return {name: getattr(RECIPES[recipe], name) for name in names}


def verdict(claim_id: str) -> verdicts.Verdict:
    """The ledger's verdict on one claim, from its committed record."""
    claim = next(claim for claim in CLAIMS if claim.id == claim_id)
    return verdicts.judge_claim(claim, verdicts._best(claim.experiment))


def relu(x: ndarray) -> ndarray:
    """The ReLU, entry by entry."""
    return np.maximum(x, 0.0)


@lru_cache(maxsize=8)
def permutations(n: int) -> tuple[ndarray, ...]:
    """All permutation matrices, the identity first."""
    return tuple(np.eye(n)[list(order)] for order in itertools.permutations(range(n)))


def dist(x: ndarray, y: ndarray) -> float:
    """|x - y|^2 / (|x| |y|), the book's distance."""
    return float(((x - y) ** 2).sum() / (np.linalg.norm(x) * np.linalg.norm(y)))


#: The captions of the appendix: what is drawn, for which networks on which data, and how the pairs
#: came together.
MNIST, CIFAR = "MLP, MNIST", "MLP, CIFAR-10"
CAPTIONS: dict[int, tuple[str, set[tuple[str, str]]]] = {
    8: ("LLFC", {(MNIST, "spawning")}),
    9: ("LLFC", {("VGG-16, CIFAR-10", "spawning")}),
    10: ("LLFC", {("ResNet-20, CIFAR-10", "spawning")}),
    11: ("LLFC", {("ResNet-50, Tiny-ImageNet", "spawning")}),
    12: ("LLFC", {(MNIST, "activation"), (MNIST, "weight")}),
    13: ("LLFC", {(CIFAR, "activation"), (CIFAR, "weight")}),
    14: ("LLFC", {(MNIST, "STE"), (CIFAR, "STE")}),
    15: ("LLFC", {("ResNet-20 (32x), CIFAR-10", "weight")}),
    16: ("Dist", {("VGG-16, CIFAR-10", "spawning")}),
    17: ("Dist", {(MNIST, "activation")}),
    18: ("Dist", {(CIFAR, "activation"), (CIFAR, "weight")}),
    19: ("Dist", {("", "spawning"), ("", "permutation")}),
    20: ("singular values", {("", "weight")}),
    21: ("singular values", {(CIFAR, "activation")}),
    22: ("stable rank", {("ResNet-20 (32x), CIFAR-10", "")}),
}


def captioned(*figures: int) -> set[tuple[str, str]]:
    """The (network, method) pairs that the captions of these figures name."""
    return set().union(*(CAPTIONS[number][1] for number in figures))


def affine(w: ndarray, b: ndarray, h: ndarray) -> ndarray:
    """W H + b, an image a column."""
    return w @ h + b[:, None]


def exact_pair() -> tuple[ndarray, dict[str, list[tuple[ndarray, ndarray]]]]:
    """Inputs and two perceptrons 3-4-5-2 that satisfy both conditions of Theorem 1 exactly without
    being alike.

    Where their features differ their next weights agree, so the product of differences is 0 at
    every layer; differing units have positive pre-activations in both, and the sign of the others
    is shared.
    """
    positive = {
        name: 0.1 + np.abs(draw("exact pair", name, shape=shape))
        for name, shape in {
            "x": (3, 7),
            "w1": (4, 3),
            "d1": (2, 3),
            "w2": (5, 4),
            "d2": (2, 2),
            "b": (2, 5),
        }.items()
    }
    w1, w2, w3 = positive["w1"], positive["w2"], draw("exact pair", "w3", shape=(2, 5))
    w1[2], w1[3, 0] = -w1[2], -w1[3, 0]  # a unit that is silent and one that may be either
    w2[2:4, :2], w2[4] = 0.0, -w2[4]  # two units that do not see the difference, one that is silent
    v1, v2, v3 = w1.copy(), w2.copy(), w3.copy()
    v1[:2], v2[:2, 2:], v3[:, 2:] = (
        positive["d1"],
        positive["d2"],
        draw("exact pair", "d3", shape=(2, 3)),
    )
    low, c = positive["b"]
    biases = {
        "A": [low[:4] * [1, 1, -1, 1], low * [1, 1, 1, 1, -1], low[:2]],
        "B": [np.r_[c[:2], -low[2], low[3]], np.r_[c[:2], low[2:4], -low[4]], c[:2]],
    }
    return positive["x"], {
        "A": list(zip((w1, w2, w3), biases["A"])),
        "B": list(zip((v1, v2, v3), biases["B"])),
    }


def forward(layers: list[tuple[ndarray, ndarray]], x: ndarray) -> list[ndarray]:
    """H^(0) to H^(L); the last layer has no ReLU."""
    features = [x]
    for number, (w, b) in enumerate(layers, 1):
        out = affine(w, b, features[-1])
        features.append(out if number == len(layers) else relu(out))
    return features


def between(
    a: list[tuple[ndarray, ndarray]], b: list[tuple[ndarray, ndarray]], alpha: float
) -> list[tuple[ndarray, ndarray]]:
    """The perceptron alpha A + (1 - alpha) B, layer by layer."""
    return [
        (alpha * w + (1 - alpha) * v, alpha * s + (1 - alpha) * t) for (w, s), (v, t) in zip(a, b)
    ]


def layer(number: int) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """W_A, W_B (3 x 4), H_A, H_B (4 x 6) without structure."""
    return tuple(
        draw("layer", number, k, shape=shape)
        for k, shape in enumerate(((3, 4), (3, 4), (4, 6), (4, 6)))
    )


def x_and_y(layer: tuple[ndarray, ...], p: ndarray, q: ndarray) -> tuple[ndarray, ndarray]:
    """A.3's two differences for P^(l-1) = p and P^(l) = q, or for stacks of them."""
    w_a, w_b, h_a, h_b = layer
    return w_a @ h_a - w_a @ p @ h_b, q @ w_b @ p.swapaxes(-1, -2) @ h_a - q @ w_b @ h_b


def alike(far: float, *name: object, units: int = 200) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """W_A, W_B, H_A, H_B (units x units) without structure, at 1 - cos of ``far``: the same sum,
    and differences that know nothing of each other.
    """
    size = (
        far / (2 - far)
    ) ** 0.5  # |difference| / |sum| of two vectors of equal norm at that cosine
    pairs = (
        tuple(draw(*name, which, k, shape=(units, units)) for k in (0, 1)) for which in ("W", "H")
    )
    return tuple(both + sign * size * apart for both, apart in pairs for sign in (1, -1))


def relative(left: ndarray, whole: ndarray) -> float:
    """|left|^2 / |whole|^2."""
    return float((left**2).sum() / (whole**2).sum())


@lru_cache(maxsize=1)
def networks() -> dict[str, nn.Module]:
    """Networks with the layers that are printed; VGG-16 is narrow, since its layers are only
    counted.
    """
    return {
        name: build(
            name,
            (1, 28, 28) if name == "mlp" else (3, 32, 32),
            10,
            **({"width": 8} if name == "vgg16" else {}),
        )
        for name in ("mlp", "vgg16", "resnet20")
    }


@lru_cache(maxsize=1)
def swept() -> pd.DataFrame:
    """MNIST MLPs of several widths, matched after several epochs: their stable rank over n, and
    what matching left.
    """
    return verdicts.width_table(records.best("widths").frame())


def ranks() -> pd.DataFrame:
    """Stable rank over n: a row a width, a column an epoch."""
    table = swept()
    return table[table["kind"] == ""].groupby(["width", "epoch"])["rank"].mean().unstack()


def error(logits: ndarray, labels: ndarray) -> ndarray:
    """Which images are classified wrongly; logits are classes x images."""
    return logits.argmax(0) != labels
