"""How a claim is judged in one setting: by one of few rules, each of which says of every case
whether it bears the claim out, and how large the effect is.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.claims.claim import CLAIMS, Cell, Claim, Effect, effect
from llfc_book.claims.stitching import beside_tuned
from llfc_book.evidence import ALIKE, CLOSE, Measured
from llfc_book.evidence import CONNECTED as MARGIN
from llfc_book.show import b5
from llfc_book.show.prose import number
from llfc_book.study.settings import RECIPES, WIDTHS

OTHER_MARGINS = (1.1, 1.5)  # of ratios: the third answer at these is told as well
BESIDE = (0.05, 0.2)  # the shares at these are told as well
UNSURE = 0.01  # a barrier without an interval that is so near the margin decides nothing

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
    where = {"spawned": ev.spawned, "matched": ev.matched}.get(claim.settings, ev.printed)
    found = [name for name, setting in RECIPES.items() if where(setting)]
    return found if claim.settings == "every" else [name for name in found if _tests(name)]


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
    asked = ((claim, name) for claim in CLAIMS for name in settings_of(claim))
    found = {(claim.id, name): RULES[claim.rule](claim, name) for claim, name in asked}
    # embedded data are no evidence
    return {key: cell for key, cell in found.items() if cell and cell.scale != "proxy"}


def _cell(
    claim: Claim,
    m: Measured,
    cases: pd.Series,
    effects: Sequence[Effect],
    closeness: str = "",
    notes: Sequence[str] = (),
) -> Cell:
    """``cases`` are True, False or None by pair (the first level of their index)."""
    cases = cases.astype(object)
    share, undecided = (of.groupby(level=0).mean() for of in (cases.eq(True), cases.isna()))
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


def connectivity(
    m: Measured, role: str = "value", kind: str = "", statistics: str = "interpolated"
) -> pd.DataFrame:
    """By pair, the "barrier", the largest error on the line less the mean of the ends (a fraction),
    with its "lower" and "upper" 95 % limits over images, the mean error of its "ends", and whether
    the pair is "connected": True where the upper limit is within the margin, False where the lower
    one is above it, else None.

    Where no limits are on record, both are the barrier itself; so near the margin that it decides
    nothing, a point on either side. Source: Frankle et al. (2020), section 2.
    """
    errors = m.of("error", role, kind, statistics)
    ends = ev.ends(errors)
    plain = ev.by_pair(errors, "max") - ends
    near = UNSURE * ((plain - MARGIN).abs() < UNSURE)
    columns = {"barrier": plain, "lower": plain - near, "upper": plain + near, "ends": ends}
    found = pd.DataFrame(columns)
    sure = ev.at("error_barrier_upper", m.setting.name, m.setting.profile, "connected")
    if sure is not None:
        for limit in ("lower", "upper"):
            known = ev.by_pair(sure.of(f"error_barrier_{limit}", role, kind, statistics))
            found[limit] = known.reindex(found.index).fillna(found[limit])
    found["connected"] = np.where(found["lower"] > MARGIN, False, None)
    return found.assign(connected=found["connected"].where(found["upper"] > MARGIN, True))


def barriers(m: Measured, role: str = "value", kind: str = "") -> pd.Series:
    """By pair, the barrier (:func:`connectivity`)."""
    return connectivity(m, role, kind)["barrier"]


def verdicts(m: Measured, role: str = "value", kind: str = "") -> pd.Series:
    """By pair, whether it is connected (:func:`connectivity`)."""
    return connectivity(m, role, kind)["connected"]


def barrier_of(name: str) -> Measured | None:
    """The setting's errors along the line, at its largest scale."""
    return ev.best("error", name)


@rule
def connected(claim: Claim, name: str) -> Cell | None:
    """Is the error barrier at most 2 points; ``inverse``: is it above?"""
    m = barrier_of(name)
    if m is None:
        return None
    found = connectivity(m)
    size = effect(100 * found["barrier"], "error barrier in points", geometric=False)
    inverse = {True: False, False: True}
    linked = found["connected"].map(inverse) if "inverse" in claim.told else found["connected"]
    return _cell(claim, m, linked, [size])


@rule
def lemma(claim: Claim, name: str) -> Cell | None:
    """Is the error half-way at most twice the worse end's?"""
    m = ev.best("error_between", name)
    if m is None:
        return None
    between = ev.by_pair(ev.half_way(m.of("error_between")))
    bound = ev.by_pair(m.of("twice_epsilon"))
    spare = effect(100 * (bound - between), "points below the bound", geometric=False)
    return _cell(claim, m, between <= bound, [spare])


