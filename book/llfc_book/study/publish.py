"""From the cache into the tracked tree: records and shipped endpoints. Nothing else changes them.

Networks that are not shipped are trained again where they are needed, and on another processor come
out with other bits. A pair's numbers therefore all quote the same networks, by the digest of their
weights: in every record or in none.
"""

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llfc_book import records
from llfc_book.study import matched, pairs
from llfc_book.study.catalogue import EXPERIMENTS, Experiment
from llfc_book.study.parts import part, versions
from llfc_book.study.runs import (
    kept_path,
    latest_path,
    run_key,
    run_path,
    unfinished_kept_path,
    unfinished_path,
)
from llfc_book.study.settings import PAIRS, PROFILE, PROFILES, recipe, reductions
from llfc_book.study.units import Unit, dataset
from llfc_lib.data import Dataset
from llfc_lib.metrics.rows import Row
from llfc_lib.training import checkpoints
from llfc_lib.training.checkpoints import Checkpoint, CheckpointError

LONG = 2 * 3600.0  # seconds: an unfinished run that cost more is kept in the tracked tree
#: Bytes: networks up to this size are shipped with every pair, larger ones with the first; so are
#: earlier epochs.
SMALL = 2 * 2**20
LIMIT = 20 * 10**6  # bytes: no larger file goes into the tracked tree
SHIPPED = ("small", "every", "none")  # what a recipe may say


def is_published(unit: Unit) -> bool:
    """Whether every committed record that takes rows of the unit's pair has this part, from this
    recipe and the networks at hand.
    """
    found = _published_parts(unit.profile, unit.name, unit.index)
    return unit.part in found and not is_outdated(unit.profile, unit.name, unit.index)


def is_finished(unit: Unit) -> bool:
    """Whether the unit is done on this machine; a measurement only if it was made on the networks
    that are at hand now.

    One that does not say which (from before they did) counts unless the records quote other
    networks.
    """
    path = unit.finished_path()
    if unit.trains or path is None:
        return unit.available()
    state = path.stat()
    measured_on = _measured_on(path, state.st_mtime_ns, state.st_size)
    if measured_on is None:
        return not is_outdated(unit.profile, unit.name, unit.index)
    return _agree(
        measured_on,
        digests_at_hand(unit.profile, unit.name, unit.index, dataset(unit.recipe()).sha256),
    )


def has_order(unit: Unit) -> bool:
    """Whether the unit is a matching whose order is shipped with the project, of the very networks
    at hand.
    """
    path = matched.shipped_permutation(unit.profile, unit.name, unit.index)
    if unit.part != "match" or not path.exists():
        return False
    here = digests_at_hand(unit.profile, unit.name, unit.index, dataset(unit.recipe()).sha256)
    return json.loads(path.read_text())["networks"] == {who: here.get(who) for who in "AB"}


def is_outdated(profile: str, name: str, index: int) -> bool:
    """Whether a record quotes another network than the one at hand, so that all of the pair must be
    measured anew.

    A shipped one that differs is let be until there is something to add to the pair.
    """
    found = list(_quoting(profile, name, index).values())
    here = {
        data: digests_at_hand(profile, name, index, data)
        for data in {p["data"]["sha256"] for p in found}
    }
    changed = {
        who
        for p in found
        for who, digest in here[p["data"]["sha256"]].items()
        if p["endpoints"].get(who, digest) != digest
    }
    if not changed:
        return False
    base, every = recipe(name, profile).trained_as, recipe(name, profile).members(index)
    return any(
        not pairs.shipped_path(profile, base, *every[who]).exists() for who in changed
    ) or _published_parts(profile, name, index) != set(recipe(name, profile).plan.parts)


