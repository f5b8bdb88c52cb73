"""The experiments (``book/data/experiments.toml``), named as in the paper, each a selection of the
rows that the measurement of a pair gives.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass

from llfc_book.places import DATA
from llfc_book.study.settings import RECIPES, group
from llfc_lib.metrics.rows import Row
from llfc_lib.metrics.spectra import SHARES

_TOLD = tomllib.loads((DATA / "experiments.toml").read_text())
#: Sets of quantities, by name.
QUANTITIES: dict[str, list[str]] = _TOLD["quantities"]


@dataclass(frozen=True)
class Experiment:
    """``quantities`` are the rows it keeps, a curve ("sigma_W/0.5") by what stands before the
    slash; ``recipes`` those whose pairs enter it, ``parts`` of a pair's measurement those that its
    rows come from; ``places``: of a curve every so manieth point.
    """

    name: str
    section: str
    title: str
    recipes: tuple[str, ...]
    quantities: frozenset[str]
    parts: tuple[str, ...] = ("match", "pair")
    places: int = 1

    def reads(self, parts: Iterable[str]) -> list[str]:
        """Those of a pair's ``parts`` that its rows come from, in their order."""
        return [name for name in parts if name in self.parts]

    def keeps(self, row: Row) -> bool:
        """Whether the row belongs to the experiment."""
        quantity, curve, place = row.quantity.partition("/")
        thinned = quantity.startswith("sigma") and curve and self.places > 1
        if thinned and float(place) not in SHARES[:: self.places]:
            return False
        return quantity in self.quantities


def _read(told: dict) -> Experiment:
    """ValueError for a recipe or group that there is not."""
    recipes: list[str] = []
    for name in told["recipes"]:
        found = [name] if name in RECIPES else list(group(name))
        if not found:
            raise ValueError(f"experiment {told['name']!r}: no recipe or group {name!r}")
        recipes += found
    quantities = frozenset(q for name in told["quantities"] for q in QUANTITIES.get(name, [name]))
    parts = {"parts": tuple(told["parts"])} if "parts" in told else {}
    return Experiment(**{**told, "recipes": tuple(recipes), "quantities": quantities, **parts})


EXPERIMENTS = {told["name"]: _read(told) for told in _TOLD["experiment"]}


def experiment(name: str) -> Experiment:
    """The experiment ``name``. ValueError for an unknown one."""
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; choose one of {list(EXPERIMENTS)}")
    return EXPERIMENTS[name]
