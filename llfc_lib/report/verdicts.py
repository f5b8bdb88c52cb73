"""Verdicts on the appendix's claims, by rules that were written before the runs.

Two separate questions. *Agreement*: is our number or pattern the paper's? *Evidence*: does it exceed every null, that
is, does it say anything about trained networks that no structure at all, a displacement at random, or an unconnected
pair would not show as well? A claim can agree and carry no evidence.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from llfc_lib.report import records
from llfc_lib.report.claims import CLAIMS, Claim
from llfc_lib.training.recipes import RECIPES, SCALE, recipe

CONNECTED_SE = 2.0  # a barrier within two binomial standard errors of the endpoint error is none
NEGLIGIBLE = 0.1  # "negligible", "close to 0 compared with": at most a tenth
CLOSE_TO_ONE = 0.1  # "close to 1": within a tenth
SUPPORTED = 0.5  # below half of each null: twice as good, not a little better
RESEMBLES = 0.5  # stitched error above the endpoints' mean by at most half of it (the paper's Table 1: 0.47 at FC 1)
INTERVAL_SD = 2.0  # the paper has one pair: its number agrees if it lies within two standard deviations of our pairs

DISPLACED = [f"{kind} {size}" for size in ("t=1", "matched") for kind in ("rotation", "entries", "gaussian")]
MATCHED = [kind for kind in DISPLACED if kind.endswith("matched")]
KEYS = ["pair", "site", "alpha", "direction"]

REPRODUCED, PARTLY, NOT, NOT_HERE = "reproduced", "partly", "not reproduced", "not seen at this scale"
NOT_COMPARABLE = "another data set"
EXCEEDS, EXCEEDS_NOT, NO_NULL = "exceeds every null", "no more than a null", "no null applies"
INCOMPLETE = "nulls incomplete"  # none failed so far, but not all are measured in every pair and site
NOTHING = "–"


@dataclass(frozen=True)
class Verdict:
    """``agreement`` and ``evidence`` with the numbers behind them, as text for a table."""

    claim: Claim
    profile: str
    agreement: str
    evidence: str
    ours: str
    null: str
    pairs: int


def judge(section: str | None = None) -> list[Verdict]:
    """Verdicts on all claims, or those of one section ("B.2"), from the best committed record of each."""
    return [judge_claim(claim, _best(claim.experiment)) for claim in CLAIMS if section in (None, claim.section)]


def _best(experiment: str) -> records.Record:
    # a record of an older recipe must not be judged as if it were of this one
    for profile in reversed(records.PROFILES):
        if records.path_of(experiment, profile).exists():
            hashes = {name: recipe(name, profile).hash for name in SCALE[profile]}
            return records.load(experiment, profile, recipe_hashes=hashes)
    return records.best(experiment)  # raises, saying what to do


def judge_claim(claim: Claim, record: records.Record) -> Verdict:
    """The verdict that ``claim``'s rule gives on a record; a reduced profile never earns "not reproduced"."""
    frame = record.frame()
    own = frame[frame["pair"].str.rsplit("/", n=1).str[0] == claim.recipe]
    agreement, evidence, ours, null = RULES[claim.rule](claim, own, frame)
    if agreement == NOT and record.profile != "paper":
        agreement = NOT_HERE
    if claim.numbers and set(own["data"]) != {RECIPES[claim.recipe].data}:
        agreement = NOT_COMPARABLE  # the paper's figures say nothing about digits
    return Verdict(claim, record.profile, agreement, evidence, ours, null, own["pair"].nunique())


# -- selecting and comparing ------------------------------------------------------------------------------------------

def numbers(frame: pd.DataFrame, quantity: str, role: str = "value", kind: str = "", pre: bool = False) -> pd.Series:
    """Means of ``quantity``, indexed by pair, site, alpha, direction; pre-activations only where asked."""
    chosen = frame[(frame["quantity"] == quantity) & (frame["role"] == role) & (frame["kind"] == kind)
                   & (frame["site"].str.endswith("(pre)") == pre)]
    return chosen.assign(alpha=chosen["alpha"].fillna(-1.0)).set_index(KEYS)["mean"].sort_index()


def measured(frame: pd.DataFrame, quantity: str) -> pd.Series:
    """The pairs' own ``numbers``. RecordError if there is none or one is NaN: nothing at all would keep every rule."""
    found = numbers(frame, quantity)
    if found.empty or found.isna().any():
        raise records.RecordError(f"the record has no number for {quantity!r}{' in some rows' if len(found) else ''}; run "
                                  "`make runs` and `make publish` again")
    return found


def agreement_of(holds: pd.Series) -> str:
    return REPRODUCED if holds.all() else PARTLY if holds.any() else NOT


