"""The library reference: every module on a page, and nothing without a word."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: What every metric and every network has is described once, in the protocol or base class.
PROTOCOL = {"start", "update", "rows", "cases", "forward", "__call__"}


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