# linearity and commutativity


@rule
def within(claim: Claim, name: str) -> Cell | None:
    """Is ``quantity`` at most a tenth, in absolute value: by itself, ``over`` the smallest of other
    quantities of the pair, or over the same of a pair that is not connected (``over_control``)?
    """
    m = ev.best(claim.told["quantity"], name)
    if m is None:
        return None
    values = m.of(claim.told["quantity"])
    if "over" in claim.told:
        beside = [m.of(quantity) for quantity in claim.told["over"]]
        values = (values / pd.concat(beside, axis=1).min(axis=1)).dropna()
    elif claim.told.get("over_control"):
        kind = "unmatched" if m.setting.needs_order else "independent"
        values = (values / m.of(claim.told["quantity"], "control", kind)).dropna()
    if values.empty:
        return None
    third = THIRD[claim.closeness](name) if claim.closeness else ""
    notes = [f"{(values.abs() <= limit).mean():.0%} at {limit:g}" for limit in BESIDE]
    if third and claim.closeness == "partners":
        notes += [f"closeness at {at:g}: {_beside_partners(name, at)}" for at in OTHER_MARGINS]
    return _cell(claim, m, values.abs() <= CLOSE, _effects(claim, values), third, notes)


def _effects(claim: Claim, values: pd.Series) -> list[Effect]:
    """Half-way where there are alphas; hidden layers and logits apart where both are."""
    alpha = values.index.get_level_values("alpha")
    values = values[((alpha == 0.5) | (alpha < 0)) & np.isfinite(values.to_numpy())]
    parts = {", hidden layers": ev.hidden(values), ", logits": ev.logits(values)}
    if any(part.empty for part in parts.values()):
        parts = {"": values}
    found = []
    for where, part in parts.items():
        signed, unit = "signed" in claim.told, claim.told["unit"] + where
        if not signed:  # rounding may leave a difference of 0 below it
            part = part.clip(lower=1e-12) ** (0.5 if claim.told.get("root") else 1)
        found.append(effect(ev.by_pair(part) if signed else ev.typical(part), unit, not signed))
    return found


def _beside_partners(name: str, margin: float = ALIKE) -> str:
    """Hidden layers, then logits, beside the spread and the sparse partner at equal distance."""
    m = ev.best("rho", name, "closeness")
    if m is None or m.scale == "proxy":
        return ""
    told = []
    for where, part in (("hidden layers", ev.hidden), ("logits", ev.logits)):
        own, ratios = ev.typical(part(m.of("rho"))), {}
        for kind in ("spread", "sparse"):
            logs = np.log(own / ev.typical(part(m.of("rho", "null", kind)))).dropna()
            if len(logs):
                ratios[kind] = logs.to_numpy()
        if ratios:
            told.append(f"{where}: {_between(ratios, margin)}")
    few = f" ({m.pairs} pair{'s' * (m.pairs != 1)})" if m.pairs < 3 else ""  # then no interval
    return "; ".join(told) + few


def _between(logs: dict[str, np.ndarray], margin: float) -> str:
    """One word where both references say the same, else between them, with both ratios."""
    words = {compared(values, margin) for values in logs.values()}
    if len(words) == 1:
        return words.pop()
    told = ", ".join(f"{np.exp(values.mean()):.2f} of {kind}" for kind, values in logs.items())
    return f"between spread and sparse ({told})"


def compared(logs: np.ndarray, margin: float = ALIKE) -> str:
    """ "more linear", "as linear" or "less linear" than partners at equal distance, by the
    logarithms of the pairs' ratios; undecided where the interval over pairs holds the margin.
    """
    middle = effect(np.exp(logs), "")
    low, high = (middle.value,) * 2 if len(logs) < 3 else (middle.low, middle.high)
    if high < 1 / margin:
        return "more linear"
    if low > margin:
        return "less linear"
    return "as linear" if low >= 1 / margin and high <= margin else "undecided"


def _beside_signs(name: str) -> str:
    """Coherence: Dist_com's numerator over its expectation under random signs of the units."""
    m = ev.best("coherence", name)
    if m is None or m.scale == "proxy":
        return ""
    ratio = effect(ev.by_pair(m.of("coherence")), "").value
    alike = 1 / ALIKE <= ratio <= ALIKE
    return f"{'as' if alike else f'{ratio:.2g} times what'} random signs of units give"


