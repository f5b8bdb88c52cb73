"""Tables for the book as MyST text, computed from records; nothing in them is typed by hand."""

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from llfc_book import records
from llfc_book.claims import verdicts
from llfc_book.claims.claims import TABLES
from llfc_book.claims.verdicts import DISPLACED, NOTHING, Verdict, alike, spread
from llfc_book.show.select import at, numbers, of, own, pair_word, recipe_of, sites_of
from llfc_book.study.catalogue import EXPERIMENTS
from llfc_book.study.settings import MATCHED_SPAWNED, PROFILES, RECIPES


class MyST:
    """Text that a notebook shows as MyST markdown (and nbval compares as plain text)."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/markdown": self.text, "text/plain": self.text}


def table(frame: pd.DataFrame, caption: str, name: str, style: str = "") -> MyST:
    """``frame`` as a numbered table with a caption; ``name`` is its label. Cells are MyST text,
    paragraphs apart by an empty line; ``style`` is a class of book.css."""
    # names of layers stay on one line; sentences may break
    whole = (
        " first-whole" if len(frame) and frame.iloc[:, 0].astype(str).str.len().max() <= 24 else ""
    )
    lines = [
        f":::{{list-table}} {caption}",
        f":name: {name}",
        ":header-rows: 1",
        f":class: table-scroll{whole}{style and ' '}{style}",
        "",
    ]
    for line in [list(frame.columns), *frame.itertuples(index=False)]:
        cells = [str(cell).replace("\n\n", "\n\n    ") for cell in line]
        lines += [("* - " if k == 0 else "  - ") + cell for k, cell in enumerate(cells)]
    return MyST("\n".join([*lines, ":::"]))


def made_by(frame: pd.DataFrame) -> str:
    """The profile, data set and pairs behind a table, for its caption."""
    a, count = frame.attrs, frame["pair"].nunique()
    reduced = (
        f" Reduced: {a['reductions'].replace(' -> ', ' → ')}."
        if a["reductions"] and a["profile"] != "smoke"
        else ""
    )
    return f"Profile {a['profile']}, {count} pair{'s' * (count > 1)}. {a['source']}.{reduced}"


def _setting(chosen: pd.DataFrame) -> str:
    """The setting of a table's rows and the paper's figure that it belongs to, for its caption."""
    figure = re.search(r"\((Figure \d+)", EXPERIMENTS[chosen.attrs["experiment"]].title)
    return RECIPES[recipe_of(chosen).iloc[0]].title + (
        f" (the paper's {figure[1]})" if figure else ""
    )


def _label(frame: pd.DataFrame, name: str) -> str:
    """A label of its own for every experiment; the first one's is plain."""
    experiment, recipe = frame.attrs["experiment"], frame.attrs.get("recipe", "")
    whole = f"{experiment}-{recipe}" if recipe else experiment
    return (
        name
        if experiment in ("fig08", "com_mlp", "lmc_mlp")
        else f"{name}-{whole.replace('_', '-')}"
    )


def distances(frame: pd.DataFrame) -> MyST:
    """Distance, disagreement, endpoint errors and barrier of spawned pairs, by recipe, beside their
    controls.
    """
    rows = []
    recipes = recipe_of(frame)
    for recipe in (name for name in RECIPES if (recipes == name).any()):
        group = frame[recipes == recipe]
        for role, kind, label in (
            ("value", "", "spawned pairs"),
            ("control", "independent", "independent pairs"),
        ):
            values = {
                q: numbers(group, q, role, kind)
                for q in (
                    "weight_distance",
                    "disagreement",
                    "error",
                    "error_barrier_chord",
                    "loss_barrier_chord",
                )
            }
            if values["disagreement"].empty:  # pairs that ask when to spawn have no control
                continue
            ends = values["error"][values["error"].index.get_level_values("alpha").isin([0.0, 1.0])]
            rows.append(
                (
                    f"`{recipe}`, {label}",
                    group["pair"].nunique(),
                    spread(values["weight_distance"]),
                    spread(100 * values["disagreement"]),
                    spread(100 * ends),
                    spread(100 * values["error_barrier_chord"]),
                    spread(values["loss_barrier_chord"]),
                )
            )
            again = numbers(group, "error_barrier_chord", role, kind, statistics="recomputed")
            if len(again):
                ends = numbers(group, "error", role, kind, statistics="recomputed")
                ends = ends[ends.index.get_level_values("alpha").isin([0.0, 1.0])]
                rows.append(
                    (
                        f"`{recipe}`, {label}, statistics recomputed",
                        group["pair"].nunique(),
                        NOTHING,
                        NOTHING,
                        spread(100 * ends),
                        spread(100 * again),
                        spread(
                            numbers(
                                group, "loss_barrier_chord", role, kind, statistics="recomputed"
                            )
                        ),
                    )
                )
    columns = [
        "recipe",
        "pairs",
        "weight distance",
        "disagreement (%)",
        "test error of the ends (%)",
        "error barrier above the chord (points)",
        "loss barrier above the chord (nats)",
    ]
    return table(
        pd.DataFrame(rows, columns=columns),
        "How far the two networks of a pair are apart, and the barrier between them, beside"
        " independent pairs where there are any: mean ± standard deviation over pairs."
        f" {made_by(frame)}",
        _label(frame, f"tbl-distances-{frame.attrs['profile']}"),
    )


