"""What A.1 says."""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.appendix import lemma
from llfc_book.findings import Found, finding
from llfc_book.show import a1
from llfc_book.show.prose import between, count, percent

PAGE = "A1_lemma"


def _pairs() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairs that are connected, and those that are not."""
    found = a1.curves()[a1.curves()["kind"] == "pair"]
    return found[found["connected"]], found[~found["connected"]]


@finding(PAGE, "connected pairs keep the bound, of others some: their epsilon is above MNIST's")
def kept() -> Found:
    connected, apart = _pairs()
    some, mnist = apart[apart["kept"]], connected["setting"].str.startswith("mlp_mnist")
    larger = some["epsilon"].min() > connected["epsilon"][mnist].max()
    told = {"kept_connected": count(connected["kept"]), "kept_apart": count(apart["kept"])}
    controls = a1.curves()[a1.curves()["kind"] != "pair"]["kept"].mean()
    return told, connected["kept"].all() and larger and len(some) < len(apart) and controls < 0.5


def _certified(start: str, kind: str = "pair", tally: str = a1.TALLY[0]) -> np.ndarray:
    """By pair of every appendix's setting whose name begins so."""
    chosen = [m for m in a1.printed() if m.setting.name.startswith(start)]
    return ev.together(a1.certified(m, a1.KINDS[kind], tally) for m in chosen)


@finding(PAGE, "the margin certifies most images on MNIST, fewer with c = 1, few on CIFAR-10")
def certified() -> Found:
    mnist, apart, cifar = (
        _certified(*how) for how in (("mlp_mnist",), ("mlp_mnist", "independent"), ("mlp_cifar10",))
    )
    best, plain = (_certified("mlp_mnist_perm", "pair", tally) for tally in a1.TALLY)
    found = {"certified_mnist": mnist, "certified_cifar": cifar, "certified_plain": plain}
    stands = mnist.min() > max(0.5, apart.max()) and cifar.max() < 0.5 and (plain < best).all()
    return {name: percent(shares) for name, shares in found.items()}, stands


@finding(PAGE, "half-way, every connected pair errs on fewer images than A or B gets wrong")
def fewer() -> Found:
    either = (ev.by_pair(m.of("error_either")) for m in a1.printed())
    between_ = (ev.by_pair(ev.half_way(m.of("error_between"))) for m in a1.printed())
    shares = pd.concat(between_) / pd.concat(either)
    shares = shares[shares.index.isin(_pairs()[0]["pair"])]
    return percent(shares), shares.max() < 1


@finding(PAGE, "a pair is connected, and at every layer farther from the mean than an endpoint")
def converse() -> Found:
    barrier, rho = lemma.converse()
    return between(rho), abs(barrier) < 1e-9 and rho.min() > 0.5
