"""Figures and tables of the decisive experiment: rho against feature distance, kind by kind."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llfc_book import evidence as ev
from llfc_book.claims import rules
from llfc_book.claims.predictions import (
    LEAST_PAIRS,
    Cell,
    compared,
    connection,
    curves,
    mostly_random,
    partners,
    tested,
    verdicts,
)
from llfc_book.evidence import ALIKE, Measured
from llfc_book.show import style
from llfc_book.show.prose import percent
from llfc_book.show.style import LOOKS, Shown
from llfc_book.show.text import MyST, folded, number, table

#: Kinds of partner, in the words of :mod:`llfc_book.study.measures.decisive`, and how each looks.
KINDS = {
    "independent": "independent",
    "G": "spread",
    "P": "sparse",
    "N": "noise",
    "L": "longer",
    "T": "tuned",
    "C": "third",
    "B": "pair",
}
NAMES = {
    "B": "the pair's other network, and the way to it (B)",
    "C": "a third child of the start (C)",
    "T": "tuned partner: a Gaussian step, then trained (T)",
    "N": "a step of gradient noise (N)",
    "L": "the network trained on (L)",
    "G": "spread partner: a Gaussian step (G)",
    "P": "sparse partner: units that change places (P)",
    "independent": "a network of another start",
}


def measured() -> list[Measured]:
    """Settings with curves on real data."""
    return ev.measured("tuned_loss", record="decisive")


def of(name: str) -> Measured:
    """The curves of one setting. LookupError where there are none on real data."""
    for m in measured():
        if m.setting.name == name:
            return m
    raise LookupError(f"no curves of {name!r} on record; `make runs` and `make publish` make them")


def arms(name: str, columns: int = 2) -> Shown:
    """rho against feature distance at every site of a perceptron, or at four of a deeper network,
    all kinds in one panel each.
    """
    m = of(name)
    points = curves(m.rows)
    sites = ev.sites_of(m.of("distance", "value", "B"))
    chosen = sites if len(sites) <= 4 else [sites[k * (len(sites) - 1) // 3] for k in range(4)]
    figure, axes = style.sheet(columns, -(-len(chosen) // columns), 2.9)
    for axis, site in zip(axes, chosen):
        for kind, what in KINDS.items():
            _curve(axis, points[(points["site"] == site) & (points["kind"] == kind)], kind, what)
        style.log_x(axis)
        style.log_axis(axis)
        axis.set_xlabel("feature distance")
        axis.set_ylabel("distance from the mean, ρ")
        style.title(axis, f"{site} ({m.scale}, {m.pairs} pairs)")
    style.legend(figure, axes, 2)
    return Shown(figure, f"rho against feature distance, {m.tag}. {_described(points, chosen)}")


def _curve(axis: Axes, points: pd.DataFrame, kind: str, what: str) -> None:
    """Every pair and end as a faint line; the geometric mean over them, size by size, as a full
    one.
    """
    look = LOOKS[what]
    for _, own in points.groupby(["pair", "direction"]):
        own = own.sort_values("size")
        axis.plot(own["distance"], own["rho"], color=look.colour, linewidth=0.6, alpha=0.25)
    if len(points):
        logs = np.log(points[["distance", "rho"]]).groupby(points["size"]).mean()
        mean = np.exp(logs).sort_index()
        how = {"color": look.colour, "marker": look.marker, "markersize": 3.5, "linewidth": 1.4}
        axis.plot(mean["distance"], mean["rho"], label=NAMES[kind], zorder=4, **how)


def _described(points: pd.DataFrame, sites: list[str]) -> str:
    told = []
    for kind in ("T", "N", "G", "P"):
        ratios = [
            c.ratio for c in compared(points, "B", kind, least=1) if c.size == 1 and c.site in sites
        ]
        if ratios:
            told.append(f"the pair over {NAMES[kind]} {style.span(ratios)}")
    return "At the pair's distance, the ratio of rho: " + "; ".join(told) + "."


def ratios(name: str) -> Shown:
    """At every site and size of step, the pair's rho over each kind's at equal distance, with its
    interval over pairs.
    """
    m = of(name)
    points = curves(m.rows)
    kinds = ("T", "N", "G", "P")
    sites = ev.sites_of(m.of("distance", "value", "B"))
    figure, axes = style.sheet(1, 1, 3.2)
    axis = axes[0]
    axis.axhspan(1 / ALIKE, ALIKE, color="#888888", alpha=0.15, linewidth=0)
    axis.axhline(1, color="black", linewidth=0.7)
    for k, kind in enumerate(kinds):
        found = [c for c in compared(points, "B", kind) if c.size == 1]
        look = LOOKS[KINDS[kind]]
        places = [sites.index(c.site) + 0.18 * (k - 1.5) for c in found]
        values = np.array([c.ratio for c in found])
        limits = np.array([_reach(c) for c in found]).T if found else np.zeros((2, 0))
        style_of = {"fmt": look.marker, "color": look.colour, "markersize": 5, "capsize": 2}
        axis.errorbar(places, values, yerr=limits, label=NAMES[kind], **style_of)
    style.layers(axis, sites)
    style.log_axis(axis)
    axis.set_yticks([0.5, 1, 2, 4])
    axis.set_ylabel("ρ of the pair over ρ of the partner")
    style.title(axis, f"{m.tag}, whole step; grey: within {ALIKE:g}")
    style.legend(figure, axes, 2)
    return Shown(figure, f"Ratios of rho at equal distance, {m.tag}. {_described(points, sites)}")


def _reach(cell: Cell) -> tuple[float, float]:
    low, high = cell.ratio - cell.low, cell.high - cell.ratio
    return (0.0, 0.0) if np.isnan(low) else (low, high)


def judged() -> MyST:
    """A line a prediction and setting: what was expected, and what became of it."""
    lines = []
    for m in (m for m in measured() if m.pairs >= LEAST_PAIRS):
        for verdict in verdicts(m.rows):
            told = [
                f"{what}: {c[0]} yes, {c[1]} no, {c[2]} open" for what, c in verdict.counts.items()
            ]
            expected = f"*{verdict.prediction.name}*: {verdict.prediction.text}"
            lines.append((expected, f"**{verdict.word}**\n\n{m.tag}", "\n\n".join(told)))
    points = connection_points()
    told = connection(points[points["site"] != "logits"])
    expected = "*connection beyond distance*: at equal distance, connected pairs are more linear"
    sides = f"{told.connected} connected pairs, {told.pairs - told.connected} others"
    common = "" if told.overlap else "; no distance common to both"
    lines.append((expected, f"**{told.word}**", f"{sides}{common}"))
    columns = ["expected", "verdict", "cells (layer and size of step)"]
    caption = "The predictions, written before the run, and their verdicts."
    return table(pd.DataFrame(lines, columns=columns), caption, "tbl-predictions", "ledger")


def headlines(name: str) -> MyST:
    """The comparisons that carry a test, with their intervals and Holm's p values."""
    points = curves(of(name).rows)
    lines = [
        (
            NAMES[told.second],
            "logits" if told.logits else "hidden layers",
            f"{number(ratio)} [{number(low)}, {number(high)}]",
            "below 0.001" if p < 0.001 else number(p),
        )
        for told, ratio, low, high, p in tested(points)
    ]
    columns = ["the pair against", "where", "ratio of ρ, 95 % interval", "p (Holm)"]
    return table(pd.DataFrame(lines, columns=columns), "Five comparisons.", "tbl-headlines")