def matching(frame: pd.DataFrame) -> MyST:
    """What each method found: its objective and the training loss half-way, beside the order before
    and a random one.

    Source: B.1.2.
    """
    rows, recipes = [], recipe_of(frame)
    for name in (name for name in RECIPES if (recipes == name).any()):
        group = frame[recipes == name]
        seeds = group[group["kind"].str.startswith("seed ")]
        tried = seeds[seeds["quantity"] == "half_way_loss"]["mean"]
        work = {q: numbers(group, q) for q in ("matchings", "sweeps", "changed")}
        told = NOTHING
        if len(tried):
            told = (
                f"{tried.min():.4g} to {tried.max():.4g} over {seeds['kind'].nunique()} orders;"
                f" {spread(seeds[seeds['quantity'] == 'sweeps']['mean'])} sweeps"
            )
        elif len(work["matchings"]):
            told = (
                f"{work['matchings'].mean():.0f} matchings, of which {work['changed'].mean():.0f}"
                " changed the order"
            )
        rows.append(
            (
                RECIPES[name].title,
                group["pair"].nunique(),
                *(
                    spread(numbers(group, quantity, *which))
                    for quantity in ("objective", "half_way_loss")
                    for which in (("null", "random order"), ("null", "before matching"), ())
                ),
                told,
            )
        )
    again = "; losses with recomputed running statistics" * (set(recipes) <= set(MATCHED_SPAWNED))
    columns = [
        "setting",
        "pairs",
        r"$\langle A,\pi(B)\rangle$, random order",
        "before matching",
        "matched",
        "training loss half-way, random order",
        "before matching (nats)",
        "matched (nats)",
        "training loss of what was tried, and work",
    ]
    return table(
        pd.DataFrame(rows, columns=columns),
        "What matching finds: the inner product that weight matching raises, and the training loss"
        " half-way, for a random order, before matching and after: mean ± standard deviation over"
        f" pairs{again}. {made_by(frame)}",
        _label(frame, "tbl-matching"),
    )


def joint(frame: pd.DataFrame) -> MyST:
    """Tiny networks: how often a matching ends at the minimum of the residual and of its own
    factor, and how far above it.
    """
    rows, frame = [], of(frame, "mlp_mnist_perm_weight")  # on whose data the tiny ones learn
    sites = numbers(frame, "rank", "null", "random order").index.get_level_values("site").unique()
    for site in sorted(sites, key=lambda site: (" and " in site, site.split(", ")[1], site)):
        chosen = frame[frame["site"] == site]

        def mean(
            quantity: str, kind: str, role: str = "value", chosen: pd.DataFrame = chosen
        ) -> float:
            return numbers(chosen, quantity, role, kind).mean()

        draws = chosen[chosen["quantity"] == "rank"].groupby("pair")["n"].first().sum()
        rows.append(
            (
                site,
                f"{draws:.0f}",
                f"{100 * numbers(chosen, 'tiny_error').mean():.0f} %",
                *(
                    text
                    for kind in ("activation", "weight", "local search")
                    for text in (
                        f"{100 * mean('at_minimum', kind):.0f} %",
                        (
                            f"{mean('over_minimum/0.5', kind):.2f}"
                            f" ({mean('over_minimum/0.9', kind):.2f})"
                        ),
                    )
                ),
                f"{mean('over_minimum/0.5', 'random order', 'null'):.2f}",
                *(
                    f"{100 * mean('factor at_minimum', kind):.0f} %"
                    for kind in ("activation", "weight")
                ),
            )
        )
    columns = [
        "network",
        "draws",
        "error",
        *(
            f"{kind}: {what}"
            for kind in ("activation", "weight", "search")
            for what in ("at minimum", "median (90 %)")
        ),
        "random order: median",
        "activation: its factor at minimum",
        "weight: its factor at minimum",
    ]
    return table(
        pd.DataFrame(rows, columns=columns),
        "Tiny networks, all permutations looked at: share of draws in which each order has the"
        " least residual, and the residual over its least value. The last two columns, set against"
        ' "at minimum": a matching that is best at its own factor need not be at the residual.'
        f" {made_by(frame)}",
        "tbl-joint",
    )


