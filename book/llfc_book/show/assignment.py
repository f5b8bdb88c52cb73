"""Tables and figures of chapter A.3 from :mod:`llfc_book.appendix`."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from llfc_book.appendix.assignment import MINIMISED, ROUNDING
from llfc_book.appendix.identities import IDENTITIES
from llfc_book.show.select import at, numbers, of
from llfc_book.show.tables import MyST, made_by, table
from llfc_book.study.measures.joint import NULLS, QUANTILES
from llfc_lib.figures import BLUE, GREEN, GREY, ORANGE, STYLE, WIDTH, Shown

EXACT = 1e-12  # below this a deviation is rounding, which differs between processors
BREAKS = {
    "F2": "-H_A^\\top M_APH_B",
    "S3": "-H_B^\\top M_BP^\\top H_A",
    "C1": "(W_BP^\\top H_A-W_BH_B)^",
}  # where long lines go on in the next
Frames = Mapping[str, pd.DataFrame]  # by what was drawn


def chain(block: str, label: str) -> MyST:
    """The printed lines of the block whose steps begin with ``block`` ("O", "F", "S" or "C"), one
    under the other, each step with its name: an equality, an equality up to a constant, or
    neither."""
    steps = [identity for identity in IDENTITIES if identity.name.startswith(block)]
    if not steps:
        raise ValueError(
            f"no steps called {block!r}; the blocks are"
            f" {sorted({identity.name[0] for identity in IDENTITIES})}"
        )
    lines = [rf"&{steps[0].left.math}"]
    for step in steps:
        sign = r"\simeq" if step.up_to_constant else "=" if step.holds_as_printed else r"\neq"
        right, goes_on = step.right.math, BREAKS.get(step.name)
        if goes_on:
            right = right.replace(
                goes_on, r"\\&\qquad" + r"\cdot" * goes_on.startswith("(") + goes_on
            )
        lines.append(rf"\overset{{\text{{{step.name}}}}}{{{sign}}}\;&{right}")
    return MyST(
        "\n".join(
            [
                "```{math}",
                f":label: {label}",
                r"\begin{aligned}",
                "\\\\\n".join(lines),
                r"\end{aligned}",
                "```",
            ]
        )
    )


def _rounded(value: float) -> str:
    return "below 1e-12" if value < EXACT else f"{value:.3g}"


def identities(found: pd.DataFrame) -> MyST:
    """Every step as printed, and corrected where it fails, from the rows of ``deviations`` for the
    cases "random" and "trained".
    """
    rows = [
        (
            one.step,
            "the same, corrected" if one.corrected else one.done,
            "a constant apart" if one.up_to_constant else "equal",
            _rounded(one.random),
            _rounded(one.trained),
            "yes" if max(one.random, one.trained) < EXACT else "**no**",
        )
        for one in found.itertuples()
    ]
    columns = [
        "step",
        "what is done",
        "both sides are",
        "deviation, random",
        "deviation, trained",
        "holds",
    ]
    return table(
        pd.DataFrame(rows, columns=columns),
        "Every step of A.3 evaluated on both sides under several random orders: the largest"
        " difference over the largest left side; where a constant may differ, the spread of the"
        " differences over that of the left side. Only O2 fails.",
        "tbl-a3-identities",
    )


def _quantiles(values: pd.Series, digits: int = 2) -> str:
    return f"{values.median():.{digits}f} ({values.quantile(0.9):.{digits}f})"


def consequences(frames: Frames) -> MyST:
    """How often each minimiser is the objective's own, how far above the minimum it ends, and its
    rank.
    """
    rows = [
        (
            drawn,
            name,
            group["draw"].nunique(),
            f"{100 * (group['over'] < 1 + ROUNDING).mean():.0f} %",
            _quantiles(group["over"]),
            f"{100 * group['rank'].mean():.0f} %",
        )
        for drawn, frame in frames.items()
        for name, group in frame.groupby("minimised", sort=False)
    ]
    columns = [
        "networks",
        "what is minimised",
        "draws",
        "it is the true minimiser",
        "residual over its minimum: median (90 %)",
        "orders that are better, mean",
    ]
    return table(
        pd.DataFrame(rows, columns=columns),
        "The true residual of the permutation that minimises something else, all permutations"
        " looked at. The random order is the null. Hold the printed line against what leaves its"
        " last term out.",
        "tbl-a3-consequences",
    )


def over_minimum(frames: Frames) -> Shown:
    """The distribution over draws: the residual of each minimiser over the least residual."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained", facecolor="white")
        axes = figure.subplots(1, len(frames), squeeze=False, sharey=True)[0]
    colours, told = dict(zip(MINIMISED, (BLUE, GREEN, None, ORANGE, GREY))), []
    for axis, (drawn, frame) in zip(axes, frames.items()):
        for name, colour in colours.items():
            over = np.sort(frame.loc[frame["minimised"] == name, "over"])
            if colour is not None and len(over):
                axis.step(
                    over,
                    100 * np.arange(1, len(over) + 1) / len(over),
                    where="post",
                    color=colour,
                    label=name,
                )
                told.append(f"{drawn}, {name}: median {np.median(over):.2f}")
        axis.set_xscale("log")
        axis.set_xticks(
            [tick for tick in (1, 2, 5, 10, 20, 50) if tick <= 1.2 * frame["over"].max()]
        )
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.set_xlabel("residual / its minimum")
        axis.set_title(drawn, loc="left", fontsize=8)
    axes[0].set_ylabel("draws below (%)")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside upper left",
        ncols=4,
        frameon=False,
        fontsize=7.5,
    )
    draws = next(iter(frames.values()))["draw"].nunique()
    figure.supxlabel(
        f"{draws} pairs of tiny networks each, scikit-learn's digits",
        fontsize=7,
        color="#444444",
        x=0.995,
        ha="right",
    )
    return Shown(
        figure,
        f"Residual over its minimum where something else is minimised, share of {draws} draws."
        f" {'; '.join(told)}.",
    )