def digests_at_hand(profile: str, name: str, index: int, data: str) -> dict[str, str]:
    """Digests of those of the pair's networks that are shipped or cached, trained on data of digest
    ``data``.
    """
    r = recipe(recipe(name, profile).trained_as, profile)
    found = {}
    for who, (seed, branch) in recipe(name, profile).members(index).items():
        named = SimpleNamespace(sha256=data)  # a run is named by no more of its data
        shipped, key = (
            pairs.shipped_path(profile, r.name, seed, branch),
            run_key(r, seed, branch, named),
        )
        digest = _digest_at(shipped if shipped.exists() else run_path(r, seed, branch, named), key)
        found |= {who: digest} if digest else {}
    return found


def _agree(some: Mapping[str, str], others: Mapping[str, str]) -> bool:
    """Whether no network has two digests."""
    return all(others.get(who, digest) == digest for who, digest in some.items())


def _digest_at(path: Path, key: str) -> str | None:
    """Digest of the network at ``path``: None if there is none, or none to trust. A file is read
    once while it stays as it is.
    """
    if not path.exists():
        return None
    state = path.stat()
    return _digest(path, key, state.st_mtime_ns, state.st_size)


@cache
def _digest(path: Path, key: str, changed: int, size: int) -> str | None:
    try:
        found = checkpoints.read(path, key)
    except CheckpointError:
        return None
    return found.digest() if found.model else None


@cache
def _measured_on(path: Path, changed: int, size: int) -> dict[str, str] | None:
    """The digests that a finished measurement names."""
    return json.loads(path.read_text()).get("networks")


def _quoting(profile: str, name: str, index: int) -> dict[str, dict[str, Any]]:
    """The pair's provenance in every record that holds rows of it, from this recipe, whatever their
    version.
    """
    found = {
        e.name: _provenances(profile, e.name).get(f"{name}/{index}", {})
        for e in EXPERIMENTS.values()
        if name in e.recipes
    }
    current = recipe(name, profile).hash
    return {
        e: provenance for e, provenance in found.items() if provenance.get("recipe_hash") == current
    }


def _published_parts(profile: str, name: str, index: int) -> set[str]:
    """Parts of the pair that are in every committed record which reads them."""
    every = set(recipe(name, profile).plan.parts)
    found = [
        _published_in(e, profile, name, index) | (every - e.reads(every))
        for e in EXPERIMENTS.values()
        if name in e.recipes
    ]
    return set.intersection(*found) if found else set()


def _published_in(experiment: Experiment, profile: str, name: str, index: int) -> set[str]:
    """Parts of the pair that the experiment's record holds: none if they come from another recipe,
    plan or version.
    """
    provenance = _provenances(profile, experiment.name).get(f"{name}/{index}", {})
    setting = recipe(name, profile)
    parts, plan = experiment.reads(provenance.get("parts", ())), setting.plan
    known = (*plan.HASHED, *plan.HASHED_LATER)
    told = {key: value for key, value in provenance.get("plan", {}).items() if key in known}
    current = (
        provenance.get("recipe_hash") == setting.hash
        and {**plan.HASHED, **told} == plan.identity()
        and all(
            provenance["measure_version"].get(part(name).version_key) == part(name).version
            and provenance.get("settings", {}).get(name, {}) == part(name).settings(setting)
            for name in parts
        )
    )
    if not current:
        return set()
    finer = {
        name for name in plan.parts if (whole := part(name).stood_in_for()) and whole.name in parts
    }
    return parts | experiment.reads(finer)


@cache
def _provenances(profile: str, experiment: str) -> dict[str, Any]:
    try:
        return records.load(experiment, profile).pairs
    except records.RecordError:
        return {}


def publish(profile: str | None = None) -> str:
    """Write what is finished in the cache into ``book/records`` and ``book/endpoints``; returns
    what was done.
    """
    done: list[str] = []
    networks: dict[Unit, None] = {}  # a set that keeps its order
    for p in [profile] if profile else PROFILES:
        for name, count in PAIRS[p].items():
            for index in range(count):
                every = [Unit(p, name, index, part) for part in recipe(name, p).plan.parts]
                needs = [need for unit in every for need in unit.needs() if need.trains]
                networks |= dict.fromkeys(unit for need in needs for unit in (*need.needs(), need))
                if not all(is_published(unit) for unit in every) and not _surpassed(p, name):
                    done += _publish_pair(p, name, index)
            done += _ship(p, name)
    done += _keep_unfinished(list(networks))
    _provenances.cache_clear()
    return "\n".join(dict.fromkeys(done)) or "nothing new to publish"


