"""The third answer of B.4: does a stitched pair err as much as a network stitched to a partner that
is as near, equally good, and not of one start with it? Written before the run.
"""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.claims.claim import Effect, effect
from llfc_book.evidence import Measured

AS_MUCH = 0.005  # of errors: a quarter of the 2 points that connectivity is judged by


def beside_tuned(name: str) -> tuple[str, Effect] | None:
    """In a word what the pair's mean excess over layers is beside that of tuned partners at its
    feature distance, and their difference in points, over pairs. None where it was not measured.
    """
    pair, partners = ev.best("rho", name, "closeness"), ev.best("reached", name, "stitched_tuned")
    own = ev.best("stitched_excess", name, "connected")
    if pair is None or partners is None or own is None:
        return None
    differences = (_own(own) - _at_distance(partners, pair)).groupby(level="pair").mean().dropna()
    found = effect(100 * differences.to_numpy(), "points beside tuned partners", geometric=False)
    low, high = (found.value,) * 2 if len(differences) < 3 else (found.low, found.high)
    if high < -100 * AS_MUCH:
        return "less than tuned partners", found
    if low > 100 * AS_MUCH:
        return "more than tuned partners", found
    within = low >= -100 * AS_MUCH and high <= 100 * AS_MUCH
    return "as much as tuned partners" if within else "undecided", found


def _own(m: Measured) -> pd.Series:
    """By pair and site, in the mean of both directions."""
    return m.of("stitched_excess").groupby(level=["pair", "site"]).mean()


def _at_distance(partners: Measured, pair: Measured) -> pd.Series:
    """Their excess by pair and site, read between their sizes at the pair's feature distance; where
    that lies outside, NaN.
    """
    keys = ["pair", "site", "alpha"]
    excess, distance = (
        partners.of(quantity, "null", "T").groupby(level=keys).mean()
        for quantity in ("stitched_excess", "distance")
    )
    targets = pair.of("distance").groupby(level=["pair", "site"]).mean()
    found = {}
    for place, its in excess.groupby(level=["pair", "site"]):
        far = distance[place].sort_index()
        values = its.droplevel(["pair", "site"]).sort_index().to_numpy()
        order = np.argsort(far.to_numpy())
        target = targets.get(place, np.nan)
        found[place] = np.interp(
            target, far.to_numpy()[order], values[order], left=np.nan, right=np.nan
        )
    return pd.Series(found).rename_axis(["pair", "site"])
