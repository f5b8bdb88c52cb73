"""What B.4 says."""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.findings import Found, finding
from llfc_book.show import b4
from llfc_book.show.prose import between, count, percent

PAGE = "B4_stitching"


def _spawned(model: str) -> tuple[ev.Measured, pd.Series]:
    """The setting of one table, and the printed excess."""
    m = next(m for m in b4.spawned() if m.setting.model == model)
    return m, b4.printed(m.setting.name)


def _layers(settings: list[ev.Measured]) -> pd.DataFrame:
    """By setting and pair, the excess of every layer."""
    return pd.concat({m.setting.name: b4.profile(b4.excess(m)) for m in settings})


@finding(
    PAGE, "at its worst layer a spawned pair loses less than a tenth of an independent one's loss"
)
def worst_spawned() -> Found:
    apart = np.array([b4.excess(m, "control", "independent").min() for m in b4.spawned()])
    found = np.array([b4.profile(b4.excess(m)).mean().max() for m in b4.spawned()])
    return between(found, " points"), (found < 0.1 * apart).all()


@finding(PAGE, "in every spawned network most cuts cost at most 2 points; not all do")
def within_spawned() -> Found:
    found = [b4.within(b4.excess(m)) for m in b4.spawned()]
    return percent(found), 0.5 < min(found) < 1


@finding(PAGE, "most printed layers are within 2 points of A and B, but a minority of Table 3")
def printed_within() -> Found:
    near = {name: b4.printed(name) <= b4.MARK for name in b4.PRINTED}
    every, third = pd.concat(near), near["resnet20_cifar10_spawn"]
    told = {"printed_within": count(every), "printed_third": count(third)}
    return told, 0.5 < every.mean() < 1 and third.mean() < 0.5


@finding(PAGE, "stitched with a network of another start, most images are taken for another class")
def independent() -> Found:
    found = ev.together(m.of("stitched_error", "control", "independent") for m in b4.spawned())
    return percent(found), found.min() > 0.5


@finding(PAGE, "perceptrons: costliest at the first layer in most pairs, as in Table 1")
def costliest_mlp() -> Found:
    m, paper = _spawned("mlp")
    same = b4.profile(b4.excess(m)).idxmax(axis=1) == paper.idxmax()
    return paper.idxmax(), same.mean() > 0.5


@finding(PAGE, "ResNet-20: cheapest after the last block in every pair and way, as in Table 3")
def cheapest_resnet() -> Found:
    m, paper = _spawned("resnet20")
    lines = b4.excess(m).unstack("site")[paper.index]
    return paper.idxmin(), (lines.idxmin(axis=1) == paper.idxmin()).all()


@finding(PAGE, "VGG-16: before normalisation the peak is where Table 2 has it, after the ReLU not")
def peak_vgg() -> Found:
    m, paper = _spawned("vgg16")
    readings = (b4.profile(b4.excess(m, reading=reading)) for reading in (b4.RAW, ""))
    before, after = (layers.mean().idxmax() for layers in readings)
    return paper.idxmax(), before == paper.idxmax() != after


@finding(PAGE, "matched perceptrons exceed 2 points everywhere on CIFAR-10, on MNIST at FC 1 only")
def matched() -> Found:
    mnist, cifar10 = (
        _layers([m for m in b4.matched("mlp") if m.setting.data == data])
        for data in ("mnist", "cifar10")
    )
    means = mnist.groupby(level=0).mean()
    first, rest = means["FC 1"], means.drop(columns="FC 1")
    told = {"matched_cifar": cifar10.groupby(level=0).mean().stack(), "matched_mnist": first}
    stands = first.min() > b4.MARK > rest.max(axis=None) and cifar10.min(axis=None) > b4.MARK
    return {name: between(values, " points") for name, values in told.items()}, stands


@finding(PAGE, "pairs that are not connected exceed 2 points at every layer")
def unconnected() -> Found:
    fast = ev.measured("stitched_error", lambda s: s.name == "mlp_mnist_spawn_lr1.2e-3")
    settings = [*fast, *b4.matched("resnet20_ln")]
    lines = (ev.best("error_barrier", m.setting.name) for m in settings)
    barriers = ev.together(100 * m.of("error_barrier") for m in lines if m)
    found = _layers(settings).stack()
    return between(found, " points"), min(barriers.min(), found.min()) > b4.MARK


@finding(PAGE, "the layer that is farthest apart is the costliest in a minority of pairs")
def farthest() -> Found:
    pairs = [one for m in b4.convolutional() for _, one in b4.cost(m).groupby(level="pair")]
    same = [one["distance"].idxmax() == one["points"].idxmax() for one in pairs]
    return count(same), np.mean(same) < 0.5


@finding(PAGE, "in most maps the products are within a tenth, and pass on more than a shuffled one")
def transfer() -> Found:
    near, more = [], []
    for m in b4.transferred():
        maps = b4.passed_on(m)
        more.append((maps["shuffled"].groupby(level="site").mean() > 1).mean())
        if ev.spawned(m.setting):
            near.append(ev.by_pair((maps["dist"] <= ev.CLOSE).astype(float)).mean())
    return {"transfer_near": percent(near), "transfer_more": percent(more)}, min(near + more) > 0.5
