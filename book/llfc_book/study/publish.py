"""From the cache into the tracked tree: records and shipped endpoints. Nothing else changes them.

Networks that are not shipped are trained again where they are needed, and on another processor come
out with other bits. A pair's numbers therefore all quote the same networks, by the digest of their
weights: in every record or in none. A record takes a pair when all parts that it reads are
finished.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llfc_book import records
from llfc_book.study import matched, pairs
from llfc_book.study.catalogue import EXPERIMENTS, Experiment
from llfc_book.study.parts import part, versions
from llfc_book.study.runs import kept_path, latest_path, run_key, run_path, unfinished
from llfc_book.study.settings import PAIRS, PROFILE, PROFILES, Plan, Setting, recipe
from llfc_book.study.units import Unit, dataset, plan
from llfc_lib.data import Dataset
from llfc_lib.training import checkpoints
from llfc_lib.training.checkpoints import Checkpoint

LONG = 2 * 3600.0  # seconds: an unfinished run that cost more is kept in the tracked tree
#: Bytes: networks up to this size are shipped with every pair, larger ones with the first; so are
#: earlier epochs.
SMALL = 2 * 2**20
LIMIT = 20 * 10**6  # bytes: no larger file goes into the tracked tree
SHIPPED = ("small", "every", "none")  # what a recipe may say


def is_published(unit: Unit) -> bool:
    """Whether every record that reads the unit's part holds its pair, as :func:`_holds` says."""
    setting = unit.recipe()
    return all(
        _holds(experiment, setting, unit.index)
        for experiment in EXPERIMENTS.values()
        if unit.name in experiment.recipes and unit.part in experiment.reads(setting.plan.parts)
    )


def _holds(experiment: Experiment, setting: Setting, index: int) -> bool:
    """Whether the committed record has all that it reads of the pair, from this recipe, plan and
    versions, and of the networks at hand.
    """
    told, parts = _told(experiment, setting, index), experiment.reads(setting.plan.parts)
    if told is None or not {*parts} <= {*told["parts"]}:
        return False
    settings, planned = told.get("settings", {}), {**Plan().identity(), **told.get("plan", {})}
    planned.pop("batch", None)  # older records tell it as well; it changes no number
    return (
        planned == setting.plan.identity()
        and {name: told["measure_version"].get(name) for name in parts} == versions(parts)
        and all(settings.get(name, {}) == part(name).settings(setting) for name in parts)
        and _of_networks_at_hand(told, setting, index)
    )


def _told(experiment: Experiment, setting: Setting, index: int) -> dict[str, Any] | None:
    """The pair's provenance in the committed record; None where it has no such pair of this
    recipe.
    """
    told = _provenances(setting.profile, experiment.name).get(f"{setting.name}/{index}")
    return told if told and told["recipe_hash"] == setting.hash else None


@cache
def _provenances(profile: str, experiment: str) -> dict[str, Any]:
    try:
        return records.load(experiment, profile).pairs
    except records.RecordError:
        return {}


def _of_networks_at_hand(told: Mapping[str, Any], setting: Setting, index: int) -> bool:
    """Whether the networks that a record quotes are those at hand, as far as there are some."""
    data = SimpleNamespace(sha256=told["data"]["sha256"])  # a run is named by no more of its data
    here = {
        who: pairs.digest(setting.profile, setting.name, *member, data)
        for who, member in setting.members(index).items()
    }
    return all(here.get(who) in (None, quoted) for who, quoted in told["endpoints"].items())


def publish(profile: str | None = None) -> str:
    """Write what is finished in the cache into ``book/records`` and ``book/endpoints``; returns
    what was done.
    """
    done: list[str] = []
    profiles = [profile] if profile else PROFILES
    for p in profiles:
        for name, count in PAIRS[p].items():
            for index in range(0 if surpassed(p, name) else count):
                done += _publish_pair(recipe(name, p), index)
            done += _ship(recipe(name, p))
    done += _keep_unfinished([u for p in profiles for u in plan(p, PAIRS[p]) if u.trains])
    _provenances.cache_clear()
    return "\n".join(dict.fromkeys(done)) or "nothing new to publish"