def _surpassed(profile: str, name: str) -> bool:
    """Whether a higher profile has at least as many pairs of the recipe in its records: a reader is
    shown those.
    """
    if PROFILE[profile].embedded:
        return False
    higher = [p for p in PROFILES[PROFILES.index(profile) + 1 :] if name in PAIRS[p]]
    return any(
        sum(bool(_published_parts(p, name, index)) for index in range(PAIRS[p][name]))
        >= PAIRS[profile][name]
        for p in higher
    )


def _publish_pair(profile: str, name: str, index: int) -> list[str]:
    """Write the pair's finished parts into every record that they add to, or into none; returns
    what to say of it.

    Where a record quotes other networks than those at hand, all that hold the pair are written at
    once, as soon as there is as much anew as they hold.
    """
    order = recipe(name, profile).plan.parts
    units = [Unit(profile, name, index, part) for part in order]
    experiments = [e for e in EXPERIMENTS.values() if name in e.recipes]

    def added(finished: list[Unit]) -> list[Experiment]:
        parts = {e.name: {u.part for u in finished} & e.reads(order) for e in experiments}
        return [
            e
            for e in experiments
            if any(part(name).leads or name in e.parts for name in parts[e.name])
            and parts[e.name] > _published_in(e, profile, name, index)
        ]

    finished, outdated = [u for u in units if is_finished(u)], is_outdated(profile, name, index)
    if not (outdated and finished or added(finished)):
        return []
    data, members = dataset(recipe(name, profile)), recipe(name, profile).members(index)
    if lacking := sorted(set(members) - set(digests_at_hand(profile, name, index, data.sha256))):
        return [f"{profile} {name}/{index} waits for its networks: {', '.join(lacking)}"]
    runs = {who: pairs.endpoint(profile, name, *member, data) for who, member in members.items()}
    digests = {who: run.digest() for who, run in runs.items()}
    quoting = _quoting(profile, name, index)
    written = added(finished)
    if not all(_agree(provenance["endpoints"], digests) for provenance in quoting.values()):
        held = set().union(
            *(EXPERIMENTS[e].reads(provenance["parts"]) for e, provenance in quoting.items())
        ) & set(order)
        if lacking := [part for part in order if part in held - {u.part for u in finished}]:
            return [
                f"{profile} {name}/{index} waits for: {', '.join(lacking)} (the records quote other"
                " networks)"
            ]
        written = [
            e
            for e in experiments
            if e in written or e.name in quoting and e.reads(u.part for u in finished)
        ]
    for e in written:
        _write(e, profile, name, index, _apart(finished, e.reads(order)), runs)
    if any(u.part == "match" for u in finished) and any("match" in e.reads(order) for e in written):
        path = matched.shipped_permutation(profile, name, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(
                {
                    "networks": {who: digests[who] for who in "AB"},
                    "permutations": matched.as_text(units[0].permutations()),
                }
            )
            + "\n"
        )
    parts = {u.part for u in finished for e in written if u.part in e.reads(order)}
    return [f"{profile} {name}/{index}: {', '.join(sorted(parts))}"] if parts else []


def _apart(units: list[Unit], parts: set[str]) -> list[Unit]:
    """Those units whose parts are among ``parts``, no row twice: a finer one is left out where the
    part that it refines is there.
    """
    chosen = [u for u in units if u.part in parts]
    names = {u.part for u in chosen}
    return [
        u
        for u in chosen
        if (whole := u.measures().stood_in_for()) is None or whole.name not in names
    ]


