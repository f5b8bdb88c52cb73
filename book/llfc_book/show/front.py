"""Figures of the front page: what holds of LLFC, a small figure a sentence."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from llfc_book import evidence as ev
from llfc_book.claims import predictions, rules
from llfc_book.evidence import Measured
from llfc_book.show import b2, closeness_test, style
from llfc_book.show.style import LOOKS, Shown, span
from llfc_book.study.settings import Setting

SPAWNED, MATCHED = "mlp_mnist_spawn", "mlp_mnist_perm_weight"
Where = Callable[[Setting], bool]
#: Settings of the appendix, by what a panel shows together.
GROUPS: dict[str, Where] = {
    "MLP MNIST,\nspawned": lambda s: ev.spawned(s) and s.model == "mlp",
    "MLP MNIST,\nmatched": lambda s: ev.matched(s) and (s.model, s.data) == ("mlp", "mnist"),
    "MLP CIFAR,\nmatched": lambda s: ev.matched(s) and (s.model, s.data) == ("mlp", "cifar10"),
    "VGG-16,\nspawned": lambda s: ev.spawned(s) and s.model == "vgg16",
    "ResNet-20,\nspawned": lambda s: ev.spawned(s) and s.model == "resnet20",
    "ResNet LN,\nmatched": lambda s: ev.matched(s) and s.model == "resnet20_ln",
}


def real(quantity: str, where: Where, record: str = "") -> list[Measured]:
    """Settings of which ``quantity`` is on record on real data."""
    return [m for m in ev.measured(quantity, where, record) if m.scale != "proxy"]


# along the line


def along() -> Shown:
    """Error, and how far features lie from the mean of both ends, from B to A.

    Source: Definitions 1 and 2 (A.1); B.1.
    """
    figure, (left, right) = style.sheet(2, 1, 2.4)
    told = []
    for name, role, kind, what, label, dashed in (
        (SPAWNED, "value", "", "pair", "spawned", False),
        (MATCHED, "value", "", "pair", "matched (by weights)", True),
        (SPAWNED, "control", "independent", "independent", "not connected: another start", False),
    ):
        errors, shares = ways(name, role, kind)
        for axis, curves in ((left, 100 * errors), (right, shares)):
            x, y = curves.columns.to_numpy(float), curves.to_numpy()
            style.line(axis, x, [*y], what, label, dashed=dashed)
        told.append(
            f"{label} ({len(errors)} pairs): error up to {100 * errors.mean().max():.1f} %, rho"
            f" half-way {shares[0.5].mean():.2f}"
        )
    right.plot([0, 0.5, 1], [0, 0.5, 0], ":k", linewidth=0.8, label="an endpoint")
    style.log_axis(left)
    left.set_ylabel("test error (%)")
    right.set_ylabel("distance from the mean, ρ")
    scales = {m.scale for m in real("cos_ratio", lambda s: s.name in (SPAWNED, MATCHED))}
    style.title(left, f"output ({', '.join(sorted(scales))})")
    style.title(right, f"hidden layers ({', '.join(sorted(scales))})")
    for axis in (left, right):
        axis.set_xticks([0, 0.5, 1], ["B", "half-way", "A"])
    style.legend(figure, [left, right])
    return Shown(figure, "MNIST perceptrons on the line from B to A. " + "; ".join(told) + ".")


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
    """rho over relative depth in every setting of the appendix, beside partners at equal distance.

    Source: Figures 8 to 15 (B.2).
    """
    figure, axes = style.sheet(len(GROUPS), 1, 2.6, share_y=True)
    told = []
    for axis, (head, where) in zip(axes, GROUPS.items()):
        settings = compared(where)
        for m in settings:
            series = {"pair": m.of("rho") if beside(m) else b2.rho(m)}
            if beside(m):
                series |= {kind: m.of("rho", "null", kind) for kind in ("spread", "sparse")}
            for what, values in series.items():
                _over_depth(axis, values, ev.sites_of(series["pair"]), what)
            told.append(f"{m.tag}: {span(per_site(series['pair']))}")
        _depth_axis(axis, head, settings)
        axis.axhline(0.5, color="black", linewidth=0.7, linestyle=":")
    axes[0].set_ylabel("distance from the mean, ρ")
    style.log_axis(axes[0])
    style.legend(figure, axes)
    return Shown(figure, "rho half-way from layer to layer. " + "; ".join(told) + ".")


def compared(where: Where) -> list[Measured]:
    """Every setting of which rho is on record; beside partners at equal distance where they are."""
    partners = {m.setting.name: m for m in real("rho", where, "closeness")}
    return [partners.get(m.setting.name, m) for m in real("cos_ratio", where)]


def beside(m: Measured) -> bool:
    """Whether the setting's rows have partners at equal distance."""
    return bool(len(m.of("rho", "null", "spread")))


def per_site(values: pd.Series) -> pd.Series:
    """Mean over pairs and directions."""
    return values.groupby(level="site").mean()


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


def _over_depth(axis: Axes, values: pd.Series, sites: Sequence[str], what: str) -> None:
    """The mean over pairs, from the first layer to the logits (1)."""
    _curve(axis, _relative(sites), per_site(values).reindex(sites), what)


def _curve(axis: Axes, x: Any, y: Any, what: str, label: str = "") -> None:
    look = LOOKS[what]
    how: Any = {"color": look.colour, "marker": look.marker, "markersize": 3.2, "linewidth": 1.1}
    axis.plot(x, y, label=label or look.label, **how)


