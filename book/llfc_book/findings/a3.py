"""What A.3 says. Distances are square roots of R, which is a sum of squares."""

import numpy as np

from llfc_book import evidence as ev
from llfc_book.appendix.assignment import MINIMISED, ROUNDING
from llfc_book.findings import Found, finding
from llfc_book.show import a3
from llfc_book.show.prose import between, count, percent

PAGE = "A3_assignment"
PRINTED, DROPPED, RANDOM = MINIMISED[0], MINIMISED[3], MINIMISED[4]


@finding(PAGE, "every step but O2 holds, and O2 corrected; the least R tells the missing edges")
def checked() -> Found:
    table, cycles = a3.steps().set_index("step"), a3.reduction()
    right = (table[["random", "trained"]] < a3.EXACT).all(axis=1)
    printed, corrected = right[~table["corrected"]], right[table["corrected"]]
    stands = [*printed.index[~printed]] == ["O2"] and corrected.all()
    off = (cycles["excess"] - 2 * cycles["missing"]).abs()
    tells = (np.maximum(off, cycles["spread"]) < a3.EXACT).all()
    return {"steps": count(printed), "graphs": str(len(cycles))}, stands and tells


@finding(PAGE, "in most tiny networks the printed line has another minimiser than R")
def moved() -> Found:
    other = a3.ends()[PRINTED] > 1 + ROUNDING
    return count(other), other.mean() > 0.5


@finding(PAGE, "the printed line is worse than no cross term, and better than a random order")
def printed() -> Found:
    middle = a3.ends().median()
    told = {"printed": between([middle[PRINTED]]), "dropped": between([middle[DROPPED]])}
    return told, middle[DROPPED] < middle[PRINTED] < middle[RANDOM]


def _over(kind: str) -> np.ndarray:
    """By size, how far sqrt(R) is above its minimum, as a share of that, in the mean over runs."""
    return np.array([a3.over_minimum(kind, size).mean() for size in a3.SIZES]) - 1


@finding(PAGE, "trained, matchings end nearer the minimum than half of a random order's way")
def over() -> Found:
    found, random = np.array([_over(kind) for kind in a3.MATCHINGS]), _over("random order")
    told = {"over": percent(found.max()), "chance": percent(random)}
    return told, (found < random / 2).all() and random.min() > found.max()


@finding(PAGE, "few but the smallest networks reach the minimum, the largest most rarely")
def reached() -> Found:
    found = [[a3.of_size("at_minimum", k, n).mean() for k in a3.MATCHINGS] for n in a3.SIZES]
    smallest, *between_, largest = map(np.array, found)
    rarely = max(largest) < np.min(between_) and np.max(between_) < min(0.5, *smallest)
    return {"smallest": percent(smallest), "largest": percent(largest)}, rarely


@finding(PAGE, "matching lowers sqrt(R) more than either factor, each method its own factor most")
def left() -> Found:
    cases = [(m, kind) for m in a3.wide() for kind in a3.MATCHINGS]
    whole, weights, features = (
        ev.together(a3.share(m, what, kind) for m, kind in cases)
        for what in ("residual", "factor_weights", "factor_features")
    )
    own = all(
        a3.share(m, factor, kind).mean() < a3.share(m, factor, other).mean()
        for m in a3.wide()
        for factor, kind, other in (
            ("factor_features", "activation", "weight"),
            ("factor_weights", "weight", "activation"),
        )
    )
    return percent(whole), own and whole.max() < min(weights.min(), features.min())


@finding(PAGE, "in most cases sqrt(R) is more than a tenth above the best found")
def above_best() -> Found:
    best = {m.name: a3.share(m, "residual", "local search") for m in a3.wide()}
    cases = ((m, kind) for m in a3.wide() for kind in a3.MATCHINGS)
    found = ev.together(a3.share(m, "residual", kind) / best[m.name] for m, kind in cases) - 1
    return percent(found), (found > ev.CLOSE).mean() > 0.5
