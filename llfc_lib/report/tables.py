"""Tables for the book as MyST text, computed from records; nothing in them is typed by hand."""

from collections.abc import Mapping, Sequence

import pandas as pd

from llfc_lib.report import records, verdicts
from llfc_lib.report.claims import TABLE_1
from llfc_lib.report.verdicts import DISPLACED, NOTHING, Verdict, numbers, spread
from llfc_lib.training.recipes import PROFILES


class MyST:
    """Text that a notebook shows as MyST markdown (and nbval compares as plain text)."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/markdown": self.text, "text/plain": self.text}


def table(frame: pd.DataFrame, caption: str, name: str) -> MyST:
    """``frame`` as a numbered table with a caption; ``name`` is its label. Cells are MyST text."""
    lines = [f":::{{list-table}} {caption}", f":name: {name}", ":header-rows: 1", ":class: table-scroll", ""]
    for line in [list(frame.columns), *frame.itertuples(index=False)]:
        cells = [str(cell) for cell in line]
        lines += [("* - " if k == 0 else "  - ") + cell for k, cell in enumerate(cells)]
    return MyST("\n".join([*lines, ":::"]))


def _made_by(frame: pd.DataFrame) -> str:
    """The profile, data set and pairs behind a table, for its caption."""
    a, count = frame.attrs, frame["pair"].nunique()
    return f"Profile {a['profile']}, {count} pair{'s' * (count > 1)}. {a['source']}."


def _first_recipe(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the printed setting; variants have tables of their own."""
    return frame[frame["pair"].str.startswith("mlp_mnist_spawn/")]


def distances(frame: pd.DataFrame) -> MyST:
    """Distance, disagreement, endpoint errors and barrier of spawned pairs, by recipe, beside their controls."""
    rows = []
    for recipe, group in frame.groupby(frame["pair"].str.rsplit("/", n=1).str[0], sort=True):
        for role, kind, label in (("value", "", "spawned pairs"), ("control", "independent", "independent pairs")):
            values = {q: numbers(group, q, role, kind) for q in ("weight_distance", "disagreement", "error",
                                                                "error_barrier_chord", "loss_barrier_chord")}
            ends = values["error"][values["error"].index.get_level_values("alpha").isin([0.0, 1.0])]
            rows.append((f"`{recipe}`, {label}", group["pair"].nunique(), spread(values["weight_distance"]),
                         spread(100 * values["disagreement"]), spread(100 * ends),
                         spread(100 * values["error_barrier_chord"]), spread(values["loss_barrier_chord"])))
    columns = ["recipe", "pairs", "weight distance", "disagreement (%)", "test error of the ends (%)",
               "error barrier above the chord (points)", "loss barrier above the chord (nats)"]
    return table(pd.DataFrame(rows, columns=columns),
                 f"How far the two networks of a pair are apart: mean ± standard deviation over pairs. {_made_by(frame)}",
                 f"tbl-distances-{frame.attrs['profile']}")


def llfc(frame: pd.DataFrame, pre: bool = False, alpha: float = 0.5) -> MyST:
    """1-cos, its baseline and null, coef and c per site at one alpha: mean ± sd over pairs."""
    own, rows = _first_recipe(frame), []
    null = {"role": "null", "kind": "nearest endpoint"}

    def cell(quantity: str, site: str, at: float = alpha, **where: str) -> str:
        values = numbers(own, quantity, pre=pre, **where)
        chosen = values[(values.index.get_level_values("site") == site)
                        & (values.index.get_level_values("alpha") == at)]
        return spread(chosen)

    for site in own.loc[(own["quantity"] == "1-cos_AB") & (own["site"].str.endswith("(pre)") == pre), "site"].unique():
        rows.append((site, cell("1-cos_alpha", site), cell("1-cos_AB", site, -1.0), cell("cos_ratio", site),
                     cell("cos_ratio", site, **null), cell("1-coef_alpha", site), cell("1-coef_alpha", site, **null),
                     cell("set_c", site)))
    columns = ["site", r"$1-\cos_\alpha$", r"$1-\cos_{A,B}$", "ratio", "nearest endpoint: ratio",
               r"$1-\mathrm{coef}_\alpha$", r"nearest endpoint: $1-\mathrm{coef}$", "$c$ of the set"]
    which = "before the ReLU" if pre else "after the ReLU"
    return table(pd.DataFrame(rows, columns=columns), f"LLFC at α = {alpha:g}, {which}: mean ± standard deviation over "
                 f"pairs. {_made_by(own)}", f"tbl-llfc-{'pre' if pre else 'post'}")


