"""A.3: where the two matchings end, and its derivation checked line by line."""

from functools import cache

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.appendix import assignment, hardness, identities
from llfc_book.appendix.identities import Layer
from llfc_book.evidence import Measured
from llfc_book.show import style
from llfc_book.show.style import Series, Shown
from llfc_book.study.assignment import tiny_draws, trained_layers
from llfc_lib.data import load

MATCHINGS = ("activation", "weight")
#: Orders that are compared: how each looks, and what it is called.
KINDS = {"random order": ("chance", "a random order"), **{k: (k, "") for k in MATCHINGS}}
SIZES = ("4", "6", "8", "4 and 4", "5 and 5")  # units of the hidden layers, of tiny networks
EXACT = 1e-12  # below this a deviation is rounding, which differs between processors
DRAWS = 30


def of_size(quantity: str, kind: str, size: str, state: str = "trained") -> np.ndarray:
    """``quantity`` of networks so small that all their permutations were tried, under the order
    that ``kind`` gives: a number a run of a hundred draws.
    """
    (tiny,) = ev.measured("over_minimum", record="joint")
    values = tiny.of(quantity, "null" if kind == "random order" else "value", kind)
    return values.xs(f"{size} units, {state}", level="site").to_numpy()


def over_minimum(kind: str, size: str, state: str = "trained", quantile: float = 0.5) -> np.ndarray:
    """A quantile over draws of sqrt(R) over its minimum, a number a run. Quantiles of R itself are
    on record, and the root keeps their order.
    """
    return of_size(f"over_minimum/{quantile:g}", kind, size, state) ** 0.5


def minimum() -> Shown:
    """Where matchings and random orders end, as multiples of the least sqrt(R)."""
    figure, axes = style.sheet(2, height=3.1, share="y")
    told = []
    for axis, state in zip(axes, ("trained", "untrained")):
        series = []
        for kind, (what, label) in KINDS.items():
            low, middle, high = (
                [over_minimum(kind, size, state, quantile) for size in SIZES]
                for quantile in (0.1, 0.5, 0.9)
            )
            limits = [np.column_stack(ends) for ends in zip(low, high)]
            series.append(Series(what, middle, label, limits=limits))
        sizes = [size.replace(" and ", " + ") for size in SIZES]
        told.append(style.panel(axis, sizes, series, state, "√R over its minimum", 1, apart=0.25))
        axis.set_xlabel("hidden units")
    return style.shown(figure, "Square root of R over its minimum among all permutations", told)


def wide() -> list[Measured]:
    """Trained perceptrons of full width, matched in every way."""
    return ev.measured("residual_share", record="joint")


def share(m: Measured, quantity: str, kind: str) -> np.ndarray:
    """The square root of ``quantity`` as a share of that before matching, a number a pair."""
    role = "null" if kind == "random order" else "value"
    return m.of(f"{quantity}_share", role, kind).sort_index().to_numpy() ** 0.5


def factors() -> Shown:
    """What both matchings leave of R and of its factors."""
    figure, axes = style.sheet(3, height=2.9, share="y")
    panels = {"residual": "√R", "factor_features": "|ΔH|", "factor_weights": "|ΔW|"}
    names = [f"{ev.DATA[m.setting.data]}\n({m.scale})" for m in wide()]
    told = []
    for axis, (quantity, head) in zip(axes, panels.items()):
        series = [
            Series(what, [share(m, quantity, kind) for m in wide()], label)
            for kind, (what, label) in {**KINDS, "local search": ("search", "")}.items()
        ]
        told.append(style.panel(axis, names, series, head, "share of that before matching"))
        axis.set_ylim(0, 1.08)
    return style.shown(figure, "Shares of the values before matching", told)


# the derivation, checked now


@cache
def draws() -> list[list[Layer]]:
    """Pairs of tiny perceptrons with two hidden layers of four units, trained on scikit-learn's
    digits.
    """
    return tiny_draws(load("digits", normalise="pixels in [0, 1]"), (4, 4), DRAWS, 100)


@cache
def ends() -> pd.DataFrame:
    """sqrt(R) over its minimum where something else is minimised: a row a draw, a column for each
    of MINIMISED.
    """
    found = assignment.consequences(draws(), "trained")
    return found.pivot(index="draw", columns="minimised", values="over") ** 0.5


@cache
def steps() -> pd.DataFrame:
    """How far both sides of every step of A.3 are apart (:func:`identities.deviations`), on
    Gaussian matrices and on the shipped perceptrons.
    """
    cases = {
        name: (layers, [identities.random_orders(layers, name, k) for k in range(count)])
        for name, layers, count in (
            ("random", identities.random_layers((5, 6, 7, 4, 3), 20, "chapter"), 6),
            ("trained", trained_layers(images=100), 3),
        )
    }
    return identities.deviations(cases)


@cache
def reduction() -> pd.DataFrame:
    """The reduction against brute force (:func:`hardness.verified`), a row a graph: all of three to
    five vertices.
    """
    every = [graph for n in (3, 4, 5) for graph in hardness.graphs(n)]
    return pd.DataFrame([hardness.verified(graph) for graph in every])
