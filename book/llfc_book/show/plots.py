"""Figures drawn from the rows of a record or of a live measurement; each names its profile and
describes itself.
"""

import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llfc_book.claims import verdicts
from llfc_book.claims.claims import TABLES
from llfc_book.show.select import at, numbers, of, own, pair_word, pairwise, recipe_of, sites_of
from llfc_book.study.settings import MATCHED, RECIPES, SPAWN_AT
from llfc_lib.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    STYLE,
    WIDTH,
    Shown,
    legend,
    log_axis,
)

ALPHA_COLOURS = {0.25: SKY, 0.5: BLUE, 0.75: PURPLE}
NULL_COLOURS = {"rotation": ORANGE, "entries": GREEN, "gaussian": GREY}
NULL_LABELS = {
    "rotation": "null: difference rotated",
    "entries": "null: its entries shuffled",
    "gaussian": "null: Gaussian",
}
UNMATCHED = "control: before matching"
NULL_OF_MATCHED = (ORANGE, "null: difference rotated, as far away")


def _figure(
    frame: pd.DataFrame, panels: int, height: float, rows: int = 1
) -> tuple[Figure, list[Axes], str]:
    """An empty figure whose last line says what made it."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
        axes = figure.subplots(rows, panels, squeeze=False).ravel().tolist()
    count = frame["pair"].nunique()
    made_by = (
        f"profile {frame.attrs['profile']}, {', '.join(sorted(frame['data'].unique()))}, {count}"
        f" pair{'s' * (count > 1)}"
    )
    told = textwrap.wrap(f"{made_by}; train / test images: {frame.attrs['split']}", 115)
    if frame.attrs["reductions"]:
        reduced = textwrap.wrap(f"reduced: {frame.attrs['reductions']}".replace(" -> ", " → "), 110)
        told += (
            reduced if len(reduced) <= 3 else ["reduced in several ways: see the profiles in B.1"]
        )
    figure.supxlabel("\n".join(told), fontsize=7, color="#444444", x=0.995, ha="right")
    return figure, axes, made_by


def _band(
    axis: Axes, groups: Sequence[np.ndarray], colour: str, label: str, place: int | None = None
) -> None:
    """A null: from its smallest to its largest value over pairs, with its mean, at each site.

    ``place`` 0, 1 or 2 puts it in that third of the site's width, so that nulls of one kind stand
    side by side.
    """
    left, width = (-0.42, 0.84) if place is None else (-0.42 + 0.28 * place, 0.26)
    places, found = _filled(groups)
    if not found:
        return
    start = places + left
    low, high, mean = (
        np.array([function(group) for group in found]) for function in (np.min, np.max, np.mean)
    )
    axis.bar(
        start, high - low, width, low, align="edge", color=colour, alpha=0.30, linewidth=0, zorder=1
    )
    axis.hlines(mean, start, start + width, color=colour, linewidth=1.6, zorder=2, label=label)


def _filled(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The groups that hold anything, and their places along the axis."""
    places = [k for k, group in enumerate(groups) if len(group)]
    return np.array(places, dtype=float), [groups[k] for k in places]


def _points(
    axis: Axes,
    groups: Sequence[np.ndarray],
    colour: str,
    label: str,
    shift: float = 0.0,
    marker: str = "o",
) -> None:
    """Every pair as a faint dot, their mean as a full one."""
    places, found = _filled(groups)
    if found:
        each = np.repeat(places, [len(group) for group in found])
        axis.plot(
            each + shift,
            np.concatenate(found),
            marker,
            color=colour,
            markersize=2.5,
            alpha=0.35,
            zorder=3,
        )
        axis.plot(
            places + shift,
            [group.mean() for group in found],
            marker,
            color=colour,
            markersize=5,
            zorder=4,
            label=label,
        )


def _site_axis(axis: Axes, sites: Sequence[str]) -> None:
    """Layers along the axis; many stand upright, with the words that all of them share said once
    below.
    """
    axis.set_xticks(range(len(sites)), sites)
    if len(sites) > 6:
        short = [
            site.replace("Block ", "")
            .replace("Conv ", "" if "Conv 5-1" in sites else "Conv ")
            .replace(" conv ", " c")
            for site in sites
        ]
        axis.set_xticks(range(len(sites)), short, rotation=90, fontsize=7)
        axis.set_xlabel(
            "block (c1, c2: its convolutions)"
            if any(" c" in name for name in short)
            else "convolution, then classifier"
            if "Conv 5-1" in sites
            else "block"
        )
    axis.set_xlim(-0.6, len(sites) - 0.4)
    axis.grid(axis="x", visible=False)


def _span(values: pd.Series, digits: int) -> str:
    """ "0.054 to 0.094" for a figure's description; what the record lacks is said so."""
    known = values.dropna()
    return (
        f"{known.min():.{digits}f} to {known.max():.{digits}f}" if len(known) else "(not measured)"
    )