def solved(frames: Frames) -> MyST:
    """Every method on every kind of matrices and both terms: how often it is optimal, and its
    excess.
    """
    rows = []
    for drawn, frame in frames.items():
        for term, part in frame.groupby("term", sort=False):
            cells = [
                f"{100 * one['optimal'].mean():.0f} %; {_quantiles(one['excess'])}"
                for _, one in part.groupby("method", sort=False)
            ]
            rows.append((f"{drawn}, {term} term", part["draw"].nunique(), *cells))
    methods = next(iter(frames.values()))["method"].unique()
    named = {
        "faq": "FAQ",
        "2opt": "2-opt",
        "linear": "linear part alone",
        "activation": "activation matching",
        "random order": "random order (null)",
    }
    return table(
        pd.DataFrame(rows, columns=["matrices", "draws", *(named[method] for method in methods)]),
        "Assignment problems of one layer against enumeration: share of draws that end at the"
        " optimum; excess, median (90 %), where 0 is the optimum and 1 the mean of all orders."
        " Compare trained with random matrices.",
        "tbl-a3-solved",
    )


def coupling(frames: Frames) -> MyST:
    """What no sum of functions of single layers explains, of each term and of the objective."""
    rows = []
    for drawn, frame in frames.items():
        for name, group in frame.groupby("of", sort=False):
            share = 100 * group["share"]
            at_quantile = [share.quantile(q) for q in (0.1, 0.5, 0.9)]
            rounding = share.abs().max() < 100 * EXACT
            rows.append(
                (
                    drawn,
                    name,
                    *("below 1e-12" if rounding else f"{value:.2g} %" for value in at_quantile),
                )
            )
    return table(
        pd.DataFrame(
            rows, columns=["networks", "of", "10 % of draws below", "median", "90 % below"]
        ),
        r"Analysis of variance over all $(P^{(1)},P^{(2)})$: the share of the variance that no sum"
        r" $f_1(P^{(1)})+f_2(P^{(2)})$ explains, 0 where the layers do not couple.",
        "tbl-a3-coupling",
    )


def relaxations(frame: pd.DataFrame) -> MyST:
    """From the record "joint": where the linear matchings of tiny networks end, as a distribution
    over draws.
    """
    frame, rows = of(frame, "mlp_mnist_perm_weight"), []  # on whose data the tiny ones learn
    kinds, quantities = (
        ("activation", "weight", "random order"),
        ("at_minimum", "rank", *(f"over_minimum/{q:g}" for q in QUANTILES)),
    )
    found = {
        kind: [
            numbers(frame, quantity, "null" if kind in NULLS else "value", kind)
            for quantity in quantities
        ]
        for kind in kinds
    }
    sites = found["random order"][1].index.get_level_values("site").unique()
    for site in sorted(sites, key=lambda site: (" and " in site, site.split(", ")[1], site)):
        cells = []
        for kind in kinds:
            at_minimum, rank, *over = (at(values, site=site).mean() for values in found[kind])
            cells.append(
                f"{100 * at_minimum:.0f} %; {' / '.join(f'{value:.2f}' for value in over)};"
                f" {100 * rank:.2g} %"
            )
        rows.append((site, *cells))
    return table(
        pd.DataFrame(
            rows,
            columns=["network", "activation matching", "weight matching", "random order (null)"],
        ),
        "The residual of the linear relaxations, all permutations looked at: share of draws that"
        " end at the minimum; residual over its minimum, 10 / 50 / 90 % of draws below; mean share"
        f" of orders that are better. {made_by(frame)}",
        "tbl-a3-relaxations",
    )


def reduction(found: pd.DataFrame) -> MyST:
    """The reduction against brute force, by the number of vertices; ``found``: rows of ``verified``
    with ``graphs``, how they were chosen.
    """
    rows = []
    for (n, which), group in found.groupby(["n", "graphs"], sort=False):
        right = (group["excess"] - 2 * group["missing"]).abs() < EXACT
        rows.append(
            (
                f"{n:.0f}",
                which,
                len(group),
                (group["missing"] == 0).sum(),
                (group["excess"].abs() < EXACT).sum(),
                f"{right.sum()} of {len(group)}",
                _rounded(group["spread"].max()),
            )
        )
    columns = [
        "vertices",
        "which",
        "graphs",
        "have a Hamiltonian cycle",
        "least residual equals the threshold",
        "excess is twice the missing edges",
        "spread of what matchings minimise",
    ]
    return table(
        pd.DataFrame(rows, columns=columns),
        "The reduction against brute force: two networks per graph, all orders of the hidden layer."
        " Columns 4 and 5 should agree.",
        "tbl-a3-reduction",
    )
