"""The queue of what is still missing: ``python -m llfc_book.study.queue run | status |
publish``.

``run`` works on as many units at once as there are cores, one process and one thread each: two
threads of one training step wait for each other at every operation and fall far behind when
anything else runs. Stopped at any moment, it loses at most the epoch in progress. What it is at
stands in ``<cache>/queue.log`` as well.
"""

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from llfc_book.places import cache_dir
from llfc_book.study import publish
from llfc_book.study.settings import PROFILES
from llfc_book.study.units import Busy, Unit, cores, plan
from llfc_lib import progress
from llfc_lib.training.checkpoints import CheckpointError

BUSY = 75  # exit status of a unit that another process works on
SECONDS_BETWEEN_NEWS = 30.0


def missing(units: Sequence[Unit]) -> list[Unit]:
    """Units neither finished here nor in a committed record; a network or an order only where
    something still needs it.
    """
    wanted = {
        u
        for u in units
        if not (u.trains or publish.surpassed(u.profile, u.name))
        and not (publish.is_published(u) or u.finished())
    }
    new = wanted
    while new:
        new = {need for u in new for need in u.needs() if not need.at_hand()} - wanted
        wanted |= new
    return [u for u in units if u in wanted]


def run(profile: str | None, jobs: int, device: str, recipes: Collection[str] | None = None) -> int:
    """Work through the queue, or those of its units that are of the ``recipes`` named; returns the
    number that failed, with what needs them.
    """
    todo, start = missing(plan(profile, recipes)), time.monotonic()
    total, running = len(todo), dict[Unit, tuple[subprocess.Popen, float]]()
    lost: dict[Unit, str] = {}  # failed or left to another queue, with what needs them: the word
    say(f"{total} units to do, {jobs} at once, one thread each")
    with _asked_to_stop() as asked, _ending(running):
        while (todo or running) and not asked:
            ahead = {*todo, *running}
            for unit in [u for u in todo if ahead.isdisjoint(u.needs())]:
                if broken := [lost[need] for need in unit.needs() if need in lost]:
                    todo.remove(unit)
                    lost[unit] = "FAILED" if "FAILED" in broken else broken[0]
                    say(f"left out: {unit} (what it needs: {lost[unit]})")
                elif len(running) < jobs:
                    todo.remove(unit)
                    running[unit] = _start(unit, device), time.monotonic()
                    log(f"started: {unit}")
            time.sleep(0.3)
            for unit, (process, began) in list(running.items()):
                if (code := process.poll()) is None:
                    continue
                del running[unit]
                word = {0: "done", BUSY: "left to another queue"}.get(code, "FAILED")
                if code:
                    lost[unit] = word
                place, seconds = total - len(todo) - len(running), time.monotonic() - began
                say(f"[{place}/{total}] {word}: {unit} ({seconds:.0f} s)")
    if asked:
        sys.exit(128 + asked[0])
    failed = list(lost.values()).count("FAILED")
    say(
        f"{total - len(lost)} of {total} done, {failed} failed, {len(lost) - failed} left to"
        f" another queue ({time.monotonic() - start:.0f} s)"
    )
    return failed


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """The signals so far that ask to stop. One that is ignored (nohup) stays so.

    None of them raises: one that came while a process is being started would leave that process
    behind.
    """
    asked: list[int] = []
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    caught = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in caught:
        signal.signal(number, lambda number, _: asked.append(number))
    try:
        yield asked
    finally:
        for number in caught:
            signal.signal(number, before[number])


def _start(unit: Unit, device: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "LLFC_PROGRESS": os.devnull,  # lines are logged, and bars of several units would mix
        "LLFC_QUEUE": str(os.getpid()),
        # keep what is freed: large features would otherwise be given back and zeroed again at every
        # layer
        "MALLOC_MMAP_THRESHOLD_": str(2**32 - 1),
        "MALLOC_TRIM_THRESHOLD_": str(2**33),
    }
    command = [sys.executable, "-m", "llfc_book.study.queue", "unit", str(unit), "--device", device]
    # a session of its own: Ctrl-C reaches the queue alone, which ends its units and what they
    # started
    return subprocess.Popen(command, env=environment, start_new_session=True)


@contextmanager
def _ending(running: Mapping[Unit, tuple[subprocess.Popen, float]]) -> Iterator[None]:
    """However the block is left, end the units that still run and what they started, each in a
    group of its own, and wait for them.
    """
    try:
        yield
    finally:
        for process, _ in running.values():
            with suppress(ProcessLookupError, PermissionError):  # it has just ended by itself
                os.killpg(process.pid, signal.SIGTERM)
        for process, _ in running.values():
            process.wait()
        if running:
            log(f"stopped, {len(running)} at work: {', '.join(map(str, running))}")


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


def run_unit(text: str, device: str) -> int:
    """Do the unit that ``text`` names in this process, on one thread, and say how far it is. 0, or
    :data:`BUSY` where another process is at it.
    """
    torch.set_num_threads(1)
    if queue := os.environ.get("LLFC_QUEUE"):
        _end_with(int(queue))
        _give_way()  # its session is its own
    unit, told = Unit.parse(text), time.monotonic()

    def hear(line: str) -> None:
        nonlocal told
        if time.monotonic() - told >= SECONDS_BETWEEN_NEWS:
            told = time.monotonic()
            say(f"  {line}")

    progress.listeners.append(hear)
    try:
        unit.run(device)
    except Busy:
        return BUSY
    finally:
        progress.listeners.remove(hear)
    return 0


def _end_with(queue: int) -> None:
    """Have Linux end this process when the queue that started it is gone, be it killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != queue:  # it was gone before
        sys.exit(128 + signal.SIGTERM)


def _give_way() -> None:
    """Take the lowest priority between sessions: where Linux shares time out by session first,
    `nice` says nothing between two of them.
    """
    with suppress(OSError):  # no such thing here
        Path("/proc/self/autogroup").write_text("19")


def status(profile: str | None, recipes: Collection[str] | None = None) -> str:
    """A line a recipe and part: how many are done, published or finished here."""
    units, lines, left = plan(profile, recipes), [], set[Unit]()
    for data in dict.fromkeys((u.recipe().data, u.recipe().normalise) for u in units):
        own = [u for u in units if (u.recipe().data, u.recipe().normalise) == data]
        try:
            left |= {*missing(own)}
        except FileNotFoundError as error:  # the data set is neither here nor to be had
            units = [u for u in units if u not in own]
            names = dict.fromkeys(f"{u.profile:6} {u.name:36}" for u in own)
            lines += [f"{name} cannot be run here: {error}" for name in names]
    groups: dict[tuple[str, str, str], list[Unit]] = {}
    for u in units:
        groups.setdefault((u.profile, u.name, "train" if u.trains else u.part), []).append(u)
    for (p, name, part), group in groups.items():
        lacking = sum(u in left for u in group)
        words = f", {lacking} missing" if lacking else ""
        lines.append(
            f"{p:6} {name:36} {part:14} {len(group) - lacking:3} of {len(group):3} done{words}"
        )
    return "\n".join([*lines, f"{len(left)} units to do"])


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
    if (options.action == "unit") != (options.unit is not None):
        parser.error("`unit` takes one name, as `run` prints it, the other actions take none")
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}; at least one unit at a time")
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
    except (OSError, ValueError, CheckpointError) as error:
        # what the library says is for the reader, not a traceback
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
