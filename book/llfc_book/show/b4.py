"""B.4: what it costs to run the top of one network on the other's features, beside what the
appendix prints.
"""

import tomllib

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.evidence import Measured
from llfc_book.places import DATA
from llfc_book.show import style
from llfc_book.show.style import Series, Shown

MARK = 100 * ev.CONNECTED  # points above the mean of both errors, for stitching as well
RAW = "(raw)"  # a reading: stitched before normalisation
TABLES = tomllib.loads((DATA / "printed.toml").read_text())["stitched"]
PRINTED = {told["setting"]: told for told in TABLES.values()}  # in percent
PANELS = (  # a network and how it is stitched
    ("mlp", "", ""),
    ("resnet20", "", ""),
    ("vgg16", "", ", after the ReLU"),
    ("vgg16", RAW, ", before normalisation"),
)
FLOOR = 0.05  # points: on a logarithmic axis, what is less is drawn here


def printed(setting: str) -> pd.Series:
    """The printed excess by layer, in points over the mean of the printed errors of A and B."""
    told = PRINTED[setting]
    return pd.Series(told["layers"], dtype=float) - float(np.mean(told["alone"]))


def spawned() -> list[Measured]:
    """The settings of Tables 1 to 3 on real data."""
    return ev.measured("stitched_error", lambda s: s.name in PRINTED)


def matched(model: str = "") -> list[Measured]:
    """The settings of matched pairs on real data; of one ``model`` where it is named."""
    return ev.measured("stitched_error", lambda s: ev.matched(s) and model in ("", s.model))


def excess(m: Measured, role: str = "value", kind: str = "", reading: str = "") -> pd.Series:
    """What stitching adds to the mean error of both networks, in points, indexed by pair, site and
    direction ("A to B": A below). Sites carry no mark of their reading.
    """
    stitched = m.of("stitched_error", role, kind, reading=reading).droplevel("alpha")
    stitched = stitched.rename(lambda site: site.removesuffix(RAW).strip(), level="site")
    alone = ev.ends(m.of("error", role, kind))
    return 100 * (stitched - alone.reindex(stitched.index.get_level_values("pair")).to_numpy())


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
    """The excess of the spawned networks layer by layer, beside the printed one (Tables 1 to 3)."""
    found = {m.setting.model: m for m in spawned()}
    figure, axes = style.sheet(2, 2, 2.35)
    told = []
    for axis, (model, reading, how) in zip(axes, PANELS):
        m = found[model]
        values, paper = excess(m, reading=reading), printed(m.setting.name)
        sites = ev.sites_of(values)
        below, above = (
            ev.by_site(values.xs(way, level="direction"), sites) for way in ("A to B", "B to A")
        )
        series = [
            Series("pair", below),
            Series("paper", paper.reindex(sites).to_numpy()[:, None]),
            Series("pair", above),
        ]
        head = f"{ev.NETWORKS[model]}{how} ({m.scale})"
        told.append(style.panel(axis, sites, series, head, "excess error (points)", MARK))
        axis.axhline(0, color="black", linewidth=0.6)
    axes[2].sharey(axes[3])
    return style.shown(figure, "Excess of the stitched error, in points", told)


def brought_together() -> Shown:
    """The excess of matched pairs, beside the same two before matching."""
    networks: dict[str, list[Measured]] = {}
    for m in matched():
        networks.setdefault(f"{m.name.rpartition(',')[0]} ({m.scale})", []).append(m)
    figure, axes = style.sheet(2, -(-len(networks) // 2), 2.3)
    told = []
    for axis, (head, methods) in zip(axes, networks.items()):
        sites = ev.sites_of(excess(methods[0]))
        series = [
            Series(what, ev.by_site(excess(m, *who).clip(lower=FLOOR), sites))
            for what, who in (("unmatched", ("control", "unmatched")), ("pair", ("value", "")))
            for m in methods
        ]
        told.append(
            style.panel(axis, sites, series, head, "excess error (points)", MARK, True, 0.13)
        )
    return style.shown(figure, "Excess error of matched pairs, in points", told)


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


def passed_on(m: Measured) -> pd.DataFrame:
    """By pair and map, in the mean over directions: the paper's ``dist`` of W_B H_A and W_B H_B,
    and its root as a share of what it is with the units of H_A - H_B ``shuffled``.
    """
    own, other = m.of("dist_transfer"), m.of("dist_transfer", "null", "shuffled units")
    both = pd.concat({"dist": own, "shuffled": (own / other) ** 0.5}, axis=1)
    return both.groupby(level=["pair", "site"]).mean()


def transferred() -> list[Measured]:
    """The settings that stitch, where W_B H_A is on record beside W_B H_B."""
    names = {m.setting.name for m in (*spawned(), *matched("mlp"))}
    return ev.measured("dist_transfer", lambda s: s.name in names)
