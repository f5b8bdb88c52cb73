"""Figures of A.3: where the two matchings end, and its derivation checked line by line."""

from functools import cache

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.appendix import assignment, hardness, identities
from llfc_book.appendix.identities import Layer
from llfc_book.evidence import Measured
from llfc_book.show import style
from llfc_book.show.style import LOOKS, Shown, span
from llfc_book.show.text import MyST, folded, table
from llfc_book.study.assignment import tiny_draws, trained_layers
from llfc_lib.data import load

MATCHINGS = ("activation", "weight")
SIZES = ("4", "6", "8", "4 and 4", "5 and 5")  # units of the hidden layers, of tiny networks
EXACT = 1e-12  # below this a deviation is rounding, which differs between processors
DRAWS = 30


def tiny() -> Measured:
    """The record of networks so small that all their permutations were tried. LookupError where
    there is none.
    """
    found = [m for m in ev.measured("over_minimum", record="joint") if m.scale != "proxy"]
    if not found:
        raise LookupError("no record of tiny networks beside all their permutations")
    return found[0]


def of_size(quantity: str, kind: str, size: str, state: str = "trained") -> np.ndarray:
    """``quantity`` of the tiny networks of one size under the order that ``kind`` gives, a number a
    run of a hundred draws.
    """
    role = "null" if kind == "random order" else "value"
    values = tiny().of(quantity, role, kind)
    sites = values.index.get_level_values("site")
    return values[sites == f"{size} units, {state}"].to_numpy()


def over_minimum(kind: str, size: str, state: str = "trained", quantile: float = 0.5) -> np.ndarray:
    """A quantile over draws of sqrt(R) over its minimum, a number a run. Quantiles of R itself are
    on record, and the root keeps their order.
    """
    return of_size(f"over_minimum/{quantile:g}", kind, size, state) ** 0.5


def minimum() -> Shown:
    """Where matchings and random orders end, as multiples of the least sqrt(R).

    Source: the objective of A.3.
    """
    figure, axes = style.sheet(2, height=3.1, share_y=True)
    kinds = {"random order": ("chance", "a random order"), **{k: (k, None) for k in MATCHINGS}}
    told = []
    for axis, state in zip(axes, ("trained", "untrained")):
        for k, (kind, (what, label)) in enumerate(kinds.items()):
            shift, places = 0.24 * (k - 1), range(len(SIZES))
            low, middle, high = (
                [over_minimum(kind, size, state, q) for size in SIZES] for q in (0.1, 0.5, 0.9)
            )
            ends = [g.mean() for g in low], [g.mean() for g in high]
            bar = {"color": LOOKS[what].colour, "linewidth": 2.5, "alpha": 0.35}
            axis.vlines([x + shift for x in places], *ends, **bar)
            style.dots(axis, places, middle, what, shift, label=label)
            told.append(f"{state}, {kind} {span([g.mean() for g in middle])}")
        axis.axhline(1, color="black", linewidth=0.7, linestyle=":")
        axis.set_yscale("log")
        axis.set_yticks((1, 1.2, 1.5, 2, 2.5))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        axis.set_xticks(range(len(SIZES)), [size.replace(" and ", " + ") for size in SIZES])
        axis.set_xlabel("hidden units")
        axis.grid(axis="x", visible=False)
        style.title(axis, state)
    axes[0].set_ylabel("√R over its minimum")
    style.legend(figure, axes)
    alt = "The square root of R over its minimum among all permutations, median of draws: "
    return Shown(figure, alt + "; ".join(told) + ".")


def wide() -> list[Measured]:
    """Trained perceptrons of full width, matched in every way."""
    found = ev.measured("residual_share", record="joint")
    return [m for m in found if m.scale != "proxy"]


def share(m: Measured, quantity: str, kind: str) -> np.ndarray:
    """The square root of ``quantity`` as a share of that before matching, a number a pair."""
    role = "null" if kind == "random order" else "value"
    return m.of(f"{quantity}_share", role, kind).sort_index().to_numpy() ** 0.5


