"""Picking rows out of a record, and the order of its layers."""

import re
from collections.abc import Sequence

import pandas as pd

from llfc_book.study.catalogue import EXPERIMENTS

KEYS = ["pair", "site", "alpha", "direction"]
SUFFIXES = ("(pre)", "(raw)")  # features before the activation, and before normalisation


def numbers(
    frame: pd.DataFrame,
    quantity: str,
    role: str = "value",
    kind: str = "",
    suffix: str = "",
    statistics: str = "interpolated",
) -> pd.Series:
    """Means of ``quantity``, indexed by pair, site, alpha, direction; other features than f^(l)
    only where asked.
    """
    chosen = frame.copy(
        deep=False
    )  # one after the other, in ever fewer rows: comparing words is slow
    chosen.attrs = {}  # which pandas would copy, deeply, at every step
    for column, value in (
        ("quantity", quantity),
        ("kind", kind),
        ("role", role),
        ("statistics", statistics),
    ):
        chosen = chosen[chosen[column] == value]
    site = chosen["site"].str
    chosen = chosen[site.endswith(suffix) if suffix else ~site.endswith(SUFFIXES)]
    return chosen.assign(alpha=chosen["alpha"].fillna(-1.0)).set_index(KEYS)["mean"].sort_index()


def recipe_of(frame: pd.DataFrame) -> pd.Series:
    """The recipe of every row."""
    return frame["pair"].map({pair: pair.rpartition("/")[0] for pair in frame["pair"].unique()})


def own(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the recipe that :func:`of` named, else of the experiment's first, the printed
    setting; variants have tables of their own."""
    recipe = frame.attrs.get("recipe", EXPERIMENTS[frame.attrs["experiment"]].recipes[0])
    chosen = frame[recipe_of(frame) == recipe]
    chosen.attrs = {
        **frame.attrs,
        **frame.attrs.get("by_recipe", {}).get(recipe, {}),
    }  # its data and reductions, not the others'
    return chosen


def of(frame: pd.DataFrame, recipe: str) -> pd.DataFrame:
    """The rows of one recipe of an experiment that has several, for a figure or table of its own.
    ValueError if there are none.
    """
    chosen = frame[recipe_of(frame) == recipe]
    if chosen.empty:
        raise ValueError(
            f"the record of {frame.attrs['experiment']!r} has no pair of {recipe!r}; it has"
            f" {sorted(recipe_of(frame).unique())}"
        )
    chosen.attrs = {**frame.attrs, **frame.attrs["by_recipe"][recipe], "recipe": recipe}
    return chosen


def pair_word(frame: pd.DataFrame) -> str:
    """ "spawned" or "matched": how the pairs came together."""
    return "spawned" if set(frame["method"]) <= {"spawning", "none"} else "matched"


def depth(site: str) -> tuple[int, list[int], int]:
    """Sorts names of sites and maps as they lie in the network: "Conv 1" alone is ResNet's first
    layer.
    """
    kind = site.split(" ")[0]
    first = {"Conv": 1, "Block": 1, "FC": 2, "logits": 3}.get(kind, 1)
    if re.fullmatch(r"Conv 1( \(\w+\))?", site):
        first = 0
    place = re.match(r"\w+ (\d+)(?:-(\d+))?", site)
    within = (
        0
        if "inner" in site or "conv 1" in site
        else 1
        if "conv 2" in site
        else 2
        if "shortcut" in site
        else 3
    )
    return first, [int(n) for n in place.groups() if n] if place else [], within


def sites_of(frame: pd.DataFrame, quantity: str, suffix: str = "", inner: bool = True) -> list[str]:
    """The layers at which ``quantity`` was measured, in order of depth; without a block's first
    ReLU if not ``inner``.
    """
    found = numbers(frame, quantity, suffix=suffix).index.get_level_values("site").unique()
    return sorted((site for site in found if inner or " inner" not in site), key=depth)


def at(values: pd.Series, **where: object) -> pd.Series:
    """Those of ``values`` whose index levels have the values given."""
    for level, value in where.items():
        values = values[values.index.get_level_values(level) == value]
    return values


def pairwise(values: pd.Series, sites: Sequence[str], alpha: float | None = None) -> list:
    """The numbers of all pairs at each site (and alpha), an array a site."""
    values = values if alpha is None else at(values, alpha=alpha)
    return [at(values, site=site).to_numpy() for site in sites]
