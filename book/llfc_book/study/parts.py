"""What is measured of a pair, part by part. A part is a function of a :class:`Pair` that registers
itself with its version and the networks that it looks at.

A new one is one file in :mod:`llfc_book.study.measures` with one registration, and its name in the
plans (``book/data/study.toml``) whose pairs it measures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from llfc_book.study.pairs import Pair
from llfc_book.study.settings import Setting
from llfc_lib.metrics import Row

Measure = Callable[[Pair], list[Row]]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Part:
    """``version``: raised when a metric, null or control in it would give other numbers; a finished
    one is then measured again.

    ``members`` are the networks it looks at. ``order``: whether it looks at B in the order that the
    setting's matching found ("own"), needs those of all methods beside it ("every"), or takes B as
    it was trained (""). ``settings`` is what its numbers depend on beyond the plan, ``live`` a
    shorter form of it for a page that measures now.
    """

    name: str
    measure: Measure
    version: int = 1
    members: tuple[str, ...] = ("A", "B")
    order: str = "own"
    settings: Callable[[Setting], dict[str, Any]] = lambda setting: {}
    live: Measure | None = None


PARTS: dict[str, Part] = {}


def register(name: str, **told: Any) -> Callable[[Function], Function]:
    """Enter the function below as the part ``name``; ``told`` are fields of :class:`Part`.
    ValueError for a name that is taken.
    """

    def enter(function: Function) -> Function:
        if name in PARTS:
            raise ValueError(f"there is a part {name!r} already")
        PARTS[name] = Part(name, function, **told)
        return function

    return enter


def part(name: str) -> Part:
    """The part of this name. ValueError, with the names that there are, for another."""
    import llfc_book.study.measures  # noqa: F401  (its modules register the parts)

    if name not in PARTS:
        raise ValueError(f"unknown part {name!r}; choose one of {list(PARTS)}")
    return PARTS[name]


def versions(names: Sequence[str]) -> dict[str, int]:
    """The versions of these parts, as a record tells them."""
    return {name: part(name).version for name in names}
