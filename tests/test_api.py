"""The library reference: a small package shown in a small book, and what the real pages hold."""

import re
import shutil
import sys
from collections import Counter
from html import unescape
from pathlib import Path

import pytest
from sphinx.testing.util import SphinxTestApp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import apidoc  # noqa: E402

PACKAGE = {
    "__init__.py": (
        '"""A toy; see :mod:`toy.tools`."""\n\nfrom toy.tools import Row, measure\n\n__all__ ='
        ' ["Row", "measure"]\n'
    ),
    "tools.py": (
        '''"""Tools for ``toys``, with

    x <= *y* | z_1

as a line of its own.

- one
- two,
  with more
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

GRID = (0.0, 0.5, 1.0)  # where it is measured
UNSEEN = 3
Rows = Iterable["Row"]  # any number of them


@dataclass
class Row:
    """One *number* of <a, b>_c: `x_*`.

    Source: Definition 2; B.2.
    """

    mean: float
    notes: list[str] = field(default_factory=list)

    @property
    def double(self) -> float:
        """Twice the mean; see :meth:`start` and :data:`GRID`."""
        return 2 * self.mean

    def start(self) -> None:
        """Begin."""

    def rows(self) -> None:
        pass


def measure(values: "Rows", at: tuple[float, ...] = GRID, how: str = "plain, 'quoted'", *,
            scale: np.ndarray | None = None) -> list[Row]:
    """Rows as in :class:`Row`, :func:`numpy.linspace` and :func:`np.dot`. ValueError for none.

    Source: this
    book.
    """


def _hidden() -> None:
    pass
'''
    ),
    "wanting.py": (
        '''"""What a build refuses."""


def silent():
    pass


def sourceless():
    """Does something; :func:`lost` does not exist."""


class Half:
    """A class.

    Source: this book.
    """

    def method(self): ...
'''
    ),
}
PAGES = {
    "index": "# Start\n\n```{toctree}\ntoy\nwanting\nlinks\n```\n",
    "toy": "# Toy\n\n```{api} toy\n:without: toy.wanting\n```\n",
    "wanting": "# Wanting\n\n```{api} toy.wanting\n```\n",
    "links": (
        "# Links\n\n{py:func}`toy.measure`, {py:func}`toy.tools.measure`, {py:class}`toy.Row`,"
        " {py:func}`toy.measured`, [page](toy)\n"
    ),
}


def build(folder: Path) -> tuple[dict[str, str], str]:
    """The pages of the small book, and the warnings."""
    for name, code in PACKAGE.items():
        (folder / "toy").mkdir(parents=True, exist_ok=True)
        (folder / "toy" / name).write_text(code)
    book = folder / "book"
    book.mkdir()
    (book / "conf.py").write_text(
        "extensions = ['myst_parser', 'apidoc']\nnitpicky = True\nhtml_theme = 'basic'\n"
        "html_static_path = ['static']\n"
    )
    (book / "static").mkdir()
    shutil.copy(ROOT / "book" / "_static" / "api.css", book / "static")
    for name, text in PAGES.items():
        (book / f"{name}.md").write_text(text)
    app = SphinxTestApp("html", srcdir=book, freshenv=True)
    try:
        app.build()
        return {
            name: (Path(app.outdir) / f"{name}.html").read_text() for name in PAGES
        }, app.warning.getvalue()
    finally:
        app.cleanup()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("one"))


def words(html: str) -> str:
    return " ".join(unescape(re.sub("<[^>]*>", "", html)).split())


def test_names_types_text_and_source_are_shown(built):
    page, text = built[0]["toy"], words(built[0]["toy"])
    for anchor in (
        "toy.measure",
        "toy.Row",
        "toy.Row.double",
        "toy.tools.GRID",
        "toy.tools.Rows",
        "module-toy.tools",
    ):
        assert f'id="{anchor}"' in page
    assert "class toy.Row(mean: float, notes: list[str] = list())" in text
    assert "One *number* of <a, b>_c: `x_*`." in text
    for part in (
        "x <= *y* | z_1",
        "two, with more",
        "Source: Definition 2; B.2",
        "Source: this book",
        "where it is measured",
        "any number of them",
    ):
        assert part in text, part
    assert "type toy.tools.Rows = Iterable[Row]" in text
    assert "_hidden" not in text and "UNSEEN" not in text
    assert re.findall(r"<tr.*?</tr>", page, re.DOTALL)[1].count("<td>") == 3