def llfc(frame: pd.DataFrame) -> Shown:
    """Figures 8 to 10: 1-cos against its baseline, coef, and their ratio with every null.

    Source: Figures 8 to 15 (B.2).
    """
    rows = own(frame)
    sites = sites_of(rows, "1-cos_alpha", inner=False)
    figure, axes, made_by = _figure(rows, 2, 5.6 if len(sites) <= 6 else 7.0, rows=2)
    alphas = sorted(
        {a for a in numbers(rows, "1-cos_alpha").index.get_level_values("alpha") if a >= 0}
    )

    def image_std(quantity: str, alpha: float | None) -> list[float]:
        chosen = rows[
            (rows["quantity"] == quantity)
            & (rows["role"] == "value")
            & (rows["statistics"] == "interpolated")
        ]
        chosen = chosen[chosen["alpha"].isna() if alpha is None else chosen["alpha"] == alpha]
        return [chosen.loc[chosen["site"] == site, "std"].mean() for site in sites]

    for axis, quantity in ((axes[0], "1-cos_alpha"), (axes[1], "1-coef_alpha")):
        for j, alpha in enumerate(alphas):
            groups, shift = (
                pairwise(numbers(rows, quantity), sites, alpha),
                0.16 * (j - (len(alphas) - 1) / 2),
            )
            _points(axis, groups, ALPHA_COLOURS.get(alpha, BLUE), f"α = {alpha:g}", shift)
            axis.errorbar(
                [k + shift for k in range(len(sites))],
                [g.mean() for g in groups],
                yerr=image_std(quantity, alpha),
                fmt="none",
                ecolor=ALPHA_COLOURS.get(alpha, BLUE),
                elinewidth=0.8,
                capsize=1.5,
                alpha=0.8,
            )
        _site_axis(axis, sites)
    groups = pairwise(numbers(rows, "1-cos_AB"), sites)
    _points(axes[0], groups, RED, "A and B: $1-\\cos_{AB}$", 0.36, "s")
    axes[0].errorbar(
        [k + 0.36 for k in range(len(sites))],
        [g.mean() for g in groups],
        yerr=image_std("1-cos_AB", None),
        fmt="none",
        ecolor=RED,
        elinewidth=0.8,
        capsize=1.5,
    )
    _band(
        axes[1],
        pairwise(numbers(rows, "1-coef_alpha", "null", "nearest endpoint"), sites, 0.5),
        "#b8860b",
        "null: nearest endpoint",
    )
    axes[0].set_ylabel("1 - cosine, sd over images")
    axes[0].set_title("cosine, and its baseline", loc="left", fontsize=8)
    axes[1].set_ylabel("1 - coefficient, sd over images")
    axes[1].set_title("coefficient", loc="left", fontsize=8)
    axes[1].axhline(0, color="black", linewidth=0.6)
    ratio, again = numbers(rows, "cos_ratio"), numbers(rows, "cos_ratio", statistics="recomputed")
    all_sizes = (
        rows["kind"].str.endswith("t=1").any()
    )  # else partners at the pair's distance alone were measured
    for axis, size in (
        ((axes[2], "t=1"), (axes[3], "matched")) if all_sizes else ((axes[2], "matched"),)
    ):
        _points(axis, pairwise(ratio, sites, 0.5), BLUE, "α = 0.5")
        if len(again):
            _points(
                axis, pairwise(again, sites, 0.5), RED, "α = 0.5, statistics recomputed", 0.25, "D"
            )
        _points(
            axis,
            pairwise(numbers(rows, "cos_ratio", "control", "unmatched"), sites, 0.5),
            RED,
            UNMATCHED,
            0.3,
            "x",
        )
        _band(
            axis,
            pairwise(numbers(rows, "cos_ratio", "null", "nearest endpoint"), sites, 0.5),
            "#b8860b",
            "null: nearest endpoint",
        )
        for place, (kind, colour) in enumerate(NULL_COLOURS.items()):
            _band(
                axis,
                pairwise(numbers(rows, "cos_ratio", "null", f"{kind} {size}"), sites, 0.5),
                colour,
                NULL_LABELS[kind],
                place,
            )
        _site_axis(axis, sites)
        axis.set_ylabel(r"$(1-\cos_\alpha)\,/\,(1-\cos_{AB})$, ratio")
        axis.set_title(
            (
                "displaced partners, t = 1"
                if size == "t=1"
                else "displaced partners at the pair's distance"
            ),
            loc="left",
            fontsize=8,
        )
        if all_sizes:
            axis.set_ylim(bottom=0)
        else:  # before matching it is large
            log_axis(axis)
    if not all_sizes:
        _coefficient_nulls(axes[3], rows, sites)
    legend(figure, axes)
    half, null, turned = (
        numbers(rows[rows["alpha"] == 0.5], "cos_ratio", *which)
        for which in ((), ("null", "nearest endpoint"), ("null", "rotation matched"))
    )
    displaced = (
        f", partners rotated at random to the same distance between {turned.min():.3f} and"
        f" {turned.max():.3f}"
        if len(turned)
        else ""
    )
    before = numbers(rows[rows["alpha"] == 0.5], "cos_ratio", "control", "unmatched")
    displaced += (
        f", the same two networks before matching {_span(before, 2)}" if len(before) else ""
    )
    alt = (
        f"LLFC of {pair_word(rows)} pairs ({made_by}). Half-way, 1 - cosine of the features is"
        f" between {half.min():.3f} and {half.max():.3f} of its baseline; the nearest endpoint"
        f" would give {_span(null, 3)}{displaced}. 1 - coefficient reaches"
        f" {numbers(rows, '1-coef_alpha').abs().max():.3f}."
    )
    return Shown(figure, alt)


def _coefficient_nulls(axis: Axes, rows: pd.DataFrame, sites: Sequence[str]) -> None:
    """1 - coef half-way beside that of displaced partners and of the pair before matching."""
    _points(axis, pairwise(numbers(rows, "1-coef_alpha"), sites, 0.5), BLUE, "α = 0.5")
    _points(
        axis,
        pairwise(numbers(rows, "1-coef_alpha", "control", "unmatched"), sites, 0.5),
        RED,
        UNMATCHED,
        0.3,
        "x",
    )
    for place, (kind, colour) in enumerate(NULL_COLOURS.items()):
        _band(
            axis,
            pairwise(numbers(rows, "1-coef_alpha", "null", f"{kind} matched"), sites, 0.5),
            colour,
            NULL_LABELS[kind],
            place,
        )
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set_ylabel("1 - coefficient")
    axis.set_title("coefficient, partners at the pair's distance", loc="left", fontsize=8)
    _site_axis(axis, sites)


def commutativity(frame: pd.DataFrame) -> Shown:
    """Dist_com beside Dist_W and Dist_H (as Figures 16 to 18), and against its nulls.

    Source: Figures 16 to 18 (B.3).
    """
    rows = own(frame)
    sites = sites_of(rows, "dist_com")
    figure, axes, made_by = (
        _figure(rows, 2, 3.4) if len(sites) <= 6 else _figure(rows, 1, 6.4, rows=2)
    )
    com, w, h = (numbers(rows, q) for q in ("dist_com", "dist_W", "dist_H"))
    for axis in axes:
        _points(axis, pairwise(com, sites), BLUE, "Dist$_{com}$")
    _points(axes[0], pairwise(w, sites), GREEN, "Dist$_W$", -0.18, "s")
    _points(axes[0], pairwise(h, sites), PURPLE, "Dist$_H$", 0.18, "^")
    _band(
        axes[1],
        pairwise(numbers(rows, "dist_com", "null", "formula"), sites),
        "#b8860b",
        "null: formula 4r/(1+r)",
        1,
    )
    _band(
        axes[1],
        pairwise(numbers(rows, "dist_com", "null", "shuffled units"), sites),
        GREY,
        "null: shuffled units",
        0,
    )
    _band(
        axes[1],
        pairwise(numbers(rows, "dist_com", "null", "rotation matched"), sites),
        ORANGE,
        NULL_LABELS["rotation"],
        2,
    )
    control = pairwise(numbers(rows, "dist_com", "control", "independent"), sites)
    _points(axes[1], control, RED, "control: independent pair", 0.3, "x")
    _points(
        axes[1],
        pairwise(numbers(rows, "dist_com", "control", "unmatched"), sites),
        RED,
        UNMATCHED,
        0.42,
        "+",
    )
    for axis, title in zip(
        axes, ("beside the distances of weights and features", "its nulls and control")
    ):
        log_axis(axis)
        axis.set_ylabel("dist (no unit, log scale)")
        axis.set_title(title, loc="left", fontsize=8)
        _site_axis(axis, sites)
    legend(figure, axes, columns=3)
    formula, shuffled = (
        numbers(rows, "dist_com", "null", kind) for kind in ("formula", "shuffled units")
    )
    alt = (
        f"Commutativity of {pair_word(rows)} pairs ({made_by}). Dist_com is {(com / w).min():.3f}"
        f" to {(com / w).max():.3f} of Dist_W; it is {_span((com / formula).dropna(), 2)} times"
        f" what the formula gives without structure and {_span((com / shuffled).dropna(), 1)} times"
        " what shuffled units give."
    )
    return Shown(figure, alt)


