"""Records: every measured number of an experiment with where it came from, one JSON file an
experiment and profile.

A file holds provenance by pair and one tidy row a line, sorted, so that publishing one pair changes
only its lines.
"""

import copy
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from llfc_book.claims.claims import CLAIMS
from llfc_book.places import RECORDS
from llfc_book.study.catalogue import EXPERIMENTS
from llfc_book.study.settings import PROFILES, RECIPES, SCALE, SPAWN_AT, check_profile, recipe
from llfc_lib.metrics.rows import Row
from llfc_lib.training.checkpoints import atomic_write

FORMAT = 1
ROW_FIELDS = [f.name for f in fields(Row)]
COLUMNS = ["pair", "model", "data", "method", *ROW_FIELDS]
KEYS = ["pair", "quantity", "site", "alpha", "direction", "statistics", "role", "kind", "epoch"]


#: Pages of the first edition show these up to this profile, and no experiment of the second: what
#: the queue finishes in between must not turn them red. Goes when they go.
HELD = {"resnet20_cifar10_spawn": "lite"}


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

    def frame(self, without: Collection[str] = ()) -> pd.DataFrame:
        """All rows but those of the recipes ``without``, with the profile and the data set's source
        as attributes for figures.
        """
        kept = {pair: p for pair, p in self.pairs.items() if p["recipe"] not in without}
        frame = self.table[self.table["pair"].isin(kept)].reset_index(drop=True)
        recipes = dict.fromkeys(p["recipe"] for p in kept.values())
        own = {
            name: {pair: p for pair, p in kept.items() if p["recipe"] == name} for name in recipes
        }
        frame.attrs = {
            "experiment": self.experiment,
            "profile": self.profile_of(kept),
            **_told(kept),
            "by_recipe": {
                name: {"profile": self.profile_of(pairs), **_told(pairs)}
                for name, pairs in own.items()
            },
        }
        return frame

    def profile_of(self, pairs: Iterable[str]) -> str:
        """The profile of these pairs, where a record was put together from several."""
        return " and ".join(
            dict.fromkeys(self.pairs[pair].get("profile", self.profile) for pair in pairs)
        )


