"""From the cache into the tracked tree: records and shipped endpoints. Nothing else changes them.

Source: this book.
"""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from llfc_lib.data import Dataset
from llfc_lib.experiments import matched, pairs
from llfc_lib.experiments.catalogue import EXPERIMENTS, Experiment
from llfc_lib.experiments.units import Unit, dataset, measure_version, plan, version_key
from llfc_lib.metrics.rows import Row
from llfc_lib.report import records
from llfc_lib.training import checkpoints
from llfc_lib.training.checkpoints import CheckpointError
from llfc_lib.training.loop import latest_path, run_key, run_path, unfinished_path
from llfc_lib.training.recipes import PAIRS, PROFILES, SPAWN_AT, recipe, reductions

LONG = 2 * 3600.0  # seconds: an unfinished run that cost more is kept in the tracked tree
SMALL = 2 * 2**20  # bytes: networks up to this size are shipped with every pair, larger ones with the first


def is_published(unit: Unit) -> bool:
    """Whether every committed record that takes rows of the unit's pair has this part, from this recipe."""
    found = _published_parts(unit.profile, unit.name, unit.index)
    return unit.part in found


def _published_parts(profile: str, name: str, index: int) -> set[str]:
    """Parts of the pair that are in every committed record which reads them."""
    every = set(pairs.plan_of(name, profile).parts)
    found = [_published_in(e, profile, name, index) | (every - e.reads(every)) for e in EXPERIMENTS.values() if name in e.recipes]
    return set.intersection(*found) if found else set()


def _published_in(experiment: Experiment, profile: str, name: str, index: int) -> set[str]:
    """Parts of the pair that the experiment's record holds: none if they come from another recipe, plan or version."""
    provenance = _provenances(profile, experiment.name).get(f"{name}/{index}", {})
    parts, plan = experiment.reads(provenance.get("parts", ())), pairs.plan_of(name, profile)
    told = {**pairs.UNTOLD, **{key: value for key, value in provenance.get("plan", {}).items() if key in pairs.UNTOLD}}
    current = provenance.get("recipe_hash") == recipe(name, profile).hash and told == plan.told() and all(
        provenance["measure_version"].get(version_key(part)) == measure_version(part) for part in parts)
    return parts if current else set()


@cache
def _provenances(profile: str, experiment: str) -> dict[str, Any]:
    try:
        return records.load(experiment, profile).pairs
    except records.RecordError:
        return {}


def publish(profile: str | None = None) -> str:
    """Write what is finished in the cache into ``book/records`` and ``book/endpoints``; returns what was done."""
    done = []
    units = plan(profile)
    for p in [profile] if profile else PROFILES:
        for name, count in PAIRS[p].items():
            for index in range(count):
                if _published_parts(p, name, index) == set(pairs.plan_of(name, p).parts) or _surpassed(p, name):
                    continue
                parts = [u for u in units if (u.profile, u.name, u.index) == (p, name, index)
                         and not u.trains and u.path().exists()]
                written = [part for e in EXPERIMENTS.values() if name in e.recipes for part in _publish_pair(e, p, name, index, parts)]
                done += [f"{p} {name}/{index}: {', '.join(sorted(set(written)))}"] if written else []
            done += _ship(p, name)
    done += _keep_unfinished(units)
    _provenances.cache_clear()
    return "\n".join(done) or "nothing new to publish"


def _surpassed(profile: str, name: str) -> bool:
    """Whether a higher profile has at least as many pairs of the recipe in its records: a reader is shown those."""
    if profile == "smoke":
        return False
    higher = [p for p in PROFILES[PROFILES.index(profile) + 1:] if name in PAIRS[p]]
    return any(sum(bool(_published_parts(p, name, index)) for index in range(PAIRS[p][name])) >= PAIRS[profile][name] for p in higher)


