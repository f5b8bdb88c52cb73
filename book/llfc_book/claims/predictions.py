"""What four readings of LLFC expect of the curves of rho against feature distance, and what the
measured curves say.

Written before the curves of the full-scale pairs were measured
(:mod:`llfc_book.study.measures.decisive`). Two kinds of partner are compared at equal distance: the
second's curve is read, by interpolation of both logarithms, at the distances of the first's points.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as students_t
from scipy.stats import ttest_1samp

from llfc_book.evidence import ALIKE, CLOSE, CONNECTED

LEVEL = 0.95
LEAST_PAIRS = 3  # fewer have no interval


@dataclass(frozen=True)
class Cell:
    """The ratio rho(first) / rho(second) at one site and size of the first kind's step: geometric
    mean over ``n`` pairs with its interval (how would another pair do?).
    """

    first: str
    second: str
    site: str
    size: float
    distance: float
    ratio: float
    low: float
    high: float
    n: int

    def alike(self) -> bool | None:
        """Whether the ratio lies within the margin; None where the interval does not say."""
        if self.low >= 1 / ALIKE and self.high <= ALIKE:
            return True
        return False if self.high < 1 / ALIKE or self.low > ALIKE else None

    def below(self) -> bool | None:
        """Whether the first kind is more linear by more than the margin; None where the interval
        does not say.
        """
        if self.high < 1 / ALIKE:
            return True
        return False if self.low > 1 / ALIKE else None


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a pair, kind, end, site and size, with its ``distance`` and ``rho``."""
    wanted = rows[rows["quantity"].isin(("rho", "distance")) & rows["kind"].ne("")]
    keys = ["pair", "kind", "direction", "site", "alpha"]
    wide = wanted.pivot(index=keys, columns="quantity", values="mean").reset_index()
    return wide.rename(columns={"alpha": "size"})


def compared(points: pd.DataFrame, first: str, second: str, least: int = LEAST_PAIRS) -> list[Cell]:
    """A cell for every site and size at which at least ``least`` pairs have both kinds at equal
    distance; both ends of a pair weigh alike, and every pair as one.
    """
    ratios: dict[tuple[str, float], dict[str, list[tuple[float, float]]]] = {}
    for (pair, direction, site), own in points[points["kind"] == first].groupby(
        ["pair", "direction", "site"], sort=False
    ):
        other = points[
            (points["kind"] == second)
            & (points["pair"] == pair)
            & (points["direction"] == direction)
            & (points["site"] == site)
        ].sort_values("distance")
        if len(other) < 2:
            continue
        for point in own.itertuples():
            reached = float(other["distance"].iloc[0]), float(other["distance"].iloc[-1])
            if reached[0] <= point.distance <= reached[1]:
                log_rho = np.interp(
                    math.log(point.distance), np.log(other["distance"]), np.log(other["rho"])
                )
                told = (math.log(point.rho) - float(log_rho), math.log(point.distance))
                ratios.setdefault((site, point.size), {}).setdefault(pair, []).append(told)
    return [
        _cell(first, second, site, size, by_pair)
        for (site, size), by_pair in ratios.items()
        if len(by_pair) >= least
    ]


def mostly_random(points: pd.DataFrame) -> pd.DataFrame:
    """``points`` without those tuned partners (T) most of whose way is training's: the Gaussian
    step of the same size alone makes less than half of their squared feature distance.
    """
    keys = ["pair", "direction", "site", "size"]
    step = points[points["kind"] == "G"].set_index(keys)["distance"]
    alone = step.reindex(pd.MultiIndex.from_frame(points[keys])).to_numpy()
    return points[points["kind"].ne("T") | (alone**2 >= points["distance"] ** 2 / 2)]


