"""The queue of what is still missing: ``python -m llfc_lib.experiments.queue run | status | publish``.

``run`` works on as many units at once as there are cores, one thread each: two threads of one training step wait for
each other at every operation and fall far behind when anything else runs. Stopped at any moment, it loses at most the
epoch in progress.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from llfc_lib.experiments import publish
from llfc_lib.experiments.units import Busy, Unit, cores, dataset, plan
from llfc_lib.training import checkpoints
from llfc_lib.training.checkpoints import CheckpointError
from llfc_lib.training.loop import run_key
from llfc_lib.training.recipes import PROFILES

BUSY = 75  # exit status of a unit that another queue works on
SECONDS_BETWEEN_NEWS = 30.0
DEFAULT_RATE = 2e10  # operations a second of one thread, until a finished unit tells better


def missing(units: Sequence[Unit]) -> list[Unit]:
    """Units neither finished here nor in a committed record; a network only where something still needs it.

    Source: this book.
    """
    open_measures = [u for u in units if not u.trains and not publish.is_published(u) and not u.available()]
    networks = {need for u in open_measures for need in u.needs() if not need.available()}
    trunks = {need for u in networks for need in u.needs() if not need.available()}
    return [u for u in units if u in open_measures or u in networks or u in trunks]


@dataclass
class Running:
    """A unit at work: its process, since when, and what it last said.

    Source: this book.
    """

    process: subprocess.Popen
    lines: Path
    began: float
    told: float

    def news(self, now: float) -> str:
        """The last line of progress, at most twice a minute."""
        if now - self.told < SECONDS_BETWEEN_NEWS or not self.lines.exists():
            return ""
        self.told = now
        return self.lines.read_text().rstrip().rpartition("\n")[2]


def run(profile: str | None, jobs: int, device: str) -> int:
    """Work through the queue; returns the number of units that failed.

    Source: this book.
    """
    todo, failed = missing(plan(profile)), []
    left: list[Unit] = []  # to another queue, with what needs them
    running: dict[Unit, Running] = {}
    total = len(todo)
    say(f"{total} units to do, {jobs} at once, one thread each")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        try:
            while todo or running:
                for unit in [u for u in todo if not any(n in todo or n in running for n in u.needs())]:
                    if len(running) >= jobs:
                        break
                    todo.remove(unit)
                    if any(n in failed for n in unit.needs()):
                        failed.append(unit)
                        say(f"left out: {unit} (a network that it needs failed)")
                        continue
                    if any(n in left for n in unit.needs()):
                        left.append(unit)
                        say(f"left to another queue: {unit} (it trains a network that this one needs)")
                        continue
                    lines, now = Path(folder) / str(len(todo)), time.monotonic()
                    running[unit] = Running(_start(unit, device, lines), lines, now, now)
                time.sleep(0.3)
                for unit, work in list(running.items()):
                    now = time.monotonic()
                    if work.process.poll() is None:
                        if news := work.news(now):
                            say(f"  {news}")
                        continue
                    del running[unit]
                    word = {0: "done", BUSY: "left to another queue"}.get(work.process.returncode, "FAILED")
                    if word == "FAILED":
                        failed.append(unit)
                    elif word != "done":
                        left.append(unit)
                    say(f"[{total - len(todo) - len(running)}/{total}] {word}: {unit} ({now - work.began:.0f} s)")
        finally:
            for work in running.values():
                work.process.terminate()
    return len(failed)


def say(text: str) -> None:
    """Print a line at once, also where output goes to a file.

    Source: this book.
    """
    print(text, flush=True)


def _start(unit: Unit, device: str, lines: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "LLFC_PROGRESS": str(lines),
                   # keep what is freed: large features would otherwise be given back and zeroed again at every layer
                   "MALLOC_MMAP_THRESHOLD_": str(2**32 - 1), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
    command = [sys.executable, "-m", "llfc_lib.experiments.queue", "unit", str(unit), "--device", device]
    return subprocess.Popen(command, env=environment)


def run_unit(text: str, device: str) -> int:
    """Do the unit that ``text`` names in this process, on one thread. 0, or :data:`BUSY` where another process is at
    it.

    Source: this book.
    """
    torch.set_num_threads(1)
    try:
        Unit.parse(text).run(device)
    except Busy:
        return BUSY
    return 0


def status(profile: str | None) -> str:
    """A line a recipe and part, and the expected time of what is missing, from units finished on this machine.

    Source: this book.
    """
    units = plan(profile)
    lines, left, lacking = [], 0.0, set()
    for name in dict.fromkeys((u.profile, u.name) for u in units):
        try:
            missing([u for u in units if (u.profile, u.name) == name])
        except FileNotFoundError as error:  # the data set is neither here nor to be had
            lacking.add(name)
            lines.append(f"{name[0]:6} {name[1]:26} cannot be run here: {error}")
    units = [u for u in units if (u.profile, u.name) not in lacking]
    open_units, rates = missing(units), _rates(units)
    for name in dict.fromkeys((u.profile, u.name) for u in units):
        for part in dict.fromkeys("train" if u.trains else u.part for u in units):
            group = [u for u in units if (u.profile, u.name) == name and part == ("train" if u.trains else u.part)]
            if not group:
                continue
            todo = [u for u in group if u in open_units]
            # the same network in another profile tells more than another network in the same one
            rate = rates.get((name[1], part)) or rates.get((name[0], part), DEFAULT_RATE)
            seconds = sum(u.work() / rate for u in todo)
            left += seconds
            count = Counter("running" if _is_running(u) else "missing" for u in todo)
            words = ", ".join(f"{n} {word}" for word, n in count.items())
            lines.append(f"{name[0]:6} {name[1]:26} {part:18} {len(group) - len(todo):3} of {len(group):3} done"
                         + (f", {words}, about {seconds / 60:.0f} min of one thread" if todo else ""))
    lines.append(f"left: about {left / cores() / 60:.0f} min on {cores()} cores")
    return "\n".join(lines)


def _is_running(unit: Unit) -> bool:
    try:
        with unit._lock():
            return False
    except Busy:
        return True


def _rates(units: Sequence[Unit]) -> dict[tuple[str, str], float]:
    """Operations a second by recipe and part, and by profile and part: medians over what was finished on this machine."""
    found: dict[tuple[str, str], list[float]] = {}
    for unit in units:
        try:
            if not unit.path().exists():
                continue
        except FileNotFoundError:  # published, and its data set is not here
            continue
        if unit.trains:
            key = run_key(unit.recipe(), unit.index, unit.branch, dataset(unit.recipe()))
            before = 0 if unit.branch == "trunk" else unit.recipe().spawn_epoch or 0  # a child's history holds its trunk's
            history = checkpoints.read(unit.path(), key).history
            seconds = sum(epoch["seconds"] for epoch in history if epoch["epoch"] > before)
        else:
            seconds = unit.result()["seconds"]
        if seconds:
            for key in (unit.profile,) if unit.profile == "smoke" else (unit.name, unit.profile):
                found.setdefault((key, "train" if unit.trains else unit.part), []).append(unit.work() / seconds)
    return {key: statistics.median(rates) for key, rates in found.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status.

    Source: this book.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "status", "publish", "unit"))
    parser.add_argument("unit", nargs="?", help="with `unit`: its name, as `run` prints it")
    parser.add_argument("--profile", choices=PROFILES, help="all of them where none is named")
    parser.add_argument("--jobs", type=int, default=cores(), help="units at once (default: the number of cores)")
    parser.add_argument("--device", default="cpu", help="any torch device (default: cpu)")
    options = parser.parse_args(arguments)
    try:
        if options.action == "run":
            return 1 if run(options.profile, options.jobs, options.device) else 0
        if options.action == "unit":
            return run_unit(options.unit, options.device)
        print(status(options.profile) if options.action == "status" else publish.publish(options.profile))
        return 0
    except (OSError, ValueError, CheckpointError) as error:  # what the library says is for the reader, not a traceback
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
