"""How every figure of the book is drawn: one table of what is shown and in which colour and shape,
and the few kinds of panel that the figures are made of.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llfc_book.evidence import Measured
from llfc_book.show.prose import between
from llfc_lib import figures as lib
from llfc_lib.figures import STYLE, WIDTH, Shown, legend, log_axis

SMALL = 8.0  # points: the smallest letters, readable where a figure is 640 pixels wide


class Look(NamedTuple):
    """The colour, marker and words of one thing, the same in every figure."""

    colour: str
    marker: str
    label: str


#: By what is shown. A colour or a marker means one thing in the whole book.
LOOKS = {
    "pair": Look(lib.BLUE, "o", "the pair"),
    "recomputed": Look(lib.SKY, "D", "the pair, statistics recomputed"),
    "third": Look(lib.SKY, "h", "a third child"),
    "independent": Look(lib.RED, "x", "not connected: another start"),
    "unmatched": Look(lib.RED, "+", "the same two before matching"),
    "spread": Look(lib.ORANGE, "v", "spread partner"),
    "sparse": Look(lib.GREEN, "^", "sparse partner"),
    "tuned": Look(lib.PURPLE, "s", "tuned partner"),
    "noise": Look(lib.GREY, "*", "step of gradient noise"),
    "longer": Look("#8c564b", "8", "the network trained on"),
    "activation": Look(lib.BLUE, "p", "activation matching"),
    "weight": Look("#16365c", "X", "weight matching"),
    "search": Look("#222222", "1", "best found by exchanging units"),
    "chance": Look(lib.GREY, "_", "chance"),
    "start": Look(lib.OCHRE, "d", "the same layer before training"),
    "truncated": Look(lib.OCHRE, ">", "untrained, cut to the trained rank"),
    "weights": Look(lib.GREY, "<", "distance of the weights, Dist$_W$"),
    "features": Look(lib.GREY, ">", "distance of the features, Dist$_H$"),
    "paper": Look("#222222", "P", "as the paper prints it"),
}
ALPHAS = {0.25: "#8ab8da", 0.5: lib.BLUE, 0.75: "#1f3d5c"}  # tints of the pair's colour
#: Where a residual of LLFC first arises: colour and words.
PARTS = {
    "commutativity": ("#3f5a66", "maps that do not commute"),
    "relu": ("#c9b28a", "ReLUs"),
    "pooling": ("#8aa39b", "max-pooling"),
    "normalisation": ("#d9d9d9", "normalisation"),
}


def sheet(
    columns: int, rows: int = 1, height: float = 2.6, share: str = ""
) -> tuple[Figure, list[Axes]]:
    """An empty figure of ``columns`` times ``rows`` panels, each row ``height`` inches high. They
    may share the axis below a column ("x") or that beside a row ("y").
    """
    small = {"font.size": 8.5, "xtick.labelsize": SMALL, "ytick.labelsize": SMALL}
    with mpl.rc_context(STYLE | small):
        figure = Figure(figsize=(WIDTH, height * rows), layout="constrained", facecolor="white")
        how: Any = {"sharex": "col"} if share == "x" else {"sharey": "row"} if share else {}
        axes = figure.subplots(rows, columns, squeeze=False, **how)
    return figure, axes.ravel().tolist()


def shown(figure: Figure, what: str, told: Iterable[str], columns: int = 3) -> Shown:
    """The figure with one legend of so many ``columns`` above its panels, and those without data
    left out; described by ``what`` it shows and by what its panels told.
    """
    for axis in figure.axes:
        if not axis.has_data():
            axis.set_axis_off()
        beside = len(axis.get_shared_y_axes().get_siblings(axis)) > 1
        if beside and not axis.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axis.set_ylabel("")
    legend(figure, figure.axes, columns)
    words = f"{what}. {'; '.join(told)}."
    return Shown(figure, words.translate(dict.fromkeys(map(ord, "${}"))))  # no mathematics in words


@dataclass(frozen=True, eq=False)
class Series:
    """What a panel shows of one thing (a key of :data:`LOOKS`): an array of ``numbers`` for each
    place along the axis, mostly one a pair, empty where nothing is measured. As dots, or as the
    ``band`` that dots are held against. ``bars`` are standard deviations to be drawn at the means,
    ``limits`` an array of (lower, upper) for each array of numbers.
    """

    what: str
    numbers: Sequence[Any]
    label: str = ""  # that of its look
    colour: str = ""  # likewise
    band: bool = False
    bars: Sequence[float] = ()
    limits: Sequence[Any] = ()


def panel(
    axis: Axes,
    places: Sequence[str],
    series: Sequence[Series],
    head: str = "",
    label: str = "",
    mark: float | None = None,
    log: bool = False,
    apart: float = 0.2,
    across: bool = False,
) -> str:
    """Layers, settings or widths (``places``) along the axis, or down it (``across``), and at each
    of them every series: dots beside each other, ``apart`` of the way to the next place. ``label``
    is that of the values, a dotted line is drawn at ``mark``. Returns the panel in words.
    """
    axis.use_sticky_edges = False  # a band may end anywhere
    beside = sum(not one.band for one in series)
    shifts = iter(apart * (k - (beside - 1) / 2) for k in range(beside))
    for one in series:
        if one.band:
            _band(axis, one)
        else:
            _dots(axis, one, next(shifts), across)
    if mark is not None:
        threshold(axis, mark, across)
    if across:
        axis.set_yticks(range(len(places)), places)
        axis.set_ylim(len(places) - 0.4, -0.6)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(label)
    else:
        layers(axis, places)
        axis.set_ylabel(label)
    if log:
        (log_x if across else log_axis)(axis)
    title(axis, head)
    told: dict[str, list[Any]] = {}
    for one in series:
        told.setdefault(_label(one), []).extend(one.numbers)
    words = ", ".join(f"{name} {span(np.concatenate(of))}" for name, of in told.items())
    return f"{' '.join(', '.join(filter(None, (head, label))).split())}: {words}"


def _label(one: Series) -> str:
    return one.label or LOOKS[one.what].label


def _dots(axis: Axes, one: Series, shift: float, across: bool) -> None:
    """Every pair as a faint dot, their mean as a full one."""
    look, label = LOOKS[one.what], _label(one)
    style: Any = {"linestyle": "", "color": one.colour or look.colour, "marker": look.marker}

    def plot(x: Any, y: Any, **how: Any) -> None:
        axis.plot(*((y, x) if across else (x, y)), **style, **how)

    for place, numbers in enumerate(one.numbers):
        numbers, x = np.asarray(numbers, dtype=float), place + shift
        known = numbers[np.isfinite(numbers)]
        if not len(known):
            continue
        each = np.full(len(known), x)
        if len(one.limits):
            each = x + np.linspace(-0.1, 0.1, len(known)) * (len(known) > 1)
            bar: Any = {"color": style["color"], "linewidth": 0.8, "alpha": 0.6}
            (axis.hlines if across else axis.vlines)(each, *np.transpose(one.limits[place]), **bar)
        if len(known) > 1:
            plot(each, known, markersize=3, alpha=0.35, zorder=3)
        if len(one.bars):
            bar = {"ecolor": style["color"], "elinewidth": 0.8, "capsize": 1.5, "alpha": 0.8}
            axis.errorbar(x, known.mean(), one.bars[place], fmt="none", **bar)
        plot(x, known.mean(), markersize=5, zorder=4, label=label)
        label = "_"  # one entry in the legend


def _band(axis: Axes, one: Series) -> None:
    """A tinted box from the smallest to the largest number, with a line at the mean."""
    colour, label = LOOKS[one.what].colour, _label(one)
    for place, numbers in enumerate(one.numbers):
        known = np.asarray(numbers)[np.isfinite(numbers)]
        if len(known):
            low, high = known.min(), known.max()
            axis.bar(place, high - low, 0.8, low, color=colour, alpha=0.25, linewidth=0, zorder=1)
            ends = (place - 0.4, place + 0.4)
            axis.hlines(known.mean(), *ends, colour, linewidth=1.8, zorder=2, label=label)
            label = "_"


def line(
    axis: Axes,
    x: Sequence[float] | np.ndarray,
    curves: Sequence[Sequence[float] | np.ndarray],
    what: str,
    label: str = "",
    dashed: bool = False,
    marked: bool = False,
) -> None:
    """Every pair as a faint line, their mean as a full one, or with marks at its points."""
    look = LOOKS[what]
    style: Any = {"color": look.colour, "linestyle": "--" if dashed else "-"}
    for curve in curves if len(curves) > 1 else ():
        axis.plot(x, curve, linewidth=0.8, alpha=0.35, zorder=3, **style)
    how: Any = {"marker": look.marker, "markersize": 3.2} if marked else {}
    mean = np.mean(np.array(curves, dtype=float), axis=0)
    axis.plot(x, mean, linewidth=1.5, zorder=4, label=label or look.label, **how, **style)


def threshold(axis: Axes, value: float, across: bool = False) -> None:
    """A dotted line at a value."""
    draw = axis.axvline if across else axis.axhline
    draw(value, color="black", linewidth=0.8, linestyle=":")


def log_x(axis: Axes, ticks: Sequence[float] = ()) -> None:
    """A logarithmic axis below the panel with plain numbers: at ``ticks``, or the powers of ten."""
    axis.set_xscale("log")
    if len(ticks):
        axis.set_xticks(ticks)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")


def layers(axis: Axes, sites: Sequence[str]) -> None:
    """Layers along the axis, or whatever stands there. Too many to read stand upright, without the
    words that all of them share.
    """
    grid = axis.get_subplotspec().get_gridspec()  # type: ignore[union-attr]
    letters = sum(max(map(len, site.split("\n"))) + 1 for site in sites)
    upright = letters >= 109 / grid.ncols - 11  # as many fit the width, less a label
    if upright:
        for long, short in {"Block ": "", "Conv ": "", " conv ": " c", " shortcut": " s"}.items():
            sites = [site.replace(long, short) for site in sites]
    axis.set_xticks(range(len(sites)), sites, rotation=90 if upright else 0)
    axis.set_xlim(-0.7, len(sites) - 0.3)
    axis.grid(axis="x", visible=False)


def names(settings: Sequence[Measured]) -> list[str]:
    """Settings with their scale, their words under each other."""
    told = (f"{m.name} ({m.scale})" for m in settings)
    return [name.replace(", ", "\n").replace(" (", "\n(").replace(" ", "\n", 1) for name in told]


def title(axis: Axes, text: str) -> None:
    """A panel's head, on its left."""
    axis.set_title(text, loc="left", fontsize=8.5)


def span(values: np.ndarray | Sequence[float], digits: int = 2) -> str:
    """ "0.05 to 0.09" for a figure's description."""
    found = np.asarray([*values], dtype=float)
    found = found[np.isfinite(found)]
    return between(found, digits=digits) if len(found) else "(not measured)"