def partners(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a pair, kind, end and size: the partner's ``error`` (a fraction), whether the two
    networks are ``connected`` (half-way, the error exceeds the mean of both by at most 2 points),
    and ``linear`` (half-way, rho squared is at most a tenth in every hidden layer).

    Two answers that need not agree: LMC and LLFC, each without looking at the other.
    """
    keys = ["pair", "kind", "direction", "alpha"]
    rows = rows[rows["kind"].ne("") & rows["pair"].isin(rows["pair"][rows["kind"].eq("B")])]
    wide = rows.pivot_table(index=keys, columns="quantity", values="mean")
    # A errs as the partner of the last step from B does
    ends = wide.xs("B", level="kind")["partner_error"].xs(1.0, level="alpha")
    other = {"from A": "from B", "from B": "from A"}
    own = [ends[pair, other[end]] for pair, _, end, _ in wide.index]
    barrier = wide["middle_error"] - (wide["partner_error"] + own) / 2
    inner = rows[rows["quantity"].eq("rho") & rows["site"].ne("logits")]
    worst = inner.groupby(keys)["mean"].max()
    told = {"connected": barrier <= CONNECTED, "linear": worst.reindex(wide.index) ** 2 <= CLOSE}
    return pd.DataFrame(told | {"error": wide["partner_error"]}).reset_index()


def _cell(
    first: str,
    second: str,
    site: str,
    size: float,
    by_pair: dict[str, list[tuple[float, float]]],
) -> Cell:
    means = np.array([np.mean(told, axis=0) for told in by_pair.values()])
    mean, half = interval(means[:, 0])
    ratio, low, high = (math.exp(x) for x in (mean, mean - half, mean + half))
    return Cell(
        first, second, site, size, math.exp(means[:, 1].mean()), ratio, low, high, len(means)
    )


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean, and half the width of its confidence interval (Student's t); of one value there is
    none (NaN).
    """
    n = len(values)
    if n < 2:
        return float(np.mean(values)), math.nan
    half = students_t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n)
    return float(np.mean(values)), float(half)


@dataclass(frozen=True)
class Verdict:
    """What became of a prediction: by what was compared, how many cells bear it out, contradict it,
    and do not say. Cells of one curve at several sizes depend on each other.
    """

    prediction: "Prediction"
    counts: dict[str, tuple[int, int, int]]

    @property
    def word(self) -> str:
        """holds: every cell bears it out; holds in most cases, fails: more than half do, or
        contradict it; undecided otherwise. Not tested without a cell.
        """
        yes, no, still_open = (sum(c[k] for c in self.counts.values()) for k in range(3))
        every = yes + no + still_open
        if not every:
            return "not tested"
        if yes == every:
            return "holds"
        if yes > every / 2:
            return "holds in most cases"
        return "fails" if no > every / 2 else "undecided"


Compare = Callable[[str, str], list[Cell]]


@dataclass(frozen=True)
class Prediction:
    """What a reading (``name``) of LLFC expects, in words; ``answers`` are what its cells say of
    it, each with what was compared.
    """

    name: str
    text: str
    answers: Callable[[Compare], Iterable[tuple[str, bool | None]]]

    def judged(self, compare: Compare) -> Verdict:
        """Its verdict on the cells that ``compare`` gives for two kinds."""
        said: dict[str, list[bool | None]] = {}
        for what, answer in self.answers(compare):
            said.setdefault(what, []).append(answer)
        return Verdict(
            self, {w: (a.count(True), a.count(False), a.count(None)) for w, a in said.items()}
        )


def _alike(*kinds: str) -> Callable[[Compare], Iterable[tuple[str, bool | None]]]:
    return lambda compare: [(f"as {k}", cell.alike()) for k in kinds for cell in compare("B", k)]


def _spread(compare: Compare) -> Iterable[tuple[str, bool | None]]:
    yield from _alike("T", "G")(compare)
    for kind in ("B", "T", "G"):
        yield from ((f"{kind} below P", cell.below()) for cell in compare(kind, "P"))


#: In the order in which they were written down.
PREDICTIONS = (
    Prediction(
        "closeness only",
        "a trained partner (B), a tuned one (T) and a step of gradient noise (N) are as linear as"
        f" each other, within a factor of {ALIKE}, at every distance",
        _alike("T", "N"),
    ),
    Prediction(
        "training's direction",
        f"a trained partner (B) is more linear than a tuned one (T) by more than {ALIKE}",
        lambda compare: [("below T", cell.below()) for cell in compare("B", "T")],
    ),
    Prediction(
        "spread, not closeness",
        "a trained (B), a tuned (T) and a Gaussian partner (G) are as linear as each other, and all"
        " more linear than a sparse one (P)",
        _spread,
    ),
)


def verdicts(rows: pd.DataFrame) -> list[Verdict]:
    """Of every prediction that curves answer, on the rows of one setting."""
    points = curves(rows)
    return [p.judged(lambda first, second: compared(points, first, second)) for p in PREDICTIONS]


