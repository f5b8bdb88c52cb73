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

#: Numbers that name things; what goes on after the point, or counts ("12 of them"), names nothing.
_AT = r"\d+(-\d+)*"
NAMING = re.compile(
    r"(ResNet|VGG|CIFAR|TinyImageNet|Tiny-ImageNet)-\d+\b(?!\.\d)|\b[A-Z]{1,4}\d+\b(?!\.\d|"
    r" of\b)|\b[AB]\.\d(\.\d)?\b(?!\.\d)|"
    r"\bfloat\d+|\bbf16\b|\b\d-opt\b|"
    r"\b(Theorem|Lemma|Definition|Figure|Table|Equation|Assumption|Section|Algorithm|Conv|FC|Block|[Ll]ayer|[Ee]poch|[Ss]tep)"
    rf"( {_AT}( to {_AT})?|s {_AT}(, {_AT})*( (and|to) {_AT})+)\b(?!\.\d)|Python 3\.\d+( to"
    r" 3\.\d+)?|\b(19|20)\d\d\b(?!\.\d)"
)
#: Parts of a text that are not sentences: displayed mathematics, blocks of code, drawings, roles
#: and what they name, links, options, numbers of a list.
NOT_PROSE = re.compile(
    r"^```(\{math\}|[a-z]+$|$).*?^```|^:::+\{math\}.*?^:::+|\$\$.*?\$\$|<svg\b.*?</svg>|\{[\w:]+\}`[^`]*`|\]\([^)]*\)|"
    r"^:[\w-]+:.*?$|^ *\d+\.(?= )",
    re.DOTALL | re.MULTILINE,
)
#: Mathematics and code within a sentence.
INLINE = re.compile(r"\$([^$]+)\$|`([^`]+)`")
#: Units that make a measurement of any number, 0, 1 and those in words too. Not "pair" after "one",
#: which is mostly an article.
_UNIT = r"(points?|draws?|nats?|times|pairs|%|percent|per cent|orders of magnitude)"
_WORD = (
    r"(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(thir|four|fif|six|seven|eigh|nine)teen|"
    r"(twen|thir|for|fif|six|seven|eigh|nine)ty(-[a-z]+)?|hundred|thousand)"
)
#: What a measured number looks like: digits, but for 0 and 1, and words for shares and amounts.
#: Left out, as they mostly define or are idiom: "half-way", "half the" width, "one of", "one pair",
#: "two networks", "a third layer", and "a tenth" without "of", which is this book's rule.
MEASURED = re.compile(
    r"(?<![\w.])[-−+]?(\d*\.\d+|[2-9]|\d{2,}[\d,]*)(?!\w)|(?<![\w.])\d[\d.,]*[x×k]\b|(?<!\w)[x×]\d|\d"
    r" of\b|\d %|[¼-¾⅐-⅞]|"
    rf"(?<![\w.])[01] {_UNIT}(?!\w)|\b({_WORD} (of\b|{_UNIT}(?!\w))|one"
    rf" ((point|draw|nat|percent|per cent)\b|of (\w+ )?{_WORD}\b)|"
    r"(percent|per cent|thirds|quarters?|fifths?|(?<!a"
    r" )tenths?|twentieths?|hundredths?|thousandths?|dozens?|fifty|hundreds?|thousands?|"
    r"(?<!first )(?<!second )half of|halves|halved|(third|(six|seven|eigh|nin|ten)ths?)"
    r" of|twice|thrice|"
    r"(doubl|tripl|trebl|quadrupl)(es?|ed|ing))\b)",
    re.IGNORECASE,
)
#: Settings, rules and definitions that the text states, by chapter. What a run measured has no
#: place here.
STATED: dict[str, tuple[str, ...]] = {
    "A1_lemma": (
        "at most twice the larger of theirs",
        "the error doubles half-way",
        "for two of twenty images each",
        "or two of other initialisations",
        "ten times the learning rate of the paper",
    ),
    "A2_decomposition": (
        "the two points _ and _ determine",
        "is twice the share _ of ReLUs",
        "Up to 0.4 the means",
        "; at 0.8 it is",
        "two draws of each width",
    ),
    "A2_theorem": (", doubled, ", "takes three pairs that differ in their first layer"),
    "A3_assignment": (
        "at width 512",
        "In one draw of ten it is more than",
        "twice the number of edges",
        "seven of their units",
    ),
    "B1_matching": (
        "its authors give it 250",
        "noise of three times the weights",
        "a quarter as wide",
    ),
    "B1_settings": (
        "at ten times that (orange)",
        "from one epoch to the next, half of the time",
        "the learning rate of this perceptron as 1.2",
        "Adam with 1.2",
        "and batches of 60 is what",
    ),
    "B1_training_conv": (),
    "B2_llfc": ("the tenth that this book calls close to 0", "below half of *every* null"),
    "B2_llfc_conv": ("labels one point a layer", "Wherever the barrier exceeds five points"),
    "B2_llfc_perm": ("By the tenth that this book asks for", "by one of three ways of"),
    "B3_commutativity": (),
    "B3_commutativity_conv": ("it exceeds a tenth of the smaller",),
    "B3_commutativity_perm": ("by the tenth that this book asks for",),
    "B4_stitching": ("with 95 % Wilson intervals",),
    "B4_stitching_conv": ("The first two pairs follow",),
    "B4_stitching_perm": (),
    "B5_rebasin": (
        "At width 512",
        "of width 1024",
        "of width 256",
        "of 512 units",
        "of 128 units",
        "of 16 and 32 units",
        "at 64 units",
        "from 10 to 90 % of them",
        "(16)",
        "(32, against",
    ),
    "cost": ("a tenth of what the data sheet",),
    "errata": ("at 32 times its width",),
    "index": ("a quarter as wide",),
    "ledger": (),
    "own_networks": (
        "grey and 8 pixels wide",
        "three times over, as its colours, and twice as wide",
        "below half of *every* null",
        "and below half of it at",
    ),
}


