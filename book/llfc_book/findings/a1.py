"""What A.1 says."""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.findings import Found, finding
from llfc_book.show import a1
from llfc_book.show.prose import between, count, percent

PAGE = "A1_lemma"
#: Settings that the text names as beyond the bound.
BEYOND = {
    "mlp_mnist_spawn_lr1.2e-3",
    "resnet20_cifar10_spawn_at0",
    "vgg16_cifar10_spawn_weight",
    "resnet20_cifar10_spawn_weight",
    "resnet20x0.5_cifar10_perm_code_weight",
}


def _pairs() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairs that are connected, and those that are not."""
    found = a1.curves()[a1.curves()["kind"] == "pair"]
    return found[found["connected"]], found[~found["connected"]]


@finding(
    PAGE, "connected pairs keep the bound; of others some, with a larger epsilon than on MNIST"
)
def kept() -> Found:
    connected, apart = _pairs()
    some, mnist = apart[apart["kept"]], connected["setting"].str.startswith("mlp_mnist")
    larger = some["epsilon"].min() > connected["epsilon"][mnist].max()
    told = {"kept_connected": count(connected["kept"]), "kept_apart": count(apart["kept"])}
    return told, connected["kept"].all() and larger and len(some) < len(apart)


@finding(PAGE, "the bound breaks for all pairs of the settings that are named, and for no others")
def beyond() -> Found:
    apart = _pairs()[1]
    broken = apart["setting"].isin(BEYOND)
    times = (apart["top"] / (2 * apart["epsilon"]))[broken]
    return between(times, " times"), (apart["kept"] != broken).all()


@finding(PAGE, "networks of other starts or before matching keep it only on CIFAR-10")
def controls() -> Found:
    chosen = a1.curves()[a1.curves()["kind"] != "pair"]
    of = chosen["setting"][chosen["kept"]]
    return count(chosen["kept"]), of.str.startswith("mlp_cifar10").all()


def _certified(start: str, tally: str = a1.TALLY[0], kind: str = "pair") -> np.ndarray:
    """By pair of every appendix's setting whose name begins so."""
    chosen = [m for m in a1.printed() if m.setting.name.startswith(start)]
    return ev.together(a1.certified(m, a1.KINDS[kind], tally) for m in chosen)


@finding(PAGE, "the margin certifies most images of pairs on MNIST, more than of controls")
def certified_mnist() -> Found:
    found, apart = _certified("mlp_mnist"), _certified("mlp_mnist", kind="independent")
    return percent(found), found.min() > max(0.5, apart.max())


@finding(PAGE, "of matched perceptrons on CIFAR-10 it certifies a minority")
def certified_cifar() -> Found:
    found = _certified("mlp_cifar10")
    return percent(found), found.max() < 0.5


@finding(PAGE, "with c = 1 it certifies fewer images of every pair of matched perceptrons on MNIST")
def certified_plain() -> Found:
    best, plain = (_certified("mlp_mnist_perm", tally) for tally in a1.TALLY)
    return percent(plain), (plain < best).all()


@finding(PAGE, "half-way, every connected pair errs on fewer images than A or B gets wrong")
def fewer() -> Found:
    either = (ev.by_pair(m.of("error_either")) for m in a1.printed())
    between_ = (ev.by_pair(ev.half_way(m.of("error_between"))) for m in a1.printed())
    shares = pd.concat(between_) / pd.concat(either)
    shares = shares[shares.index.isin(_pairs()[0]["pair"])]
    return percent(shares), shares.max() < 1


@finding(PAGE, "the best c at the logits of matched perceptrons is above 1, by more than a tenth")
def factor_trained() -> Found:
    found = ev.measured("c", ev.matched, model="mlp")
    c = ev.together(ev.by_pair(ev.logits(ev.half_way(m.of("c")))) for m in found)
    return between(c), c.min() > 1.1


@finding(PAGE, "a pair is connected, and at every layer farther from the mean than an endpoint")
def converse() -> Found:
    barrier, rho = a1.converse()
    return between(rho), abs(barrier) < 1e-9 and rho.min() > 0.5