def _write(
    experiment: Experiment,
    profile: str,
    name: str,
    index: int,
    parts: list[Unit],
    runs: Mapping[str, Checkpoint],
) -> None:
    """The pair's rows in ``parts``, measured on ``runs``, into the experiment's record in place of
    what it holds of the pair.
    """
    r, data, results = (
        recipe(name, profile),
        dataset(recipe(name, profile)),
        [u.result() for u in parts],
    )
    rows: list[Row] = [row for result in results for row in result["rows"]]
    # networks of one pair may have been trained on different machines
    fast = {
        who: {epoch["speedups"] for epoch in run.history if "speedups" in epoch}
        for who, run in runs.items()
    }
    settings = {u.part: told for u in parts if (told := u.measures().settings(r))}
    provenance = {
        "recipe": name,
        "recipe_hash": r.hash,
        "recipe_fields": r.identity(),
        "reductions": reductions(name, profile),
        "plan": recipe(name, profile).plan.identity(),
        "measure_version": versions([u.part for u in parts]),
        "parts": [u.part for u in parts],
        **({"settings": settings} if settings else {}),
        "seeds": {
            who: f"{seed}{branch}"
            for who, (seed, branch) in recipe(name, profile).members(index).items()
        },
        "data": describe(data),
        "endpoints": {who: run.digest() for who, run in runs.items()},
        **(
            {
                "speedups": sorted(set().union(*fast.values())),
                "speedups_of": {who: sorted(used) for who, used in fast.items()},
            }
            if any(fast.values())
            else {}
        ),
        "train_seconds": round(
            sum(
                e["seconds"]
                for who, run in runs.items()
                for e in run.history
                if not r.shares_trunk or who != "B" or e["epoch"] > (r.spawn_epoch or 0)
            ),
            1,
        ),  # the trunk of A and B once
        "measure_seconds": round(sum(result["seconds"] for result in results), 1),
        **results[-1]["environment"],
        # parts may have been measured at several commits, of one measure_version
        "commit": ", ".join(sorted({result["environment"]["commit"] for result in results})),
    }
    records.save_pair(
        experiment.name,
        profile,
        f"{name}/{index}",
        provenance,
        [row for row in rows if experiment.keeps(row)],
        model=r.model,
        data=r.data,
        method=r.method,
    )
    _provenances.cache_clear()


def describe(data: Dataset) -> dict[str, Any]:
    """Name, source, digest and sizes of a data set, for the provenance of a record."""
    return {
        "name": data.name,
        "source": data.source,
        "sha256": data.sha256,
        "train": len(data.y_train),
        "test": len(data.y_test),
    }


def _ship(profile: str, name: str) -> list[str]:
    """Copy the networks of published pairs beside the records: small ones of every pair, larger
    ones of the first, or as the recipe says. If it is small, what was kept of them on the way lies
    beside those of the first pair, and beside others until it has been measured.

    Not those of a reduced profile beside larger ones: a reader has the same networks at full scale.
    Nor one that a record does not quote.
    """
    r = recipe(recipe(name, profile).trained_as, profile)
    if r.shipped not in SHIPPED:
        raise ValueError(f"recipe {r.name!r}: shipped = {r.shipped!r}; choose one of {SHIPPED}")
    higher = PROFILES[PROFILES.index(profile) + 1 :]
    if (
        r.shipped == "none"
        or not r.scale.embedded
        and any(pairs.shipped_path(p, r.name, 0, "A").exists() for p in higher)
    ):
        return []
    _provenances.cache_clear()
    first = set(recipe(name, profile).members(0).values())
    two = {member for who, member in recipe(name, profile).members(0).items() if who in "AB"}
    every = {
        member
        for index in range(PAIRS[profile][name])
        if _published_parts(profile, name, index)
        for member in recipe(name, profile).members(index).values()
    }
    waiting = _waiting(profile, name) if r.kept else set()
    data, quoted, done = dataset(r), _quoted(profile, r.name), []
    for seed, branch in sorted(every):
        source, target = (
            run_path(r, seed, branch, data),
            pairs.shipped_path(profile, r.name, seed, branch),
        )
        key = run_key(r, seed, branch, data)
        digest = _digest_at(source, key)
        # a good file stays: records quote it, and trained anew elsewhere the network has other bits
        if (
            digest is not None
            and _digest_at(target, key) is None
            and quoted.get((seed, branch), set()) <= {digest}
            and (r.shipped == "every" or (seed, branch) in first or source.stat().st_size <= SMALL)
        ):
            done += _into_tree(source, target, "shipped")
        for epoch in (epoch for epoch in r.kept if epoch < r.epochs):
            source_then, target_then = (
                kept_path(source, epoch),
                pairs.shipped_kept_path(profile, r.name, seed, branch, epoch),
            )
            if (seed, branch) not in two | waiting:
                if target_then.exists():
                    target_then.unlink()
                    done.append(f"no longer needed: {target_then.name}")
            elif (
                digest is not None
                and _digest_at(target, key) == digest
                and source_then.exists()
                and source_then.stat().st_size <= SMALL
                and _digest_at(target_then, key) is None
            ):
                done += _into_tree(source_then, target_then, "shipped")
    return done


