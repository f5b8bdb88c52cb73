"""What B.3 says."""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.claims.rules import MARGIN
from llfc_book.evidence import Measured
from llfc_book.findings import finding
from llfc_book.show import b3
from llfc_book.show.prose import between, count, number, percent

PAGE = "B3_commutativity"


def _spawned() -> list[Measured]:
    return [m for m in b3.settings() if ev.spawned(m.setting)]


def _matched() -> list[Measured]:
    return [m for m in b3.settings() if ev.matched(m.setting) and m.setting.model == "mlp"]


def _narrow() -> list[Measured]:
    return [m for m in b3.settings() if m.setting.model == "resnet20_ln"]


def _within(found: list[Measured], kind: str = "") -> list[pd.Series]:
    """By setting, whether a case's Dist_com (or its formula) is at most a tenth of the smaller."""
    return [b3.share(m, kind) <= b3.MARK for m in found]


@finding(PAGE, "as stated, in every spawned setting most cases are within a tenth")
def within_spawned() -> tuple[str, bool]:
    shares = np.array([held.mean() for held in _within(_spawned())])
    return percent(shares), bool((shares > 0.5).all())


@finding(PAGE, "in every matched perceptron's setting few are")
def within_matched() -> tuple[str, bool]:
    held = _within(_matched())
    return count(ev.together(held)), all(one.mean() < 0.5 for one in held)


@finding(PAGE, "the formula alone is within a tenth in part of the cases of spawned pairs")
def formula_spawned() -> tuple[str, bool]:
    shares = np.array([held.mean() for held in _within(_spawned(), "formula")])
    return percent(shares), bool((shares > 0).all() and (shares < 1).all())


@finding(PAGE, "spawned pairs and matched perceptrons lie below the formula in most cases")
def below_formula() -> tuple[str, bool]:
    ratios = [b3.share(m) / b3.share(m, "formula") for m in (*_spawned(), *_matched())]
    below = [(ratio < 1).mean() > 0.5 for ratio in ratios]
    return between(np.exp(np.log(ratio).mean()) for ratio in ratios), all(below)


@finding(PAGE, "narrow layer-norm networks are hardly ever within a tenth")
def within_narrow() -> tuple[str, bool]:
    held = _within(_narrow())
    return count(ev.together(held)), all(one.mean() < 0.5 for one in held)


def _apart(m: Measured, kind: str) -> np.ndarray:
    """Whether a case's Dist_com is at most a tenth of that of the not connected pair."""
    return (m.of("dist_com") <= b3.MARK * m.of("dist_com", "control", kind)).to_numpy()


def _spawned_resnet() -> Measured:
    found = ev.best("dist_H", b3.SPAWNED_RESNET)
    assert found is not None, "the shipped records hold it"
    return found


@finding(PAGE, "Figure 19, spawning: Dist_com is at most a tenth of independent networks'")
def apart_spawned() -> tuple[str, bool]:
    found = _apart(_spawned_resnet(), "independent")
    return count(found), bool(found.mean() > 0.5)


@finding(
    PAGE, "in matched perceptrons at most a tenth of what it is before matching, in most cases"
)
def apart_matched() -> tuple[str, bool]:
    found = np.concatenate([_apart(m, "unmatched") for m in _matched()])
    return count(found), bool(found.mean() > 0.5)


@finding(PAGE, "Figure 19, matching: at the widths that there are, the pairs are not connected")
def narrow_barrier() -> tuple[str, bool]:
    barriers, limits = [], []
    for m in _narrow():
        told = ev.at("error_barrier", m.setting.name, m.setting.profile, "connected")
        if told is not None:
            barriers += [*100 * told.of("error_barrier")]
            limits += [*100 * told.of("error_barrier_lower")]
    return between(barriers, " points"), min(limits) > 100 * MARGIN


def _factor(role: str, kind: str, apart: str) -> float:
    """How many times larger Dist_com is in independent ResNet-20 than in spawned ones."""
    m = _spawned_resnet()
    logs = np.log(m.of("dist_com", "control", apart) / m.of("dist_com", role, kind))
    return float(np.exp(logs.mean()))


@finding(PAGE, "independent ResNet-20 have a larger Dist_com than spawned ones")
def gap() -> tuple[str, bool]:
    measured = _factor("value", "", "independent")
    return number(measured), measured > 1


@finding(PAGE, "most of that factor, on a logarithmic scale, the formula has as well")
def gap_formula() -> tuple[str, bool]:
    by_itself = _factor("null", "formula", "independent: formula")
    measured = _factor("value", "", "independent")
    return number(by_itself), bool(np.log(by_itself) > 0.5 * np.log(measured))


@finding(PAGE, "in every setting measured, coherence is at least 1 in most cases")
def coherent() -> tuple[str, bool]:
    held = [m.of("coherence") >= 1 for m in b3.settings("coherence")]
    return count(ev.together(held)), all(one.mean() > 0.5 for one in held)


@finding(PAGE, "energy alignment is above 1 in most cases, each setting weighing alike")
def aligned() -> tuple[str, bool]:
    found = [m.of("energy_alignment") for m in b3.settings("coherence")]
    above = np.mean([(values > 1).mean() for values in found])
    return between(values.mean() for values in found), bool(above > 0.5)


@finding(PAGE, "at the logits, coherence is lower in the pair than in networks of another start")
def coherence_logits() -> tuple[str, bool]:
    roles = (("value", ""), ("control", "independent"))
    own, apart = (
        np.array([b3.last(m.of("coherence", *which)).mean() for m in b3.settings("coherence")])
        for which in roles
    )
    return f"{between(own)} against {between(apart)}", bool((own < apart).all())
