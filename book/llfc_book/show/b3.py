"""Figures of B.3: Dist_com beside the distances of weights and features, and beside chance."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llfc_book import evidence as ev
from llfc_book.evidence import Measured
from llfc_book.show import style
from llfc_book.show.style import LOOKS, Shown, span
from llfc_book.show.text import MyST, folded, number, table

MARK = 0.1  # a tenth: "negligible compared with"
FORMULA = "a product of two differences by itself"
#: Settings layer by layer: the paper's by the number of its figure, then ours.
PRINTED = {
    "vgg16_cifar10_spawn": 16,
    "resnet20_cifar10_spawn": 0,
    "mlp_mnist_perm_activation": 17,
    "mlp_mnist_perm_weight": 0,
    "mlp_cifar10_perm_activation": 18,
    "mlp_cifar10_perm_weight": 18,
    "mlp_mnist_spawn": 0,
}
SPAWNED_RESNET = "resnet20_cifar10_spawn"


def settings(quantity: str = "dist_H") -> list[Measured]:
    """Settings of the appendix on real data that have ``quantity`` on record."""
    found = ev.measured(quantity, lambda s: ev.spawned(s) or ev.matched(s))
    return [m for m in found if m.scale != "proxy"]


def share(m: Measured, kind: str = "") -> pd.Series:
    """Dist_com over the smaller of Dist_W and Dist_H, all three squares: the pair's own, or of
    ``kind`` "formula" what the product gives by itself.
    """
    com = m.of("dist_com", "null" if kind else "value", kind)
    return com / np.minimum(m.of("dist_W"), m.of("dist_H"))


def last(values: pd.Series) -> pd.Series:
    """At the map that gives the logits."""
    return values[values.index.get_level_values("site") == ev.sites_of(values)[-1]]


def inner(values: pd.Series) -> pd.Series:
    """At the maps that give hidden layers."""
    return values[values.index.get_level_values("site") != ev.sites_of(values)[-1]]


PARTS = {"maps to hidden layers": inner, "map to the logits": last}


def shares() -> Shown:
    """Dist_com over the smaller of Dist_W and Dist_H in every setting, a dot a case (pair and
    layer), beside the formula.

    Source: B.3, "negligible compared with"; the formula is ours.
    """
    found = settings()
    places = range(len(found))
    figure, axes = style.sheet(1, 2, height=2.15)
    told = []
    for axis, (where, part) in zip(axes, PARTS.items()):
        by_itself = [part(share(m, "formula")).to_numpy() for m in found]
        style.band(axis, places, by_itself, "chance", label=FORMULA)
        own = [part(share(m)).to_numpy() for m in found]
        style.dots(axis, places, own, "pair")
        axis.axhline(MARK, color="black", linewidth=0.7, linestyle=":")
        style.settings_axis(axis, [m.name for m in found])
        style.log_axis(axis)
        axis.set_ylabel("Dist$_{com}$ over the\nsmaller distance")
        style.title(axis, f"{where}; dotted: a tenth")
        told += [f"{m.tag}, {where}: {span(x)}" for m, x in zip(found, own)]
    axes[0].set_xticklabels([])
    style.legend(figure, axes)
    alt = "Dist_com as a share of the smaller of Dist_W and Dist_H. "
    return Shown(figure, alt + "; ".join(told) + ".")


def layer_norm() -> Measured | None:
    """The widest layer-norm ResNet-20 on real data: the nearest to the paper's 32 times width."""
    found = [m for m in settings() if m.setting.model == "resnet20_ln"]
    return max(found, key=lambda m: dict(m.setting.model_args)["width"], default=None)


