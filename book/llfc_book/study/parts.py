"""What is measured of a pair, part by part. A part is a function of a :class:`Pair` that registers
itself with its version, what it needs, which networks it looks at and what it costs.

A new one is one file in :mod:`llfc_book.study.measures` with one registration, and its name in the
plans (``book/data/study.toml``) whose pairs it measures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from llfc_book.study.pairs import Pair
from llfc_book.study.settings import Setting
from llfc_lib.data import Dataset
from llfc_lib.metrics import Row
from llfc_lib.metrics.measure import Metric

Measure = Callable[[Pair], list[Row]]
Function = TypeVar("Function", bound=Callable[..., Any])


def whole_test_set(setting: Setting, data: Dataset) -> float:
    """The images of some forty forward passes over the test set, as a cost."""
    return 40.0 * len(data.y_test)


def nothing(setting: Setting) -> dict[str, Any]:
    """For a part whose numbers depend on nothing beyond the plan."""
    return {}


@dataclass(frozen=True)
class Part:
    """``version``: raised when a metric, null or control in it would give other numbers; a finished
    one is then measured again. ``version_name`` is what records call it by.

    ``members`` are the networks it looks at, ``ordered`` whether it wants B in the order that a
    matching found, ``of_every_method`` that it sets the orders of all methods side by side, and
    ``needs_epochs`` whether it looks at networks on their way. ``leads``: records begin with it;
    others join them. ``live`` is a shorter form of it for a page that measures now. ``work`` is its
    cost in forward passes of one image, ``settings`` what its numbers depend on beyond the plan.

    ``covers`` names the part, and the version of it, whose rows hold this one's ``quantities``: a
    finer part is not measured again where that is finished. ``metrics``, if there are any, are
    measured in one pass over the pair and its controls, which all parts share that are due.
    """

    name: str
    measure: Measure | None
    version: int = 1
    version_name: str = ""
    members: tuple[str, ...] = ("A", "B")
    ordered: bool = True
    of_every_method: bool = False
    needs_epochs: bool = False
    leads: bool = False
    live: Measure | None = None
    work: Callable[[Setting, Dataset], float] = whole_test_set
    settings: Callable[[Setting], dict[str, Any]] = nothing
    covers: tuple[str, int] | None = None
    metrics: Callable[[Setting], Sequence[Metric]] | None = None
    quantities: frozenset[str] = frozenset()

    @property
    def version_key(self) -> str:
        """What its version goes by in a record."""
        return self.version_name or self.name

    def stood_in_for(self) -> "Part | None":
        """The part whose finished rows hold this one's, if it is still of the version that does."""
        if self.covers is None:
            return None
        other = part(self.covers[0])
        return other if other.version == self.covers[1] else None


PARTS: dict[str, Part] = {}


def register(name: str, **told: Any) -> Callable[[Function], Function]:
    """Enter the function below as the part ``name``; ``told`` are fields of :class:`Part`.

    ValueError for a name that is taken.
    """

    def enter(function: Function) -> Function:
        add(Part(name, function, **told))
        return function

    return enter


def add(new: Part) -> Part:
    """Enter a part; :func:`register` for one without a function of its own. ValueError for a name
    that is taken.
    """
    if new.name in PARTS:
        raise ValueError(f"there is a part {new.name!r} already")
    PARTS[new.name] = new
    return new


def part(name: str) -> Part:
    """The part of this name. ValueError, with the names that there are, for another."""
    import llfc_book.study.measures  # noqa: F401  (its modules register the parts)

    if name not in PARTS:
        raise ValueError(f"unknown part {name!r}; choose one of {list(PARTS)}")
    return PARTS[name]


def in_one_pass(names: Sequence[str]) -> list[str]:
    """Those of the parts whose metrics are measured in the pass that they share."""
    return [name for name in names if part(name).metrics is not None]


def rows_of(name: str, rows: Sequence[Row]) -> list[Row]:
    """Those of a pass, or of a part that stands in for it, that are the part's own."""
    return [row for row in rows if row.quantity in part(name).quantities]


def versions(names: Sequence[str]) -> Mapping[str, int]:
    """By the names of records, the versions of these parts."""
    return {part(name).version_key: part(name).version for name in names}
