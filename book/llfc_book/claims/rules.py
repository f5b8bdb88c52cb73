"""How a claim is judged in one setting: by one of few rules, each of which says of every case
whether it bears the claim out, and how large the effect is.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from llfc_book import evidence as ev
from llfc_book.claims.claim import CLAIMS, Cell, Claim, Effect, effect
from llfc_book.evidence import Measured
from llfc_book.study.settings import RECIPES, WIDTHS

CLOSE = 0.1  # "close", "negligible": a tenth
BESIDE = (0.05, 0.2)  # the shares at these are told as well
MARGIN = 0.02  # of errors, a fraction: Frankle et al. (2020) call a barrier up to 2 % connected
UNSURE = 0.01  # a barrier without an interval that is so near the margin decides nothing
ALIKE = 1.25  # a ratio nearer to 1 than that is "as"

Rule = Callable[[Claim, str], Cell | None]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    """Enter the function below under its name. It returns None where nothing is on record."""
    RULES[function.__name__] = function
    return function


def settings_of(claim: Claim) -> list[str]:
    """The settings that a claim is tested on, in the order of ``settings.toml``."""
    if isinstance(claim.settings, tuple):
        return list(claim.settings)
    which: dict[str, Callable[[Any], bool]] = {
        "spawned": ev.spawned,
        "matched": ev.matched,
        "connected": lambda s: ev.spawned(s) or ev.matched(s),
        "every": lambda s: ev.spawned(s) or ev.matched(s),
        "layer norm": lambda s: ev.matched(s) and s.model == "resnet20_ln",
    }
    if claim.settings not in which:
        raise ValueError(f"claim {claim.id}: unknown settings {claim.settings!r}")
    found = [name for name, setting in RECIPES.items() if which[claim.settings](setting)]
    return found if claim.settings in ("every", "layer norm") else [n for n in found if _tests(n)]


@cache
def _tests(name: str) -> bool:
    """Whether the setting tests what the appendix says of connected pairs. A network narrower than
    the appendix's, where it foretells that matching fails, does so only if its pairs are connected.
    """
    if not ev.stands_in(RECIPES[name]):
        return True
    m = barrier_of(name)
    return m is not None and any(found is True for found in verdicts(m))


@cache
def judged() -> dict[tuple[str, str], Cell]:
    """Every cell of the ledger that something is on record of, by claim and setting."""
    found = {}
    for claim in CLAIMS:
        if claim.rule not in RULES:
            raise ValueError(f"claim {claim.id}: unknown rule {claim.rule!r}; there are {[*RULES]}")
        for name in settings_of(claim):
            cell = RULES[claim.rule](claim, name)
            if cell is not None and cell.scale != "proxy":  # embedded data are no evidence
                found[claim.id, name] = cell
    return found


def _cell(
    claim: Claim,
    m: Measured,
    cases: pd.Series,
    effects: Sequence[Effect],
    closeness: str = "",
    notes: Sequence[str] = (),
) -> Cell:
    """``cases`` are True, False or None by pair (the first level of their index)."""
    by_pair = cases.astype(object).groupby(level=0)
    share = by_pair.agg(lambda of: sum(x is True or x is np.True_ for x in of) / len(of))
    undecided = by_pair.agg(lambda of: sum(x is None for x in of) / len(of))
    return Cell(
        claim.id,
        m.setting.name,
        "reduced" if m.setting.name in WIDTHS else m.scale,  # trained for fewer epochs
        len(share),
        len(cases),
        float(share.mean()),
        float(undecided.mean()),
        tuple(effects),
        closeness,
        tuple(notes),
    )


# connectivity


def verdicts(m: Measured, role: str = "value", kind: str = "") -> pd.Series:
    """By pair whether it is connected: True, False, or None where its interval over images holds
    the margin. Where no interval is on record the barrier itself decides, unless it is near.
    """
    plain = barriers(m, role, kind)
    near = UNSURE * ((plain - MARGIN).abs() < UNSURE)
    limits = {"lower": (plain - near).to_dict(), "upper": (plain + near).to_dict()}
    name = "error_barrier_upper"
    intervals = ev.at(name, m.setting.name, m.setting.profile, "connected")
    if intervals is not None:
        for limit, known in limits.items():
            found = intervals.of(f"error_barrier_{limit}", role, kind).groupby(level="pair").first()
            known |= {pair: value for pair, value in found.items() if pair in known}
    answers = {pair: _says(limits["lower"][pair], limits["upper"][pair]) for pair in plain.index}
    return pd.Series(answers, dtype=object)


def _says(lower: float, upper: float) -> bool | None:
    if upper <= MARGIN:
        return True
    return False if lower > MARGIN else None


def barriers(m: Measured, role: str = "value", kind: str = "") -> pd.Series:
    """By pair, the largest error on the line less the mean of the ends (a fraction).

    Source: Frankle et al. (2020), error barrier.
    """
    errors = m.of("error", role, kind)
    alpha = errors.index.get_level_values("alpha")
    ends = errors[(alpha == 0) | (alpha == 1)].groupby(level="pair").mean()
    return errors.groupby(level="pair").max() - ends


def barrier_of(name: str) -> Measured | None:
    """The setting's errors along the line, at its largest scale."""
    return ev.best("error", name)


