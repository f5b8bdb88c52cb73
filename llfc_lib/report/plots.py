"""Figures drawn from the rows of a record or of a live measurement; each names its profile and describes itself."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from llfc_lib.report.claims import TABLE_1
from llfc_lib.report.verdicts import numbers

WIDTH, DPI, SHOWN = 6.4, 200, 640  # inches, dots an inch, pixels on the page
# Okabe and Ito's colours: told apart by the colour-blind, dark enough on white
BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY = "#0072B2", "#D55E00", "#007a5a", "#9c4f80", "#3a8fc0", "#a1352f", "#6b6b6b"
ALPHA_COLOURS = {0.25: SKY, 0.5: BLUE, 0.75: PURPLE}
NULL_COLOURS = {"rotation": ORANGE, "entries": GREEN, "gaussian": GREY}
NULL_LABELS = {"rotation": "null: difference rotated", "entries": "null: its entries shuffled", "gaussian": "null: Gaussian"}
STYLE = {"font.size": 8.5, "axes.titlesize": 9, "axes.labelsize": 8.5, "legend.fontsize": 7.5, "axes.spines.top": False,
         "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.6, "legend.frameon": False}


class Shown:
    """A figure with its description, as PNG. The description is the alternative text, and what nbval compares."""

    def __init__(self, figure: Figure, alt: str) -> None:
        self.figure, self.alt = figure, alt
        buffer = io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})  # the same bytes each time
        self.png = buffer.getvalue()

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict]]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": f"<figure: {self.alt}>"}
        return data, {"image/png": {"width": SHOWN, "alt": self.alt}}


def _figure(frame: pd.DataFrame, panels: int, height: float, rows: int = 1) -> tuple[Figure, list[Axes], str]:
    """An empty figure whose last line says what made it."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
        axes = figure.subplots(rows, panels, squeeze=False).ravel().tolist()
    count = frame["pair"].nunique()
    made_by = f"profile {frame.attrs['profile']}, {frame['data'].iloc[0]}, {count} pair{'s' * (count > 1)}"
    figure.supxlabel(made_by, fontsize=7, color="#444444", x=0.995, ha="right")
    return figure, axes, made_by


def _legend(figure: Figure, axes: Sequence[Axes], columns: int = 4) -> None:
    """One legend above the panels, each label once."""
    found: dict[str, object] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside upper left", ncols=columns, fontsize=7.5, frameon=False)


def _ordered_sites(frame: pd.DataFrame, quantity: str) -> list[str]:
    """Sites in order of depth: records are sorted by name, in which "logits" comes last, as it should."""
    sites = frame.loc[(frame["quantity"] == quantity) & (frame["role"] == "value"), "site"].unique()
    return sorted(site for site in sites if not site.endswith("(pre)"))


def _own(frame: pd.DataFrame) -> pd.DataFrame:
    own = frame[frame["pair"].str.startswith("mlp_mnist_spawn/")]
    own.attrs = frame.attrs
    return own


def _pairwise(values: pd.Series, sites: Sequence[str], alpha: float | None = None) -> list[np.ndarray]:
    """The numbers of all pairs at each site (and alpha)."""
    if alpha is not None:
        values = values[values.index.get_level_values("alpha") == alpha]
    return [values[values.index.get_level_values("site") == site].to_numpy() for site in sites]


def _band(axis: Axes, groups: Sequence[np.ndarray], colour: str, label: str, place: int | None = None) -> None:
    """A null: from its smallest to its largest value over pairs, with its mean, at each site.

    ``place`` 0, 1 or 2 puts it in that third of the site's width, so that nulls of one kind stand side by side.
    """
    left, right = (-0.42, 0.42) if place is None else (-0.42 + 0.28 * place, -0.16 + 0.28 * place)
    for k, group in enumerate(groups):
        if len(group):
            span = [k + left, k + right]
            axis.fill_between(span, group.min(), group.max(), color=colour, alpha=0.30, linewidth=0, zorder=1)
            axis.plot(span, [group.mean()] * 2, color=colour, linewidth=1.6, zorder=2, label=label if k == 0 else None)