def additivity(frame: pd.DataFrame) -> Shown:
    """Weak additivity at every ReLU against unrelated images, displaced partners and the control.

    Source: Definition 3 (A.2).
    """
    rows = own(frame)
    sites, values = sites_of(rows, "dist_add"), numbers(rows, "dist_add")
    figure, (axis,), made_by = _figure(rows, 1, 2.9 if len(sites) <= 6 else 3.9)
    shuffled = numbers(rows, "dist_add", "null", "shuffled images")
    _points(axis, pairwise(values, sites), BLUE, f"{pair_word(rows)} pair")
    _band(axis, pairwise(shuffled, sites), "#b8860b", "null: shuffled images")
    for place, (kind, colour) in enumerate(NULL_COLOURS.items()):
        _band(
            axis,
            pairwise(numbers(rows, "dist_add", "null", f"{kind} matched"), sites),
            colour,
            NULL_LABELS[kind],
            place,
        )
    _points(
        axis,
        pairwise(numbers(rows, "dist_add", "control", "independent"), sites),
        RED,
        "control: independent pair",
        0.3,
        "x",
    )
    log_axis(axis)
    axis.set_ylabel("dist (no unit, log scale)")
    _site_axis(axis, sites)
    axis.set_title(
        "σ(x + y) against σ(x) + σ(y); displaced partners at the pair's distance",
        loc="left",
        fontsize=8,
    )
    legend(figure, [axis], columns=3)
    alt = (
        f"Weak additivity of the ReLU ({made_by}): dist is {values.min():.4f} to"
        f" {values.max():.4f}, with unrelated images {_span(shuffled, 3)}."
    )
    return Shown(figure, alt)


def stitching(frame: pd.DataFrame) -> Shown:
    """Stitched errors in both directions beside the endpoints, the paper's table, and the nulls.

    Source: Tables 1 to 3 (B.4).
    """
    from llfc_book.show.tables import wilson

    rows, printed = own(frame), TABLES.get(frame.attrs["experiment"], {})
    sites = sites_of(rows, "stitched_error")
    figure, axes, made_by = (
        _figure(rows, 2, 3.3) if len(sites) <= 6 else _figure(rows, 1, 6.6, rows=2)
    )
    error = numbers(rows, "error")
    ends = 100 * error[error.index.get_level_values("alpha").isin([0.0, 1.0])]
    n = int(
        rows.loc[(rows["quantity"] == "stitched_error") & (rows["role"] == "value"), "n"].iloc[0]
    )
    stitched = 100 * numbers(rows, "stitched_error")
    for axis in axes:
        axis.axhspan(
            ends.min(), ends.max(), color=GREY, alpha=0.2, linewidth=0, label="A and B alone"
        )
    for direction, colour, shift, marker in (
        ("A to B", BLUE, -0.12, "o"),
        ("B to A", GREEN, 0.12, "s"),
    ):
        groups = pairwise(at(stitched, direction=direction), sites)
        _points(axes[0], groups, colour, f"stitched, {direction}", shift, marker)
        mean = [g.mean() / 100 for g in groups]
        bars = np.array(
            [[100 * (p - wilson(p, n)[0]), 100 * (wilson(p, n)[1] - p)] for p in mean]
        ).T
        axes[0].errorbar(
            [k + shift for k in range(len(sites))],
            [100 * p for p in mean],
            yerr=bars,
            fmt="none",
            ecolor=colour,
            elinewidth=0.8,
            capsize=1.5,
        )
    raw = 100 * numbers(rows, "stitched_error", suffix="(raw)")
    if len(raw):
        raw.index = raw.index.set_levels(
            raw.index.levels[1].str.removesuffix(" (raw)"), level="site"
        )
        _points(
            axes[0],
            pairwise(raw, sites),
            PURPLE,
            "before normalisation, both directions",
            0.34,
            "^",
        )
    if (
        printed and rows.attrs["profile"] != "smoke"
    ):  # another data set: the paper's numbers say nothing there
        shown = [(k, printed[site]) for k, site in enumerate(sites) if site in printed]
        axes[0].plot(
            *zip(*shown),
            "*",
            color="black",
            markersize=8,
            label=f"the paper's Table {frame.attrs['experiment'][-1]}",
            zorder=5,
        )
    _points(axes[1], pairwise(stitched, sites), BLUE, "stitched, both directions")
    for place, (kind, colour) in enumerate(NULL_COLOURS.items()):
        _band(
            axes[1],
            pairwise(100 * numbers(rows, "stitched_error", "null", f"{kind} matched"), sites),
            colour,
            NULL_LABELS[kind],
            place,
        )
    control = 100 * numbers(rows, "stitched_error", "control", "independent")
    _points(axes[1], pairwise(control, sites), RED, "control: independent pair", 0.3, "x")
    _points(
        axes[1],
        pairwise(100 * numbers(rows, "stitched_error", "control", "unmatched"), sites),
        RED,
        UNMATCHED,
        0.42,
        "+",
    )
    log_axis(axes[1])
    nulls = "nulls (at the pair's distance) and " * bool(
        rows["kind"].str.endswith("matched").any()
    )  # a live part may have none
    for axis, title in zip(axes, ("mean with 95 % interval of one test set", f"{nulls}control")):
        axis.set_ylabel("test error (%)" + (", log scale" if axis is axes[1] else ""))
        axis.set_title(title, loc="left", fontsize=8)
        _site_axis(axis, sites)
    legend(figure, axes, columns=3)
    by_site = ", ".join(
        f"{site} {g.mean():.2f}" for site, g in zip(sites, pairwise(stitched, sites))
    )
    alt = (
        f"Test errors of stitched networks ({made_by}), mean over pairs and directions in percent:"
        f" {by_site}; the networks alone {ends.mean():.2f}; stitched to an independent network"
        f" {_span(control, 0)}."
    )
    return Shown(figure, alt)


