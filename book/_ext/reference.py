"""The library reference: what sphinx-autoapi shows of ``llfc_lib``, which it reads and never
imports.

The pages in ``book/api`` name modules; their public functions and classes come with signature and
docstring. A reference to something that the library does not have is a warning of Sphinx.
"""

import re
import sys
from pathlib import Path
from typing import Any

import astroid
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

#: Docstrings are plain text but for these two: |x| or a * in a formula is no markup.
MARKUP = re.compile(r"(``.+?``|:\w+:`[^`]+`)", re.DOTALL)
#: Pages of the book that a section of the appendix is linked to.
SECTION = re.compile(r"\b(A\.[1-3]|B\.[1-5])(\.\d)?\b")
CHAPTERS = {
    f"{name[0]}.{name[1]}": f"/notebooks/{name}"
    for name in ("A1_lemma", "A2_theorem", "A3_assignment", "B1_settings", "B2_llfc")
    + ("B3_commutativity", "B4_stitching", "B5_rebasin")
}


def hide_other_libraries(app: Sphinx) -> None:
    """On "builder-inited", before autoapi: astroid would follow base classes and constants into
    torch, which takes longer than all the rest of a build. It is given empty modules instead.
    """
    folder = Path(app.srcdir, app.config.autoapi_dirs[0])
    for path in folder.rglob("*.py"):
        for name in re.findall(r"^ *(?:from|import) ([\w.]+)", path.read_text(), re.MULTILINE):
            parts = name.split(".")
            if parts[0] != folder.name and parts[0] not in sys.stdlib_module_names:
                for length in range(1, len(parts) + 1):
                    astroid.parse("", module_name=".".join(parts[:length]))


def prefer_modules(app: Sphinx) -> None:
    """On "builder-inited", after autoapi: ``metrics.llfc`` is the module, although the package
    imports a function of that name from it.
    """
    for name, module in app.env.autoapi_objects.items():
        module.children = [part for part in module.children if not part.obj.get("original_path")]
        app.env.autoapi_all_objects[name] = module


def skip_member(
    app: Sphinx, kind: str, name: str, shown: Any, skip: bool, options: dict[str, Any]
) -> bool | None:
    """On "autodoc-skip-member": what has no docstring is left out (a metric's ``update``, say, is
    described once, in the protocol), but for the fields of dataclasses, which have types.
    """
    is_field = shown.type == "attribute" and bool(shown.annotation)
    return name.startswith("_") or not (shown.docstring or is_field)


def plain_docstring(
    app: Sphinx, kind: str, name: str, shown: Any, options: Any, lines: list[str]
) -> None:
    """On "autodoc-process-docstring": escape what reStructuredText would take for markup, and
    link the sections of the appendix that a docstring names as its source.
    """
    parts = MARKUP.split("\n".join(lines))
    parts[::2] = [re.sub(r"[\\*|`]|_\b", r"\\\g<0>", part) for part in parts[::2]]
    text, source, names = "".join(parts).partition("\nSource: ")
    names = SECTION.sub(lambda found: f":doc:`{found[0]} <{CHAPTERS[found[1]]}>`", names)
    lines[:] = (text + source + names).splitlines()


def resolve_import(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """On "missing-reference": a name as the module that mentions it sees it, through its imports.
    A constant is no part of the reference: it is there, but nothing to link to.
    """
    if node.get("refdomain") != "py":
        return None
    module, owner, target = node.get("py:module"), node.get("py:class"), node["reftarget"]
    objects = env.autoapi_all_objects
    for name in (f"{module}.{owner}.{target}", f"{module}.{target}", target):
        while original := getattr(objects.get(name), "obj", {}).get("original_path"):
            name = original
        if name in objects:
            link = env.get_domain("py").resolve_xref(
                env, node["refdoc"], app.builder, "obj", name, node, content
            )
            return link or content
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("autoapi.extension")
    app.add_css_file("api.css")
    app.connect("builder-inited", hide_other_libraries, priority=100)
    app.connect("builder-inited", prefer_modules, priority=900)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("missing-reference", resolve_import)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
