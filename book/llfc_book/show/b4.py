"""Figures and tables of B.4: what it costs to run the top of one network on the other's features,
beside what the appendix prints.
"""

import tomllib

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.evidence import Measured
from llfc_book.places import DATA
from llfc_book.show import style
from llfc_book.show.style import LOOKS, Shown, span
from llfc_book.show.text import MyST, folded, number, spread, table

MARK = 2.0  # points above the mean of both errors: the margin of "connected", for stitching as well
RAW = "(raw)"  # a reading: stitched before normalisation
TABLES = tomllib.loads((DATA / "printed.toml").read_text())["stitched"]
PRINTED = {told["setting"]: told for told in TABLES.values()}  # in percent
PANELS = {  # a setting and how it is stitched
    "MLP": ("mlp_mnist_spawn", ""),
    "ResNet-20": ("resnet20_cifar10_spawn", ""),
    "VGG-16, after the ReLU": ("vgg16_cifar10_spawn", ""),
    "VGG-16, before normalisation": ("vgg16_cifar10_spawn", RAW),
}
FLOOR = 0.05  # points: on a logarithmic axis, what is less is drawn here


def printed(setting: str) -> pd.Series:
    """The printed excess by layer, in points over the mean of the printed errors of A and B."""
    told = PRINTED[setting]
    return pd.Series(told["layers"], dtype=float) - float(np.mean(told["alone"]))


def spawned() -> list[Measured]:
    """The settings of Tables 1 to 3 on real data."""
    found = (ev.best("stitched_error", name) for name in PRINTED)
    return [m for m in found if m and m.scale != "proxy"]


def matched(model: str = "") -> list[Measured]:
    """The settings of matched pairs on real data; of one ``model`` where it is named."""
    found = ev.measured("stitched_error", ev.matched)
    return [m for m in found if m.scale != "proxy" and model in ("", m.setting.model)]


def alone(m: Measured, role: str = "value", kind: str = "") -> pd.Series:
    """By pair, the mean error of both networks in percent."""
    errors = m.of("error", role, kind)
    alpha = errors.index.get_level_values("alpha")
    return 100 * ev.by_pair(errors[(alpha == 0) | (alpha == 1)])


def excess(m: Measured, role: str = "value", kind: str = "", reading: str = "") -> pd.Series:
    """What stitching adds to the mean error of both networks, in points, indexed by pair, site and
    direction ("A to B": A below). Sites carry no mark of their reading.
    """
    stitched = 100 * m.of("stitched_error", role, kind, reading=reading).droplevel("alpha")
    stitched = stitched.rename(lambda site: site.removesuffix(RAW).strip(), level="site")
    ends = alone(m, role, kind).reindex(stitched.index.get_level_values("pair"))
    return stitched - ends.to_numpy()


def profile(values: pd.Series) -> pd.DataFrame:
    """A line a pair, a column a layer: the mean of both directions."""
    lines = values.groupby(level=["pair", "site"]).mean().unstack("site")
    return lines[sorted(lines.columns, key=ev.depth)]


def within(values: pd.Series) -> float:
    """The share of layers and directions where the excess is at most :data:`MARK`; each pair weighs
    alike.
    """
    return float(ev.by_pair((values <= MARK).astype(float)).mean())


def by_layer() -> Shown:
    """The excess of the spawned networks layer by layer, beside the printed one.

    Source: Tables 1 to 3 (B.4).
    """
    found = {m.setting.name: m for m in spawned()}
    figure, axes = style.sheet(2, 2, 2.35)
    told, tops = [], dict.fromkeys(PRINTED, MARK)
    for axis, (head, (name, reading)) in zip(axes, PANELS.items()):
        if name not in found:
            axis.set_axis_off()
            continue
        m = found[name]
        values = excess(m, reading=reading)
        sites = ev.sites_of(values)
        direction = values.index.get_level_values("direction")
        for shift, way, label in ((-0.2, "A to B", None), (0.2, "B to A", "_")):
            groups = ev.by_site(values[direction == way], sites)
            style.dots(axis, range(len(sites)), groups, "pair", shift, label=label)
        paper = printed(name).reindex(sites)
        style.dots(axis, range(len(sites)), paper.to_numpy()[:, None], "paper")
        axis.axhline(MARK, color="black", linewidth=0.7, linestyle=":")
        axis.axhline(0, color="black", linewidth=0.6)
        tops[name] = max(tops[name], values.max(), paper.max())
        style.layers(axis, sites)
        axis.set_ylabel("excess error (points)")
        style.title(axis, f"{head} ({m.scale}, {m.pairs} pairs)" if not reading else head)
        worst = profile(values).mean()
        told.append(
            f"{head}: largest {worst.max():.1f} at {worst.idxmax()}, printed {paper.max():.1f} at"
            f" {paper.idxmax()}"
        )
    for axis, (name, _) in zip(axes, PANELS.values()):
        axis.set_ylim(-0.6, 1.08 * tops[name])
    style.legend(figure, axes)
    return Shown(figure, "Excess of the stitched error, in points. " + "; ".join(told) + ".")