def factors() -> Shown:
    """What both matchings leave of R and of its factors.

    Source: the objective of A.3; what each matching minimises is Ainsworth et al.'s.
    """
    settings = wide()
    figure, axes = style.sheet(3, height=2.9, share_y=True)
    panels = {"residual": "√R", "factor_features": "|ΔH|", "factor_weights": "|ΔW|"}
    kinds = {"random order": "chance", **{k: k for k in MATCHINGS}, "local search": "search"}
    told = []
    for axis, (quantity, head) in zip(axes, panels.items()):
        for k, (kind, what) in enumerate(kinds.items()):
            groups = [share(m, quantity, kind) for m in settings]
            label = "a random order" if what == "chance" else None
            style.dots(axis, range(len(settings)), groups, what, 0.18 * (k - 1.5), label=label)
            told.append(f"{head}, {kind} {span([g.mean() for g in groups])}")
        names = [ev.DATA[m.setting.data] for m in settings]
        axis.set_xticks(range(len(settings)), names)
        axis.set_xlim(-0.5, len(settings) - 0.5)
        axis.set_ylim(0, 1.08)
        axis.grid(axis="x", visible=False)
        style.title(axis, head)
    axes[0].set_ylabel("share of that before matching")
    style.legend(figure, axes)
    return Shown(figure, "Shares of the values before matching: " + "; ".join(told) + ".")


# The derivation, checked now


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


def coupled() -> np.ndarray:
    """By draw, the share of R's variance over all permutations that no sum of functions of single
    layers explains.
    """
    terms = (assignment.enumerate_terms(layers) for layers in draws())
    return np.array([assignment.interaction_share(t.objective) for t in terms])


@cache
def steps() -> pd.DataFrame:
    """How far both sides of every step of A.3 are apart (:func:`identities.deviations`), on
    Gaussian matrices and on the shipped perceptrons.
    """
    cases = {}
    for name, layers, number in (
        ("random", identities.random_layers((5, 6, 7, 4, 3), 20, "chapter"), 6),
        ("trained", trained_layers(images=100), 3),
    ):
        orders = [identities.random_orders(layers, name, k) for k in range(number)]
        cases[name] = (layers, orders)
    return identities.deviations(cases)


@cache
def reduction() -> pd.DataFrame:
    """The reduction against brute force (:func:`hardness.verified`), a row a graph: all of three to
    five vertices.
    """
    every = [graph for n in (3, 4, 5) for graph in hardness.graphs(n)]
    return pd.DataFrame([hardness.verified(graph) for graph in every])


def checks() -> MyST:
    """Every step of the derivation evaluated on both sides, and the reduction against a search
    through all cycles; folded.
    """
    lines = [
        (
            one.step,
            "the same, corrected" if one.corrected else one.done,
            "up to a constant" if one.up_to_constant else "equal",
            *("below 1e-12" if x < EXACT else f"{x:.2g}" for x in (one.random, one.trained)),
        )
        for one in steps().itertuples()
    ]
    columns = ["step", "what is done", "sides", "deviation, random", "deviation, trained"]
    derived = table(
        pd.DataFrame(lines, columns=columns),
        "Every step of A.3 on both sides: the largest difference over the largest left side, on"
        " random matrices and on trained perceptrons. O: the objective; F, S: its first and second"
        " term; C: the cross term. Only O2 fails as printed.",
        "tbl-a3-identities",
    )
    lines = [
        (
            f"{n:.0f}",
            len(of),
            (of["missing"] == 0).sum(),
            (of["excess"].abs() < EXACT).sum(),
            ((of["excess"] - 2 * of["missing"]).abs() < EXACT).sum(),
        )
        for n, of in reduction().groupby("n")
    ]
    columns = [
        "vertices",
        "graphs",
        "with a Hamiltonian cycle",
        "least R at the threshold",
        "excess twice the missing edges",
    ]
    hard = table(
        pd.DataFrame(lines, columns=columns),
        "The reduction on every graph up to isomorphism: the least R of all permutations against a"
        " search through all cycles. Columns 3 and 4 must agree, and 2 and 5.",
        "tbl-a3-reduction",
    )
    printed = steps()[~steps()["corrected"]]
    right = (printed[["random", "trained"]].max(axis=1) < EXACT).sum()
    head = f"{right} of {len(printed)} steps as printed and {len(reduction())} graphs, checked now"
    return folded(head, derived, hard)
