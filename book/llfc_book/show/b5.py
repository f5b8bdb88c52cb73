"""B.5: the barrier over rank, width and epoch, spectra, and networks cut to a rank."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from llfc_book import evidence as ev
from llfc_book.evidence import Measured
from llfc_book.show import style
from llfc_book.show.style import Series, Shown
from llfc_book.study.settings import WIDTHS
from llfc_lib.metrics.spectra import SHARES, SHUFFLED

BETWEEN = ("FC 2", "FC 3")  # the perceptron's square maps: units enter and leave, n of either
CUT = "untrained, truncated"
TINTS = ("#a6cbe6", "#82b3d8", "#5e9bca", "#3c83ba", "#1f6aa5", "#0f4f86", "#08305a")
BARRIER = "error_barrier_chord"
ON_TRAINING = "error_barrier_chord_on_training"
PERCEPTRONS = {name: f"mlp_{name}_perm_weight" for name in ("mnist", "cifar10")}
FACTORS = (("FC 2", "FC 1"), ("FC 3", "FC 2"))  # a map, and the layer whose features enter it
GAUSSIAN, START = "gaussian matrix", "before training"


@cache
def swept() -> pd.DataFrame:
    """The perceptrons of several widths, a line a pair and epoch: mean stable rank over n of the
    maps :data:`BETWEEN`, barrier after matching (a fraction), the ends' ``error``, the
    weights' ``cosine``, and ``left``, the share of |W (H_A - P H_B)| that matching leaves.
    ``state`` is "trained", "untrained", or "truncated": untrained and cut to the trained rank.

    Source: the last paragraph of B.5.
    """
    found = ev.measured("stable_rank_share_W", lambda s: s.name in WIDTHS, "widths")
    tables = [
        _state(m.rows, cut).assign(width=WIDTHS[m.setting.name])
        for m in found
        for cut in (False, True)
    ]
    return pd.concat(tables, ignore_index=True)


def _state(rows: pd.DataFrame, cut: bool) -> pd.DataFrame:
    rows = rows[rows["site"].isin(("", *BETWEEN)) & rows["alpha"].isin((-1, 0, 1))]  # no midpoints
    own, before = (
        rows[which].pivot_table("mean", ["pair", "epoch"], "quantity")
        for which in (
            rows["kind"].eq(CUT) if cut else rows["role"].eq("value"),
            rows["kind"].eq(f"{CUT}: unmatched" if cut else "unmatched"),
        )
    )
    found = own[[BARRIER, ON_TRAINING, "error"]].assign(
        rank=own["stable_rank_share_W"],
        cosine=own["matched_cosine"],
        left=(own["dist_transfer"] / before["dist_transfer"]) ** 0.5,
    )
    states = np.where(found.index.get_level_values("epoch") > 0, "trained", "untrained")
    return found.assign(state="truncated" if cut else states).reset_index()


def trained() -> pd.DataFrame:
    """Those of :func:`swept` that are trained, for an epoch at least."""
    return swept()[swept()["state"] == "trained"]


def points(table: pd.DataFrame) -> pd.DataFrame:
    """Means over pairs: a line a width and epoch."""
    return table.groupby(["width", "epoch"]).mean(numeric_only=True).reset_index()


def correlation(table: pd.DataFrame, what: str = "rank", barrier: str = BARRIER) -> float:
    """Spearman's rank correlation of a column with the barrier."""
    return float(spearmanr(table[what], table[barrier]).statistic)


def within(table: pd.DataFrame, level: str) -> dict[int, float]:
    """The correlation within each width, or within each epoch."""
    return {int(key): correlation(of) for key, of in table.groupby(level)}


def widths() -> Shown:
    """The barrier over the stable rank, a line a width (B.5, "models with insufficient width", "in
    the early stages of training").
    """
    figure, (axis,) = style.sheet(1, 1, 3.3)
    for (width, of), tint in zip(points(trained()).groupby("width"), TINTS):
        x, y = of["rank"].to_numpy(), 100 * of[BARRIER].to_numpy()
        axis.plot(x, y, "o-", color=tint, markersize=3.5, linewidth=1.3)
        axis.plot(x[-1:], y[-1:], "o", color=tint, markersize=7)
        offset, side = ((7, -9), "left") if y[-1] < 2 else ((-5, 6), "right")
        place: Any = {"xytext": offset, "textcoords": "offset points", "ha": side}
        axis.annotate(f"{width}", (x[-1], y[-1]), fontsize=style.SMALL, **place)
    axis.set(xlim=(0.017, 0.6), ylim=(0.01, 120), xlabel="stable rank of the weights over n")
    axis.set_ylabel("error barrier after matching (points)")
    style.log_x(axis, (0.02, 0.05, 0.1, 0.2, 0.5))
    style.log_axis(axis)
    style.threshold(axis, 2)
    style.title(axis, "a line a width (reduced), a dot an epoch; large: the last one")
    told = [f"{ev.NETWORKS['mlp']}s of width {min(WIDTHS.values())} to {max(WIDTHS.values())}"]
    told.append(f"rank correlation {correlation(points(trained())):.2f}")
    return style.shown(figure, "Barrier after weight matching by stable rank", told)


