"""A.2: where the residual of LLFC arises, and how large it would be by chance."""

from functools import cache

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.appendix import generic
from llfc_book.evidence import Measured
from llfc_book.show import style
from llfc_book.show.style import Series, Shown, span

SOURCES = ("commutativity", "relu", "pooling", "normalisation")


# where the residual arises


def settings(quantity: str = "e_over_d", variants: bool = False) -> list[Measured]:
    """Settings on real data that have ``quantity`` on record: the appendix's, or its variants."""
    families = ("spawned", "matched")
    return ev.measured(quantity, lambda s: s.family in families and ev.printed(s) != variants)


def shares(m: Measured, what: str, logits: bool, statistics: str = "interpolated") -> pd.Series:
    """By pair, the share of the squared residual half-way that first arose at one kind of node: at
    the logits, or in the mean over hidden layers.
    """
    own, relu = (ev.half_way(m.of(f"origin_{of}", statistics=statistics)) for of in (what, "relu"))
    found = own.reindex(relu.index, fill_value=0.0)  # a kind of node that a layer lacks adds none
    found = found[found.index.get_level_values("site").isin(ev.sites_of(found))]
    return ev.by_pair(ev.logits(found) if logits else ev.hidden(found))


def origins() -> Shown:
    """Where the residual half-way first arose, setting by setting: in the mean over hidden
    layers, and at the logits.
    """
    printed, others = settings(), settings(variants=True)
    rows = [*printed, *others]
    places = np.arange(len(rows)) + 0.7 * (np.arange(len(rows)) >= len(printed))
    figure, axes = style.sheet(2, 1, 0.19 * len(rows) + 1.1, share="y")
    told = []
    for axis, logits in zip(axes, (False, True)):
        found = {what: [shares(m, what, logits) for m in rows] for what in SOURCES}
        end = np.zeros(len(rows))
        for what, of in found.items():
            (colour, label), means = style.PARTS[what], np.array([v.mean() for v in of])
            axis.barh(places, means, 0.8, end, color=colour, label=label)
            end += means
        for place, values in zip(places, found["commutativity"]):
            axis.plot(values, [place] * len(values), "k.", markersize=3)
        axis.set(xticks=(0, 0.5, 1), xlabel="share of the square")
        axis.grid(axis="y", visible=False)
        where = "logits" if logits else "mean of hidden layers"
        style.title(axis, where)
        told.append(f"{where} {span(np.concatenate(found['commutativity'][: len(printed)]))}")
    names = [m.name.replace("the code's warm-up and decay", "code's schedule") for m in rows]
    names = [name + " *" * (m.scale != "full") for name, m in zip(names, rows)]
    axes[0].set_yticks(places, names)
    axes[0].set_ylim(places[-1] + 0.7, -0.7)
    return style.shown(figure, "Share of the residual that arises at maps, by setting", told)


# by chance


COLUMNS = ("MNIST, spawned", "MNIST, matched", "CIFAR-10, matched", "MNIST, rate 0.0012")


@cache
def against_formula() -> pd.DataFrame:
    """Of every perceptron pair (kind "") and its Gaussian partners ("gaussian matched"): the
    residual over what the formula expects of a displacement of its size, as plain distances, layer
    by layer; "whole", and "scaled", after the best factor c. "column" is one of :data:`COLUMNS`.
    """
    lines = []
    for m in (*settings("bound"), *settings("bound", variants=True)):
        made = f"rate {m.setting.lr:g}" if ev.variant(m.setting) else m.setting.family
        about = (f"{ev.DATA[m.setting.data]}, {made}", m.setting.name)
        for kind in ("", "gaussian matched"):
            who = ("null" if kind else "value", kind)
            size, left = (ev.half_way(m.of(q, *who)) for q in ("e_over_d", "turned_over_d"))
            inputs = {
                q: m.of(q, *who).groupby(level=["pair", "site"]).mean()
                for q in ("moved", "fresh", "flipped", "passed")
            }
            sites, maps = ev.sites_of(size), [None, *ev.sites_of(inputs["moved"])]
            for pair in size.index.get_level_values("pair").unique():
                known = {(q, site): v for q in inputs for site, v in inputs[q][pair].items()}
                expected = generic.chain(sites, maps, known, 0.5)
                for site in sites:
                    ratios = [(v[pair, site].mean() / expected[site]) ** 0.5 for v in (size, left)]
                    lines.append((*about, kind, pair, site, *ratios))
    columns = ["column", "setting", "kind", "pair", "site", "whole", "scaled"]
    return pd.DataFrame(lines, columns=columns)


def group(column: str) -> pd.DataFrame:
    """The lines of :func:`against_formula` that a column of its figure shows."""
    return against_formula()[against_formula()["column"] == column]


def chance() -> Shown:
    """Measured over expected residual of all perceptrons, beside Gaussian partners, for which
    it must be 1.
    """
    figure, axes = style.sheet(len(COLUMNS), 2, 1.9, share="y")
    told = []
    words = {"whole": "measured / expected", "scaled": "after the factor c"}
    for k, (column, label) in enumerate(words.items()):
        for axis, head in zip(axes[k * len(COLUMNS) :], COLUMNS):
            found = group(head)
            sites = [*found["site"].unique()]
            pair, partner = (
                [of.loc[of["site"] == site, column].to_numpy() for site in sites]
                for of in (found[found["kind"] == ""], found[found["kind"] != ""])
            )
            series = [
                Series("spread", partner, "Gaussian partners: must be at 1", band=True),
                Series("pair", pair, "trained pairs"),
            ]
            told.append(style.panel(axis, sites, series, f"{head}\n(full)", label, 1, log=True))
    return style.shown(figure, "Residual measured over expected, layer by layer", told)
