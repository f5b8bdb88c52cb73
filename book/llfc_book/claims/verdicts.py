"""Verdicts on the appendix's claims, by rules that were written before the runs (where not, the
rule says so).

Two separate questions. *Agreement*: is our number or pattern the paper's? *Evidence*: does it
exceed every null, that is, does it say anything about trained networks that no structure at all, a
displacement at random, or an unconnected pair would not show as well? A claim can agree and carry
no evidence.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from llfc_book import records
from llfc_book.claims.claims import CLAIMS, TABLES, Claim
from llfc_book.show.select import at, depth, numbers, recipe_of
from llfc_book.study.catalogue import EXPERIMENTS
from llfc_book.study.settings import MATCHED_SPAWNED, RECIPES, SCALE, SPAWN_AT, WIDTHS, recipe

CONNECTED_SE = 2.0  # a barrier within two binomial standard errors of the endpoint error is none
NEGLIGIBLE = 0.1  # "negligible", "close to 0 compared with": at most a tenth
CLOSE_TO_ONE = 0.1  # "close to 1": within a tenth
SUPPORTED = 0.5  # below half of each null: twice as good, not a little better
# stitched error above the endpoints' mean by at most half of it (the paper's Table 1: 0.47 at FC 1)
RESEMBLES = 0.5
# the paper has one pair: its number agrees if it lies within two standard deviations of our pairs
INTERVAL_SD = 2.0

ALIKE = 0.5  # rank correlation of a profile over layers with the printed one
FEW = 6  # sites that are listed one by one

DISPLACED = [
    f"{kind} {size}" for size in ("t=1", "matched") for kind in ("rotation", "entries", "gaussian")
]
MATCHED = [kind for kind in DISPLACED if kind.endswith("matched")]

REPRODUCED, PARTLY, NOT, NOT_HERE = (
    "reproduced",
    "partly",
    "not reproduced",
    "not seen at this scale",
)
NOT_COMPARABLE = "another data set"
EXCEEDS, EXCEEDS_NOT, NO_NULL = "exceeds every null", "no more than a null", "no null applies"
INCOMPLETE = (  # none failed so far, but not all are measured in every pair and site
    "nulls incomplete"
)
NOTHING = "–"
NOT_BELOW = "not below half of: "


@dataclass(frozen=True)
class Verdict:
    """``agreement`` and ``evidence`` with the numbers behind them, as text for a table: ``ours`` in
    full, ``short`` for the ledger. The rule of the claim holds in ``holds`` of ``cases``."""

    claim: Claim
    profile: str
    agreement: str
    evidence: str
    ours: str
    null: str
    pairs: int
    short: str
    holds: int
    cases: int


class Finding(NamedTuple):
    """What a rule finds: whether it ``holds``, case by case, and the texts of :class:`Verdict`."""

    holds: pd.Series
    evidence: str
    ours: str
    null: str
    short: str


def judge(part: str | None = None) -> list[Verdict]:
    """Verdicts on all claims, or those of one section ("B.2") or chapter ("B2_llfc"), from the best
    committed record of each.
    """
    return [
        judge_claim(claim, _best(claim.experiment))
        for claim in CLAIMS
        if part in (None, claim.section, claim.chapter)
    ]


def _best(experiment: str) -> records.Record:
    if records.has_several_networks(EXPERIMENTS[experiment].recipes):
        return records.best_of_each(experiment)
    # a record of an older recipe must not be judged as if it were of this one
    for profile in records.profiles_shown(experiment):
        hashes = {name: recipe(name, profile).hash for name in SCALE[profile]}
        return records.load(experiment, profile, recipe_hashes=hashes)
    return records.best(experiment)  # raises, saying what to do


def judge_claim(claim: Claim, record: records.Record) -> Verdict:
    """The verdict that ``claim``'s rule gives on a record; a reduced profile never earns "not
    reproduced".
    """
    frame = record.frame()
    own = frame[recipe_of(frame) == claim.recipe] if claim.recipe else frame
    finding = RULES[claim.rule](claim, own, frame)
    agreement = agreement_of(finding.holds)
    made_by = record.profile_of(own["pair"].unique())
    if agreement == NOT and made_by != "paper":
        agreement = NOT_HERE
    if (claim.numbers or claim.rule == "profile") and set(own["data"]) != {
        RECIPES[claim.recipe].data
    }:
        agreement = NOT_COMPARABLE  # the paper's figures say nothing about digits
    return Verdict(
        claim,
        made_by,
        agreement,
        finding.evidence,
        finding.ours,
        finding.null,
        own["pair"].nunique(),
        finding.short,
        int(finding.holds.sum()),
        len(finding.holds),
    )


# selecting and comparing


def measured(frame: pd.DataFrame, quantity: str, kind: str = "") -> pd.Series:
    """The pairs' own ``numbers``. RecordError if there is none or one is NaN: nothing at all would
    keep every rule.
    """
    found = numbers(frame, quantity, kind=kind)
    if found.empty or found.isna().any():
        raise records.RecordError(
            f"the record has no number for {quantity!r}{' in some rows' if len(found) else ''}; run"
            " `make runs` and `make publish` again"
        )
    return found


def agreement_of(holds: pd.Series) -> str:
    """In words, whether all, some or none of ``holds`` are true. RecordError where there is nothing
    to judge by.
    """
    if holds.empty:  # all() of nothing is true
        raise records.RecordError(
            "the record holds nothing that this claim could be judged by; run `make runs` and `make"
            " publish` again"
        )
    return REPRODUCED if holds.all() else PARTLY if holds.any() else NOT


def controls_of(own: pd.DataFrame, quantity: str) -> dict[str, pd.Series]:
    """The same quantity of what is not connected: an independent pair, and two matched networks
    before matching.
    """
    found = {
        label: numbers(own, quantity, "control", kind)
        for label, kind in (("control", "independent"), ("before matching", "unmatched"))
    }
    return {label: values for label, values in found.items() if len(values)}


def evidence_of(
    value: pd.Series,
    nulls: Mapping[str, pd.Series],
    controls: Mapping[str, pd.Series] | None = None,
) -> tuple[str, str]:
    """Whether |value| is below half of every null and below the controls, everywhere; and which
    nulls hold it up.

    A null without any number in the record is passed over; without any null, none applies. One that
    lacks some pairs or sites cannot fail there, but neither can it be exceeded.
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
    for label, control in (controls or {}).items():
        both = pd.concat([value.abs(), control.abs()], axis=1, keys=["value", "null"]).dropna()
        counts[label] = [int((both["value"] >= both["null"]).sum()), len(both)]
    if failed := [f"{kind} in {bad} of {of} cases" for kind, (bad, of) in counts.items() if bad]:
        return EXCEEDS_NOT, NOT_BELOW + "; ".join(failed)
    if absent:
        return INCOMPLETE, "not measured everywhere: " + ", ".join(absent)
    return (EXCEEDS, "below half of each, everywhere") if seen else (NO_NULL, NOTHING)