def _beside_tuned(name: str) -> str:
    """A stitched pair beside networks stitched to tuned partners."""
    found = beside_tuned(name)
    if found is None:
        return ""
    word, difference = found
    return f"{word} ({number(difference.value)} points)"


#: What gives the third answer, by Claim.closeness.
THIRD = {"partners": _beside_partners, "coherence": _beside_signs, "tuned": _beside_tuned}


@rule
def cooccurs(claim: Claim, name: str) -> Cell | None:
    """Of the pairs that are connected: at which layers is each within a tenth, half-way?"""
    m, lines = ev.best("cos_ratio", name), barrier_of(name)
    if m is None or lines is None or lines.setting.profile != m.setting.profile:
        return None
    linked, squares = verdicts(lines), ev.half_way(m.of("cos_ratio"))
    own = squares[squares.index.isin(linked.index[linked.eq(True)], level="pair")]
    if own.empty:
        return None
    worst = ev.by_pair(own, "max")
    size = effect(worst**0.5, "share of the distance at the worst layer")
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
    excess = m.of("stitched_error").sub(ev.ends(m.of("error")), level="pair")
    layer = excess.groupby(level="site").mean().idxmax()
    worst = 100 * ev.by_pair(excess[excess.index.get_level_values("site") == layer])
    size = effect(worst, f"excess in points at {layer}", geometric=False)
    third = THIRD[claim.closeness](name) if claim.closeness else ""
    return _cell(claim, m, excess <= MARGIN, [size], third)


# rank

NULLS = {
    "gaussian matrix": "a Gaussian",
    "before training": "the untrained layer",
    "images shuffled unit by unit": "shuffled responses",
}


@rule
def lower(claim: Claim, name: str) -> Cell | None:
    """Is ``quantity`` lower than the same of the null ``than``, layer by layer? Layers whose shape
    leaves no choice, the output's few rows, are left out.
    """
    quantity, kind = claim.told["quantity"], claim.told["than"]
    m = ev.best(quantity, name)
    if m is None:
        return None
    ratio = (m.of(quantity) / m.of(quantity, "null", kind)).dropna()
    if quantity.endswith("_W"):  # the output's map has few rows, whatever it learned
        ratio = ratio[ratio.index.isin(ev.sites_of(ratio)[:-1], level="site")]
    if ratio.empty:
        return None
    size = effect(ev.by_pair(ratio), f"share of that of {NULLS[kind]}")
    return _cell(claim, m, ratio < 1, [size])


@rule
def training_lowers(claim: Claim, name: str) -> Cell | None:
    """Is the stable rank of every layer after training below that after the first epoch?"""
    m = ev.best("stable_rank_share_W", name, "fig22")
    if m is None:
        return None
    ratio = (b5.at_epoch(m, m.setting.epochs) / b5.at_epoch(m, 1)).dropna()
    if ratio.empty:
        return None
    return _cell(claim, m, ratio < 1, [effect(ev.by_pair(ratio), "share of that after epoch 1")])


@rule
def fails(claim: Claim, name: str) -> Cell | None:
    """Does the barrier on training images exceed another by more than 2 points? ``narrow``: that of
    the narrowest network exceeds the widest's, both after training; ``early``: at every width, that
    after the first epoch exceeds that after training.
    """
    m = ev.best(b5.ON_TRAINING, name, "widths")
    if m is None:
        return None
    table = b5.trained().pivot_table(b5.ON_TRAINING, ["width", "pair"], "epoch")
    early, after = table.iloc[:, 0], table.iloc[:, -1]
    narrowest, *_, widest = (after[width] for width in sorted(WIDTHS.values()))
    narrow = narrowest - widest.to_numpy()
    excess = narrow if claim.told["which"] == "narrow" else (early - after).droplevel("width")
    size = effect(100 * excess, "difference in points, training images", geometric=False)
    return _cell(claim, m, excess > MARGIN, [size])


@rule
def describes(claim: Claim, name: str) -> Cell | None:
    """Within every epoch, does the barrier over widths grow with the stable rank over n?"""
    m = ev.best(b5.ON_TRAINING, name, "widths")
    if m is None:
        return None
    by_epoch = b5.trained().groupby("epoch")
    found = pd.Series({e: b5.correlation(of, barrier=b5.ON_TRAINING) for e, of in by_epoch})
    unit = "rank correlation within an epoch, mean over epochs"
    return _cell(claim, m, found > 0.5, [Effect(float(found.mean()), unit, len(found))])
