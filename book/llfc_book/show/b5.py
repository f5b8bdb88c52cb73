"""Figures of B.5: the barrier over rank, width and epoch, spectra, and networks cut to a rank."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import spearmanr

from llfc_book import evidence as ev
from llfc_book.evidence import Measured
from llfc_book.show import style, text
from llfc_book.show.style import LOOKS, Shown, span
from llfc_book.study.settings import RECIPES, WIDTHS
from llfc_lib.metrics.spectra import SHARES, SHUFFLED

BETWEEN = ("FC 2", "FC 3")  # the perceptron's square maps: units enter and leave, n of either
CUT = "untrained, truncated"
TINTS = ("#a6cbe6", "#82b3d8", "#5e9bca", "#3c83ba", "#1f6aa5", "#0f4f86", "#08305a")
BARRIERS = tuple(
    f"{what}_barrier_chord{on}" for what in ("error", "loss") for on in ("", "_on_training")
)
PERCEPTRONS = {name: f"mlp_{name}_perm_weight" for name in ("mnist", "cifar10")}
FACTORS = (("FC 2", "FC 1"), ("FC 3", "FC 2"))  # a map, and the layer whose features enter it
GAUSSIAN, START = "gaussian matrix", "before training"


@cache
def swept() -> pd.DataFrame:
    """The perceptrons of several widths, a line a pair and epoch: mean stable rank over n of the
    maps :data:`BETWEEN`, barriers after matching (fractions, nats), the ends' ``error``, the
    weights' ``cosine``, and ``left``, the share of |W (H_A - P H_B)| that matching leaves.
    ``state`` is "trained", "untrained", or "truncated": untrained and cut to the trained rank.

    Source: the last paragraph of B.5.
    """
    found = [ev.best("stable_rank_share_W", name, "widths") for name in WIDTHS]
    tables = [
        _state(m.rows, cut).assign(width=WIDTHS[m.setting.name])
        for m in found
        if m is not None and m.scale != "proxy"
        for cut in (False, True)
    ]
    return pd.concat(tables, ignore_index=True)


def _state(rows: pd.DataFrame, cut: bool) -> pd.DataFrame:
    own = rows[rows["kind"] == CUT] if cut else rows[rows["role"] == "value"]
    before = rows[rows["kind"] == (f"{CUT}: unmatched" if cut else "unmatched")]

    def mean(quantity: str, of: pd.DataFrame = own) -> pd.Series:
        chosen = of[(of["quantity"] == quantity) & of["site"].isin(("", *BETWEEN))]
        chosen = chosen[chosen["alpha"].isin((-1, 0, 1))]  # of errors along the line, the ends
        return chosen.groupby(["pair", "epoch"])["mean"].mean()

    columns = {name: mean(name) for name in (*BARRIERS, "error")}
    columns |= {"rank": mean("stable_rank_share_W"), "cosine": mean("matched_cosine")}
    columns["left"] = (mean("dist_transfer") / mean("dist_transfer", before)) ** 0.5
    table = pd.DataFrame(columns).reset_index()
    states = np.where(table["epoch"] > 0, "trained", "untrained")
    return table.assign(state="truncated" if cut else states)


def trained() -> pd.DataFrame:
    """Those of :func:`swept` that are trained, for an epoch at least."""
    table = swept()
    return table[table["state"] == "trained"]


def points(table: pd.DataFrame) -> pd.DataFrame:
    """Means over pairs: a line a width and epoch."""
    return table.groupby(["width", "epoch"]).mean(numeric_only=True).reset_index()


def correlation(table: pd.DataFrame, what: str = "rank", barrier: str = BARRIERS[0]) -> float:
    """Spearman's rank correlation of a column with the barrier."""
    return float(spearmanr(table[what], table[barrier]).statistic)


def within(table: pd.DataFrame, level: str) -> dict[int, float]:
    """The correlation within each width, or within each epoch."""
    return {int(key): correlation(of) for key, of in table.groupby(level)}