def by_site(values: pd.Series, scale: float = 1.0, unit: str = "") -> str:
    """ "FC 1 0.054 ± 0.002, ...": mean and standard deviation over pairs (and directions) of the
    mean over alphas.
    """
    groups = values.mul(scale).groupby(["pair", "site", "direction"]).mean().groupby("site")
    found = {site: groups.get_group(site) for site in sorted(groups.groups, key=depth)}
    if len(found) > FEW:  # their range says more than all of them
        low, high = (pick(found, key=lambda site: found[site].mean()) for pick in (min, max))
        return f"from {spread(found[low])}{unit} ({low}) to {spread(found[high])}{unit} ({high})"
    return ", ".join(f"{site} {spread(group)}{unit}".strip() for site, group in found.items())


def highest(values: pd.Series, unit: str = "") -> str:
    """ "0.067 ± 0.014 (logits)": the layer of :func:`by_site` whose mean is farthest from 0."""
    groups = values.groupby(["pair", "site", "direction"]).mean().groupby("site")
    if values.empty:  # the rule that asks says so
        return NOTHING
    site = groups.mean().abs().idxmax()
    return f"{spread(groups.get_group(site))}{unit}" + f" ({site})" * bool(site)


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation, the latter to two digits and the mean to as many decimals; "(2.1 ±
    0.3)e-4" if small.
    """
    mean, std = values.mean(), values.std() if len(values) > 1 else 0.0
    largest = max(abs(mean), std)
    if largest < 1e-12:  # rounding of float64
        return "0"
    if std < 1e-6 * largest:
        return f"{mean:.4g}"
    power = math.floor(math.log10(largest)) if largest < 1e-3 else 0
    decimals = max(0, 1 - math.floor(math.log10(std / 10**power)))
    # kept together on a line
    text = f"{mean / 10**power:.{decimals}f}\u00a0±\u00a0{std / 10**power:.{decimals}f}"
    return f"({text})e{power}" if power else text


# -- rules -------------------------------------------


def connected(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """The barrier over the chord is within what two errors at the ends may differ by, in every
    pair.
    """
    barrier = measured(own, "error_barrier_chord").groupby("pair").mean()
    allowed = allowed_barrier(own)
    nulls = {kind: numbers(own, "error_barrier_chord", "null", kind) for kind in DISPLACED}
    control = numbers(own, "error_barrier_chord", "control", "independent")
    evidence, word = evidence_of(
        numbers(own, "error_barrier_chord"), nulls, controls_of(own, "error_barrier_chord")
    )
    again = numbers(own, "error_barrier_chord", statistics="recomputed")
    recomputed = f" ({100 * again.max():.2f} with recomputed statistics)" if len(again) else ""
    ours = (
        f"largest excess over the chord {100 * barrier.max():.2f} points{recomputed}, allowed"
        f" {100 * allowed.min():.2f}; control {100 * control.mean():.1f}"
    )
    before = numbers(own, "error_barrier_chord", "control", "unmatched")
    ours += f"; before matching {100 * before.mean():.1f}" if len(before) else ""
    short = (
        f"barrier {spread(100 * barrier)} points, largest {100 * barrier.max():.2f}, allowed"
        f" {100 * allowed.min():.2f}"
    )
    short += f"; control {spread(100 * control)}" if len(control) else ""
    return Finding(barrier <= allowed, evidence, ours, word, short)


def cosine(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """1 - cosine is at most a tenth of its baseline, at every site and alpha of every pair."""
    ratio = measured(own, "cos_ratio")
    nulls = {
        kind: numbers(own, "cos_ratio", "null", kind) for kind in ["nearest endpoint", *DISPLACED]
    }
    evidence, word = evidence_of(ratio, nulls, controls_of(own, "cos_ratio"))
    return Finding(
        ratio <= NEGLIGIBLE,
        evidence,
        "mean over α: " + by_site(ratio),
        word,
        f"ratio up to {highest(ratio)}",
    )


def coefficient(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """The mean coefficient is within a tenth of 1, at every site and alpha of every pair."""
    off = measured(own, "1-coef_alpha")
    nulls = {
        kind: numbers(own, "1-coef_alpha", "null", kind)
        for kind in ["nearest endpoint", *DISPLACED]
    }
    evidence, word = evidence_of(off, nulls, controls_of(own, "1-coef_alpha"))
    return Finding(
        off.abs() <= CLOSE_TO_ONE,
        evidence,
        "1 - coef, mean over α: " + by_site(off),
        word,
        f"1 - coef farthest from 0: {highest(off)}",
    )


def commutativity(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Dist_com is at most a tenth of the smaller of Dist_W and Dist_H, at every map."""
    com, w, h = (measured(own, q) for q in ("dist_com", "dist_W", "dist_H"))
    worst = com / pd.concat([w, h], axis=1).min(axis=1)

    def per_product(role: str, kind: str) -> pd.Series:
        # Dist_com is of second order, Dist_W and Dist_H of first: this does not change with the
        # size of the difference
        c, w, h = (numbers(own, q, role, kind) for q in ("dist_com", "dist_W", "dist_H"))
        return c / (w * h)

    first, word = evidence_of(
        com,
        {kind: numbers(own, "dist_com", "null", kind) for kind in ("formula", "shuffled units")},
        controls_of(own, "dist_com"),
    )
    second, more = evidence_of(
        com / (w * h), {kind: per_product("null", kind) for kind in DISPLACED}
    )
    evidence = next((e for e in (EXCEEDS_NOT, INCOMPLETE) if e in (first, second)), first)
    return Finding(
        worst <= NEGLIGIBLE,
        evidence,
        "Dist_com / smaller of Dist_W, Dist_H: " + by_site(worst),
        "; ".join(dict.fromkeys(w for w in (word, more) if w != NOTHING)),
        f"Dist_com up to {highest(worst)} of the smaller of both",
    )


