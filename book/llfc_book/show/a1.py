"""A.1: the bound of Lemma 1 on trained pairs, and what a margin certifies where LLFC holds only
about.
"""

from functools import cache

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.evidence import CONNECTED, Measured
from llfc_book.show import style
from llfc_book.show.style import LOOKS, Series, Shown

KINDS = {"pair": ("value", ""), **{k: ("control", k) for k in ("unmatched", "independent")}}
TALLY = ("not_certified_scaled", "not_certified")  # with the best c of each image, and with c = 1


def printed() -> list[Measured]:
    """The settings of the appendix on real data that have the margins."""
    return ev.measured("twice_epsilon", ev.printed)


@cache
def curves() -> pd.DataFrame:
    """A line a pair or control, variants among them, in percent: the larger error of its ends
    ("epsilon"), the largest on the line between them ("top") and what that is above the ends' mean
    ("barrier"). "kept" says whether the bound of the lemma is, "connected" whether the barrier is
    at most 2 points.
    """
    tables = []
    for m in ev.measured("disagreement", lambda s: s.family in ("spawned", "matched")):
        for kind, who in KINDS.items():
            errors = 100 * m.of("error", *who)
            ends = errors[errors.index.get_level_values("alpha").isin((0.0, 1.0))]
            top, worse = ev.by_pair(errors, "max"), ev.by_pair(ends, "max")
            barrier = top - ev.ends(errors)
            one = pd.DataFrame({"epsilon": worse, "top": top, "barrier": barrier})
            tables.append(one.reset_index().assign(setting=m.setting.name, kind=kind))
    found = pd.concat(tables, ignore_index=True)
    found["kept"] = found["top"] <= 2 * found["epsilon"]
    found["connected"] = found["barrier"] <= 100 * CONNECTED
    twice = found.duplicated(["kind", "epsilon", "top"]) & (found["kind"] != "pair")
    return found[~twice]  # three methods that match the same two share a control


def certified(
    m: Measured, who: tuple[str, str] = KINDS["pair"], tally: str = TALLY[0]
) -> pd.Series:
    """By pair, the share of the images that A and B both get right of which the margin says that
    the network half-way gets them right too.
    """
    wrong = ev.by_pair(m.of("error_either", *who))
    missed = ev.by_pair(ev.half_way(m.of(tally, *who)))
    return (1 - missed) / (1 - wrong)


def bound() -> Shown:
    """The largest error on the line against the larger error of its ends, and the share of
    images that the margin certifies half-way (Lemma 1).
    """
    figure, (left, right) = style.sheet(2, 1, 3.9)
    ends, told = np.geomspace(1, 60, 100), []
    left.plot(ends, 2 * ends, "k-", linewidth=0.9, label="2ε, the bound of the lemma")
    left.plot(ends, ends + 100 * CONNECTED, "k:", linewidth=0.9, label="2 points above ε")
    left.fill_between(ends, ends, 2 * ends, color="black", alpha=0.07, linewidth=0)
    for kind in reversed(KINDS):
        found, look = curves()[curves()["kind"] == kind], LOOKS[kind]
        how = {"color": look.colour, "markersize": 4, "alpha": 0.8, "label": look.label}
        left.plot(found["epsilon"], found["top"], look.marker, **how)
        told.append(f"{look.label}: bound kept by {found['kept'].sum()} of {len(found)}")
    left.set(xlim=(1, 60), ylim=(1, 110), ylabel="largest error on the line (%)")
    left.set_xlabel("ε, the larger error of the two ends (%)")
    style.log_x(left, (1, 2, 5, 10, 20, 50))
    style.log_axis(left)
    style.title(left, "the bound: kept where shaded")
    series = [
        Series(kind, [100 * certified(m, KINDS[kind]).to_numpy() for m in printed()])
        for kind in ("independent", "pair")
    ]
    names = [f"{m.name} ({m.scale})" for m in printed()]
    head, label = "the margin argument, half-way", "certified images (%)"
    told.append(style.panel(right, names, series, head, label, apart=0, across=True))
    return style.shown(figure, "Error between trained pairs, and images certified", told)