def widths() -> Shown:
    """The barrier over the stable rank, a line a width, and the rank correlation of both, over all,
    within an epoch and within a width.

    Source: B.5, "models with insufficient width" and "in the early stages of training".
    """
    figure, (left, right) = style.sheet(2, 1, 3.3)
    table = points(trained())
    for (width, of), tint in zip(table.groupby("width"), TINTS):
        x, y = of["rank"].to_numpy(), 100 * of[BARRIERS[0]].to_numpy()
        left.plot(x, y, "o-", color=tint, markersize=3.5, linewidth=1.3)
        left.plot(x[-1:], y[-1:], "o", color=tint, markersize=7)
        beside = ((6, -10), "left") if y[-1] < 2 else ((-3, 5), "right")
        where: Any = {"xytext": beside[0], "textcoords": "offset points", "ha": beside[1]}
        left.annotate(f"{width}", (x[-1], y[-1]), fontsize=8, **where)
    left.set(xscale="log", xlim=(0.017, 0.6), ylim=(0.01, 120))
    left.set_xticks((0.02, 0.05, 0.1, 0.2, 0.5), ("0.02", "0.05", "0.1", "0.2", "0.5"))
    left.minorticks_off()
    style.log_axis(left)
    left.axhline(2, color="black", linewidth=0.7, linestyle=":")
    left.set_xlabel("stable rank of the weights over n")
    left.set_ylabel("error barrier after matching (points)")
    style.title(left, "a line a width; large: the last epoch")
    told = _correlations(right)
    alt = "Error barrier after weight matching over the stable rank of the weights, for widths"
    ends = f"{table['width'].min()} to {table['width'].max()}"
    return Shown(figure, f"{alt} {ends}. Rank correlation: {told}.")


def _correlations(axis: Axes) -> str:
    look, pairs = LOOKS["pair"], trained()
    groups = {"all": pairs}
    for level in ("epoch", "width"):
        groups |= {f"{level} {key:g}": of for key, of in pairs.groupby(level)}
    for k, of in enumerate(groups.values()):
        each = [correlation(one) for _, one in of.groupby(of["pair"].str.rpartition("/")[2])]
        axis.plot([k] * len(each), each, look.marker, color=look.colour, markersize=3, alpha=0.35)
        axis.plot(k, correlation(points(of)), look.marker, color=look.colour, markersize=5.5)
    n_widths, n_epochs = pairs["width"].nunique(), pairs["epoch"].nunique()
    for after in (0.5, 0.5 + n_epochs):
        axis.axvline(after, color="black", linewidth=0.5)
    axis.axhline(0, color="black", linewidth=0.7)
    axis.set_ylim(-1.08, 1.08)
    axis.set_ylabel("rank correlation with the barrier")
    axis.set_xticks(range(len(groups)), [*groups], rotation=90)
    axis.grid(axis="x", visible=False)
    style.title(axis, f"n = {n_widths * n_epochs} (all), {n_widths} (epoch), {n_epochs} (width)")
    return "; ".join(f"{name} {correlation(points(of)):.2f}" for name, of in groups.items())


def shares(m: Measured, quantity: str, kind: str = "") -> pd.Series:
    """A quantity of the weights or features, or of what they are held against, by pair and site."""
    return m.of(quantity, "null" if kind else "value", kind).droplevel(["alpha", "direction"])


def _spectrum(m: Measured, what: str, site: str, kind: str = "") -> list[np.ndarray]:
    columns = [
        shares(m, f"sigma_{what}/{share:g}", kind).xs(site, level="site") for share in SHARES
    ]
    return [*pd.concat(columns, axis=1).to_numpy()]


