"""The library reference: a small package shown in a small book, and what the real pages hold."""

import ast
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
#: What every metric and every network has is described once, in the protocol.
PROTOCOL = {"start", "update", "rows", "forward", "__call__"}
PACKAGE = {
    "__init__.py": '"""A toy."""\n\nfrom toy.measure import Row, measure\n',
    "measure.py": '''"""Tools: |x| <= *y*, x_1 and :func:`measure` of ``*toys``."""

from dataclasses import dataclass
from functools import cached_property

import torch

GRID = (0.0, 0.5, 1.0)
raise RuntimeError("a build reads modules and imports none")


@dataclass
class Row:
    """One row.

    Source: Definition 2; B.2.1
    and B.9.
    """

    mean: float = 0.5

    @cached_property
    def double(self) -> torch.Tensor:
        """Twice the mean; see :data:`GRID`."""

    def update(self) -> None: ...


class Net(torch.nn.Module):
    """A network."""


def measure(values: list[Row], at: float = 0.5, how: str = "plain and simple", *, of: int) -> Net:
    """Measures."""


def _hidden() -> None:
    """Nobody's."""
''',
    "other.py": '''"""Uses :class:`Row`, :func:`lost` and :func:`torch.lost`."""

from toy import Row


def second(row: Row, other: "Lost") -> None:
    """Of another module."""
''',
}
PAGES = {
    "index": "# Start\n\n```{toctree}\ntoy\nnotebooks/B2_llfc\n```\n\n{py:class}`toy.Row`, "
    "{py:func}`toy.measure`, {py:func}`toy.measured`, [page](toy)\n",
    "toy": "# Toy\n"
    + "".join(
        f"\n## {name}\n\n```{{eval-rst}}\n.. autoapimodule:: {name}\n```\n"
        for name in ("toy", "toy.measure", "toy.other")
    ),
    "notebooks/B2_llfc": "# B.2\n",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[dict[str, str], str]:
    """The pages of the small book in HTML, and the warnings of its build."""
    folder = tmp_path_factory.mktemp("reference")
    own = {name: value for name, value in CONFIG.items() if name.startswith(("auto", "nitpick"))}
    settings = own | {
        "extensions": ["myst_parser", "reference"],
        "autoapi_dirs": ["toy"],
        "nitpicky": True,
        "html_theme": "basic",
        "html_static_path": ["static"],
        "myst_ref_domains": CONFIG["myst_ref_domains"][:1],
        "suppress_warnings": ["myst.domains"],
    }
    lines = [f"import sys; sys.path.insert(0, {str(ROOT / 'book' / '_ext')!r})"]
    lines += [f"{name} = {value!r}" for name, value in settings.items()]
    files = {f"toy/{name}": text for name, text in PACKAGE.items()}
    files |= {f"{name}.md": text for name, text in PAGES.items()} | {"conf.py": "\n".join(lines)}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "static").mkdir()
    shutil.copy(ROOT / "book" / "_static" / "api.css", folder / "static")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(folder), str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: (folder / "out" / f"{name}.html").read_text() for name in PAGES}, done.stderr


def words(html: str) -> str:
    return " ".join(unescape(re.sub("<[^>]*>", "", html)).split())


def test_signatures_and_docstrings_are_shown_as_they_were_written(built):
    text = words(built[0]["toy"])
    for part in (
        "Tools: |x| <= *y*, x_1 and measure() of *toys.",
        "class toy.measure.Row",
        "mean: float = 0.5",
        "property double: torch.Tensor",
        "list[Row], at: float = 0.5, how: str = 'plain and simple', *, of: int) → Net",
        "Source: Definition 2; B.2.1 and",
    ):
        assert part in text, text
    assert "Nobody" not in text and "update" not in text
    assert text.count("Measures.") == 1  # what a package imports is shown where it is defined


def test_names_lead_to_where_they_are_defined(built):
    page, start = built[0]["toy"], built[0]["index"]
    assert page.count('href="#toy.measure.Row" title="toy.measure.Row"') == 3
    assert 'href="notebooks/B2_llfc.html"' in page  # a section of the appendix
    assert 'href="toy.html#toy.measure.Row"' in start and 'href="toy.html"' in start


def test_only_names_that_do_not_exist_are_refused(built):
    lost = re.findall(r"reference target not found: (.+)", re.sub(r"\x1b\[[\d;]*m", "", built[1]))
    assert sorted(lost) == ["Lost", "lost", "toy.measured"], built[1]
    assert built[1].count("WARNING") == 3, built[1]


# the library


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted((ROOT / "llfc_lib").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = ast.parse(path.read_text())
    return found


def test_every_module_is_on_one_page_and_every_page_in_the_table_of_contents():
    pages = sorted((ROOT / "book" / "api").glob("*.md"))
    shown = [
        name
        for page in pages
        for name in re.findall(r"^\.\. autoapimodule:: (.+)$", page.read_text(), re.MULTILINE)
    ]
    assert sorted(shown) == sorted(set(modules()) - {"llfc_lib"})
    toc = (ROOT / "_toc.yml").read_text()
    assert all(f"file: book/api/{page.stem}\n" in toc for page in pages)


def test_every_public_method_is_described_in_its_class_or_in_the_protocol():
    """Of modules, classes and functions ruff says so (D100 to D104)."""
    bare = [
        f"{name}.{owner.name}.{method.name}"
        for name, tree in modules().items()
        for owner in ast.walk(tree)
        if isinstance(owner, ast.ClassDef) and not owner.name.startswith("_")
        for method in owner.body
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
        if not ast.get_docstring(method) and method.name not in PROTOCOL
    ]
    assert not bare
