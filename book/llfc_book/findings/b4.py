"""What B.4 says."""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.findings import finding
from llfc_book.show import b4
from llfc_book.show.prose import between, count, percent

PAGE = "B4_stitching"


def _spawned(model: str) -> tuple[ev.Measured, pd.Series]:
    """The setting of one table, and the printed excess."""
    m = next(m for m in b4.spawned() if m.setting.model == model)
    return m, b4.printed(m.setting.name)


def _matched(data: str) -> list[ev.Measured]:
    return [m for m in b4.matched("mlp") if m.setting.data == data]


def _layers(settings: list[ev.Measured]) -> pd.DataFrame:
    """By setting and pair, the excess of every layer."""
    return pd.concat({m.setting.name: b4.profile(b4.excess(m)) for m in settings})


@finding(
    PAGE, "at its worst layer a spawned pair loses less than a tenth of an independent one's loss"
)
def worst_spawned() -> tuple[str, bool]:
    apart = np.array([b4.excess(m, "control", "independent").min() for m in b4.spawned()])
    found = np.array([b4.profile(b4.excess(m)).mean().max() for m in b4.spawned()])
    return between(found, " points"), bool((found < 0.1 * apart).all())


@finding(
    PAGE, "in every spawned network most layers and directions cost at most 2 points; not all do"
)
def within_spawned() -> tuple[str, bool]:
    found = [b4.within(b4.excess(m)) for m in b4.spawned()]
    return percent(found), 0.5 < min(found) < 1


@finding(PAGE, "most printed layers are within 2 points of A and B, and not all")
def printed_within() -> tuple[str, bool]:
    near = pd.concat([b4.printed(name) for name in b4.PRINTED]) <= b4.MARK
    return count(near), 0.5 < near.mean() < 1


@finding(PAGE, "of Table 3 a minority is")
def printed_third() -> tuple[str, bool]:
    near = _spawned("resnet20")[1] <= b4.MARK
    return count(near), near.mean() < 0.5


@finding(PAGE, "stitched with a network of another start, most images are taken for another class")
def independent() -> tuple[str, bool]:
    found = ev.together(m.of("stitched_error", "control", "independent") for m in b4.spawned())
    return percent(found), found.min() > 0.5


@finding(PAGE, "perceptrons: costliest at the first layer in most pairs, as in Table 1")
def costliest_mlp() -> tuple[str, bool]:
    m, paper = _spawned("mlp")
    same = b4.profile(b4.excess(m)).idxmax(axis=1) == paper.idxmax()
    return paper.idxmax(), same.mean() > 0.5


@finding(
    PAGE, "ResNet-20: cheapest after the last block, in every pair and direction, as in Table 3"
)
def cheapest_resnet() -> tuple[str, bool]:
    m, paper = _spawned("resnet20")
    lines = b4.excess(m).unstack("site")[paper.index]
    return paper.idxmin(), bool((lines.idxmin(axis=1) == paper.idxmin()).all())


@finding(PAGE, "VGG-16: before normalisation the peak is where Table 2 has it, after the ReLU not")
def peak_vgg() -> tuple[str, bool]:
    m, paper = _spawned("vgg16")
    readings = (b4.profile(b4.excess(m, reading=reading)) for reading in (b4.RAW, ""))
    before, after = (layers.mean().idxmax() for layers in readings)
    return paper.idxmax(), before == paper.idxmax() != after


@finding(PAGE, "matched perceptrons on CIFAR-10 exceed 2 points at every layer of every pair")
def matched_cifar() -> tuple[str, bool]:
    layers = _layers(_matched("cifar10"))
    means = layers.groupby(level=0).mean()
    return between(means.stack(), " points"), layers.min(axis=None) > b4.MARK


@finding(PAGE, "matched perceptrons on MNIST exceed 2 points, on average, at the first layer only")
def matched_mnist() -> tuple[str, bool]:
    means = _layers(_matched("mnist")).groupby(level=0)
    first, rest = means.mean()["FC 1"], means.mean().drop(columns="FC 1")
    return between(first, " points"), first.min() > b4.MARK > rest.max(axis=None)


@finding(PAGE, "pairs that are not connected exceed 2 points at every layer")
def unconnected() -> tuple[str, bool]:
    fast = ev.measured("stitched_error", lambda s: s.name == "mlp_mnist_spawn_lr1.2e-3")
    settings = [*fast, *b4.matched("resnet20_ln")]
    found = [ev.best("error_barrier", m.setting.name) for m in settings]
    barriers = ev.together(100 * m.of("error_barrier") for m in found if m)
    low, high = _layers(settings).stack().agg(["min", "max"])
    return between([low, high], " points"), min(barriers.min(), low) > b4.MARK


@finding(
    PAGE, "the layer whose features are farthest apart is the costliest in a minority of pairs"
)
def farthest() -> tuple[str, bool]:
    pairs = [one for m in b4.convolutional() for _, one in b4.cost(m).groupby(level="pair")]
    same = [one["distance"].idxmax() == one["points"].idxmax() for one in pairs]
    return count(same), np.mean(same) < 0.5


@finding(PAGE, "in most maps of each spawned network the two products are within a tenth")
def transfer_near() -> tuple[str, bool]:
    found = [b4.passed_on(m) for m in b4.transferred() if ev.spawned(m.setting)]
    share = [ev.by_pair((one["dist"] <= 0.1).astype(float)).mean() for one in found]
    return percent(share), min(share) > 0.5


@finding(PAGE, "in most maps the weights pass on more of the difference than of a shuffled one")
def transfer_more() -> tuple[str, bool]:
    found = [b4.passed_on(m)["shuffled"].groupby(level="site").mean() for m in b4.transferred()]
    shares = [(one > 1).mean() for one in found]
    return percent(shares), min(shares) > 0.5