def living(weights: pd.DataFrame, features: pd.DataFrame) -> MyST:
    """How many units respond to any test image, and the stable rank over n with all units and with
    those that do.
    """
    weights, features = own(weights), own(features)
    columns = {
        "living units": (features, "living_units", ""),
        **{
            f"{what}: {label}": (frame, f"stable_rank_share_{quantity}", kind)
            for what, frame, matrix in (("$W$", weights, "W"), ("centred $H$", features, "Hc"))
            for label, quantity, kind in (
                ("all units", matrix, ""),
                ("living", f"{matrix}_living", ""),
                ("before training", matrix, "before training"),
            )
        },
    }
    rows = [
        (
            site,
            *(
                spread(at(numbers(frame, quantity, "null" if kind else "value", kind), site=site))
                for frame, quantity, kind in columns.values()
            ),
        )
        for site in sites_of(features, "living_units")
    ]
    data = recipe_of(weights).iloc[0].split("_")[1]
    return table(
        pd.DataFrame(rows, columns=["layer", *columns]),
        "Stable rank over $n$, of the units that enter (weights) or are there (features), with and"
        " without units that respond to no test image: mean ± standard deviation over pairs. What"
        " differs between all and living units is the dead ones' part in the low rank of the"
        f" paper's Figures 20 and 21. {made_by(weights)}",
        f"tbl-living-{data}",
    )


WHICH = {"": "after the ReLU", "(pre)": "before the ReLU", "(raw)": "before normalisation"}


def llfc(
    frame: pd.DataFrame, suffix: str = "", alpha: float = 0.5, statistics: str = "interpolated"
) -> MyST:
    """1-cos, its baseline and null, coef and c per site at one alpha: mean ± sd over pairs.
    ``suffix`` "(pre)" or "(raw)" takes other features than f^(l).

    Source: B.2.
    """
    chosen, rows = own(frame), []
    null = {"role": "null", "kind": "nearest endpoint"}
    values = [
        at(
            numbers(chosen, quantity, suffix=suffix, statistics=statistics, **where),
            alpha=-1.0 if quantity == "1-cos_AB" else alpha,
        )
        for quantity, where in (
            ("1-cos_alpha", {}),
            ("1-cos_AB", {}),
            ("cos_ratio", {}),
            ("cos_ratio", null),
            ("1-coef_alpha", {}),
            ("1-coef_alpha", null),
            ("set_c", {}),
        )
    ]
    for site in sites_of(chosen, "1-cos_AB", suffix):
        rows.append(
            (
                site.removesuffix(f" {suffix}") if suffix == "(raw)" else site,
                *(spread(at(column, site=site)) for column in values),
            )
        )
    columns = [
        "site",
        r"$1-\cos_\alpha$",
        r"$1-\cos_{A,B}$",
        "ratio",
        "nearest endpoint: ratio",
        r"$1-\mathrm{coef}_\alpha$",
        r"nearest endpoint: $1-\mathrm{coef}$",
        "$c$ of the set",
    ]
    which = WHICH[suffix] + (", statistics recomputed" if statistics == "recomputed" else "")
    name = {"": "post", "(pre)": "pre", "(raw)": "raw"}[suffix] + (
        "-recomputed" if statistics == "recomputed" else ""
    )
    return table(
        pd.DataFrame(rows, columns=columns),
        f"LLFC at α = {alpha:g}, {which}: {_setting(chosen)}. The ratio divides the first column by"
        " the second; hold it against the nearest endpoint's. Mean ± standard deviation over"
        f" pairs. {made_by(chosen)}",
        _label(frame, f"tbl-llfc-{name}"),
    )


