"""The queue of what is still missing: ``python -m llfc_book.study.queue run | status |
publish``.

``run`` works on as many units at once as there are cores, one thread each: two threads of one
training step wait for each other at every operation and fall far behind when anything else runs.
Stopped at any moment, it loses at most the epoch in progress. What it is at stands in
``<cache>/queue.log`` as well.
"""

import argparse
import ctypes
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from llfc_book.places import cache_dir
from llfc_book.study import publish
from llfc_book.study.runs import run_key
from llfc_book.study.settings import PAIRS, PROFILES, RECIPES
from llfc_book.study.units import Busy, Unit, cores, dataset, plan
from llfc_lib import progress
from llfc_lib.training import checkpoints
from llfc_lib.training.checkpoints import CheckpointError

BUSY = 75  # exit status of a unit that another queue works on
SECONDS_BETWEEN_NEWS = 30.0
SECONDS_TO_STOP = 20.0  # for units that were asked to end, before they are killed
LACKS_EPOCHS = "what its networks were after earlier epochs is not here"
DEFAULT_RATE = 2e10  # operations a second of one thread, until a finished unit tells better
#: Linux may share time out by session first (autogroup): `nice` then says nothing between two
#: sessions, this file does.
AUTOGROUP, AUTOGROUP_ENABLED = (
    Path("/proc/self/autogroup"),
    Path("/proc/sys/kernel/sched_autogroup_enabled"),
)


def chosen(profile: str | None, recipes: Collection[str] | None = None) -> list[Unit]:
    """The plan; of the ``recipes`` named only, then also of those that the queue does not come to
    by itself.

    ValueError for a recipe that there is not, or that has no pairs in the profile.
    """
    if not recipes:
        return plan(profile)
    known = dict.fromkeys(name for p in ([profile] if profile else PROFILES) for name in PAIRS[p])
    for name in recipes:
        if name not in known:
            what = (
                f"recipe {name!r} has no pairs" if name in RECIPES else f"unknown recipe {name!r}"
            )
            raise ValueError(
                f"{what}{f' in profile {profile!r}' if profile else ''}; choose from {list(known)}"
            )
    return plan(profile, recipes)


def missing(units: Sequence[Unit]) -> list[Unit]:
    """Units neither finished here nor in a committed record; a network only where something still
    needs it.
    """
    return _with_needs(units, [u for u in _unmeasured(units) if not u.lacks_epochs()])


def _unmeasured(units: Sequence[Unit]) -> list[Unit]:
    return [u for u in units if not (u.trains or publish.is_published(u) or publish.is_finished(u))]


def _with_needs(units: Sequence[Unit], open_measures: Collection[Unit]) -> list[Unit]:
    """Those of ``units`` that are to be measured, and what they need that is not there."""
    networks = {
        need
        for u in open_measures
        for need in u.needs()
        if not publish.is_finished(need) and not publish.has_order(need)
    }
    trunks = {need for u in networks for need in u.needs() if not publish.is_finished(need)}
    wanted = {*open_measures, *networks, *trunks}
    return [u for u in units if u in wanted]


@dataclass
class Running:
    """A unit at work: its process, since when, and what it last said."""

    process: subprocess.Popen
    lines: Path
    began: float
    told: float
    last: str = ""

    def news(self, now: float) -> str:
        """The last line of progress, at most twice a minute and each once."""
        if now - self.told < SECONDS_BETWEEN_NEWS or not self.lines.exists():
            return ""
        line = self.lines.read_text().rstrip().rpartition("\n")[2]
        if line == self.last:
            return ""
        self.told, self.last = now, line
        return line


