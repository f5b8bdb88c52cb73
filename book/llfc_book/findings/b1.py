"""What B.1 says."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.evidence import Measured
from llfc_book.findings import finding
from llfc_book.show import b1
from llfc_book.show.prose import count, number, percent, points
from llfc_book.study.settings import Setting

PAGE = "B1_settings"
LARGE = 0.05  # "share removed" is told of barriers above 5 points alone
HE = 16  # channels of the usual ResNet-20's first layer


def _of(where: Callable[[Setting], bool]) -> list[Measured]:
    return [m for m in b1.measured() if where(m.setting)]


def _named(name: str) -> list[Measured]:
    return _of(lambda s: s.name == name)


def _perceptrons(data: str) -> list[Measured]:
    return _of(lambda s: ev.matched(s) and s.model == "mlp" and s.data == data)


def _all(settings: list[Measured], *reading: str) -> pd.DataFrame:
    """The barriers of every pair of some settings."""
    return pd.concat([b1.barriers(m, *reading) for m in settings], ignore_index=True)


def _every(verdict: str, settings: list[Measured], *reading: str) -> tuple[str, bool]:
    """The range of all barriers, and whether this is the verdict on each."""
    found = _all(settings, *reading)
    return points(found["barrier"]), bool((b1.verdicts(found) == verdict).all())


def _connected(settings: list[Measured], *reading: str) -> tuple[str, bool]:
    """The largest barrier, and whether every pair is connected."""
    _, connected = _every("connected", settings, *reading)
    return points(_all(settings, *reading)["barrier"].max()), connected


@finding(PAGE, "every spawned pair of the appendix's settings is linearly connected")
def spawned() -> tuple[str, bool]:
    return _connected(_of(ev.spawned))


@finding(PAGE, "no two networks of different starts are connected")
def apart() -> tuple[str, bool]:
    return _every("not", _of(ev.spawned), "control", "independent")


@finding(PAGE, "every matched pair of perceptrons on MNIST is linearly connected")
def matched_mnist() -> tuple[str, bool]:
    return _connected(_perceptrons("mnist"))


@finding(PAGE, "most matched pairs of perceptrons on CIFAR-10 are not connected, none surely is")
def matched_cifar10() -> tuple[str, bool]:
    found = b1.verdicts(_all(_perceptrons("cifar10")))
    apart = found == "not"
    return count(apart), bool(apart.mean() > 0.5 and not (found == "connected").any())


@finding(PAGE, "matching removes most of every barrier between perceptrons on CIFAR-10")
def removed() -> tuple[str, bool]:
    before = _all(_perceptrons("cifar10"), "control", "unmatched")
    gone = 1 - _all(_perceptrons("cifar10"))["barrier"] / before["barrier"]
    return percent(gone), bool(before["lower"].min() > LARGE and gone.min() > 0.5)


@finding(PAGE, "as a share of the ends' error, the barrier is smaller on CIFAR-10 than on MNIST")
def of_the_ends() -> tuple[str, bool]:
    mnist, cifar10 = (
        np.concatenate([b1.barriers(m)["barrier"] / b1.ends(m) for m in found])
        for found in ([_with_errors(m) for m in _perceptrons(d)] for d in ("mnist", "cifar10"))
    )
    both = f"{percent(cifar10.mean())} on CIFAR-10 and {percent(mnist.mean())} on MNIST"
    return both, bool(cifar10.mean() < mnist.mean())


def _with_errors(m: Measured) -> Measured:
    found = ev.at("error", m.setting.name, m.setting.profile)
    assert found is not None
    return found


@finding(PAGE, "matched VGG-16 is not connected, as the appendix says")
def vgg() -> tuple[str, bool]:
    return _every("not", _named("vgg16_cifar10_spawn_weight"))


@finding(PAGE, "nor is it with statistics recomputed, though they lower its barrier")
def vgg_recomputed() -> tuple[str, bool]:
    settings = _named("vgg16_cifar10_spawn_weight")
    text, not_connected = _every("not", settings, "value", "", "recomputed")
    again = _all(settings, "value", "", "recomputed")["barrier"]
    return text, not_connected and bool(again.max() < _all(settings)["barrier"].min())


@finding(PAGE, "the layer-norm ResNet-20 narrower than the usual one are not connected by matching")
def narrow() -> tuple[str, bool]:
    found = _of(lambda s: s.model == "resnet20_ln" and dict(s.model_args)["width"] < HE)
    return _every("not", found)


@finding(PAGE, "at ten times the rate no spawned pair of perceptrons is connected")
def higher_rate() -> tuple[str, bool]:
    return _every("not", _named("mlp_mnist_spawn_lr1.2e-3"))


@finding(PAGE, "children of the initialisation are not connected")
def epoch_0() -> tuple[str, bool]:
    return _every("not", [b1.spawning()[0]])


@finding(PAGE, "children of epoch 1 are not connected")
def epoch_1() -> tuple[str, bool]:
    return _every("not", [b1.spawning()[1]])


@finding(PAGE, "children of all later epochs are connected, with either kind of statistics")
def later() -> tuple[str, bool]:
    late = [m for epoch, m in b1.spawning().items() if epoch > 1]
    largest, connected = _connected(late)
    return largest, connected and _connected(late, "value", "", "recomputed")[1]


@finding(PAGE, "the later the children part, the nearer they end")
def distance() -> tuple[str, bool]:
    found = {epoch: m.of("weight_distance").mean() for epoch, m in b1.spawning().items()}
    nearer = np.all(np.diff([*found.values()]) < 0)
    return f"{number(found[0])} at epoch 0, {number(found[2])} at epoch 2", bool(nearer)
