"""Execute chapters with papermill: notebooks/NAME.md -> _build/chapters/<profile>/NAME.ipynb.

Usage::

    python book/_tools/execute.py                            # every chapter, profile smoke
    python book/_tools/execute.py B2_llfc --profile paper    # one chapter at full scale
    python book/_tools/execute.py --refresh                  # the tracked pairs NAME.ipynb (smoke)

Two chapters run at a time. One that fails names its cell; what it got to is kept in _build/failed,
the last good product stays, the others still run, and the exit status is 1. Unknown chapters,
profiles are refused with status 2, unknown parameters by the chapters in their first cell.
``--refresh`` executes what has other code, another library or other records than the tracked pair
was made from; others get their new text.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import jupytext
import nbformat
import papermill
import yaml
from jupyter_client import AsyncKernelManager
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ("smoke", "lite", "paper")
#: A socket's path holds about a hundred characters, which TMPDIR may use up.
SHORT = "/tmp" if len(tempfile.gettempdir()) > 60 else None
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
#: Cells that are executed and not kept: papermill's parameters, and what tells the provenance.
ADDED = {"injected-parameters", "provenance"}
PROVENANCE = "from llfc_book.chapter import Provenance\n\nProvenance()"


def load(root: Path, name: str) -> NotebookNode:
    """The chapter's source as a notebook without outputs, its cell ids the same each time."""
    notebook = jupytext.read(root / "notebooks" / f"{name}.md")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = hashlib.sha1(f"{name}:{number}".encode()).hexdigest()[:12]
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Those that have code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def write(notebook: NotebookNode, target: Path) -> None:
    """In one piece, where a reader may look at the file."""
    nbformat.validate(notebook)
    partial = target.with_name(f".{target.name}.partial")
    nbformat.write(notebook, partial)
    os.replace(partial, target)


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True).stdout.strip()


def commit(root: Path) -> str:
    """HEAD, marked where what a chapter is made from is not committed."""
    sources = ("llfc_lib", "book/llfc_book", "notebooks/*.md", "book/records", "book/endpoints")
    dirty = git(root, "status", "--porcelain", "--", *sources)
    return (git(root, "rev-parse", "--short=12", "HEAD") or "unknown") + ("-dirty" if dirty else "")


def inputs(root: Path, chapter: NotebookNode, records: list[dict[str, Any]]) -> str:
    """Digest of what the outputs of a chapter depend on: its code, the library, its records."""
    digest = hashlib.sha256(json.dumps([cell.source for cell in code_cells(chapter)]).encode())
    code = ("llfc_lib/**/*.py", "book/llfc_book/**/*.py", "book/data/*.toml")
    files = [path for pattern in code for path in root.glob(pattern)]
    for experiment in {entry["record"] for entry in records}:
        files += root.glob(f"book/records/*/{experiment}.json")
    for path in sorted(files):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def is_up_to_date(root: Path, name: str, target: Path) -> bool:
    """Whether a tracked pair needs no execution; its text is then that of the source."""
    chapter = load(root, name)
    try:
        tracked = nbformat.read(target, as_version=4)
        run = tracked.metadata["run"]
        if run["inputs"] != inputs(root, chapter, run["records"]):
            return False
    except (OSError, KeyError, nbformat.reader.NotJSONError):
        return False
    for cell, executed in zip(code_cells(chapter), code_cells(tracked), strict=True):
        cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    chapter.metadata = tracked.metadata
    if chapter != tracked:
        write(chapter, target)
    return True


def clean(notebook: NotebookNode, run: dict[str, Any]) -> NotebookNode:
    """Strip papermill's timings and paths; keep one block, ``metadata.run``, to which an output
    displayed with metadata ``{"run": {...}}`` adds: so a chapter can name its data set. papermill
    takes sys.exit() in a cell for success; here every cell must have run, without an error.
    """
    for output in (output for cell in code_cells(notebook) for output in cell.outputs):
        run = {**run, **output.get("metadata", {}).pop("run", {})}
    notebook.cells = [c for c in notebook.cells if not ADDED & set(c.metadata.get("tags", []))]
    for count, cell in enumerate(code_cells(notebook), 1):
        if cell.execution_count is None or any(o.output_type == "error" for o in cell.outputs):
            raise RuntimeError(f"cell {count} did not run to its end")
        cell.execution_count = count
        for output in cell.outputs:
            output.update({"execution_count": count} if "execution_count" in output else {})
    for cell in notebook.cells:
        kept = {key: cell.metadata.get(key) for key in ("tags", "mystnb")}
        cell.metadata = nbformat.from_dict({key: value for key, value in kept.items() if value})
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "run": run})
    return notebook