def test_types_link_to_our_own_and_only_to_those(built):
    signature = re.search(
        r'<dt class="sig[^"]*" id="toy.measure">.*?</dt>\s*<dd>', built[0]["toy"], re.DOTALL
    )[0]
    assert set(re.findall(r'href="([^"]*)"', signature)) >= {
        "#toy.tools.Rows",
        "#toy.tools.GRID",
        "#toy.Row",
    }
    assert "np.ndarray" in words(signature) and not re.search(r'href="[^"]*ndarray', signature)


def test_chapters_link_by_either_name_and_a_plain_link_means_a_page(built):
    assert built[0]["links"].count('href="toy.html#toy.measure"') == 2
    assert 'href="toy.html#toy.Row"' in built[0]["links"] and "ambiguous" not in built[1]


@pytest.mark.parametrize(
    "warning",
    [
        "links.md:3: WARNING: py:func reference target not found: toy.measured",
        "wanting.md:3: WARNING: py:func reference target not found: lost",
        "toy.wanting.silent has no docstring",
        "toy.wanting.Half.method has no docstring",
    ],
)
def test_the_build_refuses_a_broken_link_and_a_bare_function(built, warning):
    assert warning in built[1]


def test_nothing_else_is_refused(built):
    assert len({line for line in built[1].splitlines() if "WARNING" in line}) == 4, built[1]


def test_two_builds_are_the_same_to_the_byte(built, tmp_path):
    assert build(tmp_path)[0] == built[0]


# the library

STUBS = sorted((ROOT / "book" / "api").glob("*.md"))
DIRECTIVE = re.compile(r"^```\{api\} (.+)\n(?::without: (.+)\n)?```$", re.MULTILINE)
#: Every erratum is a page's own; they are listed with what they say, and not in the reference.
ELSEWHERE = {"llfc_book.claims.errata.slips", "llfc_book.claims.errata.standing"}


@pytest.fixture(scope="module")
def library():
    return apidoc.library_of(ROOT, "llfc_lib")


def test_every_public_name_is_on_one_page(library):
    shown = Counter()
    for page in STUBS:
        for names, without in DIRECTIVE.findall(page.read_text()):
            shown.update(
                module.name
                for module in apidoc.modules_below(library, names.split(), without.split())
            )
    assert set(shown.values()) == {1}
    missing = set(library.modules) - set(shown) - ELSEWHERE
    assert not [
        entry.name
        for name in missing
        for entry in library.modules[name].entries
        if entry.kind not in ("data", "type")
    ]
    names = Counter(entry.name for entry in library.entries.values())
    assert names.most_common(1)[0][1] == 1
    toc = (ROOT / "_toc.yml").read_text()
    assert all(f"file: book/api/{page.stem}\n" in toc for page in STUBS)


def test_every_public_function_and_class_has_a_docstring(library):
    assert not [
        finding
        for name, module in library.modules.items()
        if name not in ELSEWHERE
        for entry in module.entries
        for finding in apidoc.findings(entry)
    ]


def test_every_role_leads_somewhere(library):
    lost = []
    for name, module in library.modules.items():
        for text, owner in [(module.text, "")] + [
            (part.text, entry.short) for entry in module.entries for part in (entry, *entry.members)
        ]:
            lost += [
                (name, target)
                for target in apidoc.targets_of(text)
                if target not in library.modules
                and not library.resolve(target, name, owner)
                and not library.is_foreign(target, name)
            ]
    assert not lost


def test_first_sentences():
    assert (
        apidoc.first_sentence("One of 0.5 and 1.0, e.g. this. Another.")
        == "One of 0.5 and 1.0, e.g. this."
    )
    assert apidoc.first_sentence("No stop\n\nMore.") == "No stop"
    assert apidoc.split_docstring("Text.\n\nSource: B.2,\nFigure 8.") == ("Text.", "B.2, Figure 8")
    assert apidoc.split_docstring("Source: of text") == ("", "of text") and apidoc.split_docstring(
        None
    ) == ("", "")
