"""The standard figure of a comparison, and what every figure is drawn with: colours and style."""

import base64
import io
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

WIDTH, DPI, SHOWN = 6.4, 200, 640  # inches, dots an inch, pixels on the page
# Okabe and Ito's colours: told apart by the colour-blind, dark enough on white
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#007a5a", "#9c4f80"
SKY, RED, GREY, OCHRE = "#3a8fc0", "#a1352f", "#6b6b6b", "#b8860b"


class Series(NamedTuple):
    """One series of rows and how it is drawn, the same in every panel."""

    role: str
    kind: str
    colour: str
    marker: str
    line: str  # between points
    label: str
    statistics: str = "interpolated"

    def of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Those of ``rows`` that belong to it."""
        ours = (rows["role"] == self.role) & (rows["kind"] == self.kind)
        return rows[ours & (rows["statistics"] == self.statistics)]


SERIES = (
    Series("value", "", BLUE, "o", "-", "the pair"),
    Series("value", "", SKY, "D", "--", "the pair, recomputed", "recomputed"),
    Series("control", "before matching", RED, "x", "-", "control: before matching"),
    Series("control", "before matching", PURPLE, "+", "--", "control, recomputed", "recomputed"),
    Series("null", "rotation matched", ORANGE, "v", ":", "null: displaced at random, as far"),
    Series("null", "nearest endpoint", OCHRE, "_", "", "null: nearest endpoint (LLFC)"),
    Series("null", "formula", OCHRE, "|", "", "null: formula (commutativity)"),
    Series("null", "shuffled units", GREY, "_", "", "null: shuffled units (commutativity)"),
)
#: Quantity, what it is multiplied by, and what stands at the axis.
PANELS = (
    ("error", 100, "error (%)"),
    ("loss", 1, "loss (nats)"),
    ("cos_ratio", 1, "LLFC half-way:\n$(1-\\cos_\\alpha)/(1-\\cos_{AB})$"),
    ("1-coef_alpha", 1, "LLFC half-way:\n1 - coefficient"),
    ("dist_com", 1, "commutativity: Dist$_{com}$"),
    ("stitched_error", 100, "stitched error (%),\nmean of both directions"),
)
STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "legend.fontsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


class Shown:
    """A figure with its description, as PNG. The description is the alternative text, and what
    nbval compares.
    """

    def __init__(self, figure: Figure, alt: str) -> None:
        self.figure, self.alt = figure, alt
        FigureCanvasAgg(figure)

    @cached_property
    def png(self) -> bytes:
        """The figure drawn, when somebody asks for it."""
        buffer = io.BytesIO()
        # without a version, the same bytes each time
        self.figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        return buffer.getvalue()

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict]]:
        data = {
            "image/png": base64.b64encode(self.png).decode(),
            "text/plain": f"<figure: {self.alt}>",
        }
        return data, {"image/png": {"width": SHOWN, "alt": self.alt}}


def legend(figure: Figure, axes: Sequence[Axes], columns: int = 4) -> None:
    """One legend above the panels, each label once."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            found.setdefault(label, handle)
    look: Any = {"ncols": columns, "fontsize": 8.0, "frameon": False}
    figure.legend(found.values(), found.keys(), loc="outside upper left", **look)


def log_axis(axis: Axes) -> None:
    """A logarithmic axis with plain numbers where they are short."""
    axis.set_yscale("log")

    def plain(value: float, _: float) -> str:
        return f"{value:g}" if 1e-3 <= value < 1e4 else f"1e{round(np.log10(value))}"

    axis.yaxis.set_major_formatter(plain)
    low, high = axis.get_ylim()
    if high / low < 100:  # fewer than two decades: the powers of ten alone would say too little
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.yaxis.set_minor_formatter(plain)
    else:
        axis.yaxis.set_minor_formatter(NullFormatter())


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
        rows = frame if along else half
        rows = rows[rows["quantity"] == quantity]
        panel(axis, rows, factor, "alpha" if along else "site")
        axis.set_ylabel(label)
        layers = "map" if quantity == "dist_com" else "layer"
        axis.set_xlabel("α, the share of A" if along else layers)
        # a network beside itself has no Dist_com
        if quantity in ("loss", "dist_com") and (rows["mean"] > 0).any():
            log_axis(axis)
    own = (frame["quantity"] == "error") & (frame["role"] == "value")
    ends = 100 * frame.loc[own & frame["alpha"].isin((0.0, 1.0)), "mean"]
    band = {"color": GREY, "alpha": 0.2, "linewidth": 0}
    axes[5].axhspan(ends.min(), ends.max(), label="A and B alone", **band)
    axes[2].set_ylim(bottom=0)
    legend(drawn, axes, columns=2)
    drawn.supxlabel(title, fontsize=8, color="#444444", x=0.995, ha="right")
    return Shown(drawn, f"{title}. {_words(half)}")


def panel(axis: Axes, rows: pd.DataFrame, factor: float, by: str) -> None:
    """The series that there are in ``rows``, by "alpha" as lines or by "site" as points."""
    places = list(dict.fromkeys(rows[by]))
    for series in SERIES:
        values = factor * series.of(rows).groupby(by, sort=by == "alpha")["mean"].mean()
        if values.empty:
            continue
        x, line, size = list(values.index), series.line, 3.0
        if by == "site":
            x, line, size = [places.index(site) for site in values.index], "", 4.5
        look: Any = {"marker": series.marker, "color": series.colour, "markersize": size}
        axis.plot(x, values, linestyle=line, linewidth=1.2, label=series.label, **look)
    if by == "site":
        upright: Any = {"rotation": 90, "fontsize": 8} if len(places) > 4 else {}
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
        means = {s.label: factor * s.of(rows)["mean"].mean() for s in SERIES if len(s.of(rows))}
        told.append(
            f"{name}: " + ", ".join(f"{label} {value:.2g}" for label, value in means.items())
        )
    return "Means over layers. " + "; ".join(told) + "."
