"""Figures of B.2: LLFC beside its baseline, its coefficient, and what closeness gives."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llfc_book import evidence as ev
from llfc_book.claims import rules
from llfc_book.evidence import Measured
from llfc_book.show import style
from llfc_book.show.style import ALPHAS, LOOKS, Shown, span

SPAWNED = ("mlp_mnist_spawn", "vgg16_cifar10_spawn", "resnet20_cifar10_spawn")


def rho(m: Measured) -> pd.Series:
    """The share of the distance by which features half-way miss the mean, per site, as B.2's
    quantities give it.
    """
    return ev.half_way(m.of("cos_ratio")).clip(lower=0) ** 0.5


def held() -> list[Measured]:
    """Settings of the appendix on real data that stand beside partners at equal distance."""
    found = ev.measured("rho", lambda s: ev.spawned(s) or ev.matched(s), "closeness")
    return [m for m in found if m.scale != "proxy"]


def per_pair(m: Measured, kind: str, logits: bool) -> np.ndarray:
    """rho of the pair ("") or of its partners ("spread", "sparse"), one number a pair: the
    geometric mean over hidden sites, or the logits' own.
    """
    values = m.of("rho", "null" if kind else "value", kind)
    chosen = ev.logits(values) if logits else ev.hidden(values)
    return ev.typical(chosen).to_numpy() if len(chosen) else np.array([])


def closeness() -> Shown:
    """rho of every setting beside partners at the same distance that training did not make.

    Source: Definition 2 (A.1) and Figures 8 to 15 (B.2).
    """
    settings = held()
    figure, axes = style.sheet(1, 2, height=2.9)
    told = []
    for axis, logits in zip(axes, (False, True)):
        places = range(len(settings))
        for kind, what in (("spread", "spread"), ("sparse", "sparse")):
            style.band(axis, places, [per_pair(m, kind, logits) for m in settings], what)
        own = [per_pair(m, "", logits) for m in settings]
        style.dots(axis, places, own, "pair")
        style.settings_axis(axis, [m.name for m in settings])
        axis.set_ylabel("share of the distance, ρ")
        axis.axhline(0.5, color="black", linewidth=0.7, linestyle=":")
        every = np.concatenate(
            [
                g
                for kind in ("", "spread", "sparse")
                for m in settings
                for g in [per_pair(m, kind, logits)]
            ]
        )
        style.log_axis(axis)
        axis.set_ylim(0.8 * every.min(), 1.25 * every.max())
        where = "at the logits" if logits else "mean over hidden layers"
        style.title(axis, f"{where}; dotted: an endpoint in the middle's place")
        told.append(f"{where} {span(np.concatenate(own))}")
    style.legend(figure, axes)
    names = ", ".join(m.tag for m in settings)
    alt = f"Residual of LLFC half-way as a share of the feature distance ({names}): "
    return Shown(figure, alt + "; ".join(told) + ".")


def as_printed(settings: Sequence[Measured], columns: int) -> Shown:
    """The paper's panels: 1 - cosine at three alphas beside the baseline, and below or beside it
    1 - coefficient, with the standard deviation over images.

    Source: Figures 8 to 15 (B.2).
    """
    groups = [settings[k : k + columns] for k in range(0, len(settings), columns)]
    beside = columns == 1  # the two quantities of a setting in one row
    figure, axes = style.sheet(2 if beside else columns, len(groups) * (1 if beside else 2), 1.68)
    for axis in axes[len(settings) * 2 :]:
        axis.set_axis_off()
    for row, group in enumerate(groups):
        for column, m in enumerate(group):
            first = 2 * row if beside else 2 * row * columns + column
            cosine, coefficient = axes[first], axes[first + (1 if beside else columns)]
            _alphas(cosine, m, "1-cos_alpha")
            _baseline(cosine, m)
            _alphas(coefficient, m, "1-coef_alpha")
            coefficient.axhline(0, color="black", linewidth=0.6)
            style.title(cosine, f"{m.name} ({m.scale})")
            if beside or column == 0:
                cosine.set_ylabel("1 − cosine")
                coefficient.set_ylabel("1 − coefficient")
    style.legend(figure, axes)
    told = [
        f"{m.tag}: 1 - cosine {span(ev.half_way(m.of('1-cos_alpha')), 3)} half-way against"
        f" {span(m.of('1-cos_AB'), 2)} between A and B, 1 - coefficient"
        f" {span(ev.half_way(m.of('1-coef_alpha')), 2)}"
        for m in settings
    ]
    return Shown(figure, "LLFC layer by layer, as the paper draws it. " + "; ".join(told) + ".")


def _alphas(axis: Axes, m: Measured, quantity: str) -> None:
    values = m.of(quantity)
    sites = ev.sites_of(values)
    level = values.index.get_level_values("alpha")
    for k, (alpha, colour) in enumerate(ALPHAS.items()):
        groups = ev.by_site(values[level == alpha], sites)
        shift = 0.2 * (k - 1)
        style.dots(axis, range(len(sites)), groups, "pair", shift, colour, f"α = {alpha:g}")
        deviations = m.spread(quantity, alpha).reindex(sites).to_numpy()
        _bars(axis, [g.mean() for g in groups], deviations, shift, colour)
    style.layers(axis, sites)


def _baseline(axis: Axes, m: Measured) -> None:
    values = m.of("1-cos_AB")
    sites = ev.sites_of(values)
    groups = ev.by_site(values, sites)
    style.dots(axis, range(len(sites)), groups, "chance", 0.4, label="A and B: 1 − cosine")
    deviations = m.spread("1-cos_AB").reindex(sites).to_numpy()
    _bars(axis, [g.mean() for g in groups], deviations, 0.4, LOOKS["chance"].colour)


def _bars(
    axis: Axes, means: list[float], deviations: np.ndarray, shift: float, colour: str
) -> None:
    places = [k + shift for k in range(len(means))]
    look = {"ecolor": colour, "elinewidth": 0.8, "capsize": 1.5, "alpha": 0.8}
    axis.errorbar(places, means, yerr=deviations, fmt="none", **look)


def spawned() -> Shown:
    """The paper's Figures 8 to 10."""
    found = [ev.best("1-cos_alpha", name) for name in SPAWNED]
    return as_printed([m for m in found if m], 1)