@dataclass
class Shift:
    """The units of one call of :func:`run`: still ``todo``, ``running``, ``failed`` (with what
    needs them), and ``left`` to another queue.
    """

    todo: list[Unit]
    jobs: int
    device: str
    failed: list[Unit] = field(default_factory=list)
    left: list[Unit] = field(default_factory=list)
    running: dict[Unit, Running] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.total = len(self.todo)

    def begin(self, folder: Path) -> None:
        """Start what can be started; what they say goes into ``folder``."""
        ready = [u for u in self.todo if not any(self._is_ahead(n) for n in u.needs())]
        for unit in ready:
            if len(self.running) >= self.jobs:
                break
            if any(u in self.running for u in unit.in_its_pass()):
                continue
            self.todo.remove(unit)
            if any(n in self.failed for n in unit.needs()):
                self.failed.append(unit)
                say(f"left out: {unit} (a network that it needs failed)")
            elif any(n in self.left for n in unit.needs()):
                self.left.append(unit)
                say(f"left to another queue: {unit} (it trains a network that this one needs)")
            else:
                lines, now = folder / str(len(self.todo)), time.monotonic()
                self.running[unit] = Running(_start(unit, self.device, lines), lines, now, now)
                log(f"started: {unit}")

    def _is_ahead(self, unit: Unit) -> bool:
        return unit in self.todo or unit in self.running

    def tell_and_end(self) -> None:
        """Say what is new of those that run, and how others ended."""
        for unit, work in list(self.running.items()):
            now, code = time.monotonic(), work.process.poll()
            if code is None:
                if news := work.news(now):
                    say(f"  {news}")
                continue
            del self.running[unit]
            word = {0: "done", BUSY: "left to another queue"}.get(code, "FAILED")
            if word != "done":
                (self.failed if word == "FAILED" else self.left).append(unit)
            place = self.total - len(self.todo) - len(self.running)
            say(f"[{place}/{self.total}] {word}: {unit} ({now - work.began:.0f} s)")


