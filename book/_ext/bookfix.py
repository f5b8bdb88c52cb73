"""What Jupyter Book 1.x does not check by itself: chapters that failed, were never run, or hold
figures without words.

So is a chapter whose source has changed since. Each finding is a Sphinx warning, so that ``-W``
stops the build. Besides, the description that a figure was displayed with becomes its alternative
text, the cell that papermill injects is dropped, and the run's provenance put at the end, folded.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from docutils import nodes
from llfc_book.show.provenance import provenance
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger("bookfix")

# A backtick in the title of a backtick fence ends it: the rest of a chapter turns into text.
BROKEN_FENCE = re.compile(r"^\s*`{3,}\{[^}\n]+\}[^\n]*`", re.MULTILINE)
ROLE_IN_HEADING = re.compile(r"^#{1,6} .*\{[\w:]+\}`", re.MULTILINE)


def findings(cell: NotebookNode) -> Iterator[str]:
    """What is wrong with a cell of a chapter, in words."""
    text, outputs = cell.source, cell.get("outputs", [])
    if "papermill-error-cell-tag" in cell.metadata.get("tags", []):
        yield "left over from a failed run"
    if cell["cell_type"] == "markdown" and BROKEN_FENCE.search(text):
        yield "a backtick inside the title of a backtick fence; use a colon fence"
    if cell["cell_type"] == "markdown" and ROLE_IN_HEADING.search(text):
        yield "a role in a heading shows raw in the side bar"
    if cell["cell_type"] == "code" and text.strip() and cell.get("execution_count") is None:
        yield "never executed"
    for output in outputs:
        if output["output_type"] == "error":
            yield f"holds the error {output.get('ename')}: {output.get('evalue')}"
        if output.get("name") == "stderr":
            yield "wrote to stderr"
        if BROKEN_FENCE.search(output.get("data", {}).get("text/markdown", "")):
            yield "displayed markdown with a backtick inside the title of a backtick fence"
    if sum("image/png" in output.get("data", {}) for output in outputs) > 1:
        yield "two figures in one cell, which would share one alternative text"


def is_stale(notebook: NotebookNode, written: Path) -> bool:
    """Whether the notebook has other cells than the source beside it."""
    cells, source = notebook.cells, jupytext.read(written).cells
    return [(c.cell_type, c.source) for c in cells] != [(c.cell_type, c.source) for c in source]


def warn(docname: str, text: str, *arguments: object) -> None:
    log.warning(text, *arguments, location=docname, type="bookfix")


def read_chapter(app: Sphinx, docname: str, source: list[str]) -> None:
    """On "source-read": check the chapter and prepare it for MyST-NB."""
    path = Path(app.env.doc2path(docname))
    if path.suffix != ".ipynb":
        for match in BROKEN_FENCE.finditer(source[0]):
            warn(docname, "a backtick inside the title of a backtick fence: %s", match[0].strip())
        return
    notebook, written = nbformat.reads(source[0], as_version=4), path.with_suffix(".md")
    cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    notebook.cells = cells
    if written.exists() and is_stale(notebook, written):
        other = "its outputs belong to another source than %s: execute it again"
        warn(docname, other, written.name)
    if (notebook["metadata"].get("papermill") or {}).get("exception"):
        warn(docname, "papermill recorded an exception")
    for number, cell in enumerate(cells):
        for finding in findings(cell):
            warn(docname, "cell %d: %s", number, finding)
        for output in cell.get("outputs", []):
            if alt := output.get("metadata", {}).get("image/png", {}).get("alt", ""):
                cell["metadata"].setdefault("mystnb", {}).setdefault("image", {})["alt"] = alt
    run = notebook["metadata"].get("run") or {}
    if missing := [key for key in ("profile", "commit", "cpu", "seconds") if key not in run]:
        warn(docname, "no provenance (%s): execute it again", ", ".join(missing))
    else:
        cells.append(nbformat.v4.new_markdown_cell(provenance(run)))
    source[0] = nbformat.writes(notebook)


def check_images(app: Sphinx, doctree: nodes.document) -> None:
    """On "doctree-read": every image needs words, a computed figure as well as one in the text."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt"):
            log.warning("a figure without alternative text", location=image, type="bookfix")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", read_chapter)
    app.connect("doctree-read", check_images)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
