"""How every figure of the book is drawn: one table of what is shown and in which colour and shape,
and the few kinds of panel that the figures are made of.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llfc_lib.figures import (
    BLUE,
    GREEN,
    GREY,
    OCHRE,
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

__all__ = [
    "LOOKS",
    "Look",
    "Shown",
    "band",
    "dots",
    "layers",
    "legend",
    "line",
    "log_axis",
    "sheet",
]

SMALL = 8.0  # points: the smallest letters, readable where a figure is 640 pixels wide


class Look(NamedTuple):
    """The colour, marker and words of one thing, the same in every figure."""

    colour: str
    marker: str
    label: str


#: By what is shown. A colour or a marker means one thing in the whole book.
LOOKS = {
    "pair": Look(BLUE, "o", "the pair"),
    "recomputed": Look(SKY, "D", "the pair, statistics recomputed"),
    "third": Look(SKY, "h", "a third child"),
    "independent": Look(RED, "x", "not connected: another start"),
    "unmatched": Look(RED, "+", "the same two before matching"),
    "spread": Look(ORANGE, "v", "spread partner, at equal distance"),
    "sparse": Look(GREEN, "^", "sparse partner, at equal distance"),
    "tuned": Look(PURPLE, "s", "tuned partner"),
    "noise": Look(GREY, "*", "step of gradient noise"),
    "activation": Look(BLUE, "p", "activation matching"),
    "weight": Look("#16365c", "X", "weight matching"),
    "search": Look("#222222", "1", "best found by exchanging units"),
    "chance": Look(GREY, "_", "chance"),
    "start": Look(OCHRE, "d", "the same layer before training"),
    "truncated": Look(OCHRE, ">", "untrained, cut to the trained rank"),
    "weights": Look(GREY, "<", "distance of the weights, Dist$_W$"),
    "features": Look(GREY, ">", "distance of the features, Dist$_H$"),
    "paper": Look("#222222", "P", "as the paper prints it"),
}
ALPHAS = {0.25: "#8ab8da", 0.5: BLUE, 0.75: "#1f3d5c"}  # tints of the pair's colour
#: What a residual of LLFC is made of: colour, hatching, words. Plain: added here; hatched: carried.
PARTS = {
    "commutativity": ("#3f5a66", "", "maps that do not commute"),
    "relu": ("#c9b28a", "", "ReLUs"),
    "pooling": ("#8aa39b", "", "max-pooling"),
    "normalisation": ("#d9d9d9", "", "normalisation"),
    "carried": ("white", "/////", "carried from the layer below"),
    "skipped": ("white", ".....", "carried by the shortcut"),
}


def sheet(
    columns: int, rows: int = 1, height: float = 2.6, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """An empty figure of ``columns`` times ``rows`` panels, each row ``height`` inches high."""
    with mpl.rc_context(
        STYLE | {"font.size": 8.5, "xtick.labelsize": SMALL, "ytick.labelsize": SMALL}
    ):
        figure = Figure(figsize=(WIDTH, height * rows), layout="constrained", facecolor="white")
        axes = figure.subplots(rows, columns, squeeze=False, sharey="row" if share_y else False)
    return figure, axes.ravel().tolist()


def dots(
    axis: Axes,
    places: Iterable[float],
    groups: Sequence[np.ndarray],
    what: str,
    shift: float = 0.0,
    colour: str = "",
    label: str | None = None,
) -> None:
    """Every pair as a faint dot, their mean as a full one; places without numbers stay empty."""
    look = LOOKS[what]
    filled = [(x + shift, g[~np.isnan(g)]) for x, g in zip(places, groups) if len(g)]
    filled = [(x, g) for x, g in filled if len(g)]
    if not filled:
        return
    colour = colour or look.colour
    style: Any = {"linestyle": "", "color": colour, "marker": look.marker}
    if any(len(g) > 1 for _, g in filled):
        each = np.concatenate([np.full(len(g), x) for x, g in filled])
        values = np.concatenate([g for _, g in filled])
        axis.plot(each, values, markersize=3, alpha=0.35, zorder=3, **style)
    label = look.label if label is None else label
    means = [g.mean() for _, g in filled]
    axis.plot([x for x, _ in filled], means, markersize=5, zorder=4, label=label, **style)


def band(
    axis: Axes,
    places: Iterable[float],
    groups: Sequence[np.ndarray],
    what: str,
    width: float = 0.8,
    label: str | None = None,
) -> None:
    """What a number is held against: a tinted box from the smallest to the largest value over
    pairs, with a line at the mean.
    """
    look = LOOKS[what]
    label = look.label if label is None else label
    for x, g in zip(places, groups):
        g = g[~np.isnan(g)]
        if not len(g):
            continue
        low, high = float(g.min()), float(g.max())
        box: Any = {"color": look.colour, "alpha": 0.25, "linewidth": 0, "zorder": 1}
        axis.bar(x, high - low, width, low, **box)
        ends = (x - width / 2, x + width / 2)
        axis.hlines(g.mean(), *ends, color=look.colour, linewidth=1.8, zorder=2, label=label)
        label = "_"  # one entry in the legend


def line(
    axis: Axes,
    x: Sequence[float] | np.ndarray,
    curves: Sequence[Sequence[float] | np.ndarray],
    what: str,
    label: str | None = None,
    colour: str = "",
    dashed: bool = False,
) -> None:
    """Every pair as a faint line, their mean as a full one."""
    look = LOOKS[what]
    style: Any = {"color": colour or look.colour, "linestyle": "--" if dashed else "-"}
    if len(curves) > 1:
        for curve in curves:
            axis.plot(x, curve, linewidth=0.8, alpha=0.35, zorder=3, **style)
    mean = np.mean(np.array(curves, dtype=float), axis=0)
    axis.plot(
        x, mean, linewidth=1.8, zorder=4, label=look.label if label is None else label, **style
    )


def layers(axis: Axes, sites: Sequence[str]) -> None:
    """Layers along the axis; many stand upright, without the words that all of them share."""
    short = [
        site.replace("Block ", "").replace("Conv ", "").replace(" conv ", " c") for site in sites
    ]
    many = len(sites) > 5
    axis.set_xticks(range(len(sites)), short if many else sites, rotation=90 if many else 0)
    axis.set_xlim(-0.7, len(sites) - 0.3)
    axis.grid(axis="x", visible=False)


def settings_axis(axis: Axes, names: Sequence[str]) -> None:
    """Settings along the axis, their words under each other."""
    axis.set_xticks(
        range(len(names)), [name.replace(", ", "\n").replace(" ", "\n", 1) for name in names]
    )
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.grid(axis="x", visible=False)


def title(axis: Axes, text: str) -> None:
    """A panel's head, on its left."""
    axis.set_title(text, loc="left", fontsize=8.5)


def span(values: np.ndarray | Sequence[float], digits: int = 2) -> str:
    """ "0.05 to 0.09" for a figure's description."""
    found = np.asarray([*values], dtype=float)
    found = found[~np.isnan(found)]
    if not len(found):
        return "(not measured)"
    low, high = f"{found.min():.{digits}f}", f"{found.max():.{digits}f}"
    return low if low == high else f"{low} to {high}"