def evidence_of(value: pd.Series, nulls: Mapping[str, pd.Series], control: pd.Series | None = None) -> tuple[str, str]:
    """Whether |value| is below half of every null and below the control, everywhere; and which nulls hold it up.

    A null without any number in the record is passed over; without any null, none applies. One that lacks some pairs
    or sites cannot fail there, but neither can it be exceeded.
    """
    counts: dict[str, list[int]] = {}  # how many fail, of how many
    absent = []
    for kind, null in nulls.items():
        both = pd.concat([value.abs(), null.abs()], axis=1, keys=["value", "null"]).dropna()
        if 0 < len(both) < len(value):
            absent.append(kind)
        group = counts.setdefault("displaced partners" if kind in DISPLACED else kind, [0, 0])
        group[0] += int((both["value"] >= SUPPORTED * both["null"]).sum())
        group[1] += len(both)
    seen = sum(of for _, of in counts.values())
    if control is not None:
        both = pd.concat([value.abs(), control.abs()], axis=1, keys=["value", "null"]).dropna()
        counts["control"] = [int((both["value"] >= both["null"]).sum()), len(both)]
    if failed := [f"{kind} in {bad} of {of} cases" for kind, (bad, of) in counts.items() if bad]:
        return EXCEEDS_NOT, "not below half of: " + "; ".join(failed)
    if absent:
        return INCOMPLETE, "not measured everywhere: " + ", ".join(absent)
    return (EXCEEDS, "below half of each, everywhere") if seen else (NO_NULL, NOTHING)


