"""What B.4 says."""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.claims import stitching
from llfc_book.findings import Found, finding
from llfc_book.show import b4
from llfc_book.show.prose import between, count, number, percent

PAGE = "B4_stitching"


def _layers(settings: list[ev.Measured]) -> pd.DataFrame:
    """By setting and pair, the excess of every layer."""
    return pd.concat({m.setting.name: b4.profile(b4.excess(m)) for m in settings})


@finding(PAGE, "most cuts of spawned pairs cost up to 2 points, all under a tenth of other starts'")
def spawned() -> Found:
    apart = np.array([b4.excess(m, "control", "independent").min() for m in b4.spawned()])
    worst = np.array([b4.profile(b4.excess(m)).mean().max() for m in b4.spawned()])
    within = [b4.within(b4.excess(m)) for m in b4.spawned()]
    told = {"worst_spawned": between(worst, " points"), "within_spawned": percent(within)}
    return told, (worst < 0.1 * apart).all() and 0.5 < min(within) < 1


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


@finding(PAGE, "layers cost most (MLP), least (ResNet-20) where printed; most (VGG-16) only if raw")
def as_printed() -> Found:
    papers = [b4.printed(m.setting.name) for m in b4.spawned()]
    first, peak, last = papers[0].idxmax(), papers[1].idxmax(), papers[2].idxmin()
    mlp, vgg, resnet = (b4.excess(m) for m in b4.spawned())
    costliest = b4.profile(mlp).idxmax(axis=1) == first
    cheapest = resnet.unstack("site")[papers[2].index].idxmin(axis=1) == last  # of each direction
    raw = b4.excess(b4.spawned()[1], reading=b4.RAW)
    peaks = [b4.profile(reading).mean().idxmax() == peak for reading in (raw, vgg)]
    told = {"costliest_mlp": first, "cheapest_resnet": last, "peak_vgg": peak}
    return told, costliest.mean() > 0.5 and cheapest.all() and peaks == [True, False]


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
    found = _layers([*fast, *b4.matched("resnet20_ln")]).stack()  # whose barriers B.1 tells
    return between(found, " points"), found.min() > b4.MARK


@finding(PAGE, "the layer that is farthest apart is the costliest in a minority of pairs")
def farthest() -> Found:
    pairs = [one for m in b4.convolutional() for _, one in b4.cost(m).groupby(level="pair")]
    same = [one["distance"].idxmax() == one["points"].idxmax() for one in pairs]
    return count(same), np.mean(same) < 0.5


@finding(PAGE, "spawned, most maps' values are near, yet they pass on more than of a shuffled one")
def transfer_more() -> Found:
    found = [b4.passed_on(m)["shuffled"].groupby(level="site").mean() for m in b4.transferred()]
    shares = [(one > 1).mean() for one in found]
    spawned = [m.of("dist_transfer") for m in b4.transferred() if ev.spawned(m.setting)]
    near = min((dist <= ev.CLOSE).mean() for dist in spawned)
    return percent(shares), min(near, *shares) > 0.5


@finding(PAGE, "a stitched pair of perceptrons errs as much as a network and a tuned partner do")
def beside_tuned() -> Found:
    word, found = stitching.beside_tuned("mlp_mnist_spawn") or ("", None)
    if found is None:
        return "not measured", False
    limits = f"[{number(found.low)}, {number(found.high)}]"
    told = f"{number(found.value)} {limits} points, {found.n} pairs,"
    return told, word == "as much as tuned partners"
