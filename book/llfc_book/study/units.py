"""Units of work: each a pure function of (recipe, seed, data set), done once and kept as one file.

A unit trains one network or measures one part of one pair. Finished measurements lie in
``<cache>/units``.

Source: this book.
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
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from llfc_book.places import ROOT, cache_dir
from llfc_book.study import decomposition, joint, matched, pairs, spectra, widths
from llfc_book.study.runs import run_path, train
from llfc_book.study.settings import MATCHED, PAIRS, QUEUE, check_profile, recipe
from llfc_lib import __version__
from llfc_lib.data import Dataset, load
from llfc_lib.metrics.rows import Row
from llfc_lib.training.checkpoints import atomic_write, writable
from llfc_lib.training.loop import new_network
from llfc_lib.training.recipe import Recipe

#: Raise a part's when a metric, null or control in it would give other numbers.
MEASURE_VERSION = {"pair": 2, "t=1": 1, "matched": 2}
#: The same for parts that only matched networks have.
MATCHED_VERSION = {"match": 1, "spectra": 3}
OTHER_VERSION = {
    "joint": 1,
    "sweep": 2,
    "decomposition": 3,
    "closeness": 1,
    "connected": 1,
    "coherence": 1,
    "weights": 1,
}


#: Parts of matched pairs that do not wait for the matching: they look at one network, or match for
#: themselves.
ALONE_ON_NETWORKS = ("match", "spectra", "weights", "sweep")


def version_key(part: str) -> str:
    """What its version goes by: displacements of one size have one."""
    return part.split(" ")[-1]


def measure_version(part: str) -> int:
    """The version of what measures ``part``: a new one has its units done again."""
    return {**MEASURE_VERSION, **MATCHED_VERSION, **OTHER_VERSION}[version_key(part)]


class Busy(RuntimeError):
    """Another process works on the unit."""


@dataclass(frozen=True)
class Unit:
    """``part`` is "train A" (branch of seed ``index``), or a part of pair ``index``: "match",
    "pair", "spectra", "joint" or a displacement.
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

    def recipe(self) -> Recipe:
        """Its recipe, as its profile scales it."""
        return recipe(self.name, self.profile)

    def needs(self) -> list["Unit"]:
        """What must be finished first: a child's trunk, a measurement's networks."""
        if self.trains:
            forks = self.branch != "trunk" and bool(self.recipe().spawn_epoch)
            return [Unit(self.profile, self.name, self.index, "train trunk")] if forks else []
        found = [] if not self.recipe().matching or self.part in ALONE_ON_NETWORKS else [self.name]
        if self.part == "joint":  # sets the permutations of all methods side by side
            found = [other for other, (base, _) in MATCHED.items() if base == self.recipe().base]
        return [
            Unit(self.profile, self.recipe().trained_as, seed, f"train {branch}")
            for member, (seed, branch) in pairs.members(self.name, self.index).items()
            if member in self.members()
        ] + [Unit(self.profile, name, self.index, "match") for name in found]

    def members(self) -> tuple[str, ...]:
        """The networks that the part looks at: a displaced partner needs no independent one."""
        every = ("A", "B", "independent")
        one = ("A",)
        return {
            "pair": every,
            "decomposition": every,
            "connected": every,
            "coherence": every,
            "spectra": one,
            "weights": one,
        }.get(self.part, ("A", "B"))

    def path(self) -> Path:
        """Where the result lies when it is finished."""
        data = dataset(self.recipe())
        if self.trains:
            return run_path(self.recipe(), self.index, self.branch, data)
        settings = pairs.settings_of(self.part, self.name, self.profile)
        text = json.dumps(
            [
                self.recipe().hash,
                data.sha256,
                self.index,
                self.part,
                measure_version(self.part),
                pairs.plan_of(self.name, self.profile).told(),
                *([settings] if settings else []),
            ]
        )
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        return (
            cache_dir()
            / "units"
            / f"{self.name}-{self.index}-{self.part.replace(' ', '_')}-{key}.json"
        )

    def available(self) -> bool:
        """Finished here: in the cache, or a network that is shipped."""
        shipped = (
            self.trains
            and pairs.shipped_path(self.profile, self.name, self.index, self.branch).exists()
        )
        return shipped or self.path().exists()

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
        return self.part == "sweep" and any(
            pairs.lacks_epochs(
                need.profile, need.name, need.index, need.branch, dataset(need.recipe())
            )
            for need in self.needs()
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
        how = pairs.plan_of(self.name, self.profile)
        if self.part == "sweep" and not r.kept:
            return flops_per_image(r) * 3 * len(data.y_train) * 2 * (r.epochs + 5)
        if self.part == "sweep":
            return (
                flops_per_image(r)
                * 10
                * len(r.kept)
                * ((how.train_first or 0) + pairs.SWEPT_IMAGES)
            )
        if self.part == "weights":
            return 1e12
        if (
            self.part == "closeness"
        ):  # some twenty looks a draw, from both ends, each at two networks
            settings = pairs.settings_of("closeness", self.name, self.profile)
            return (
                flops_per_image(r) * 80 * settings["draws"] * (settings["images"] + how.calibration)
            )
        if self.part in pairs.IN_ONE_PASS:
            return flops_per_image(r) * 40 * len(data.y_test)
        if (
            self.part == "joint"
        ):  # passes for its moments, and products for some 500 visits of a layer
            return flops_per_image(r) * (
                4 * len(data.y_train) + 500 * dict(r.model_args)["hidden"] * 5
            )
        if self.part == "decomposition":  # pair, controls and displaced partners, ten passes each
            return (
                flops_per_image(r)
                * 120
                * (min(how.first or 10**9, len(data.y_test)) + how.calibration)
            )
        if self.part in MATCHED_VERSION:
            epochs = dict(r.matching_args).get(
                "epochs", 2
            )  # of passes through the training set, forward and back
            return flops_per_image(r) * 3 * len(data.y_train) * epochs
        if self.part == "pair":
            return flops_per_image(r) * (
                120 * min(how.pair_first or 10**9, len(data.y_test)) + 60 * how.calibration
            )
        passes = how.draws * (20 if self.part.endswith("matched") else 15)
        return (
            flops_per_image(r)
            * passes
            * (min(how.first or 10**9, len(data.y_test)) + how.calibration)
        )

    def run(self, device: str = "cpu") -> None:
        """Do the work unless it is done. Raises Busy when another process is at it."""
        with ExitStack() as stack:
            stack.enter_context(self._lock())
            if self.available():
                return
            if self.trains:
                train(self.recipe(), self.index, self.branch, dataset(self.recipe()), device)
                return
            began, where = (
                time.perf_counter(),
                environment(device),
            )  # at once: the checkout may be another before it ends
            extra: dict[str, Any] = {}
            # locked before the networks are looked at, which may take minutes: nobody else begins
            # with them meanwhile
            together = [self, *stack.enter_context(self._due_with_it())]
            nets, data = pairs.networks(
                self.profile, self.name, self.index, device, only=self.members()
            )
            if self.recipe().matching and self.part not in ALONE_ON_NETWORKS:
                nets = matched.bring_together(
                    self.profile, self.name, nets, data, self._permutations(nets, data)
                )
            if self.part == "sweep":
                rows = widths.sweep(self.profile, self.name, self.index, data, device)
            elif self.part == "match":
                permutations, rows = matched.find(self.profile, self.name, self.index, nets, data)
                extra["permutations"] = matched.as_text(permutations)
            elif self.part == "spectra":
                rows = spectra.rows(self.profile, self.name, self.index, nets, data)
            elif self.part == "weights":
                rows = spectra.weight_rows(self.profile, self.name, self.index, nets, data)
            elif self.part == "joint":
                candidates = {
                    MATCHED[u.name][1]: u._permutations(nets, data)
                    for u in self.needs()
                    if u.part == "match"
                }
                rows = joint.rows_with_tiny(
                    self.profile, self.name, self.index, nets, data, candidates
                )
            elif self.part == "decomposition":
                rows = decomposition.rows(self.profile, self.name, self.index, nets, data)
            elif self.part == "closeness":
                rows = pairs.measure_closeness(self.profile, self.name, self.index, nets, data)
            elif self.part in pairs.IN_ONE_PASS:
                found = pairs.measure_references(
                    self.profile, self.name, nets, data, [unit.part for unit in together]
                )
                for unit in together[1:]:
                    unit._write(found[unit.part], time.perf_counter() - began, len(together), where)
                rows = found[self.part]
            elif self.part == "pair":
                rows = pairs.measure_pair(self.profile, self.name, nets, data)
                for who, (seed, branch) in pairs.members(self.name, self.index).items():
                    if who != "independent":
                        rows += pairs.curve_rows(
                            who, pairs.endpoint(self.profile, self.name, seed, branch, data)
                        )
            else:
                kind, at_distance = pairs.DISPLACED[self.part]
                rows = pairs.measure_displaced(
                    self.profile, self.name, self.index, nets, data, kind, at_distance
                )
            self._write(rows, time.perf_counter() - began, len(together), where, extra)

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
        data, members = dataset(self.recipe()), pairs.members(self.name, self.index)
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
            **(extra or {}),
        }
        writable(self.path().parent)
        atomic_write(self.path(), json.dumps(result).encode())

    def in_its_pass(self) -> list["Unit"]:
        """Other parts of the pair that the pass of this one measures too."""
        parts = (
            pairs.plan_of(self.name, self.profile).parts if self.part in pairs.IN_ONE_PASS else ()
        )
        return [
            replace(self, part=part)
            for part in pairs.IN_ONE_PASS
            if part != self.part and part in parts
        ]

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
        found = json.loads(self.path().read_text())
        found["rows"] = [Row(**row) for row in found["rows"]]
        return found

    def permutations(self) -> dict[str, Tensor]:
        """What the pair's "match" part found here."""
        return matched.from_text(
            json.loads(replace(self, part="match").path().read_text())["permutations"]
        )

    def _permutations(self, nets: dict[str, nn.Module], data: Dataset) -> dict[str, Tensor]:
        """The same, or as they are shipped with the project; found now where those are of other
        networks.
        """
        found = replace(self, part="match").path().exists()
        return (
            self.permutations()
            if found
            else matched.of_pair(self.profile, self.name, self.index, nets, data)
        )

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
                        for part in pairs.plan_of(name, p).parts
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
    if git("status", "--porcelain", "--", "llfc_lib", "book/llfc_book"):
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
