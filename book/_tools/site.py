"""Render the book strictly into _build/html from executed chapters; no tracked file is changed.

    python book/_tools/site.py --profile smoke     the products of book/_tools/execute.py (tracked pairs where one lacks)
    python book/_tools/site.py --tracked           the tracked pairs alone
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
from execute import PROFILES

ROOT = Path(__file__).resolve().parents[2]


def belongs(product: Path, source: Path) -> bool:
    """Whether an executed chapter has the text and code of its source: a product of yesterday's source is not shown."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(product.read_text())["cells"]]
    return cells == [(cell.cell_type, cell.source) for cell in jupytext.read(source).cells]


def stage(root: Path, profile: str | None) -> Path:
    """A copy of what the build reads, with the executed chapters in place of the tracked ones."""
    target = root / "_build" / "stage"
    shutil.rmtree(target, ignore_errors=True)
    (target / "notebooks").mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(root / name, target)
    shutil.copytree(root / "book", target / "book", ignore=shutil.ignore_patterns("records", "endpoints", "__pycache__"))
    for tracked in sorted((root / "notebooks").glob("*.ipynb")):
        product = root / "_build" / "chapters" / (profile or "-") / tracked.name
        executed = bool(profile) and product.exists() and belongs(product, tracked.with_suffix(".md"))
        if profile and not executed:
            print(f"{tracked.stem} as it stands was not executed in profile {profile}: its tracked pair is shown")
        shutil.copy(product if executed else tracked, target / "notebooks")
    return target


def build(source: Path, output: Path) -> int:
    """A strict build: any warning is an error."""
    shutil.rmtree(output / "_build", ignore_errors=True)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(source), "--path-output", str(output),
               "--all", "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout)
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=PROFILES, default="smoke")
    parser.add_argument("--tracked", action="store_true")
    options = parser.parse_args()
    output = ROOT / "_build" / "book"
    status = build(stage(ROOT, None if options.tracked else options.profile), output)
    if status:
        print("the book was not rendered: see the warnings above", file=sys.stderr)
        return status
    target = ROOT / "_build" / "html"
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(output / "_build" / "html", target)
    print(f"\nThe book is ready. Open {target / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