def layer_by_layer() -> Shown:
    """The three distances of every layer.

    Source: Figures 16 to 18 (B.3).
    """
    by_name = {m.setting.name: m for m in settings()}
    widest = layer_norm()
    found = [by_name[name] for name in PRINTED if name in by_name] + ([widest] if widest else [])
    figure, axes = style.sheet(2, (len(found) + 1) // 2, 1.66, share_y=True)
    for axis, m in zip(axes, found):
        _distances(axis, m)
        printed = PRINTED.get(m.setting.name, 0)
        style.title(axis, m.name + (f" (paper's Figure {printed})" if printed else ""))
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    for axis in axes[: len(found)]:
        style.log_axis(axis)  # once more: a row has one scale
    style.legend(figure, axes, columns=2)
    quantities = ("dist_com", "dist_W", "dist_H")
    told = [
        f"{m.tag}: " + ", ".join(f"{q} {span(_finite(m.of(q)), 4)}" for q in quantities)
        for m in found
    ]
    return Shown(figure, "The three distances of B.3 by layer. " + "; ".join(told) + ".")


def _distances(axis: Axes, m: Measured) -> None:
    sites = ev.sites_of(m.of("dist_com"))
    places = range(len(sites))
    by_itself = ev.by_site(m.of("dist_com", "null", "formula"), sites)
    style.band(axis, places, by_itself, "chance", label=FORMULA)
    for quantity, what in (("dist_W", "weights"), ("dist_H", "features"), ("dist_com", "pair")):
        label = "Dist$_{com}$" if what == "pair" else None
        values = [_finite(g) for g in ev.by_site(m.of(quantity), sites)]
        style.dots(axis, places, values, what, label=label)
    _layers(axis, sites)


def _layers(axis: Axes, sites: list[str]) -> None:
    style.layers(axis, [site.replace(" shortcut", " s") for site in sites])


def _finite(values: pd.Series | np.ndarray) -> np.ndarray:
    """Without the cases in which one network's layer is silent: no distance is defined there."""
    found = np.asarray(values, dtype=float)
    return found[np.isfinite(found)]


def connected_or_not() -> Shown:
    """Dist_com of pairs and of the not connected, each beside its own formula.

    Source: Figure 19 (B.3).
    """
    widest = layer_norm()
    pairs = [(ev.best("dist_H", SPAWNED_RESNET), "independent"), (widest, "unmatched")]
    found = [(m, kind) for m, kind in pairs if m is not None]
    figure, axes = style.sheet(len(found), 1, height=3.0, share_y=True)
    told = []
    for axis, (m, kind) in zip(axes, found):
        own, apart = m.of("dist_com"), m.of("dist_com", "control", kind)
        sites = ev.sites_of(own)
        places = range(len(sites))
        for role, one in (("null", "formula"), ("control", f"{kind}: formula")):
            by_itself = ev.by_site(m.of("dist_com", role, one), sites)
            style.band(axis, places, by_itself, "chance", label=FORMULA)
        style.dots(axis, places, ev.by_site(apart, sites), kind)
        style.dots(axis, places, ev.by_site(own, sites), "pair")
        _layers(axis, sites)
        style.log_axis(axis)
        style.title(axis, f"{m.name} ({m.scale})")
        told.append(
            f"{m.tag}: Dist_com {span(_finite(own), 4)} beside {span(_finite(apart), 2)}"
            f" ({LOOKS[kind].label})"
        )
    axes[0].set_ylabel("Dist$_{com}$")
    style.legend(figure, axes, columns=2)
    return Shown(figure, "Connected or not, layer by layer. " + "; ".join(told) + ".")


def coherence() -> Shown:
    """|dW dH|^2 over its expectation under random signs of units, and that over its expectation
    under a random order, a dot a case.

    Source: ours.
    """
    found = settings("coherence")
    figure, axes = style.sheet(1, 3, height=1.75)
    panels = [("coherence", where) for where in PARTS] + [("energy_alignment", "")]
    told = []
    for axis, (quantity, where) in zip(axes, panels):
        part = PARTS.get(where, lambda values: values)
        for what, role, kind, shift in (
            ("unmatched", "control", "unmatched", 0.14),
            ("independent", "control", "independent", 0.28),
            ("pair", "value", "", -0.14),
        ):
            values = [m.of(quantity, role, kind) for m in found]
            groups = [part(v).to_numpy() if len(v) else np.array([]) for v in values]
            # a layer that is silent in both networks has no energy, and so no ratio
            style.dots(axis, range(len(found)), [g[g > 0] for g in groups], what, shift)
            if what == "pair":
                names = (m.tag for m in found)
                at = f", {where}" if where else ""
                told += [f"{quantity} of {n}{at}: {span(g)}" for n, g in zip(names, groups)]
        axis.axhline(1, color="black", linewidth=0.7, linestyle=":")
        style.settings_axis(axis, [m.name for m in found])
        style.log_axis(axis)
        axis.set_ylabel(quantity.replace("_", "\n"))
        reference = "random signs" if where else "a random order"
        style.title(axis, f"{where or 'all maps'}; dotted: {reference} of units")
    for axis in axes[:-1]:
        axis.set_xticklabels([])
    style.legend(figure, axes)
    return Shown(figure, "How the two differences act together. " + "; ".join(told) + ".")


def by_setting() -> MyST:
    """Shares of cases at other marks than a tenth, and coherence with alignment, folded."""
    stated = []
    for m in settings():
        own, by_itself = share(m), share(m, "formula")
        within = [f"{(own <= mark).sum()}" for mark in (MARK / 2, MARK, 2 * MARK)]
        below = _geometric(own / by_itself)
        chance = f"{(by_itself <= MARK).sum()}"
        stated.append((m.name, m.scale, len(own), *within, chance, number(below)))
    heads = ["setting", "scale", "cases", "≤ 1/20", "≤ 1/10", "≤ 1/5", "formula ≤ 1/10"]
    acting = [
        (m.name, *(number(_geometric(part(m.of(q)))) for part in PARTS.values() for q in TOLD))
        for m in settings("coherence")
    ]
    columns = [f"{q}, {where}" for where in ("hidden", "logits") for q in TOLD.values()]
    return folded(
        "Every setting in numbers",
        table(
            pd.DataFrame(stated, columns=[*heads, "Dist_com over formula"]),
            "Cases (pair and layer) in which Dist_com is at most a twentieth, a tenth, a fifth of"
            " the smaller distance; in how many the formula is at most a tenth of it; and their"
            " ratio, a geometric mean.",
            "tbl-commutativity-settings",
        ),
        table(
            pd.DataFrame(acting, columns=["setting", *columns]),
            "Coherence and energy alignment, geometric means over pairs and layers.",
            "tbl-commutativity-coherence",
        ),
    )


TOLD = {"coherence": "coherence", "energy_alignment": "alignment"}


def _geometric(values: pd.Series) -> float:
    found = _finite(values)
    return float(np.exp(np.log(found[found > 0]).mean()))