def brought_together() -> Shown:
    """The excess of matched pairs, beside the same two before matching.

    Source: B.4, for pairs that the appendix does not stitch.
    """
    networks: dict[str, list[Measured]] = {}
    for m in matched():
        networks.setdefault(m.name.rpartition(",")[0], []).append(m)
    figure, axes = style.sheet(2, -(-len(networks) // 2), 2.3)
    for axis in axes[len(networks) :]:
        axis.set_axis_off()
    told = []
    for axis, (network, settings) in zip(axes, networks.items()):
        for k, m in enumerate(settings):
            own, before = excess(m), excess(m, "control", "unmatched")
            sites, shift = ev.sites_of(own), 0.25 * (k - (len(settings) - 1) / 2)
            for what, values in (("unmatched", before), ("pair", own)):
                groups = ev.by_site(values.clip(lower=FLOOR), sites)
                label = "_" if k else None
                style.dots(axis, range(len(sites)), groups, what, shift, label=label)
            told.append(f"{m.tag}: {span(own, 1)}, before matching {span(before, 0)}")
            style.layers(axis, sites)
        axis.set_ylim(FLOOR * 0.8, 130)
        style.log_axis(axis)
        axis.axhline(MARK, color="black", linewidth=0.7, linestyle=":")
        axis.set_ylabel("excess error (points)")
        style.title(axis, f"{network} ({settings[0].scale}, {settings[0].pairs} pairs)")
    style.legend(figure, axes)
    return Shown(figure, "Excess error of matched pairs, in points. " + "; ".join(told) + ".")


def cost(m: Measured) -> pd.DataFrame:
    """By pair and layer, the plain ``distance`` of the features that are exchanged, and what
    stitching there costs, ``points``. Empty where the distance is not on record.
    """
    near = ev.at("1-cos_AB", m.setting.name, m.setting.profile)
    if near is None:
        return pd.DataFrame(columns=["distance", "points"])
    apart, points = (
        values.groupby(level=["pair", "site"]).mean() for values in (near.of("1-cos_AB"), excess(m))
    )
    return pd.concat({"distance": apart**0.5, "points": points}, axis=1, join="inner")


def convolutional() -> list[Measured]:
    """The spawned networks with more than a handful of layers."""
    return [m for m in spawned() if m.setting.model != "mlp" and len(cost(m))]


def against_distance() -> Shown:
    """Layer by layer, what stitching costs against the distance of the features exchanged.

    Source: our question; B.4 says that stitched networks "encode similar information".
    """
    figure, axes = style.sheet(2, 1, 2.8)
    told = []
    for axis, m in zip(axes, convolutional()):
        means = cost(m).groupby(level="site").mean()
        means = means.loc[sorted(means.index, key=ev.depth)]
        x, y = means["distance"], means["points"]
        look = LOOKS["pair"]
        axis.plot(x, y, color=look.colour, marker=look.marker, markersize=4, linewidth=0.8)
        for site in sorted({means.index[0], means.index[-1], y.idxmax(), x.idxmax()}):
            place = {"xytext": (4, 4), "textcoords": "offset points", "fontsize": style.SMALL}
            axis.annotate(site, (x[site], y[site]), **place)
        axis.margins(0.16)
        axis.set_xlabel("distance of A's and B's features")
        axis.set_ylabel("excess error (points)")
        style.title(axis, f"{m.name.split(',')[0]}, layer after layer")
        told.append(
            f"{m.tag}: farthest {x.idxmax()}, {x.max():.2f}, costs {y[x.idxmax()]:.1f}; costliest"
            f" {y.idxmax()}, {y.max():.1f}, at {x[y.idxmax()]:.2f}"
        )
    return Shown(figure, "Excess (points) against feature distance. " + "; ".join(told) + ".")


def costs() -> MyST:
    """Every setting: its worst layer, what stitching costs there, and how many layers pass."""
    readings = [(m, "") for m in (*spawned(), *matched())]
    readings += [(m, RAW) for m in spawned() if (m.setting.name, RAW) in PANELS.values()]
    lines = []
    for m, reading in readings:
        values, ends = excess(m, reading=reading), alone(m).mean()
        layers = profile(values)
        worst = layers.mean().idxmax()
        head = m.tag + (", before normalisation" if reading else "")
        share = f"{100 * layers[worst].mean() / ends:.0f} %"
        told = (f"{ends:.1f}", worst, spread(layers[worst]), share, f"{100 * within(values):.0f} %")
        lines.append((head, *told, "" if reading else _half_width(m)))
    for count, (name, printed_) in enumerate(PRINTED.items(), 1):
        values, ends = printed(name), float(np.mean(printed_["alone"]))
        share, near = (
            f"{100 * one:.0f} %" for one in (values.max() / ends, (values <= MARK).mean())
        )
        told = (f"{ends:.1f}", values.idxmax(), number(values.max()), share, near, "")
        lines.append((f"the paper's Table {count}", *told))
    columns = ["pairs", "alone, %", "worst layer", "excess, points", "of alone", "within 2", "±"]
    held = table(
        pd.DataFrame(lines, columns=columns),
        "Mean error of A and B; the layer where stitching costs most, in the mean over pairs and"
        " directions, and its excess (range over pairs); the share of layers and directions within"
        " 2 points; ±: half the 95 % interval over images, where it is measured.",
        "tbl-stitching-costs",
    )
    return folded("Every setting: the worst layer and what stitching costs there", held)


def _half_width(m: Measured) -> str:
    found = ev.at("stitched_excess", m.setting.name, m.setting.profile)
    if found is None:
        return "not yet"
    low, high = (found.of(f"stitched_excess_{limit}") for limit in ("lower", "upper"))
    return number(50 * float((high - low).mean()))


def passed_on(m: Measured) -> pd.DataFrame:
    """By pair and map, in the mean over directions: the paper's ``dist`` of W_B H_A and W_B H_B,
    and its root as a share of what it is with the units of H_A - H_B ``shuffled``.
    """
    own, other = m.of("dist_transfer"), m.of("dist_transfer", "null", "shuffled units")
    both = pd.concat({"dist": own, "shuffled": (own / other) ** 0.5}, axis=1)
    return both.groupby(level=["pair", "site"]).mean()


def transferred() -> list[Measured]:
    """The settings that stitch, where W_B H_A is on record beside W_B H_B."""
    settings = (*spawned(), *matched("mlp"))
    found = (ev.best("dist_transfer", m.setting.name) for m in settings)
    return [m for m in found if m and m.scale != "proxy"]


def transfers() -> MyST:
    """W_B H_A against W_B H_B, every setting."""
    lines = []
    for m in transferred():
        maps = passed_on(m)
        near = ev.by_pair((maps["dist"] <= 0.1).astype(float)).mean()
        plain, ratio = (
            values.groupby(level="site").mean()
            for values in (maps["dist"] ** 0.5, maps["shuffled"])
        )
        lines.append((m.tag, f"{100 * near:.0f} %", span(plain), span(ratio, 1)))
    columns = ["pairs", "dist at most 0.1", "plain distance", "over shuffled units"]
    held = table(
        pd.DataFrame(lines, columns=columns),
        "Share of maps whose dist is at most a tenth; the root of dist, from the smallest to the"
        " largest map; the same over what it is with the units of $H_A-H_B$ shuffled.",
        "tbl-stitching-transfer",
    )
    return folded("$W_BH_A$ against $W_BH_B$, every setting", held)
