"""No measured number is typed into the text: it comes from a record, through glue or a generated table."""

import re
from pathlib import Path

import jupytext
import pytest

from llfc_lib.report import prose

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.md"))

#: Numbers that name things, and whole numbers in words of a definition.
NAMING = re.compile(r"(ResNet|VGG|CIFAR|TinyImageNet|Tiny-ImageNet)-\d+|\b[A-Z]{1,4}\d+\b|\b[AB]\.\d(\.\d)?|\bfloat\d+|\bbf16\b|\b\d-opt\b|"
                    r"\b(Theorem|Lemma|Definition|Figure|Table|Equation|Assumption|Section|Algorithm|Conv|FC|Block|[Ll]ayer|[Ee]poch|[Ss]tep)s? "
                    r"\d[\d-]*((, \d+)* (and|to) \d[\d-]*)?|Python 3\.\d+|\b(19|20)\d\d\b")
#: Parts of a text that are not sentences: mathematics, code, roles and what they name, links, headings, options, numbers of a list.
NOT_PROSE = re.compile(r"^```\{math\}.*?^```|^:::+\{math\}.*?^:::+|\$\$.*?\$\$|\$[^$]+\$|\{[\w:]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)|"
                       r"^#.*?$|^:[\w-]+:.*?$|^ *\d+\.(?= )",
                       re.DOTALL | re.MULTILINE)
#: What a measured number looks like: digits, but for 0 and 1, and words for shares and amounts.
MEASURED = re.compile(r"(?<![\w.])[-−+]?(\d*\.\d+|[2-9]|\d{2,}[\d,]*)(?![\w])|\d %|\b(percent|per cent|(two )?thirds?\b(?= of)|quarters?\b(?= of)|"
                      r"fifths?|(?<!a )tenths?|twentieths?|hundredths?|dozens?|fifty|hundred|thousand)\b")
#: Settings, rules and definitions that the text states, by chapter. What a run measured has no place here.
STATED: dict[str, tuple[str, ...]] = {
    "A1_lemma": (),
    "A2_decomposition": (),
    "A2_theorem": (),
    "A3_assignment": ("at width 512",),
    "B1_matching": ("its authors give it 250",),
    "B1_settings": ("and batches of 60 is what",),
    "B1_training_conv": (),
    "B2_llfc": ("the tenth that this book calls close to 0",),
    "B2_llfc_conv": (),
    "B2_llfc_perm": ("by the tenth that this book asks for",),
    "B3_commutativity": (),
    "B3_commutativity_conv": (),
    "B3_commutativity_perm": ("by the tenth that this book asks for",),
    "B4_stitching": ("with 95 % Wilson intervals",),
    "B4_stitching_conv": (),
    "B4_stitching_perm": (),
    "B5_rebasin": ("At width 512", "of width 1024", "of width 256", "of 512 units", "of 128 units", "of 16 and 32 units", "at 64 units", "(16)",
                   "(32, against"),
    "errata": ("at 32 times its width",),
    "ledger": (),
    "own_networks": ("grey and 8 pixels wide",),
}


def typed_numbers(text: str, stated: tuple[str, ...] = ()) -> list[str]:
    """Sentences' numbers that are neither names, nor stated, nor told by :func:`prose.tell`, each with its surroundings."""
    text = NAMING.sub("_", re.sub(r"\s+", " ", NOT_PROSE.sub("_", text)))
    for phrase in stated:
        assert phrase in text, f"no longer in the text, drop it from STATED: {phrase!r}"
        text = text.replace(phrase, "_")
    return [text[max(0, found.start() - 40):found.end() + 25] for found in MEASURED.finditer(text)]


@pytest.mark.parametrize("name", NAMES)
def test_no_measured_number_is_typed(name):
    cells = jupytext.read(ROOT / "notebooks" / f"{name}.md").cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    found = typed_numbers(text, STATED.get(name, ()))
    assert not found, "let a hidden cell tell them (prose.tell), or name a setting in STATED:\n" + "\n".join(found)


@pytest.mark.parametrize("text", ["it is 0.95 of it", "by 3 percent", "18 of 20 draws", "two thirds of the loss", "of the rest, 12 %"])
def test_a_typed_number_is_found(text):
    assert typed_numbers(text)


@pytest.mark.parametrize("text", ["ResNet-20 on CIFAR-10 (B.2, Figure 8), layer 3", "$0.95$ and `0.95`", "{glue:text}`share` of it",
                                  "is 0 exactly", "# 2 networks", "epochs 0 and 1"])
def test_a_name_or_told_number_is_not(text):
    assert not typed_numbers(text)


def test_told_text():
    assert [prose.number(v) for v in (0.9512, 12.34, 0.0012, 0, -1.5)] == ["0.95", "12", "0.0012", "0", "−1.5"]
    assert [prose.number(v) for v in (123456, 1.23e-7, 2.5e9, 99.96)] == ["120,000", "1.2 × 10⁻⁷", "2.5 × 10⁹", "100"]
    assert prose.between([0.5512, 1.42], " times") == "0.55 to 1.4 times"
    assert prose.between([0.121, 0.122]) == "0.12" and prose.between([2]) == "2.0"
    assert prose.percent([0.152, 0.4]) == "15 to 40\u00a0%" and prose.percent(0.5) == "50\u00a0%"
    assert prose.points([0.0029, 0.0065]) == "0.29 to 0.65 points"
    assert prose.count([True, False, True]) == "2 of 3"


@pytest.mark.parametrize("pieces, error", [({"x": 0.5}, TypeError), ({"x": True}, TypeError), ({"x": " "}, ValueError), ({"x": "nan to 1"}, ValueError)])
def test_what_cannot_be_told_is_refused(pieces, error):
    with pytest.raises(error, match="x "):
        prose.tell(**pieces)
