"""The front page: what holds of LLFC, a small figure a sentence."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from llfc_book import evidence as ev
from llfc_book.claims import predictions, rules
from llfc_book.evidence import Measured, measured
from llfc_book.show import b2, closeness_test, style
from llfc_book.show.style import Series, Shown, span
from llfc_book.study.settings import Setting

SPAWNED, MATCHED = "mlp_mnist_spawn", "mlp_mnist_perm_weight"
Where = Callable[[Setting], bool]


def groups(quantity: str) -> dict[str, list[Measured]]:
    """The appendix's settings on real data, by network and by how its pairs are made: what a panel
    shows together.
    """
    found: dict[str, list[Measured]] = defaultdict(list)
    for m in measured(quantity, ev.printed):
        data = f" {ev.DATA[m.setting.data]}" if m.setting.model == "mlp" else ""
        found[f"{ev.NETWORKS[m.setting.model]}{data},\n{m.setting.family}"].append(m)
    return found


# along the line


def along() -> Shown:
    """Error, and how far features lie from the mean of both ends, from B to A."""
    figure, (left, right) = style.sheet(2, 1, 2.4)
    told = []
    for name, who, what, label, dashed in (
        (SPAWNED, ("value", ""), "pair", "spawned", False),
        (MATCHED, ("value", ""), "pair", "matched (by weights)", True),
        (SPAWNED, ("control", "independent"), "independent", "", False),
    ):
        errors, shares = ways(name, *who)
        for axis, curves in ((left, 100 * errors), (right, shares)):
            style.line(axis, curves.columns, curves.to_numpy(), what, label, dashed)
        told.append(
            f"{label or what} ({len(errors)} pairs): error up to {100 * errors.mean().max():.1f} %,"
            f" rho half-way {shares[0.5].mean():.2f}"
        )
    right.plot([0, 0.5, 1], [0, 0.5, 0], ":k", linewidth=0.8, label="an endpoint")
    style.log_axis(left)
    left.set_ylabel("test error (%)")
    right.set_ylabel("distance from the mean, ρ")
    scales = ", ".join(
        {m.scale for m in measured("cos_ratio", lambda s: s.name in (SPAWNED, MATCHED))}
    )
    for axis, where in ((left, "output"), (right, "hidden layers")):
        style.title(axis, f"{where} ({scales})")
        axis.set_xticks([0, 0.5, 1], ["B", "half-way", "A"])
    return style.shown(figure, "MNIST perceptrons on the line from B to A", told)


def ways(name: str, role: str, kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A line a pair, a column an alpha: the error, and rho in the geometric mean over hidden layers
    (0 at both ends).
    """
    errors, ratios = ev.best("error", name), ev.best("cos_ratio", name)
    assert errors is not None and ratios is not None, name
    rho = ev.hidden(ratios.of("cos_ratio", role, kind)).clip(lower=0) ** 0.5
    shares = np.exp(np.log(rho).groupby(level=["pair", "alpha"]).mean()).unstack()
    shares[0.0] = shares[1.0] = 0.0
    wide = errors.of("error", role, kind).groupby(level=["pair", "alpha"]).mean().unstack()
    return wide, shares[sorted(shares)]


# layer by layer


def depth() -> Shown:
    """rho over relative depth in every setting of the appendix, beside partners at equal
    distance where they are on record (Figures 8 to 15).
    """
    found = groups("cos_ratio")
    figure, axes = style.sheet(len(found), 1, 2.6, share="y")
    partners = {m.setting.name: m for m in b2.held()}
    told = []
    for axis, (head, settings) in zip(axes, found.items()):
        for m in settings:
            series = {"pair": b2.rho(m)}
            if beside := partners.get(m.setting.name):
                series = {"pair": beside.of("rho")}
                series |= {kind: beside.of("rho", "null", kind) for kind in ("spread", "sparse")}
            sites = ev.sites_of(series["pair"])
            for what, values in series.items():
                means = values.groupby("site").mean().reindex(sites)
                style.line(axis, _relative(sites), [means], what, marked=True)
            told.append(f"{m.tag}: {span(series['pair'].groupby('site').mean())}")
        _depth_axis(axis, head, settings)
        style.threshold(axis, b2.ENDPOINT)
    axes[0].set_ylabel("distance from the mean, ρ")
    style.log_axis(axes[0])
    return style.shown(figure, "rho half-way from layer to layer", told)


def over_partners(m: Measured, kind: str) -> float:
    """rho of the pair over that of partners at equal distance: geometric mean over hidden sites
    that have such, and pairs.
    """
    own, partners = (
        ev.hidden(m.of("rho", role, what)).groupby(level=["pair", "site"]).mean()
        for role, what in (("value", ""), ("null", kind))
    )
    logs = np.log(own / partners).dropna()
    return float(np.exp(logs.groupby(level="pair").mean().mean()))


