"""What B.3 says."""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.evidence import Measured
from llfc_book.findings import Found, finding
from llfc_book.show import b3
from llfc_book.show.prose import between, count, number, percent

PAGE = "B3_commutativity"


def _spawned() -> list[Measured]:
    return [m for m in b3.settings() if ev.spawned(m.setting)]


def _matched(model: str = "mlp") -> list[Measured]:
    return [m for m in b3.settings() if ev.matched(m.setting) and m.setting.model == model]


def _within(found: list[Measured]) -> list[pd.Series]:
    """By setting, whether a case's Dist_com is at most a tenth of the smaller distance."""
    return [b3.share(m) <= ev.CLOSE for m in found]


@finding(PAGE, "most cases of spawned pairs are within a tenth, few of matched, none of narrow")
def within() -> Found:
    spawned, matched, narrow = map(_within, (_spawned(), _matched(), _matched("resnet20_ln")))
    shares = np.array([held.mean() for held in spawned])
    stands = shares.min() > 0.5 > max(held.mean() for held in matched)
    told = {"within_spawned": percent(shares), "within_matched": count(ev.together(matched))}
    return told, stands and not ev.together(narrow).any()


@finding(PAGE, "spawned pairs and matched perceptrons lie below the formula in most cases")
def below_formula() -> Found:
    ratios = [b3.share(m) / b3.share(m, "formula") for m in (*_spawned(), *_matched())]
    below = min((ratio < 1).mean() for ratio in ratios)
    return between(np.exp(np.log(ratio).mean()) for ratio in ratios), below > 0.5


def _com(role: str = "value", kind: str = "") -> pd.Series:
    """Dist_com of spawned ResNet-20, or of what it is held against."""
    found = ev.best("dist_H", b3.SPAWNED_RESNET)
    assert found is not None, "the shipped records hold it"
    return found.of("dist_com", role, kind)


@finding(PAGE, "Figure 19, spawning: Dist_com is at most a tenth of independent networks'")
def apart_spawned() -> Found:
    held = _com() <= ev.CLOSE * _com("control", "independent")
    return count(held), held.mean() > 0.5


@finding(PAGE, "independent ResNet-20 have a larger Dist_com; most of the factor is the formula's")
def gap() -> Found:
    measured = np.log(_com("control", "independent") / _com()).mean()
    by_itself = np.log(_com("control", "independent: formula") / _com("null", "formula")).mean()
    told = {"gap": number(np.exp(measured)), "gap_formula": number(np.exp(by_itself))}
    return told, measured > 0 and by_itself > measured / 2


@finding(PAGE, "coherence is mostly at least 1, more at logits of other starts; so is alignment")
def coherent() -> Found:
    settings = b3.settings("coherence")
    held = [m.of("coherence") >= 1 for m in settings]
    alignment = [m.of("energy_alignment").mean() for m in settings]
    own, apart = (
        np.array([b3.last(m.of("coherence", *who)).mean() for m in settings])
        for who in (("value", ""), ("control", "independent"))
    )
    told = {"coherent": count(ev.together(held)), "aligned": between(alignment)}
    mostly = min(one.mean() for one in held) > 0.5 and min(alignment) > 1
    return told, mostly and (own < apart).all()
