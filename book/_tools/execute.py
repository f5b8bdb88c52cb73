"""Execute chapters: notebooks/NAME.md -> _build/chapters/<profile>/NAME.ipynb, two at a time.

    python book/_tools/execute.py                              every chapter, profile smoke
    python book/_tools/execute.py B2_llfc --profile paper      one chapter at full scale
    python book/_tools/execute.py --refresh                    the tracked pairs notebooks/NAME.ipynb (smoke)

A chapter that fails names its cell; what it got to is kept in _build/failed, the last good product stays as it is, the
other chapters still run, and the exit status is not 0. Networks that were trained stay in the cache for the next run.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ("smoke", "lite", "paper")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def chapters(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "notebooks").glob("*.md"))


def load(root: Path, name: str) -> NotebookNode:
    """The chapter's source as a notebook without outputs, its cell ids the same each time."""
    notebook = jupytext.read(root / "notebooks" / f"{name}.md")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = hashlib.sha1(f"{name}:{number}".encode()).hexdigest()[:12]
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def declared(notebook: NotebookNode) -> dict[str, str]:
    """Names and defaults in the cell tagged `parameters`."""
    lines = [line.split("#")[0] for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
             for line in cell.source.splitlines() if "=" in line]
    return {line.split("=")[0].strip(): line.split("=", 1)[1].strip() for line in lines}


def commit(root: Path) -> str:
    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=root, capture_output=True, text=True).stdout.strip()

    dirty = git("status", "--porcelain", "--", "llfc_lib", "notebooks/*.md", "book/records", "book/endpoints")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("-dirty" if dirty else "")


def clean(notebook: NotebookNode, run: dict[str, Any]) -> NotebookNode:
    """Strip papermill's timings and paths; keep one block, ``metadata.run``."""
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code" and c.source.strip()), 1):
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "run": run})
    return notebook


def provenance(root: Path, parameters: dict[str, Any], seconds: float | None) -> dict[str, Any]:
    """What ``metadata.run`` says. A tracked pair (``seconds`` None) leaves out what changes from run to run."""
    import torch

    run = {"profile": parameters["profile"], "python": platform.python_version(), "torch": torch.__version__}
    if seconds is None:
        return run
    from llfc_lib.experiments.units import cpu_name

    return {**run, "commit": commit(root), "cpu": cpu_name(), "threads": 1, "seconds": round(seconds, 1),
            "parameters": parameters}


def execute(root: Path, name: str, parameters: dict[str, Any], target: Path, tracked: bool) -> None:
    """Run one chapter in this process; raises PapermillExecutionError after keeping what there is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        source, product = Path(folder) / f"{name}.ipynb", Path(folder) / f"{name}.out.ipynb"
        nbformat.write(load(root, name), source)
        began = time.monotonic()
        try:
            papermill.execute_notebook(str(source), str(product), parameters=parameters, cwd=str(root),
                                       progress_bar=False, kernel_name="python3", log_output=False)
        except PapermillExecutionError:
            kept = root / "_build" / "failed" / f"{name}.ipynb"
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(product.read_bytes())
            raise
        run = provenance(root, parameters, None if tracked else time.monotonic() - began)
        notebook = clean(nbformat.read(product, as_version=4), run)
        nbformat.validate(notebook)
        partial = target.with_name(f".{target.name}.partial")
        nbformat.write(notebook, partial)
        os.replace(partial, target)


def run_child(root: Path, options: argparse.Namespace) -> int:
    """One chapter, in a process of its own: what `execute_all` starts. Prints one line on failure."""
    parameters = json.loads(options.child)
    try:
        execute(root, options.names[0], parameters, Path(options.target), options.refresh)
    except PapermillExecutionError as error:
        first = next((line for line in error.source.splitlines() if line.strip()), "")
        print(f"cell {error.cell_index} ({first.strip()!r}): {error.ename}: {error.evalue}\n"
              f"what it got to is in _build/failed/{options.names[0]}.ipynb; the last good product was left as it was")
        return 1
    return 0


def say(text: str) -> None:
    print(text, flush=True)


def execute_all(root: Path, names: list[str], options: argparse.Namespace, parameters: dict[str, Any]) -> int:
    """Run chapters side by side, one thread each, and report; returns the number of those that failed."""
    folder = Path(options.out) if options.out else root / "_build" / "chapters" / parameters["profile"]

    def one(number: int, name: str) -> bool:
        target = root / "notebooks" / f"{name}.ipynb" if options.refresh else folder / f"{name}.ipynb"
        say(f"chapter {number} of {len(names)}: {name} ...")
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            lines, log = Path(scratch) / "progress", Path(scratch) / "log"
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "LLFC_PROGRESS": str(lines)}
            command = [sys.executable, __file__, name, "--root", str(root), "--target", str(target), "--child",
                       json.dumps(parameters), *(["--refresh"] if options.refresh else [])]
            with open(log, "w") as output:
                process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
                seen = 0
                while process.poll() is None:
                    time.sleep(0.2)
                    if lines.exists():
                        new = lines.read_text()[seen:]
                        seen += len(new)
                        for line in new.splitlines():
                            say(f"  {name}: {line}")
            seconds = time.monotonic() - began
            if process.returncode:
                say(f"chapter {number} of {len(names)}: {name} FAILED after {seconds:.0f} s\n" + log.read_text())
                return False
        say(f"chapter {number} of {len(names)}: {name} done in {seconds:.0f} s")
        return True

    with ThreadPoolExecutor(options.jobs) as pool:
        good = list(pool.map(one, range(1, len(names) + 1), names))
    return good.count(False)


def parse_parameters(given: list[list[str]], known: dict[str, str]) -> dict[str, Any]:
    """`-p name value` pairs; papermill takes any name, and a misspelt one would do nothing."""
    parameters = {}
    for name, value in given:
        if name not in known:
            raise SystemExit(f"unknown parameter {name!r}; the chapters have {sorted(known)}")
        parameters[name] = {"True": True, "False": False}.get(value, value)
    return parameters


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="chapters (default: all)")
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--refresh", action="store_true", help="write the tracked pairs, in profile smoke")
    parser.add_argument("--jobs", type=int, default=2, help="chapters at a time")
    parser.add_argument("--out", help="folder for the products (default: _build/chapters/<profile>)")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    options = parser.parse_args()
    root = options.root.resolve()
    if options.child:
        return run_child(root, options)
    known = chapters(root)
    for name in options.names:
        if name not in known:
            print(f"unknown chapter {name!r}; choose from {known}", file=sys.stderr)
            return 2
    if options.profile not in PROFILES or options.refresh and options.profile != "smoke":
        print(f"unknown profile {options.profile!r}; choose from {list(PROFILES)} (--refresh is always smoke)", file=sys.stderr)
        return 2
    names = options.names or known
    known_parameters = {key: value for name in names for key, value in declared(load(root, name)).items()}
    parameters = {"profile": options.profile, **parse_parameters(options.parameters, known_parameters)}
    failed = execute_all(root, names, options, parameters)
    say(f"{len(names) - failed} of {len(names)} chapters executed in profile {parameters['profile']}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
