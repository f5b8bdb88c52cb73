"""The claims of the appendix as data (``book/data/claims.toml``): rows of the ledger, whose columns
are the settings that each is tested on.
"""

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as students_t

from llfc_book.places import DATA

HOLDS, MOST, FAILS = "holds", "holds in most cases", "fails"
UNDECIDED, UNTESTED = "undecided", "not tested"
ANSWERS = (HOLDS, MOST, FAILS, UNDECIDED, UNTESTED)
ORIGINS = ("appendix", "extension", "mechanism", "proved")
LEVEL = 0.95  # of every interval


@dataclass(frozen=True)
class Claim:
    """A sentence of the appendix (``says``), how this book ``reads`` it, and the ``rule`` that
    judges it with what is ``told`` to it. ``closeness`` names what gives its third answer.
    """

    id: str
    short: str
    page: str
    section: str
    says: str
    reads: str
    rule: str
    settings: str | tuple[str, ...]
    of: str = "appendix"
    closeness: str = ""
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Effect:
    """How much: the geometric mean over ``n`` pairs, or the mean where it may be 0, with its
    interval (how would another pair do?); none for two pairs or fewer. ``unit`` in words.
    """

    value: float
    unit: str
    n: int
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Cell:
    """A claim in one setting. ``share`` of its ``cases`` bear it out, ``open`` do not say; every
    pair weighs alike. ``closeness`` is the third answer, in words; empty where there is no
    reference.
    """

    claim: str
    setting: str
    scale: str
    pairs: int
    cases: int
    share: float
    open: float
    effects: tuple[Effect, ...]
    closeness: str = ""
    notes: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """As stated: holds where every case does, in most cases where more than half do, fails
        where more than half do not; undecided otherwise.
        """
        if not self.cases:
            return UNTESTED
        if self.share > 0.5:
            return HOLDS if self.share == 1 else MOST
        return FAILS if 1 - self.share - self.open > 0.5 else UNDECIDED


def effect(
    values: Sequence[float] | np.ndarray | pd.Series, unit: str, geometric: bool = True
) -> Effect:
    """The effect over pairs. ValueError for no values, or one that is not positive where the mean
    is geometric.
    """
    found = np.asarray(values, dtype=float)
    if not len(found) or geometric and not (found > 0).all():
        raise ValueError(f"no geometric mean of {found}" if len(found) else "no values")
    if geometric:
        found = np.log(found)
    n, middle, half = len(found), float(found.mean()), math.nan
    if n > 2:
        half = float(students_t.ppf((1 + LEVEL) / 2, n - 1) * found.std(ddof=1) / math.sqrt(n))
    ends = (middle, middle - half, middle + half)
    value, low, high = (math.exp(x) for x in ends) if geometric else ends
    return Effect(value, unit, n, low, high)


def _claim(entry: dict[str, Any]) -> Claim:
    own = {f.name: entry.pop(f.name) for f in dataclasses.fields(Claim) if f.name in entry}
    settings = own["settings"]
    own["settings"] = settings if isinstance(settings, str) else tuple(settings)
    return Claim(**own, told=entry)


CLAIMS = tuple(map(_claim, tomllib.loads((DATA / "claims.toml").read_text())["claim"]))