def readings(frame: pd.DataFrame, alpha: float = 0.5) -> MyST:
    """The ratio of 1-cos to its baseline under every reading of f^(l), and with both kinds of
    statistics.
    """
    chosen, rows = own(frame), []
    for suffix in WHICH:
        for statistics in ("interpolated", "recomputed"):
            values = at(
                numbers(chosen, "cos_ratio", suffix=suffix, statistics=statistics), alpha=alpha
            )
            off = at(
                numbers(chosen, "1-coef_alpha", suffix=suffix, statistics=statistics), alpha=alpha
            )
            if len(values):
                by_pair = values.groupby("pair")
                rows.append(
                    (
                        WHICH[suffix],
                        statistics,
                        values.index.get_level_values("site").nunique(),
                        spread(by_pair.mean()),
                        spread(by_pair.max()),
                        f"{100 * (values <= verdicts.NEGLIGIBLE).mean():.0f} %",
                        spread(off.groupby("pair").mean()),
                    )
                )
    columns = [
        "features",
        "running statistics",
        "layers",
        "ratio, mean over layers",
        "ratio, largest",
        "at most a tenth",
        r"$1-\mathrm{coef}_\alpha$, mean",
    ]
    return table(
        pd.DataFrame(rows, columns=columns),
        f"Which features, which statistics? LLFC at α = {alpha:g}: {_setting(chosen)}. "
        "Look for the readings under which all layers stay at most a tenth. Mean ± standard "
        f"deviation over pairs. {made_by(chosen)}",
        _label(frame, "tbl-readings"),
    )


def displaced(frame: pd.DataFrame, quantity: str = "cos_ratio", alpha: float = 0.5) -> MyST:
    """``quantity`` of the pairs beside that of displaced partners, which are named with their own
    error and t.
    """
    chosen = own(frame)
    sites = sites_of(chosen, quantity, inner=False)
    lines: list[tuple[str, str, str, pd.Series]] = [
        ("the pair", "1", NOTHING, numbers(chosen, quantity))
    ]
    for kind in DISPLACED:
        if (chosen["kind"] == kind).any():
            partner = at(numbers(chosen, "error", "null", kind), alpha=0.0)
            lines.append(
                (
                    kind,
                    spread(numbers(chosen, "t", "null", kind)),
                    spread(100 * partner),
                    numbers(chosen, quantity, "null", kind),
                )
            )
    lines.append(
        (
            "nearest endpoint",
            NOTHING,
            NOTHING,
            numbers(chosen, quantity, "null", "nearest endpoint"),
        )
    )
    lines.append(
        ("independent pair", NOTHING, NOTHING, numbers(chosen, quantity, "control", "independent"))
    )
    if pair_word(chosen) == "matched":
        lines.append(
            (
                "B before matching",
                NOTHING,
                NOTHING,
                numbers(chosen, quantity, "control", "unmatched"),
            )
        )
    rows = [
        (label, t, error, *(spread(at(values, alpha=alpha, site=site)) for site in sites))
        for label, t, error, values in lines
    ]
    content = pd.DataFrame(rows, columns=["partner of A", "t", "its test error (%)", *sites])
    if len(sites) > verdicts.FEW:  # many layers go down the page
        content = content.set_index("partner of A").T.rename_axis("layer").reset_index()
    return table(
        content,
        f"The ratio $(1-\\cos_\\alpha)/(1-\\cos_{{A,B}})$ at α = {alpha:g} for B and for partners"
        f" that training did not make: {_setting(chosen)}. Look for partners at least as linear as"
        f" the pair. Mean ± standard deviation over pairs. {made_by(chosen)}",
        _label(frame, "tbl-displaced"),
    )