def _points(axis: Axes, groups: Sequence[np.ndarray], colour: str, label: str, shift: float = 0.0, marker: str = "o") -> None:
    """Every pair as a faint dot, their mean as a full one."""
    for k, group in enumerate(groups):
        axis.plot(np.full(len(group), k + shift), group, marker, color=colour, markersize=2.5, alpha=0.35, zorder=3)
        if len(group):
            axis.plot(k + shift, group.mean(), marker, color=colour, markersize=5, zorder=4,
                      label=label if k == 0 else None)


def _log(axis: Axes) -> None:
    """A logarithmic axis with plain numbers where they are short."""
    axis.set_yscale("log")

    def plain(value: float, _: int) -> str:
        return f"{value:g}" if 1e-3 <= value < 1e4 else f"1e{round(np.log10(value))}"

    axis.yaxis.set_major_formatter(plain)
    low, high = axis.get_ylim()
    if high / low < 100:  # fewer than two decades: the powers of ten alone would say too little
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.yaxis.set_minor_formatter(plain)
    else:
        axis.yaxis.set_minor_formatter(NullFormatter())


def _site_axis(axis: Axes, sites: Sequence[str]) -> None:
    axis.set_xticks(range(len(sites)), sites)
    axis.set_xlim(-0.6, len(sites) - 0.4)
    axis.grid(axis="x", visible=False)


def _span(values: pd.Series, digits: int) -> str:
    """"0.054 to 0.094" for a figure's description; what the record lacks is said so."""
    return f"{values.min():.{digits}f} to {values.max():.{digits}f}" if len(values) else "(not measured)"


def llfc(frame: pd.DataFrame) -> Shown:
    """Figure 8: 1-cos against its baseline, coef, and their ratio with every null."""
    own = _own(frame)
    figure, axes, made_by = _figure(own, 2, 5.6, rows=2)
    sites = _ordered_sites(own, "1-cos_alpha")
    alphas = sorted({a for a in numbers(own, "1-cos_alpha").index.get_level_values("alpha") if a >= 0})

    def image_std(quantity: str, alpha: float | None) -> list[float]:
        rows = own[(own["quantity"] == quantity) & (own["role"] == "value")]
        rows = rows[rows["alpha"].isna() if alpha is None else rows["alpha"] == alpha]
        return [rows.loc[rows["site"] == site, "std"].mean() for site in sites]

    for axis, quantity in ((axes[0], "1-cos_alpha"), (axes[1], "1-coef_alpha")):
        for j, alpha in enumerate(alphas):
            groups, shift = _pairwise(numbers(own, quantity), sites, alpha), 0.16 * (j - (len(alphas) - 1) / 2)
            _points(axis, groups, ALPHA_COLOURS.get(alpha, BLUE), f"α = {alpha:g}", shift)
            axis.errorbar([k + shift for k in range(len(sites))], [g.mean() for g in groups], yerr=image_std(quantity, alpha),
                          fmt="none", ecolor=ALPHA_COLOURS.get(alpha, BLUE), elinewidth=0.8, capsize=1.5, alpha=0.8)
        _site_axis(axis, sites)
    groups = _pairwise(numbers(own, "1-cos_AB"), sites)
    _points(axes[0], groups, RED, "A and B: $1-\\cos_{AB}$", 0.36, "s")
    axes[0].errorbar([k + 0.36 for k in range(len(sites))], [g.mean() for g in groups], yerr=image_std("1-cos_AB", None),
                     fmt="none", ecolor=RED, elinewidth=0.8, capsize=1.5)
    _band(axes[1], _pairwise(numbers(own, "1-coef_alpha", "null", "nearest endpoint"), sites, 0.5), "#b8860b",
          "null: nearest endpoint")
    axes[0].set_ylabel("1 - cosine, sd over images")
    axes[0].set_title("cosine, and its baseline", loc="left", fontsize=8)
    axes[1].set_ylabel("1 - coefficient, sd over images")
    axes[1].set_title("coefficient", loc="left", fontsize=8)
    axes[1].axhline(0, color="black", linewidth=0.6)
    ratio = numbers(own, "cos_ratio")
    for axis, size in ((axes[2], "t=1"), (axes[3], "matched")):
        _points(axis, _pairwise(ratio, sites, 0.5), BLUE, "α = 0.5")
        _band(axis, _pairwise(numbers(own, "cos_ratio", "null", "nearest endpoint"), sites, 0.5), "#b8860b",
              "null: nearest endpoint")
        for place, (kind, colour) in enumerate(NULL_COLOURS.items()):
            _band(axis, _pairwise(numbers(own, "cos_ratio", "null", f"{kind} {size}"), sites, 0.5), colour,
                  NULL_LABELS[kind], place)
        _site_axis(axis, sites)
        axis.set_ylabel(r"$(1-\cos_\alpha)\,/\,(1-\cos_{AB})$, ratio")
        axis.set_title("displaced partners, t = 1" if size == "t=1" else "displaced partners at the pair's distance",
                       loc="left", fontsize=8)
        axis.set_ylim(bottom=0)
    _legend(figure, axes)
    half, null, turned = (numbers(own[own["alpha"] == 0.5], "cos_ratio", *which) for which in
                          ((), ("null", "nearest endpoint"), ("null", "rotation matched")))
    displaced = f", partners rotated at random to the same distance between {turned.min():.3f} and {turned.max():.3f}" \
        if len(turned) else ""
    alt = (f"LLFC of spawned pairs ({made_by}). Half-way, 1 - cosine of the features is between {half.min():.3f} and "
           f"{half.max():.3f} of its baseline; the nearest endpoint would give {_span(null, 3)}{displaced}. "
           f"1 - coefficient reaches {numbers(own, '1-coef_alpha').abs().max():.3f}.")
    return Shown(figure, alt)


