"""Figures and tables of A.2: where the residual of LLFC arises on trained networks, and how large
it would be by chance.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llfc_book import evidence as ev
from llfc_book.appendix import construct, generic
from llfc_book.evidence import Measured
from llfc_book.show import style
from llfc_book.show.style import Shown, span
from llfc_book.show.text import MyST, folded, spread, table
from llfc_lib.metrics.decomposition import decompose

SOURCES = ("commutativity", "relu", "pooling", "normalisation")
PANELS = (
    "mlp_mnist_spawn",
    "mlp_cifar10_perm_weight",
    "vgg16_cifar10_spawn",
    "resnet20_cifar10_spawn",
)
ALPHA = 0.3  # of constructed pairs: nothing about it is special


# where the residual arises


def settings(quantity: str = "e_over_d", variants: bool = False) -> list[Measured]:
    """Settings on real data that have ``quantity`` on record: the appendix's, or its variants."""

    def where(s) -> bool:
        printed = ev.spawned(s) or ev.matched(s)
        return s.family in ("spawned", "matched") and printed != variants

    return [m for m in ev.measured(quantity, where) if m.scale != "proxy"]


@cache
def sources() -> pd.DataFrame:
    """Shares of the squared residual half-way by the kind of node where they first arose (columns),
    at every layer of every pair: indexed by setting, statistics, pair and site.
    """
    wanted = {f"origin_{what}": what for what in SOURCES}
    tables = {}
    for m in (*settings(), *settings(variants=True)):
        own = m.rows["role"].eq("value") & m.rows["alpha"].eq(0.5)
        chosen = m.rows[own & m.rows["quantity"].isin(wanted)]
        index = [chosen[key].astype(str) for key in ("statistics", "pair", "site")]
        found = chosen.set_index(index).pivot(columns="quantity", values="mean")
        # a kind of node that a layer lacks adds none
        found = found.rename(columns=wanted).reindex(columns=SOURCES).fillna(0.0)
        sites = ev.sites_of(found["relu"])
        tables[m.setting.name] = found[found.index.get_level_values("site").isin(sites)]
    return pd.concat(tables, names=["setting"])


def shares(m: Measured, what: str, logits: bool, statistics: str = "interpolated") -> pd.Series:
    """By pair, the share of one kind of node: at the logits, or in the mean over hidden layers."""
    found = sources().loc[m.setting.name, statistics][what]
    return ev.by_pair(ev.logits(found) if logits else ev.hidden(found))


def origins() -> Shown:
    """Where the residual half-way first arose, setting by setting: in the mean over hidden layers,
    and at the logits.

    Source: Theorem 1 (A.2); the split is ours.
    """
    printed, others = settings(), settings(variants=True)
    rows = [*printed, *others]
    places = np.arange(len(rows)) + 0.7 * (np.arange(len(rows)) >= len(printed))
    figure, axes = style.sheet(2, 1, 0.19 * len(rows) + 1.1)
    told = []
    for axis, logits in zip(axes, (False, True)):
        found = {what: [shares(m, what, logits) for m in rows] for what in SOURCES}
        means = {what: np.array([v.mean() for v in values]) for what, values in found.items()}
        _stack(axis, places, means, across=True)
        for k, (place, values) in enumerate(zip(places, found["commutativity"])):
            label = "_" if k else "maps, each pair"
            axis.plot(values, [place] * len(values), "k.", markersize=3, label=label)
        axis.set_ylim(places[-1] + 0.7, -0.7)
        axis.set_xlim(min(-0.02, axis.get_xlim()[0]), max(1.02, axis.get_xlim()[1]))
        axis.set_xticks([0, 0.5, 1])
        axis.grid(axis="y", visible=False)
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("share of the squared residual")
        where = "at the logits" if logits else "mean over hidden layers"
        style.title(axis, where)
        told.append(f"{where} {span(means['commutativity'][: len(printed)])}")
    axes[0].set_yticks(places, [_name(m) for m in rows])
    axes[1].set_yticks([])
    style.legend(figure, axes, columns=5)
    alt = "Share of the squared residual that arises at maps that do not commute, by setting: "
    return Shown(figure, alt + "; ".join(told) + ".")


