"""Render the book strictly into _build/html from executed chapters; no tracked file is changed.

Usage::

    python book/_tools/site.py --profile smoke     # products of execute.py, else tracked pairs
    python book/_tools/site.py --tracked           # the tracked pairs alone
    python book/_tools/site.py --tracked --pdf     # the same as _build/llfc-book.pdf (Chromium)
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from chromium import MISSING, chromium
from execute import PROFILES

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
from bookfix import is_stale  # noqa: E402


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
        source = tracked.with_suffix(".md")
        shutil.copy(source, target / "notebooks")  # the build refuses a pair of another source
        product = root / "_build" / "chapters" / (profile or "-") / tracked.name
        executed = product.exists() and not is_stale(nbformat.read(product, as_version=4), source)
        shutil.copy(product if executed else tracked, target / "notebooks")
        if profile and not executed:
            print(f"{tracked.stem} as it stands was not executed in profile {profile}: its tracked")
            print("  pair is shown")
    return target


def build(source: Path, output: Path, builder: str = "html") -> int:
    """A strict build: any warning is an error."""
    shutil.rmtree(output / "_build", ignore_errors=True)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    where = [str(source), "--path-output", str(output), "--builder", builder]
    command = [str(jupyter_book), "build", *where, "--all", "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout)
    return done.returncode


def print_pdf(pages: Path, target: Path) -> None:
    """Print the rendered single page ``pages`` (a folder of the builder singlehtml) with Chromium;
    no LaTeX is needed. RuntimeError if no Chromium is found.
    """
    from playwright.sync_api import sync_playwright  # which nothing else here needs

    if chromium() is None:
        raise RuntimeError(MISSING)
    # The root page lies in a subfolder, and the builder writes the paths of styles and scripts as
    # if it did not.
    whole = Path(shutil.copy(pages / "notebooks" / "index.html", pages / "all.html"))
    with sync_playwright() as playwright:
        options = {"executable_path": chromium(), "args": ["--no-sandbox"]}
        page = playwright.chromium.launch(**options).new_page()
        page.goto(whole.as_uri())
        page.evaluate("MathJax.startup.promise.then(() => true)")  # all formulae are typeset
        page.pdf(path=target, prefer_css_page_size=True)


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
    if status := build(stage(ROOT, None if options.tracked else options.profile), output, builder):
        print("the book was not rendered: see the warnings above", file=sys.stderr)
        return status
    if options.pdf:
        target = ROOT / "_build" / "llfc-book.pdf"
        print_pdf(output / "_build" / "singlehtml", target)
    else:
        target = ROOT / "_build" / "html"
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(output / "_build" / "html", target)
    print(f"\nThe book is ready. Open {target if options.pdf else target / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