def additivity(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """The distance of both sides of weak additivity is at most a tenth, at every ReLU of every
    pair.
    """
    dist = measured(own, "dist_add")
    # only displaced partners at the same distance: this quantity grows with the distance of the
    # pair
    nulls = {kind: numbers(own, "dist_add", "null", kind) for kind in ["shuffled images", *MATCHED]}
    evidence, word = evidence_of(dist, nulls, controls_of(own, "dist_add"))
    return Finding(dist <= NEGLIGIBLE, evidence, by_site(dist), word, f"dist up to {highest(dist)}")


def _ends(own: pd.DataFrame) -> pd.Series:
    error = measured(own, "error")
    return error[error.index.get_level_values("alpha").isin([0.0, 1.0])]


def endpoints(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """The printed errors of A and B lie within the spread of our pairs."""
    ends = 100 * _ends(own)
    inside = pd.Series([_inside(value, ends, _images(own, "error")) for value in claim.numbers])
    return Finding(
        inside, NO_NULL, f"{spread(ends)} % over {len(ends)} networks", NOTHING, f"{spread(ends)} %"
    )


def _inside(value: float, ours: pd.Series, n: float) -> bool:
    """Whether a printed error (%) lies within two standard deviations of our pairs. One pair has
    none, and its two networks or directions are not independent: then within two standard errors of
    a difference of errors on ``n`` images and on the paper's 10,000. That leaves out how much
    networks differ, so it is stricter than a spread over pairs would be."""
    mean = ours.mean()
    if ours.index.get_level_values("pair").nunique() > 1:
        return abs(value - mean) <= INTERVAL_SD * ours.std()
    return abs(value - mean) <= CONNECTED_SE * (mean * (100 - mean) * (1 / n + 1e-4)) ** 0.5


def _images(own: pd.DataFrame, quantity: str) -> float:
    return own.loc[(own["quantity"] == quantity) & (own["role"] == "value"), "n"].iloc[0]


def stitched_numbers(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """The printed stitched errors lie within the spread of our pairs, layer by layer."""
    stitched = 100 * measured(own, "stitched_error")
    printed, n = TABLES[claim.experiment], _images(own, "stitched_error")
    inside = pd.Series(
        [
            _inside(value, at(stitched, site=site), n)
            for site, value in printed.items()
            if site not in "AB"
        ]
    )
    ours = by_site(_printed_sites(stitched, printed), unit=" %")
    return Finding(inside, NO_NULL, ours, NOTHING, ours)


def _printed_sites(stitched: pd.Series, printed: Mapping[str, float]) -> pd.Series:
    return stitched[stitched.index.get_level_values("site").isin(set(printed))]


def profile(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Does the stitched error rise and fall over the layers as in the printed table?"""
    measured(own, "stitched_error")
    printed = pd.Series(
        {site: value for site, value in TABLES[claim.experiment].items() if site not in "AB"}
    )
    found = {suffix: alike(own, printed, suffix) for suffix in ("", "(raw)")}
    text = ", ".join(
        f"{label} {spread(found[suffix])}"
        for suffix, label in (("", "after the ReLU"), ("(raw)", "before normalisation"))
        if len(found[suffix])
    )
    off = (
        1 - found[""]
        # as elsewhere: less than half as far from the printed profile as any null, and nearer than
        # the control
    )
    nulls = {
        kind: 1 - null for kind in MATCHED if len(null := alike(own, printed, "", "null", kind))
    }
    control = alike(own, printed, "", "control", "independent")
    evidence, word = evidence_of(off, nulls, {"control": 1 - control} if len(control) else {})
    told = {
        "displaced partners": 1 - pd.concat(nulls.values()) if nulls else control[:0],
        "independent pairs": control,
    }
    word = "; ".join(
        [f"{label} {spread(values)}" for label, values in told.items() if len(values)] + [word]
    )
    return Finding(
        found[""] >= ALIKE,
        evidence,
        f"rank correlation with the printed profile: {text}",
        word,
        f"rank correlation with the printed profile {spread(found[''])}",
    )


def alike(
    own: pd.DataFrame, printed: pd.Series, suffix: str = "", role: str = "value", kind: str = ""
) -> pd.Series:
    """Rank correlation over layers of stitched errors with the printed ones, by pair and direction
    (the paper has one of each).
    """
    values = numbers(own, "stitched_error", role, kind, suffix)
    values.index = values.index.set_levels(
        values.index.levels[1].str.replace(f" {suffix}", "") if suffix else values.index.levels[1],
        level="site",
    )
    table = values.droplevel("alpha").unstack("site")
    sites = [site for site in printed.index if site in table]
    if len(sites) < 3:  # no profile to speak of
        return pd.Series(dtype=float)
    return table[sites].T.rank().corrwith(printed[sites].rank())


def excess(own: pd.DataFrame, suffix: str = "") -> pd.DataFrame:
    """Stitched errors over the mean of both networks', in points, by layer: "ours" and the
    "printed" ones.
    """
    printed = pd.Series(TABLES[own.attrs["experiment"]])
    ours = 100 * (
        numbers(own, "stitched_error", suffix=suffix).groupby("site").mean() - _ends(own).mean()
    )
    ours.index = ours.index.str.removesuffix(f" {suffix}")
    both = pd.DataFrame(
        {"ours": ours, "printed": printed.drop(["A", "B"]) - printed[["A", "B"]].mean()}
    ).dropna()
    return both.loc[sorted(both.index, key=depth)]


def displaced_excess(own: pd.DataFrame, kind: str) -> pd.Series:
    """Like :func:`excess`, of displaced partners, as fractions, over the mean of A's error and the
    partner's own.
    """
    found, error = numbers(own, "stitched_error", "null", kind), numbers(own, "error", "null", kind)
    # A's error on the images that its partners were measured on, which may be fewer
    both = error[error.index.get_level_values("alpha").isin([0.0, 1.0])].groupby("pair").mean()
    return found - both.reindex(found.index.get_level_values("pair")).values


def resembles(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Stitched errors exceed the mean of both networks' by at most half of it; in Table 1 they also
    fall with depth.
    """
    stitched, ends = measured(own, "stitched_error"), _ends(own).groupby("pair").mean()
    excess = stitched - ends.reindex(stitched.index.get_level_values("pair")).values
    relative = excess / ends.reindex(excess.index.get_level_values("pair")).values
    means = stitched.groupby("site").mean()
    # Table 1 falls with depth; Tables 2 and 3 do not
    falls = pd.Series(
        (
            [bool(means[sorted(means.index, key=depth)].is_monotonic_decreasing)]
            if claim.experiment == "tab1"
            else []
        ),
        dtype=bool,
    )
    # a partner stitched better than its ends on average has no excess: its size must not count as
    # one
    nulls = {kind: displaced_excess(own, kind).clip(lower=0) for kind in DISPLACED}
    control = numbers(own, "stitched_error", "control", "independent")
    evidence, word = evidence_of(excess.clip(lower=0), nulls)
    if not (stitched < SUPPORTED * control.reindex(stitched.index)).all():
        evidence, word = EXCEEDS_NOT, word + "; not below half of the independent pair"
    holds = pd.concat([relative <= RESEMBLES, falls])
    ours = (
        f"excess over the endpoints' mean, relative to it: {by_site(relative)}; independent pair"
        f" {100 * control.mean():.0f} %"
    )
    return Finding(
        holds,
        evidence,
        ours,
        word,
        f"error above that of A and B, relative to it: up to {highest(relative)}",
    )


def learning_rate(claim: Claim, own: pd.DataFrame, frame: pd.DataFrame) -> Finding:
    """The printed learning rate gives the printed errors, and comes nearer to them than ten times
    as much.
    """
    other = frame[frame["pair"].str.startswith("mlp_mnist_spawn_lr1.2e-3/")]
    printed = sum(claim.numbers) / len(claim.numbers)
    ours = {"1.2e-4": 100 * _ends(own)} | ({"1.2e-3": 100 * _ends(other)} if len(other) else {})
    off = {rate: abs(ends.mean() - printed) for rate, ends in ours.items()}
    barrier = {
        rate: 100 * measured(rows, "error_barrier_chord").max()
        for rate, rows in zip(ours, (own, other))
    }
    text = ", ".join(
        f"{rate}: {spread(ends)} %, barrier at most {barrier[rate]:.2f} points"
        for rate, ends in ours.items()
    )
    nearest = min(off, key=off.get)
    holds = pd.Series(
        [_inside(printed, ours["1.2e-4"], _images(own, "error")), nearest == "1.2e-4"]
    )
    return Finding(
        holds,
        NO_NULL,
        f"{text}; nearer to the printed mean of {printed:.3f} %: {nearest}",
        NOTHING,
        "; ".join(f"at {rate} {spread(ends)} %" for rate, ends in ours.items()),
    )


def separates(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Figure 19: Dist_com of connected networks beside that of independent ones, and each beside
    its own null.
    """
    com, control = measured(own, "dist_com"), numbers(own, "dist_com", "control", "independent")
    formula = {
        role: numbers(own, "dist_com", role, kind)
        for role, kind in (("null", "formula"), ("control", "independent: formula"))
    }
    evidence, word = evidence_of(
        com,
        {kind: numbers(own, "dist_com", "null", kind) for kind in ("formula", "shuffled units")},
    )
    ours = f"connected {by_site(com)}; independent {by_site(control)}"
    relative = (
        f"of the formula: connected {spread(com / formula['null'])}, independent"
        f" {spread(control / formula['control'])}"
    )
    lowest = control.groupby("site").mean().idxmin()
    short = (
        f"Dist_com up to {highest(com)}; independent from {spread(at(control, site=lowest))}"
        f" ({lowest})"
    )
    return Finding(com < control.reindex(com.index), evidence, ours, f"{relative}; {word}", short)


def transfer(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """W_B H_A differs from W_B H_B by a distance of at most a tenth, at every map of every pair."""
    dist = measured(own, "dist_transfer")
    nulls = {
        "shuffled units": numbers(own, "dist_transfer", "null", "shuffled units"),
        **{kind: numbers(own, "dist_transfer", "null", kind) for kind in MATCHED},
    }
    evidence, word = evidence_of(dist, nulls, controls_of(own, "dist_transfer"))
    return Finding(dist <= NEGLIGIBLE, evidence, by_site(dist), word, f"dist up to {highest(dist)}")


def same_weights(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """W_A H_A differs from W_B H_A by a distance of at most a tenth, at every map of every pair."""
    dist = measured(own, "dist_weights")
    nulls = {
        "shuffled units": numbers(own, "dist_weights", "null", "shuffled units"),
        **{kind: numbers(own, "dist_weights", "null", kind) for kind in MATCHED},
    }
    evidence, word = evidence_of(dist, nulls, controls_of(own, "dist_weights"))
    return Finding(dist <= NEGLIGIBLE, evidence, by_site(dist), word, f"dist up to {highest(dist)}")


def _low_rank(own: pd.DataFrame, matrix: str, nulls: Sequence[str]) -> Finding:
    """At least half of the singular values are below a tenth of the largest; the stable rank over n
    against references.

    A matrix in whose reference fewer than half of them are left (ten rows of 512) says nothing, and
    does not count for the agreement: a restriction that came after the run, and changed no verdict.
    """
    middle = measured(own, f"sigma_{matrix}/0.5")
    shape = numbers(own, f"sigma_{matrix}/0.5", "null", nulls[0])
    free = shape[shape > 0].index.get_level_values("site").unique()
    middle = middle[middle.index.get_level_values("site").isin(free)]
    rank = measured(own, f"stable_rank_share_{matrix}")
    found = {kind: numbers(own, f"stable_rank_share_{matrix}", "null", kind) for kind in nulls}
    evidence, word = evidence_of(rank, found)
    word += "; stable rank / n: " + ", ".join(
        f"{kind} {_range(values)}" for kind, values in found.items()
    )
    return Finding(
        middle <= NEGLIGIBLE,
        evidence,
        f"middle singular value over the largest: {by_site(middle)}; stable rank / n:"
        f" {by_site(rank)}",
        word,
        f"middle singular value over the largest: up to {highest(middle)}",
    )


def _range(values: pd.Series) -> str:
    """From the least to the greatest mean of a layer, with the layers' names."""
    mean = values.groupby("site").mean()
    return f"{mean.min():.2g} ({mean.idxmin()}) to {mean.max():.2g} ({mean.idxmax()})"


def low_rank_weights(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """At least half of the singular values of trained weights are below a tenth of the largest, at
    every map of every pair.
    """
    return _low_rank(own, "W", ("gaussian matrix", "before training"))


def low_rank_features(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Like :func:`low_rank_weights`, of centred features: uncentred, the mean response alone is the
    largest singular value.
    """
    return _low_rank(own, "Hc", ("images shuffled unit by unit", "before training"))


def low_rank_living_weights(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Like :func:`low_rank_weights`, of weights between units that respond to some image."""
    return _low_rank(own, "W_living", ("gaussian matrix", "before training"))


def low_rank_living_features(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Like :func:`low_rank_features`, of units that respond to some image."""
    return _low_rank(own, "Hc_living", ("images shuffled unit by unit", "before training"))


def not_connected(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """The claim is that the barrier stays: it holds where it is above what is allowed, with either
    kind of statistics.
    """
    barrier = measured(own, "error_barrier_chord").groupby("pair").mean()
    again = numbers(own, "error_barrier_chord", statistics="recomputed").groupby("pair").mean()
    lower = pd.concat([barrier, again], axis=1).min(axis=1) if len(again) else barrier
    before = numbers(own, "error_barrier_chord", "control", "unmatched")
    ours = (
        f"barrier {spread(100 * barrier)} points, with recomputed statistics {spread(100 * again)};"
        f" before matching {spread(100 * before)}"
    )
    return Finding(
        lower > allowed_barrier(own),
        NO_NULL,
        ours,
        NOTHING,
        f"barrier {spread(100 * barrier)} points, {spread(100 * again)} with recomputed statistics",
    )


def joint(claim: Claim, own: pd.DataFrame, _: pd.DataFrame) -> Finding:
    """Activation and weight matching leave a residual within a tenth of the lowest that any local
    search found.
    """
    least = measured(own, "residual", "local search")
    found = pd.concat({kind: measured(own, "residual", kind) for kind in ("activation", "weight")})
    over = pd.concat({kind: found[kind] / least for kind in ("activation", "weight")})
    nulls = {
        kind: pd.concat(
            {other: numbers(own, "residual", "null", kind) for other in ("activation", "weight")}
        )
        for kind in ("random order", "before matching")
    }
    evidence, word = evidence_of(found, nulls)
    ours = ", ".join(f"{kind} {spread(over[kind])}" for kind in ("activation", "weight"))
    word += ": " + ", ".join(
        f"{kind} {spread(values['weight'] / least)}" for kind, values in nulls.items()
    )
    return Finding(
        over - 1 <= NEGLIGIBLE,
        evidence,
        f"residual over the lowest found: {ours}",
        word,
        f"residual over the lowest found: {ours}",
    )


def width_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A line a pair, epoch and kind of network: width, mean stable rank / n of the maps that a
    permutation enters, training loss barrier after matching, and what matching leaves of |W_A (H_A
    - P H_B)| (the root of dist_transfer), mean over both."""
    lines, frame = [], frame.copy(deep=False)
    frame.attrs = {}  # which pandas would copy, deeply, at every step
    for (pair, epoch), group in frame.groupby(["pair", "epoch"]):
        for kind in ("", "untrained, truncated"):
            own = (group["kind"] == kind) & (group["role"] == ("control" if kind else "value"))
            before = group["kind"] == (f"{kind}: unmatched" if kind else "unmatched")
            if not own.any():
                continue
            one = group[own]

            def mean(quantity: str, rows: pd.DataFrame = one) -> float:
                chosen = rows[(rows["quantity"] == quantity) & (rows["site"] != "FC 1")]
                return chosen["mean"].mean()

            left = (mean("dist_transfer") / mean("dist_transfer", group[before])) ** 0.5
            lines.append(
                (
                    pair,
                    WIDTHS[pair.rpartition("/")[0]],
                    int(epoch),
                    kind,
                    mean("stable_rank_share_W"),
                    mean("loss_barrier_chord_on_training"),
                    left,
                )
            )
    return pd.DataFrame(
        lines, columns=["pair", "width", "epoch", "kind", "rank", "barrier", "gain"]
    )


def widths(claim: Claim, _: pd.DataFrame, frame: pd.DataFrame) -> Finding:
    """Low rank predicts a low barrier: over all, at fixed width over epochs, at fixed epoch over
    widths (rank correlation at least :data:`ALIKE` each). Evidence: cut to that rank, untrained
    networks match twice as well as whole ones, as they should."""
    if not (frame["quantity"] == "loss_barrier_chord_on_training").any():
        raise records.RecordError(
            "the record has no number for 'loss_barrier_chord_on_training'; run `make runs` and"
            " `make publish` again"
        )
    table = width_table(frame)
    trained = table[(table["kind"] == "") & (table["epoch"] > 0)]
    means = trained.groupby(["width", "epoch"])[["rank", "barrier"]].mean().reset_index()

    def correlation(group: pd.DataFrame) -> float:
        return group["rank"].rank().corr(group["barrier"].rank())

    found = {
        "over all": correlation(means),
        "at fixed width": means.groupby("width")[["rank", "barrier"]].apply(correlation).mean(),
        "at fixed epoch": means.groupby("epoch")[["rank", "barrier"]].apply(correlation).mean(),
    }
    whole = table[(table["kind"] == "") & (table["epoch"] == 0)].set_index("pair")["gain"]
    cut = table[table["kind"] != ""].set_index("pair")["gain"]
    evidence = EXCEEDS if (cut < SUPPORTED * whole.reindex(cut.index)).all() else EXCEEDS_NOT
    ours = "rank correlation of stable rank / n and training loss barrier: " + ", ".join(
        f"{label} {value:.2f}" for label, value in found.items()
    )
    return Finding(
        pd.Series(found) >= ALIKE,
        evidence,
        ours,
        f"matching leaves of W(H_A - PH_B): untrained {spread(whole)}, cut to the trained rank"
        f" {spread(cut)}",
        "rank correlation " + ", ".join(f"{value:.2f} {label}" for label, value in found.items()),
    )


def spawn_epoch(claim: Claim, _: pd.DataFrame, frame: pd.DataFrame) -> Finding:
    """Children are to be connected from the paper's epoch on, and not when spawned at the
    initialisation.
    """
    measured(frame, "error_barrier_chord")
    found = {}
    for name, epoch in SPAWN_AT.items():
        own = frame[recipe_of(frame) == name]
        if len(own):
            found[epoch] = (100 * numbers(own, "error_barrier_chord"), _connected(own))
    first = min(
        (k for k in found if all(holds.all() for later, (_, holds) in found.items() if later >= k)),
        default=None,
    )
    holds = pd.Series(
        [
            first is not None and first <= RECIPES["resnet20_cifar10_spawn"].spawn_epoch,
            0 in found and not found[0][1].any(),
        ]
    )
    late = frame[recipe_of(frame).map(SPAWN_AT) >= RECIPES["resnet20_cifar10_spawn"].spawn_epoch]
    evidence, word = evidence_of(
        numbers(late, "error_barrier_chord"),
        {kind: numbers(late, "error_barrier_chord", "null", kind) for kind in MATCHED},
    )
    text = ", ".join(f"{k}: {spread(barrier)}" for k, (barrier, _) in sorted(found.items()))
    since = "none connected" if first is None else f"connected from epoch {first} on"
    return Finding(
        holds,
        evidence,
        f"barrier (points){' by epoch of spawning' * (first is not None)}: {text}; {since}",
        word,
        since,
    )


def allowed_barrier(own: pd.DataFrame, role: str = "value", kind: str = "") -> pd.Series:
    """Per pair, the largest error barrier over the chord that counts as none: two binomial standard
    errors of the ends' error.
    """
    error = numbers(own, "error", role, kind)
    ends = error[error.index.get_level_values("alpha").isin([0.0, 1.0])].groupby("pair").mean()
    n = own.loc[own["quantity"] == "error"].groupby("pair")["n"].max().reindex(ends.index)
    return CONNECTED_SE * (ends * (1 - ends) / n) ** 0.5


def _connected(own: pd.DataFrame, role: str = "value", kind: str = "") -> pd.Series:
    """Per pair, whether the error barrier over the chord is within what is allowed."""
    barrier = numbers(own, "error_barrier_chord", role, kind).groupby("pair").mean()
    return barrier <= allowed_barrier(own, role, kind).reindex(barrier.index)


def cooccurrence(frame: pd.DataFrame) -> pd.DataFrame:
    """One line a pair and control: barrier (fraction), whether connected, LLFC ratio at alpha .5
    (mean over layers), and the same ratio over that of the nearest endpoint and of rotated partners
    at the same distance."""
    lines = []
    for role, kind in (("value", ""), ("control", "independent"), ("control", "unmatched")):
        barrier = numbers(frame, "error_barrier_chord", role, kind).groupby("pair").mean()
        ratio = at(numbers(frame, "cos_ratio", role, kind), alpha=0.5)
        nearest = at(
            numbers(
                frame,
                "cos_ratio",
                "null" if role == "value" else "control",
                "nearest endpoint" if role == "value" else f"{kind}: nearest endpoint",
            ),
            alpha=0.5,
        )
        rotated = (
            at(numbers(frame, "cos_ratio", "null", "rotation matched"), alpha=0.5)
            if role == "value"
            else None
        )
        means = {
            "ratio": ratio,
            "of nearest": ratio / nearest,
            "of rotated": (
                ratio / rotated if rotated is not None and len(rotated) else ratio * math.nan
            ),
        }
        table = pd.DataFrame(
            {name: values.groupby("pair").mean() for name, values in means.items()}
        )
        lines.append(
            table.assign(barrier=barrier, connected=_connected(frame, role, kind), role=role)
        )
    return pd.concat(lines).reset_index()


def cooccurs(claim: Claim, _: pd.DataFrame, frame: pd.DataFrame) -> Finding:
    """LLFC (ratio at most a tenth) exactly where the two are connected, over all pairs and
    controls.
    """
    measured(frame, "cos_ratio")
    table = cooccurrence(frame)
    holds = table["connected"] == (table["ratio"] <= NEGLIGIBLE)
    vary = table[["ratio", "barrier"]].nunique().min() > 1
    rank = f"{table['ratio'].rank().corr(table['barrier'].rank()):.2f}" if vary else NOTHING
    exceeds = table.loc[table["connected"] & table["of rotated"].notna(), "of rotated"]
    evidence = NO_NULL if exceeds.empty else EXCEEDS if (exceeds < SUPPORTED).all() else EXCEEDS_NOT
    ours = (
        f"agree in {int(holds.sum())} of {len(table)} pairs and controls; rank correlation of ratio"
        f" and barrier {rank}"
    )
    word = (
        f"connected pairs: ratio over that of rotated partners {spread(exceeds)}"
        if len(exceeds)
        else NOTHING
    )
    return Finding(holds, evidence, ours, word, f"rank correlation of ratio and barrier {rank}")


def lemma_bound(claim: Claim, _: pd.DataFrame, frame: pd.DataFrame) -> Finding:
    """No network between errs more often than 2 epsilon, in every pair that the paper calls
    linearly connected. Evidence: partners displaced at random break that."""
    connected = {
        name for name, r in RECIPES.items() if not r.is_variant and name not in MATCHED_SPAWNED
    }
    frame = frame[recipe_of(frame).isin(connected)]

    def within(role: str, kind: str) -> tuple[pd.Series, pd.Series]:
        highest = numbers(frame, "error_between", role, kind).groupby("pair").max()
        share = highest / numbers(frame, "twice_epsilon", role, kind).groupby(
            "pair"
        ).mean().reindex(highest.index)
        return share, share <= 1

    measured(frame, "error_between")
    (share, holds), (_, displaced) = within("value", ""), within("null", "rotation matched")
    evidence = NO_NULL if displaced.empty else EXCEEDS_NOT if displaced.all() else EXCEEDS
    return Finding(
        holds,
        evidence,
        f"holds in {int(holds.sum())} of {len(holds)} pairs; highest error between over"
        f" $2\\epsilon$: {spread(share)}",
        (
            f"partners displaced at random: holds in {int(displaced.sum())} of {len(displaced)}"
            if len(displaced)
            else NOTHING
        ),
        f"highest error between over $2\\epsilon$: {spread(share)}",
    )


RULES = {
    rule.__name__: rule
    for rule in (
        connected,
        cosine,
        coefficient,
        commutativity,
        additivity,
        endpoints,
        stitched_numbers,
        resembles,
        learning_rate,
        profile,
        separates,
        transfer,
        spawn_epoch,
        cooccurs,
        same_weights,
        low_rank_weights,
        low_rank_features,
        low_rank_living_weights,
        low_rank_living_features,
        not_connected,
        joint,
        widths,
        lemma_bound,
    )
}
