"""The experiments (``book/data/experiments.toml``), named as in the paper, each a selection of the
rows that the measurement of a pair gives.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass

from llfc_book.places import DATA
from llfc_book.study.parts import part
from llfc_book.study.settings import RECIPES, group
from llfc_lib.metrics.rows import Row
from llfc_lib.metrics.spectra import SHARES

_TOLD = tomllib.loads((DATA / "experiments.toml").read_text())
#: Sets of quantities, by name.
QUANTITIES: dict[str, list[str]] = _TOLD["quantities"]


@dataclass(frozen=True)
class Experiment:
    """``quantities`` are the rows it keeps, a curve ("sigma_W/0.5") by what stands before the
    slash; ``recipes`` those whose pairs enter it. ``parts`` of a pair's measurement that its rows
    come from, where not from all; ``places``: of a curve every so manieth point.
    """

    name: str
    section: str
    title: str
    recipes: tuple[str, ...]
    quantities: frozenset[str]
    parts: tuple[str, ...] = ()
    places: int = 1

    def reads(self, parts: Iterable[str]) -> set[str]:
        """Those of a pair's ``parts`` that its rows come from."""
        return set(parts) & set(self.parts) if self.parts else set(parts) - ALONE

    def keeps(self, row: Row) -> bool:
        """Whether the row belongs to the experiment: one of its quantities, or what a displaced
        partner is, whose own error and size belong beside every number that it gives.
        """
        partner = (
            row.role == "null"
            and row.kind.endswith((" t=1", " matched"))
            and (row.quantity == "t" or row.quantity == "error" and row.alpha == 0)
        )
        quantity, curve, place = row.quantity.partition("/")
        thinned = quantity.startswith("sigma") and curve and self.places > 1
        if thinned and float(place) not in SHARES[:: self.places]:
            return False
        return partner or quantity in self.quantities


def _read(told: dict) -> Experiment:
    """ValueError for a recipe or group that there is not."""
    recipes: list[str] = []
    for name in told["recipes"]:
        found = [name] if name in RECIPES else list(group(name))
        if not found:
            raise ValueError(f"experiment {told['name']!r}: no recipe or group {name!r}")
        recipes += found
    parts = tuple(told.get("parts", ()))
    named = told.get("quantities")
    if named is None:  # all that its parts give
        quantities = frozenset().union(*(part(name).quantities for name in parts))
    else:
        quantities = frozenset(q for name in named for q in QUANTITIES.get(name, [name]))
    own = {key: told[key] for key in ("name", "section", "title")}
    return Experiment(
        **own,
        recipes=tuple(recipes),
        quantities=quantities,
        parts=parts,
        places=told.get("places", 1),
    )


EXPERIMENTS = {told["name"]: _read(told) for told in _TOLD["experiment"]}
#: Parts of a pair's measurement that only the experiments which name them read.
ALONE = frozenset(name for e in EXPERIMENTS.values() for name in e.parts)


def experiment(name: str) -> Experiment:
    """The experiment ``name``. ValueError for an unknown one."""
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; choose one of {list(EXPERIMENTS)}")
    return EXPERIMENTS[name]
