"""B.3: Dist_com beside the distances of weights and features, and beside chance."""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.evidence import Measured
from llfc_book.show import style
from llfc_book.show.style import Series, Shown

FORMULA = "a product of two differences by itself"
#: The settings that the paper shows layer by layer, by the number of its figure.
PRINTED = {
    "vgg16_cifar10_spawn": 16,
    "mlp_mnist_perm_activation": 17,
    "mlp_cifar10_perm_activation": 18,
    "mlp_cifar10_perm_weight": 18,
}
SPAWNED_RESNET = "resnet20_cifar10_spawn"


def settings(quantity: str = "dist_H") -> list[Measured]:
    """Settings of the appendix on real data that have ``quantity`` on record."""
    return ev.measured(quantity, ev.printed)


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
    layer), beside the formula (B.3, "negligible compared with").
    """
    figure, axes = style.sheet(1, 2, 2.15, share="x")
    told = []
    for axis, (where, part) in zip(axes, PARTS.items()):
        series = [
            Series("chance", [part(share(m, "formula")) for m in settings()], FORMULA, band=True),
            Series("pair", [part(share(m)) for m in settings()]),
        ]
        head, label = f"{where}; dotted: a tenth", "Dist$_{com}$ over the\nsmaller distance"
        told.append(
            style.panel(axis, style.names(settings()), series, head, label, ev.CLOSE, log=True)
        )
    return style.shown(figure, "Dist_com as a share of the smaller of Dist_W and Dist_H", told, 2)


def layer_by_layer() -> Shown:
    """The three distances of every layer (Figures 16 to 18)."""
    figure, axes = style.sheet(2, 2, 2.1)
    told = []
    for axis, m in zip(axes, ev.measured("dist_H", lambda s: s.name in PRINTED)):
        sites = ev.sites_of(m.of("dist_com"))
        by_itself = ev.by_site(m.of("dist_com", "null", "formula"), sites)
        series = [Series("chance", by_itself, FORMULA, band=True)]
        for quantity, what in (("dist_W", "weights"), ("dist_H", "features"), ("dist_com", "pair")):
            label = "Dist$_{com}$" if what == "pair" else ""
            series.append(Series(what, ev.by_site(m.of(quantity), sites), label))
        head = f"{m.name} ({m.scale}),\nas in the paper's Figure {PRINTED[m.setting.name]}"
        told.append(style.panel(axis, sites, series, head, "distance", log=True, apart=0))
    return style.shown(figure, "The three distances of B.3 by layer", told, 2)


def connected_or_not() -> Shown:
    """Dist_com of pairs and of the not connected, each beside its own formula: of spawned
    ResNet-20 and of the widest one with layer norm, the nearest to the paper's 32 times width
    (Figure 19).
    """
    narrow = [m for m in settings() if m.setting.model == "resnet20_ln"]
    widest = max(narrow, key=lambda m: dict(m.setting.model_args)["width"])
    spawned = ev.measured("dist_H", lambda s: s.name == SPAWNED_RESNET)
    figure, axes = style.sheet(2, 1, 3.0, share="y")
    told = []
    for axis, m, kind in zip(axes, (*spawned, widest), ("independent", "unmatched")):
        sites = ev.sites_of(m.of("dist_com"))
        series = [
            Series(what, ev.by_site(m.of("dist_com", *who), sites), label, band=bool(label))
            for what, who, label in (
                ("chance", ("null", "formula"), FORMULA),
                ("chance", ("control", f"{kind}: formula"), FORMULA),
                (kind, ("control", kind), ""),
                ("pair", ("value", ""), ""),
            )
        ]
        head = f"{m.name} ({m.scale})"
        told.append(style.panel(axis, sites, series, head, "Dist$_{com}$", log=True, apart=0))
    return style.shown(figure, "Connected or not, layer by layer", told, 2)


def coherence() -> Shown:
    """|dW dH|^2 over its expectation under random signs of units, and that over its expectation
    under a random order, a dot a case.
    """
    found = settings("coherence")
    figure, axes = style.sheet(1, 3, 1.75, share="x")
    panels = [(part, where, "coherence", "random signs") for where, part in PARTS.items()]
    panels += [(lambda values: values, "all maps", "energy_alignment", "a random order")]
    told = []
    for axis, (part, where, quantity, reference) in zip(axes, panels):
        series = []
        for what in ("pair", "unmatched", "independent"):
            who = ("value", "") if what == "pair" else ("control", what)
            values = [m.of(quantity, *who) for m in found]
            groups = [part(v) if len(v) else v for v in values]
            # a layer that is silent in both networks has no energy, and so no ratio
            series.append(Series(what, [g[g > 0] for g in groups]))
        head, label = f"{where}; dotted: {reference} of units", quantity.replace("_", "\n")
        told.append(style.panel(axis, style.names(found), series, head, label, 1, log=True))
    return style.shown(figure, "How the two differences act together", told)
