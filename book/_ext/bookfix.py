"""What Jupyter Book 1.x does not check by itself: chapters that failed, were never run, or hold figures without words.

Each finding is a Sphinx warning, so that ``-W`` stops the build. Besides, the description that a figure was displayed
with becomes its alternative text, the cell that papermill injects is dropped, the run's provenance is put under the
title, and pages are rid of what needs a network or trips a screen reader.
"""

import json
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger("bookfix")

# A backtick in the title of a backtick fence ends it: the rest of the chapter silently turns into text.
BROKEN_FENCE = re.compile(r"^\s*`{3,}\{[^}\n]+\}[^\n]*`", re.MULTILINE)
ROLE_IN_HEADING = re.compile(r"^#{1,6} .*\{[\w:]+\}`", re.MULTILINE)


def joined(text: str | list[str]) -> str:
    """Notebooks store text as a string or as a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def text_of(cell: dict[str, Any]) -> str:
    return joined(cell.get("source", ""))


def tags_of(cell: dict[str, Any]) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def findings(cell: dict[str, Any]) -> list[str]:
    """What is wrong with a cell of a chapter, in words."""
    text, found = text_of(cell), []
    outputs = cell.get("outputs", [])
    if "papermill-error-cell-tag" in tags_of(cell):
        found.append("left over from a failed run")
    if cell["cell_type"] == "markdown":
        if BROKEN_FENCE.search(text):
            found.append("a backtick inside the title of a backtick fence; use a colon fence")
        if ROLE_IN_HEADING.search(text):
            found.append("a role in a heading shows raw in the side bar")
    if cell["cell_type"] == "code":
        if text.strip() and cell.get("execution_count") is None:
            found.append("never executed")
        for output in outputs:
            if output["output_type"] == "error":
                found.append(f"holds the error {output.get('ename')}: {output.get('evalue')}")
            if output.get("name") == "stderr":
                found.append("wrote to stderr")
            if BROKEN_FENCE.search(joined(output.get("data", {}).get("text/markdown", ""))):
                found.append("displayed markdown with a backtick inside the title of a backtick fence")
        if sum("image/png" in output.get("data", {}) for output in outputs) > 1:
            found.append("two figures in one cell, which would share one alternative text")
    return found


def alt_of(output: dict[str, Any]) -> str:
    return output.get("metadata", {}).get("image/png", {}).get("alt", "")


def provenance(run: dict[str, Any]) -> str:
    """The line under a chapter's title."""
    parts = [f"profile **{run['profile']}**"]
    parts += [f"commit `{run['commit']}`"] if run.get("commit") else []
    parts += [f"{run['seconds']:.0f} s"] if run.get("seconds") else []
    parts += [f"{run['cpu']}, {run['threads']} thread"] if run.get("cpu") else []
    parts += [f"data: {run['data']}"] if run.get("data") else []
    parts += [f"Python {run['python']}, torch {run['torch']}"]
    return ("::::{div} provenance\nThe live parts of this page were executed with " + "; ".join(parts)
            + ". Each published figure and table names the profile of its record.\n::::\n")


def read_chapter(app: Sphinx, docname: str, source: list[str]) -> None:
    """On "source-read": check the chapter and prepare it for MyST-NB."""
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        for match in BROKEN_FENCE.finditer(source[0]):
            log.warning("a backtick inside the title of a backtick fence: %s", match[0].strip(), location=docname)
        return
    notebook, kept = json.loads(source[0]), []
    if (notebook["metadata"].get("papermill") or {}).get("exception"):
        log.warning("papermill recorded an exception", location=docname)
    for number, cell in enumerate(notebook["cells"]):
        if "injected-parameters" in tags_of(cell):
            continue
        for finding in findings(cell):
            log.warning("cell %d: %s", number, finding, location=docname, type="bookfix")
        for output in cell.get("outputs", []):
            if alt_of(output):
                image = cell["metadata"].setdefault("mystnb", {}).setdefault("image", {})
                image["alt"] = alt_of(output)
        kept.append(cell)
    run = notebook["metadata"].get("run")
    if run and kept and kept[0]["cell_type"] == "markdown":
        title, _, rest = text_of(kept[0]).partition("\n")
        kept[0] = {**kept[0], "source": f"{title}\n\n{provenance(run)}\n{rest}"}
    notebook["cells"] = kept
    source[0] = json.dumps(notebook)


def check_images(app: Sphinx, doctree: nodes.document) -> None:
    """On "doctree-read": every image needs words, a computed figure as well as one in the text."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt"):
            log.warning("a figure without alternative text", location=image, type="bookfix")


def clean_page(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """On "html-page-context": drop sphinx-thebe, which names a CDN on every page and declares its script twice, and the
    roles and labels that screen readers stumble over.
    """
    def wanted(script: Any) -> bool:
        body = (getattr(script, "attributes", None) or {}).get("body", "") or ""
        return "THEBE_JS_URL" not in body and "sphinx-thebe" not in str(getattr(script, "filename", script))

    for key in ("script_files", "css_files"):
        context[key] = [script for script in context.get(key, []) if wanted(script)]
    body = context.get("body") or ""
    body = re.sub(r'<script type="text/x-thebe-config">.*?</script>\s*', "", body, flags=re.DOTALL)
    body = re.sub(r"<script>kernelName = '[^']*'</script>\s*", "", body)
    body = body.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    body = body.replace(' role="doc-biblioentry"', "")  # no longer a role of its own
    body = body.replace(' aria-label="Toggle hidden content"', "")  # hides the words that the button shows
    if context.get("body"):
        context["body"] = body


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", read_chapter)
    app.connect("doctree-read", check_images)
    app.connect("html-page-context", clean_page, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