def _name(m: Measured) -> str:
    name = m.name.replace(", the code's warm-up and decay", ", the code's schedule")
    return name + ("" if m.scale == "full" else " *")


def _stack(
    axis: Axes, places: np.ndarray, values: Mapping[str, np.ndarray], across: bool = False
) -> None:
    """Stacked bars, negative shares on the other side of 0."""
    above, below = np.zeros(len(places)), np.zeros(len(places))
    for part, shown in values.items():
        colour, hatch, label = style.PARTS[part]
        start = np.where(shown >= 0, above, below)
        look = {"color": colour, "hatch": hatch, "label": label, "linewidth": 0}
        look |= {"edgecolor": "#8a8a8a"} if hatch else {}
        if across:
            axis.barh(places, shown, 0.8, start, **look)
        else:
            axis.bar(places, shown, 0.8, start, **look)
        above, below = above + shown.clip(min=0), below + shown.clip(max=0)
    (axis.axvline if across else axis.axhline)(0, color="black", linewidth=0.6)


def layers() -> Shown:
    """Of four settings, what the residual of each layer is the sum of.

    Source: Theorem 1 (A.2); the split is ours.
    """
    found = [m for m in (ev.best("e_over_d", name) for name in PANELS) if m]
    figure, axes = style.sheet(2, 2, 2.5)
    told = []
    for axis, m in zip(axes, found):
        sites = ev.sites_of(m.of("e_over_d"), inner=True)
        values = {part: _by_layer(m, part, sites) for part in style.PARTS}
        _stack(axis, np.arange(len(sites)), values)
        style.layers(axis, sites)
        style.title(axis, m.tag)
        axis.set_ylim(-0.08, 1.05)
        axis.set_ylabel("share of the square")
        told.append(f"{m.tag} {values['carried'][-1] + values['skipped'][-1]:.2f}")
    style.legend(figure, axes, columns=3)
    alt = "Parts of the squared residual, layer by layer. Carried from below at the logits: "
    return Shown(figure, alt + "; ".join(told) + ".")


def _by_layer(m: Measured, part: str, sites: Sequence[str]) -> np.ndarray:
    values = ev.half_way(m.of(f"share_{part}")).groupby(level="site").mean()
    return values.reindex(sites).fillna(0.0).to_numpy()


def parts_table() -> MyST:
    """Size and origins of the residual in every setting, folded."""
    lines = []
    for m in (*settings(), *settings(variants=True)):
        for logits in (False, True):
            part = ev.logits if logits else ev.hidden
            size, left = (
                ev.by_pair(part(ev.half_way(m.of(q)))) ** 0.5 for q in ("e_over_d", "turned_over_d")
            )
            found = [shares(m, what, logits) for what in SOURCES]
            told = (spread(v) if np.any(v) else "" for v in found)
            name = "… logits" if logits else f"{m.tag}, hidden layers"
            lines.append((name, spread(size), spread(left), *told))
    columns = ["setting", "size", "size after c", *(style.PARTS[what][2] for what in SOURCES)]
    caption = (
        "The residual half-way over the distance of the features, as plain distances, before and"
        " after the best factor $c$; shares of its square by origin. Mean and range over pairs."
    )
    return folded(
        "Every setting", table(pd.DataFrame(lines, columns=columns), caption, "tbl-origins")
    )


# by chance


@cache
def against_formula() -> pd.DataFrame:
    """Of every perceptron pair (kind "") and its Gaussian partners ("gaussian matched"): the
    residual over what the formula expects of a displacement of its size, as plain distances, layer
    by layer; "whole", and "scaled", after the best factor c.
    """
    lines = []
    for m in (*settings("bound"), *settings("bound", variants=True)):
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
                    lines.append((m.setting.name, kind, pair, site, *ratios))
    columns = ["setting", "kind", "pair", "site", "whole", "scaled"]
    return pd.DataFrame(lines, columns=columns)


