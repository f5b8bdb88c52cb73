"""What Jupyter Book 1.x does not check by itself: chapters that failed, were never run, or hold
figures without words.

So is a chapter whose source has changed since. Each finding is a Sphinx warning, so that ``-W``
stops the build. Besides, the description that a figure was displayed with becomes its alternative
text, the cell that papermill injects is dropped, and the run's provenance is put under the title.
"""

import json
import re
from pathlib import Path
from typing import Any

import jupytext
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger("bookfix")

# A backtick in the title of a backtick fence ends it: the rest of the chapter silently turns into
# text.
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
                found.append(
                    "displayed markdown with a backtick inside the title of a backtick fence"
                )
        if sum("image/png" in output.get("data", {}) for output in outputs) > 1:
            found.append("two figures in one cell, which would share one alternative text")
    return found


def is_stale(notebook: dict[str, Any], written: Path) -> bool:
    """Whether the notebook has other cells than the source beside it, leaving aside the one that
    papermill injects.
    """
    cells = [
        (cell["cell_type"], text_of(cell))
        for cell in notebook["cells"]
        if "injected-parameters" not in tags_of(cell)
    ]
    return cells != [(cell.cell_type, cell.source) for cell in jupytext.read(written).cells]


def alt_of(output: dict[str, Any]) -> str:
    return output.get("metadata", {}).get("image/png", {}).get("alt", "")


def provenance(run: dict[str, Any]) -> str:
    """The lines under a chapter's title: the run of its live parts, then the records that it shows,
    folded.
    """
    device = (
        f"{run['device']}: " if run.get("device") else ""
    ) + f"{run['cpu']}, {run['threads']} thread"
    parts = [
        f"profile **{run['profile']}**",
        f"commit `{run['commit']}`",
        f"data: {run['data']}" if run.get("data") else "",
        device,
        f"seeds {', '.join(map(str, run['seeds']))}" if run.get("seeds") else "",
        f"{run['seconds']:.0f} s",
        f"Python {run['python']}, torch {run['torch']}",
    ]
    lines = [
        "::::{div} provenance",
        f"Live parts of this page: {'; '.join(part for part in parts if part)}.",
    ]
    if run.get("records"):
        lines += [
            "",
            ":::{dropdown} Records shown on this page",
            ":class-container: provenance-records",
            *records_table(run["records"]),
            ":::",
        ]
    return "\n".join([*lines, "::::", ""])


def records_table(records: list[dict[str, Any]]) -> list[str]:
    """One row a record and profile, as lines of a list-table."""
    lines = ["```{list-table}", ":header-rows: 1", ":class: table-scroll first-whole", ""]
    rows = [
        (
            "record",
            "profile",
            "pairs",
            "data",
            "seeds",
            "measured at commit",
            "on",
            "training and measuring (min)",
            "versions",
            "finished",
        )
    ]
    for r in records:
        rows.append(
            (
                f"`{r['record']}`",
                r["profile"],
                r["pairs"],
                ", ".join(r["data"]),
                ", ".join(r["seeds"]),
                ", ".join(f"`{commit}`" for commit in r["commits"]),
                (
                    f"{', '.join(r['device'])}: {', '.join(r['cpu'])}, {', '.join(r['threads'])}"
                    " thread"
                ),
                f"{r['train_minutes']:,} and {r['measure_minutes']:,}",
                f"Python {', '.join(r['python'])}, torch {', '.join(r['torch'])}",
                r["finished"],
            )
        )
    for row in rows:
        lines += [("* - " if k == 0 else "  - ") + str(cell) for k, cell in enumerate(row)]
    return [*lines, "```"]


def read_chapter(app: Sphinx, docname: str, source: list[str]) -> None:
    """On "source-read": check the chapter and prepare it for MyST-NB."""
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        for match in BROKEN_FENCE.finditer(source[0]):
            log.warning(
                "a backtick inside the title of a backtick fence: %s",
                match[0].strip(),
                location=docname,
            )
        return
    notebook, kept = json.loads(source[0]), []
    written = Path(app.env.doc2path(docname)).with_suffix(".md")
    if written.exists() and is_stale(notebook, written):
        log.warning(
            "its outputs belong to another source than %s: execute it again",
            written.name,
            location=docname,
            type="bookfix",
        )
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
    run = notebook["metadata"].get("run") or {}
    if missing := [key for key in ("profile", "commit", "cpu", "seconds") if key not in run]:
        log.warning(
            "no provenance (%s): execute it again",
            ", ".join(missing),
            location=docname,
            type="bookfix",
        )
    elif kept and kept[0]["cell_type"] == "markdown":
        title, _, rest = text_of(kept[0]).partition("\n")
        kept[0] = {**kept[0], "source": f"{title}\n\n{provenance(run)}\n{rest}"}
    notebook["cells"] = kept
    source[0] = json.dumps(notebook)


def check_images(app: Sphinx, doctree: nodes.document) -> None:
    """On "doctree-read": every image needs words, a computed figure as well as one in the text."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt"):
            log.warning("a figure without alternative text", location=image, type="bookfix")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", read_chapter)
    app.connect("doctree-read", check_images)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
