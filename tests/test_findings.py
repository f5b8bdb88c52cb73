"""Every sentence with a number is borne out by the records, and every page tells what it shows."""

import re
from functools import cache
from pathlib import Path

import jupytext
import pytest
from llfc_book import findings
from llfc_book.findings import FINDINGS, Finding, finding
from llfc_book.show import prose

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "notebooks").glob("*.md"), *(ROOT / "book").glob("*.md")])
GLUED = re.compile(r"\{glue:text\}`([^`]+)`")

#: What is no sentence: displayed mathematics, blocks of code, drawings, roles, and versions.
NOT_PROSE = re.compile(
    r"^```(\{math\}|[a-z]+$|$).*?^```|^:::+\{math\}.*?^:::+|\$\$.*?\$\$|<svg\b.*?</svg>"
    r"|\{[\w:]+\}`[^`]*`|Python 3\.\d+( to 3\.\d+)?",
    re.DOTALL | re.MULTILINE,
)
#: A number with the unit of a measurement, or with more decimals than a setting has.
MEASURED = re.compile(
    r"(?<![\w.])(\d+(\.\d+)? (nats?|minutes|orders of magnitude)\b"
    r"|\d+\.\d+( times|[ ~\\,]*%)|\d*\.\d\d+|\d[\d.,]*×)"
)
#: Marks that a rule names, and settings: chosen, not measured.
CHOSEN = re.compile(r"factor of 1\.25\b|margin 1\.25\b|\b1\.2e-[34]\b|0\.0[125]\b|\b(32|1)×")


told = cache(Finding.told)  # some are measured for seconds


@pytest.mark.parametrize("one", FINDINGS.values(), ids=lambda f: f"{f.page}:{f.name}")
def test_the_sentence_stands(one: Finding):
    for text in told(one).values():
        assert text.strip() and "nan" not in text


@pytest.mark.parametrize("name", sorted({page for page, _ in FINDINGS}))
def test_a_page_shows_all_that_it_tells(name: str):
    text = (ROOT / "notebooks" / f"{name}.md").read_text()
    assert f'findings.tell("{name}")' in text
    shown = {text_ for one in FINDINGS.values() if one.page == name for text_ in told(one)}
    assert shown == set(GLUED.findall(text))


def test_a_sentence_that_no_longer_stands_stops_its_page(monkeypatch):
    monkeypatch.setattr(findings, "FINDINGS", {})

    @finding("a page", "the sky is green")
    def sky() -> tuple[str, bool]:
        return "blue", False

    with pytest.raises(ValueError, match="a page: sky is 'blue'.*the sky is green. Rewrite"):
        findings.tell("a page")
    with pytest.raises(ValueError, match="has a finding 'sky' already"):
        finding("a page", "twice")(sky)
    with pytest.raises(ValueError, match="no findings of page 'another'"):
        findings.tell("another")


def test_a_page_has_one_text_a_name(monkeypatch):
    one = Finding("a page", "sky", "the sky is blue", lambda: ({"colour": "blue"}, True))
    monkeypatch.setattr(findings, "FINDINGS", {("a page", name): one for name in ("sky", "sea")})
    with pytest.raises(ValueError, match="one name for two texts"):
        findings.tell("a page")


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
def test_no_measured_number_is_typed(path: Path):
    text = re.sub(r"\s+", " ", CHOSEN.sub("_", NOT_PROSE.sub("_", written(path))))
    found = [text[max(0, m.start() - 40) : m.end() + 25] for m in MEASURED.finditer(text)]
    assert not found, "declare a finding (llfc_book.findings):\n" + "\n".join(found)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_hidden_cells_are_one_line(path: Path):
    """No logic, no guards, no pandas in a notebook: what is not shown is a call."""
    if path.parent.name == "book":
        return
    for cell in jupytext.read(path).cells:
        tags = set(cell.metadata.get("tags", []))
        if cell.cell_type == "code" and tags & {"remove-cell", "remove-input", "hide-input"}:
            lines = [line for line in cell.source.splitlines() if line.strip()]
            plain = all(
                re.match(r"(from|import) |here|\w+ = |warnings\.filterwarnings", line)
                for line in lines
            )
            assert len(lines) == 1 or "parameters" in tags or plain, cell.source
        assert "pandas" not in cell.source or cell.cell_type != "code", cell.source


@pytest.mark.parametrize(
    "shown, text",
    [
        (prose.number(0.0012), "0.0012"),
        (prose.number(-1.5), "−1.5"),
        (prose.number(99.96), "100"),
        (prose.number(123456), "120,000"),
        (prose.number(1.23e-7), "1.2 × 10⁻⁷"),
        (prose.between([0.121, 0.122]), "0.12"),
        (prose.percent([0.152, 0.4]), "15 to 40\u00a0%"),
        (prose.percent([0.945, 1.028]), "94 to 103\u00a0%"),
        (prose.points([0.0029, 0.0065]), "0.29 to 0.65 points"),
        (prose.count([True, False, True]), "2 of 3"),
    ],
)
def test_told_text(shown, text):
    assert shown == text
