"""Records: every measured number of an experiment with where it came from, one JSON file an
experiment and profile.

A file holds provenance by pair and one tidy row a line, sorted, so that publishing one pair changes
only its lines.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llfc_book.places import RECORDS
from llfc_book.study.settings import check_profile
from llfc_lib.metrics.rows import Row
from llfc_lib.training.checkpoints import atomic_write

FORMAT = 1
ROW_FIELDS = [f.name for f in fields(Row)]
COLUMNS = ["pair", "model", "data", "method", *ROW_FIELDS]
KEYS = ["pair", "quantity", "site", "alpha", "direction", "statistics", "role", "kind", "epoch"]


#: What was read in this process: by experiment and profile, the provenance of every pair.
opened: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}


class RecordError(ValueError):
    """A record that is missing, damaged, or of another recipe; the message says which and what to
    do.
    """


@dataclass
class Record:
    """``pairs`` maps a pair id ("<recipe>/<k>") to its provenance; ``table`` has the columns of
    ``COLUMNS``.
    """

    experiment: str
    profile: str
    pairs: dict[str, dict[str, Any]]
    table: pd.DataFrame


def table_of(pair: str, rows: Sequence[Row], model: str, data: str, method: str) -> pd.DataFrame:
    """The rows of a pair as records have them (``COLUMNS``)."""
    lines = [
        [pair, model, data, method, *(getattr(row, name) for name in ROW_FIELDS)] for row in rows
    ]
    return _typed(pd.DataFrame(lines, columns=COLUMNS))


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as floats, a missing one as NaN, whatever the rows at hand lack."""
    return table.astype({name: float for name in ("mean", "std", "n", "alpha", "epoch")})


def path_of(experiment: str, profile: str) -> Path:
    """The file of a record."""
    return RECORDS / check_profile(profile) / f"{experiment}.json"


def save_pair(
    experiment: str,
    profile: str,
    pair: str,
    provenance: Mapping[str, Any],
    rows: Sequence[Row],
    **about: str,
) -> None:
    """Put the rows of ``pair`` into the record in place of older ones; the file is written
    atomically. ``about`` are the model, data and method that :func:`table_of` asks for.
    """
    path, table, pairs = path_of(experiment, profile), table_of(pair, rows, **about), {}
    if path.exists():
        old = load(experiment, profile)
        table = pd.concat([old.table[old.table["pair"] != pair], table], ignore_index=True)
        pairs = old.pairs
    _write(path, Record(experiment, profile, {**pairs, pair: dict(provenance)}, table))


