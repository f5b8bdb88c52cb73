"""The ledger: every claim in every setting, and the map of what of the appendix is covered."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from safetensors import safe_open

from llfc_book import evidence as ev
from llfc_book.claims.claim import (
    ANSWERS,
    CLAIMS,
    FAILS,
    HOLDS,
    MOST,
    UNDECIDED,
    UNTESTED,
    Cell,
    Claim,
    Effect,
)
from llfc_book.claims.rules import judged, settings_of
from llfc_book.places import DATA, UNFINISHED
from llfc_book.show import style
from llfc_book.show.prose import between
from llfc_book.show.style import Shown
from llfc_book.show.text import MyST, folded, number, table
from llfc_book.study.settings import RECIPES
from llfc_lib.figures import BLUE, GREY, ORANGE, SKY

#: How an answer is marked: never by colour alone.
MARKS = {HOLDS: ("●", BLUE), MOST: ("◐", SKY), FAILS: ("✕", ORANGE), UNDECIDED: ("?", GREY)}
PART = "in part"
#: How a scale of what is printed is marked, from full to missing.
MARK = {"full": "●", PART: "◕", "reduced": "◐", "proxy": "○", "missing": "–"}
#: Whose claims, in the words of the page.
ORIGIN = {
    "appendix": "the appendix",
    "extension": "this book, further settings",
    "mechanism": "this book, mechanism",
    "proved": "a proven lemma",
}


def cells_of(claim: Claim) -> list[Cell]:
    """The claim's cells that something is on record of, in the order of settings."""
    found = judged()
    return [found[claim.id, name] for name in settings_of(claim) if (claim.id, name) in found]


def of_page(page: str) -> MyST:
    """The page's claims: a line for each answer that some settings give, with the effect's range
    over those. ValueError for a page without claims.
    """
    lines = []
    for claim in (c for c in CLAIMS if c.page == page):
        first = f"{claim.says}\n\n*{claim.reads}*"
        for answer in ANSWERS:
            cells = [cell for cell in cells_of(claim) if cell.answer == answer]
            if cells:
                names = "; ".join(map(_named, cells))
                lines.append((first, f"**{answer}**\n\n{names}", _how_much(cells), _third(cells)))
                first = ""
    if not lines:
        raise ValueError(f"no claim is judged on page {page!r}")
    heads = ["the appendix says, *as we read it*", "as stated", "how much"]
    frame = pd.DataFrame(lines, columns=[*heads, "beside closeness alone"])
    label = f"tbl-ledger-{page.lower().replace('_', '-')}"
    caption = "From the [ledger](ledger): what was claimed, and what was found."
    with_third = any(third for *_, third in lines)
    return table(frame if with_third else frame[heads], caption, label, "ledger")


def _named(cell: Cell) -> str:
    told = [cell.scale] * (cell.scale != "full")
    told += [f"{cell.share:.0%} of {cell.cases}"] * (cell.answer == MOST)
    return ev.name_of(cell.setting) + (f" ({', '.join(told)})" if told else "")


def _how_much(cells: Sequence[Cell]) -> str:
    """Each effect over the settings: from the smallest to the largest."""
    by_unit: dict[str, list[float]] = {}
    for one in (one for cell in cells for one in cell.effects):
        worst = one.unit.startswith("excess in points at")
        name = "excess in points at the worst layer" if worst else one.unit
        by_unit.setdefault(name, []).append(one.value)
    return "\n\n".join(f"{unit}: {between(values)}" for unit, values in by_unit.items())


def _third(cells: Sequence[Cell]) -> str:
    told: dict[str, list[str]] = {}
    for cell in cells:
        if cell.closeness:
            told.setdefault(cell.closeness, []).append(ev.name_of(cell.setting))
    return "\n\n".join(f"{word}: {', '.join(names)}" for word, names in told.items())


def matrix() -> Shown:
    """Every claim (a row) in every setting (a column)."""
    found = judged()
    names = [name for name in RECIPES if any(key[1] == name for key in found)]
    figure, (axis,) = style.sheet(1, 1, 0.21 * len(CLAIMS) + 1.9)
    look = {"ha": "center", "va": "center", "fontsize": 11}
    for row, claim in enumerate(CLAIMS):
        for cell in cells_of(claim):
            mark, colour = MARKS[cell.answer]
            pale = 1.0 if cell.scale == "full" else 0.55
            axis.text(names.index(cell.setting), row, mark, color=colour, alpha=pale, **look)
        if row and claim.section[:3] != CLAIMS[row - 1].section[:3]:
            axis.axhline(row - 0.5, color=GREY, linewidth=0.6)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_ylim(len(CLAIMS) - 0.4, -0.6)
    axis.set_xticks(range(len(names)), [ev.name_of(name) for name in names], rotation=90)
    axis.set_yticks(range(len(CLAIMS)), [claim.short for claim in CLAIMS])
    axis.xaxis.tick_top()
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    seen = counts().sum()
    told = ", ".join(f"{answer}: {seen[answer]}" for answer in ANSWERS if seen[answer])
    return Shown(figure, f"Claims by setting, {len(found)} cells ({told}).")