def _relative(sites: list[str]) -> np.ndarray:
    return (np.arange(len(sites)) + 1) / len(sites)


def _depth_axis(axis: Axes, head: str, settings: list[Measured]) -> None:
    axis.set_xticks([1], ["logits"])
    axis.set_xlim(0, 1.1)
    style.title(axis, f"{head}\n({', '.join(dict.fromkeys(m.scale for m in settings))})")


# against distance


def against_distance() -> Shown:
    """rho against feature distance for every kind of partner, hidden layers and logits."""
    m = closeness_test.of(SPAWNED)
    figure, axes = style.sheet(2, 1, 2.6)
    told = []
    for axis, logits in zip(axes, (False, True)):
        where = "logits" if logits else "mean over hidden layers"
        for kind, curve in by_kind(m.rows, logits).items():
            what = closeness_test.KINDS[kind]
            style.line(axis, curve["distance"], [curve["rho"]], what, marked=True)
            told.append(f"{where}, {style.LOOKS[what].label} {span(curve['rho'])}")
        style.log_axis(axis)
        style.log_x(axis, (0.01, 0.03, 0.1, 0.3, 1))
        axis.set(xlabel="feature distance", ylabel="distance from the mean, ρ")
        style.title(axis, f"{where} ({m.scale}, {m.pairs} pairs)")
    return style.shown(figure, f"rho against distance, {m.name}", told)


def by_kind(rows: pd.DataFrame, logits: bool) -> dict[str, pd.DataFrame]:
    """By kind, the geometric mean of distance and rho over sites, ends and pairs, a line a size."""
    points = predictions.curves(rows)
    points = points[
        points["kind"].isin([*closeness_test.KINDS]) & points["site"].eq("logits").eq(logits)
    ]
    logs = points.assign(**{c: np.log(points[c]) for c in ("distance", "rho")})
    means = np.exp(logs.groupby(["kind", "size"])[["distance", "rho"]].mean())
    return {
        kind: means.loc[kind].sort_index() for kind in closeness_test.KINDS if kind in means.index
    }


def headline(second: str, logits: bool) -> float:
    """rho of the trained pair over that of kind ``second`` at equal distance, at the logits or at
    hidden sites: geometric mean over sites, ends and pairs.
    """
    points = predictions.curves(closeness_test.of(SPAWNED).rows)
    asked = predictions.Headline("B", second, logits)
    return float(np.exp(np.mean(predictions.whole_steps(points, asked))))


# where it arises


#: Kinds of node that a residual arises at, from the lowest area to the highest.
ORIGINS = ("commutativity", "pooling", "normalisation", "relu")


def where_it_arises() -> Shown:
    """The residual half-way by the kind of node where it first arose, over relative depth."""
    panels = groups("origin_relu")
    figure, axes = style.sheet(len(panels), 1, 2.1, share="y")
    told = []
    for axis, (head, settings) in zip(axes, panels.items()):
        sites = ev.sites_of(settings[0].of("origin_relu"))
        found = {}
        for what in ORIGINS:
            each = (ev.half_way(m.of(f"origin_{what}")).groupby("site").mean() for m in settings)
            found[what] = np.mean([of.reindex(sites).fillna(0) for of in each], axis=0)
        colours, labels = zip(*(style.PARTS[what] for what in ORIGINS))
        places = _relative(sites)
        axis.stackplot(places, *found.values(), colors=colours, labels=labels, linewidth=0)
        axis.grid(visible=False)
        axis.set_ylim(0, 1)
        _depth_axis(axis, head, settings)
        told.append(f"{' '.join(head.split())} {found['commutativity'][-1]:.2f}")
    axes[0].set_ylabel("share of the residual")
    what = "Where the residual arises; at the logits, share of maps that do not commute"
    return style.shown(figure, what, told)


def origin(m: Measured, what: str) -> pd.Series:
    """By pair, the share of the residual at the logits that first arose there."""
    return ev.by_pair(ev.logits(ev.half_way(m.of(f"origin_{what}"))))


# before and after matching


def matching() -> Shown:
    """The error barrier before and after matching, in points."""
    settings = measured("error", ev.matched)
    figure, (axis,) = style.sheet(1, 1, 2.4)
    before, after = zip(*(both_barriers(m) for m in settings))
    series = [Series("unmatched", before), Series("pair", after, "after matching")]
    label, mark = "error barrier (points)", 100 * rules.MARGIN
    told = style.panel(axis, style.names(settings), series, "", label, mark, log=True, apart=0)
    return style.shown(figure, "The error barrier of matched pairs", [told])


def both_barriers(m: Measured) -> tuple[np.ndarray, np.ndarray]:
    """By pair, the barrier before matching and after it, in points."""
    before, after = rules.barriers(m, "control", "unmatched"), rules.barriers(m)
    return 100 * before.to_numpy(), 100 * after.to_numpy()