def excess(frame: pd.DataFrame) -> Shown:
    """What stitching costs, layer by layer, in points: printed, ours at both places of stitching,
    and rotated partners'.

    Source: Tables 1 to 3 (B.4).
    """
    rows = own(frame)
    figure, (axis,), made_by = _figure(rows, 1, 3.3)
    readings = {
        label: verdicts.excess(rows, suffix)
        for label, suffix in (
            ("ours, stitched after the ReLU", ""),
            ("ours, stitched before normalisation", "(raw)"),
        )
    }
    sites = readings["ours, stitched after the ReLU"].index.tolist()
    place = {site: k for k, site in enumerate(sites)}
    printed = readings["ours, stitched after the ReLU"]["printed"]
    axis.axhline(0, color=GREY, linewidth=0.8)
    if rows.attrs["profile"] != "smoke":  # another data set: the paper's numbers say nothing there
        axis.plot(
            range(len(sites)),
            printed,
            "*-",
            color="black",
            markersize=8,
            linewidth=0.8,
            label=f"the paper's Table {frame.attrs['experiment'][-1]}",
        )
    for (label, found), colour, marker in zip(readings.items(), (BLUE, PURPLE), ("o", "^")):
        if len(found):
            axis.plot(
                [place[site] for site in found.index],
                found["ours"],
                marker + "-",
                color=colour,
                markersize=5,
                linewidth=0.8,
                label=label,
            )
    colour, label = NULL_OF_MATCHED
    null = 100 * verdicts.displaced_excess(rows, "rotation matched").groupby("site").mean()
    null = null[[site for site in sites if site in null]]
    if len(null):
        axis.plot(
            [place[site] for site in null.index],
            null,
            "d--",
            color=colour,
            markersize=4,
            linewidth=0.8,
            label=f"{label}, after the ReLU",
        )
    alone = numbers(rows, "error", "control", "independent")
    alone = alone[alone.index.get_level_values("alpha").isin([0.0, 1.0])].mean()
    control = 100 * (numbers(rows, "stitched_error", "control", "independent") - alone)
    if len(control):
        axis.set_title(
            f"control, stitched to an independent network: {_span(control, 0)} points, off this"
            " scale",
            loc="left",
            fontsize=8,
        )
    axis.set_ylabel("stitched error over the mean\nof both networks alone (points)")
    _site_axis(axis, sites)
    legend(figure, [axis], columns=2)
    told = "; ".join(
        f"{label}: " + ", ".join(f"{site} {value:.1f}" for site, value in found["ours"].items())
        for label, found in readings.items()
        if len(found)
    )
    told += f"; control, an independent network: {_span(control, 0)}"
    told += f"; {label}, stitched after the ReLU: " + (
        ", ".join(f"{site} {value:.1f}" for site, value in null.items()) or "(not measured)"
    )
    return Shown(
        figure,
        f"Stitched error over the mean of both networks, in points ({made_by}). {told}; printed: "
        + ", ".join(f"{site} {value:.1f}" for site, value in printed.items())
        + ".",
    )


def transfer(frame: pd.DataFrame) -> Shown:
    """W_B H_A against W_B H_B, and W_A H_B against W_A H_A, with nulls and control.

    Source: the last formula of B.4.
    """
    rows = own(frame)
    figure, (axis,), made_by = _figure(rows, 1, 3.9)
    sites, values = sites_of(rows, "dist_transfer"), numbers(rows, "dist_transfer")
    shuffled = numbers(rows, "dist_transfer", "null", "shuffled units")
    _points(axis, pairwise(values, sites), BLUE, "spawned pair, both directions")
    _band(axis, pairwise(shuffled, sites), "#b8860b", "null: shuffled units", 0)
    _band(
        axis,
        pairwise(numbers(rows, "dist_transfer", "null", "rotation matched"), sites),
        ORANGE,
        NULL_LABELS["rotation"],
        2,
    )
    _points(
        axis,
        pairwise(numbers(rows, "dist_transfer", "control", "independent"), sites),
        RED,
        "control: independent pair",
        0.3,
        "x",
    )
    log_axis(axis)
    axis.set_ylabel("dist (no unit, log scale)")
    _site_axis(axis, sites)
    legend(figure, [axis], columns=2)
    alt = (
        f"Distance of W_B H_A from W_B H_B ({made_by}): {_span(values, 3)}; with the units of the"
        f" difference of features shuffled {_span(shuffled, 3)}."
    )
    return Shown(figure, alt)


def connected_or_not(frame: pd.DataFrame) -> Shown:
    """Figure 19: Dist_com of connected and of independent networks, each beside what it would be
    without structure.

    Source: Figure 19 (B.3).
    """
    rows = own(frame)
    figure, axes, made_by = _figure(rows, 1, 6.4, rows=2)
    sites = sites_of(rows, "dist_com")
    com, control = numbers(rows, "dist_com"), numbers(rows, "dist_com", "control", "independent")
    formula, shuffled = (
        numbers(rows, "dist_com", "null", kind) for kind in ("formula", "shuffled units")
    )
    apart, mixed = (
        numbers(rows, "dist_com", "control", f"independent: {kind}")
        for kind in ("formula", "shuffled units")
    )
    _points(axes[0], pairwise(com, sites), BLUE, "connected")
    _points(axes[0], pairwise(control, sites), RED, "not connected", 0.0, "x")
    for axis, values, null, label, colour, shift, marker in (
        (axes[1], com, formula, "connected / formula", BLUE, -0.2, "o"),
        (axes[1], com, shuffled, "connected / shuffled units", SKY, -0.05, "^"),
        (axes[1], control, apart, "not connected / formula", RED, 0.1, "x"),
        (axes[1], control, mixed, "not connected / shuffled units", ORANGE, 0.25, "s"),
    ):
        _points(axis, pairwise(values / null, sites), colour, label, shift, marker)
    axes[1].axhline(1, color="black", linewidth=0.6)
    for axis, title, unit in zip(
        axes,
        ("the paper's comparison", "each divided by its own null: below 1 is structure"),
        ("dist (no unit, log scale)", "Dist$_{com}$ / null, log scale"),
    ):
        log_axis(axis)
        axis.set_ylabel(unit)
        axis.set_title(title, loc="left", fontsize=8)
        _site_axis(axis, sites)
    legend(figure, axes, columns=3)
    alt = (
        f"Dist_com of connected and independent networks ({made_by}): {_span(com, 4)} and"
        f" {_span(control, 2)}. Of the formula's null that is {_span((com / formula).dropna(), 2)}"
        f" and {_span((control / apart).dropna(), 2)}."
    )
    return Shown(figure, alt)