def commutativity(frame: pd.DataFrame) -> MyST:
    """Dist_com, Dist_W, Dist_H and the nulls of Dist_com per map: mean ± sd over pairs.

    Source: B.3.
    """
    chosen = own(frame)
    columns = {
        "Dist_com": ("dist_com", "value", ""),
        "Dist_W": ("dist_W", "value", ""),
        "Dist_H": ("dist_H", "value", ""),
        "null: formula": ("dist_com", "null", "formula"),
        "null: shuffled units": ("dist_com", "null", "shuffled units"),
        "rotation matched": ("dist_com", "null", "rotation matched"),
        "independent pair": ("dist_com", "control", "independent"),
        "independent: formula": ("dist_com", "control", "independent: formula"),
    }
    if pair_word(chosen) == "matched":
        columns["before matching"] = ("dist_com", "control", "unmatched")
    values = {label: numbers(chosen, *which) for label, which in columns.items()}
    rows = [
        (site, *(spread(v.xs(site, level="site")) if len(v) else NOTHING for v in values.values()))
        for site in sites_of(chosen, "dist_com")
    ]
    return table(
        pd.DataFrame(rows, columns=["map", *columns]),
        f"Commutativity: {_setting(chosen)}. Hold Dist_com against the distances beside it, then "
        f"against its nulls and controls. Mean ± standard deviation over pairs. {made_by(chosen)}",
        _label(frame, "tbl-commutativity"),
    )


def stitching(frame: pd.DataFrame) -> MyST:
    """The paper's table beside ours: errors in percent, both directions, first pair with its
    interval.

    Source: Tables 1 to 3 (B.4).
    """
    chosen, experiment = own(frame), frame.attrs["experiment"]
    printed, number = TABLES[experiment], experiment[-1]
    stitched, error = numbers(chosen, "stitched_error"), numbers(chosen, "error")
    raw = numbers(chosen, "stitched_error", suffix="(raw)")
    control = numbers(chosen, "stitched_error", "control", "independent")
    turned = numbers(chosen, "stitched_error", "null", "rotation matched")
    partner, independent = (
        numbers(chosen, "error", "null", "rotation matched"),
        numbers(chosen, "error", "control", "independent"),
    )
    first = chosen["pair"].unique()[0]
    n = int(
        chosen.loc[
            (chosen["quantity"] == "stitched_error") & (chosen["role"] == "value"), "n"
        ].iloc[0]
    )
    rows = []
    for name, alpha in (("A", 1.0), ("B", 0.0)):
        values = at(error, alpha=alpha)
        rows.append(
            (
                f"{name} alone",
                printed[name],
                interval(values.xs(first, level="pair").iloc[0], n),
                spread(100 * values),
                *[NOTHING] * (1 + 2 * bool(len(raw))),
                *[
                    spread(100 * found) if len(found) else NOTHING
                    for found in (at(partner, alpha=alpha), at(independent, alpha=alpha))
                ],
            )
        )
    for site in sites_of(chosen, "stitched_error"):

        def cell(values: pd.Series, direction: str, site: str = site) -> str:
            found = at(values, site=site, direction=direction)
            return spread(100 * found) if len(found) else NOTHING

        before = (
            [cell(raw, direction, f"{site} (raw)") for direction in ("A to B", "B to A")]
            if len(raw)
            else []
        )
        rows.append(
            (
                site,
                printed.get(site, NOTHING),
                interval(stitched[first, site, -1.0, "A to B"], n),
                cell(stitched, "A to B"),
                cell(stitched, "B to A"),
                *before,
                cell(turned, "A to B"),
                cell(control, "A to B"),
            )
        )
    columns = [
        "stitched at",
        "paper",
        "first pair, A to B (95 %)",
        "A to B",
        "B to A",
        *(["before normalisation, A to B", "B to A, before"] if len(raw) else []),
        "null: rotation matched",
        "control: independent",
    ]
    return table(
        pd.DataFrame(rows, columns=columns),
        f"Table {number} of the paper beside ours: test errors in percent, mean ± standard"
        " deviation over pairs. Look for how little the stitched rows exceed those of A and B"
        " alone; under null and control, B is the displaced or the independent partner."
        f" {made_by(chosen)}",
        f"tbl-{experiment}",
    )


def stitched_readings(frame: pd.DataFrame) -> MyST:
    """Which place of stitching gives the printed numbers? Both, by distance and by rank
    correlation.
    """
    chosen, rows = own(frame), []
    found = {suffix: verdicts.excess(chosen, suffix) for suffix in ("", "(raw)")}
    sites = [site for site in found[""].index if site in found["(raw)"].index] or found[
        ""
    ].index  # the layers that both have
    printed = pd.Series(TABLES[frame.attrs["experiment"]])[sites]
    for suffix, label in (
        ("", "after the ReLU"),
        ("(raw)", "before normalisation, by the upper network's"),
    ):
        if len(found[suffix]) < 3:
            continue
        both = found[suffix].loc[sites]
        off = both["ours"] - both["printed"]
        rows.append(
            (
                label,
                len(both),
                spread(alike(chosen, printed, suffix)),
                f"{off.abs().max():.1f}",
                f"{off.pow(2).mean() ** 0.5:.2f}",
                *(
                    f"{both[whose].max():.1f} at {both[whose].idxmax()}"
                    for whose in ("ours", "printed")
                ),
            )
        )
    columns = [
        "stitched",
        "layers",
        "rank correlation with the printed profile",
        "largest difference of the excess (points)",
        "root mean square (points)",
        "our largest excess",
        "printed, same layers",
    ]
    return table(
        pd.DataFrame(rows, columns=columns),
        "Stitching after or before normalisation: which gives the paper's Table"
        f" {frame.attrs['experiment'][-1]}? The excess is over the networks alone, mean over pairs"
        " and directions. " + made_by(chosen),
        _label(frame, "tbl-stitched-readings"),
    )


