"""No measured number is typed into the text: it comes from a record, through glue or a generated
table.
"""

import re
from pathlib import Path

import jupytext
import pytest
from llfc_book.show import prose

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "notebooks").glob("*.md"), *(ROOT / "book").glob("*.md")])

#: What is no sentence: displayed mathematics, blocks of code, drawings, roles, and versions.
NOT_PROSE = re.compile(
    r"^```(\{math\}|[a-z]+$|$).*?^```|^:::+\{math\}.*?^:::+|\$\$.*?\$\$|<svg\b.*?</svg>"
    r"|\{[\w:]+\}`[^`]*`|Python 3\.\d+( to 3\.\d+)?",
    re.DOTALL | re.MULTILINE,
)
#: A number with the unit of a measurement, or with more decimals than a setting has.
MEASURED = re.compile(
    r"(?<![\w.])(\d+(\.\d+)? (points?|nats?|minutes|orders of magnitude)\b"
    r"|\d+\.\d+( times|[ ~\\,]*%)|\d*\.\d\d+|\d[\d.,]*×)"
)


def written(path: Path) -> str:
    """What a page says that was typed: its text, and its figures' captions, which stand in the
    headers of the cells that draw them.
    """
    if path.parent.name == "book":
        return path.read_text()
    return "\n\n".join(
        cell.source
        if cell.cell_type == "markdown"
        else cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")
        for cell in jupytext.read(path).cells
        if cell.cell_type != "raw"
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_measured_number_is_typed(path):
    text = re.sub(r"\s+", " ", NOT_PROSE.sub("_", written(path)))
    found = [text[max(0, m.start() - 40) : m.end() + 25] for m in MEASURED.finditer(text)]
    assert not found, "let a hidden cell tell them (prose.tell):\n" + "\n".join(found)


@pytest.mark.parametrize(
    "told, text",
    [
        (prose.number(0.0012), "0.0012"),
        (prose.number(-1.5), "−1.5"),
        (prose.number(99.96), "100"),
        (prose.number(123456), "120,000"),
        (prose.number(1.23e-7), "1.2 × 10⁻⁷"),
        (prose.between([0.121, 0.122]), "0.12"),
        (prose.percent([0.152, 0.4]), "15 to 40\u00a0%"),
        (prose.points([0.0029, 0.0065]), "0.29 to 0.65 points"),
        (prose.count([True, False, True]), "2 of 3"),
    ],
)
def test_told_text(told, text):
    assert told == text


@pytest.mark.parametrize("piece, error", [(0.5, TypeError), ("nan to 1", ValueError)])
def test_what_cannot_be_told_is_refused(piece, error):
    with pytest.raises(error, match="x "):
        prose.tell(x=piece)
