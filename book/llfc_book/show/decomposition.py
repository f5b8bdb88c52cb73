"""Figures and tables of chapter A.2 on trained networks: which part of LLFC's residual dominates,
and what is expected by chance.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from llfc_book.appendix import generic
from llfc_book.claims.verdicts import NOTHING, spread
from llfc_book.show import plots
from llfc_book.show.proofs import control_of, recipes_in, title
from llfc_book.show.select import at, depth, numbers, of, pairwise, recipe_of, sites_of
from llfc_book.show.tables import MyST, table
from llfc_lib.figures import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, Shown
from llfc_lib.metrics import measure
from llfc_lib.metrics.decomposition import PARTS, SOURCES, Decomposition

ROTATED = ("null", "rotation matched")
GOLD = "#b8860b"
COLOURS = {
    "carried": "#9a9a9a",
    "skipped": "#c9c9c9",
    "commutativity": BLUE,
    "relu": ORANGE,
    "pooling": GREEN,
    "normalisation": PURPLE,
    "other": RED,
}
WORDS = {
    "carried": "carried from the layer below",
    "skipped": "carried by the shortcut",
    "commutativity": "commutativity",
    "relu": "ReLU",
    "pooling": "max-pooling",
    "normalisation": "normalisation",
    "other": "other",
}
WHO = {
    "pair": "the pair",
    "unmatched": "before matching",
    "independent": "independent",
    "rotation": "displaced, rotated",
    "gaussian": "displaced, Gaussian",
}
Who = tuple[str, str]  # role and kind of rows


def partners(name: str, kinds: Sequence[str] = ("rotation",)) -> dict[str, Who]:
    """The pair, its control and partners displaced in these ways: by a word, role and kind of their
    rows.
    """
    control = control_of(name)
    return {
        WHO["pair"]: ("value", ""),
        WHO[control]: ("control", control),
        **{WHO[kind]: ("null", f"{kind} matched") for kind in kinds},
    }


def parts(frame: pd.DataFrame, alpha: float = 0.5, statistics: str = "interpolated") -> Shown:
    """Of one recipe: the parts of the residual, site by site, for the pair, its control and
    displaced partners; and its size.
    """
    name = recipe_of(frame).iloc[0]
    sites = sites_of(frame, "e_over_d")
    many = len(sites) > 6
    figure, axes, made_by = plots._figure(frame, 2, 7.4 if many else 5.2, rows=2)
    told = []
    for axis, (word, (role, kind)) in zip(axes, partners(name).items()):
        means = _means(frame, alpha, statistics if role == "value" else "interpolated")
        shares = {
            part: np.array([means.get((role, kind, f"share_{part}", site), 0.0) for site in sites])
            for part in PARTS
        }
        _stack(axis, shares, sites)
        axis.set_title(word, loc="left", fontsize=8)
        axis.set_ylabel(r"share of $\|e\|^2$")
        last = {part: values[-2] for part, values in shares.items() if values[-2]}
        if last:
            told.append(
                f"{word}: "
                + ", ".join(f"{WORDS[part]} {value:.2f}" for part, value in last.items())
            )
        plots._site_axis(axis, sites)
    _sizes(axes[3], frame, sites, name, alpha, statistics)
    plots.legend(figure, axes, columns=4)
    e, turned = (
        at(numbers(frame, q, statistics=statistics), alpha=alpha)
        for q in ("e_over_d", "turned_over_d")
    )
    alt = (
        f"Parts of LLFC's residual, {title(name)} ({made_by}). Shares at {sites[-2]}:"
        f" {'; '.join(told)}. |e|^2 / |f_A - f_B|^2 of the pair is between {e.min():.4f} and"
        f" {e.max():.4f}, after the best factor c between {turned.min():.4f} and"
        f" {turned.max():.4f}."
    )
    return Shown(figure, alt)


def _means(
    rows: pd.DataFrame, alpha: float, statistics: str = "interpolated"
) -> dict[tuple[str, str, str, str], float]:
    """Means over pairs at one alpha, by role, kind, quantity and site; in one pass, since there are
    many.
    """
    chosen = rows[(rows["statistics"] == statistics) & (rows["alpha"] == alpha)]
    return (
        chosen.groupby(["role", "kind", "quantity", "site"], observed=True)["mean"].mean().to_dict()
    )


def _stack(axis: Axes, shares: Mapping[str, np.ndarray], sites: Sequence[str]) -> None:
    """Stacked bars, negative shares below the line."""
    above, below = np.zeros(len(sites)), np.zeros(len(sites))
    for part, values in shares.items():
        if not np.abs(values).max() > 0:
            continue
        start = np.where(values >= 0, above, below)
        axis.bar(
            range(len(sites)),
            values,
            0.75,
            start,
            color=COLOURS[part],
            label=WORDS[part],
            linewidth=0,
        )
        above, below = above + values.clip(min=0), below + values.clip(max=0)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set_ylim(1.1 * below.min() - 0.02 * (below.min() < 0), max(1.02, 1.02 * above.max()))


def _sizes(
    axis: Axes, frame: pd.DataFrame, sites: Sequence[str], name: str, alpha: float, statistics: str
) -> None:
    """|e|^2 / |f_A - f_B|^2 of everybody, on a logarithmic axis."""
    for (word, (role, kind)), colour, marker in zip(
        partners(name).items(), ("black", RED, GOLD), "os^"
    ):
        for quantity, shift, fill in (("e_over_d", -0.12, colour), ("turned_over_d", 0.12, "none")):
            values = numbers(
                frame,
                quantity,
                role,
                kind,
                statistics=statistics if role == "value" else "interpolated",
            )
            means = [
                group.mean() if len(group) else np.nan for group in pairwise(values, sites, alpha)
            ]
            axis.plot(
                np.arange(len(sites)) + shift,
                means,
                marker,
                color=colour,
                markerfacecolor=fill,
                markersize=4.5,
                label=word if fill != "none" else None,
            )
    plots.log_axis(axis)
    axis.set_ylabel(r"$\|e\|^2/\|f_A-f_B\|^2$ (log scale)")
    axis.set_title("size of the residual (open: after the best c)", loc="left", fontsize=8)
    plots._site_axis(axis, sites)


def _profiles(rows: pd.DataFrame) -> str:
    return ", ".join(sorted(set(rows["profile"]))) if "profile" in rows else rows.attrs["profile"]


def origins(frame: pd.DataFrame, alpha: float = 0.5) -> MyST:
    """Where the residual at the logits and at the last hidden site first arose: shares of |e|^2 by
    kind of node, all pairs.
    """
    lines = []
    for name in recipes_in(frame):
        rows = of(frame, name)
        hidden = sites_of(rows, "e_over_d")[-2]
        for word, (role, kind) in partners(name).items():
            size = at(numbers(rows, "e_over_d", role, kind), alpha=alpha)
            if size.empty:
                continue
            found = [
                at(numbers(rows, f"origin_{source}", role, kind), alpha=alpha)
                for source in SOURCES[:-1]
            ]
            shares = [
                " / ".join(_share(at(values, site=site)) for site in (hidden, "logits"))
                for values in found
            ]
            first = f"{title(name)} ({_profiles(rows)}, {rows['pair'].nunique()})"
            lines.append(
                (
                    first if role == "value" else "",
                    word,
                    *(spread(at(size, site=site)) for site in (hidden, "logits")),
                    *shares,
                )
            )
    columns = [
        "network (profile, pairs)",
        "partner",
        r"$\|e\|^2/\|f_A-f_B\|^2$, last hidden site",
        "logits",
        *(WORDS[source] for source in SOURCES[:-1]),
    ]
    return table(
        pd.DataFrame(lines, columns=columns),
        "Size of the residual, and where it first arose: shares of its square at the last hidden"
        f" site / at the logits, which add up to 1, at α = {alpha:g}, statistics interpolated."
        " Compare each pair with the partner displaced by as much.",
        "tbl-origins",
    )


def with_factor(frame: pd.DataFrame, alpha: float = 0.5) -> MyST:
    """What the best factor c of Definition 2 changes: shares of the parts in |e|^2 and in |c
    f_alpha - m|^2, at the last hidden site.
    """
    lines = []
    for name in recipes_in(frame):
        rows = of(frame, name)
        site = sites_of(rows, "e_over_d")[-2]
        for word, who in partners(name).items():
            c = at(numbers(rows, "c", *who), site=site, alpha=alpha)
            shares = [
                " → ".join(
                    _share(at(numbers(rows, f"{what}_{part}", *who), site=site, alpha=alpha))
                    for what in ("share", "turned")
                )
                for part in PARTS[:-1]
            ]
            if len(c):
                lines.append(
                    (
                        f"{title(name)}, {site}" if word == WHO["pair"] else "",
                        word,
                        spread(c),
                        *(NOTHING if NOTHING in share else share for share in shares),
                    )
                )
    columns = ["network, site", "partner", "best c", *(WORDS[part] for part in PARTS[:-1])]
    return table(
        pd.DataFrame(lines, columns=columns),
        "What the best factor c changes: shares of the parts at the last hidden site, in"
        f" $\\|e\\|^2$ → in $\\|c f_\\alpha-m\\|^2$, at α = {alpha:g}, statistics interpolated."
        " Look at the ReLU's.",
        "tbl-with-factor",
    )


def _share(values: pd.Series) -> str:
    return f"{values.mean():.2f}" if len(values) else NOTHING


def every_pair(frame: pd.DataFrame, alpha: float = 0.5) -> Shown:
    """The shares of :func:`origins`, drawn: a bar a recipe and partner, at the last hidden site and
    at the logits.
    """
    chosen = frame.copy(deep=False)
    chosen.attrs = {**frame.attrs, "reductions": ""}
    means = {name: _means(of(frame, name), alpha) for name in recipes_in(frame, spawned_at=True)}
    hidden = {
        name: sorted({site for _, _, quantity, site in found if quantity == "e_over_d"}, key=depth)[
            -2
        ]
        for name, found in means.items()
    }
    bars = [
        (name, word, who)
        for name, found in means.items()
        for word, who in partners(name).items()
        if (*who, "e_over_d", "logits") in found
    ]
    places = np.cumsum([1.0 + 0.6 * (word == WHO["pair"]) for _, word, _ in bars])
    figure, axes, made_by = plots._figure(chosen, 2, 0.155 * places[-1] + 1.2)
    lightest: dict[str, float] = {}
    for axis, logits in zip(axes, (False, True)):
        above, below = np.zeros(len(bars)), np.zeros(len(bars))
        for source in SOURCES:
            values = np.array(
                [
                    means[name].get(
                        (*who, f"origin_{source}", "logits" if logits else hidden[name]), 0.0
                    )
                    for name, _, who in bars
                ]
            )
            if np.any(values):
                axis.barh(
                    places,
                    values,
                    0.85,
                    np.where(values >= 0, above, below),
                    color=COLOURS[source],
                    label=WORDS[source],
                    linewidth=0,
                )
                above, below = above + values.clip(min=0), below + values.clip(max=0)
                lightest[f"{WORDS[source]}, {'logits' if logits else 'last hidden site'}"] = float(
                    np.median([v for v in values if v])
                )
        axis.axvline(0, color="black", linewidth=0.6)
        axis.spines["left"].set_visible(False)
        axis.set_title("logits" if logits else "last hidden site", loc="left", fontsize=8)
        axis.set_xlabel(r"share of $\|e\|^2$ by origin")
        axis.set_ylim(places[-1] + 1, 0.5)
        axis.grid(axis="y", visible=False)
    names = [
        f"{title(name).replace(', spawning', ' spawned')}: {word}" if word == WHO["pair"] else word
        for name, word, _ in bars
    ]
    axes[0].set_yticks(places, names, fontsize=6)
    axes[1].set_yticks([])
    plots.legend(figure, axes, columns=5)
    alt = (
        f"Origins of LLFC's residual half-way, {len(bars)} kinds of pairs and partners ({made_by})."
        " Median share where there is any: "
        + ", ".join(f"{what} {value:.2f}" for what, value in lightest.items())
        + "."
    )
    return Shown(figure, alt)


def identity(frame: pd.DataFrame) -> MyST:
    """How exactly the parts add up, over all pairs of each profile and precision."""
    lines = []
    for profile, rows in frame.groupby(
        recipe_of(frame).map(lambda name: frame.attrs["by_recipe"][name]["profile"])
    ):
        error = rows.loc[rows["quantity"] == "identity_error", "mean"]
        precision = "float64" if profile == "smoke" else "float32"
        lines.append(
            (
                profile,
                precision,
                rows["pair"].nunique(),
                len(error),
                f"below 1e{int(np.ceil(np.log10(error.max())))}",
            )
        )
    columns = [
        "profile",
        "precision of features",
        "pairs",
        "sites, α and partners",
        r"largest $\|\sum\mathrm{parts}-e\|/\|m\|$",
    ]
    return table(
        pd.DataFrame(lines, columns=columns),
        "The parts add up: what is left of their sum after $e$ is taken off, beside the norm of the"
        " weighted mean $m$.",
        "tbl-identity",
    )


# what is expected by chance


def expected_table(frame: pd.DataFrame, alpha: float = 0.5) -> pd.DataFrame:
    """Measured and expected r = |e|^2 / |f_A - f_B|^2 of every perceptron pair, its control and its
    displaced partners, a line a site.

    A rotated partner keeps the row space of the trained difference, a Gaussian one nothing of it.
    """
    lines = []
    for name in recipes_in(frame):
        rows = of(frame, name)
        sites = sites_of(rows, "e_over_d")
        maps = sites_of(rows, "moved")
        if len(maps) != len(sites) - 1 or numbers(rows, "bound").empty:
            continue
        measures = ["moved", "fresh", "flips", "flipped", "passed", "aligned"]
        chosen = rows[
            (rows["statistics"] == "interpolated")
            & (rows["alpha"].isna() | (rows["alpha"] == alpha))
            & rows["quantity"].isin(["e_over_d", "turned_over_d", *measures])
        ]
        found = {
            keys: group.set_index(["quantity", "site"])["mean"].to_dict()
            for keys, group in chosen.groupby(["role", "kind", "pair"], observed=True)
        }
        for word, who in partners(name, ("rotation", "gaussian")).items():
            for pair in rows["pair"].unique():
                values = found.get((*who, pair), {})
                if ("moved", maps[0]) not in values:
                    continue
                foretold = generic.chain(
                    sites,
                    [None, *maps],
                    {key: v for key, v in values.items() if key[0] in measures},
                    alpha,
                )
                lines += [
                    (
                        name,
                        pair,
                        word,
                        site,
                        values["e_over_d", site],
                        values["turned_over_d", site],
                        foretold[site],
                        values.get(("flips", site)),
                        values.get(("aligned", m)),
                    )
                    for site, m in zip(sites, [None, *maps])
                ]
    return pd.DataFrame(
        lines,
        columns=[
            "recipe",
            "pair",
            "partner",
            "site",
            "measured",
            "turned",
            "expected",
            "flips",
            "aligned",
        ],
    )


def expected(found: pd.DataFrame) -> MyST:
    """:func:`expected_table` as a table: measured over expected."""
    lines = []
    sites = list(found["site"].unique())
    for (name, word), group in found.groupby(["recipe", "partner"], sort=False):
        of_site = [group[group["site"] == site] for site in sites]
        flips = group.groupby("pair")["flips"].mean()
        lines.append(
            (
                title(name) if word == WHO["pair"] else "",
                word,
                f"{100 * flips.mean():.1f} %",
                *(
                    f"{spread(g['measured'] / g['expected'])}"
                    f" ({(g['turned'] / g['expected']).mean():.2g})"
                    for g in of_site
                ),
                *(spread(g["aligned"]) for g in of_site[1:]),
            )
        )
    columns = [
        "network",
        "partner",
        "ReLUs that flip",
        *sites,
        *(f"aligned, {site}" for site in sites[1:]),
    ]
    return table(
        pd.DataFrame(lines, columns=columns),
        "Measured size of the residual over what its own displacement would give without structure,"
        " layer by layer: 1 is as expected; in brackets after the best factor c. Aligned: the"
        " commutativity residual over that of unrelated directions.",
        "tbl-expected",
    )


def against_expected(found: pd.DataFrame, frame: pd.DataFrame) -> Shown:
    """Measured against expected r, all perceptrons of ``frame``, all sites: as it is, and what the
    best factor c leaves.
    """
    figure, axes, made_by = plots._figure(frame, 2, 3.9)
    looks = {
        WHO["pair"]: (BLUE, "o"),
        WHO["unmatched"]: (RED, "x"),
        WHO["independent"]: (RED, "+"),
        WHO["rotation"]: (GOLD, "^"),
        WHO["gaussian"]: (GREEN, "v"),
    }
    told = {}
    for axis, column, head in zip(
        axes, ("measured", "turned"), ("whole residual", "after the best factor c")
    ):
        for word, (colour, marker) in looks.items():
            group = found[found["partner"] == word]
            axis.plot(
                group["expected"],
                group[column],
                marker,
                color=colour,
                label=word,
                markersize=4,
                alpha=0.8,
            )
        ends = [found["expected"].min() / 1.3, found["expected"].max() * 1.3]
        axis.plot(ends, ends, color="black", linewidth=0.8, label="as expected")
        axis.set_xscale("log")
        axis.set_xticks([0.02, 0.05, 0.1, 0.2], ["0.02", "0.05", "0.1", "0.2"])
        axis.xaxis.set_minor_formatter(NullFormatter())
        plots.log_axis(axis)
        axis.set_title(head, loc="left", fontsize=8)
        left = r"\|e\|^2" if column == "measured" else r"\|cf_\alpha-m\|^2"
        axis.set_xlabel(r"expected $\|e\|^2/\|f_A-f_B\|^2$ (log scale)")
        axis.set_ylabel(rf"measured ${left}/\|f_A-f_B\|^2$ (log scale)")
        over = (found[column] / found["expected"]).groupby(found["partner"]).median()
        told[head] = ", ".join(f"{word} {over[word]:.2f}" for word in looks if word in over)
    plots.legend(figure, axes, columns=3)
    alt = (
        f"Measured against expected size of LLFC's residual, perceptrons ({made_by}). Median of"
        " measured over expected: "
        + "; ".join(f"{head}: {text}" for head, text in told.items())
        + "."
    )
    return Shown(figure, alt)


SIZES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


def simulate(widths: Sequence[int] = (32, 256), draws: int = 2) -> pd.DataFrame:
    """r of networks with independent Gaussian weights, displaced by independent Gaussian weights of
    relative size t.
    """
    lines = []
    for width in widths:
        for t in SIZES:
            for seed in range(draws):
                a, b = generic.gaussian_pair(width, t, seed)
                for row in measure(a, b, generic.gaussian_images(), [Decomposition()]):
                    if row.quantity == "e_over_d" and row.site != "logits":
                        lines.append((width, t, seed, row.site, row.mean))
    return pd.DataFrame(lines, columns=["width", "t", "seed", "site", "ratio"])


def simulated(found: pd.DataFrame) -> Shown:
    """:func:`simulate` beside the formula."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(plots.STYLE):
        figure = Figure(figsize=(plots.WIDTH, 3.6), layout="constrained", facecolor="white")
        axis = figure.subplots()
    grid = np.geomspace(min(SIZES), max(SIZES), 60)
    for k, (site, colour) in enumerate(zip(("FC 1", "FC 2", "FC 3"), (SKY, BLUE, PURPLE))):
        axis.plot(
            grid,
            [generic.gaussian_ratio(t, 3)[k] for t in grid],
            color=colour,
            linewidth=1.2,
            label=f"{site}, formula",
        )
        for width, marker in zip(found["width"].unique(), "os"):
            chosen = found[(found["site"] == site) & (found["width"] == width)]
            axis.plot(
                chosen["t"] * (0.97 if marker == "o" else 1.03),
                chosen["ratio"],
                marker,
                color=colour,
                markersize=3,
                alpha=0.7,
                label=f"width {width}" if k == 0 else None,
            )
    axis.set_xscale("log")
    plots.log_axis(axis)
    axis.set_xticks(SIZES, [f"{t:g}" for t in SIZES])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("relative size t of the displacement (log scale)")
    axis.set_ylabel(r"$\|e\|^2/\|f_A-f_B\|^2$ (log scale)")
    plots.legend(figure, [axis], columns=5)
    figure.supxlabel(
        "constructed: Gaussian networks, Gaussian images, float64",
        fontsize=7,
        color="#444444",
        x=0.995,
        ha="right",
    )
    off = [
        abs(
            group["ratio"].mean()
            / generic.gaussian_ratio(t, 3)[("FC 1", "FC 2", "FC 3").index(site)]
            - 1
        )
        for (site, t), group in found.groupby(["site", "t"])
    ]
    alt = (
        f"Residual of Gaussian networks displaced at random, from t = {min(SIZES)} to {max(SIZES)},"
        f" widths {', '.join(map(str, found['width'].unique()))}: on the curves of the formula,"
        f" which width does not enter; means over draws are off by {100 * max(off):.0f} % at most."
    )
    return Shown(figure, alt)
