"""How much a reader of a page is asked to read: words, numbers, figures, tables, and how far down
the finding is. What is folded does not count, nor do code, formulae and tables count as words.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

SCREEN = {"width": 1400, "height": 1000}
#: What the page shows without being asked: the text of its article outside what is folded.
VISIBLE = """() => {
  const article = document.querySelector("article.bd-article");
  const top = node => node.getBoundingClientRect().top + scrollY;
  const shown = node => !node.closest("details:not([open]), .provenance, .prev-next-area");
  const prose = article.cloneNode(true);
  const gone = "details, .provenance, pre, table, mjx-container, .math, .headerlink, script, " +
    "style, .cell_input, .prev-next-area, .sd-card-header";
  prose.querySelectorAll(gone).forEach(node => node.remove());
  const all = query => [...article.querySelectorAll(query)].filter(shown);
  const finding = article.querySelector(".finding");
  const images = all("figure img, .cell_output img");
  return {
    text: prose.textContent,
    numbers: prose.querySelectorAll(".pasted-text").length,
    finding: finding ? top(finding) : null,
    figure: images.length ? top(images[0]) : null,
    figures: images.map(image => image.getBoundingClientRect().height),
    tables: all("table").map(table => [table.scrollWidth, table.clientWidth]),
    height: article.getBoundingClientRect().height,
  };
}"""


@dataclass(frozen=True)
class Read:
    """``words`` of the visible prose, and measured ``numbers`` in it (a range is one); heights in
    screens of 1000 pixels: ``finding`` and ``figure`` are how far down the first of each begins
    (infinite where there is none), ``tallest`` is the tallest figure. ``wide`` counts visible
    tables that a reader must scroll sideways.
    """

    words: int
    numbers: int
    figures: int
    tables: int
    wide: int
    finding: float
    figure: float
    tallest: float
    screens: float

    def row(self, name: str) -> str:
        """A line of the table."""
        return (
            f"{name:18} {self.words:6} {self.numbers:8} {self.figures:8} {self.tables:7}"
            f" {self.wide:5} {self.finding:8.2f} {self.figure:7.2f} {self.tallest:8.2f}"
            f" {self.screens:8.1f}"
        )


HEAD = (
    "page                words  numbers  figures  tables  wide  finding  figure  tallest  screens"
)


def read(page: Page, root: Path, name: str) -> Read:
    """What the page ``name`` of the book in ``root`` asks of its reader."""
    page.set_viewport_size(SCREEN)
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.goto((root / name).as_uri(), wait_until="load", timeout=120_000)
    found: dict[str, Any] = page.evaluate(VISIBLE)
    text, screen = found["text"], SCREEN["height"]
    far = {
        key: float("inf") if found[key] is None else found[key] / screen
        for key in ("finding", "figure")
    }
    return Read(
        words=len(re.findall(r"[A-Za-z][\w’'-]*", text)),
        numbers=found["numbers"],
        figures=len(found["figures"]),
        tables=len(found["tables"]),
        wide=sum(inner > outer + 1 for inner, outer in found["tables"]),
        finding=far["finding"],
        figure=far["figure"],
        tallest=max([0, *found["figures"]]) / screen,
        screens=found["height"] / screen,
    )
