"""What A.1 says."""

import numpy as np

from llfc_book import evidence as ev
from llfc_book.appendix import lemma
from llfc_book.findings import finding
from llfc_book.show import a1
from llfc_book.show.prose import between, count, number, percent

PAGE = "A1_lemma"
#: Settings that the text names: not connected, and within the bound or beyond it.
WITHIN = (
    "resnet20_cifar10_spawn_at1",
    "resnet20x0.25_cifar10_perm_weight",
    "resnet20x0.5_cifar10_perm_weight",
)
BEYOND = (
    "mlp_mnist_spawn_lr1.2e-3",
    "resnet20_cifar10_spawn_at0",
    "vgg16_cifar10_spawn_weight",
    "resnet20_cifar10_spawn_weight",
    "resnet20x0.5_cifar10_perm_code_weight",
)


def _pairs():
    found = a1.curves()
    return found[found["kind"] == "pair"]


@finding(PAGE, "every connected pair keeps the bound, all along the line")
def kept_connected() -> tuple[str, bool]:
    chosen = _pairs()[_pairs()["connected"]]
    return count(chosen["kept"]), bool(chosen["kept"].all())


@finding(
    PAGE,
    "of pairs that are not connected some keep the bound, all of them with a larger epsilon than"
    " connected perceptrons on MNIST have",
)
def kept_apart() -> tuple[str, bool]:
    found = _pairs()
    apart, tight = found[~found["connected"]], found["setting"].str.startswith("mlp_mnist")
    kept, connected = apart["epsilon"][apart["kept"]], found["epsilon"][found["connected"] & tight]
    return count(apart["kept"]), 0 < len(kept) < len(apart) and kept.min() > connected.max()


@finding(
    PAGE,
    "the settings named as within the bound are: all of their pairs, none connected; and"
    " so are all matched perceptrons on CIFAR-10, some of them not connected",
)
def within() -> tuple[str, bool]:
    found = _pairs()
    chosen = found[found["setting"].isin(WITHIN)]
    cifar = found[found["setting"].str.startswith("mlp_cifar10_perm")]
    stands = chosen["kept"].all() and not chosen["connected"].any() and cifar["kept"].all()
    return count(~cifar["connected"]), bool(stands and not cifar["connected"].all())


@finding(PAGE, "in the settings named as beyond the bound all pairs are")
def beyond() -> tuple[str, bool]:
    found = _pairs()
    chosen = found[found["setting"].isin(BEYOND)]
    every = set(chosen["setting"]) == set(found.loc[~found["kept"], "setting"])
    times = chosen["top"] / (2 * chosen["epsilon"])
    return between(times, " times"), bool(times.min() > 1 and every)


@finding(
    PAGE,
    "all networks before matching or of another start that keep the bound are"
    " perceptrons on CIFAR-10",
)
def controls() -> tuple[str, bool]:
    found = a1.curves()
    chosen = found[found["kind"] != "pair"]
    kept = chosen[chosen["kept"]]
    return count(chosen["kept"]), bool(kept["setting"].str.startswith("mlp_cifar10").all())


def _certified(start: str, tally: str = a1.TALLY[0], kind: str = "pair") -> np.ndarray:
    """By pair of every appendix's setting whose name begins so."""
    chosen = [m for m in a1.printed() if m.setting.name.startswith(start)]
    return ev.together(a1.certified(m, a1.KINDS[kind], tally) for m in chosen)


@finding(PAGE, "on MNIST the margin certifies most images of every pair, more than of any control")
def certified_mnist() -> tuple[str, bool]:
    found, apart = _certified("mlp_mnist"), _certified("mlp_mnist", kind="independent")
    return percent(found), found.min() > max(0.5, apart.max())


@finding(PAGE, "so it does in the reduced convolutional networks that are spawned")
def certified_spawned() -> tuple[str, bool]:
    found = np.concatenate([_certified("vgg16"), _certified("resnet20_cifar10_spawn")])
    apart = [_certified(n, kind="independent") for n in ("vgg16", "resnet20_cifar10_spawn")]
    return percent(found), found.min() > max(0.5, np.concatenate(apart).max())


@finding(PAGE, "of matched perceptrons on CIFAR-10 it certifies a minority")
def certified_cifar() -> tuple[str, bool]:
    found = _certified("mlp_cifar10")
    return percent(found), found.max() < 0.5


@finding(PAGE, "with c = 1 it certifies fewer images of every pair of matched perceptrons on MNIST")
def certified_plain() -> tuple[str, bool]:
    plain, best = (_certified("mlp_mnist_perm", tally) for tally in reversed(a1.TALLY))
    return percent(plain), bool((plain < best).all())


@finding(PAGE, "half-way, every connected pair errs on fewer images than A or B gets wrong")
def fewer() -> tuple[str, bool]:
    connected = _pairs()[_pairs()["connected"]]
    names, found = set(connected["setting"]), []
    for m in a1.printed():
        if m.setting.name in names:
            wrong = ev.by_pair(ev.half_way(m.of("error_between")))
            share = wrong / ev.by_pair(m.of("error_either"))
            found.append(share[share.index.isin(connected["pair"])])
    shares = ev.together(found)
    return percent(shares), shares.max() < 1


@finding(PAGE, "one function, rescaled, has exact LLFC with c below 1, as the formula says")
def factor() -> tuple[str, bool]:
    measured, foretold, off = lemma.dropped_factor()
    stands = abs(measured - foretold) < 1e-9 and off < 1e-9 and measured < 1
    return number(measured), stands


@finding(PAGE, "the best c at the logits of matched perceptrons is above 1, by more than a tenth")
def factor_trained() -> tuple[str, bool]:
    found = ev.measured("c", lambda s: ev.matched(s) and s.model == "mlp")
    c = ev.together(ev.by_pair(ev.logits(ev.half_way(m.of("c")))) for m in found)
    return between(c), c.min() > 1.1


@finding(PAGE, "a pair is connected, and at every layer farther from the mean than an endpoint")
def converse() -> tuple[str, bool]:
    barrier, rho = lemma.converse()
    return between(rho), abs(barrier) < 1e-9 and rho.min() > 0.5