def commutativity(frame: pd.DataFrame) -> Shown:
    """Dist_com beside Dist_W and Dist_H (as Figures 16 to 18), and against its nulls."""
    own = _own(frame)
    figure, axes, made_by = _figure(own, 2, 3.4)
    sites = _ordered_sites(own, "dist_com")
    com, w, h = (numbers(own, q) for q in ("dist_com", "dist_W", "dist_H"))
    for axis in axes:
        _points(axis, _pairwise(com, sites), BLUE, "Dist$_{com}$")
    _points(axes[0], _pairwise(w, sites), GREEN, "Dist$_W$", -0.18, "s")
    _points(axes[0], _pairwise(h, sites), PURPLE, "Dist$_H$", 0.18, "^")
    _band(axes[1], _pairwise(numbers(own, "dist_com", "null", "formula"), sites), "#b8860b", "null: formula 4r/(1+r)", 1)
    _band(axes[1], _pairwise(numbers(own, "dist_com", "null", "shuffled units"), sites), GREY, "null: shuffled units", 0)
    _band(axes[1], _pairwise(numbers(own, "dist_com", "null", "rotation matched"), sites), ORANGE,
          NULL_LABELS["rotation"], 2)
    control = _pairwise(numbers(own, "dist_com", "control", "independent"), sites)
    _points(axes[1], control, RED, "control: independent pair", 0.3, "x")
    for axis, title in zip(axes, ("beside the distances of weights and features", "its nulls and control")):
        _log(axis)
        axis.set_ylabel("dist (no unit, log scale)")
        axis.set_title(title, loc="left", fontsize=8)
        _site_axis(axis, sites)
    _legend(figure, axes, columns=3)
    formula, shuffled = (numbers(own, "dist_com", "null", kind) for kind in ("formula", "shuffled units"))
    alt = (f"Commutativity of spawned pairs ({made_by}). Dist_com is {(com / w).min():.3f} to {(com / w).max():.3f} of Dist_W; "
           f"it is {_span((com / formula).dropna(), 2)} times what the formula gives without "
           f"structure and {_span((com / shuffled).dropna(), 1)} times what shuffled units give.")
    return Shown(figure, alt)