def _publish_pair(experiment: Experiment, profile: str, name: str, index: int, finished: list[Unit]) -> list[str]:
    """Write the pair into the experiment's record if its ``finished`` parts are more than that holds; returns these parts."""
    r, order = recipe(name, profile), pairs.plan_of(name, profile).parts
    parts = sorted((u for u in finished if u.part in experiment.reads(order)), key=lambda u: order.index(u.part))
    have = {u.part for u in parts}
    if not have & {"pair", "sweep", *experiment.parts} or not have > _published_in(experiment, profile, name, index):
        return []
    data, results = dataset(r), [u.result() for u in parts]
    rows: list[Row] = [row for result in results for row in result["rows"]]
    for unit in parts:
        if unit.part == "match":
            path = matched.shipped_permutation(profile, name, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            digests = {who: pairs.endpoint(profile, name, *member, data).digest() for who, member in pairs.members(name, index).items() if who in "AB"}
            path.write_text(json.dumps({"networks": digests, "permutations": matched.as_text(unit.permutations())}) + "\n")
    runs = {who: pairs.endpoint(profile, name, seed, branch, data)
            for who, (seed, branch) in pairs.members(name, index).items()}
    # networks of one pair may have been trained on different machines
    fast = {who: {epoch["speedups"] for epoch in run.history if "speedups" in epoch} for who, run in runs.items()}
    provenance = {
        "recipe": name, "recipe_hash": r.hash, "recipe_fields": r.identity(), "reductions": reductions(name, profile),
        "plan": pairs.plan_of(name, profile).told(),
        "measure_version": {version_key(u.part): measure_version(u.part) for u in parts}, "parts": [u.part for u in parts],
        "seeds": {who: f"{seed}{branch}" for who, (seed, branch) in pairs.members(name, index).items()},
        "data": describe(data), "endpoints": {who: run.digest() for who, run in runs.items()},
        **({"speedups": sorted(set().union(*fast.values())), "speedups_of": {who: sorted(used) for who, used in fast.items()}}
           if any(fast.values()) else {}),
        "train_seconds": round(sum(e["seconds"] for who, run in runs.items() for e in run.history
                                   if r.matching or who != "B" or e["epoch"] > (r.spawn_epoch or 0)), 1),  # the trunk of A and B once
        "measure_seconds": round(sum(result["seconds"] for result in results), 1),
        **results[-1]["environment"],
        # parts may have been measured at several commits, of one measure_version
        "commit": ", ".join(sorted({result["environment"]["commit"] for result in results})),
    }
    records.save_pair(experiment.name, profile, f"{name}/{index}", provenance, [row for row in rows if experiment.keeps(row)],
                      model=r.model, data=r.data, method=r.matching or ("spawning" if r.spawn_epoch is not None else "none"))
    _provenances.cache_clear()
    return sorted(have)


def describe(data: Dataset) -> dict[str, Any]:
    """Name, source, digest and sizes of a data set, for the provenance of a record."""
    return {"name": data.name, "source": data.source, "sha256": data.sha256,
            "train": len(data.y_train), "test": len(data.y_test)}


def _ship(profile: str, name: str) -> list[str]:
    """Copy the networks of published pairs beside the records: small ones of every pair, larger ones of the first.

    Not those of `lite` beside larger ones: a reader has the same networks at full scale. Nor those of `smoke` that ask
    when to spawn: they are trained in a second.
    """
    higher = PROFILES[PROFILES.index(profile) + 1:]
    if profile == "smoke" and name in SPAWN_AT or profile == "lite" and any(pairs.shipped_path(p, recipe(name, profile).trained_as, 0, "A").exists() for p in higher):
        return []
    r = recipe(recipe(name, profile).trained_as, profile)
    data = dataset(r)
    _provenances.cache_clear()
    first = set(pairs.members(name, 0).values())
    every = {member for index in range(PAIRS[profile][name]) if _published_parts(profile, name, index)
             for member in pairs.members(name, index).values()}
    done = []
    for seed, branch in sorted(every):
        source, target = run_path(r, seed, branch, data), pairs.shipped_path(profile, r.name, seed, branch)
        if _is_run(target, run_key(r, seed, branch, data)):  # records quote it: trained anew elsewhere, it has other bits
            continue
        if source.exists() and ((seed, branch) in first or source.stat().st_size <= SMALL):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            done.append(f"shipped {target.name}")
    return done


def _is_run(path: Path, key: str) -> bool:
    try:
        return path.exists() and bool(checkpoints.read(path, key).model)
    except CheckpointError:
        return False


def _keep_unfinished(units: list[Unit]) -> list[str]:
    """Latest checkpoints of long runs go into the tracked tree, and leave it when the run is complete."""
    done = []
    for unit in (u for u in units if u.trains):
        finished = unit.path()
        latest, kept = latest_path(finished), unfinished_path(finished)
        if finished.exists():
            if kept.exists():
                kept.unlink()
                done.append(f"no longer needed: {kept.name}")
        elif latest.exists() and not _same(latest, kept):
            key = run_key(unit.recipe(), unit.index, unit.branch, dataset(unit.recipe()))
            if sum(epoch["seconds"] for epoch in checkpoints.read(latest, key).history) > LONG:
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(latest, kept)
                done.append(f"kept unfinished {kept.name}")
    return done


def _same(a: Path, b: Path) -> bool:
    return b.exists() and a.read_bytes() == b.read_bytes()