def spawn_epoch(frame: pd.DataFrame) -> Shown:
    """Barrier between two children against the epoch at which they were spawned."""
    figure, axes, made_by = _figure(frame, 2, 3.3)
    spawned = recipe_of(frame).map(SPAWN_AT)
    epochs = sorted(spawned.unique())
    last = {}
    for axis, quantity, factor, unit, linear in (
        (axes[0], "error", 100, "points", 1),
        (axes[1], "loss", 1, "nats", 0.1),
    ):

        def barriers(
            *which: str, name: str = f"{quantity}_barrier_chord", scale: int = factor, **how: str
        ) -> list[np.ndarray]:
            return [
                scale * numbers(frame[spawned == epoch], name, *which, **how).to_numpy()
                for epoch in epochs
            ]

        last[quantity], null = barriers(), barriers("null", "rotation matched")
        _points(axis, last[quantity], BLUE, "children, statistics interpolated", -0.12)
        _points(axis, barriers(statistics="recomputed"), RED, "statistics recomputed", 0.12, "D")
        _band(axis, null, *NULL_OF_MATCHED)
        last[f"null {quantity}"] = null
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_xticks(range(len(epochs)), epochs)
        axis.set_xlabel("epoch of spawning")
        axis.set_yscale("symlog", linthresh=linear)  # a barrier of 0 belongs in the figure
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_ylim(-0.15 * linear, 1.5 * max(linear, axis.get_ylim()[1]))
        axis.set_ylabel(
            f"{quantity} barrier above the chord\n({unit}; log scale, linear below {linear:g})"
        )
    axes[0].axhline(
        100 * verdicts.allowed_barrier(frame).min(),
        color="black",
        linewidth=0.8,
        linestyle=":",
        label="counts as none",
    )
    legend(figure, axes, columns=2)
    words, nulls = (
        ", ".join(
            f"{epoch}: {values.mean():.1f}"
            for epoch, values in zip(epochs, last[name])
            if len(values)
        )
        for name in ("error", "null error")
    )
    return Shown(
        figure,
        f"Barrier between two children by the epoch of spawning ({made_by}), error in points:"
        f" {words}." + f" Rotated partners as far away: {nulls}." * bool(nulls),
    )


def cooccur(frame: pd.DataFrame) -> Shown:
    """LLFC against the barrier, every pair and control of the book a point; then LLFC relative to
    its nulls.
    """
    figure, axes, made_by = _figure(frame, 2, 4.3)
    table = verdicts.cooccurrence(frame)
    table["network"] = (
        table["pair"]
        .str.split("_")
        .str[0]
        .replace({"mlp": "MLP", "vgg16": "VGG-16", "resnet20": "ResNet-20"})
    )
    barrier = 100 * table["barrier"].clip(lower=1e-4)
    colours = {"MLP": BLUE, "VGG-16": ORANGE, "ResNet-20": GREEN}
    for axis, column, unit in (
        (axes[0], "ratio", "LLFC ratio, mean over layers"),
        (axes[1], "of rotated", "the same / rotated partners'"),
    ):
        for network, colour in colours.items():
            for role, marker in (("value", "o"), ("control", "x")):
                chosen = (
                    (table["network"] == network) & (table["role"] == role) & table[column].notna()
                )
                if chosen.any():
                    axis.plot(
                        barrier[chosen],
                        table.loc[chosen, column],
                        marker,
                        color=colour,
                        markersize=4,
                        alpha=0.7,
                        label=network + (", independent" if role == "control" else ""),
                    )
        axis.set_xscale("log")
        log_axis(axis)
        axis.set_xlabel("error barrier (points, at least 0.01)")
        axis.set_ylabel(f"{unit},\nlog scale")
    axes[0].axhline(0.1, color="black", linewidth=0.6)
    axes[1].axhline(1, color="black", linewidth=0.6)
    legend(figure, axes, columns=3)
    near, far = table[table["connected"]], table[~table["connected"]]
    alt = (
        f"LLFC against linear connectivity ({made_by}). The ratio of 1 - cosine to its baseline is"
        f" {_span(near['ratio'], 3)} for {len(near)} connected pairs and {_span(far['ratio'], 3)}"
        f" for {len(far)} that are not."
    )
    return Shown(figure, alt)


def barrier(frame: pd.DataFrame) -> Shown:
    """Error and loss along the line between A and B, spawned, independent and displaced (alpha 1 is
    A: see Barrier).

    Source: Definition 1 (A.1).
    """
    rows = own(frame)
    figure, axes, made_by = _figure(rows, 2, 3.0)
    for axis, quantity, unit, factor in (
        (axes[0], "error", "%", 100),
        (axes[1], "loss", "nats", 1),
    ):
        for role, kind, colour, label in (
            ("value", "", BLUE, f"{pair_word(rows)} pair"),
            ("control", "unmatched", PURPLE, UNMATCHED),
            ("control", "independent", RED, "control: independent pair"),
        ):
            values = factor * numbers(rows, quantity, role, kind)
            if values.empty:
                continue
            for _, one in values.groupby("pair"):
                axis.plot(
                    one.index.get_level_values("alpha"),
                    one.to_numpy(),
                    color=colour,
                    alpha=0.25,
                    linewidth=0.7,
                )
            mean = values.groupby("alpha").mean()
            axis.plot(
                mean.index, mean.to_numpy(), color=colour, linewidth=1.8, label=f"{label} (mean)"
            )
            again = (
                factor
                * numbers(rows, quantity, role, kind, statistics="recomputed")
                .groupby("alpha")
                .mean()
            )
            if len(again):
                axis.plot(
                    again.index,
                    again.to_numpy(),
                    "--",
                    color=colour,
                    linewidth=1.4,
                    label="statistics recomputed",
                )
        for kind, style, label in (
            ("rotation t=1", "s-", f"{NULL_LABELS['rotation']}, t = 1"),
            ("rotation matched", "v:", NULL_OF_MATCHED[1]),
        ):
            null = factor * numbers(rows, quantity, "null", kind).groupby("alpha").mean()
            if len(null):
                axis.plot(
                    null.index,
                    null.to_numpy(),
                    style,
                    color=ORANGE,
                    markersize=3,
                    linewidth=1.0,
                    label=label,
                )
        log_axis(axis)
        axis.set_xlabel("α, the share of A")
        axis.set_ylabel(f"test {quantity} ({unit}), log scale")
    legend(figure, axes, columns=2)
    partners = 100 * at(numbers(rows, "error", "null", "rotation t=1"), alpha=0.0)
    displaced = (
        f" Partners whose difference was rotated err {_span(partners, 1)} % themselves."
        if len(partners)
        else ""
    )
    again = 100 * numbers(rows, "error_barrier_chord", statistics="recomputed")
    recomputed = f", with recomputed statistics {again.max():.2f}" if len(again) else ""
    over, control = (
        100 * numbers(rows, "error_barrier_chord", *which)
        for which in ((), ("control", "independent"))
    )
    alt = (
        f"Test error and loss between A and B ({made_by}). The largest excess of the error over the"
        f" chord is {over.max():.2f} points for {pair_word(rows)} pairs{recomputed} and"
        f" {_span(control, 0)} for independent ones.{displaced}"
    )
    return Shown(figure, alt)


