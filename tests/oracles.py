"""What a change of structure must leave alone: ``python tests/oracles.py write FILE``, and then
``compare FILE``.

Hashes of all recipes, where every unit keeps its result, what the queue would do with an empty
cache and with a filled one, every verdict, and of every page the numbers told in its text, its
other outputs and the descriptions of its figures, read from the notebooks as they are
(``--notebooks`` names another folder, such as one executed anew). Needs the data sets of all
profiles.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SHOWN = 12  # differences of a section that are printed


def recipes() -> dict[str, Any]:
    """The hash of every recipe in every profile, and its settings, those among them that the hash
    leaves out.
    """
    from llfc_book.study.settings import SCALE, recipe

    found = {}
    for profile, scale in SCALE.items():
        for name in scale:
            r = recipe(name, profile)
            found[f"{profile}/{name}"] = {"hash": r.hash, **asdict(r)}
    return found


def unit_paths() -> dict[str, str]:
    """Where every unit keeps its result, those that the queue does not come to among them."""
    return {str(unit): unit.path().name for unit in every_unit()}


def every_unit() -> list[Any]:
    """All units of all pairs."""
    from llfc_book.study.settings import PAIRS
    from llfc_book.study.units import plan

    return plan(None, sorted({name for pairs_of in PAIRS.values() for name in pairs_of}))


@contextmanager
def cache_of_its_own() -> Iterator[None]:
    """An empty cache for as long as this lasts; data sets lie elsewhere."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, LLFC_CACHE=folder):
        yield


def missing_with_an_empty_cache() -> list[str]:
    """What the queue would do, in its order, where nothing but the tracked tree is."""
    from llfc_book.study import queue

    with cache_of_its_own():
        return [str(unit) for unit in queue.missing(queue.chosen(None))]


def missing_with_first_pairs_measured() -> list[str]:
    """The same where all that is measured of the first pairs is finished."""
    from llfc_book.study import queue

    with cache_of_its_own():
        for unit in (unit for unit in every_unit() if unit.index == 0 and not unit.trains):
            unit.path().parent.mkdir(parents=True, exist_ok=True)
            empty = {"unit": str(unit), "rows": [], "seconds": 0.0, "networks": {}}
            unit.path().write_text(json.dumps(empty))
        return [str(unit) for unit in queue.missing(queue.chosen(None))]


def verdicts() -> dict[str, dict[str, Any]]:
    """Every verdict by its claim."""
    from llfc_book.claims.verdicts import judge

    return {verdict.claim.id: asdict(verdict) for verdict in judge()}


def pages(folder: Path) -> dict[str, Any]:
    """Texts that the outputs of every notebook hold, and told numbers by name; of pictures what
    describes them. What a cell prints is one text, in however many pieces it came.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.ipynb")):
        outputs: list[dict[str, Any]] = []
        for cell in json.loads(path.read_text())["cells"]:
            pieces = [o for o in cell.get("outputs", ()) if o.get("output_type") == "stream"]
            if pieces:
                outputs.append({"text": "".join("".join(piece["text"]) for piece in pieces)})
            outputs += [o for o in cell.get("outputs", ()) if o not in pieces]
        for number, output in enumerate(outputs):
            shown = output.get("data", {}).items()
            texts = {mime: value for mime, value in shown if not mime.startswith("image/")}
            texts |= {key: output[key] for key in ("text", "evalue") if key in output}
            described = output.get("metadata", {})
            told = described.get("scrapbook", {}).get("name")
            found[f"{path.stem}/{told or number}"] = {"texts": texts, "described": described}
    return found


def read(folder: Path) -> dict[str, Any]:
    """Every section by its name."""
    return {
        "recipes": recipes(),
        "unit_paths": unit_paths(),
        "missing_with_an_empty_cache": missing_with_an_empty_cache(),
        "missing_with_first_pairs_measured": missing_with_first_pairs_measured(),
        "verdicts": verdicts(),
        "pages": pages(folder),
    }


def changes(before: Any, after: Any, where: str = "") -> list[str]:
    """What differs, one line a place."""
    if isinstance(before, dict) and isinstance(after, dict):
        lines = []
        for key in dict.fromkeys((*before, *after)):
            one, other = before.get(key, "nothing"), after.get(key, "nothing")
            lines += changes(one, other, f"{where}/{key}")
        return lines
    if before == after:
        return []
    if all(isinstance(side, list) for side in (before, after)):
        gone = [f"{where}: no longer {_short(item)}" for item in before if item not in after]
        come = [f"{where}: now {_short(item)}" for item in after if item not in before]
        return [*gone, *come] or [f"{where}: in another order or number"]
    return [f"{where}: {_short(before)} -> {_short(after)}"]


def known_fields(before: dict[str, Any], now: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """``now`` without the fields that a recipe has in no entry of ``before``, and their names:
    fields may be added, and one line tells of it.
    """
    known = {field for fields in before.values() for field in fields}
    added = sorted({field for fields in now.values() for field in fields} - known)
    kept = {
        name: {field: value for field, value in fields.items() if field in known}
        for name, fields in now.items()
    }
    return kept, added if known else []


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:160]}..."


def main() -> int:
    """The command line; 1 where something changed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS)
    options = parser.parse_args()
    if options.action == "compare" and not options.file.exists():
        parser.error(f"{options.file} is not there; write it first, at the commit to compare with")
    now = json.loads(json.dumps(read(options.notebooks)))  # as a file holds it
    if options.action == "write":
        options.file.write_text(json.dumps(now, indent=1, ensure_ascii=False))
        print(", ".join(f"{len(section)} {name}" for name, section in now.items()))
        return 0
    before = json.loads(options.file.read_text())
    now["recipes"], added = known_fields(before["recipes"], now["recipes"])
    if added:
        print(f"recipes: fields that {options.file} does not have: {', '.join(added)}")
    found = {name: changes(before.get(name, {}), section) for name, section in now.items()}
    for name, lines in found.items():
        print(f"{name}: {len(lines)} changed of {len(now[name])}")
        for line in lines[:SHOWN]:
            print(f"  {line}")
        if len(lines) > SHOWN:
            print(f"  and {len(lines) - SHOWN} more")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
