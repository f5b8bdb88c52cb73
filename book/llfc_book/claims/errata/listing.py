"""Slips in the appendix, and everything else that it prints: each with a check that is computed
when the page is made.

:data:`ERRATA` holds what does not hold as printed, :data:`STANDING` what does. A check that comes
out the other way raises
:class:`Mistaken`, so neither list can claim what the numbers do not show. Citations are repository,
commit, file and line.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from llfc_book.show.tables import MyST, table

KINDS = ("formula", "reference", "setting", "wording")
SECTIONS = ("A.1", "A.2", "A.3", "B.1", "B.2", "B.3", "B.4", "B.5", "throughout")


class Mistaken(AssertionError):
    """A check says the opposite of the list that it stands in."""


@dataclass(frozen=True)
class Evidence:
    """What a check found: does the printed form hold, in numbers, and does the corrected one (None:
    nothing to compute)?
    """

    holds_as_printed: bool
    numbers: str
    holds_corrected: bool | None = None


@dataclass(frozen=True)
class Erratum:
    """One slip. ``slip``, ``found_by`` and ``correction`` are MyST text; ``chapter`` is the page
    that shows it.
    """

    id: str
    section: str
    kind: str
    printed: str
    slip: str
    found_by: str
    check: Callable[[], Evidence]
    correction: str
    chapter: str


@dataclass(frozen=True)
class Standing:
    """Something printed that holds."""

    id: str
    section: str
    printed: str
    check: Callable[[], Evidence]
    chapter: str


ERRATA: list[Erratum] = []
STANDING: list[Standing] = []
Check = Callable[[], Evidence]


def erratum(
    section: str,
    kind: str,
    chapter: str,
    *,
    printed: str,
    slip: str,
    found_by: str,
    correction: str,
) -> Callable[[Check], Check]:
    """The function below is the check of this erratum, and its name is the id."""

    def enter(check: Check) -> Check:
        ERRATA.append(
            Erratum(
                check.__name__, section, kind, printed, slip, found_by, check, correction, chapter
            )
        )
        return check

    return enter


def standing(section: str, chapter: str, printed: str) -> Callable[[Check], Check]:
    """Like :func:`erratum`, for what stands as printed."""

    def enter(check: Check) -> Check:
        STANDING.append(Standing(check.__name__, section, printed, check, chapter))
        return check

    return enter


def confirm(item: Erratum | Standing) -> Evidence:
    """Run the check. Mistaken if an erratum holds as printed, a correction fails, or what should
    stand does not.
    """
    found = item.check()
    if isinstance(item, Erratum) and (found.holds_as_printed or found.holds_corrected is False):
        raise Mistaken(
            f"erratum {item.id!r}:"
            f" {'it holds as printed' if found.holds_as_printed else 'the correction fails'}"
            f" ({found.numbers})"
        )
    if isinstance(item, Standing) and not found.holds_as_printed:
        raise Mistaken(f"{item.id!r} does not hold as printed ({found.numbers})")
    return found


def errata_table(section: str) -> MyST:
    """The errata of one section, their checks run now."""
    rows = [
        (
            e.printed,
            f"{e.slip} *({e.kind})*",
            f"{e.found_by} **Now:** {confirm(e).numbers.rstrip(chr(46))}.",
            _with_link(e),
        )
        for e in ERRATA
        if e.section == section
    ]
    columns = [
        "printed",
        "the slip",
        "how it was found, and what the check gives now",
        "correction",
    ]
    title = "Slips throughout the appendix." if section == "throughout" else f"Slips in {section}."
    return table(
        pd.DataFrame(rows, columns=columns), title, f"tbl-errata-{section.replace('.', '').lower()}"
    )


def standing_table() -> MyST:
    """Everything that was checked and found right, in the order of the appendix."""
    rows = [
        (s.section, s.printed, confirm(s).numbers, _link(s.chapter))
        for s in sorted(STANDING, key=lambda s: SECTIONS.index(s.section))
    ]
    return table(
        pd.DataFrame(rows, columns=["section", "printed", "numbers, computed now", "see"]),
        "Checked and found right.",
        "tbl-standing",
    )


def counts() -> MyST:
    """How many slips of each kind and how many checks that came out right, by section."""
    rows = []
    for section in (*SECTIONS, "all"):
        kinds = [e.kind for e in ERRATA if section in (e.section, "all")]
        rows.append(
            (
                section,
                *(kinds.count(kind) for kind in KINDS),
                len(kinds),
                sum(section in (s.section, "all") for s in STANDING),
            )
        )
    return table(
        pd.DataFrame(rows, columns=["section", *KINDS, "slips", "found right"]),
        "Slips by kind, and what was found right.",
        "tbl-errata-counts",
    )


def _with_link(e: Erratum) -> str:
    """The correction and the page that shows it, if it does not name it itself."""
    return (
        e.correction
        if f"({e.chapter})" in e.correction
        else f"{e.correction} See {_link(e.chapter)}."
    )


def _link(chapter: str) -> str:
    return (
        f"[{chapter[0]}.{chapter[1]}]({chapter})"
        if chapter[1].isdigit()
        else f"[{chapter}]({chapter})"
    )