def counts() -> pd.DataFrame:
    """How many cells have each answer: a line for whose claims, and at which scale."""
    cells = [(claim.of, cell.scale, cell.answer) for claim in CLAIMS for cell in cells_of(claim)]
    frame = pd.DataFrame(cells, columns=["of", "scale", "answer"])
    lines = pd.crosstab([frame["of"], frame["scale"]], frame["answer"])
    return lines.reindex(columns=[*ANSWERS], fill_value=0).reindex(ORIGIN, level="of")


def totals() -> MyST:
    """Cells by answer: the appendix's claims apart from our questions, and by scale."""
    lines = [
        (f"{ORIGIN[of]}, {scale} scale", *line) for (of, scale), *line in counts().itertuples()
    ]
    frame = pd.DataFrame(lines, columns=["claims of", *ANSWERS]).drop(columns=UNTESTED)
    return table(frame, "Cells of the ledger by answer.", "tbl-totals", "counts")


def every_cell() -> MyST:
    """All cells with shares, effects and intervals, folded."""
    parts = []
    columns = ["setting (scale, pairs)", "as stated", "share of cases", "how much", "closeness"]
    for claim in CLAIMS:
        lines = [
            (
                f"{ev.name_of(cell.setting)} ({cell.scale}, {cell.pairs})",
                cell.answer,
                "; ".join((f"{cell.share:.0%} of {cell.cases}", *cell.notes)),
                "\n\n".join(map(_effect, cell.effects)),
                cell.closeness,
            )
            for cell in cells_of(claim)
        ]
        if lines:
            name = f"tbl-cells-{claim.id.replace('_', '-')}"
            parts.append(table(pd.DataFrame(lines, columns=columns), claim.says, name, "ledger"))
    return folded("Every cell, with shares, intervals and the answers at other marks", *parts)


def _effect(one: Effect) -> str:
    interval = "" if np.isnan(one.low) else f" [{number(one.low)}, {number(one.high)}]"
    return f"{one.unit}: {number(one.value)}{interval}"


# what of the appendix is covered


@dataclass(frozen=True)
class Printed:
    """A figure, table or section of the appendix: which page has it, and at which scale each of
    its settings is on record.
    """

    name: str
    page: str
    what: str
    scales: tuple[str, ...]
    instead: str = ""

    @property
    def state(self) -> str:
        """The least of its settings' scales: a figure of two settings is full where both are. A
        section ("Settings (B.1)") whose settings differ is here in part.
        """
        if self.name.endswith(")") and len(set(self.scales)) > 1:
            return PART
        return max(self.scales, key=[*MARK].index)


@cache
def printed() -> tuple[Printed, ...]:
    """Everything of the appendix, in its order."""

    def scale(quantity: str, name: str) -> str:
        m = ev.best(quantity, name)
        return "missing" if m is None else m.scale

    found = []
    for one in tomllib.loads((DATA / "coverage.toml").read_text())["printed"]:
        quantity = one["quantity"]
        scales = tuple(scale(quantity, name) for name in one["settings"])
        others = [n for n in one.get("instead", ()) if scale(quantity, n) in ("full", "reduced")]
        instead = ev.name_of(others[0]) if others and "missing" in scales else ""
        found.append(Printed(one["name"], one["page"], one["what"], scales, instead))
    return tuple(found)


def coverage(small: bool = False) -> MyST:
    """What of the appendix is here, and at which scale. ``small``: only how many, and what is
    missing or on embedded data alone.
    """
    if small:
        lines = [
            (f"{mark} {state}", f"{len(names)}: {', '.join(names)}")
            for state, mark in MARK.items()
            if (names := [p.name for p in printed() if p.state == state])
        ]
        frame = pd.DataFrame(lines, columns=["scale", "of the appendix"])
        return table(frame, "What this book covers.", "tbl-coverage-small", "coverage")
    rows = [(p.name, f"[{p.what}]({p.page})", f"{MARK[p.state]} {_states(p)}") for p in printed()]
    frame = pd.DataFrame(rows, columns=["printed", "what it shows, and our page", "here"])
    caption = "Every figure, table and section of the appendix."
    return table(frame, caption, "tbl-coverage", "coverage")


def _states(p: Printed) -> str:
    counted = [f"{p.scales.count(s)} {s}" for s in MARK if s in p.scales]
    told = p.state if len(counted) == 1 else ", ".join(counted)
    return f"{told}; in its place {p.instead}" if p.instead else told


def in_training() -> MyST:
    """Networks that are being trained: how far their last committed checkpoint is."""
    told = []
    for path in sorted(UNFINISHED.glob("*.latest.safetensors")):
        name, run = path.name.split("-")[:2]
        with safe_open(path, "pt") as file:
            epoch = int(file.metadata()["epoch"])
        at = f"{run} at epoch {epoch} of {RECIPES[name].epochs}"
        told.append(f"{ev.name_of(name)}, {at}")
    text = "; ".join(told) or "none"
    return MyST(f"Networks in training (seed and branch, last committed checkpoint): {text}.")
