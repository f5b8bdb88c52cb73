"""Tables of chapters A.1 and A.2: constructed examples, computed when the page is, and trained
pairs, from records.
"""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import nn

from llfc_book.appendix.construct import (
    NORMALISED,
    commuting_pair,
    conditions,
    normalised_pair,
    small_images,
    small_networks,
)
from llfc_book.appendix.lemma import Margins, rescaled, tight_pair, without_llfc
from llfc_book.claims.verdicts import NOTHING, spread
from llfc_book.show.prose import number
from llfc_book.show.select import at, numbers, recipe_of
from llfc_book.show.tables import MyST, made_by, table
from llfc_book.study.settings import RECIPES, SPAWN_AT
from llfc_lib.metrics import LLFC, Barrier, Row, measure
from llfc_lib.metrics.decomposition import decompose
from llfc_lib.models import MLP
from llfc_lib.streams import generator, seed_of

ALPHA = 0.3  # of constructed examples: nothing about it is special
ROUNDING = 1e-9  # what is below is rounding; its digits differ between processors
DROPPED = {
    "": "none",
    "commute": "commutativity",
    "signs": "agreement of signs",
    "maximisers": "agreement of maximisers",
}


def plain(value: float) -> str:
    """A small number as a table shows it."""
    return "below 1e-9" if abs(value) < ROUNDING else f"{value:.3g}"


def worst(a: nn.Module, b: nn.Module, x: torch.Tensor, **how: object) -> float:
    """The largest |e| / |f_A - f_B| of any site at alpha = ALPHA, for images ``x`` (N x ...);
    ``how`` as :func:`decompose` takes it.
    """
    return max(
        float(s.residual.norm() / s.difference.norm())
        for s in decompose(a, b, x, ALPHA, **how).values()
    )


def constructed_pairs() -> pd.DataFrame:
    """Theorem 1 on networks built to satisfy its conditions, and with each of them dropped: a line
    a pair.
    """
    lines, x = [], small_images()
    for name, network in small_networks().items():
        for dropped, word in DROPPED.items():
            if dropped != "maximisers" or "pooling" in name:
                a, b = commuting_pair(network, x, **({dropped: False} if dropped else {}))
                now = conditions(a, b, x)
                lines.append(
                    (name, word, now.commutativity, now.signs, now.maximisers, worst(a, b, x))
                )
    return pd.DataFrame(
        lines, columns=["network", "dropped", "commutativity", "signs", "maximisers", "error"]
    )


def constructed(found: pd.DataFrame) -> MyST:
    """:func:`constructed_pairs` as a table."""
    lines = [
        (
            r.network,
            r.dropped,
            plain(r.commutativity),
            f"{100 * r.signs:.3g} %",
            f"{100 * r.maximisers:.3g} %" if "pooling" in r.network else NOTHING,
            plain(r.error),
        )
        for r in found.itertuples()
    ]
    columns = [
        "network",
        "condition dropped",
        r"$\|\Delta W\Delta H\|$, relative",
        "signs differ",
        "windows without a common maximiser",
        r"$\|e\|/\|f_A-f_B\|$, largest",
    ]
    return table(
        pd.DataFrame(lines, columns=columns),
        f"Theorem 1 on constructed pairs, float64, α = {ALPHA:g}, largest value over layers. The"
        " last column is how far the features are from the weighted mean: rounding where no"
        " condition is dropped, and only there.",
        "tbl-constructed",
    )


def normalised_pairs() -> pd.DataFrame:
    """Both conditions hold and linearity fails: batch and layer normalisation, and nothing in their
    place.
    """
    lines, x = [], small_images(40)
    for kind in NORMALISED:
        a, b = normalised_pair(kind, x)
        now = conditions(a, b, x)
        lines.append(
            (kind, now.commutativity, now.signs, worst(a, b, x), worst(a, b, x, calibration=[x]))
        )
    return pd.DataFrame(lines, columns=["kind", "commutativity", "signs", "error", "recomputed"])


def normalised(found: pd.DataFrame) -> MyST:
    """:func:`normalised_pairs` as a table."""
    lines = [
        (
            r.kind,
            plain(r.commutativity),
            f"{100 * r.signs:.3g} %",
            plain(r.error),
            plain(r.recomputed) if "batch" in r.kind else NOTHING,
        )
        for r in found.itertuples()
    ]
    columns = [
        "between linear map and ReLU",
        r"$\|\Delta W\Delta H\|$, relative",
        "signs differ",
        r"$\|e\|/\|f_A-f_B\|$, largest",
        "with statistics recomputed",
    ]
    return table(
        pd.DataFrame(lines, columns=columns),
        "Normalisation is not linear in the weights: both conditions of Theorem 1 hold "
        f"(columns 2 and 3), its conclusion (columns 4 and 5) does not; α = {ALPHA:g}.",
        "tbl-normalisation",
    )


