"""What nbval cannot see: it re-runs the outputs of a pair, never asks whether they are there or
whose they are.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from llfc_book import records

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.md"))
KNOWN_TAGS = {
    "parameters",
    "remove-cell",
    "remove-input",
    "remove-output",
    "hide-input",
    "hide-output",
    "nbval-check-output",
    "nbval-ignore-output",
    "nbval-skip",
}
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
        Path(page["file"])
        for part in toc["parts"]
        for chapter in part["chapters"]
        for page in (chapter, *chapter.get("sections", ()))
    ]
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES
    assert sorted(file.name for file in files if file.parent.name == "notebooks") == NAMES


def test_sources_stay_as_they_are_when_jupytext_syncs_them(tmp_path):
    """What happens when somebody opens a pair in Jupyter and saves it."""
    shutil.copytree(NOTEBOOKS, tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    pairs = [str(path) for path in sorted((tmp_path / "notebooks").glob("*.ipynb"))]
    for path in pairs:
        Path(path).touch()  # newer than its source: jupytext writes the source from it
    subprocess.run(
        [sys.executable, "-m", "jupytext", "--sync", *pairs], check=True, capture_output=True
    )
    for name in NAMES:
        assert (tmp_path / "notebooks" / f"{name}.md").read_text() == (
            NOTEBOOKS / f"{name}.md"
        ).read_text()


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


def test_no_comment_switches_the_comparison_off():
    for name in NAMES:
        assert not re.search(
            r"#\s*(NBVAL|PYTEST_VALIDATE)", "\n".join(cell.source for cell in code(source(name)))
        )


@each_chapter
def test_outputs_can_be_published(name):
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < 3_000_000
    for output in (output for cell in code(pair(name)) for output in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.get("text")
        text = {
            kind: value
            for kind, value in output.get("data", {}).items()
            if not kind.startswith("image/")
        }
        assert not LOCAL_PATH.search(json.dumps(text, ensure_ascii=False) + output.get("text", ""))


@each_chapter
def test_every_figure_has_words_that_nbval_compares(name):
    for cell in code(pair(name)):
        images = [
            output
            for output in cell.outputs
            if any(kind.startswith("image/") for kind in output.get("data", {}))
        ]
        assert len(images) <= 1, (
            f"two figures in one cell would share one alternative text:\n{cell.source}"
        )
        for image in images:
            alt = image.metadata.get("image/png", {}).get("alt", "")
            assert len(alt) > 30, f"no description of the figure made by\n{cell.source}"
            assert image.data == {
                "image/png": image.data["image/png"],
                "text/plain": f"<figure: {alt}>",
            }


@each_chapter
def test_one_parameters_cell_comes_first(name):
    first, *others = code(source(name))
    assert set(first.metadata.tags) == {"parameters", "remove-cell"}
    assert first.source.startswith('profile = "smoke"  # smoke | lite | paper')
    assert not any("parameters" in cell.metadata.get("tags", []) for cell in others)


@each_chapter
def test_tags_are_known(name):
    """A misspelt tag does nothing, silently."""
    assert {
        tag for cell in source(name).cells for tag in cell.metadata.get("tags", [])
    } <= KNOWN_TAGS


def test_kernels_under_nbval_have_sockets_of_their_own(tmp_path):
    """Not TCP ports, which two test processes can be told at once: then a whole chapter fails for
    nothing.
    """
    cell = (
        "from ipykernel.connect import get_connection_info\n"
        "assert get_connection_info(unpack=True)['transport'] == 'ipc'"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbformat.write(notebook, tmp_path / "page.ipynb")
    nbval = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--nbval",
        "--nbval-current-env",
        str(tmp_path),
    ]
    assert (
        b"AssertionError" in subprocess.run(nbval, capture_output=True).stdout
    )  # nbval's own way: ports
    shutil.copy(NOTEBOOKS / "conftest.py", tmp_path)
    assert subprocess.run(nbval, capture_output=True).returncode == 0
