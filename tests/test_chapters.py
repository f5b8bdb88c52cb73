"""What nbval cannot see: it re-runs the outputs of a pair, never asks whether they are there or
whose they are.
"""

import hashlib
import json
import re
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from llfc_book import records

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.md"))
LOCAL_PATH = re.compile(rf"/(home|root|tmp|mnt|Users)/|{re.escape(str(ROOT))}|\x1b\[")
each_chapter = pytest.mark.parametrize("name", NAMES)


def source(name: str) -> nbformat.NotebookNode:
    return jupytext.read(NOTEBOOKS / f"{name}.md")


def pair(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def test_sources_pairs_and_table_of_contents_name_the_same_chapters():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [
        Path(toc["root"]),
        *(
            Path(page["file"])
            for part in toc["parts"]
            for chapter in part["chapters"]
            for page in (chapter, *chapter.get("sections", ()))
        ),
    ]
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES
    assert sorted(file.name for file in files if file.parent.name == "notebooks") == NAMES


@each_chapter
def test_outputs_belong_to_this_source(name):
    def shape(notebook):
        return [
            (
                cell.cell_type,
                cell.source.strip(),
                cell.metadata.get("tags", []),
                cell.metadata.get("mystnb", {}),
            )
            for cell in notebook.cells
        ]

    assert shape(pair(name)) == shape(source(name)), (
        f"execute it again: make refresh CHAPTERS={name}"
    )


@each_chapter
def test_ran_once_from_top_to_bottom_in_smoke(name):
    counts = [cell.execution_count for cell in code(pair(name))]
    assert counts and counts == list(range(1, len(counts) + 1))
    assert pair(name).metadata.run.profile == "smoke"
    assert set(pair(name).metadata) == {"kernelspec", "run"}  # nothing of papermill's


@each_chapter
def test_provenance_is_that_of_today(name):
    """The records that a page opened are still those, and its sources were committed."""
    run = pair(name).metadata.run
    again = f"execute it again: make refresh CHAPTERS={name}"
    for shown in run.records:
        path = records.path_of(shown.record, shown.profile)
        assert shown.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()[:16], again
    assert not run.commit.endswith("-dirty"), f"commit the sources, then {again}"


@each_chapter
def test_outputs_can_be_published(name):
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < 3_000_000
    for output in (output for cell in code(pair(name)) for output in cell.outputs):
        if "image/png" in output.get("data", {}):  # nbval compares the words alone
            alt = output.metadata["image/png"]["alt"]
            assert len(alt) > 30 and output.data["text/plain"] == f"<figure: {alt}>"
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.get("text")
        text = {
            kind: value
            for kind, value in output.get("data", {}).items()
            if not kind.startswith("image/")
        }
        assert not LOCAL_PATH.search(json.dumps(text, ensure_ascii=False) + output.get("text", ""))
