"""What A.2 says."""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.appendix import construct
from llfc_book.evidence import Measured
from llfc_book.findings import finding
from llfc_book.show import a2
from llfc_book.show.prose import between, count, number, percent

PAGE = "A2_theorem"
ROUNDING = 1e-9  # of float64, well above it
SINGLE = float(np.finfo(np.float32).eps) ** 0.5  # half the digits of single precision
AS_EXPECTED = 1.25  # the margin on a ratio of distances
HIDDEN = ["FC 1", "FC 2", "FC 3"]
MNIST = ["MNIST, spawned", "MNIST, matched"]


@finding(PAGE, "the conclusion holds to rounding with all conditions and fails without any of them")
def missed() -> tuple[str, bool]:
    found = construct.constructed()
    kept = found["dropped"] == ""
    without = found["missed"][~kept]
    return percent(without), bool((found["missed"][kept] < ROUNDING).all() and without.min() > 1e-3)


@finding(PAGE, "with normalisation both conditions can hold exactly and the conclusion fail")
def not_covered() -> tuple[str, bool]:
    found = construct.normalised()
    (plain, off), *others = (found[kind] for kind in found)
    stands = plain and off < ROUNDING and all(exact and by > 1e-3 for exact, by in others)
    return percent([by for _, by in others]), stands


@finding(PAGE, "the parts add up to the residual, to single precision")
def identity() -> tuple[str, bool]:
    settings = [*a2.settings(), *a2.settings(variants=True)]
    largest = max(m.of("identity_error").max() for m in settings)
    return between([largest], digits=1), largest < SINGLE


def _shares(settings: list[Measured], what: str, logits: bool, **how: str) -> np.ndarray:
    return ev.together(a2.shares(m, what, logits, **how) for m in settings)


def _perceptrons() -> list[Measured]:
    return [m for m in a2.settings() if m.setting.model == "mlp"]


def _layer_norm() -> list[Measured]:
    return [m for m in a2.settings() if m.setting.model == "resnet20_ln"]


def _batch_norm() -> list[Measured]:
    return [m for m in a2.settings() if m.setting.model in ("vgg16", "resnet20")]


@finding(PAGE, "in the hidden layers of every perceptron of B.1 ReLUs account for more than half")
def relu_hidden() -> tuple[str, bool]:
    found = _shares(_perceptrons(), "relu", logits=False)
    return percent(found), found.min() > 0.5


@finding(PAGE, "at their logits failure to commute accounts for more than half")
def commute_logits() -> tuple[str, bool]:
    found = _shares(_perceptrons(), "commutativity", logits=True)
    return percent(found), found.min() > 0.5


@finding(PAGE, "at the logits failure to commute is the largest source in most pairs of B.1")
def commute_most() -> tuple[str, bool]:
    found = np.array([_shares(a2.settings(), what, logits=True) for what in a2.SOURCES])
    first = found.argmax(0) == a2.SOURCES.index("commutativity")
    return count(first), first.mean() > 0.5


@finding(
    PAGE, "normalisation is the largest source at the logits of layer-norm networks, on average"
)
def normalised_layer() -> tuple[str, bool]:
    found = {what: _shares(_layer_norm(), what, logits=True) for what in a2.SOURCES}
    own = found["normalisation"]
    return percent(own), own.mean() > max(found["commutativity"].mean(), found["relu"].mean())


@finding(PAGE, "in spawned VGG-16 and ResNet-20 batch normalisation adds less than maps and ReLUs")
def normalised_batch() -> tuple[str, bool]:
    texts, stands = [], True
    for how in ("interpolated", "recomputed"):
        own, *others = (
            _shares(_batch_norm(), what, logits=False, statistics=how)
            for what in ("normalisation", "commutativity", "relu")
        )
        texts.append(percent(own))
        stands &= bool((own < np.minimum(*others)).all())
    return "{} ({} with statistics recomputed)".format(*texts), stands