def additivity(frame: pd.DataFrame) -> Shown:
    """Weak additivity at every ReLU against unrelated images, displaced partners and the control."""
    own = _own(frame)
    figure, axes, made_by = _figure(own, 1, 2.9)
    axis, sites, values = axes[0], _ordered_sites(own, "dist_add"), numbers(own, "dist_add")
    shuffled = numbers(own, "dist_add", "null", "shuffled images")
    _points(axis, _pairwise(values, sites), BLUE, "spawned pair")
    _band(axis, _pairwise(shuffled, sites), "#b8860b", "null: shuffled images")
    for place, (kind, colour) in enumerate(NULL_COLOURS.items()):
        _band(axis, _pairwise(numbers(own, "dist_add", "null", f"{kind} matched"), sites), colour,
              NULL_LABELS[kind], place)
    _points(axis, _pairwise(numbers(own, "dist_add", "control", "independent"), sites), RED, "control: independent pair",
            0.3, "x")
    _log(axis)
    axis.set_ylabel("dist (no unit, log scale)")
    _site_axis(axis, sites)
    axis.set_title("σ(x + y) against σ(x) + σ(y); displaced partners at the pair's distance", loc="left", fontsize=8)
    _legend(figure, axes, columns=3)
    alt = (f"Weak additivity of the ReLU ({made_by}): dist is {values.min():.4f} to {values.max():.4f}, with unrelated "
           f"images {_span(shuffled, 3)}.")
    return Shown(figure, alt)


def stitching(frame: pd.DataFrame) -> Shown:
    """Stitched errors in both directions beside the endpoints, the paper's Table 1, and the nulls."""
    from llfc_lib.report.tables import wilson

    own = _own(frame)
    figure, axes, made_by = _figure(own, 2, 3.3)
    sites = _ordered_sites(own, "stitched_error")
    error = numbers(own, "error")
    ends = 100 * error[error.index.get_level_values("alpha").isin([0.0, 1.0])]
    n = int(own.loc[(own["quantity"] == "stitched_error") & (own["role"] == "value"), "n"].iloc[0])
    stitched = 100 * numbers(own, "stitched_error")
    for axis in axes:
        axis.axhspan(ends.min(), ends.max(), color=GREY, alpha=0.2, linewidth=0, label="A and B alone")
    for direction, colour, shift, marker in (("A to B", BLUE, -0.12, "o"), ("B to A", GREEN, 0.12, "s")):
        groups = _pairwise(stitched[stitched.index.get_level_values("direction") == direction], sites)
        _points(axes[0], groups, colour, f"stitched, {direction}", shift, marker)
        mean = [g.mean() / 100 for g in groups]
        bars = np.array([[100 * (p - wilson(p, n)[0]), 100 * (wilson(p, n)[1] - p)] for p in mean]).T
        axes[0].errorbar([k + shift for k in range(len(sites))], [100 * p for p in mean], yerr=bars, fmt="none",
                         ecolor=colour, elinewidth=0.8, capsize=1.5)
    if own.attrs["profile"] != "smoke":  # another data set: the paper's numbers say nothing there
        axes[0].plot(range(len(sites)), [TABLE_1[site] for site in sites], "*", color="black", markersize=8,
                     label="the paper's Table 1", zorder=5)
    _points(axes[1], _pairwise(stitched, sites), BLUE, "stitched, both directions")
    for place, (kind, colour) in enumerate(NULL_COLOURS.items()):
        _band(axes[1], _pairwise(100 * numbers(own, "stitched_error", "null", f"{kind} matched"), sites), colour,
              NULL_LABELS[kind], place)
    control = 100 * numbers(own, "stitched_error", "control", "independent")
    _points(axes[1], _pairwise(control, sites), RED, "control: independent pair", 0.3, "x")
    _log(axes[1])
    for axis, title in zip(axes, ("mean with 95 % interval of one test set", "nulls (at the pair's distance) and control")):
        axis.set_ylabel("test error (%)" + (", log scale" if axis is axes[1] else ""))
        axis.set_title(title, loc="left", fontsize=8)
        _site_axis(axis, sites)
    _legend(figure, axes, columns=3)
    by_site = ", ".join(f"{site} {g.mean():.2f}" for site, g in zip(sites, _pairwise(stitched, sites)))
    alt = (f"Test errors of stitched networks ({made_by}), mean over pairs and directions in percent: {by_site}; the "
           f"networks alone {ends.mean():.2f}; stitched to an independent network {_span(control, 0)}.")
    return Shown(figure, alt)


