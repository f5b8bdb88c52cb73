"""B.2: LLFC beside its baseline, its coefficient, and what closeness gives."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.claims import rules
from llfc_book.evidence import Measured
from llfc_book.show import style
from llfc_book.show.style import ALPHAS, LOOKS, Series, Shown

WHO = {"pair": ("value", ""), **{k: ("control", k) for k in ("unmatched", "independent")}}
ENDPOINT = 0.5  # rho of an endpoint in the place of the network half-way
LEAST = 0.02  # points: smaller barriers are drawn there


def rho(m: Measured, role: str = "value", kind: str = "") -> pd.Series:
    """The share of the distance by which features half-way miss the mean, per site, as B.2's
    quantities give it.
    """
    return ev.half_way(m.of("cos_ratio", role, kind)).clip(lower=0) ** 0.5


def held() -> list[Measured]:
    """Settings of the appendix on real data that stand beside partners at equal distance."""
    return ev.measured("rho", ev.printed, "closeness")


def per_pair(m: Measured, kind: str, logits: bool) -> np.ndarray:
    """rho of the pair ("") or of its partners ("spread", "sparse"), one number a pair: the
    geometric mean over hidden sites, or the logits' own.
    """
    values = m.of("rho", "null" if kind else "value", kind)
    return ev.typical(ev.logits(values) if logits else ev.hidden(values)).to_numpy()


def closeness() -> Shown:
    """rho of every setting beside partners at the same distance that training did not make."""
    figure, axes = style.sheet(1, 2, 2.7, share="x")
    told = []
    for axis, logits in zip(axes, (False, True)):
        kinds = {"spread": "spread", "sparse": "sparse", "": "pair"}
        series = [
            Series(what, [per_pair(m, kind, logits) for m in held()], band=bool(kind))
            for kind, what in kinds.items()
        ]
        where = "at the logits" if logits else "mean over hidden layers"
        head = f"{where}; dotted: an endpoint in the middle's place"
        how = (head, "distance from the mean, ρ", ENDPOINT)
        told.append(style.panel(axis, style.names(held()), series, *how, log=True))
    return style.shown(figure, "Residual of LLFC half-way as a share of the distance", told)


def as_printed(settings: Sequence[Measured], columns: int) -> Shown:
    """The paper's panels, ``columns`` settings in a row: 1 - cosine at three alphas beside the
    baseline, and 1 - coefficient, with the standard deviation over images (Figures 8 to 15).
    """
    figure, axes = style.sheet(2 * columns, -(-len(settings) // columns), 1.75)
    told = []
    for m, *both in zip(settings, axes[::2], axes[1::2]):
        heads = f"{m.name} ({m.scale})".replace(", ", ",\n" if columns > 1 else ", "), ""
        baseline = ("chance", "1-cos_AB", -1, "A and B: 1 − cosine", "")
        for axis, head, name, beside in zip(both, heads, ("cos", "coef"), ([baseline], [])):
            lines = [
                ("pair", f"1-{name}_alpha", alpha, f"α = {alpha:g}", colour)
                for alpha, colour in ALPHAS.items()
            ]
            sites = ev.sites_of(m.of(f"1-{name}_alpha"))
            series = [
                Series(
                    what,
                    ev.by_site(m.of(quantity).xs(alpha, level="alpha"), sites),
                    label,
                    colour,
                    bars=m.spread(quantity, alpha).reindex(sites).to_numpy(),
                )
                for what, quantity, alpha, label, colour in (*lines, *beside)
            ]
            label = {"cos": "1 − cosine", "coef": "1 − coefficient"}[name]
            told.append(style.panel(axis, sites, series, head, label))
        both[1].axhline(0, color="black", linewidth=0.6)
    return style.shown(figure, "LLFC layer by layer, as the paper draws it", told)


def spawned() -> Shown:
    """The paper's Figures 8 to 10."""
    return as_printed(ev.measured("1-cos_alpha", ev.spawned), 1)


def matched() -> Shown:
    """The paper's Figures 12 to 14: a row a method, both data sets beside each other."""
    found = ev.measured("1-cos_alpha", lambda s: ev.matched(s) and s.model == "mlp")
    methods = [*ev.METHODS]
    return as_printed(sorted(found, key=lambda m: methods.index(m.setting.matching)), 2)


def together() -> Shown:
    """Every pair by how linear it is half-way and by its barrier: does LLFC come with LMC?
    (B.2, "consistently co-occurs").
    """
    figure, axes = style.sheet(2, 1, 3.0)
    settings = ev.measured("cos_ratio", lambda s: s.family in ("spawned", "matched"))
    for what, who in WHO.items():
        tables = []
        for m in settings:
            errors = ev.at("error", m.setting.name, m.setting.profile)
            if errors is not None:
                shares = rho(m, *who)
                found = {"barrier": (100 * rules.barriers(errors, *who)).clip(lower=LEAST)}
                found |= {k: ev.typical(of(shares)) for k, of in enumerate((ev.hidden, ev.logits))}
                tables.append(pd.DataFrame(found).dropna())
        # methods that match the same two networks have the same control
        points, look = pd.concat(tables).round(9).drop_duplicates(), LOOKS[what]
        how = {"color": look.colour, "markersize": 4, "alpha": 0.8, "label": look.label}
        for k, axis in enumerate(axes):
            axis.plot(points["barrier"], points[k], look.marker, **how)
    told = []
    for axis, where in zip(axes, ("mean over hidden layers", "logits")):
        style.log_axis(axis)
        style.log_x(axis)
        style.threshold(axis, 2, across=True)
        axis.set_xlabel(f"error barrier (points; least {LEAST})")
        axis.set_ylabel("distance from the mean, ρ")
        style.title(axis, where)
        told += [f"{where}, {of.get_label()} {style.span(of.get_ydata())}" for of in axis.lines[:3]]
    return style.shown(figure, "LLFC against the error barrier, a point a pair", told)