def surpassed(profile: str, name: str) -> bool:
    """Whether a larger profile of real data has as many pairs: a reader is shown those, so that
    these are neither measured nor published.
    """
    larger = PROFILES[PROFILES.index(profile) + 1 :]
    return not PROFILE[profile].embedded and any(
        PAIRS[p].get(name, 0) >= PAIRS[profile][name] for p in larger
    )


def _publish_pair(setting: Setting, index: int) -> list[str]:
    """Write the pair into every record that lacks it and whose parts are finished; returns what to
    say of it. While some record quotes other networks than those at hand, all that do are written
    at once or none.
    """
    profile, name, order = setting.profile, setting.name, setting.plan.parts
    title, units = f"{profile} {name}/{index}", [Unit(profile, name, index, of) for of in order]
    lacking = [
        e
        for e in EXPERIMENTS.values()
        if name in e.recipes and e.reads(order) and not _holds(e, setting, index)
    ]
    finished = {u.part: u for u in units if lacking and u.finished()}
    ready = [e for e in lacking if {*e.reads(order)} <= {*finished}]
    if not ready:
        return []
    data, members = dataset(setting), setting.members(index)
    absent = [who for who, one in members.items() if not pairs.digest(profile, name, *one, data)]
    if absent:
        return [f"{title} waits for its networks: {', '.join(absent)}"]
    stale = [
        e
        for e in lacking
        if (told := _told(e, setting, index)) and not _of_networks_at_hand(told, setting, index)
    ]
    waiting = [
        of for of in order if of not in finished and any(of in e.reads(order) for e in stale)
    ]
    if waiting:
        return [f"{title} waits for: {', '.join(waiting)} (the records quote other networks)"]
    runs = {who: pairs.endpoint(profile, name, *one, data) for who, one in members.items()}
    for e in ready:
        _write(e, [finished[of] for of in e.reads(order)], runs, data)
    parts = [of for of in order if any(of in e.reads(order) for e in ready)]
    if "match" in parts:
        path = matched.shipped_permutation(profile, name, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {
            "networks": {who: runs[who].digest() for who in "AB"},
            "permutations": matched.as_text(finished["match"].permutations()),
        }
        path.write_text(json.dumps(found) + "\n")
    _provenances.cache_clear()
    return [f"{title}: {', '.join(parts)}"]


def _write(
    experiment: Experiment, units: Sequence[Unit], runs: Mapping[str, Checkpoint], data: Dataset
) -> None:
    """The rows of a pair's ``units``, measured on ``runs``, into the experiment's record in place
    of what it holds of the pair.
    """
    r, index, results = units[0].recipe(), units[0].index, [u.result() for u in units]
    names = [u.part for u in units]
    settings = {name: told for name in names if (told := part(name).settings(r))}
    # networks of one pair may have been trained on different machines
    fast = {
        who: sorted({epoch["speedups"] for epoch in run.history if "speedups" in epoch})
        for who, run in runs.items()
    }
    trained = sum(
        epoch["seconds"]
        for who, run in runs.items()
        for epoch in run.history
        # the trunk of A and B once
        if not r.shares_trunk or who != "B" or epoch["epoch"] > (r.spawn_epoch or 0)
    )
    members = r.members(index).items()
    provenance = {
        "recipe": r.name,
        "recipe_hash": r.hash,
        "recipe_fields": r.identity(),
        "plan": r.plan.identity(),
        "measure_version": versions(names),
        "parts": names,
        **({"settings": settings} if settings else {}),
        "seeds": {who: f"{seed}{branch}" for who, (seed, branch) in members},
        "data": {
            **{key: getattr(data, key) for key in ("name", "source", "sha256")},
            **{"train": len(data.y_train), "test": len(data.y_test)},
        },
        "endpoints": {who: run.digest() for who, run in runs.items()},
        **({"speedups_of": fast} if any(fast.values()) else {}),
        "train_seconds": round(trained, 1),
        "measure_seconds": round(sum(result["seconds"] for result in results), 1),
        **results[-1]["environment"],
        # parts may have been measured at several commits, of one measure_version
        "commit": ", ".join(sorted({result["environment"]["commit"] for result in results})),
    }
    rows = [row for result in results for row in result["rows"] if experiment.keeps(row)]
    about = {"model": r.model, "data": r.data, "method": r.method}
    records.save_pair(experiment.name, r.profile, f"{r.name}/{index}", provenance, rows, **about)


def _ship(setting: Setting) -> list[str]:
    """Copy the networks that records quote beside them: small ones of every pair, larger ones of
    the first, or as the recipe says; none of a reduced profile beside larger ones. Small ones of
    earlier epochs lie beside those of the first pair, and beside others until they are measured.

    A good file stays: trained anew elsewhere, its network has other bits.
    """
    profile, r = setting.profile, pairs.trained_as(setting.profile, setting.name)
    if r.shipped not in SHIPPED:
        raise ValueError(f"recipe {r.name!r}: shipped = {r.shipped!r}; choose one of {SHIPPED}")
    larger = () if r.scale.embedded else PROFILES[PROFILES.index(profile) + 1 :]
    if r.shipped == "none" or any(pairs.shipped_path(p, r.name, 0, "A").exists() for p in larger):
        return []
    done: list[str] = []
    for index in range(PAIRS[profile][setting.name]):
        every = (_told(e, setting, index) for e in EXPERIMENTS.values())
        told = next((one for one in every if one), None)
        swept = index == 0 or not is_published(Unit(profile, setting.name, index, "sweep"))
        for who, (seed, branch) in setting.members(index).items() if told else ():
            data = SimpleNamespace(sha256=told["data"]["sha256"])
            key, quoted = run_key(r, seed, branch, data), told["endpoints"].get(who)
            source = run_path(r, seed, branch, data)
            target = pairs.shipped_path(profile, r.name, seed, branch)
            cached = quoted is not None and pairs.digest_at(source, key) == quoted
            small = r.shipped == "every" or index == 0 or cached and _size(source) <= SMALL
            if cached and small and pairs.digest_at(target, key) is None:
                done += _into_tree(source, target, "shipped")
            for epoch in r.kept if who in "AB" else ():
                then, there = kept_path(source, epoch), kept_path(target, epoch)
                whole = cached and pairs.digest_at(target, key) == quoted and then.exists()
                if not swept:
                    done += _remove(there)
                elif whole and _size(then) <= SMALL and pairs.digest_at(there, key) is None:
                    done += _into_tree(then, there, "shipped")
    return done


def _into_tree(source: Path, target: Path, word: str) -> list[str]:
    """Copy the file into the tracked tree, unless it is there or too large; returns what to say of
    it.
    """
    if target.exists() and target.read_bytes() == source.read_bytes():
        return []
    if _size(source) > LIMIT:
        return [f"too large to ship: {target.name} ({_size(source) / 1e6:.0f} MB)"]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return [f"{word} {target.name}"]


def _size(file: Path) -> int:
    return file.stat().st_size


def _remove(file: Path) -> list[str]:
    if not file.exists():
        return []
    file.unlink()
    return [f"no longer needed: {file.name}"]


def _keep_unfinished(units: Sequence[Unit]) -> list[str]:
    """Latest checkpoints of long runs, and what was kept on the way, go into the tracked tree, and
    leave it when the run is complete.
    """
    done = []
    for unit in units:
        path, r = unit.path(), unit.recipe()
        latest = latest_path(path)
        files = [latest, *(kept_path(path, epoch) for epoch in r.kept)]
        if path.exists():
            done += [line for file in files for line in _remove(unfinished(file))]
        elif latest.exists():
            key = run_key(r, unit.index, unit.branch, dataset(r))
            if sum(epoch["seconds"] for epoch in checkpoints.read(latest, key).history) > LONG:
                for file in (file for file in files if file.exists()):
                    done += _into_tree(file, unfinished(file), "kept unfinished")
    return done