def _relative(sites: Sequence[str]) -> np.ndarray:
    return (np.arange(len(sites)) + 1) / len(sites)


def _depth_axis(axis: Axes, head: str, settings: Sequence[Measured]) -> None:
    axis.set_xticks([1], ["logits"])
    axis.set_xlim(0, 1.1)
    axis.tick_params(axis="x", length=0)
    style.title(axis, f"{head}\n({', '.join(dict.fromkeys(m.scale for m in settings))})")


# against distance


def against_distance() -> Shown:
    """rho against feature distance for every kind of partner, hidden layers and logits.

    Source: Definition 2 (A.1); the experiment is ours.
    """
    m = closeness_test.of(SPAWNED)
    figure, axes = style.sheet(2, 1, 2.6)
    told = []
    for axis, logits in zip(axes, (False, True)):
        curves = by_kind(m.rows, logits)
        for kind, curve in curves.items():
            what = closeness_test.KINDS[kind]
            _curve(axis, curve["distance"], curve["rho"], what, label=ARMS[kind])
        axis.set_xscale("log")
        style.log_axis(axis)
        axis.set_xticks([0.01, 0.03, 0.1, 0.3, 1], ["0.01", "0.03", "0.1", "0.3", "1"])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("feature distance")
        where = "logits" if logits else "mean over hidden layers"
        style.title(axis, f"{where} ({m.scale}, {m.pairs} pair{'s' * (m.pairs != 1)})")
        told.append(
            f"{where}: " + ", ".join(f"{ARMS[k]} {span(c['rho'])}" for k, c in curves.items())
        )
    axes[0].set_ylabel("distance from the mean, ρ")
    style.legend(figure, axes)
    return Shown(figure, f"rho against distance, {m.name}. " + "; ".join(told) + ".")


#: Kinds of the decisive experiment, in the words of a small figure.
ARMS = {
    "B": "the pair: from A to B",
    "C": "a third child",
    "T": "tuned partner",
    "G": "spread partner",
    "P": "sparse partner",
    "N": "gradient noise",
    "independent": "another start",
}


def by_kind(rows: pd.DataFrame, logits: bool) -> dict[str, pd.DataFrame]:
    """By kind, the geometric mean of distance and rho over sites, ends and pairs, a line a size."""
    points = predictions.curves(rows)
    points = points[points["kind"].isin([*ARMS]) & points["site"].eq("logits").eq(logits)]
    logs = points.assign(**{c: np.log(points[c]) for c in ("distance", "rho")})
    means = np.exp(logs.groupby(["kind", "size"])[["distance", "rho"]].mean())
    return {kind: means.loc[kind].sort_index() for kind in ARMS if kind in means.index}


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
    """The residual half-way by the kind of node where it first arose, over relative depth.

    Source: Theorem 1 (A.2); the split is ours.
    """
    figure, axes = style.sheet(len(GROUPS), 1, 2.1, share_y=True)
    told = []
    for axis, (head, where) in zip(axes, GROUPS.items()):
        settings = real("origin_relu", where)
        sites = ev.sites_of(settings[0].of("origin_relu"))
        found = {
            what: np.mean([_shares(m, what).reindex(sites).fillna(0) for m in settings], axis=0)
            for what in ORIGINS
        }
        colours, _, labels = zip(*(style.PARTS[what] for what in ORIGINS))
        axis.stackplot(
            _relative(sites), *found.values(), colors=colours, labels=labels, linewidth=0
        )
        axis.grid(visible=False)
        axis.set_ylim(0, 1)
        _depth_axis(axis, head, settings)
        ends = (found[what][-1] for what in ("commutativity", "relu"))
        told.append(f"{head} ".replace("\n", " ") + " and ".join(f"{end:.2f}" for end in ends))
    axes[0].set_ylabel("share of the residual")
    style.legend(figure, axes)
    alt = "Of the residual at the logits, share of maps that do not commute and of ReLUs: "
    return Shown(figure, alt + "; ".join(told) + ".")


def _shares(m: Measured, what: str) -> pd.Series:
    return per_site(ev.half_way(m.of(f"origin_{what}")))


def origin(m: Measured, what: str) -> pd.Series:
    """By pair, the share of the residual at the logits that first arose there."""
    return ev.by_pair(ev.logits(ev.half_way(m.of(f"origin_{what}"))))


# before and after matching


def matching() -> Shown:
    """The error barrier before and after matching, in points.

    Source: B.1.2; barrier of Frankle et al. (2020).
    """
    settings = real("error", ev.matched)
    figure, (axis,) = style.sheet(1, 1, 2.4)
    before, after = zip(*(both_barriers(m) for m in settings))
    style.dots(axis, range(len(settings)), before, "unmatched")
    style.dots(axis, range(len(settings)), after, "pair", label="after matching")
    axis.axhline(2, color="black", linewidth=0.7, linestyle=":")
    style.settings_axis(axis, [m.name for m in settings])
    style.log_axis(axis)
    axis.set_ylabel("error barrier (points)")
    style.legend(figure, [axis])
    told = [
        f"{m.tag}: before {span(b)}, after {span(a)}" for m, b, a in zip(settings, before, after)
    ]
    return Shown(figure, "Error barrier in points. " + "; ".join(told) + ".")


def both_barriers(m: Measured) -> tuple[np.ndarray, np.ndarray]:
    """By pair, the barrier before matching and after it, in points."""
    before, after = rules.barriers(m, "control", "unmatched"), rules.barriers(m)
    return 100 * before.to_numpy(), 100 * after.to_numpy()