def told_inline(found: re.Match) -> str:
    """Of mathematics its decimals, percentages or its only number, but no subscripts; code that is
    a number; else a blank.
    """
    mathematics, code = found.groups()
    if code:
        return code if re.fullmatch(r"[-−+±~≈]?[\d.,]+ *[%x×]?", code) else "_"
    numbers = re.findall(
        r"\d*\.\d+|\d+[\\, ]*%|^[-+]?\d+$", re.sub(r"_\{[^{}]*\}", "", mathematics)
    )
    return re.sub(r"[\\, ]*%", " %", " ".join(numbers)) or "_"


def typed_numbers(text: str, stated: tuple[str, ...] = ()) -> list[str]:
    """Sentences' numbers that are neither names, nor stated, nor told by :func:`prose.tell`, each
    with its surroundings.
    """
    text = NAMING.sub("_", re.sub(r"\s+", " ", INLINE.sub(told_inline, NOT_PROSE.sub("_", text))))
    for phrase in stated:
        assert phrase in text, f"no longer in the text, drop it from STATED: {phrase!r}"
        text = text.replace(phrase, "_")
    return [
        text[max(0, found.start() - 40) : found.end() + 25] for found in MEASURED.finditer(text)
    ]


def written(path: Path) -> str:
    """What a page says that was typed: its text, and its figures' captions, which stand in the
    headers of the cells that draw them.

    The captions of tables come from the library, which computes the numbers in them.
    """
    if path.parent.name == "book":
        return path.read_text()
    cells = jupytext.read(path).cells
    return "\n\n".join(
        (
            cell.source
            if cell.cell_type == "markdown"
            else cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")
        )
        for cell in cells
        if cell.cell_type != "raw"
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_measured_number_is_typed(path):
    found = typed_numbers(written(path), STATED.get(path.stem, ()))
    assert not found, (
        "let a hidden cell tell them (prose.tell), or name a setting in STATED:\n"
        + "\n".join(found)
    )


def test_what_is_stated_is_needed():
    assert set(STATED) <= {path.stem for path in PAGES}
    assert not [
        phrase for phrases in STATED.values() for phrase in phrases if not MEASURED.search(phrase)
    ]


@pytest.mark.parametrize(
    "told, text",
    [
        (prose.number(0.9512), "0.95"),
        (prose.number(0.0012), "0.0012"),
        (prose.number(-1.5), "−1.5"),
        (prose.number(99.96), "100"),
        (prose.number(123456), "120,000"),
        (prose.number(1.23e-7), "1.2 × 10⁻⁷"),
        (prose.between([0.5512, 1.42], " times"), "0.55 to 1.4 times"),
        (prose.between([0.121, 0.122]), "0.12"),
        (prose.percent([0.152, 0.4]), "15 to 40\u00a0%"),
        (prose.points([0.0029, 0.0065]), "0.29 to 0.65 points"),
        (prose.count([True, False, True]), "2 of 3"),
    ],
)
def test_told_text(told, text):
    assert told == text


@pytest.mark.parametrize(
    "pieces, error",
    [
        ({"x": 0.5}, TypeError),
        ({"x": True}, TypeError),
        ({"x": " "}, ValueError),
        ({"x": "nan to 1"}, ValueError),
    ],
)
def test_what_cannot_be_told_is_refused(pieces, error):
    with pytest.raises(error, match="x "):
        prose.tell(**pieces)