def by_site(values: pd.Series, scale: float = 1.0, unit: str = "") -> str:
    """"FC 1 0.054 ± 0.002, ...": mean and standard deviation over pairs (and directions) of the mean over alphas."""
    groups = values.mul(scale).groupby(["pair", "site", "direction"]).mean().groupby("site")
    return ", ".join(f"{site} {spread(group)}{unit}".strip() for site, group in groups)


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation, the latter to two digits and the mean to as many decimals; "(2.1 ± 0.3)e-4" if small."""
    mean, std = values.mean(), values.std() if len(values) > 1 else 0.0
    largest = max(abs(mean), std)
    if largest < 1e-12:  # rounding of float64
        return "0"
    if std < 1e-6 * largest:
        return f"{mean:.4g}"
    power = math.floor(math.log10(largest)) if largest < 1e-3 else 0
    decimals = max(0, 1 - math.floor(math.log10(std / 10**power)))
    text = f"{mean / 10**power:.{decimals}f}\u00a0±\u00a0{std / 10**power:.{decimals}f}"  # kept together on a line
    return f"({text})e{power}" if power else text


# -- rules: each returns agreement, evidence, our numbers, the nulls' word --------------------------------------------

def connected(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> tuple[str, str, str, str]:
    barrier = measured(own, "error_barrier_chord").groupby("pair").mean()
    ends = _ends(own).groupby("pair").mean()
    n = own.loc[own["quantity"] == "error_barrier_chord", "n"].iloc[0]
    allowed = CONNECTED_SE * (ends * (1 - ends) / n) ** 0.5
    nulls = {kind: numbers(own, "error_barrier_chord", "null", kind) for kind in DISPLACED}
    control = numbers(own, "error_barrier_chord", "control", "independent")
    evidence, word = evidence_of(numbers(own, "error_barrier_chord"), nulls, control)
    ours = f"largest excess over the chord {100 * barrier.max():.2f} points, allowed {100 * allowed.min():.2f}; control " \
           f"{100 * control.mean():.1f}"
    return agreement_of(barrier <= allowed), evidence, ours, word


def cosine(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> tuple[str, str, str, str]:
    ratio = measured(own, "cos_ratio")
    nulls = {kind: numbers(own, "cos_ratio", "null", kind) for kind in ["nearest endpoint", *DISPLACED]}
    evidence, word = evidence_of(ratio, nulls, numbers(own, "cos_ratio", "control", "independent"))
    return agreement_of(ratio <= NEGLIGIBLE), evidence, by_site(ratio), word


def coefficient(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> tuple[str, str, str, str]:
    off = measured(own, "1-coef_alpha")
    nulls = {kind: numbers(own, "1-coef_alpha", "null", kind) for kind in ["nearest endpoint", *DISPLACED]}
    evidence, word = evidence_of(off, nulls, numbers(own, "1-coef_alpha", "control", "independent"))
    return agreement_of(off.abs() <= CLOSE_TO_ONE), evidence, "1 - coef: " + by_site(off), word


def commutativity(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> tuple[str, str, str, str]:
    com, w, h = (measured(own, q) for q in ("dist_com", "dist_W", "dist_H"))
    worst = com / pd.concat([w, h], axis=1).min(axis=1)

    def per_product(role: str, kind: str) -> pd.Series:
        # Dist_com is of second order, Dist_W and Dist_H of first: this does not change with the size of the difference
        c, w, h = (numbers(own, q, role, kind) for q in ("dist_com", "dist_W", "dist_H"))
        return c / (w * h)

    first, word = evidence_of(com, {kind: numbers(own, "dist_com", "null", kind) for kind in ("formula", "shuffled units")},
                              numbers(own, "dist_com", "control", "independent"))
    second, more = evidence_of(com / (w * h), {kind: per_product("null", kind) for kind in DISPLACED})
    evidence = next((e for e in (EXCEEDS_NOT, INCOMPLETE) if e in (first, second)), first)
    return (agreement_of(worst <= NEGLIGIBLE), evidence, "Dist_com / smaller of Dist_W, Dist_H: " + by_site(worst),
            "; ".join(dict.fromkeys(w for w in (word, more) if w != NOTHING)))


def additivity(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> tuple[str, str, str, str]:
    dist = measured(own, "dist_add")
    # only displaced partners at the same distance: this quantity grows with the distance of the pair
    nulls = {kind: numbers(own, "dist_add", "null", kind) for kind in ["shuffled images", *MATCHED]}
    evidence, word = evidence_of(dist, nulls, numbers(own, "dist_add", "control", "independent"))
    return agreement_of(dist <= NEGLIGIBLE), evidence, by_site(dist), word


def _ends(own: pd.DataFrame) -> pd.Series:
    error = measured(own, "error")
    return error[error.index.get_level_values("alpha").isin([0.0, 1.0])]


def endpoints(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> tuple[str, str, str, str]:
    ends = 100 * _ends(own)
    inside = pd.Series([_inside(value, ends) for value in claim.numbers])
    return agreement_of(inside), NO_NULL, f"{spread(ends)} % over {len(ends)} networks", NOTHING


def _inside(value: float, ours: pd.Series) -> bool:
    return len(ours) > 1 and abs(value - ours.mean()) <= INTERVAL_SD * ours.std()


def stitched_numbers(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> tuple[str, str, str, str]:
    stitched = 100 * measured(own, "stitched_error")
    sites = sorted(stitched.index.get_level_values("site").unique())
    inside = pd.Series([_inside(value, stitched.xs(site, level="site")) for value, site in zip(claim.numbers, sites, strict=True)])
    return agreement_of(inside), NO_NULL, by_site(stitched, unit=" %"), NOTHING


def resembles(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> tuple[str, str, str, str]:
    stitched, ends = measured(own, "stitched_error"), _ends(own).groupby("pair").mean()
    excess = (stitched - ends.reindex(stitched.index.get_level_values("pair")).values)
    relative = excess / ends.reindex(excess.index.get_level_values("pair")).values
    means = stitched.groupby("site").mean()  # FC 1, FC 2, FC 3: in order of depth
    falls = pd.Series([bool(means.is_monotonic_decreasing)])

    own_error = _ends(own).xs(1.0, level="alpha").groupby("pair").mean()

    def displaced_excess(kind: str) -> pd.Series:
        found, partner = numbers(own, "stitched_error", "null", kind), numbers(own, "error", "null", kind)
        partner = partner[partner.index.get_level_values("alpha") == 0].groupby("pair").mean()
        mean = (0.5 * (partner + own_error)).reindex(found.index.get_level_values("pair"))
        # a partner stitched better than its ends on average has no excess: its size must not count as one
        return (found - mean.values).clip(lower=0)

    nulls = {kind: displaced_excess(kind) for kind in DISPLACED}
    control = numbers(own, "stitched_error", "control", "independent")
    evidence, word = evidence_of(excess.clip(lower=0), nulls)
    if not (stitched < SUPPORTED * control.reindex(stitched.index)).all():
        evidence, word = EXCEEDS_NOT, word + "; not below half of the independent pair"
    holds = pd.concat([relative <= RESEMBLES, falls])
    ours = f"excess over the endpoints' mean, relative to it: {by_site(relative)}; independent pair {100 * control.mean():.0f} %"
    return agreement_of(holds), evidence, ours, word


def learning_rate(claim: Claim, own: pd.DataFrame, frame: pd.DataFrame) -> tuple[str, str, str, str]:
    other = frame[frame["pair"].str.startswith("mlp_mnist_spawn_lr1.2e-3/")]
    printed = sum(claim.numbers) / len(claim.numbers)
    ours = {"1.2e-4": 100 * _ends(own)} | ({"1.2e-3": 100 * _ends(other)} if len(other) else {})
    off = {rate: abs(ends.mean() - printed) for rate, ends in ours.items()}
    barrier = {rate: 100 * measured(rows, "error_barrier_chord").max() for rate, rows in zip(ours, (own, other))}
    text = ", ".join(f"{rate}: {spread(ends)} %, barrier at most {barrier[rate]:.2f} points" for rate, ends in ours.items())
    nearest = min(off, key=off.get)
    holds = pd.Series([_inside(printed, ours["1.2e-4"]), nearest == "1.2e-4"])
    return agreement_of(holds), NO_NULL, f"{text}; nearer to the printed mean of {printed:.3f} %: {nearest}", NOTHING


RULES = {rule.__name__: rule for rule in (connected, cosine, coefficient, commutativity, additivity, endpoints,
                                          stitched_numbers, resembles, learning_rate)}