def _waiting(profile: str, name: str) -> set[tuple[int, str]]:
    """Networks (seed, branch) that are still to be measured after earlier epochs, and can be."""
    sweeps = [
        Unit(profile, name, index, of)
        for of in recipe(name, profile).plan.parts
        if part(of).needs_epochs
        for index in range(PAIRS[profile][name])
    ]
    return {
        (need.index, need.branch)
        for sweep in sweeps
        if not is_published(sweep) and not sweep.lacks_epochs()
        for need in sweep.needs()
    }


def _quoted(profile: str, base: str) -> dict[tuple[int, str], set[str]]:
    """Digests that the records quote of each network (seed, branch) of the recipe ``base``."""
    found: dict[tuple[int, str], set[str]] = {}
    for name in (name for name in PAIRS[profile] if recipe(name, profile).trained_as == base):
        for index in range(PAIRS[profile][name]):
            for provenance in _quoting(profile, name, index).values():
                for who, member in recipe(name, profile).members(index).items():
                    found.setdefault(member, set()).update(
                        {provenance["endpoints"][who]} if who in provenance["endpoints"] else ()
                    )
    return found


def _into_tree(source: Path, target: Path, word: str) -> list[str]:
    """Copy the file into the tracked tree, unless it is too large for that; returns what to say of
    it.
    """
    size = source.stat().st_size
    if size > LIMIT:
        return [f"too large to ship: {target.name} ({size / 1e6:.0f} MB)"]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return [f"{word} {target.name}"]


def _keep_unfinished(units: list[Unit]) -> list[str]:
    """Latest checkpoints of long runs, and what was kept on the way, go into the tracked tree, and
    leave it when the run is complete.
    """
    done = []
    for unit in (u for u in units if u.trains):
        finished = unit.path()
        latest, kept = latest_path(finished), unfinished_path(finished)
        on_the_way = [
            (kept_path(finished, epoch), unfinished_kept_path(finished, epoch))
            for epoch in unit.recipe().kept
        ]
        if finished.exists():
            for file in (kept, *(target for _, target in on_the_way)):
                if file.exists():
                    file.unlink()
                    done.append(f"no longer needed: {file.name}")
        elif latest.exists() and not _same(latest, kept):
            key = run_key(unit.recipe(), unit.index, unit.branch, dataset(unit.recipe()))
            if sum(epoch["seconds"] for epoch in checkpoints.read(latest, key).history) > LONG:
                done += _into_tree(latest, kept, "kept unfinished")
                for source, target in on_the_way:
                    if kept.exists() and source.exists() and not _same(source, target):
                        done += _into_tree(source, target, "kept unfinished")
    return done


def _same(a: Path, b: Path) -> bool:
    return b.exists() and a.read_bytes() == b.read_bytes()
