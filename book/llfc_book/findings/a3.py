"""What A.3 says. Distances are square roots of R, which is a sum of squares."""

import numpy as np

from llfc_book.appendix.assignment import MINIMISED, ROUNDING
from llfc_book.findings import finding
from llfc_book.show import a3
from llfc_book.show.prose import between, count, percent

PAGE = "A3_assignment"
PRINTED, DROPPED, RANDOM = MINIMISED[0], MINIMISED[3], MINIMISED[4]
CLOSE = 0.1  # a tenth: "negligible"


@finding(PAGE, "every step but O2 holds as printed, and O2 does when corrected")
def steps() -> tuple[str, bool]:
    table = a3.steps()
    right = (table[["random", "trained"]] < a3.EXACT).all(axis=1)
    failing = set(table["step"][~right & ~table["corrected"]])
    return count(right[~table["corrected"]]), failing == {"O2"} and right[table["corrected"]].all()


@finding(PAGE, "in most tiny networks the printed line has another minimiser than R")
def moved() -> tuple[str, bool]:
    other = a3.ends()[PRINTED] > 1 + ROUNDING
    return count(other), other.mean() > 0.5


@finding(PAGE, "the printed line is worse than no cross term, and better than a random order")
def printed() -> tuple[str, bool]:
    middle = a3.ends().median()
    return between([middle[PRINTED]]), middle[DROPPED] < middle[PRINTED] < middle[RANDOM]


@finding(PAGE, "without the cross term, too, the least R is mostly missed")
def dropped() -> tuple[str, bool]:
    over = a3.ends()[DROPPED]
    return between([over.median()]), (over > 1 + ROUNDING).mean() > 0.5


@finding(PAGE, "the layers are coupled, but in the median by less than a tenth of the variance")
def coupled() -> tuple[str, bool]:
    found = a3.coupled()
    return percent(np.median(found)), found.min() > a3.EXACT and np.median(found) < CLOSE


@finding(PAGE, "the least R tells for every graph how many edges its best cycle lacks")
def graphs() -> tuple[str, bool]:
    table = a3.reduction()
    right = (table["excess"] - 2 * table["missing"]).abs() < a3.EXACT
    return str(len(table)), right.all() and (table["spread"] < a3.EXACT).all()


def _over(kind: str, state: str = "trained") -> np.ndarray:
    """By size, in the mean over runs."""
    return np.array([a3.over_minimum(kind, size, state).mean() for size in a3.SIZES])


@finding(PAGE, "trained and matched, tiny networks end nearer the minimum than a random order's")
def over() -> tuple[str, bool]:
    found = np.array([_over(kind) for kind in a3.MATCHINGS])
    half = 1 + (_over("random order") - 1) / 2
    return percent(found.max() - 1), bool((found < half).all())


@finding(PAGE, "and a random order ends farther from it than any matching")
def chance() -> tuple[str, bool]:
    found = _over("random order")
    return percent(found - 1), found.min() > max(_over(kind).max() for kind in a3.MATCHINGS)


def _way(state: str) -> np.ndarray:
    """How far from the minimum towards a random order's sqrt(R) each matching ends, by size."""
    chance = _over("random order", state) - 1
    return np.array([(_over(kind, state) - 1) / chance for kind in a3.MATCHINGS])


@finding(PAGE, "at every size, each matching is nearer to the minimum in trained networks")
def way() -> tuple[str, bool]:
    found = _way("trained")
    return percent(found), bool((found < _way("untrained")).all())


def _at_minimum(size: str) -> np.ndarray:
    return np.array([a3.of_size("at_minimum", kind, size).mean() for kind in a3.MATCHINGS])


@finding(PAGE, "the minimum itself is reached by a minority of all but the smallest networks")
def smallest() -> tuple[str, bool]:
    found = _at_minimum(a3.SIZES[0])
    rest = max(_at_minimum(size).max() for size in a3.SIZES[1:])
    return percent(found), rest < 0.5 and rest < found.min()


@finding(PAGE, "and most rarely with two layers of five units")
def largest() -> tuple[str, bool]:
    found = _at_minimum(a3.SIZES[-1])
    rest = min(_at_minimum(size).min() for size in a3.SIZES[:-1])
    return percent(found), found.max() < rest


@finding(PAGE, "matching lowers sqrt(R) more than either of its factors, in every setting")
def left() -> tuple[str, bool]:
    whole, parts = [], []
    for m in a3.wide():
        for kind in a3.MATCHINGS:
            whole.append(a3.share(m, "residual", kind))
            parts += [a3.share(m, f"factor_{of}", kind) for of in ("features", "weights")]
    found = np.concatenate(whole)
    return percent(found), found.max() < np.concatenate(parts).min()


@finding(PAGE, "of each factor, the matching that aims at it leaves the least, in every pair")
def own() -> tuple[str, bool]:
    found = []
    for m in a3.wide():
        for of, kind, other in (
            ("features", "activation", "weight"),
            ("weights", "weight", "activation"),
        ):
            others = [a3.share(m, f"factor_{of}", k) for k in (other, "local search")]
            found += [*(a3.share(m, f"factor_{of}", kind) < np.min(others, axis=0))]
    return count(found), all(found)


@finding(PAGE, "in most cases sqrt(R) is more than a tenth above the best found")
def above_best() -> tuple[str, bool]:
    best = {m.name: a3.share(m, "residual", "local search") for m in a3.wide()}
    ratios = [a3.share(m, "residual", k) / best[m.name] for m in a3.wide() for k in a3.MATCHINGS]
    found = np.concatenate(ratios) - 1
    return percent(found), (found > CLOSE).mean() > 0.5
