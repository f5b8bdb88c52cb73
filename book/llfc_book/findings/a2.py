"""What A.2 says."""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.appendix import construct
from llfc_book.evidence import ALIKE, Measured
from llfc_book.findings import Found, finding
from llfc_book.show import a2
from llfc_book.show.prose import between, count, percent

PAGE = "A2_theorem"
ROUNDING = 1e-9  # of float64, well above it
HIDDEN = ["FC 1", "FC 2", "FC 3"]
MNIST = ["MNIST, spawned", "MNIST, matched"]


@finding(PAGE, "the conclusion holds with all conditions, fails without any or with normalisation")
def constructed() -> Found:
    found = construct.constructed().set_index("dropped")["missed"]
    without = found.drop("")
    exact, (plain, *off) = zip(*construct.normalised().values())
    holds = all(exact) and max(found[""].max(), plain) < ROUNDING
    told = {"missed": percent(without), "not_covered": percent(off)}
    return told, holds and min(without.min(), *off) > 1e-3


def _of(*models: str) -> list[Measured]:
    return [m for m in a2.settings() if m.setting.model in models]


def _shares(settings: list[Measured], what: str, logits: bool, **how: str) -> np.ndarray:
    return ev.together(a2.shares(m, what, logits, **how) for m in settings)


@finding(PAGE, "perceptrons' residual is mostly ReLUs' in hidden layers, at the logits the maps'")
def perceptrons() -> Found:
    relu = _shares(_of("mlp"), "relu", logits=False)
    maps = _shares(_of("mlp"), "commutativity", logits=True)
    told = {"relu_hidden": percent(relu), "commute_logits": percent(maps)}
    return told, min(relu.min(), maps.min()) > 0.5


@finding(PAGE, "at logits failure to commute is the largest source in most pairs, carried upwards")
def commute_most() -> Found:
    found = np.array([_shares(a2.settings(), what, logits=True) for what in a2.SOURCES])
    first = found.argmax(axis=0) == a2.SOURCES.index("commutativity")
    carried = (ev.logits(ev.half_way(m.of("share_carried"))) for m in a2.settings())
    inside = ev.together(map(ev.by_pair, carried)).min() > 0.5
    return count(first), first.mean() > 0.5 and inside


@finding(PAGE, "layer norm is the largest source at logits, batch norm the least in hidden layers")
def normalised_layer() -> Found:
    layer = {what: _shares(_of("resnet20_ln"), what, logits=True) for what in a2.SOURCES}
    batch, *others = (
        _shares(_of("vgg16", "resnet20"), what, logits=False)
        for what in ("normalisation", "commutativity", "relu")
    )
    largest = max(layer, key=lambda what: layer[what].mean()) == "normalisation"
    return percent(layer["normalisation"]), largest and (batch < np.minimum(*others)).all()


@finding(PAGE, "where signs differ, pre-activations change more than in a Gaussian partner")
def differing() -> Found:
    own, partner = (
        ev.together(ev.by_pair(m.of("flipped", *who)) for m in _of("mlp"))
        for who in (("value", ""), ("null", "gaussian matched"))
    )
    return f"{percent(own)} (Gaussian partners {percent(partner)})", (own > partner).all()


def _over(heads: list[str], sites: list[str], kind: str = "", column: str = "whole") -> pd.Series:
    """Measured over expected residual; ``kind`` "gaussian matched" for the partners."""
    found = pd.concat([a2.group(head) for head in heads])
    found = found[(found["kind"] == kind) & found["site"].isin(sites)]
    return found.set_index(["setting", "site"])[column]


def _by_setting(found: pd.Series) -> pd.Series:
    """The geometric mean over pairs, by setting and layer."""
    return np.exp(np.log(found).groupby(level=["setting", "site"]).mean())


@finding(PAGE, "on MNIST the formula is right for Gaussian partners, and for pairs but in layer 3")
def on_mnist() -> Found:
    partners = _over(MNIST, HIDDEN, "gaussian matched")
    lower, third = _over(MNIST, HIDDEN[:2]), _over(MNIST, HIDDEN[2:])
    scaled = _over(MNIST, HIDDEN[2:], column="scaled")
    found = {"calibrated": partners, "first_two": lower, "third": third}
    as_expected = _by_setting(pd.concat([lower, scaled])).between(1 / ALIKE, ALIKE)
    stands = partners.between(0.9, 1.1).all() and as_expected.all() and third.min() > ALIKE
    return {name: between(values) for name, values in found.items()}, stands


@finding(PAGE, "perceptrons' logits are less linear than expected, no hidden layer is more linear")
def at_logits() -> Found:
    found, inside = (_over([*a2.COLUMNS], sites) for sites in (["logits"], HIDDEN))
    return between(found), found.min() > ALIKE and inside.min() > 1 / ALIKE


@finding(PAGE, "on CIFAR-10 the formula is too high, and pairs are less linear than its partners")
def beside_partners() -> Found:
    own, partner = (
        _over(["CIFAR-10, matched"], HIDDEN[1:], kind).groupby(["setting", "site"]).mean()
        for kind in ("", "gaussian matched")
    )
    too_high = partner.xs("FC 2", level="site").max() < 0.9
    return between(own / partner, " times"), (own / partner > ALIKE).all() and too_high