def _curve(rows: list[Row], quantity: str, digits: int = 3) -> list[str]:
    return [
        f"{r.mean:.{digits}f}"
        for r in sorted(
            (r for r in rows if r.quantity == quantity and r.role == "value"), key=lambda r: r.alpha
        )
    ]


def tight() -> MyST:
    """The error between the two networks of :func:`~llfc_book.appendix.lemma.tight_pair`."""
    grid, lines = (0.0, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0), []
    for depth in (2.0, 4.0, 8.0, 20.0):
        a, b, x, y = tight_pair(20, 2, depth)
        rows = measure(a, b, [(x, y)], [Barrier(grid), Margins(), LLFC()])
        bound = next(r.mean for r in rows if r.quantity == "twice_epsilon")
        far = max(
            abs(r.mean)
            for r in rows
            if r.quantity in ("1-cos_alpha", "1-coef_alpha") and r.role == "value"
        )
        lines.append((f"{depth:g}", *_curve(rows, "error", 2), f"{bound:.2f}", plain(far)))
    columns = ["wrong by d =", *(f"α = {alpha:g}" for alpha in grid), "2ε", "LLFC misses by"]
    return table(
        pd.DataFrame(lines, columns=columns),
        "The bound of Lemma 1 attained: error between two networks that satisfy LLFC exactly "
        "and err on images of their own. The larger d, the more columns show 2ε.",
        "tbl-tight",
    )


def base_network(inputs: int = 12) -> MLP:
    """A small perceptron without biases, for examples; float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("base network"))
        network = MLP(inputs, 16, 5).double().eval()
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.bias.data.zero_()
    return network


def base_images(
    network: nn.Module, number: int = 60, inputs: int = 12
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random images, labelled by the network itself but for a tenth."""
    draw = generator("base images")
    x = torch.randn(number, inputs, generator=draw, dtype=torch.float64)
    y = network(x).argmax(1)
    y[::10] = (y[::10] + 1) % 5
    return [(x, y)]


def factor(scale: float = 10.0) -> MyST:
    """LLFC with c below 1: one function, its first two layers rescaled."""
    a = base_network()
    b, images = rescaled(a, scale), base_images(a)
    rows = measure(a, b, images, [LLFC(), Barrier((0.0, 0.25, 0.5, 0.75, 1.0))])
    lines = []
    for site in ("FC 1", "FC 2", "FC 3", "logits"):
        found = {r.alpha: r.mean for r in rows if r.quantity == "set_c" and r.site == site}
        cosine = max(
            r.mean
            for r in rows
            if r.quantity == "1-cos_alpha" and r.site == site and r.role == "value"
        )
        lines.append((site, *(f"{found[alpha]:.3f}" for alpha in (0.25, 0.5, 0.75)), plain(cosine)))
    lines.append(
        (
            "by the formula, FC 2 on",
            *(
                f"{1 / ((k + (1 - k) * scale) * (k + (1 - k) / scale)):.3f}"
                for k in (0.25, 0.5, 0.75)
            ),
            NOTHING,
        )
    )
    columns = ["layer", "c at α = 0.25", "0.5", "0.75", r"largest $1-\cos_\alpha$"]
    return table(
        pd.DataFrame(lines, columns=columns),
        f"LLFC holds exactly with c below 1: the same function, its first layer {scale:g} times as"
        " large. The last line is the formula, the lines above are measured.",
        "tbl-factor",
    )


def pair_without_llfc() -> pd.DataFrame:
    """Linear connectivity without LLFC: by site the ratio at alpha .5 and what the nearest endpoint
    would give; and the barriers.
    """
    network = base_network()
    a, b = without_llfc(network)
    rows = measure(a, b, base_images(network), [LLFC(), Barrier((0.0, 0.25, 0.5, 0.75, 1.0))])
    ratio, nearest = (
        {
            r.site: r.mean
            for r in rows
            if r.quantity == "cos_ratio" and r.alpha == 0.5 and r.role == role
        }
        for role in ("value", "null")
    )
    barriers = [
        (q.replace("_", " "), next(r.mean for r in rows if r.quantity == q), None)
        for q in ("error_barrier", "loss_barrier")
    ]
    return pd.DataFrame(
        [*((site, ratio[site], nearest[site]) for site in ratio), *barriers],
        columns=["what", "value", "nearest"],
    )


