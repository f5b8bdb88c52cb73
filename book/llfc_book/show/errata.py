"""The errata page: what does not hold as printed, by consequence, with numbers computed now."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import pandas as pd

from llfc_book.claims.errata_checks import CHECKS, DRAWS, data, readings
from llfc_book.show.text import MyST, folded, table

GROUPS = ("statement", "formula", "wording")


@dataclass(frozen=True)
class Erratum:
    """One entry of errata.toml, whose head says what the fields are."""

    id: str
    section: str
    group: str
    page: str
    printed: str
    stands: str
    consequence: str
    check: str = ""
    numbers: str = ""
    code: str = ""

    @property
    def place(self) -> str:
        """The section, as a link to the page that shows it."""
        return f"[{self.section}]({self.page})"

    def measured(self) -> str:
        """What its check finds now, in words; "" where there is nothing to compute."""
        if not self.check:
            return ""
        printed, corrected = readings(self.check)
        text = self.numbers.format(printed=printed, corrected=corrected, draws=DRAWS)
        return text.replace(" %", "\u00a0%")

    def follows(self) -> str:
        """The consequence, the numbers, and what released programs do."""
        return " ".join(part for part in (self.consequence, self.measured(), self.code) if part)


@cache
def errata() -> tuple[Erratum, ...]:
    """All entries, in the order of the appendix. ValueError for an id that occurs twice, or an
    entry whose group or check cannot be meant.
    """
    entries = tuple(Erratum(**entry) for entry in data()["erratum"])
    ids = [one.id for one in entries]
    for one in entries:
        if ids.count(one.id) > 1:
            raise ValueError(f"the id {one.id!r} occurs twice")
        if one.group not in GROUPS:
            raise ValueError(f"{one.id}: group {one.group!r}; choose one of {GROUPS}")
        if one.check and one.check not in CHECKS:
            raise ValueError(f"{one.id}: no check {one.check!r}; there are {sorted(CHECKS)}")
        if bool(one.check) != bool(one.numbers):
            raise ValueError(f"{one.id}: a check needs a text for its numbers, and the reverse")
    return entries


def of_group(group: str) -> list[Erratum]:
    """Those of one group."""
    return [one for one in errata() if one.group == group]


def statements() -> MyST:
    """An item for each that changes what the appendix says."""
    return _items(
        f"**{one.place}: {one.printed}.** *Should be:* {one.stands}. {one.follows()}"
        for one in of_group("statement")
    )


def formulas() -> MyST:
    """Those that mislead who computes with a formula or rebuilds a setting of B.1, folded."""
    rows = [
        (f"{one.place}: {one.printed}", one.stands, one.follows()) for one in of_group("formula")
    ]
    frame = pd.DataFrame(rows, columns=["printed", "should be", "consequence"])
    caption = "Formulas, definitions and settings that mislead anyone who computes with them."
    return folded("Formulas and settings", table(frame, caption, "tbl-errata-formulas"))


def wording() -> MyST:
    """References, loose words and misprints, folded."""
    items = [
        f"{one.place}: {one.printed}. Read: {one.stands}. {one.follows()}"
        for one in of_group("wording")
    ]
    words = "; ".join(f"{wrong} → {right}" for wrong, right in data()["spelling"].items())
    return folded("Wording, references and misprints", _items([*items, f"Misprints: {words}."]))


def _items(lines: Iterable[str]) -> MyST:
    return MyST("\n".join(f"- {line}" for line in lines))