def connection_points() -> pd.DataFrame:
    """A line a pair and site: its feature distance and rho half-way, whether it is connected, and
    the networks that it shares with others: spawned pairs that have both on record.
    """
    lines = []
    for m in ev.measured("rho", lambda s: s.family == "spawned", "closeness"):
        barrier = rules.barrier_of(m.setting.name)
        if barrier is None or barrier.setting.profile != m.setting.profile:
            continue
        linked = rules.verdicts(barrier)
        members = {p: m.setting.members(int(p.rpartition("/")[2])) for p in linked.index}
        rho, distance = (
            m.of(q).groupby(level=["pair", "site"]).first() for q in ("rho", "distance")
        )
        for pair, site in rho.index:
            if linked.get(pair) is not None:
                names = tuple(f"{m.setting.name} {members[pair][who]}" for who in "AB")
                lines.append(
                    (pair, site, distance[pair, site], rho[pair, site], linked[pair], names)
                )
    columns = ["pair", "site", "distance", "rho", "connected", "networks"]
    return pd.DataFrame(lines, columns=columns)


def apart(name: str) -> MyST:
    """By kind, how many partners of all sizes are connected, how many have LLFC, and how many have
    one without the other.
    """
    lines = []
    for kind, own in partners(of(name).rows).groupby("kind"):
        linked, linear = own["connected"], own["linear"]
        counts = (linked.sum(), linear.sum(), (linked & ~linear).sum(), (linear & ~linked).sum())
        lines.append((NAMES[str(kind)], len(own), *counts, percent(own["error"])))
    columns = ["partner", "all", "connected", "LLFC", "connected only", "LLFC only", "error"]
    caption = "Connectivity and LLFC of partners of every kind and size, both half-way."
    told = table(pd.DataFrame(lines, columns=columns), caption, "tbl-apart")
    return folded("Connectivity and LLFC, kind by kind", told)


def every_ratio(name: str) -> MyST:
    """All cells, folded; tuned partners once more without those that training moved most."""
    points = curves(of(name).rows)
    random = mostly_random(points)
    lines = [
        (
            NAMES[kind] + ", mostly random" * (of_these is random),
            c.site,
            f"{c.size:g}",
            number(c.distance),
            f"{number(c.ratio)} [{number(c.low)}, {number(c.high)}]",
            c.n,
        )
        for kind, of_these in (("T", points), ("T", random), *((k, points) for k in "NGP"))
        for c in compared(of_these, "B", kind)
    ]
    columns = ["against", "layer", "share of the way", "distance", "ratio of ρ", "pairs"]
    label = f"tbl-ratios-{name.replace('_', '-')}"
    caption = f"{ev.name_of(name)}: the pair beside each kind at equal distance."
    return folded(
        f"Every ratio of {ev.name_of(name)}",
        table(pd.DataFrame(lines, columns=columns), caption, label),
    )