#: Perceptrons by what a column shows together.
COLUMNS = {
    "MNIST, spawned": "mlp_mnist_spawn",
    "MNIST, matched": "mlp_mnist_perm",
    "CIFAR-10, matched": "mlp_cifar10_perm",
    "MNIST, rate 0.0012": "mlp_mnist_spawn_lr",
}


def group(head: str) -> pd.DataFrame:
    """The lines of :func:`against_formula` that a column shows."""
    found = against_formula()
    own = found["setting"].str.startswith(COLUMNS[head])
    return found[own & (found["setting"].str.contains("_lr") == ("_lr" in COLUMNS[head]))]


def chance() -> Shown:
    """Measured over expected residual of all perceptrons, beside Gaussian partners, for which it
    must be 1.

    Source: Theorem 1 (A.2); the formula is ours.
    """
    figure, axes = style.sheet(len(COLUMNS), 2, 1.9, share_y=True)
    told = []
    for k, (axis, head) in enumerate(zip(axes, [*COLUMNS, *COLUMNS])):
        column, found = ("scaled" if k >= len(COLUMNS) else "whole"), group(head)
        sites = list(found["site"].unique())
        pair, partner = (
            [v[v["site"] == site][column].to_numpy() for site in sites]
            for v in (found[found["kind"] == ""], found[found["kind"] != ""])
        )
        style.band(
            axis, range(len(sites)), partner, "spread", label="Gaussian partners: must be at 1"
        )
        style.dots(axis, range(len(sites)), pair, "pair", label="trained pairs")
        axis.axhline(1, color="black", linewidth=0.7)
        axis.set_xticks(range(len(sites)), [site.removeprefix("FC ") for site in sites])
        axis.grid(axis="x", visible=False)
        style.log_axis(axis)
        if k >= len(COLUMNS):
            axis.set_xlabel("layer")
        else:
            style.title(axis, head)
            told.append(f"{head} {span(np.concatenate(pair[:-1]))}, logits {span(pair[-1])}")
    for axis, word in zip(axes[:: len(COLUMNS)], ("measured / expected", "after the factor c")):
        axis.set_ylabel(word)
    style.legend(figure, axes)
    alt = "Residual measured over expected, hidden layers: "
    return Shown(figure, alt + "; ".join(told) + ".")


# constructed pairs


def _missed(a, b, x) -> float:
    """The largest |e| / |f_A - f_B| of any layer."""
    found = decompose(a, b, x, ALPHA).values()
    return max(float(s.residual.norm() / s.difference.norm()) for s in found)


@cache
def constructed() -> pd.DataFrame:
    """Pairs built to satisfy the conditions of Theorem 1, and with one of them dropped: how far the
    features miss the mean ("missed"), as a share of their distance.
    """
    lines, x = [], construct.small_images()
    for name, network in construct.small_networks().items():
        for dropped in ("", "commute", "signs", "maximisers"):
            if dropped != "maximisers" or "pooling" in name:
                how = {dropped: False} if dropped else {}
                a, b = construct.commuting_pair(network, x, **how)
                lines.append((name, dropped, _missed(a, b, x)))
    return pd.DataFrame(lines, columns=["network", "dropped", "missed"])


@cache
def normalised() -> Mapping[str, tuple[bool, float]]:
    """By what stands between map and ReLU: whether both conditions hold exactly, and how far the
    features miss the mean.
    """
    found, x = {}, construct.small_images(40)
    for kind in construct.NORMALISED:
        a, b = construct.normalised_pair(kind, x)
        now = construct.conditions(a, b, x)
        found[kind] = (now.commutativity == now.signs == 0, _missed(a, b, x))
    return found
