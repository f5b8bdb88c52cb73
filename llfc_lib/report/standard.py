"""The standard figure and table of a comparison (:mod:`llfc_lib.compare`), in the book's style.

Source: this book.
"""

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llfc_lib.report.plots import (
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    STYLE,
    WIDTH,
    Shown,
    _legend,
    _log,
)
from llfc_lib.report.tables import MyST
from llfc_lib.report.tables import table as myst_table
from llfc_lib.report.verdicts import NOTHING

OCHRE = "#b8860b"
#: (role, kind, statistics): colour, marker, line between points, label. Kinds that a panel lacks
#: are not drawn there.
SERIES = {
    ("value", "", "interpolated"): (BLUE, "o", "-", "the pair"),
    ("value", "", "recomputed"): (SKY, "D", "--", "the pair, recomputed"),
    ("control", "before matching", "interpolated"): (RED, "x", "-", "control: before matching"),
    ("control", "before matching", "recomputed"): (PURPLE, "+", "--", "control, recomputed"),
    ("null", "rotation matched", "interpolated"): (
        ORANGE,
        "v",
        ":",
        "null: displaced at random, as far",
    ),
    ("null", "nearest endpoint", "interpolated"): (OCHRE, "_", "", "null: nearest endpoint (LLFC)"),
    ("null", "formula", "interpolated"): (OCHRE, "|", "", "null: formula (commutativity)"),
    ("null", "shuffled units", "interpolated"): (
        GREY,
        "_",
        "",
        "null: shuffled units (commutativity)",
    ),
}
PANELS = (
    ("error", 100, "error (%)"),
    ("loss", 1, "loss (nats)"),
    ("cos_ratio", 1, "LLFC half-way:\n$(1-\\cos_\\alpha)/(1-\\cos_{AB})$"),
    ("1-coef_alpha", 1, "LLFC half-way:\n1 - coefficient"),
    ("dist_com", 1, "commutativity: Dist$_{com}$"),
    ("stitched_error", 100, "stitched error (%),\nmean of both directions"),
)


def figure(frame: pd.DataFrame, title: str) -> Shown:
    """Six panels of the rows in ``frame``; ``title`` says what was compared. Layers stand in the
    network's order.
    """
    half = frame[frame["alpha"].isna() | (frame["alpha"] == 0.5)]
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(WIDTH, 8.8), layout="constrained", facecolor="white")
        axes = drawn.subplots(3, 2).ravel().tolist()
    for axis, (quantity, factor, label) in zip(axes, PANELS, strict=True):
        along = quantity in ("error", "loss")
        rows = (frame if along else half)[lambda f, quantity=quantity: f["quantity"] == quantity]
        _draw(axis, rows, factor, "alpha" if along else "site")
        axis.set_ylabel(label)
        axis.set_xlabel(
            "α, the share of A" if along else "map" if quantity == "dist_com" else "layer"
        )
        if (
            quantity in ("loss", "dist_com") and (rows["mean"] > 0).any()
        ):  # a network beside itself has no Dist_com
            _log(axis)
    ends = (
        100
        * frame.loc[
            (frame["quantity"] == "error")
            & (frame["role"] == "value")
            & frame["alpha"].isin((0.0, 1.0)),
            "mean",
        ]
    )
    axes[5].axhspan(
        ends.min(), ends.max(), color=GREY, alpha=0.2, linewidth=0, label="A and B alone"
    )
    axes[2].set_ylim(bottom=0)
    _legend(drawn, axes, columns=2)
    drawn.supxlabel(title, fontsize=7, color="#444444", x=0.995, ha="right")
    return Shown(drawn, f"{title}. {_words(half)}")


def _draw(axis: Axes, rows: pd.DataFrame, factor: float, by: str) -> None:
    places = list(dict.fromkeys(rows[by]))
    for (role, kind, statistics), (colour, marker, line, label) in SERIES.items():
        chosen = rows[
            (rows["role"] == role) & (rows["kind"] == kind) & (rows["statistics"] == statistics)
        ]
        values = factor * chosen.groupby(by, sort=by == "alpha")["mean"].mean()
        if len(values):
            x = values.index if by == "alpha" else [places.index(site) for site in values.index]
            axis.plot(
                x,
                values,
                marker=marker,
                linestyle=line if by == "alpha" else "",
                color=colour,
                label=label,
                markersize=3 if by == "alpha" else 4.5,
                linewidth=1.2,
            )
    if by == "site":
        upright = {"rotation": 90, "fontsize": 7} if len(places) > 4 else {}
        axis.set_xticks(range(len(places)), places, **upright)
        axis.grid(axis="x", visible=False)


def _words(half: pd.DataFrame) -> str:
    """The figure's description: each quantity's mean over layers, and its nulls'."""
    told = []
    for quantity, factor, name in (
        ("error_barrier_chord", 100, "error barrier in points"),
        ("cos_ratio", 1, "LLFC ratio"),
        ("dist_com", 1, "Dist_com"),
        ("stitched_error", 100, "stitched error in percent"),
    ):
        rows = half[half["quantity"] == quantity]
        means = {
            label: factor * chosen["mean"].mean()
            for (role, kind, statistics), (*_, label) in SERIES.items()
            if len(
                chosen := rows[
                    (rows["role"] == role)
                    & (rows["kind"] == kind)
                    & (rows["statistics"] == statistics)
                ]
            )
        }
        told.append(
            f"{name}: " + ", ".join(f"{label} {value:.2g}" for label, value in means.items())
        )
    return "Means over layers. " + "; ".join(told) + "."


def table(chosen: pd.DataFrame, caption: str, name: str) -> MyST:
    """Lines of ``Comparison.table()`` as a numbered table; columns without any number are left out."""
    filled = chosen.dropna(axis=1, how="all")
    cells = filled.map(lambda value: NOTHING if pd.isna(value) else f"{value:.3g}")
    return myst_table(cells.reset_index(), caption, name)