def displaced(frame: pd.DataFrame, quantity: str = "cos_ratio", alpha: float = 0.5) -> MyST:
    """``quantity`` of the pairs beside that of displaced partners, which are named with their own error and t."""
    own, rows = _first_recipe(frame), []

    def line(label: str, role: str, kind: str, t: str, error: str) -> None:
        values = numbers(own, quantity, role, kind)
        values = values[values.index.get_level_values("alpha") == alpha]
        rows.append((label, t, error, *(spread(group) for _, group in values.groupby("site"))))

    line("the pair", "value", "", "1", NOTHING)
    for kind in DISPLACED:
        if (own["kind"] == kind).any():
            partner = numbers(own, "error", "null", kind)
            line(kind, "null", kind, spread(numbers(own, "t", "null", kind)),
                 spread(100 * partner[partner.index.get_level_values("alpha") == 0]))
    line("nearest endpoint", "null", "nearest endpoint", NOTHING, NOTHING)
    line("independent pair", "control", "independent", NOTHING, NOTHING)
    sites = sorted(numbers(own, quantity).index.get_level_values("site").unique())
    return table(pd.DataFrame(rows, columns=["partner of A", "t", "its test error (%)", *sites]),
                 f"$(1-\\cos_\\alpha)/(1-\\cos_{{A,B}})$ at α = {alpha:g} for B and for partners that training did not make: mean ± "
                 f"standard deviation over pairs. {_made_by(own)}", "tbl-displaced")


def commutativity(frame: pd.DataFrame) -> MyST:
    """Dist_com, Dist_W, Dist_H and the nulls of Dist_com per map: mean ± sd over pairs."""
    own = _first_recipe(frame)
    columns = {"Dist_com": ("dist_com", "value", ""), "Dist_W": ("dist_W", "value", ""), "Dist_H": ("dist_H", "value", ""),
               "null: formula": ("dist_com", "null", "formula"), "null: shuffled units": ("dist_com", "null", "shuffled units"),
               "rotation matched": ("dist_com", "null", "rotation matched"),
               "independent pair": ("dist_com", "control", "independent")}
    values = {label: numbers(own, *which) for label, which in columns.items()}
    sites = sorted(values["Dist_com"].index.get_level_values("site").unique())
    rows = [(site, *(spread(v.xs(site, level="site")) if len(v) else NOTHING for v in values.values())) for site in sites]
    return table(pd.DataFrame(rows, columns=["map", *columns]), "Commutativity of the spawned MLP, with nulls and "
                 f"control: mean ± standard deviation over pairs. {_made_by(own)}", "tbl-commutativity")


def stitching(frame: pd.DataFrame) -> MyST:
    """The paper's Table 1 beside ours: errors in percent, both directions, first pair with its interval."""
    own = _first_recipe(frame)
    stitched, error = numbers(own, "stitched_error"), numbers(own, "error")
    control = numbers(own, "stitched_error", "control", "independent")
    turned = numbers(own, "stitched_error", "null", "rotation matched")
    first = own["pair"].unique()[0]
    n = int(own.loc[(own["quantity"] == "stitched_error") & (own["role"] == "value"), "n"].iloc[0])
    rows = []
    for name, alpha, printed in (("A", 1.0, TABLE_1["A"]), ("B", 0.0, TABLE_1["B"])):
        values = error[error.index.get_level_values("alpha") == alpha]
        rows.append((f"{name} alone", printed, interval(values.xs(first, level="pair").iloc[0], n), spread(100 * values), NOTHING, NOTHING, NOTHING))
    for site in sorted(stitched.index.get_level_values("site").unique()):
        def cell(values: pd.Series, direction: str) -> str:
            chosen = values[(values.index.get_level_values("site") == site)
                            & (values.index.get_level_values("direction") == direction)]
            return spread(100 * chosen) if len(chosen) else NOTHING

        rows.append((site, TABLE_1.get(site, NOTHING), interval(stitched[first, site, -1.0, "A to B"], n), cell(stitched, "A to B"),
                     cell(stitched, "B to A"), cell(turned, "A to B"), cell(control, "A to B")))
    columns = ["stitched at", "paper", "first pair, A to B (95 %)", "A to B", "B to A", "null: rotation matched",
               "control: independent"]
    return table(pd.DataFrame(rows, columns=columns), "Table 1 of the paper beside ours: test errors in percent, mean ± "
                 f"standard deviation over pairs. {_made_by(own)}", "tbl-tab1")


