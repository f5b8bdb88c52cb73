"""Execute chapters: notebooks/NAME.md -> _build/chapters/<profile>/NAME.ipynb, two at a time.

    python book/_tools/execute.py                              every chapter, profile smoke python
    book/_tools/execute.py B2_llfc --profile paper      one chapter at full scale python
    book/_tools/execute.py --refresh                    the tracked pairs notebooks/NAME.ipynb
    (smoke)

A chapter that fails names its cell; what it got to is kept in _build/failed, the last good product
stays, the other chapters still run, and the exit status is 1. Unknown chapters, profiles and
parameters are refused with status 2.
"""

import argparse
import ast
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from nbformat import NotebookNode
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ("smoke", "lite", "paper")
#: A socket's path holds about a hundred characters, which TMPDIR may use up.
SHORT = "/tmp" if len(tempfile.gettempdir()) > 60 else None
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def load(root: Path, name: str) -> NotebookNode:
    """The chapter's source as a notebook without outputs, its cell ids the same each time."""
    notebook = jupytext.read(root / "notebooks" / f"{name}.md")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = hashlib.sha1(f"{name}:{number}".encode()).hexdigest()[:12]
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def declared(notebook: NotebookNode) -> dict[str, Any]:
    """Names and defaults in the cell tagged `parameters`."""
    return {
        target.id: ast.literal_eval(statement.value)
        for cell in notebook.cells
        if "parameters" in cell.metadata.get("tags", [])
        for statement in ast.parse(cell.source).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that execute: not those without code, nor the one that papermill injects."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code"
        and cell.source.strip()
        and "injected-parameters" not in cell.metadata.get("tags", [])
    ]


def commit(root: Path) -> str:
    git = partial(subprocess.run, cwd=root, capture_output=True, text=True)
    head = git(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
    dirty = git(
        [
            "git",
            "status",
            "--porcelain",
            "--",
            "llfc_lib",
            "notebooks/*.md",
            "book/records",
            "book/endpoints",
        ]
    ).stdout
    return (head or "unknown") + ("-dirty" if dirty else "")


def provenance(root: Path, notebook: NotebookNode, parameters: dict[str, Any]) -> dict[str, Any]:
    """What ``metadata.run`` says: of the run, and of the records that the chapter shows."""
    from llfc_book.chapter import drawn_by, origin
    from llfc_book.study.units import cpu_name

    shown = dict.fromkeys(
        re.findall(
            r'\bpublished\("(\w+)"\)', "\n".join(cell.source for cell in code_cells(notebook))
        )
    )
    return {
        "profile": parameters["profile"],
        "commit": commit(root),
        "cpu": cpu_name(),
        "threads": 1,
        "python": platform.python_version(),
        "torch": version("torch"),
        "parameters": parameters,
        "drawn_by": drawn_by(),
        "records": [entry for name in shown for entry in origin(name)],
    }


def clean(notebook: NotebookNode, run: dict[str, Any]) -> NotebookNode:
    """Strip papermill's timings and paths; keep one block, ``metadata.run``, to which an output
    displayed with metadata ``{"run": {...}}`` adds: so a chapter can name its data set.
    """
    notebook.cells = [
        c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])
    ]
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
    for count, cell in enumerate(code_cells(notebook), 1):
        cell.execution_count = count
        for output in cell.outputs:
            run = {**run, **output.get("metadata", {}).pop("run", {})}
            output.update({"execution_count": count} if "execution_count" in output else {})
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "run": run})
    return notebook


def check_complete(notebook: NotebookNode) -> None:
    """papermill takes sys.exit() in a cell for success; here every cell must have run, and without
    an error.
    """
    for number, cell in enumerate(code_cells(notebook), 1):
        if cell.execution_count is None or any(
            output.output_type == "error" for output in cell.outputs
        ):
            raise RuntimeError(f"cell {number} did not run to its end")


def execute(root: Path, name: str, parameters: dict[str, Any], target: Path) -> None:
    """Run one chapter in this process, to ``target``. If it fails the process ends with a message."""
    chapter, where = load(root, name), "before its first cell"
    number_of = {cell["id"]: number for number, cell in enumerate(code_cells(chapter), 1)}

    def on_cell_start(cell: NotebookNode, cell_index: int) -> None:
        nonlocal where
        if number := number_of.get(cell.get("id")):
            where = f"cell {number} of {len(number_of)}"
            with open(
                os.environ["LLFC_PROGRESS"], "a"
            ) as file:  # the library writes there too, from the kernel
                file.write(f"{where}\n")
            where += (
                f" ({next(line for line in cell.source.splitlines() if line.strip()).strip()!r})"
            )

    run = provenance(root, chapter, parameters)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SHORT) as folder:
        source, product = Path(folder) / f"{name}.ipynb", Path(folder) / f"{name}.out.ipynb"
        nbformat.write(chapter, source)
        began = time.monotonic()
        kept = root / "_build" / "failed" / f"{name}.ipynb"
        kept.unlink(missing_ok=True)
        # Sockets in a folder of its own: two chapters that ask for free TCP ports at once can be
        # told the same ones.
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        try:
            papermill.execute_notebook(
                str(source),
                str(product),
                parameters=parameters,
                cwd=str(root),
                progress_bar=False,
                kernel_name="python3",
                on_cell_start=on_cell_start,
                config=sockets,
            )
            notebook = nbformat.read(product, as_version=4)
            check_complete(notebook)
            notebook = clean(notebook, {**run, "seconds": round(time.monotonic() - began, 1)})
            nbformat.validate(notebook)
        # the cell's own, a dead kernel, an invalid notebook: all the same to the reader
        except Exception as error:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes((product if product.exists() else source).read_bytes())
            what = (
                f"{getattr(error, 'ename', type(error).__name__)}:"
                f" {getattr(error, 'evalue', error)}"
            )
            sys.exit(
                f"{where}: {what}\nwhat it got to is in {kept.relative_to(root)}; the last good"
                " product stays"
            )
        partial = target.with_name(f".{target.name}.partial")
        nbformat.write(notebook, partial)
        os.replace(partial, target)