def kernel_manager(folder: str, progress: Path) -> type[AsyncKernelManager]:
    """Kernels whose sockets lie in a folder of their own (two chapters that ask for free TCP ports
    at once can be told the same ones), and that say in ``progress`` how far they are.
    """
    own = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "LLFC_PROGRESS": str(progress)}

    class Kernel(AsyncKernelManager):
        async def start_kernel(self, **options: Any) -> None:
            self.transport, self.ip = "ipc", f"{folder}/kernel"
            await super().start_kernel(env=os.environ | own, **options)

    return Kernel


def execute(root: Path, name: str, parameters: dict[str, Any], target: Path, progress: Path) -> str:
    """Run one chapter, to ``target``; returns what became of it, in words."""
    chapter, where = load(root, name), "before its first cell"
    number_of = {cell["id"]: number for number, cell in enumerate(code_cells(chapter), 1)}
    chapter.cells.append(nbformat.v4.new_code_cell(PROVENANCE, metadata={"tags": ["provenance"]}))
    run = {"profile": parameters["profile"], "commit": commit(root), "parameters": parameters}
    kept, began = root / "_build" / "failed" / f"{name}.ipynb", time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    kept.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=SHORT) as folder:
        source, product = Path(folder, "in.ipynb"), Path(folder, "out.ipynb")
        nbformat.write(chapter, source)

        def on_cell_start(cell: NotebookNode, cell_index: int) -> None:
            nonlocal where
            if number := number_of.get(cell.get("id")):
                where = f"cell {number} of {len(number_of)}"
                with open(progress, "a") as file:  # as the library does in the kernel
                    file.write(f"{where}\n")
                where += f" ({cell.source.strip().splitlines()[0]!r})"

        try:
            papermill.execute_notebook(
                str(source),
                str(product),
                parameters=parameters,
                progress_bar=False,
                on_cell_start=on_cell_start,
                coalesce_streams=True,
                kernel_manager_class=kernel_manager(folder, progress),
            )
            notebook = clean(nbformat.read(product, as_version=4), run)
            run = notebook.metadata.run
            run.seconds = round(time.monotonic() - began, 1)
            run.inputs = inputs(root, load(root, name), run.records)
            write(notebook, target)
        # the cell's own, a dead kernel, an invalid notebook: all the same to the reader
        except Exception as error:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes((product if product.exists() else source).read_bytes())
            kind = getattr(error, "ename", type(error).__name__)
            return (
                f"FAILED after {time.monotonic() - began:.0f} s\n"
                f"{where}: {kind}: {getattr(error, 'evalue', error)}\n"
                f"what it got to is in {kept.relative_to(root)}; the last good product stays"
            )
    return f"done in {run.seconds:.0f} s"


def follow(running: dict[str, tuple[str, TextIO, Future[str]]]) -> int:
    """Show the progress of chapters (title, file, outcome) until all are done; how many failed."""
    failed = 0
    while running:
        time.sleep(0.2)
        for name, (title, progress, future) in list(running.items()):
            done = future.done()
            for line in progress:
                print(f"  {name}: {line.rstrip()}", flush=True)
            if done:
                failed += future.result().startswith("FAILED")
                print(f"{title} {future.result()}", flush=True)
                del running[name]
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("names", nargs="*", help="chapters (default: all)")
    add("--profile", default="smoke", choices=PROFILES)
    add("--refresh", action="store_true", help="bring the tracked pairs up to date, profile smoke")
    add("--jobs", type=int, choices=range(1, 9), default=2, metavar="N", help="chapters at a time")
    add("--out", type=Path, help="folder of the products (default: _build/chapters/<profile>)")
    add("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    add("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args()
    root = options.root.resolve()
    known = sorted(path.stem for path in (root / "notebooks").glob("*.md"))
    names = list(dict.fromkeys(options.names)) or known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown chapter {unknown[0]!r}; choose from {known}")
    # the chapters refuse what they do not know, in their first cell
    parameters = {key: yaml.safe_load(value) for key, value in options.parameters}
    parameters = {"profile": options.profile, **parameters}
    if options.refresh and (options.out or parameters != {"profile": "smoke"}):
        parser.error("--refresh writes the tracked pairs: profile smoke, no parameters, no --out")
    products = root / "_build" / "chapters" / str(parameters["profile"])
    folder = root / "notebooks" if options.refresh else (options.out or products).resolve()
    os.chdir(root)  # where papermill starts the kernels
    with tempfile.TemporaryDirectory() as told, ThreadPoolExecutor(options.jobs) as pool:
        running = {}
        for number, name in enumerate(names, 1):
            title, target = f"chapter {number} of {len(names)}: {name}", folder / f"{name}.ipynb"
            if options.refresh and is_up_to_date(root, name, target):
                print(f"{title} has nothing to execute")
                continue
            (progress := Path(told, name)).touch()
            future = pool.submit(execute, root, name, parameters, target, progress)
            running[name] = title, progress.open(), future
        try:
            failed = follow(running)
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C no further chapter starts
    done, what = len(names) - failed, "up to date" if options.refresh else "executed"
    print(f"{done} of {len(names)} chapters {what} in profile {parameters['profile']}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