def wilson(p: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share ``p`` of ``n``."""
    centre, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def interval(p: float, n: int) -> str:
    low, high = wilson(p, n)
    return f"{100 * p:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def badge(word: str) -> str:
    """The word as a coloured badge (sphinx-design)."""
    colours: Mapping[str, Sequence[str]] = {"success": (verdicts.REPRODUCED, verdicts.EXCEEDS), "warning": (verdicts.PARTLY, verdicts.NOT_HERE),
                                            "danger": (verdicts.NOT, verdicts.EXCEEDS_NOT)}
    colour = next((c for c, words in colours.items() if word in words), "secondary")
    return f"{{bdg-{colour}}}`{word}`"


def comparison_table(judged: Sequence[Verdict]) -> MyST:
    """The verdicts of one chapter."""
    rows = [(v.claim.statement + (" *(our extension)*" if v.claim.extension else ""), f"{v.claim.source}: {v.claim.paper}",
             f"{v.ours} ({v.profile}, {v.pairs} pairs)", badge(v.agreement), v.null, badge(v.evidence)) for v in judged]
    section = judged[0].claim.section
    return table(pd.DataFrame(rows, columns=["claim", "the paper", "ours, ± over pairs", "agreement", "nulls and control",
                                             "evidence"]),
                 f"Verdicts on the claims of {section}.", f"tbl-verdicts-{section.replace('.', '').lower()}")


def ledger(judged: Sequence[Verdict]) -> MyST:
    """All claims, with links to their chapters."""
    rows = [(v.claim.statement + (" *(our extension)*" if v.claim.extension else ""), badge(v.agreement),
             badge(v.evidence), v.claim.paper, f"{v.ours} ({v.profile}, {v.pairs} pairs)", v.null,
             f"{v.claim.source}; {{doc}}`{v.claim.chapter}`") for v in judged]
    return table(pd.DataFrame(rows, columns=["claim", "agreement", "evidence", "the paper", "ours, ± over pairs",
                                             "nulls and control", "where"]),
                 "Every claim that has been measured so far.", "tbl-ledger")


def provenance() -> MyST:
    """Every committed record: profile, pairs, commit, machine and time."""
    rows = []
    for profile in PROFILES:
        for path in sorted((records.RECORDS / profile).glob("*.json")):
            pairs = records.load(path.stem, profile).pairs.values()
            commits = sorted({commit for p in pairs for commit in p["commit"].split(", ")})
            rows.append((f"`{path.stem}`", profile, len(pairs), ", ".join(sorted({p["data"]["name"] for p in pairs})),
                         ", ".join(f"`{c}`" for c in commits), ", ".join(sorted({p["cpu"] for p in pairs})),
                         f"{sum(p['train_seconds'] for p in pairs) / 60:.0f}", f"{sum(p['measure_seconds'] for p in pairs) / 60:.0f}",
                         max(p["finished"] for p in pairs)))
    columns = ["record", "profile", "pairs", "data", "measured at commit", "processor", "training (min)", "measuring (min)",
               "finished"]
    return table(pd.DataFrame(rows, columns=columns), "Committed records. Experiments of one profile share their networks "
                 "and their passes, so their times are not to be added.", "tbl-provenance")


def rules() -> MyST:
    """The rules in words, with the constants that the code uses."""
    lines = [
        f"- *Connected*: in every pair the error barrier above the chord is at most {verdicts.CONNECTED_SE:g} binomial standard "
        "errors of the endpoint error.",
        f"- *Negligible*, *close to 0 compared with*: at most {verdicts.NEGLIGIBLE:g} of what it is compared with, in every pair and "
        f"site. *Close to 1*: within {verdicts.CLOSE_TO_ONE:g}.",
        f"- *Resembles* (stitching): above the mean endpoint error by at most {verdicts.RESEMBLES:g} of it in every pair, site and "
        "direction, and falling with depth.",
        f"- A printed number agrees if it lies within {verdicts.INTERVAL_SD:g} standard deviations of our independent pairs.",
        f"- *{verdicts.REPRODUCED}*: the rule holds in every case; *{verdicts.PARTLY}*: in some; *{verdicts.NOT}*: in none. A reduced profile never "
        f"earns the last, only *{verdicts.NOT_HERE}*.",
        f"- *{verdicts.EXCEEDS}*: in every pair and site below {verdicts.SUPPORTED:g} of each null and better than the control; otherwise "
        f"*{verdicts.EXCEEDS_NOT}*, and the table says which and in how many cases.",
        "- Displaced partners are held against the pair on quantities that do not change with the size of the "
        "difference: the ratio of 1-cos to its baseline; Dist_com divided by the product of Dist_W and Dist_H. Weak "
        "additivity has none, so only partners at the same distance count there.",
        "- *Changed after the first runs*, each time to be stricter, and no verdict changed by it: a displaced partner that is "
        "stitched without loss counts as having no excess; a null that lacks some pairs is called incomplete; the spread "
        "shown is that over pairs, not over α as well.",
    ]
    return MyST("\n".join(lines))
