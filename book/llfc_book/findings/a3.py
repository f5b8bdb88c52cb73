"""What A.3 says. Distances are square roots of R, which is a sum of squares."""

import numpy as np

from llfc_book import evidence as ev
from llfc_book.appendix.assignment import MINIMISED, ROUNDING
from llfc_book.findings import Found, finding
from llfc_book.show import a3
from llfc_book.show.prose import between, count, percent

PAGE = "A3_assignment"
PRINTED, DROPPED, RANDOM = MINIMISED[0], MINIMISED[3], MINIMISED[4]


@finding(PAGE, "every step but O2 holds as printed, and O2 does when corrected")
def steps() -> Found:
    table = a3.steps()
    right = (table[["random", "trained"]] < a3.EXACT).all(axis=1)
    wrong = set(table["step"][~right & ~table["corrected"]])
    return count(right[~table["corrected"]]), wrong == {"O2"} and right[table["corrected"]].all()


@finding(PAGE, "in most tiny networks the printed line has another minimiser than R")
def moved() -> Found:
    other = a3.ends()[PRINTED] > 1 + ROUNDING
    return count(other), other.mean() > 0.5


@finding(PAGE, "the printed line is worse than no cross term, and better than a random order")
def printed() -> Found:
    middle = a3.ends().median()
    told = {"printed": between([middle[PRINTED]]), "dropped": between([middle[DROPPED]])}
    return told, middle[DROPPED] < middle[PRINTED] < middle[RANDOM]


@finding(PAGE, "the layers are coupled, but in the median by less than a tenth of the variance")
def coupled() -> Found:
    found = a3.coupled()
    return percent(np.median(found)), found.min() > a3.EXACT and np.median(found) < ev.CLOSE


@finding(PAGE, "the least R tells for every graph how many edges its best cycle lacks")
def graphs() -> Found:
    table = a3.reduction()
    right = (table["excess"] - 2 * table["missing"]).abs() < a3.EXACT
    return str(len(table)), right.all() and (table["spread"] < a3.EXACT).all()


def _over(kind: str, state: str = "trained") -> np.ndarray:
    """By size, in the mean over runs."""
    return np.array([a3.over_minimum(kind, size, state).mean() for size in a3.SIZES])


@finding(PAGE, "trained networks end nearer the minimum than half of a random order's way")
def over() -> Found:
    found = np.array([_over(kind) for kind in a3.MATCHINGS]) - 1
    random = _over("random order") - 1
    told = {"over": percent(found.max()), "chance": percent(random)}
    return told, (found < random / 2).all() and random.min() > found.max()


def _way(state: str) -> np.ndarray:
    """How far from the minimum towards a random order's sqrt(R) each matching ends, by size."""
    chance = _over("random order", state) - 1
    return np.array([(_over(kind, state) - 1) / chance for kind in a3.MATCHINGS])


@finding(PAGE, "at every size, each matching is nearer to the minimum in trained networks")
def way() -> Found:
    found = _way("trained")
    return percent(found), (found < _way("untrained")).all()


@finding(
    PAGE, "a minority of all but the smallest networks reach the minimum, the largest most rarely"
)
def reached() -> Found:
    found = [[a3.of_size("at_minimum", k, n).mean() for k in a3.MATCHINGS] for n in a3.SIZES]
    smallest, *between_, largest = map(np.array, found)
    rarely = max(largest) < np.min(between_) and np.max(between_) < min(0.5, *smallest)
    return {"smallest": percent(smallest), "largest": percent(largest)}, rarely


@finding(PAGE, "matching lowers sqrt(R) more than its factors, and most the factor that it aims at")
def left() -> Found:
    whole, least, parts = [], [], []
    for m in a3.wide():
        whole += [a3.share(m, "residual", kind) for kind in a3.MATCHINGS]
        for factor, own, other in (("features", *a3.MATCHINGS), ("weights", *a3.MATCHINGS[::-1])):
            aimed, *others = (
                a3.share(m, f"factor_{factor}", kind) for kind in (own, other, "local search")
            )
            parts += [aimed, others[0]]
            least.append((aimed < np.min(others, axis=0)).all())
    return percent(ev.together(whole)), np.max(whole) < np.min(parts) and all(least)


@finding(PAGE, "in most cases sqrt(R) is more than a tenth above the best found")
def above_best() -> Found:
    best = {m.name: a3.share(m, "residual", "local search") for m in a3.wide()}
    cases = ((m, kind) for m in a3.wide() for kind in a3.MATCHINGS)
    found = ev.together(a3.share(m, "residual", kind) / best[m.name] for m, kind in cases) - 1
    return percent(found), (found > ev.CLOSE).mean() > 0.5
