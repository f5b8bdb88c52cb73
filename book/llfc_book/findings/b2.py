"""What B.2 says."""

import numpy as np

from llfc_book import evidence as ev
from llfc_book.evidence import Measured
from llfc_book.findings import finding
from llfc_book.show import b2
from llfc_book.show.prose import count, number, percent

PAGE = "B2_llfc"
CLOSE = 0.1  # a tenth: "close to 0", "close to 1"


def _real(where) -> list[Measured]:
    found = ev.measured("cos_ratio", where)
    return [m for m in found if m.scale != "proxy" and m.setting.model != "resnet20_ln"]


def _squares(settings: list[Measured], logits: bool) -> np.ndarray:
    part = ev.logits if logits else ev.hidden
    return ev.together(part(ev.half_way(m.of("cos_ratio"))) for m in settings)


@finding(PAGE, "half-way, most hidden layers of some spawned setting lie within a tenth")
def spawned_hidden() -> tuple[str, bool]:
    shares = {
        m.name.split(",")[0]: (_squares([m], False) <= CLOSE).mean() for m in _real(ev.spawned)
    }
    told = ", ".join(f"{percent(share)} ({name})" for name, share in shares.items())
    return told, max(shares.values()) > 0.5


@finding(PAGE, "at the logits, most pairs of all kinds lie above a tenth")
def at_logits() -> tuple[str, bool]:
    found = _squares(_real(lambda s: ev.spawned(s) or ev.matched(s)), logits=True)
    return count(found > CLOSE), (found > CLOSE).mean() > 0.5


@finding(PAGE, "a spawned pair's hidden features miss the mean by less than half the distance")
def share_hidden() -> tuple[str, bool]:
    found = np.concatenate([ev.typical(ev.hidden(b2.rho(m))) for m in _real(ev.spawned)])
    return percent(found), found.max() < 0.5


@finding(PAGE, "matched perceptrons lie above the spawned one")
def share_matched() -> tuple[str, bool]:
    spawned, matched = (
        np.concatenate([ev.typical(ev.hidden(b2.rho(m))) for m in _real(where)])
        for where in (lambda s: ev.spawned(s) and s.model == "mlp", ev.matched)
    )
    return percent(matched), matched.mean() > spawned.mean()


@finding(PAGE, "in spawned pairs the coefficient is within a tenth of 1 in most cases")
def coefficient_spawned() -> tuple[str, bool]:
    share = _near_one(ev.spawned)
    return percent(share), bool((share > 0.5).all())


@finding(PAGE, "in matched perceptrons it is so in a minority")
def coefficient_matched() -> tuple[str, bool]:
    share = _near_one(ev.matched)
    return percent(share), bool((share < 0.5).all())


def _near_one(where) -> np.ndarray:
    """By setting, the share of cases (pair, layer, alpha) whose coefficient is within a tenth of
    1.
    """
    return np.array([(m.of("1-coef_alpha").abs() <= CLOSE).mean() for m in _real(where)])


@finding(PAGE, "narrow layer-norm networks, matched, are farther from the mean than an endpoint is")
def narrow_logits() -> tuple[str, bool]:
    found = ev.measured("rho", lambda s: s.model == "resnet20_ln" and ev.matched(s), "closeness")
    shares = np.concatenate([b2.per_pair(m, "", logits=True) for m in found if m.scale != "proxy"])
    return f"{number(shares.min())} to {number(shares.max())}", shares.min() > 0.5