def training(frame: pd.DataFrame) -> Shown:
    """Training loss and test error of every network over the epochs."""
    figure, axes, made_by = _figure(frame, 2, 3.0)
    recipes = sorted(recipe_of(frame).unique())
    titles = {
        name: RECIPES[MATCHED[name][0] if name in MATCHED else name].title for name in recipes
    }
    last = {}
    for axis, quantity, unit, factor in (
        (axes[0], "train_loss", "nats", 1),
        (axes[1], "test_error", "%", 100),
    ):
        for recipe, colour in zip(recipes, (BLUE, ORANGE, GREEN)):
            rows = frame[
                (frame["quantity"] == quantity) & frame["pair"].str.startswith(f"{recipe}/")
            ]
            for _, one in rows.groupby(["pair", "kind"]):
                one = one.sort_values("epoch")
                axis.plot(
                    one["epoch"], factor * one["mean"], color=colour, alpha=0.35, linewidth=0.7
                )
            mean = factor * rows.groupby("epoch")["mean"].mean()
            axis.plot(
                mean.index,
                mean.to_numpy(),
                color=colour,
                linewidth=1.8,
                label=f"{titles[recipe]} (mean)",
            )
            last[recipe] = f"{titles[recipe]} {mean.iloc[-1]:.2f}" + (
                " %" if quantity == "test_error" else ""
            )
        log_axis(axis)
        axis.set_xlabel("epoch")
        axis.set_ylabel(
            f"{quantity.replace('train', 'training').replace('_', ' ')} ({unit}), log scale"
        )
    legend(figure, axes, columns=2)
    return Shown(
        figure,
        f"Training curves of all networks ({made_by}). Mean test error after the last epoch: "
        f"{'; '.join(last.values())}.",
    )


def matched_barriers(frame: pd.DataFrame) -> Shown:
    """The barrier of every method before and after matching, on the test and the training set,
    error and loss.

    Source: B.1.2.
    """
    figure, axes, made_by = _figure(frame, 2, 5.4, rows=2)
    recipes = [name for name in MATCHED if (recipe_of(frame) == name).any()]
    # where the full-scale networks are missing, digits stand in for their data set
    on = {name: frame.loc[recipe_of(frame) == name, "data"].iloc[0] for name in recipes}
    labels = [
        _method(name).replace(", ", "\n").replace("activation", "act.").replace("CIFAR-10", "CIFAR")
        + "\n(digits)" * (on[name] == "digits")
        for name in recipes
    ]
    told = []
    for axis, (quantity, unit, factor, linear), suffix in zip(
        axes,
        (("error", "points", 100, 0.1), ("loss", "nats", 1, 0.01)) * 2,
        ("", "", "_on_training", "_on_training"),
    ):
        for role, kind, colour, label, marker, shift in (
            ("value", "", BLUE, "matched", "o", 0.0),
            ("control", "unmatched", RED, UNMATCHED, "x", 0.2),
            ("null", "rotation matched", ORANGE, NULL_OF_MATCHED[1], "d", -0.2),
        ):
            groups = [
                factor
                * numbers(
                    frame[recipe_of(frame) == name], f"{quantity}_barrier_chord{suffix}", role, kind
                ).to_numpy()
                for name in recipes
            ]
            _points(axis, groups, colour, label, shift, marker)
            if role != "null" and quantity == "error":
                told.append(
                    f"{label}, {'training' if suffix else 'test'}: "
                    + ", ".join(
                        f"{_method(name)}{' (digits)' * (on[name] == 'digits')} {group.mean():.2f}"
                        for name, group in zip(recipes, groups)
                        if len(group)
                    )
                )
        axis.set_yscale("symlog", linthresh=linear)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_ylabel(f"{quantity} barrier ({unit})")
        axis.set_title(
            f"{'training' if suffix else 'test'} set, linear below {linear:g}",
            loc="left",
            fontsize=8,
        )
        axis.set_xticks(range(len(recipes)), labels, fontsize=7)
        axis.set_xlabel("data set and method")
        axis.set_xlim(-0.6, len(recipes) - 0.4)
    legend(figure, axes, columns=3)
    return Shown(
        figure,
        f"Error barrier in points before and after matching ({made_by}). " + "; ".join(told) + ".",
    )


def matched_curves(frame: pd.DataFrame, base: str = "mlp_mnist_perm") -> Shown:
    """Error and loss along the line before and after every method, on the test and the training
    set, for the networks of the recipe ``base``. ValueError if there are none.

    Source: B.1.2.
    """
    recipes = [
        name for name in MATCHED if MATCHED[name][0] == base and (recipe_of(frame) == name).any()
    ]
    of_method = {MATCHED[name][1]: of(frame, name) for name in recipes}
    if not of_method:
        raise ValueError(
            f"no pair of {base!r} in the record of {frame.attrs['experiment']!r}; it has"
            f" {sorted(recipe_of(frame).unique())}"
        )
    first = of_method.get("weight", next(iter(of_method.values())))
    lines = [
        (of_method[method], "value", "", colour, label, "-")
        for method, colour, label in (
            ("activation", GREEN, "activation matching"),
            ("weight", BLUE, "weight matching"),
            ("ste", PURPLE, "straight-through estimator"),
        )
        if method in of_method
    ]
    lines += [
        (first, "control", "unmatched", RED, UNMATCHED, "-"),
        (first, "null", "rotation matched", *NULL_OF_MATCHED, "v:"),
    ]
    figure, axes, made_by = _figure(first, 2, 5.2, rows=2)
    told = []
    for axis, (quantity, unit, factor), suffix in zip(
        axes,
        (("error", "%", 100), ("loss", "nats", 1)) * 2,
        ("", "", "_on_training", "_on_training"),
    ):
        for rows, role, kind, colour, label, style in lines:
            values = factor * numbers(rows, quantity + suffix, role, kind)
            for _, one in values.groupby("pair"):
                axis.plot(
                    one.index.get_level_values("alpha"),
                    one.to_numpy(),
                    color=colour,
                    alpha=0.25,
                    linewidth=0.7,
                )
            mean = values.groupby("alpha").mean()
            if len(mean):
                axis.plot(
                    mean.index,
                    mean.to_numpy(),
                    style,
                    color=colour,
                    markersize=3,
                    linewidth=1.0 if role == "null" else 1.8,
                    label=label,
                )
                told.append(
                    f"{label} {'training' if suffix else 'test'} {quantity}"
                    f" {mean[0.5]:.3g}{' %' if factor == 100 else ''}"
                )
        log_axis(axis)
        axis.set_xlabel("α, the share of A")
        axis.set_ylabel(f"{'training' if suffix else 'test'} {quantity} ({unit}), log scale")
    legend(figure, axes, columns=2)
    return Shown(
        figure,
        f"Error and loss between A and B before and after matching ({made_by}). Mean over pairs at"
        f" α = 0.5: {'; '.join(told)}.",
    )


