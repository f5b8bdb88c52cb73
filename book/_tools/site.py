"""Render the book strictly into _build/html from executed chapters; no tracked file is changed.

Usage::

    python book/_tools/site.py --profile smoke     # products of execute.py, else tracked pairs
    python book/_tools/site.py --tracked           # the tracked pairs alone
    python book/_tools/site.py --tracked --pdf     # the same as _build/llfc-book.pdf (Chromium)
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext
from chromium import MISSING, chromium
from execute import PROFILES

ROOT = Path(__file__).resolve().parents[2]


def belongs(product: Path, source: Path) -> bool:
    """Whether an executed chapter has the text and code of its source: a product of yesterday's
    source is not shown.
    """
    cells = [
        (cell["cell_type"], "".join(cell["source"]))
        for cell in json.loads(product.read_text())["cells"]
    ]
    return cells == [(cell.cell_type, cell.source) for cell in jupytext.read(source).cells]


def stage(root: Path, profile: str | None) -> Path:
    """A copy of what the build reads, with the executed chapters in place of the tracked ones."""
    target = root / "_build" / "stage"
    shutil.rmtree(target, ignore_errors=True)
    (target / "notebooks").mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(root / name, target)
    shutil.copytree(
        root / "book",
        target / "book",
        ignore=shutil.ignore_patterns("records", "endpoints", "__pycache__"),
    )
    shutil.copytree(root / "llfc_lib", target / "llfc_lib")  # for the library reference
    for tracked in sorted((root / "notebooks").glob("*.ipynb")):
        product = root / "_build" / "chapters" / (profile or "-") / tracked.name
        executed = (
            bool(profile) and product.exists() and belongs(product, tracked.with_suffix(".md"))
        )
        if profile and not executed:
            print(
                f"{tracked.stem} as it stands was not executed in profile {profile}: its tracked"
                " pair is shown"
            )
        shutil.copy(product if executed else tracked, target / "notebooks")
        shutil.copy(
            tracked.with_suffix(".md"), target / "notebooks"
        )  # for the build to see whether they belong together
    return target


def build(source: Path, output: Path, builder: str = "html") -> int:
    """A strict build: any warning is an error."""
    shutil.rmtree(output / "_build", ignore_errors=True)
    command = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        str(source),
        "--path-output",
        str(output),
        "--builder",
        builder,
        "--all",
        "-W",
        "-n",
        "--keep-going",
        "-q",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout)
    return done.returncode


def print_pdf(pages: Path, target: Path) -> None:
    """Print the rendered single page ``pages`` (a folder of the builder singlehtml) with Chromium;
    no LaTeX is needed.

    RuntimeError if no Chromium is found or it prints nothing.
    """
    browser = chromium()
    if browser is None:
        raise RuntimeError(MISSING)
    # The root page lies in a subfolder, and the builder writes the paths of styles and scripts as
    # if it did not.
    whole = pages / "all.html"
    shutil.copy(pages / "book" / "index.html", whole)
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        command = [
            str(browser),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            "--virtual-time-budget=120000",
            "--no-pdf-header-footer",
            f"--print-to-pdf={target}",
            whole.as_uri(),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode or not target.exists():
        raise RuntimeError(f"Chromium printed nothing:\n{done.stdout}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", choices=PROFILES, default="smoke")
    parser.add_argument("--tracked", action="store_true")
    parser.add_argument("--pdf", action="store_true")
    options = parser.parse_args()
    output = ROOT / "_build" / ("pdf" if options.pdf else "book")
    builder = "singlehtml" if options.pdf else "html"
    status = build(stage(ROOT, None if options.tracked else options.profile), output, builder)
    if status:
        print("the book was not rendered: see the warnings above", file=sys.stderr)
        return status
    if options.pdf:
        target = ROOT / "_build" / "llfc-book.pdf"
        print_pdf(output / "_build" / "singlehtml", target)
        print(f"\nThe book is printed: {target}")
        return 0
    target = ROOT / "_build" / "html"
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(output / "_build" / "html", target)
    print(f"\nThe book is ready. Open {target / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