@dataclass(frozen=True)
class Connection:
    """Of log rho on log distance (each site with a line of its own) and on *connected*: the factor
    exp(coefficient) on rho of being connected, with its interval.
    """

    factor: float
    low: float
    high: float
    pairs: int
    connected: int
    overlap: bool

    @property
    def word(self) -> str:
        """The fourth prediction, *connection beyond distance*: the coefficient is negative. Not
        tested with fewer than three pairs on a side, or where no distance is common to both.
        """
        least = min(self.connected, self.pairs - self.connected)
        if least < LEAST_PAIRS or not self.overlap:
            return "not tested"
        return "holds" if self.high < 1 else "fails" if self.low > 1 else "undecided"


def connection(points: pd.DataFrame) -> Connection:
    """The regression on ``points``: a line a pair and site, with ``distance``, ``rho``,
    ``connected`` (bool) and ``networks`` (a tuple of names).

    Its interval is a jackknife that leaves out one network, and so every pair that it is in.
    """
    factor = _coefficient(points)
    networks = sorted({name for names in points["networks"] for name in names})
    left = [
        _coefficient(points[[name not in names for names in points["networks"]]])
        for name in networks
    ]
    left = np.array([value for value in left if math.isfinite(value)])
    g = len(left)
    half = math.inf
    if g > 2:
        half = students_t.ppf((1 + LEVEL) / 2, g - 1) * math.sqrt(
            (g - 1) / g * float(((left - left.mean()) ** 2).sum())
        )
    by_pair = points.groupby("pair")["connected"].first()
    low, high = (math.exp(min(factor + sign * half, 700.0)) for sign in (-1, 1))
    overlap = any(_overlap(its) for _, its in points.groupby("site"))
    return Connection(math.exp(factor), low, high, len(by_pair), int(by_pair.sum()), overlap)


def _overlap(points: pd.DataFrame) -> bool:
    """Whether connected pairs and others have distances in common."""
    ours, theirs = (points["distance"][points["connected"] == linked] for linked in (True, False))
    return len(ours) > 0 and len(theirs) > 0 and theirs.min() <= ours.max()


def _coefficient(points: pd.DataFrame) -> float:
    """NaN where all pairs are connected, or none is."""
    if points["connected"].nunique() < 2:
        return math.nan
    sites = pd.get_dummies(points["site"]).to_numpy(float)
    log_distance = np.log(points["distance"].to_numpy(float))[:, None]
    design = np.hstack([sites, sites * log_distance, points["connected"].to_numpy(float)[:, None]])
    found, *_ = np.linalg.lstsq(design, np.log(points["rho"].to_numpy(float)), rcond=None)
    return float(found[-1])


@dataclass(frozen=True)
class Headline:
    """One of the few comparisons that carry a test: of the ratio rho(first) / rho(second) against
    1, over pairs of the full-scale MNIST perceptron, whole steps, at the logits or in the mean over
    hidden sites.
    """

    first: str
    second: str
    logits: bool


#: Named before their pairs were measured; their p values are Holm's for five.
HEADLINES = (
    Headline("B", "T", logits=True),
    Headline("B", "T", logits=False),
    Headline("B", "G", logits=True),
    Headline("B", "G", logits=False),
    Headline("B", "P", logits=False),
)


def tested(points: pd.DataFrame) -> list[tuple[Headline, float, float, float, float]]:
    """For every headline, the ratio with its interval, and Holm's p value of its being 1."""
    found = []
    for headline in HEADLINES:
        logs = whole_steps(points, headline)
        mean, half = interval(logs)
        p = float(ttest_1samp(logs, 0.0).pvalue)
        found.append((headline, math.exp(mean), math.exp(mean - half), math.exp(mean + half), p))
    adjusted = holm([p for *_, p in found])
    return [(*told[:-1], p) for told, p in zip(found, adjusted, strict=True)]


def whole_steps(points: pd.DataFrame, headline: Headline) -> list[float]:
    """Of every pair, the logarithm of the headline's ratio."""
    by_pair: dict[str, list[float]] = {}
    own = points["kind"].ne(headline.first) | points["size"].eq(1.0)
    for pair, its in points[own].groupby("pair", sort=False):
        cells = compared(its, headline.first, headline.second, least=1)
        logs = [math.log(c.ratio) for c in cells if (c.site == "logits") == headline.logits]
        if logs:
            by_pair[pair] = logs
    return [float(np.mean(logs)) for logs in by_pair.values()]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment: the chance that any of these tests errs stays below its level."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, k in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[k]))
        adjusted[k] = largest
    return adjusted