def barrier(frame: pd.DataFrame) -> Shown:
    """Error and loss along the line between A and B, spawned and independent."""
    own = _own(frame)
    figure, axes, made_by = _figure(own, 2, 3.0)
    for axis, quantity, unit, factor in ((axes[0], "error", "%", 100), (axes[1], "loss", "nats", 1)):
        for role, kind, colour, label in (("value", "", BLUE, "spawned pair"),
                                          ("control", "independent", RED, "control: independent pair")):
            values = factor * numbers(own, quantity, role, kind)
            for _, one in values.groupby("pair"):
                axis.plot(one.index.get_level_values("alpha"), one.to_numpy(), color=colour, alpha=0.25, linewidth=0.7)
            mean = values.groupby("alpha").mean()
            axis.plot(mean.index, mean.to_numpy(), color=colour, linewidth=1.8, label=f"{label} (mean)")
        _log(axis)
        axis.set_xlabel("α, the share of A")
        axis.set_ylabel(f"test {quantity} ({unit}), log scale")
    _legend(figure, axes)
    over, control = (100 * numbers(own, "error_barrier_chord", *which) for which in ((), ("control", "independent")))
    alt = (f"Test error and loss between A and B ({made_by}). The largest excess of the error over the chord is "
           f"{over.max():.2f} points for spawned pairs and {_span(control, 0)} for independent ones.")
    return Shown(figure, alt)


def training(frame: pd.DataFrame) -> Shown:
    """Training loss and test error of every network over the epochs."""
    figure, axes, made_by = _figure(frame, 2, 3.0)
    recipes = sorted(frame["pair"].str.rsplit("/", n=1).str[0].unique())
    last = {}
    for axis, quantity, unit, factor in ((axes[0], "train_loss", "nats", 1), (axes[1], "test_error", "%", 100)):
        for recipe, colour in zip(recipes, (BLUE, ORANGE, GREEN)):
            rows = frame[(frame["quantity"] == quantity) & frame["pair"].str.startswith(f"{recipe}/")]
            for _, one in rows.groupby(["pair", "kind"]):
                one = one.sort_values("epoch")
                axis.plot(one["epoch"], factor * one["mean"], color=colour, alpha=0.35, linewidth=0.7)
            mean = factor * rows.groupby("epoch")["mean"].mean()
            axis.plot(mean.index, mean.to_numpy(), color=colour, linewidth=1.8, label=f"{recipe} (mean)")
            last[recipe] = f"{recipe} {mean.iloc[-1]:.2f}" + (" %" if quantity == "test_error" else "")
        _log(axis)
        axis.set_xlabel("epoch")
        axis.set_ylabel(f"{quantity.replace('train', 'training').replace('_', ' ')} ({unit}), log scale")
    _legend(figure, axes, columns=2)
    return Shown(figure, f"Training curves of all networks ({made_by}). Mean test error after the last epoch: "
                         f"{'; '.join(last.values())}.")