def _method(name: str) -> str:
    base, method = MATCHED[name]
    return f"{'MNIST' if 'mnist' in base else 'CIFAR-10'}, {method if method != 'ste' else 'STE'}"


def strong_forms(frame: pd.DataFrame) -> Shown:
    """Both stronger forms of commutativity at every map, with nulls and controls.

    Source: both stronger forms of B.5.
    """
    rows = own(frame)
    figure, axes, made_by = _figure(rows, 2, 3.3)
    told = []
    for axis, quantity, title in (
        (axes[0], "dist_transfer", "$W_AH_A$ against $W_AH_B$"),
        (axes[1], "dist_weights", "$W_AH_A$ against $W_BH_A$"),
    ):
        sites, values = sites_of(rows, quantity), numbers(rows, quantity)
        shuffled = numbers(rows, quantity, "null", "shuffled units")
        _points(axis, pairwise(values, sites), BLUE, f"{pair_word(rows)} pair, both directions")
        _band(axis, pairwise(shuffled, sites), "#b8860b", "null: shuffled units", 0)
        _band(
            axis,
            pairwise(numbers(rows, quantity, "null", "rotation matched"), sites),
            ORANGE,
            NULL_LABELS["rotation"],
            2,
        )
        _points(
            axis,
            pairwise(numbers(rows, quantity, "control", "unmatched"), sites),
            RED,
            UNMATCHED,
            0.3,
            "+",
        )
        log_axis(axis)
        axis.set_ylabel("dist (no unit, log scale)")
        axis.set_title(title, loc="left", fontsize=8)
        _site_axis(axis, sites)
        told.append(
            f"{quantity} {_span(values, 3)}, with shuffled units {_span(shuffled, 3)}, before"
            f" matching {_span(numbers(rows, quantity, 'control', 'unmatched'), 2)}"
        )
    legend(figure, axes, columns=2)
    return Shown(figure, f"The stronger forms of commutativity ({made_by}): {'; '.join(told)}.")


SPECTRA = {
    "W": (
        ("W", "value", "", BLUE, "trained weights"),
        ("W_living", "value", "", GREEN, "trained, between living units"),
        ("W", "null", "before training", ORANGE, "before training"),
        ("W", "null", "gaussian matrix", GREY, "Gaussian matrix"),
    ),
    "H": (
        ("H", "value", "", BLUE, "trained"),
        ("Hc", "value", "", GREEN, "trained, centred"),
        ("Hc_living", "value", "", SKY, "trained, centred, living units"),
        ("H", "null", "before training", ORANGE, "before training"),
        ("Hc", "null", "before training", RED, "before training, centred"),
        (
            "Hc",
            "null",
            "images shuffled unit by unit",
            GREY,
            "images shuffled unit by unit, centred",
        ),
    ),
}


def spectra(frame: pd.DataFrame, what: str = "W") -> Shown:
    """Figures 20 and 21: singular values over the largest, against index / n, layer by layer, with
    reference matrices.

    Source: Figures 20 and 21 (B.5).
    """
    rows = own(frame)
    lines = {
        line: _spectra_of(rows, *line[:3]) for line in SPECTRA[what]
    }  # once: there are a few thousand rows
    # how far a spectrum goes before the zeros; the ten rows of the last layer end before the second
    # place read
    end = pd.concat(lines.values()).query("mean > 0").groupby("site")["share"].max()
    sites = [site for site in sites_of(rows, f"stable_rank_{what}") if end[site] > 0]
    figure, axes, made_by = _figure(rows, len(sites), 2.9)
    told = []
    for axis, site in zip(axes, sites):
        for (_, _, _, colour, label), found in lines.items():
            one = found[found["site"] == site].pivot(index="share", columns="pair", values="mean")
            axis.plot(one.index, one.to_numpy(), color=colour, linewidth=0.6, alpha=0.4)
            if len(one):
                axis.plot(
                    one.index, one.mean(axis=1).to_numpy(), color=colour, linewidth=1.4, label=label
                )
        axis.set_yscale("log")
        axis.set_ylim(1e-4, 2)
        axis.set_xlim(0, end[site])
        axis.set_xlabel("index / n")
        axis.set_ylabel("singular value / largest")
        axis.set_title(site, loc="left", fontsize=8)
        rank = numbers(rows, f"stable_rank_share_{what}")
        told.append(f"{site} {_span(at(rank, site=site), 3)}")
    legend(figure, axes, columns=3)
    return Shown(
        figure,
        f"Singular values of {'weights' if what == 'W' else 'post-activations'} ({made_by}). Stable"
        f" rank over n: {'; '.join(told)}.",
    )


def _spectra_of(rows: pd.DataFrame, matrix: str, role: str, kind: str) -> pd.DataFrame:
    """The rows of one kind of spectrum, with the place ``share`` that each was read at."""
    prefix = f"sigma_{matrix}/"
    rows = rows.copy(deep=False)
    rows.attrs = {}
    chosen = rows[
        (rows["role"] == role) & (rows["kind"] == kind) & rows["quantity"].str.startswith(prefix)
    ]
    return chosen.assign(share=chosen["quantity"].str.removeprefix(prefix).astype(float))


JOINT = (
    ("null", "random order", "random"),
    ("null", "before matching", "before"),
    ("value", "ste", "STE"),
    ("value", "weight", "weight"),
    ("value", "activation", "activ."),
    ("value", "local search", "search"),
)