@rule
def connected(claim: Claim, name: str) -> Cell | None:
    """Is the error barrier at most 2 points; ``inverse``: is it above?"""
    m = barrier_of(name)
    if m is None:
        return None
    found = verdicts(m)
    if claim.told.get("inverse"):
        found = found.map(lambda x: None if x is None else not x)
    size = effect(100 * barriers(m).to_numpy(), "error barrier in points", geometric=False)
    return _cell(claim, m, found, [size])


@rule
def lemma(claim: Claim, name: str) -> Cell | None:
    """Is the error half-way at most twice the worse end's?"""
    m = ev.best("error_between", name)
    if m is None:
        return None
    between = ev.half_way(m.of("error_between")).groupby(level="pair").first()
    bound = m.of("twice_epsilon").groupby(level="pair").first().reindex(between.index)
    spare = effect(100 * (bound - between).to_numpy(), "points below the bound", geometric=False)
    return _cell(claim, m, between <= bound, [spare])


# linearity and commutativity


@rule
def within(claim: Claim, name: str) -> Cell | None:
    """Is ``quantity`` at most a tenth, in absolute value: by itself, ``over`` the smallest of other
    quantities of the pair, or over the same of a pair that is not connected (``over_control``)?
    """
    quantity = claim.told["quantity"]
    m = ev.best(quantity, name)
    values = None if m is None else _relative(claim, m)
    if m is None or values is None or values.empty:
        return None
    cases = values.abs() <= CLOSE
    beside = [f"{(values.abs() <= limit).mean():.0%} at {limit:g}" for limit in BESIDE]
    return _cell(claim, m, cases, _effects(claim, values), _third(claim, name), beside)


def _relative(claim: Claim, m: Measured) -> pd.Series | None:
    values = m.of(claim.told["quantity"])
    if "over" in claim.told:
        beside = [m.of(quantity) for quantity in claim.told["over"]]
        return (values / pd.concat(beside, axis=1).min(axis=1)).dropna()
    if claim.told.get("over_control"):
        kind = "unmatched" if m.setting.needs_order else "independent"
        control = m.of(claim.told["quantity"], "control", kind)
        return (values / control).dropna() if len(control) else None
    return values


def _effects(claim: Claim, values: pd.Series) -> list[Effect]:
    """Half-way where there are alphas; hidden layers and logits apart where both are."""
    alpha = values.index.get_level_values("alpha")
    values = values[((alpha == 0.5) | (alpha < 0)) & np.isfinite(values.to_numpy())]
    unit, parts = claim.told["unit"], {"hidden layers": ev.hidden(values)}
    if len(at_logits := ev.logits(values)) and len(parts["hidden layers"]):
        parts["logits"] = at_logits
    else:
        parts = {"": values}
    return [
        _effect_of(claim, part, f"{unit}{where and ', '}{where}") for where, part in parts.items()
    ]


def _effect_of(claim: Claim, values: pd.Series, unit: str) -> Effect:
    if claim.told.get("signed"):
        return effect(ev.by_pair(values), unit, geometric=False)
    values = values.clip(lower=1e-12)  # rounding may leave a difference of 0 below it
    return effect(ev.typical(values**0.5 if claim.told.get("root") else values), unit)


def _third(claim: Claim, name: str) -> str:
    if claim.closeness == "partners":
        return _beside_partners(name)
    return _beside_signs(name) if claim.closeness == "coherence" else ""


