"""What B.1 says."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.claims import rules
from llfc_book.evidence import Measured
from llfc_book.findings import Found, finding
from llfc_book.show import b1
from llfc_book.show.prose import count, percent, points
from llfc_book.study.settings import Setting

PAGE = "B1_settings"
LARGE = 0.05  # "share removed" is told of barriers above 5 points alone
HE = 16  # channels of the usual ResNet-20's first layer
RECOMPUTED = ("value", "", "recomputed")


def _pairs(settings: list[Measured], *reading: str) -> pd.DataFrame:
    """Every pair of some settings (:func:`rules.connectivity`)."""
    lines = (ev.at("error", m.setting.name, m.setting.profile) for m in settings)
    return pd.concat(rules.connectivity(m, *reading) for m in lines if m)


def _of(where: Callable[[Setting], bool], *reading: str) -> pd.DataFrame:
    return _pairs([m for m in b1.measured() if where(m.setting)], *reading)


def _perceptrons(data: str, *reading: str) -> pd.DataFrame:
    return _of(lambda s: ev.matched(s) and (s.model, s.data) == ("mlp", data), *reading)


def _all(found: pd.DataFrame, connected: bool) -> bool:
    return bool((found["connected"] == connected).all())


@finding(PAGE, "every spawned pair is linearly connected, no two networks of other starts are")
def spawned() -> Found:
    pairs, apart = _of(ev.spawned), _of(ev.spawned, "control", "independent")
    told = {"spawned": points(pairs["barrier"].max()), "apart": points(apart["barrier"])}
    return told, _all(pairs, True) and _all(apart, False)


@finding(PAGE, "matched perceptrons are connected on MNIST; on CIFAR-10 most are not, none surely")
def matched() -> Found:
    mnist, cifar10 = _perceptrons("mnist"), _perceptrons("cifar10")["connected"]
    apart = cifar10.eq(False)
    told = {"matched_mnist": points(mnist["barrier"].max()), "matched_cifar10": count(apart)}
    return told, _all(mnist, True) and apart.mean() > 0.5 and not cifar10.eq(True).any()


@finding(PAGE, "matching removes most of every barrier between perceptrons on CIFAR-10")
def removed() -> Found:
    after, before = _perceptrons("cifar10"), _perceptrons("cifar10", "control", "unmatched")
    gone = 1 - after["barrier"] / before["barrier"]
    return percent(gone), before["lower"].min() > LARGE and gone.min() > 0.5


@finding(PAGE, "as a share of the ends' error, the barrier is smaller on CIFAR-10 than on MNIST")
def of_the_ends() -> Found:
    found = (_perceptrons(data) for data in ("cifar10", "mnist"))
    cifar10, mnist = ((of["barrier"] / of["ends"]).mean() for of in found)
    return f"{percent(cifar10)} on CIFAR-10 and {percent(mnist)} on MNIST", cifar10 < mnist


@finding(PAGE, "matched VGG-16 is not connected, even with statistics recomputed, which help")
def vgg() -> Found:
    plain, again = (
        _of(lambda s: s.name == "vgg16_cifar10_spawn_weight", *how) for how in ((), RECOMPUTED)
    )
    told = {"vgg": points(plain["barrier"]), "vgg_recomputed": points(again["barrier"])}
    lower = again["barrier"].max() < plain["barrier"].min()
    return told, _all(plain, False) and _all(again, False) and lower


@finding(PAGE, "the layer-norm ResNet-20 narrower than the usual one are not connected by matching")
def narrow() -> Found:
    found = _of(lambda s: s.model == "resnet20_ln" and dict(s.model_args)["width"] < HE)
    return points(found["barrier"]), _all(found, False)


@finding(PAGE, "at ten times the rate no spawned pair of perceptrons is connected")
def higher_rate() -> Found:
    found = _of(lambda s: s.name == "mlp_mnist_spawn_lr1.2e-3")
    return points(found["barrier"]), _all(found, False)


@finding(PAGE, "children are connected if they part after epoch 1, and the later the nearer")
def later() -> Found:
    found, late = b1.spawning(), [m for epoch, m in b1.spawning().items() if epoch > 1]
    early = [_pairs([found[epoch]]) for epoch in (0, 1)]
    told = {f"epoch_{k}": points(of["barrier"]) for k, of in enumerate(early)}
    told["later"] = points(_pairs(late)["barrier"].max())
    nearer = np.diff([m.of("weight_distance").mean() for m in found.values()]) < 0
    linked = _all(_pairs(late), True) and _all(_pairs(late, *RECOMPUTED), True)
    return told, linked and _all(pd.concat(early), False) and nearer.all()