def run(profile: str | None, jobs: int, device: str, recipes: Collection[str] | None = None) -> int:
    """Work through the queue, or those of its units that are of the ``recipes`` named; returns the
    number that failed.
    """
    units = chosen(profile, recipes)
    shift, start = Shift(missing(units), jobs, device), time.monotonic()
    total = shift.total
    say(f"{total} units to do, {jobs} at once, one thread each")
    for unit in (u for u in _unmeasured(units) if u.lacks_epochs()):
        say(f"left out: {unit} ({LACKS_EPOCHS})")
    with tempfile.TemporaryDirectory() as folder, _asked_to_stop() as asked:
        try:
            while shift.todo or shift.running:
                shift.begin(Path(folder))
                time.sleep(0.3)
                if asked:
                    sys.exit(128 + asked[0])
                shift.tell_and_end()
        finally:
            if shift.running:
                _stop([work.process for work in shift.running.values()])
                log(f"stopped, {len(shift.running)} at work: {', '.join(map(str, shift.running))}")
    done = total - len(shift.failed) - len(shift.left)
    say(
        f"{done} of {total} done, {len(shift.failed)} failed, {len(shift.left)} left to another "
        f"queue ({time.monotonic() - start:.0f} s)"
    )
    return len(shift.failed)


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """The signals so far that ask to stop. One that is ignored (nohup) stays so.

    None of them raises: one that came while a process is being started would leave that process
    behind.
    """
    asked: list[int] = []
    caught = [
        s
        for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(s) != signal.SIG_IGN
    ]
    before = {s: signal.signal(s, lambda number, _: asked.append(number)) for s in caught}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """End the processes and what they started, each in a group of its own, and wait until they
    have.
    """
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):  # it has just ended by itself
            os.killpg(process.pid, signal.SIGTERM)
    until = time.monotonic() + SECONDS_TO_STOP
    for process in processes:
        try:
            process.wait(max(until - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def say(text: str) -> None:
    """Print a line at once, also where output goes to a file, and log it."""
    log(text)
    print(text, flush=True)


def log(text: str) -> None:
    """Add a line to ``<cache>/queue.log``, with the time. Whatever keeps it from being written
    stops no work.
    """
    with suppress(OSError):
        cache_dir().mkdir(parents=True, exist_ok=True)
        with open(cache_dir() / "queue.log", "a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text.strip()}\n")


def _start(unit: Unit, device: str, lines: Path) -> subprocess.Popen:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "LLFC_PROGRESS": str(lines),
        "LLFC_QUEUE": str(os.getpid()),
        # keep what is freed: large features would otherwise be given back and zeroed again at every
        # layer
        "MALLOC_MMAP_THRESHOLD_": str(2**32 - 1),
        "MALLOC_TRIM_THRESHOLD_": str(2**33),
    }
    command = [
        sys.executable,
        "-m",
        "llfc_book.study.queue",
        "unit",
        str(unit),
        "--device",
        device,
    ]
    # a session of its own has a priority of its own; Ctrl-C then reaches the queue alone, which
    # ends its units
    return subprocess.Popen(command, env=environment, start_new_session=True)


def run_unit(text: str, device: str) -> int:
    """Do the unit that ``text`` names in this process, on one thread. 0, or :data:`BUSY` where
    another process is at it.

    Started by hand, it says and logs how far it is; in a queue, that does.
    """
    torch.set_num_threads(1)
    _end_with_queue()
    _give_way()
    unit = Unit.parse(text)
    try:
        with _telling(unit):
            for measured in (u for u in (unit, *unit.needs()) if not u.trains and _is_stale(u)):
                with measured._lock():
                    if (path := measured.finished_path()) and _is_stale(measured):
                        path.unlink()
            unit.run(device)
    except Busy:
        return BUSY
    return 0


def _is_stale(unit: Unit) -> bool:
    """Whether there is a result, but of other networks than those at hand."""
    return unit.finished_path() is not None and not publish.is_finished(unit)


@contextmanager
def _telling(unit: Unit) -> Iterator[None]:
    """Say and log how far the unit is, unless whoever started it reads that elsewhere."""
    if os.environ.get("LLFC_PROGRESS"):
        yield
        return
    start, logged, word = time.monotonic(), -SECONDS_BETWEEN_NEWS, "FAILED"

    def hear(line: str) -> None:
        nonlocal logged
        if not sys.stdout.isatty():  # a terminal has a bar
            print(f"  {line}", flush=True)
        if time.monotonic() - logged >= SECONDS_BETWEEN_NEWS:
            logged = time.monotonic()
            log(line)

    progress.listeners.append(hear)
    say(f"started: {unit}")
    try:
        yield
        word = "done"
    except Busy:
        word = "left to another process"
        raise
    except KeyboardInterrupt:
        word = "stopped"
        raise
    finally:
        progress.listeners.remove(hear)
        say(f"{word}: {unit} ({time.monotonic() - start:.0f} s)")


def _give_way() -> None:
    """Take the lowest priority between sessions, if this process leads one: that of a user's shell
    is left as it is.
    """
    with suppress(OSError, AttributeError):  # no such thing here, or not ours to write
        if os.getsid(0) != os.getpid() or AUTOGROUP_ENABLED.read_text().strip() != "1":
            return
        for _ in range(20):
            with suppress(
                BlockingIOError
            ):  # the kernel takes one such change in a tenth of a second
                with open(AUTOGROUP, "r+") as file:
                    file.write("19")
                return
            time.sleep(0.1)


def _end_with_queue() -> None:
    """Have Linux end this process when the queue that started it is gone, be it killed."""
    queue = os.environ.get("LLFC_QUEUE")
    if not queue:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(queue):  # it was gone before
        sys.exit(128 + signal.SIGTERM)


def status(profile: str | None, recipes: Collection[str] | None = None) -> str:
    """A line a recipe and part, and the expected time of what is missing, from units finished on
    this machine.
    """
    units = chosen(profile, recipes)
    lines, left, lacking, unmeasured = [], 0.0, set(), []
    for name in dict.fromkeys((u.profile, u.name) for u in units):
        try:
            unmeasured += _unmeasured([u for u in units if (u.profile, u.name) == name])
        except FileNotFoundError as error:  # the data set is neither here nor to be had
            lacking.add(name)
            lines.append(f"{name[0]:6} {name[1]:26} cannot be run here: {error}")
    units = [u for u in units if (u.profile, u.name) not in lacking]
    lacking_epochs = {u for u in unmeasured if u.lacks_epochs()}
    open_units, rates = (
        _with_needs(units, [u for u in unmeasured if u not in lacking_epochs]),
        _rates(units),
    )
    for name in dict.fromkeys((u.profile, u.name) for u in units):
        for part in dict.fromkeys("train" if u.trains else u.part for u in units):
            group = [
                u
                for u in units
                if (u.profile, u.name) == name and part == ("train" if u.trains else u.part)
            ]
            if not group:
                continue
            todo = [u for u in group if u in open_units]
            # the same network in another profile tells more than another network in the same one
            rate = rates.get((name[1], part)) or rates.get((name[0], part), DEFAULT_RATE)
            seconds = sum(u.work() / rate for u in todo)
            left += seconds
            lost = sum(u in lacking_epochs for u in group)
            count = Counter("running" if u.is_running() else "missing" for u in todo)
            words = ", ".join(f"{n} {word}" for word, n in count.items())
            lines.append(
                f"{name[0]:6} {name[1]:26} {part:18} {len(group) - len(todo) - lost:3} of"
                f" {len(group):3} done"
                + (f", {words}, about {seconds / 60:.0f} min of one thread" if todo else "")
                + (f", {lost} cannot be done: {LACKS_EPOCHS}" if lost else "")
            )
    lines.append(f"left: about {left / cores() / 60:.0f} min on {cores()} cores")
    return "\n".join(lines)


def _rates(units: Sequence[Unit]) -> dict[tuple[str, str], float]:
    """Operations a second by recipe and part, and by profile and part: medians over what was
    finished on this machine.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for unit in units:
        try:
            if not unit.path().exists():
                continue
        except FileNotFoundError:  # published, and its data set is not here
            continue
        if unit.trains:
            key = run_key(unit.recipe(), unit.index, unit.branch, dataset(unit.recipe()))
            before = (
                0 if unit.branch == "trunk" else unit.recipe().spawn_epoch or 0
            )  # a child's history holds its trunk's
            history = checkpoints.read(unit.path(), key).history
            seconds = sum(epoch["seconds"] for epoch in history if epoch["epoch"] > before)
        else:
            seconds = unit.result()["seconds"]
        if seconds:
            for key in (
                (unit.profile,) if unit.recipe().scale.embedded else (unit.name, unit.profile)
            ):
                found.setdefault((key, "train" if unit.trains else unit.part), []).append(
                    unit.work() / seconds
                )
    return {key: statistics.median(rates) for key, rates in found.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("run", "status", "publish", "unit"))
    parser.add_argument("unit", nargs="?", help="with `unit`: its name, as `run` prints it")
    parser.add_argument("--profile", choices=PROFILES, help="all of them where none is named")
    parser.add_argument(
        "--recipes",
        nargs="+",
        metavar="NAME",
        help="of `run` and `status`: only these, in the queue or not",
    )
    parser.add_argument(
        "--jobs", type=int, default=cores(), help="units at once (default: the number of cores)"
    )
    parser.add_argument("--device", default="cpu", help="any torch device (default: cpu)")
    options = parser.parse_args(arguments)
    try:
        if options.action == "run":
            return 1 if run(options.profile, options.jobs, options.device, options.recipes) else 0
        if options.action == "unit":
            return run_unit(options.unit, options.device)
        if options.action == "status":
            print(status(options.profile, options.recipes))
        else:
            print(publish.publish(options.profile))
        return 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (
        OSError,
        ValueError,
        CheckpointError,
    ) as error:  # what the library says is for the reader, not a traceback
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
