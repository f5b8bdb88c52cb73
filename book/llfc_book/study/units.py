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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from llfc_book.places import ROOT, cache_dir
from llfc_book.study import matched, pairs
from llfc_book.study.measures.references import measure_in_one_pass
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import Part, in_one_pass, part, rows_of
from llfc_book.study.runs import run_path, train
from llfc_book.study.settings import PAIRS, QUEUE, RECIPES, Setting, check_profile, recipe
from llfc_lib import __version__
from llfc_lib.data import Dataset, load
from llfc_lib.metrics.rows import Row
from llfc_lib.training.checkpoints import atomic_write, writable
from llfc_lib.training.loop import new_network
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
        profile, name, index, part = text.split("/")
        return cls(check_profile(profile), name, int(index), part)

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
            return [Unit(self.profile, self.name, self.index, "train trunk")] if forks else []
        networks = [
            Unit(self.profile, setting.trained_as, seed, f"train {branch}")
            for member, (seed, branch) in setting.members(self.index).items()
            if member in self.members()
        ]
        return networks + [replace(self, name=name, part="match") for name in self._orders()]

    def _orders(self) -> list[str]:
        """Settings of the same networks whose matching must be finished."""
        setting, measured = self.recipe(), self.measures()
        if measured.of_every_method:
            return [name for name, r in RECIPES.items() if r.base and r.base == setting.base]
        return [self.name] if setting.needs_order and measured.ordered else []

    def members(self) -> tuple[str, ...]:
        """The networks that the part looks at: a displaced partner needs no independent one."""
        return self.measures().members

    def path(self) -> Path:
        """Where the result lies when it is finished."""
        if self.trains:
            return run_path(self.recipe(), self.index, self.branch, dataset(self.recipe()))
        return self._path_of(self.measures())

    def _path_of(self, measured: Part) -> Path:
        setting = self.recipe()
        told = measured.settings(setting)
        text = json.dumps(
            [
                setting.hash,
                dataset(setting).sha256,
                self.index,
                measured.name,
                measured.version,
                setting.plan.identity(),
                *([told] if told else []),
            ]
        )
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        name = f"{self.name}-{self.index}-{measured.name.replace(' ', '_')}-{key}.json"
        return cache_dir() / "units" / name

    def finished_path(self) -> Path | None:
        """The file that holds its rows: its own, or that of a part which it refines. None where
        neither is there.
        """
        if self.path().exists():
            return self.path()
        coarser = None if self.trains else self.measures().stood_in_for()
        held_in = self._path_of(coarser) if coarser else None
        return held_in if held_in is not None and held_in.exists() else None

    def available(self) -> bool:
        """Finished here: in the cache, or a network that is shipped."""
        shipped = (
            self.trains
            and pairs.shipped_path(self.profile, self.name, self.index, self.branch).exists()
        )
        return shipped or self.finished_path() is not None

    def at_hand(self) -> bool:
        """Available, or a permutation that is shipped."""
        return (
            self.available()
            or self.part == "match"
            and matched.shipped_permutation(self.profile, self.name, self.index).exists()
        )

    def lacks_epochs(self) -> bool:
        """Whether it looks at earlier epochs of finished networks, and some are not here: those of
        networks trained again are others.
        """
        return (
            not self.trains
            and self.measures().needs_epochs
            and any(
                pairs.lacks_epochs(
                    need.profile, need.name, need.index, need.branch, dataset(need.recipe())
                )
                for need in self.needs()
            )
        )

    def work(self) -> float:
        """Rough floating-point operations, to foretell the time: forward passes over images, three
        for a step.
        """
        data, r = dataset(self.recipe()), self.recipe()
        if self.trains:
            trunk = r.spawn_epoch or 0
            epochs = trunk if self.branch == "trunk" else r.epochs - trunk
            return flops_per_image(r) * 3 * len(data.y_train) * epochs
        return flops_per_image(r) * self.measures().work(r, data)

    def run(self, device: str = "cpu") -> None:
        """Do the work unless it is done. Raises Busy when another process is at it."""
        with ExitStack() as stack:
            stack.enter_context(self._lock())
            if self.available():
                return
            if self.trains:
                train(self.recipe(), self.index, self.branch, dataset(self.recipe()), device)
                return
            # the environment at once: the checkout may be another before it ends
            began, where = time.perf_counter(), environment(device)
            # locked before the networks are looked at, which may take minutes: nobody else begins
            # with them meanwhile
            together = [self, *stack.enter_context(self._due_with_it())]
            pair = self._pair(device)
            measure = self.measures().measure
            if measure is None:
                found = measure_in_one_pass(pair, [unit.part for unit in together])
            else:
                found = {self.part: measure(pair)}
            for unit in reversed(together):  # its own last: it may then be looked for
                seconds = time.perf_counter() - began
                unit._write(found[unit.part], seconds, len(together), where, pair.extra)

    def _pair(self, device: str) -> Pair:
        """The networks that the part looks at, in the order that it wants them in."""
        pair = pairs.load_pair(self.recipe(), self.index, device, only=self.members())
        orders = {need.recipe().matching: need for need in self.needs() if not need.trains}
        if not orders:
            return pair
        together = matched.bring_together(pair, self._permutations(pair))
        if self.measures().of_every_method:
            found = {method: unit._permutations(pair) for method, unit in orders.items()}
            together.extra = {"orders": found}
        return together

    def _write(
        self,
        rows: Sequence[Row],
        seconds: float,
        shared_by: int,
        where: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the result: ``seconds`` were spent on as many parts as ``shared_by`` says, in the
        environment ``where``.
        """
        data, members = dataset(self.recipe()), self.recipe().members(self.index)
        digests = {
            who: pairs.endpoint(self.profile, self.name, *members[who], data).digest()
            for who in self.members()
            if who in members
        }
        result = {
            "unit": str(self),
            "rows": [asdict(row) for row in rows],
            "seconds": round(seconds / shared_by, 2),
            "work": self.work(),
            "environment": {**where, "finished": _today()},
            "networks": digests,
            **{key: value for key, value in (extra or {}).items() if key == "permutations"},
        }
        writable(self.path().parent)
        atomic_write(self.path(), json.dumps(result).encode())

    def in_its_pass(self) -> list["Unit"]:
        """Other parts of the pair that the pass of this one measures too."""
        if self.trains or self.measures().metrics is None:
            return []
        shared = in_one_pass(self.recipe().plan.parts)
        return [replace(self, part=name) for name in shared if name != self.part]

    @contextmanager
    def _due_with_it(self) -> Iterator[list["Unit"]]:
        """Those of :meth:`in_its_pass` that nobody has measured or is at, locked."""
        with ExitStack() as stack:
            due = []
            for unit in self.in_its_pass():
                if not unit.available():
                    with suppress(Busy):
                        stack.enter_context(unit._lock())
                        due.append(unit)
            yield due

    def is_running(self) -> bool:
        """Whether a process is at work on it."""
        try:
            with open(self._lock_path()) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def result(self) -> dict[str, Any]:
        """The finished measurement: ``rows`` as :class:`Row` and what is known of the run."""
        path = self.finished_path() or self.path()
        found = json.loads(path.read_text())
        rows = [Row(**row) for row in found["rows"]]
        found["rows"] = rows if path == self.path() else rows_of(self.part, rows)
        return found

    def permutations(self) -> dict[str, Tensor]:
        """What the pair's "match" part found here."""
        path = replace(self, part="match").path()
        return matched.from_text(json.loads(path.read_text())["permutations"])

    def _permutations(self, pair: Pair) -> dict[str, Tensor]:
        """The same, or as they are shipped with the project; found now where those are of other
        networks.
        """
        found = replace(self, part="match").path().exists()
        return self.permutations() if found else matched.of_pair(pair, self.name)

    def _lock_path(self) -> Path:
        return cache_dir() / "locks" / f"{self.path().stem}.lock"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        writable(self._lock_path().parent)
        with open(self._lock_path(), "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(f"{self} is being worked on by another process") from error
            yield


def plan(profile: str | None = None, names: Collection[str] | None = None) -> list[Unit]:
    """Every unit in the order of :data:`QUEUE`; within a line of it, first pairs first.

    ``names`` restricts it to these recipes, also to some that no line of the queue has: too large
    for most machines.
    """
    if profile is not None:
        check_profile(profile)
    lines = QUEUE
    if names is not None:
        lines = (
            *((p, tuple(n for n in line if n in names), parts) for p, line, parts in QUEUE),
            *((p, (n,), None) for p, pairs_of in PAIRS.items() for n in pairs_of if n in names),
        )
    units: dict[Unit, None] = {}  # a set that keeps its order
    for p, line, parts in lines:
        if line and profile in (None, p):
            for index in range(max(PAIRS[p][name] for name in line)):
                for name in (n for n in line if index < PAIRS[p][n]):
                    measures = [
                        Unit(p, name, index, part)
                        for part in recipe(name, p).plan.parts
                        if parts is None or part in parts
                    ]
                    units |= dict.fromkeys(
                        n for unit in measures for u in unit.needs() for n in (*u.needs(), u)
                    )
                    units |= dict.fromkeys(measures)
    return list(units)


def dataset(r: Recipe) -> Dataset:
    """The recipe's data set, normalised as it says; read once."""
    return _dataset(r.data, r.normalise)


@cache
def _dataset(name: str, normalise: str) -> Dataset:
    return load(name, normalise=normalise)


@cache
def flops_per_image(r: Recipe) -> float:
    """Operations of one forward pass, counted on device ``meta``."""
    data = dataset(r)
    with torch.device("meta"):  # no weights are drawn: a wide network takes seconds
        network = new_network(r, data).eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, *data.image_shape, device="meta"))
    return counter.get_total_flops()


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