def _write(path: Path, record: Record) -> None:
    table = record.table.sort_values(KEYS, na_position="first", kind="stable", key=_by_text)
    lines = [
        json.dumps([_plain(value) for value in line])
        for line in table[COLUMNS].itertuples(index=False)
    ]
    head = {
        "experiment": record.experiment,
        "profile": record.profile,
        "format": FORMAT,
        "pairs": dict(sorted(record.pairs.items())),
        "columns": COLUMNS,
    }
    text = (
        json.dumps(head, indent=1).removesuffix("\n}")
        + ',\n "rows": [\n  '
        + ",\n  ".join(lines)
        + "\n ]\n}\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text.encode())


def _by_text(column: pd.Series) -> pd.Series:
    return column.map(str) if column.dtype == object else column


def _plain(value: Any) -> Any:
    """JSON's types: floats at eight digits, whole numbers as such, missing values null."""
    if value is None or value != value:
        return None
    if isinstance(value, str):
        return value
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(f"{value:.8g}")


def load(experiment: str, profile: str, recipe_hashes: Mapping[str, str] | None = None) -> Record:
    """The committed record. ``recipe_hashes`` (recipe name to hash) refuses a record made from
    another recipe.

    RecordError if there is none, if it is damaged, or if a pair's recipe is not the one given.
    """
    path = _existing(experiment, profile)
    state = path.stat()
    pairs, table = _read(
        path, experiment, profile, (state.st_mtime_ns, state.st_size, state.st_ino)
    )
    for pair, told in pairs.items():
        stored = told["recipe_hash"]
        expected = (recipe_hashes or {}).get(told["recipe"], stored)
        if stored != expected:
            raise RecordError(
                f"{path.parent.name}/{path.name}: pair {pair} was made from another recipe "
                f"({stored}, now {expected}); run `make runs` and `make publish` again"
            )
    opened.setdefault((experiment, profile), {}).update(pairs)
    return Record(experiment, profile, copy.deepcopy(pairs), table.copy())


def _existing(experiment: str, profile: str) -> Path:
    path = path_of(experiment, profile)
    if not path.exists():
        raise RecordError(
            f"there is no record of {experiment!r} in profile {profile!r} ({path.name} in "
            f"{path.parent.name}/); `make runs PROFILE={profile}` and `make publish` make one"
        )
    return path


@lru_cache(maxsize=64)
def _read(
    path: Path, experiment: str, profile: str, state: tuple[int, int, int]
) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """What the file holds; a chapter asks for the same one many times, and the file's ``state``
    tells whether it is.
    """
    try:
        found = json.loads(path.read_text())
        if found.get("format") != FORMAT or found["columns"] != COLUMNS:
            raise RecordError(
                f"{path.parent.name}/{path.name} is of another format (columns {found['columns']})"
            )
        if (found["experiment"], found["profile"]) != (experiment, profile):
            raise RecordError(
                f"{path.parent.name}/{path.name} holds {found['experiment']!r} of profile"
                f" {found['profile']!r}"
            )
        table = _typed(pd.DataFrame(found["rows"], columns=COLUMNS))
        hashes = {pair: (p["recipe"], p["recipe_hash"]) for pair, p in found["pairs"].items()}
        if table.empty or set(table["pair"]) != set(hashes):
            raise ValueError("rows and pairs do not belong together")
    except RecordError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{path.parent.name}/{path.name} is damaged ({error}); restore it with git, or remove"
            " it and run `make publish`"
        ) from error
    return found["pairs"], table


def provenances(experiment: str, profile: str) -> dict[str, dict[str, Any]]:
    """The provenance of every pair of a committed record, without reading its rows. RecordError if
    there is none.
    """
    head, _, _ = _existing(experiment, profile).read_text().partition(',\n "columns"')
    pairs = json.loads(head + "}")["pairs"]
    opened.setdefault((experiment, profile), {}).update(pairs)
    return pairs


def compare(live: pd.DataFrame, record: pd.DataFrame) -> pd.DataFrame:
    """By quantity, how many numbers were "compared" and the largest "difference" of a mean or a
    standard deviation, over the live rows; the record may hold more.

    Differences are absolute, relative to the record where that exceeds 1; infinite where only one
    is NaN, or where the two are over other numbers of things. RecordError if a live row is not in
    the record.
    """
    live, record = (table.fillna({"alpha": -1.0, "epoch": -1.0}) for table in (live, record))
    both = live.merge(record, on=KEYS, how="left", suffixes=("", "_record"), indicator=True)
    absent = both[both["_merge"] == "left_only"]
    if len(absent) or both.empty:
        which = sorted(absent["quantity"].unique())
        raise RecordError(
            f"{len(absent)} of {len(both)} numbers measured now are not in the record {which}"
        )
    apart = pd.DataFrame(index=both.index)
    for column in ("mean", "std", "n"):
        now, then = both[column], both[f"{column}_record"]
        differs = (now - then).abs() / then.abs().clip(lower=1.0)
        apart[column] = differs.fillna(np.inf).mask(now.isna() & then.isna(), 0.0)
    apart["n"] = apart["n"].where(apart["n"] == 0, np.inf)
    grouped = apart.max(axis=1).groupby(both["quantity"], sort=False)
    return pd.DataFrame({"compared": grouped.size(), "difference": grouped.max()}).reset_index()
