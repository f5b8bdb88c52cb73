"""Units of work: each a pure function of (recipe, seed, data set), done once and kept as one file.

A unit trains one network or measures one part of one pair. Finished measurements lie in
``<cache>/units``.
"""

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llfc_book.places import ROOT, cache_dir
from llfc_book.study import matched, pairs
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import Part, part
from llfc_book.study.runs import run_path, train
from llfc_book.study.settings import PAIRS, QUEUE, RECIPES, Setting, check_profile, recipe
from llfc_lib import __version__
from llfc_lib.data import Dataset, load
from llfc_lib.metrics.rows import Row
from llfc_lib.training.checkpoints import atomic_write, writable
from llfc_lib.training.recipe import Recipe


class Busy(RuntimeError):
    """Another process works on the unit."""


@dataclass(frozen=True)
class Unit:
    """``part`` is "train A" (branch of seed ``index``), or a part of pair ``index`` by its name
    (:mod:`llfc_book.study.parts`).
    """

    profile: str
    name: str
    index: int
    part: str

    def __str__(self) -> str:
        return f"{self.profile}/{self.name}/{self.index}/{self.part}"

    @classmethod
    def parse(cls, text: str) -> "Unit":
        """The unit of a name "profile/recipe/index/part". ValueError for another form."""
        profile, *rest = text.split("/")
        if len(rest) != 3 or not rest[1].isdigit():
            raise ValueError(
                f"{text!r} is no unit; name it PROFILE/RECIPE/INDEX/PART, as `run` does"
            )
        return cls(check_profile(profile), rest[0], int(rest[1]), rest[2])

    @property
    def trains(self) -> bool:
        """Whether the unit trains a network; otherwise it measures."""
        return self.part.startswith("train ")

    @property
    def branch(self) -> str:
        """The branch that the unit trains."""
        return self.part.removeprefix("train ")

    def recipe(self) -> Setting:
        """Its recipe, as its profile scales it."""
        return recipe(self.name, self.profile)

    def measures(self) -> Part:
        """The part that it measures."""
        return part(self.part)

    def needs(self) -> list["Unit"]:
        """What must be finished first: a child's trunk, a measurement's networks and order."""
        setting = self.recipe()
        if self.trains:
            forks = self.branch != "trunk" and bool(setting.spawn_epoch)
            return [replace(self, part="train trunk")] if forks else []
        order, networks = self.measures().order, self.networks().values()
        names = [self.name] if setting.needs_order and order == "own" else []
        if order == "every":
            names = [name for name, r in RECIPES.items() if r.base and r.base == setting.base]
        return [
            *(Unit(self.profile, setting.trained_as, seed, f"train {b}") for seed, b in networks),
            *(replace(self, name=name, part="match") for name in names),
        ]

    def networks(self) -> dict[str, tuple[int, str]]:
        """The (seed, branch) of the networks that the part looks at."""
        every, wanted = self.recipe().members(self.index), self.measures().members
        return {who: one for who, one in every.items() if who in wanted}

    def path(self) -> Path:
        """Where the result lies when it is finished."""
        setting, data = self.recipe(), dataset(self.recipe())
        if self.trains:
            return run_path(setting, self.index, self.branch, data)
        measured, told = self.measures(), self.measures().settings(setting)
        what = [setting.hash, data.sha256, self.index, measured.name, measured.version]
        text = json.dumps([*what, setting.plan.identity(), *([told] if told else [])])
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        name = f"{self.name}-{self.index}-{measured.name.replace(' ', '_')}-{key}.json"
        return cache_dir() / "units" / name

    def digests(self) -> dict[str, str | None]:
        """Digests of the networks that the part looks at, as they are at hand."""
        data = dataset(self.recipe())
        return {
            who: pairs.digest(self.profile, self.name, *one, data)
            for who, one in self.networks().items()
        }

    def finished(self) -> bool:
        """Finished here: a network that is shipped or in the cache; a measurement in the cache, of
        no other networks than those at hand.
        """
        if self.trains:
            shipped = pairs.shipped_path(self.profile, self.name, self.index, self.branch)
            return shipped.exists() or self.path().exists()
        if not self.path().exists():
            return False
        measured_on = json.loads(self.path().read_text())["networks"]
        return all(measured_on.get(who) == now for who, now in self.digests().items() if now)

    def at_hand(self) -> bool:
        """Finished, or an order of the networks at hand that is shipped."""
        return self.finished() or (
            self.part == "match"
            and matched.shipped_order(self.recipe(), self.index, dataset(self.recipe())) is not None
        )

    def run(self, device: str = "cpu") -> None:
        """Do the work unless it is done. Raises Busy when another process is at it."""
        with self.locked():
            if self.finished():
                return
            if self.trains:
                train(self.recipe(), self.index, self.branch, dataset(self.recipe()), device)
                return
            # the environment at once: the checkout may be another before it ends
            began, where = time.perf_counter(), environment(device)
            pair = self._pair(device)
            rows = self.measures().measure(pair)
            result = {
                "unit": str(self),
                "rows": [asdict(row) for row in rows],
                "seconds": round(time.perf_counter() - began, 2),
                "environment": {**where, "finished": _today()},
                "networks": self.digests(),
                **{key: value for key, value in pair.extra.items() if key == "permutations"},
            }
            writable(self.path().parent)
            atomic_write(self.path(), json.dumps(result).encode())

    def _pair(self, device: str) -> Pair:
        """The networks that the part looks at, in the order that it wants them in."""
        pair = pairs.load_pair(self.recipe(), self.index, device, only=self.measures().members)
        orders = {n.recipe().matching: n._order(pair) for n in self.needs() if not n.trains}
        if not orders:
            return pair
        together = matched.bring_together(pair, orders[self.recipe().matching])
        together.extra = {"orders": orders}
        return together

    def _order(self, pair: Pair) -> dict[str, Tensor]:
        """What a matching found here, or the order that is shipped; found now where those are of
        other networks.
        """
        return self.permutations() if self.finished() else matched.of_pair(pair, self.name)

    def result(self) -> dict[str, Any]:
        """The finished measurement: ``rows`` as :class:`Row` and what is known of the run."""
        found = json.loads(self.path().read_text())
        return {**found, "rows": [Row(**row) for row in found["rows"]]}

    def permutations(self) -> dict[str, Tensor]:
        """What a finished "match" found."""
        return matched.from_text(json.loads(self.path().read_text())["permutations"])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the unit. Busy where one is at it."""
        path = cache_dir() / "locks" / f"{self.path().stem}.lock"
        writable(path.parent)
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(f"{self} is being worked on by another process") from error
            yield


def plan(profile: str | None = None, names: Collection[str] | None = None) -> list[Unit]:
    """Every unit in the order of :data:`QUEUE`; within a line of it, first pairs first.

    ``names`` restricts it to these recipes, also to some that no line of the queue has: too large
    for most machines. ValueError for a recipe that there is not, or that has no pairs.
    """
    profiles = [check_profile(profile)] if profile else list(PAIRS)
    lines = [line for line in QUEUE if line[0] in profiles]
    if names:
        known = dict.fromkeys(name for p in profiles for name in PAIRS[p])
        for name in names:
            if name not in known:
                what = "has no pairs" if name in RECIPES else "is unknown"
                raise ValueError(f"recipe {name!r} {what} here; choose from {list(known)}")
        lines = [
            *((p, tuple(n for n in line if n in names), parts) for p, line, parts in lines),
            *((p, (n,), None) for p in profiles for n in PAIRS[p] if n in names),
        ]
    units: dict[Unit, None] = {}  # a set that keeps its order
    for p, line, parts in lines:
        for index in range(max((PAIRS[p][name] for name in line), default=0)):
            for name in (n for n in line if index < PAIRS[p][n]):
                measures = [
                    Unit(p, name, index, part)
                    for part in recipe(name, p).plan.parts
                    if parts is None or part in parts
                ]
                needs = [need for unit in measures for need in unit.needs()]
                units |= dict.fromkeys(n for need in needs for n in (*need.needs(), need))
                units |= dict.fromkeys(measures)
    return list(units)


def dataset(r: Recipe) -> Dataset:
    """The recipe's data set, normalised as it says; read once."""
    return _dataset(r.data, r.normalise)


@cache
def _dataset(name: str, normalise: str) -> Dataset:
    return load(name, normalise=normalise)


def environment(device: str) -> dict[str, Any]:
    """Commit, versions and machine, for the provenance of a record."""

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    if git("status", "--porcelain", "--", "llfc_lib", "book/llfc_book", "book/data"):
        commit += "-dirty"
    return {
        "commit": commit,
        "device": device,
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "llfc_lib": __version__,
        },
        "finished": _today(),
    }


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
