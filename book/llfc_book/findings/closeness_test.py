"""What the page on the decisive experiment says."""

from functools import cache

import numpy as np
import pandas as pd

from llfc_book.claims.predictions import LEAST_PAIRS, compared, curves, partners
from llfc_book.evidence import ALIKE
from llfc_book.findings import Found, finding
from llfc_book.show import closeness_test
from llfc_book.show.prose import between, count, number, percent
from llfc_book.study.settings import recipe

PAGE = "closeness_test"
MLP = "mlp_mnist_spawn"


@cache
def _ratios(kind: str) -> tuple[np.ndarray, float]:
    """rho of the pair over that of ``kind`` at the pair's distance: hidden layers, and logits."""
    cells = compared(curves(closeness_test.of(MLP).rows), "B", kind, least=1)
    whole = {c.site: c.ratio for c in cells if c.size == 1}
    at_logits = whole.pop("logits", np.nan)
    return np.array([*whole.values()]), at_logits


def _told(quantity: str, name: str = MLP) -> pd.Series:
    rows = closeness_test.of(name).rows
    return rows[rows["quantity"] == quantity]["mean"]


@finding(PAGE, "the curves are of enough pairs for intervals")
def pairs() -> Found:
    found = closeness_test.of(MLP).pairs
    return str(found), found >= LEAST_PAIRS


@finding(
    PAGE, "a tuned partner is about as linear in hidden layers, and not less linear at the logits"
)
def tuned() -> Found:
    hidden, at_logits = _ratios("T")
    mean = np.exp(np.log(hidden).mean())
    told = {"tuned_hidden": between(hidden), "tuned_logits": number(at_logits)}
    return told, 1 / ALIKE <= mean <= ALIKE and at_logits > 1 / ALIKE


@finding(PAGE, "units that change places are less linear than the pair")
def sparse_hidden() -> Found:
    hidden, _ = _ratios("P")
    return between(hidden), (hidden < 1).all()


@finding(
    PAGE, "a Gaussian step is more linear at the logits, and not less beyond the margin in layers"
)
def spread_logits() -> Found:
    hidden, at_logits = _ratios("G")
    return number(at_logits), (hidden > 1 / ALIKE).all() and at_logits > 1


@finding(PAGE, "a step of gradient noise is more linear than the pair, and than every other kind")
def noise() -> Found:
    hidden, at_logits = _ratios("N")
    others = [_ratios(kind) for kind in "TG"]
    most = all(hidden.mean() > layers.mean() and at_logits > last for layers, last in others)
    told = {"noise_hidden": between(hidden), "noise_logits": number(at_logits)}
    return told, hidden.min() > 1 and most


@finding(
    PAGE,
    "tuned partners reach the pair's loss in few epochs; at ten times the rate half of them do",
)
def reached() -> Found:
    share, middle = _told("reached"), int(_told("tuned_epochs").median())
    told = {"reached": count(share == 1), "epochs": f"{middle} epoch{'s' * (middle != 1)}"}
    half = 0.4 <= _told("reached", f"{MLP}_lr1.2e-3").mean() <= 0.6
    return told, half and share.mean() > 0.5 and middle < recipe(MLP).epochs / 2


@finding(
    PAGE,
    "most sparse partners are connected, up to a quarter of the units all, and none has LLFC; some"
    " tuned ones lack it; only gradient noise has it unconnected, and errs on most images",
)
def apart() -> Found:
    found = partners(closeness_test.of(MLP).rows)
    sparse, noisy, tuned = (found[found["kind"] == kind] for kind in "PNT")
    alone = found[found["linear"] & ~found["connected"]]
    told = {
        "connected_only": count(sparse["connected"]),
        "tuned_alone": count(~tuned["linear"]),
        "linear_only": f"{len(alone)} of {len(noisy)}",
        "broken": percent(alone["error"]),
    }
    few = sparse[sparse["alpha"] <= 0.25]["connected"].all() and not sparse["linear"].any()
    lacking = tuned["connected"].all() and not tuned["linear"].all()
    return told, few and lacking and set(alone["kind"]) == {"N"} and alone["error"].min() > 0.5


@finding(PAGE, "beside gradient noise, not every cell says that the pair is as linear")
def as_noise() -> Found:
    cells = compared(curves(closeness_test.of(MLP).rows), "B", "N")
    alike = [cell.alike() is True for cell in cells]
    return count(alike), 0 < sum(alike) < len(alike)