def no_llfc(found: pd.DataFrame) -> MyST:
    """:func:`pair_without_llfc` as a table."""
    lines = [
        (r.what, plain(r.value), NOTHING if pd.isna(r.nearest) else plain(r.nearest))
        for r in found.itertuples()
    ]
    columns = [
        "",
        r"$(1-\cos_\alpha)/(1-\cos_{AB})$ at α = 0.5",
        "what the nearest endpoint would give",
    ]
    return table(
        pd.DataFrame(lines, columns=columns),
        "Linearly connected without any barrier, and LLFC fails at every layer: where it held, the"
        " first column would be 0, and the network half-way is worse than either end would be in"
        " its place.",
        "tbl-no-llfc",
    )


def recipes_in(frame: pd.DataFrame, spawned_at: bool = False) -> list[str]:
    """The recipes of a record in the order of the book; those that ask when to spawn only where
    ``spawned_at``.
    """
    present = set(recipe_of(frame))
    return [name for name in RECIPES if name in present and (spawned_at or name not in SPAWN_AT)]


def title(name: str) -> str:
    """What the book calls the recipe."""
    return RECIPES[name].title


def control_of(name: str) -> str:
    """What the pair is held against: itself before matching, or two networks of other
    initialisations.
    """
    return "unmatched" if RECIPES[name].matching else "independent"


def left_open(
    rows: pd.DataFrame, role: str = "value", kind: str = "", alpha: float = 0.5
) -> pd.Series:
    """Percent of the images that A and B both get right, which the margin argument (chapter A.1)
    does not certify with the best c.

    A number a pair; empty where ``rows``, of one recipe, have no such partner.
    """
    wrong = numbers(rows, "error_either", role, kind).groupby("pair").mean()
    missed = (
        at(numbers(rows, "not_certified_scaled", role, kind), alpha=alpha).groupby("pair").mean()
    )
    return 100 * (missed - wrong) / (1 - wrong)


def lemma(frame: pd.DataFrame, label: str = "tbl-lemma", alpha: float = 0.5) -> MyST:
    """Lemma 1 on the book's pairs: its bound, what the margin certifies, the error that there is;
    in percent.
    """
    lines = []
    for name in recipes_in(frame):
        rows = frame[recipe_of(frame) == name]
        for role, kind, word in (
            ("value", "", ""),
            (
                "control",
                control_of(name),
                {"unmatched": "before matching", "independent": "independent"}[control_of(name)],
            ),
            ("null", "rotation matched", "displaced at random"),
        ):
            found = {
                q: 100 * numbers(rows, q, role, kind) for q in ("twice_epsilon", "error_either")
            }
            between = {
                q: 100 * at(numbers(rows, q, role, kind), alpha=alpha)
                for q in ("error_between", "not_certified", "not_certified_scaled")
            }
            if between["error_between"].empty:
                continue
            lines.append(
                (
                    f"… {word}" if word else title(name),
                    *(spread(v) for v in (*found.values(), *between.values())[:-1]),
                    (
                        f"{spread(between['not_certified_scaled'])}"
                        f" ({number(left_open(rows, role, kind, alpha).mean())})"
                    ),
                )
            )
    columns = [
        "pair … or its partners",
        "2ε",
        "A or B wrong",
        "error between",
        "not certified, c = 1",
        "not certified, best c (of those both get right)",
    ]
    return table(
        pd.DataFrame(lines, columns=columns),
        f"Lemma 1 on trained pairs at α = {alpha:g}, percent of the test images: mean ± standard"
        " deviation over pairs. Compare the error between with 2ε, the lemma's bound, and with"
        " what the margin argument does not certify: its bound, with c = 1 and with the best c of"
        f" each image. {made_by(frame)}",
        label,
    )


def lemma_numbers(frame: pd.DataFrame, name: str, alpha: float = 0.5) -> Mapping[str, pd.Series]:
    """What a sentence about recipe ``name`` may say: fractions, a number a pair."""
    rows = frame[recipe_of(frame) == name]
    return {
        q: (
            at(numbers(rows, q), alpha=alpha)
            if q not in ("twice_epsilon", "error_either")
            else numbers(rows, q)
        )
        for q in (
            "twice_epsilon",
            "error_either",
            "error_between",
            "error_mean_logits",
            "not_certified",
            "not_certified_scaled",
        )
    }