def shares(m: Measured, quantity: str, kind: str = "") -> pd.Series:
    """A quantity of the weights or features, or of what they are held against, by pair and site."""
    return m.of(quantity, "null" if kind else "value", kind).droplevel(["alpha", "direction"])


def spectra() -> Shown:
    """Singular values over the largest of the two factors of the appendix's condition, W and
    the features that it acts on (Figures 20 and 21).
    """
    figure, axes = style.sheet(4, 2, 2.3, share="y")
    columns = [(name, *maps) for name in PERCEPTRONS.values() for maps in FACTORS]
    told = []
    for k, (name, site, before) in enumerate(columns):
        for axis, record, what, living, where, chance in (
            (axes[k], "fig20", "W", "W_living", site, GAUSSIAN),
            (axes[k + 4], "fig21", "H", "Hc_living", before, SHUFFLED),
        ):
            (m,) = ev.measured(f"sigma_{what}/0", lambda s, name=name: s.name == name, record)
            for look, of, kind, label in (
                ("pair", what, "", "trained"),
                ("pair", living, "", "trained, living units, H centred"),
                ("start", what, START, "before training"),
                ("start", living, START, "before training, living units, H centred"),
                ("chance", what, chance, "without structure: Gaussian W; H, images shuffled"),
            ):
                curve = [shares(m, f"sigma_{of}/{x:g}", kind).xs(where, level=1) for x in SHARES]
                lines = np.transpose(curve)  # a pair each
                style.line(axis, SHARES, lines, look, label, dashed=of == living)
                if label == "trained":
                    half_way = style.span(lines[:, len(SHARES) // 2])
                    told.append(f"{m.name}, {what} of {where}: {half_way}")
            axis.set(ylim=(1e-3, 1.3), xlabel="index over n")
            style.log_axis(axis)
            axis.set_xticks((0, 0.5, 1), ("0", "½", "1"))
            axis.set_ylabel("singular value\nover the largest")
            style.title(axis, f"{ev.DATA[m.setting.data]} ({m.scale})\n{what} of {where}")
    return style.shown(figure, "Singular values over the largest, half-way down the index", told, 2)


def narrow() -> list[Measured]:
    """The layer-norm ResNets that are measured after several epochs on real data."""
    which = ev.measured("stable_rank_W", ev.matched, "fig22")
    return [m for m in which if m.setting.model == "resnet20_ln"]


def at_epoch(m: Measured, epoch: float, kind: str = "") -> pd.Series:
    """Stable rank over n after an epoch, by pair and site, without the output layer."""
    rows = m.rows[(m.rows["quantity"] == "stable_rank_share_W") & (m.rows["kind"] == kind)]
    rows = rows[(rows["epoch"] == epoch) & (rows["site"] != "FC")]
    return rows.set_index(["pair", "site"])["mean"]


def early_and_late() -> Shown:
    """Stable rank over n, layer by layer, at the start, after one epoch and after the last
    (Figure 22).
    """
    figure, axes = style.sheet(1, len(narrow()), 2.4, share="x")
    told = []
    for axis, m in zip(axes, narrow()):
        last = m.setting.epochs
        sites = ev.sites_of(at_epoch(m, last))
        series = [
            Series(what, ev.by_site(at_epoch(m, epoch, kind), sites), label, colour)
            for epoch, kind, what, colour, label in (
                (0, GAUSSIAN, "chance", "", "Gaussian of its shape"),
                (0, "", "start", "", "before training"),
                (1, "", "pair", style.ALPHAS[0.25], "after epoch 1"),
                (last, "", "pair", "", "after the last epoch"),
            )
        ]
        head = f"{m.tag}, {last} epochs"
        told.append(style.panel(axis, sites, series, head, "stable rank over n", apart=0))
        axis.set_ylim(0, 0.9)
    return style.shown(figure, "Stable rank over n of every convolution", told)


def truncated() -> Shown:
    """Networks that were never trained, cut to the stable rank of the trained ones: what the
    barrier can tell of them, and what matching leaves of the appendix's condition.
    """
    figure, axes = style.sheet(3, 1, 2.7)
    last = swept()["epoch"].max()
    table = swept()[swept()["epoch"].isin((0, last))]
    states = {"untrained": ("start", "untrained"), "truncated": ("truncated", "")}
    states |= {"trained": ("pair", f"trained, {last:g} epochs")}
    panels = (
        ("error", "the ends' own\nerror (%)", 50),
        (BARRIER, "barrier after\nmatching (points)", None),
        ("left", "left by matching\nof $|W(H_A-PH_B)|$ (%)", 100),
    )
    told = []
    for axis, (column, head, mark) in zip(axes, panels):
        series = []
        for state, (what, label) in states.items():
            of = 100 * table[table["state"] == state].set_index("width")[column]
            series.append(Series(what, [of[width].to_numpy() for width in WIDTHS.values()], label))
        told.append(style.panel(axis, [*map(str, WIDTHS.values())], series, head, "", mark))
        axis.set_xlabel("width")
        axis.set_ylim(bottom=-3)
    return style.shown(figure, "Trained, untrained and truncated perceptrons", told)
