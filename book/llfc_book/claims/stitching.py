"""The third answer of B.4: does a stitched pair err as much as a network stitched to a partner that
is as near, equally good, and not of one start with it?

Written before the run, but for one thing: partners that training did not bring to the pair's loss
are left out.
"""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.claims.claim import Effect, effect
from llfc_book.evidence import Measured

AS_MUCH = 0.5  # points of error: a quarter of what connectivity is judged by
KEYS = ["pair", "site", "alpha"]


def beside_tuned(name: str) -> tuple[str, Effect] | None:
    """In a word what the pair's mean excess over layers is beside that of tuned partners at its
    feature distance, and their difference in points, over pairs. None where it was not measured at
    the scale of the partners, or no pair has partners on both sides of its distance.
    """
    partners = ev.best("reached", name, "stitched_tuned")
    if partners is None or partners.scale == "proxy":
        return None
    profile = partners.setting.profile
    own = ev.at("stitched_excess", name, profile, "connected")
    pair = ev.at("rho", name, profile, "closeness")
    if own is None or pair is None:
        return None
    distance, excess = (
        m.of(quantity).groupby(level=["pair", "site"]).mean()
        for m, quantity in ((pair, "distance"), (own, "stitched_excess"))
    )
    difference = (excess - at_distance(good(partners), distance)).groupby(level="pair").mean()
    if difference.dropna().empty:
        return None
    found = effect(100 * difference.dropna(), "points beside tuned partners", geometric=False)
    return said(found), found


def said(found: Effect) -> str:
    """An effect in points, in words; undecided where its interval holds the margin."""
    low, high = (found.low, found.high) if np.isfinite(found.low) else (found.value,) * 2
    if high < -AS_MUCH or low > AS_MUCH:
        return f"{'less' if high < 0 else 'more'} than tuned partners"
    within = low >= -AS_MUCH and high <= AS_MUCH
    return "as much as tuned partners" if within else "undecided"


def good(partners: Measured) -> pd.DataFrame:
    """Of those that reached the pair's training loss, by pair, site and size: "distance" and
    "excess".
    """
    table = {
        "distance": partners.of("distance", "null", "T").groupby(level=KEYS).mean(),
        "excess": partners.of("stitched_excess", "null", "T").groupby(level=KEYS).mean(),
    }
    reached = partners.of("reached", "null", "T").groupby(level=["pair", "alpha"]).mean()
    found = pd.DataFrame(table).dropna()
    return found[reached.reindex(found.droplevel("site").index).to_numpy() == 1]


def at_distance(partners: pd.DataFrame, distance: pd.Series) -> pd.Series:
    """The partners' excess by pair and site, read between their sizes at the pair's ``distance``;
    NaN where that lies outside.
    """
    found = {}
    for place, its in partners.groupby(level=["pair", "site"]):
        near = its.groupby("distance")["excess"].mean()  # in order of distance
        target = distance.get(place, np.nan)
        found[place] = np.interp(target, near.index, near, left=np.nan, right=np.nan)
    index = pd.MultiIndex.from_tuples(found, names=["pair", "site"])
    return pd.Series([*found.values()], index, dtype=float)