def wilson(p: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share ``p`` of ``n``.

    Source: Wilson (1927).
    """
    centre, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def interval(p: float, n: int) -> str:
    """Wilson's interval of a share in percent, as text."""
    low, high = wilson(p, n)
    return f"{100 * p:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def badge(word: str) -> str:
    """The word as a coloured badge (sphinx-design)."""
    colours: Mapping[str, Sequence[str]] = {
        "success": (verdicts.REPRODUCED, verdicts.EXCEEDS),
        "warning": (verdicts.PARTLY, verdicts.NOT_HERE),
        "danger": (verdicts.NOT, verdicts.EXCEEDS_NOT),
    }
    colour = next((c for c, words in colours.items() if word in words), "secondary")
    return f"{{bdg-{colour}}}`{word}`"


def _ours(v: Verdict) -> str:
    return f"{v.ours} ({v.profile}, {v.pairs} pair{'s' * (v.pairs > 1)})"


def comparison_table(judged: Sequence[Verdict]) -> MyST:
    """The verdicts of one chapter."""
    rows = [
        (
            v.claim.statement + (" *(our extension)*" if v.claim.extension else ""),
            f"{v.claim.source}: {v.claim.paper}",
            _ours(v),
            badge(v.agreement),
            v.null,
            badge(v.evidence),
        )
        for v in judged
    ]
    first = judged[0].claim
    return table(
        pd.DataFrame(
            rows,
            columns=[
                "claim",
                "the paper",
                "ours, ± over pairs",
                "agreement",
                "nulls and control",
                "evidence",
            ],
        ),
        f"Verdicts on the claims of {first.section} that this page is about.",
        f"tbl-verdicts-{first.chapter.replace('_', '-').lower()}",
    )


def provenance() -> MyST:
    """Every committed record: profile, pairs, commit, machine and time."""
    rows = []
    for profile in PROFILES:
        for name in records.experiments_shown(profile):
            pairs = [
                p
                for p in records.load(name, profile).pairs.values()
                if not records.is_held(p["recipe"], profile)
            ]
            commits = sorted({commit for p in pairs for commit in p["commit"].split(", ")})
            rows.append(
                (
                    f"`{name}`",
                    profile,
                    len(pairs),
                    ", ".join(sorted({p["data"]["name"] for p in pairs})),
                    ", ".join(f"`{c}`" for c in commits),
                    ", ".join(sorted({p["cpu"] for p in pairs})),
                    f"{sum(p['train_seconds'] for p in pairs) / 60:.0f}",
                    f"{sum(p['measure_seconds'] for p in pairs) / 60:.0f}",
                    "; ".join(sorted({fast for p in pairs for fast in p.get("speedups", ())}))
                    or NOTHING,
                    max(p["finished"] for p in pairs),
                )
            )
    columns = [
        "record",
        "profile",
        "pairs",
        "data",
        "measured at commit",
        "processor",
        "training (min)",
        "measuring (min)",
        "training sped up by",
        "finished",
    ]
    return table(
        pd.DataFrame(rows, columns=columns),
        "Committed records. Experiments of one profile share their networks "
        "and their passes, so their times are not to be added.",
        "tbl-provenance",
    )


def comparison(chosen: pd.DataFrame, caption: str, name: str) -> MyST:
    """Lines of ``Comparison.table()`` as a numbered table, without columns that have no number."""
    filled = chosen.dropna(axis=1, how="all")
    cells = filled.map(lambda value: NOTHING if pd.isna(value) else f"{value:.3g}")
    return table(cells.reset_index(), caption, name)