def say(text: str) -> None:
    print(f"{text}\n", end="", flush=True)  # in one piece: several threads print


def execute_all(root: Path, targets: dict[str, Path], parameters: dict[str, Any], jobs: int) -> int:
    """Run chapters (name: where the product goes), each in a process of its own; returns how many
    failed.
    """

    def one(number: int, name: str) -> bool:
        title, began = f"chapter {number} of {len(targets)}: {name}", time.monotonic()
        say(f"{title} ...")
        with tempfile.TemporaryDirectory() as folder:
            progress, log = Path(folder) / "progress", Path(folder) / "log"
            progress.touch()
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
                "LLFC_PROGRESS": str(progress),
            }
            arguments = json.dumps([name, parameters, str(targets[name])])
            with open(log, "w") as output, open(progress) as lines:
                process = subprocess.Popen(
                    [sys.executable, __file__, "--root", str(root), "--one", arguments],
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                running = True
                while running:
                    running = process.poll() is None
                    for line in lines:
                        say(f"  {name}: {line.rstrip()}")
                    time.sleep(0.2)
            seconds = f"{time.monotonic() - began:.0f} s"
            told = "\n".join(
                line
                for line in log.read_text().splitlines()
                if not line.startswith("[IPKernelApp]")
            )
            how = f"FAILED after {seconds}\n{told}" if process.returncode else f"done in {seconds}"
            say(f"{title} {how}")
        return process.returncode != 0

    pool = ThreadPoolExecutor(jobs)
    try:
        return list(pool.map(one, range(1, len(targets) + 1), targets)).count(True)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C no further chapter starts


def check_parameters(
    root: Path, names: list[str], profile: str, given: list[list[str]]
) -> dict[str, Any]:
    """`-p name value` pairs, typed as the chapters' defaults; ValueError for one that a chapter
    does not have, since papermill takes any name and a misspelt one does nothing.
    """
    parameters: dict[str, Any] = {"profile": profile}
    for name in names:
        known = declared(load(root, name))
        for key, text in given:
            if key not in known:
                raise ValueError(f"unknown parameter {key!r}; chapter {name} has {sorted(known)}")
            try:
                parameters[key] = (
                    text
                    if isinstance(known[key], str)
                    else type(known[key])(ast.literal_eval(text))
                )
            except (ValueError, SyntaxError) as error:
                raise ValueError(
                    f"parameter {key} takes a value like {known[key]!r}, not {text!r}"
                ) from error
    if parameters["profile"] not in PROFILES:
        raise ValueError(f"unknown profile {parameters['profile']!r}; choose from {list(PROFILES)}")
    return parameters


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="chapters (default: all)")
    parser.add_argument("--profile", default="smoke")
    parser.add_argument(
        "--refresh", action="store_true", help="write the tracked pairs, in profile smoke"
    )
    parser.add_argument(
        "--jobs", type=int, choices=range(1, 9), default=2, metavar="N", help="chapters at a time"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the products (default: _build/chapters/<profile>)"
    )
    parser.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE")
    )
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument(
        "--one", type=json.loads, help=argparse.SUPPRESS
    )  # one chapter, in this process
    options = parser.parse_args()
    root = options.root.resolve()
    if options.one:
        name, parameters, target = options.one
        execute(root, name, parameters, Path(target))
        return 0
    known = sorted(path.stem for path in (root / "notebooks").glob("*.md"))
    names = list(dict.fromkeys(options.names)) or known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown chapter {unknown[0]!r}; choose from {known}")
    try:
        parameters = check_parameters(root, names, options.profile, options.parameters)
    except ValueError as error:
        parser.error(str(error))
    if options.refresh and (options.out or parameters != {"profile": "smoke"}):
        parser.error("--refresh writes the tracked pairs: profile smoke, no parameters, no --out")
    folder = options.out or root / (
        "notebooks" if options.refresh else f"_build/chapters/{parameters['profile']}"
    )
    targets = {name: folder.resolve() / f"{name}.ipynb" for name in names}
    failed = execute_all(root, targets, parameters, options.jobs)
    say(
        f"{len(targets) - failed} of {len(targets)} chapters executed in profile"
        f" {parameters['profile']}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