def joint(frame: pd.DataFrame) -> Shown:
    """The residual of commutativity and its two factors under every order, as shares of before
    matching; and tiny networks, where all orders can be looked at.
    """
    figure, axes, made_by = _figure(frame, 2, 3.6)
    recipes = [name for name in MATCHED if (recipe_of(frame) == name).any()]
    told = []
    for name, marker in zip(recipes, "os"):
        rows = frame[recipe_of(frame) == name]
        where = "MNIST" if "mnist" in name else "CIFAR-10"
        where += " (digits)" * (rows["data"].iloc[0] == "digits")
        for quantity, colour, label in (
            ("residual_share", BLUE, "residual"),
            ("factor_weights_share", ORANGE, "|dW|² alone"),
            ("factor_features_share", GREEN, "|dH|² alone"),
        ):
            groups = [numbers(rows, quantity, *which[:2]).to_numpy() for which in JOINT]
            _points(
                axes[0], groups, colour, f"{label}, {where}", 0.12 * (marker == "s") - 0.06, marker
            )
        shares = {kind: numbers(rows, "residual_share", role, kind) for role, kind, _ in JOINT[3:]}
        told.append(
            f"{where} " + ", ".join(f"{kind} {_span(values, 3)}" for kind, values in shares.items())
        )
    axes[0].set_xticks(range(len(JOINT)), [short for _, _, short in JOINT], fontsize=7)
    axes[0].set_xlabel("order of B's units")
    axes[0].set_ylabel("share of before matching")
    axes[0].set_ylim(0, None)
    axes[0].set_title("the matched pairs", loc="left", fontsize=8)
    tiny = (
        numbers(frame, "over_minimum/0.5", "null", "random order")
        .index.get_level_values("site")
        .unique()
    )
    sites = sorted(
        (site for site in tiny if site.endswith(", trained")),
        key=lambda site: (" and " in site, site),
    )
    for role, kind, colour, shift in (
        ("null", "random order", GREY, -0.24),
        ("value", "weight", ORANGE, -0.08),
        ("value", "activation", GREEN, 0.08),
        ("value", "local search", BLUE, 0.24),
    ):
        low, middle, high = (
            np.array([at(values, site=site).mean() for site in sites])
            for values in (
                numbers(frame, f"over_minimum/{q}", role, kind) for q in ("0.1", "0.5", "0.9")
            )
        )
        axes[1].errorbar(
            np.arange(len(sites)) + shift,
            middle,
            [middle - low, high - middle],
            fmt="o",
            color=colour,
            markersize=4,
            linewidth=1,
            label=f"tiny: {kind}",
        )
        if sites:
            told.append(
                f"tiny, {kind}: median {middle.min():.3g} to {middle.max():.3g} times the minimum"
            )
    axes[1].set_xticks(
        range(len(sites)),
        [site.removesuffix(" units, trained").replace(" and ", ", ") for site in sites],
    )
    axes[1].set_xlabel("hidden units; median, 10 to 90 % of draws")
    axes[1].set_ylabel("residual / its minimum")
    axes[1].set_title("tiny trained networks", loc="left", fontsize=8)
    log_axis(axes[1])
    legend(figure, axes, columns=3)
    return Shown(
        figure,
        f"Residual of commutativity as a share of that before matching ({made_by})."
        f" {'; '.join(told)}.",
    )


def widths(frame: pd.DataFrame) -> Shown:
    """Barrier after weight matching against stable rank / n, by width and epoch; and what low rank
    alone brings.
    """
    figure, axes, made_by = _figure(frame, 2, 3.6)
    table = verdicts.width_table(frame)
    trained = table[(table["kind"] == "") & (table["epoch"] > 0)]
    colours = dict(
        zip(sorted(trained["width"].unique()), (SKY, BLUE, GREEN, "#b8860b", ORANGE, RED, PURPLE))
    )
    for width, colour in colours.items():
        group = trained[trained["width"] == width]
        for _, one in group.groupby("pair"):
            axes[0].plot(one["rank"], one["barrier"], "-", color=colour, linewidth=0.5, alpha=0.4)
        mean = group.groupby("epoch")[["rank", "barrier"]].mean()
        axes[0].plot(
            mean["rank"],
            mean["barrier"],
            "o-",
            color=colour,
            markersize=4,
            linewidth=1.2,
            label=f"width {width}",
        )
    axes[0].set_yscale("symlog", linthresh=1e-3)
    axes[0].set_xlabel("stable rank / n, mean of FC 2 to FC 4")
    axes[0].set_ylabel("training loss barrier (nats)")
    axes[0].set_title("after 1 to 15 epochs, right to left", loc="left", fontsize=8)
    last = trained[trained["epoch"] == trained["epoch"].max()]
    for _, marker, label, chosen in (
        ("", "o", "trained", last),
        ("", "s", "untrained", table[(table["kind"] == "") & (table["epoch"] == 0)]),
        (
            "untrained, truncated",
            "^",
            "untrained, truncated to that rank",
            table[table["kind"] == "untrained, truncated"],
        ),
    ):
        mean = chosen.groupby("width")["gain"].mean()
        axes[1].plot(
            chosen["width"],
            chosen["gain"],
            marker,
            color=BLUE if marker == "o" else GREY if marker == "s" else ORANGE,
            markersize=3,
            alpha=0.35,
        )
        axes[1].plot(
            mean.index,
            mean.to_numpy(),
            marker + "-",
            color=BLUE if marker == "o" else GREY if marker == "s" else ORANGE,
            markersize=5,
            linewidth=1.0,
            label=label,
        )
    axes[1].set_xscale("log", base=2)
    axes[1].set_xticks(sorted(table["width"].unique()), sorted(table["width"].unique()))
    axes[1].set_xlabel("width")
    axes[1].set_ylabel("$|W_A(H_A-PH_B)|$ after / before matching")
    axes[1].set_ylim(bottom=0)
    legend(figure, axes, columns=4)
    told = ", ".join(
        f"width {width} {group['barrier'].mean():.3f} at stable rank / n {group['rank'].mean():.3f}"
        for width, group in last.groupby("width")
    )
    return Shown(
        figure,
        f"Training loss barrier after weight matching, last epoch ({made_by}): {told}. What"
        " matching leaves of W_A(H_A - P H_B): "
        + "; ".join(
            f"{label} {_span(values, 2)}"
            for label, values in (
                ("trained", last["gain"]),
                (
                    "untrained, truncated",
                    table.loc[table["kind"] == "untrained, truncated", "gain"],
                ),
            )
        )
        + ".",
    )