def matched() -> Shown:
    """The paper's Figures 12 to 14."""
    found = ev.measured("1-cos_alpha", lambda s: ev.matched(s) and s.model == "mlp")
    return as_printed(found, 3)


def layer_norm() -> Shown:
    """The paper's Figure 15, at the widths that there are."""
    found = ev.measured("1-cos_alpha", lambda s: ev.matched(s) and s.model == "resnet20_ln")
    return as_printed([m for m in found if m.scale != "proxy"], 1)


def together() -> Shown:
    """Every pair by how linear it is half-way and by its barrier: does LLFC come with LMC?

    Source: B.2, "consistently co-occurs".
    """
    figure, axes = style.sheet(2, 1, 3.0)
    seen: dict[str, Any] = {}
    for m in ev.measured("cos_ratio", lambda s: s.family in ("spawned", "matched")):
        errors = ev.at("error", m.setting.name, m.setting.profile)
        if m.scale == "proxy" or errors is None:
            continue
        for what, role, kind in (
            ("pair", "value", ""),
            ("unmatched", "control", "unmatched"),
            ("independent", "control", "independent"),
        ):
            barrier = rules.barriers(errors, role, kind)
            shares = ev.half_way(m.of("cos_ratio", role, kind)).clip(lower=0) ** 0.5
            inside, last = ev.typical(ev.hidden(shares)), ev.typical(ev.logits(shares))
            for pair in barrier.index.intersection(last.index):
                point = (100 * barrier[pair], inside[pair], last[pair])
                seen.setdefault(what, []).append(point)
    for what, points in seen.items():
        # methods that match the same two networks have the same control
        look, x = LOOKS[what], np.unique(np.array(points).round(9), axis=0)
        seen[what] = x
        for k, axis in enumerate(axes):
            how = {"linestyle": "", "marker": look.marker, "color": look.colour, "markersize": 4}
            axis.plot(np.maximum(x[:, 0], 0.02), x[:, k + 1], label=look.label, alpha=0.8, **how)
    for axis, where in zip(axes, ("mean over hidden layers", "logits")):
        axis.set_xscale("log")
        style.log_axis(axis)
        axis.set_xlabel("error barrier (points; below 0.02 drawn there)")
        axis.set_ylabel("share of the distance, ρ")
        axis.axvline(2, color="black", linewidth=0.7, linestyle=":")
        style.title(axis, where)
    style.legend(figure, axes)
    counts = ", ".join(f"{LOOKS[what].label}: {len(points)}" for what, points in seen.items())
    return Shown(figure, f"LLFC against the error barrier, a point a pair ({counts}).")
