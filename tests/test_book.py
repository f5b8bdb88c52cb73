"""How chapters are executed and what the build refuses, on small chapters of their own."""

import base64
import hashlib
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "book" / "_tools"
HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

"""
PARAMETERS = """```{code-cell}
:tags: [parameters, remove-cell]

profile = "smoke"  # smoke | lite | paper
repeat = 1  # how often
```"""


def chapter(title: str, *cells: str) -> str:
    """The source of a chapter: its title, the parameters cell and ``cells``."""
    return (
        HEADER
        + "\n\n".join(
            [f"# {title}", PARAMETERS, *(f"```{{code-cell}}\n{cell}\n```" for cell in cells)]
        )
        + "\n"
    )


GOOD = chapter(
    "Good",
    "import os\nwith open(os.environ['LLFC_PROGRESS'], 'a') as file:\n"
    "    file.write('trunk: 1 of 2, loss 0.5, 3 s left\\n')",
    "from IPython.display import display\ndisplay({'text/plain': 'digits'}, raw=True,"
    " metadata={'run': {'data': 'digits'}})",
    # not TCP ports, which two chapters can be told at once
    "from ipykernel.connect import get_connection_info\nassert"
    " get_connection_info(unpack=True)['transport'] == 'ipc'\nprofile * repeat",
)
CHAPTERS = {
    "good": GOOD,
    "bad": chapter("Bad", "print('so far')", "# divide\n1 / 0", "print('never')"),
    "quits": chapter("Quits", "import sys\nsys.exit()", "print('never')"),
}


def load_tool(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of book/_tools, one of which is called as a module of Python is."""
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location(f"book_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def execute(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    packages = os.pathsep.join(map(str, (ROOT, ROOT / "book")))  # before a toy's folder llfc_lib
    return subprocess.run(
        [sys.executable, str(TOOLS / "execute.py"), *arguments, "--root", str(root)],
        capture_output=True,
        text=True,
        env={**os.environ, "LLFC_CACHE": str(root / "cache"), "PYTHONPATH": packages},
    )


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A project of three chapters, two of which fail, after one run over earlier products."""
    root = tmp_path_factory.mktemp("project")
    for name, text in CHAPTERS.items():
        for folder in ("notebooks", "_build/chapters/smoke", "_build/failed"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{name}.ipynb").write_text("of before")
        (root / "notebooks" / f"{name}.md").write_text(text)
    return root, execute(root)


def test_failed_chapters_are_named_and_the_others_still_run(executed):
    root, done = executed
    assert done.returncode == 1
    assert re.search(
        r"chapter 1 of 3: bad FAILED after \d+ s\n"
        r"cell 3 of 4 \('# divide'\): ZeroDivisionError: division by zero",
        done.stdout,
    )
    assert re.search(
        r"chapter 3 of 3: quits FAILED after \d+ s\ncell \d of 3 .*cell 2 did not run to its end",
        done.stdout,
    )
    assert re.search(r"chapter 2 of 3: good done in \d+ s", done.stdout)
    assert done.stdout.endswith("1 of 3 chapters executed in profile smoke\n")
    # what the library says between the cells
    assert "  good: cell 2 of 4\n  good: trunk: 1 of 2, loss 0.5, 3 s left\n" in done.stdout


def test_failed_chapters_keep_what_they_got_to_and_leave_the_good_product(executed):
    root, _ = executed
    assert {path.read_text() for path in (root / "notebooks").glob("*.ipynb")} == {"of before"}
    for name in ("bad", "quits"):
        assert (root / "_build/chapters/smoke" / f"{name}.ipynb").read_text() == "of before"
    outputs = [
        output
        for cell in read(root / "_build/failed/bad.ipynb").cells
        for output in cell.get("outputs", [])
    ]
    assert outputs[0].text == "so far\n" and outputs[-1].ename == "ZeroDivisionError"
    assert not (root / "_build/failed/good.ipynb").exists()


def test_parameters_reach_the_chapter_with_their_type(executed):
    root, _ = executed
    done = execute(
        root, "good", "--profile", "lite", "-p", "repeat", "2", "--out", str(root / "elsewhere")
    )
    assert done.returncode == 0
    product = read(root / "elsewhere/good.ipynb")
    assert product.cells[-1].outputs[0].data["text/plain"] == "'litelite'"
    run = product.metadata.run
    assert (run.profile, run.data) == ("lite", "digits")
    assert run.parameters == {"profile": "lite", "repeat": 2}
    assert "papermill" not in json.dumps(product)
    assert [cell.execution_count for cell in product.cells if cell.cell_type == "code"] == list(
        range(1, 5)
    )


OPENS = """from llfc_book import records
records.provenances('fig09', 'smoke')
records.load('tab1', 'paper')
records.load('fig' + '17', 'smoke')
records.load('fig' + '08', 'paper').profile"""


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory) -> Path:
    """A small project with one chapter, a library, and records that the chapter opens by names that
    are no literals and in every way there is. It is refreshed once.
    """
    root = tmp_path_factory.mktemp("refreshed")
    for folder in ("notebooks", "llfc_lib", "book/records/smoke"):
        (root / folder).mkdir(parents=True)
    text = GOOD.replace("profile * repeat", OPENS)
    (root / "notebooks/good.md").write_text(text)
    (root / "llfc_lib/code.py").write_text("x = 1")
    (root / "book/records/smoke/fig08.json").write_text("{}")
    assert "good done in" in execute(root, "--refresh").stdout
    return root


@pytest.fixture
def project(refreshed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(refreshed, tmp_path / "project")


def test_a_page_lists_every_record_that_it_opened_and_where_it_comes_from(refreshed):
    listed = read(refreshed / "notebooks/good.ipynb").metadata.run.records
    assert {(entry.record, entry.profile) for entry in listed} == {
        ("fig08", "paper"),
        ("tab1", "paper"),
        ("fig17", "smoke"),
        ("fig09", "smoke"),
    }
    for entry in listed:
        path = ROOT / "book/records" / entry.profile / f"{entry.record}.json"
        assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    (shown,) = (entry for entry in listed if entry.record == "fig08")
    pairs = json.loads((ROOT / "book/records/paper/fig08.json").read_text())["pairs"].values()
    assert (shown.pairs, shown.data) == (len(pairs), ["mnist"])
    assert shown.train_minutes == round(sum(p["train_seconds"] for p in pairs) / 60)
    assert set(shown.seeds) == {seed for p in pairs for seed in p["seeds"].values()}
    assert set(shown.commits) == {commit for p in pairs for commit in p["commit"].split(", ")}


def test_an_edit_of_prose_executes_nothing(project):
    source, pair = project / "notebooks/good.md", project / "notebooks/good.ipynb"
    before = read(pair)
    source.write_text(source.read_text().replace("# Good", "# Better"))
    assert "good has nothing to execute" in execute(project, "--refresh").stdout
    after = read(pair)
    assert after.cells[0].source == "# Better" and after.cells[1:] == before.cells[1:]
    assert after.metadata == before.metadata


def test_executing_twice_writes_the_same_but_for_the_seconds(project):
    pair = project / "notebooks/good.ipynb"
    first = pair.read_text()
    pair.unlink()
    assert "good done in" in execute(project, "--refresh").stdout
    first, second = (re.sub(r'"seconds": [\d.]+', "", text) for text in (first, pair.read_text()))
    assert first == second and not (project / "_build").exists()


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("notebooks/good.md", "fig' + '17", "fig' '17"),
        ("llfc_lib/code.py", "1", "2"),
        ("book/records/smoke/fig08.json", "{}", "{ }"),
    ],
)
def test_other_code_library_or_records_are_executed(project, monkeypatch, name, old, new):
    tool = load_tool("execute", monkeypatch)
    arguments = project, "good", project / "notebooks/good.ipynb"
    assert tool.is_up_to_date(*arguments)
    (project / name).write_text((project / name).read_text().replace(old, new))
    assert not tool.is_up_to_date(*arguments)


def test_unknown_names_are_refused_before_anything_runs(executed):
    for arguments in (["nope"], ["--profile", "smok"], ["--refresh", "--profile", "lite"]):
        done = execute(executed[0], *arguments)
        assert done.returncode == 2 and not done.stdout, arguments


# the build

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def figure(alt: str | None) -> nbformat.NotebookNode:
    metadata = {"image/png": {"width": 640, **({"alt": alt} if alt else {})}}
    return nbformat.v4.new_output(
        "display_data", {"image/png": PIXEL, "text/plain": "<figure>"}, metadata=metadata
    )


RUN = {
    "profile": "smoke",
    "commit": "abc123",
    "cpu": "a processor",
    "threads": 1,
    "seconds": 1.0,
    "python": "3.11.7",
    "torch": "2.13.0",
}


def page(
    title: str,
    *outputs: nbformat.NotebookNode,
    text: str = "Words.",
    count: int | None = 1,
    tags: tuple = (),
    run: dict = RUN,
) -> str:
    """A notebook: title, text, and one executed code cell with ``outputs``."""
    cell = nbformat.v4.new_code_cell(
        "1 + 1", execution_count=count, outputs=list(outputs), metadata={"tags": list(tags)}
    )
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(f"# {title}\n\n{text}"), cell]
    )
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "run": run,
    }
    return nbformat.writes(notebook)


def stream(name: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("stream", name=name, text="careful\n")


LIBRARY = '''"""A library: |x| <= *y*, x_1 and ``*words``."""

from functools import cached_property

raise RuntimeError("a build reads modules and imports none")


class Row:
    """One row."""

    @cached_property
    def double(self) -> float:
        """Twice the row."""


def first(x: Row, of: "list[float] | None" = None, how: str = "as is") -> float:
    """The first; see :func:`second`."""


def second() -> None:
    """The second."""


def _hidden() -> None:
    """Nobody's."""
'''


def build(folder: Path, pages: dict[str, str], **environment: str) -> subprocess.CompletedProcess:
    """Strictly build a book of ``pages`` (name with suffix: content) with this project's
    configuration.
    """
    shutil.copy(ROOT / "_config.yml", folder)
    shutil.copytree(
        ROOT / "book" / "_ext",
        folder / "book" / "_ext",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copytree(ROOT / "book" / "_static" / "tippy", folder / "book" / "_static" / "tippy")
    shutil.copy(ROOT / "book" / "_static" / "api.css", folder / "book" / "_static")
    (folder / "llfc_lib").mkdir()
    (folder / "llfc_lib" / "__init__.py").write_text(LIBRARY)
    (folder / "book" / "pixel.png").write_bytes(base64.b64decode(PIXEL))
    for name in ("references.bib", "_static/book.css"):
        shutil.copy(ROOT / "book" / name, folder / "book" / name)
    (folder / "book" / "index.md").write_text(
        "# Start\n\n{cite:p}`zhou2023going`, $x$.\n\n```{bibliography}\n```\n"
    )
    for name, content in pages.items():
        (folder / "book" / name).write_text(content)
    files = "".join(f"  - file: book/{Path(name).stem}\n" for name in pages)
    (folder / "_toc.yml").write_text(f"format: jb-book\nroot: book/index\nchapters:\n{files}")
    jupyter_book = str(Path(sys.executable).with_name("jupyter-book"))
    command = [jupyter_book, "build", str(folder), "--all", "-W", "-n", "--keep-going"]
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


BROKEN = "```{note} of `x`\nwords\n```"
FAULTS = {
    "failed.ipynb": (
        page(
            "A", nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=["no"])
        ),
        "cell 1: holds the error ValueError: no",
    ),
    "leftover.ipynb": (
        page("B", tags=("papermill-error-cell-tag",)),
        "cell 1: left over from a failed run",
    ),
    "neverrun.ipynb": (page("C", count=None), "cell 1: never executed"),
    "stderr.ipynb": (page("D", stream("stderr")), "cell 1: wrote to stderr"),
    "wordless.ipynb": (page("E", figure(None)), "a figure without alternative text"),
    "two.ipynb": (page("F", figure("one"), figure("two")), "cell 1: two figures in one cell"),
    "fence.ipynb": (
        page("G", text=BROKEN),
        "cell 0: a backtick inside the title of a backtick fence",
    ),
    "shown.ipynb": (
        page("H", nbformat.v4.new_output("display_data", {"text/markdown": BROKEN})),
        "cell 1: displayed markdown with a backtick inside the title",
    ),
    "heading.ipynb": (page("I", text="## See {ref}`x`"), "cell 0: a role in a heading"),
    "unsaid.ipynb": (page("L", run={"profile": "smoke"}), "no provenance (commit, cpu, seconds)"),
    "plain.md": (f"# J\n\n{BROKEN}\n", "a backtick inside the title of a backtick fence"),
    "lost.md": ("# M\n\n{py:func}`llfc_lib.lost`\n", "reference target not found: llfc_lib.lost"),
    "picture.md": ("# K\n\n![](pixel.png)\n", "a figure without alternative text"),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    return build(
        tmp_path_factory.mktemp("faulty"), {name: content for name, (content, _) in FAULTS.items()}
    )


@pytest.mark.parametrize("name", FAULTS)
def test_the_build_refuses(refused, name):
    assert refused.returncode != 0
    warnings = [
        line
        for line in refused.stdout.splitlines()
        if "WARNING" in line and f"book/{Path(name).stem}" in line
    ]
    assert any(FAULTS[name][1] in line for line in warnings), refused.stdout


def test_a_good_chapter_is_rendered_with_its_words_and_provenance(tmp_path):
    origin = {"record": "fig08", "profile": "paper", "pairs": 3, "data": ["mnist"]}
    origin |= {"seeds": ["0A", "0B"], "commits": ["c0ffee"], "device": ["cpu"], "cpu": ["fast"]}
    origin |= {"threads": ["1"], "torch": ["2"], "python": ["3"], "finished": "2026-01-02"}
    origin |= {"train_minutes": 1234, "measure_minutes": 5}
    run = RUN | {"data": "digits", "device": "cpu", "seeds": [0, 1], "records": [origin]}
    text = page("Good", figure("Error over alpha, flat."), run=run)
    notebook = nbformat.reads(text, as_version=4)
    injected = nbformat.v4.new_code_cell(
        "profile = 'smoke'  # dropped", metadata={"tags": ["injected-parameters"]}
    )
    notebook.cells.insert(1, injected)
    done = build(tmp_path, {"good.ipynb": nbformat.writes(notebook)})
    assert done.returncode == 0 and "WARNING" not in done.stdout, done.stdout
    shown = (tmp_path / "_build/html/book/good.html").read_text()
    assert 'alt="Error over alpha, flat."' in shown and "dropped" not in shown
    head = shown[shown.index("How this page was made") :]
    assert "Words." not in head  # it stands at the end
    head = re.sub(r"<[^>]*>|\s+", " ", head)
    for part in ("abc123", "digits", "seeds 0, 1", "fig08", "paper", "0A, 0B", "c0ffee", "1,234"):
        assert part in head, head


def extension(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda notebook: None, ""),
        (
            lambda notebook: notebook["cells"][1].update(source="1 + 2"),
            "belong to another source than page.md",
        ),
        (
            lambda notebook: notebook["metadata"].update(papermill={"exception": True}),
            "papermill recorded an exception",
        ),
    ],
)
def test_a_chapter_of_another_source_or_a_failed_run_is_refused(tmp_path, caplog, change, expected):
    notebook = json.loads(page("Page"))
    (tmp_path / "page.md").write_text(
        jupytext.writes(nbformat.reads(page("Page"), as_version=4), fmt="md:myst")
    )
    change(notebook)
    app = SimpleNamespace(env=SimpleNamespace(doc2path=lambda docname: tmp_path / "page.ipynb"))
    extension("bookfix").read_chapter(app, "page", [json.dumps(notebook)])
    assert (expected in caplog.text) if expected else not caplog.text


def test_a_run_from_uncommitted_sources_says_so(tmp_path, monkeypatch):
    tool = load_tool("execute", monkeypatch)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/a.md").write_text("one")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    assert re.fullmatch("[0-9a-f]{12}", tool.commit(tmp_path))
    (tmp_path / "notebooks/a.ipynb").write_text("outputs do not count")
    assert not tool.commit(tmp_path).endswith("-dirty")
    (tmp_path / "notebooks/a.md").write_text("two")
    assert tool.commit(tmp_path).endswith("-dirty")


EVERYTHING = """
:::{prf:theorem} A theorem (paper: Theorem 1)
:label: thm-tiny
If {eq}`eq-tiny` holds, $x=1$.
:::

:::{prf:proof}
It does {cite:p}`zhou2023going`.
:::

```{math}
:label: eq-tiny
x^2=1
```

:::{glossary}
word
  What it means.
:::

See {prf:ref}`thm-tiny`, {term}`word`, {numref}`fig-tiny` and [this page](all).

```{figure} pixel.png
:name: fig-tiny
:alt: A pixel.
Nothing to see.
```

```{eval-rst}
.. autoapimodule:: llfc_lib
```
"""


@pytest.fixture(scope="module")
def built_twice(tmp_path_factory) -> list[dict[str, bytes]]:
    """The files of the same book, built with Python's hashes in two orders."""
    builds = []
    for seed in ("1", "2"):
        folder = tmp_path_factory.mktemp(f"all{seed}")
        done = build(folder, {"all.md": f"# Everything\n{EVERYTHING}"}, PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stdout
        root = folder / "_build" / "html"
        files = (path for path in root.rglob("*") if path.is_file())
        builds.append({str(path.relative_to(root)): path.read_bytes() for path in files})
    return builds


def test_two_builds_are_the_same_to_the_byte(built_twice):
    first, second = built_twice
    assert set(first) == set(second)
    assert not [name for name in first if first[name] != second[name]]


def test_the_library_is_shown_as_it_was_written_and_its_names_lead_somewhere(built_twice):
    page = built_twice[0]["book/all.html"].decode()
    text = " ".join(html.unescape(re.sub("<[^>]*>", "", page)).split())
    for part in (
        "A library: |x| <= *y*, x_1 and *words.",
        "first(x: Row, of: list[float] | None = None, how: str = 'as is') → float",
        "property double: float",
    ):
        assert part in text, text
    assert "Nobody" not in text
    for name in ("Row", "second"):
        assert f'href="#llfc_lib.{name}" title="llfc_lib.{name}"' in page


# what is staged


def test_a_product_of_another_source_is_not_shown(executed, tmp_path, monkeypatch, capsys):
    site = load_tool("site", monkeypatch)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "book" / "records").mkdir(parents=True)
    (tmp_path / "llfc_lib").mkdir()
    shutil.copytree(executed[0] / "notebooks", tmp_path / "notebooks")
    product = tmp_path / "_build/chapters/smoke/good.ipynb"
    product.parent.mkdir(parents=True)
    shutil.copy(executed[0] / "_build/chapters/smoke/good.ipynb", product)

    staged = site.stage(tmp_path, "smoke") / "notebooks"
    assert (staged / "good.ipynb").read_bytes() == product.read_bytes()
    assert (staged / "bad.ipynb").read_text() == "of before"
    assert "bad as it stands was not executed in profile smoke" in capsys.readouterr().out
    assert not (staged.parent / "book" / "records").exists()

    (tmp_path / "notebooks/good.md").write_text(
        GOOD.replace("profile * repeat", "profile * repeat * 2")
    )
    assert (site.stage(tmp_path, "smoke") / "notebooks/good.ipynb").read_text() == "of before"
    (tmp_path / "notebooks/good.md").write_text(GOOD)
    assert (site.stage(tmp_path, None) / "notebooks/good.ipynb").read_text() == "of before"