def _beside_partners(name: str) -> str:
    """Hidden layers, then logits, beside the spread and the sparse partner at equal distance."""
    m = ev.best("rho", name, "closeness")
    if m is None or m.scale == "proxy":
        return ""
    told = []
    for where, part in (("hidden layers", ev.hidden), ("logits", ev.logits)):
        ratios = {}
        for kind in ("spread", "sparse"):
            own, other = part(m.of("rho")), part(m.of("rho", "null", kind))
            if len(other):
                ratios[kind] = np.log(ev.typical(own) / ev.typical(other)).dropna().to_numpy()
        if ratios:
            told.append(f"{where}: {_between(ratios)}")
    few = f" ({m.pairs} pair{'s' * (m.pairs != 1)})" if m.pairs < 3 else ""  # then no interval
    return "; ".join(told) + few


def _between(logs: dict[str, np.ndarray]) -> str:
    """One word where both references say the same, else between them, with both ratios."""
    words = {kind: compared(values) for kind, values in logs.items()}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    told = ", ".join(f"{np.exp(values.mean()):.2f} of {kind}" for kind, values in logs.items())
    return f"between spread and sparse ({told})"


def compared(logs: np.ndarray) -> str:
    """ "more linear", "as linear" or "less linear" than partners at equal distance, by the
    logarithms of the pairs' ratios; undecided where the interval over pairs holds the margin.
    """
    middle = effect(np.exp(logs), "")
    low, high = (middle.value,) * 2 if len(logs) < 3 else (middle.low, middle.high)
    if high < 1 / ALIKE:
        return "more linear"
    if low > ALIKE:
        return "less linear"
    return "as linear" if low >= 1 / ALIKE and high <= ALIKE else "undecided"


def _beside_signs(name: str) -> str:
    """Coherence: Dist_com's numerator over its expectation under random signs of the units."""
    m = ev.best("coherence", name)
    if m is None or m.scale == "proxy":
        return ""
    ratio = effect(ev.by_pair(m.of("coherence")).to_numpy(), "")
    word = (
        "as random signs of units give"
        if 1 / ALIKE <= ratio.value <= ALIKE
        else f"{ratio.value:.2g} times what random signs of units give"
    )
    return word


@rule
def cooccurs(claim: Claim, name: str) -> Cell | None:
    """Of the pairs that are connected: at which layers is each within a tenth, half-way?"""
    m, lines = ev.best("cos_ratio", name), barrier_of(name)
    if m is None or lines is None or lines.setting.profile != m.setting.profile:
        return None
    linked = verdicts(lines)
    squares = ev.half_way(m.of("cos_ratio"))
    pairs = [p for p in squares.index.unique(level="pair") if linked.get(p) is True]
    if not pairs:
        return None
    own = squares[squares.index.get_level_values("pair").isin(pairs)]
    worst = own.groupby(level="pair").max()
    size = effect(worst.to_numpy() ** 0.5, "share of the distance at the worst layer")
    every = f"{(worst <= CLOSE).mean():.0%} of connected pairs at every layer"
    return _cell(claim, m, own <= CLOSE, [size], notes=[every])


@rule
def stitches(claim: Claim, name: str) -> Cell | None:
    """Does the stitched network err on at most 2 points more than the mean of both ends, by layer
    and direction?
    """
    m = ev.best("stitched_error", name)
    if m is None:
        return None
    alpha = m.of("error").index.get_level_values("alpha")
    ends = m.of("error")[(alpha == 0) | (alpha == 1)].groupby(level="pair").mean()
    stitched = m.of("stitched_error")
    excess = stitched - ends.reindex(stitched.index.get_level_values("pair")).to_numpy()
    layer = excess.groupby(level="site").mean().idxmax()
    worst = excess[excess.index.get_level_values("site") == layer]
    size = effect(
        100 * ev.by_pair(worst).to_numpy(), f"excess in points at {layer}", geometric=False
    )
    return _cell(claim, m, excess <= MARGIN, [size])


# rank


@rule
def lower(claim: Claim, name: str) -> Cell | None:
    """Is ``quantity`` lower than the same of the null ``than``, layer by layer? Layers whose shape
    leaves no choice, the output's few rows, are left out.
    """
    m = ev.best(claim.told["quantity"], name)
    if m is None:
        return None
    role, kind = claim.told["than"]
    own, other = m.of(claim.told["quantity"]), m.of(claim.told["quantity"], role, kind)
    ratio = (own / other).dropna()
    if claim.told["quantity"].endswith("_W"):  # the output's map has few rows, whatever it learned
        ratio = _of_sites(ratio, ev.sites_of(ratio)[:-1])
    if ratio.empty:
        return None
    return _cell(
        claim, m, ratio < 1, [effect(ev.by_pair(ratio), f"share of that of {_words(kind)}")]
    )


def _of_sites(values: pd.Series, sites: Sequence[str]) -> pd.Series:
    return values[values.index.get_level_values("site").isin(sites)]