@finding(PAGE, "the later children of ResNet-20 part, the smaller the share of maps at the logits")
def parted() -> tuple[str, bool]:
    def of(*epochs: int) -> np.ndarray:
        names = [f"resnet20_cifar10_spawn_at{epoch}" for epoch in epochs]
        chosen = [m for m in a2.settings(variants=True) if m.setting.name in names]
        return _shares(chosen, "commutativity", logits=True)

    early, middle, late = of(0, 1), of(2, 3), of(5, 10)
    text = f"{percent(early)} after epoch 0 or 1 to {percent(late)} after epoch 5 or 10"
    return text, early.min() > middle.max() and middle.min() > late.max()


@finding(PAGE, "at the logits most of the residual is carried from below, in every pair of B.1")
def carried() -> tuple[str, bool]:
    found = ev.together(
        ev.by_pair(ev.logits(ev.half_way(m.of("share_carried")))) for m in a2.settings()
    )
    return percent(found), found.min() > 0.5


def _differing(kind: str) -> np.ndarray:
    who = ("null" if kind else "value", kind)
    return ev.together(ev.by_pair(m.of("flipped", *who)) for m in _perceptrons())


@finding(
    PAGE,
    "where signs differ lies a larger share of the change of pre-activations than in the"
    " Gaussian partner of the same pair, in perceptrons of B.1",
)
def differing() -> tuple[str, bool]:
    own, partner = _differing(""), _differing("gaussian matched")
    text = f"{percent(own)} (Gaussian partners {percent(partner)})"
    return text, len(own) == len(partner) and bool((own > partner).all())


def _over(heads: list[str], sites: list[str], kind: str = "", column: str = "whole") -> pd.Series:
    found = pd.concat([a2.group(head) for head in heads])
    found = found[(found["kind"] == kind) & found["site"].isin(sites)]
    return found.set_index(["setting", "pair", "site"])[column]


def _as_expected(found: pd.Series) -> bool:
    """Whether the mean over pairs is within the margin of 1, in every setting and layer."""
    means = np.log(found).groupby(level=["setting", "site"]).mean()
    return bool((means.abs() < np.log(AS_EXPECTED)).all())


@finding(
    PAGE, "for Gaussian partners on MNIST the formula is right within a tenth, in hidden layers"
)
def calibrated() -> tuple[str, bool]:
    found = _over(MNIST, HIDDEN, "gaussian matched")
    return between(found), bool(((found - 1).abs() < 0.1).all())


@finding(PAGE, "on CIFAR-10 it is not, in the second layer")
def not_calibrated() -> tuple[str, bool]:
    found = _over(["CIFAR-10, matched"], ["FC 2"], "gaussian matched")
    return between(found), bool(((found - 1).abs() > 0.1).all())


@finding(PAGE, "in the first two layers trained pairs on MNIST are as linear as expected")
def first_two() -> tuple[str, bool]:
    found = _over(MNIST, HIDDEN[:2])
    return between(found), _as_expected(found)


@finding(PAGE, "in the third they are less linear, and as expected after the factor c")
def third() -> tuple[str, bool]:
    found, scaled = (_over(MNIST, HIDDEN[2:], column=c) for c in ("whole", "scaled"))
    return between(found), found.min() > AS_EXPECTED and _as_expected(scaled)


@finding(PAGE, "before the factor no hidden layer is more linear than expected beyond the margin")
def smallest() -> tuple[str, bool]:
    least = _over([*a2.COLUMNS], HIDDEN).min()
    return number(least), least > 1 / AS_EXPECTED


@finding(PAGE, "at the logits of all perceptrons the residual is larger than expected")
def at_logits() -> tuple[str, bool]:
    found = _over([*a2.COLUMNS], ["logits"])
    return between(found), found.min() > AS_EXPECTED


@finding(
    PAGE, "on CIFAR-10 pairs are less linear than their Gaussian partners above the first layer"
)
def beside_partners() -> tuple[str, bool]:
    own, partner = (
        _over(["CIFAR-10, matched"], HIDDEN[1:], kind).groupby(level=["setting", "site"]).mean()
        for kind in ("", "gaussian matched")
    )
    return between(own / partner, " times"), bool((own / partner > AS_EXPECTED).all())
