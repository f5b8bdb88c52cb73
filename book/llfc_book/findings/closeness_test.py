"""What the page on the decisive experiment says."""

from functools import cache

import numpy as np
import pandas as pd

from llfc_book.claims.predictions import LEAST_PAIRS, compared, curves, partners
from llfc_book.evidence import ALIKE
from llfc_book.findings import Found, finding
from llfc_book.show import closeness_test
from llfc_book.show.prose import between, count, number
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


def _told(quantity: str) -> pd.Series:
    rows = closeness_test.of(MLP).rows
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
def spread() -> Found:
    hidden, at_logits = _ratios("G")
    told = {"spread_hidden": between(hidden), "spread_logits": number(at_logits)}
    return told, (hidden > 1 / ALIKE).all() and at_logits > 1


@finding(PAGE, "a step of gradient noise is more linear than the pair, and than every other kind")
def noise() -> Found:
    hidden, at_logits = _ratios("N")
    others = [_ratios(kind) for kind in "TG"]
    most = all(hidden.mean() > layers.mean() and at_logits > last for layers, last in others)
    told = {"noise_hidden": between(hidden), "noise_logits": number(at_logits)}
    return told, hidden.min() > 1 and most


@finding(PAGE, "tuned partners reach the pair's training loss, in few epochs beside training")
def reached() -> Found:
    share, middle = _told("reached"), int(_told("tuned_epochs").median())
    told = {"reached": count(share == 1), "epochs": f"{middle} epoch{'s' * (middle != 1)}"}
    return told, share.mean() > 0.5 and middle < recipe(MLP).epochs / 2


@finding(
    PAGE,
    "most sparse partners are connected, and none has LLFC; only gradient noise has it without"
    " being connected",
)
def apart() -> Found:
    found = partners(closeness_test.of(MLP).rows)
    sparse, noisy = (found[found["kind"] == kind] for kind in "PN")
    alone = found["linear"] & ~found["connected"]
    told = {
        "connected_only": count(sparse["connected"]),
        "linear_only": count(alone[noisy.index]),
    }
    holds = sparse["connected"].mean() > 0.5 and not sparse["linear"].any()
    return told, holds and alone.sum() == alone[noisy.index].sum() > 0