def _words(kind: str) -> str:
    words = {
        "gaussian matrix": "a Gaussian",
        "before training": "the untrained layer",
        "images shuffled unit by unit": "shuffled responses",
    }
    return words[kind]


def _on_the_way(quantity: str, name: str) -> Measured | None:
    return ev.best(quantity, name, "widths" if name in WIDTHS else "fig22")


def _swept(name: str, quantity: str) -> pd.DataFrame | None:
    """By pair and epoch, a quantity of networks on their way; with ``site`` where it has some."""
    m = _on_the_way(quantity, name)
    if m is None:
        return None
    rows = m.rows
    chosen = rows[
        (rows["quantity"] == quantity) & (rows["role"] == "value") & rows["epoch"].notna()
    ]
    return chosen if len(chosen) else None


@rule
def training_lowers(claim: Claim, name: str) -> Cell | None:
    """Is the stable rank of every layer after training below that after the first epoch?"""
    quantity = "stable_rank_share_W"
    rows, m = _swept(name, quantity), _on_the_way(quantity, name)
    if rows is None or m is None:
        return None
    wide = rows.pivot_table(index=["pair", "site"], columns="epoch", values="mean")
    wide = _of_sites(wide, sorted(set(rows["site"]), key=ev.depth)[:-1])
    if 1.0 not in wide or len(wide.columns) < 2:
        return None
    ratio = wide[wide.columns.max()] / wide[1.0]
    return _cell(
        claim, m, ratio < 1, [effect(ratio.groupby(level=0).mean(), "share of that after epoch 1")]
    )


def _barriers_on_training(name: str) -> pd.DataFrame | None:
    rows = _swept(name, "error_barrier_chord_on_training")
    return None if rows is None else rows.pivot_table(index="pair", columns="epoch", values="mean")


@rule
def narrow_fails(claim: Claim, name: str) -> Cell | None:
    """Does the barrier of the narrowest network, matched after training, exceed the widest's?"""
    ends = [_barriers_on_training(width) for width in (name, max(WIDTHS, key=WIDTHS.__getitem__))]
    m = _on_the_way("error_barrier_chord_on_training", name)
    if m is None or ends[0] is None or ends[1] is None:
        return None
    narrow, wide = (end[end.columns.max()] for end in ends)
    excess = pd.Series(narrow.to_numpy() - wide.to_numpy(), index=narrow.index)
    size = effect(100 * excess.to_numpy(), "difference in points, training images", geometric=False)
    return _cell(claim, m, excess > MARGIN, [size])


@rule
def early_fails(claim: Claim, name: str) -> Cell | None:
    """At every width: is the barrier after the first epoch above that after training?"""
    found, m = [], _on_the_way("error_barrier_chord_on_training", name)
    for width in WIDTHS:
        barriers_then = _barriers_on_training(width)
        if m is None or barriers_then is None:
            return None
        found.append(barriers_then[1.0] - barriers_then[barriers_then.columns.max()])
    excess = pd.concat(found)
    size = effect(100 * excess.to_numpy(), "difference in points, training images", geometric=False)
    return _cell(claim, m, excess > MARGIN, [size])


@rule
def describes(claim: Claim, name: str) -> Cell | None:
    """Within every epoch, does the barrier over widths grow with the stable rank over n?"""
    m = _on_the_way("error_barrier_chord_on_training", name)
    points = []
    for width in WIDTHS:
        barrier, rank = _barriers_on_training(width), _swept(width, "stable_rank_share_W")
        if barrier is None or rank is None:
            return None
        inner = sorted(set(rank["site"]), key=ev.depth)[1:-1]  # whose shape is width by width
        hidden = rank[rank["site"].isin(inner)].groupby(["pair", "epoch"])["mean"].mean()
        points += [
            (epoch, barrier.loc[pair, epoch], hidden[pair, epoch]) for pair, epoch in hidden.index
        ]
    table = pd.DataFrame(points, columns=["epoch", "barrier", "rank"])
    found = {
        epoch: float(spearmanr(of["rank"], of["barrier"]).statistic)
        for epoch, of in table[table["epoch"] > 0].groupby("epoch")
    }
    cases = pd.Series({f"epoch {epoch:g}": value > 0.5 for epoch, value in found.items()})
    if m is None:
        return None
    mean = float(np.mean([*found.values()]))
    size = Effect(mean, "rank correlation within an epoch, mean over epochs", len(found))
    return _cell(claim, m, cases, [size])
