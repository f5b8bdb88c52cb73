"""What the page on the decisive experiment says."""

import math
from functools import cache

import numpy as np
import pandas as pd

from llfc_book.claims.predictions import LEAST_PAIRS, MARGIN, Cell, compared, curves
from llfc_book.findings import finding
from llfc_book.show import closeness_test
from llfc_book.show.prose import between, number
from llfc_book.study.settings import recipe

PAGE = "closeness_test"
MLP = "mlp_mnist_spawn"


@cache
def _points() -> pd.DataFrame:
    return curves(closeness_test.of(MLP).rows)


@cache
def _whole_steps(kind: str) -> list[Cell]:
    """B against ``kind`` at B's own distance, site by site."""
    return [c for c in compared(_points(), "B", kind, least=1) if c.size == 1]


def _hidden(kind: str) -> np.ndarray:
    return np.array([c.ratio for c in _whole_steps(kind) if c.site != "logits"])


def _logits(kind: str) -> float:
    return next(c.ratio for c in _whole_steps(kind) if c.site == "logits")


@finding(PAGE, "the curves are of enough pairs for intervals")
def pairs() -> tuple[str, bool]:
    count = closeness_test.of(MLP).pairs
    return str(count), count >= LEAST_PAIRS


@finding(PAGE, "in hidden layers the pair is as linear as a tuned partner, on the average")
def tuned_hidden() -> tuple[str, bool]:
    found = _hidden("T")
    mean = math.exp(np.log(found).mean())
    return between(found), 1 / MARGIN <= mean <= MARGIN


@finding(PAGE, "a tuned partner is not less linear than the pair beyond the margin at the logits")
def tuned_logits() -> tuple[str, bool]:
    return number(_logits("T")), _logits("T") > 1 / MARGIN


@finding(PAGE, "units that change places are less linear than the pair")
def sparse_hidden() -> tuple[str, bool]:
    found = _hidden("P")
    return between(found), bool((found < 1).all())


@finding(PAGE, "at the logits a Gaussian step is more linear than the pair")
def spread_logits() -> tuple[str, bool]:
    return number(_logits("G")), _logits("G") > 1


@finding(
    PAGE, "in hidden layers the pair is not more linear than a Gaussian step beyond the margin"
)
def spread_hidden() -> tuple[str, bool]:
    found = _hidden("G")
    return between(found), bool((found > 1 / MARGIN).all())


@finding(PAGE, "tuned partners reach the pair's training loss")
def reached() -> tuple[str, bool]:
    rows = closeness_test.of(MLP).rows
    share = rows[rows["quantity"] == "reached"]["mean"]
    return f"{int(share.sum())} of {len(share)}", share.mean() > 0.5


@finding(PAGE, "tuning takes few epochs beside training")
def epochs() -> tuple[str, bool]:
    rows = closeness_test.of(MLP).rows
    found = rows[rows["quantity"] == "tuned_epochs"]["mean"]
    middle = int(found.median())
    return f"{middle} epoch{'s' * (middle != 1)}", middle < recipe(MLP).epochs / 2