def _told(pairs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """In words, the data, how many images, and what is reduced."""
    sources = {p["data"]["source"] for p in pairs.values()}
    splits = {
        (
            f"{d['name']} ({d['train']:,} / {d['test']:,}{_measured_on(p.get('plan', {}))})"
            if "train" in d
            else d["name"]
        )
        for p in pairs.values()
        for d in (p["data"],)
    }
    reductions = {p["recipe"]: p["reductions"] for p in pairs.values() if p.get("reductions")}
    if len(set(reductions.values())) > 1:  # several networks: say whose
        reductions = {
            name: (
                f"{RECIPES[name].title.split(', ')[0]}"
                f"{' by epoch of spawning' * (name in SPAWN_AT)}:"
                f" {text}"
            )
            for name, text in reductions.items()
        }
    return {
        "source": "; ".join(sorted(sources)),
        "split": ", ".join(sorted(splits)),
        "reductions": "; ".join(dict.fromkeys(reductions.values())),
    }


def _measured_on(plan: Mapping[str, Any]) -> str:
    """How many of the test images, where not all."""
    counts = (("pairs", plan.get("pair_first")), ("displaced", plan.get("first")))
    return "".join(f"; {who}: first {count:,}" for who, count in counts if count)


def _tabulate(pair: str, rows: Sequence[Row], model: str, data: str, method: str) -> pd.DataFrame:
    lines = [
        [pair, model, data, method, *(getattr(row, name) for name in ROW_FIELDS)] for row in rows
    ]
    return _typed(pd.DataFrame(lines, columns=COLUMNS))


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as floats, a missing one as NaN, whatever the rows at hand lack."""
    return table.astype({name: float for name in ("mean", "std", "n", "alpha", "epoch")})


def live_record(
    experiment: str,
    profile: str,
    pairs: Mapping[str, dict],
    rows: Mapping[str, Sequence[Row]],
    model: str,
    data: str,
    method: str,
) -> Record:
    """What was just measured in the form of a record, not written anywhere."""
    tables = [_tabulate(pair, found, model, data, method) for pair, found in rows.items()]
    return Record(experiment, profile, dict(pairs), pd.concat(tables, ignore_index=True))


def path_of(experiment: str, profile: str, folder: Path | None = None) -> Path:
    """The file of a record; ``folder`` None is the book's own."""
    return (folder or RECORDS) / check_profile(profile) / f"{experiment}.json"


def save_pair(
    experiment: str,
    profile: str,
    pair: str,
    provenance: Mapping[str, Any],
    rows: Sequence[Row],
    model: str,
    data: str,
    method: str,
    folder: Path | None = None,
) -> None:
    """Put the rows of ``pair`` into the record in place of older ones; the file is written
    atomically.
    """
    path = path_of(experiment, profile, folder)
    old = load(experiment, profile, folder) if path.exists() else None
    table = _tabulate(pair, rows, model, data, method)
    pairs = {pair: dict(provenance)}
    if old is not None:
        table = pd.concat([old.table[old.table["pair"] != pair], table], ignore_index=True)
        pairs = {**old.pairs, **pairs}
    _write(path, Record(experiment, profile, pairs, table))


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


def load(
    experiment: str,
    profile: str,
    folder: Path | None = None,
    recipe_hashes: Mapping[str, str] | None = None,
) -> Record:
    """The committed record. ``recipe_hashes`` (recipe name to hash) refuses a record made from
    another recipe.

    RecordError if there is none, if it is damaged, or if a pair's recipe is not the one given.
    """
    record = _load(experiment, profile, folder, recipe_hashes)
    _note(experiment, profile, folder, record.pairs)
    return record


def _note(
    experiment: str, profile: str, folder: Path | None, pairs: Mapping[str, dict[str, Any]]
) -> None:
    """Put pairs of one of the book's own records on the list of what was :data:`opened`."""
    if folder is None:
        opened.setdefault((experiment, profile), {}).update(pairs)


def _load(
    experiment: str,
    profile: str,
    folder: Path | None,
    recipe_hashes: Mapping[str, str] | None = None,
) -> Record:
    path = path_of(experiment, profile, folder)
    if not path.exists():
        raise RecordError(
            f"there is no record of {experiment!r} in profile {profile!r} ({path.name} in "
            f"{path.parent.name}/); `make runs PROFILE={profile}` and `make publish` make one"
        )
    state = path.stat()
    pairs, table = _read(
        path, experiment, profile, (state.st_mtime_ns, state.st_size, state.st_ino)
    )
    for pair, (name, stored) in (
        (pair, (p["recipe"], p["recipe_hash"])) for pair, p in pairs.items()
    ):
        expected = (recipe_hashes or {}).get(name, stored)
        if stored != expected:
            raise RecordError(
                f"{path.parent.name}/{path.name}: pair {pair} was made from another recipe "
                f"({stored}, now {expected}); run `make runs` and `make publish` again"
            )
    return Record(experiment, profile, copy.deepcopy(pairs), table.copy())


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


def provenances(
    experiment: str, profile: str, folder: Path | None = None
) -> dict[str, dict[str, Any]]:
    """The provenance of every pair of a committed record, without reading its rows. RecordError if
    there is none.
    """
    pairs = _pairs(experiment, profile, folder)
    _note(experiment, profile, folder, pairs)
    return pairs


def _pairs(experiment: str, profile: str, folder: Path | None) -> dict[str, dict[str, Any]]:
    path = path_of(experiment, profile, folder)
    if not path.exists():
        raise RecordError(f"there is no record of {experiment!r} in profile {profile!r}")
    head, _, _ = path.read_text().partition(',\n "columns"')
    return json.loads(head + "}")["pairs"]


def is_held(recipe_name: str, profile: str) -> bool:
    """Whether results of this profile wait for the second edition (:data:`HELD`)."""
    return recipe_name in HELD and PROFILES.index(profile) > PROFILES.index(HELD[recipe_name])


def experiments_shown(profile: str) -> list[str]:
    """Experiments with a record of ``profile`` that pages of the first edition show, in
    alphabetical order.
    """
    names = sorted(path.stem for path in (RECORDS / profile).glob("*.json"))
    return [
        name
        for name in names
        if (name not in EXPERIMENTS or EXPERIMENTS[name].edition == 1)
        and _shows(name, profile, None)
    ]


def profiles_shown(experiment: str, folder: Path | None = None) -> list[str]:
    """Profiles with a record of the experiment, the highest first, without those that are held
    back.
    """
    return [
        profile
        for profile in reversed(PROFILES)
        if path_of(experiment, profile, folder).exists() and _shows(experiment, profile, folder)
    ]


def _shows(experiment: str, profile: str, folder: Path | None) -> bool:
    return not HELD or any(
        not is_held(p["recipe"], profile) for p in _pairs(experiment, profile, folder).values()
    )


def best(
    experiment: str, folder: Path | None = None, recipe_hashes: Mapping[str, str] | None = None
) -> Record:
    """The record of the highest profile that there is."""
    for profile in profiles_shown(experiment, folder):
        return load(experiment, profile, folder, recipe_hashes)
    raise RecordError(
        f"there is no record of {experiment!r} yet; `make runs` and `make publish` make one"
    )


def has_several_networks(recipes: Sequence[str]) -> bool:
    """Whether an experiment's pairs are of several settings, which need not all have the same
    profile.
    """
    return len(recipes) > 2 or any(RECIPES[name].matching for name in recipes)


def best_of_each(experiment: str, folder: Path | None = None) -> Record:
    """The best pairs of every recipe in the experiment, of several profiles if need be; smoke only
    if there is no other, or for a recipe that a claim is about and that has no other.

    RecordError if there is none, or one is of another recipe than the library's.
    """
    there = profiles_shown(experiment, folder)
    asked = {claim.recipe for claim in CLAIMS if claim.experiment == experiment}
    full = [profile for profile in there if profile != "smoke"]
    pairs: dict[str, dict[str, Any]] = {}
    tables, seen, used = [], set(), []
    for profile in there:
        found = _load(
            experiment,
            profile,
            folder,
            {name: recipe(name, profile).hash for name in SCALE[profile]},
        )
        new = {
            pair: {**p, "profile": profile}
            for pair, p in found.pairs.items()
            if p["recipe"] not in seen
            and not is_held(p["recipe"], profile)
            and (profile != "smoke" or not full or p["recipe"] in asked)
        }
        if new:
            _note(experiment, profile, folder, new)
            pairs |= new
            tables.append(found.table[found.table["pair"].isin(list(new))])
            used.append(profile)
        seen |= {p["recipe"] for p in found.pairs.values() if not is_held(p["recipe"], profile)}
    if not tables:
        return best(experiment, folder)  # raises, saying what to do
    return Record(experiment, " and ".join(used), pairs, pd.concat(tables, ignore_index=True))


def compare(live: pd.DataFrame, record: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """The largest difference of means per quantity, over the live rows; the record may hold more.

    Differences are absolute, relative to the record where that exceeds 1; infinite where only one
    is NaN. Columns: quantity, compared (how many numbers), difference, tolerance; and "spread" and
    "count", the largest difference of standard deviations and of the numbers of what a mean was
    taken over. RecordError if a live row is not in the record.
    """

    def index(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(alpha=frame["alpha"].fillna(-1.0), epoch=frame["epoch"].fillna(-1.0))

    both = index(live).merge(
        index(record), on=KEYS, how="left", suffixes=("", "_record"), indicator=True
    )
    absent = both[both["_merge"] == "left_only"]
    if len(absent) or both.empty:
        which = sorted(absent["quantity"].unique())
        raise RecordError(
            f"{len(absent)} of {len(both)} numbers measured now are not in the record {which}"
        )
    for column in ("mean", "std", "n"):
        now, then = both[column], both[f"{column}_record"]
        apart = ((now - then).abs() / then.abs().clip(lower=1.0)).astype(float)
        both[f"of {column}"] = apart.fillna(float("inf")).mask(now.isna() & then.isna(), 0.0)
    grouped = both.groupby("quantity", sort=False)
    return pd.DataFrame(
        {
            "compared": grouped.size(),
            "difference": grouped["of mean"].max(),
            "tolerance": tolerance,
            "spread": grouped["of std"].max(),
            "count": grouped["of n"].max(),
        }
    ).reset_index()