def spectra() -> Shown:
    """Singular values over the largest of the two factors of the appendix's condition, W and the
    features that it acts on.

    Source: Figures 20 and 21 (B.5); Gaussian, shuffled and untrained ones are ours.
    """
    figure, axes = style.sheet(4, 2, 2.2)
    told = []
    columns = [(name, *maps) for name in PERCEPTRONS.values() for maps in FACTORS]
    for column, (name, site, before) in enumerate(columns):
        for axis, record, what, living, where, chance in (
            (axes[column], "fig20", "W", "W_living", site, GAUSSIAN),
            (axes[column + 4], "fig21", "H", "Hc_living", before, SHUFFLED),
        ):
            m = ev.best(f"sigma_{what}/0", name, record)
            if m is None:
                continue
            for look, of, kind, label in (
                ("pair", what, "", "trained"),
                ("pair", living, "", "trained, living units, H centred"),
                ("start", what, START, "before training"),
                ("start", living, START, "before training, living units, H centred"),
                ("chance", what, chance, "without structure: Gaussian W; H, images shuffled"),
            ):
                lines = _spectrum(m, of, where, kind)
                style.line(axis, SHARES, lines, look, label, dashed=of == living)
                if label == "trained":
                    half = [line[len(SHARES) // 2] for line in lines]
                    told.append(f"{m.name}, {what} of {where}: {span(half, 3)}")
            style.log_axis(axis)
            axis.set_ylim(1e-3, 1.3)
            axis.set_xticks((0, 0.5, 1), ("0", "½", "1"))
            style.title(axis, f"{ev.DATA[m.setting.data]}\n{what} of {where}")
    for axis in axes[::4]:
        axis.set_ylabel("singular value\nover the largest")
    for axis in axes[4:]:
        axis.set_xlabel("index over n")
    style.legend(figure, axes, 2)
    alt = "Singular values over the largest. Half-way down the index, in trained networks: "
    return Shown(figure, alt + "; ".join(told) + ".")


def narrow() -> list[Measured]:
    """The layer-norm ResNets that are measured after several epochs on real data."""
    found = ev.measured(
        "stable_rank_W", lambda s: ev.matched(s) and s.model == "resnet20_ln", "fig22"
    )
    return [m for m in found if m.scale != "proxy"]


def at_epoch(m: Measured, epoch: float, kind: str = "") -> pd.Series:
    """Stable rank over n after an epoch, by pair and site, without the output layer."""
    rows = m.rows[(m.rows["quantity"] == "stable_rank_share_W") & (m.rows["kind"] == kind)]
    rows = rows[(rows["epoch"] == epoch) & (rows["site"] != "FC")]
    return rows.set_index(["pair", "site"])["mean"]


def early_and_late() -> Shown:
    """Stable rank over n, layer by layer, at the start, after one epoch and after the last.

    Source: Figure 22 (B.5), at the widths that there are.
    """
    settings = narrow()
    figure, axes = style.sheet(1, len(settings), 2.4)
    told = []
    for axis, m in zip(axes, settings):
        last = m.setting.epochs
        sites = sorted(at_epoch(m, last).index.unique("site"), key=ev.depth)
        for epoch, what, colour, label in (
            (0, "chance", "", "Gaussian of its shape"),
            (0, "start", "", "before training"),
            (1, "pair", style.ALPHAS[0.25], "after epoch 1"),
            (last, "pair", "", "after the last epoch"),
        ):
            values = at_epoch(m, epoch, GAUSSIAN if what == "chance" else "")
            groups = ev.by_site(values, sites)
            style.dots(axis, range(len(sites)), groups, what, 0, colour, label)
            told.append(f"{m.name}, {label}: {span(values)}")
        style.layers(axis, sites if axis is axes[-1] else [""] * len(sites))
        axis.set_ylim(0, 0.9)
        axis.set_ylabel("stable rank over n")
        style.title(axis, f"{m.tag}, {last} epochs")
    style.legend(figure, axes)
    return Shown(figure, "Stable rank over n of every convolution. " + "; ".join(told) + ".")


def truncated() -> Shown:
    """Networks that were never trained, cut to the stable rank of the trained ones: what the
    barrier can tell of them, and what matching leaves of the appendix's condition.

    Source: the argument of B.5; the experiment is ours.
    """
    figure, axes = style.sheet(3, 1, 2.7)
    table, told = swept(), []
    last = table["epoch"].max()
    for axis, (column, label) in zip(
        axes,
        (
            ("error", "the ends' own error (%)"),
            (BARRIERS[0], "barrier after matching (points)"),
            ("left", "what matching leaves\nof $|W(H_A-PH_B)|$ (%)"),
        ),
    ):
        words = label.replace("\n", " ")
        for state, shift in (("untrained", -0.15), ("truncated", 0.15), ("trained", 0.0)):
            of = table[(table["state"] == state) & table["epoch"].isin((0, last))]
            groups = [100 * of.loc[of["width"] == w, column].to_numpy() for w in WIDTHS.values()]
            look, name = {
                "trained": ("pair", f"trained, {last:g} epochs"),
                "untrained": ("start", "untrained"),
            }.get(state, (state, None))
            style.dots(axis, range(len(groups)), groups, look, shift, label=name)
            told.append(f"{words}, {state}: {span(np.concatenate(groups), 1)}")
        axis.set_xticks(range(len(WIDTHS)), [str(w) for w in WIDTHS.values()], rotation=90)
        axis.set_xlabel("width")
        axis.grid(axis="x", visible=False)
        axis.set_ylim(-0.03 * axis.get_ylim()[1], None)
        style.title(axis, label)
    for axis, mark in ((axes[0], 50), (axes[2], 100)):
        axis.axhline(mark, color="black", linewidth=0.7, linestyle=":")
    style.legend(figure, axes)
    alt = "Trained, untrained and truncated perceptrons: "
    return Shown(figure, alt + "; ".join(told) + ".")


def ranks() -> text.MyST:
    """Every stable rank behind the spectra, folded: means over pairs."""
    cells = {
        "W": ("fig20", "stable_rank_W", ""),
        "a Gaussian's": ("fig20", "stable_rank_W", GAUSSIAN),
        "W, over n": ("fig20", "stable_rank_share_W", ""),
        "living units": ("fig21", "living_units", ""),
        "H": ("fig21", "stable_rank_Hc_living", ""),
        "H, untrained": ("fig21", "stable_rank_Hc_living", START),
        "H, over n": ("fig21", "stable_rank_share_Hc_living", ""),
    }
    lines: dict[str, dict[str, str]] = {}
    for name in PERCEPTRONS.values():
        for head, (record, quantity, kind) in cells.items():
            m = ev.best(quantity, name, record)
            if m is None:
                continue
            for site, value in shares(m, quantity, kind).groupby("site").mean().items():
                line = lines.setdefault(f"{ev.DATA[m.setting.data]}, {site}", {})
                line[head] = text.number(value)
    frame = pd.DataFrame.from_dict(lines, "index", columns=[*cells]).fillna("")
    caption = (
        "Stable ranks of perceptrons, full scale, means over pairs. H is centred and of living"
        " units, n their number; of W, n is the number of units that enter. The output layer has"
        " ten rows: its rank cannot exceed ten."
    )
    told = text.table(frame.reset_index(names="layer"), caption, "tbl-b5-ranks")
    return text.folded("Stable ranks of every layer", told)


def extensions() -> text.MyST:
    """The stronger conditions of B.5 and the joint residual after each method, folded."""
    lines = []
    for name, joint_of in PERCEPTRONS.items():
        joint = ev.best("residual", joint_of, "joint")
        for method in ("unmatched", "activation", "weight", "ste", "local search"):
            setting = f"mlp_{name}_perm_{method.replace('unmatched', 'weight')}"
            strong = ev.best("dist_transfer", setting, "strong") if setting in RECIPES else None
            which = ("control", method) if method == "unmatched" else ("value", "")
            line = [f"{ev.DATA[name]}, {method.replace('ste', 'STE')}"]
            for quantity in ("dist_transfer", "dist_weights", "dist_com"):
                line.append(text.spread(strong.of(quantity, *which) ** 0.5 if strong else []))
            for quantity in ("residual_share", "loss_half_way"):
                line.append(text.spread(joint.of(quantity, kind=method) if joint else [], 3))
            lines.append(line)
    heads = "pairs", "first condition", "second", "commutativity", "R, share left", "loss half-way"
    caption = (
        "Distances between both sides of each condition, over their length (not squared), mean and"
        " range over layers, directions and pairs; R and the training loss half-way, over pairs."
    )
    told = text.table(pd.DataFrame(lines, columns=[*heads]), caption, "tbl-b5-strong")
    return text.folded("The stronger conditions, and R, by method", told)
