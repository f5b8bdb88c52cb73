"""The queue's log, choice of recipes and end; what publishing ships; and that no record
mixes two networks.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from llfc_book import places, records
from llfc_book.places import ROOT
from llfc_book.study import matched, pairs, publish, queue, runs, units
from llfc_book.study.catalogue import EXPERIMENTS
from llfc_book.study.parts import PARTS, part
from llfc_book.study.runs import kept_path
from llfc_book.study.settings import FAMILIES, PAIRS, PROFILE, PROFILES, QUEUE, RECIPES, recipe
from llfc_book.study.units import Busy, Unit

from llfc_lib import progress
from llfc_lib.data import load
from llfc_lib.metrics.rows import Row
from llfc_lib.training import checkpoints, loop
from llfc_lib.training.checkpoints import Checkpoint

NAME, MATCHED = "mlp_mnist_spawn", "mlp_mnist_perm_weight"


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty tracked tree and one pair of one recipe to publish."""
    monkeypatch.setattr(pairs, "ENDPOINTS", tmp_path / "endpoints")
    monkeypatch.setattr(records, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(places, "UNFINISHED", tmp_path / "unfinished")
    monkeypatch.setitem(PAIRS, "smoke", {NAME: 1})
    publish._provenances.cache_clear()
    yield tmp_path
    publish._provenances.cache_clear()


def logged() -> list[str]:
    """Lines of the queue's log, each after a date and a time."""
    return [line[20:] for line in (queue.cache_dir() / "queue.log").read_text().splitlines()]


def as_units(monkeypatch, units: list[Unit], command: Callable[[Unit], str]) -> None:
    """Have the queue work on these, a shell command in place of each."""
    monkeypatch.setattr(queue, "missing", lambda _: list(units))
    monkeypatch.setattr(queue, "_start", lambda u, _: subprocess.Popen(["sh", "-c", command(u)]))


def test_the_queue_logs_what_starts_and_how_it_ends(monkeypatch):
    a, b = Unit("smoke", NAME, 0, "train A"), Unit("smoke", NAME, 0, "train B")
    as_units(monkeypatch, [a, b], lambda unit: f"exit {int(unit is b)}")
    assert queue.run("smoke", jobs=1, device="cpu") == 1
    told = [line.partition(" (")[0] for line in logged()[1:-1]]
    assert told == [
        *(f"started: {a}", f"[1/2] done: {a}", f"started: {b}", f"[2/2] FAILED: {b}"),
    ]


def test_a_unit_says_and_logs_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(queue, "SECONDS_BETWEEN_NEWS", 0.0)
    monkeypatch.setattr(Unit, "run", lambda *_: [tell("1 of 2") for tell in progress.listeners])
    assert queue.main(["unit", f"smoke/{NAME}/0/train A"]) == 0
    assert logged() == ["1 of 2"] and "1 of 2" in capsys.readouterr().out
    assert not progress.listeners


@pytest.mark.parametrize("error, code", [(Busy, queue.BUSY), (ValueError, 1)])
def test_a_unit_by_hand_tells_by_its_exit_status_how_it_ended(monkeypatch, error, code):
    def fail(unit: Unit, device: str) -> None:
        raise error

    monkeypatch.setattr(Unit, "run", fail)
    assert queue.main(["unit", f"smoke/{NAME}/0/train A"]) == code


# which recipes


def test_recipes_restrict_the_queue_and_reach_what_is_not_in_it():
    assert {u.name for u in units.plan("smoke", [NAME])} == {NAME}
    assert {u.profile for u in units.plan(None, [NAME])} == set(PROFILES)
    in_queue = {(line[0], name) for line in QUEUE for name in line[1]}
    left_out = [(p, name) for p in PROFILES for name in PAIRS[p] if (p, name) not in in_queue]
    assert left_out
    for p, name in left_out:
        assert name not in {u.name for u in units.plan(p)}
        assert {u.name for u in units.plan(p, [name])} == {name, recipe(name, p).trained_as}


@pytest.mark.parametrize("name", ["mlp_mnist_spown", "mlp_mnist_width1024"])
def test_recipes_that_are_unknown_or_have_no_pairs_are_refused_by_name(name, capsys):
    assert queue.main(["run", "--profile", "smoke", "--recipes", NAME, name]) == 1
    assert repr(name) in capsys.readouterr().err


# the end


def is_alive(pid: int) -> bool:
    """Whether any thread is: the first can be through while another still holds the locks."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return any(
            (one / "stat").read_text().rpartition(")")[2].split()[0] != "Z" for one in threads
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(happened: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.005)


def queue_in_another_process(monkeypatch, command: list[str], hup: object = signal.SIG_DFL) -> int:
    """A queue in a process forked off, ``command`` in place of its one unit; returns its id."""
    monkeypatch.setattr(queue, "missing", lambda _: [Unit("smoke", NAME, 7, "train A")])
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, hup)
        popen = subprocess.Popen
        queue.subprocess.Popen = lambda _, **rest: popen(command, **rest)
        code = queue.main(["run", "--profile", "smoke", "--jobs", "1"])
    except SystemExit as error:
        code = error.code
    finally:
        os._exit(code)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_stopped_queue_leaves_no_process_behind(tmp_path, monkeypatch, number, code):
    told = tmp_path / "pids"  # of the unit, and of a compiler or so that it started
    pid = queue_in_another_process(
        monkeypatch,
        ["sh", "-c", f"sleep 60 & echo $$ $! > {told}.part; mv {told}.part {told}; wait"],
    )
    wait_for(told.exists)
    unit, child = map(int, told.read_text().split())
    assert os.getsid(unit) == unit == os.getsid(child) != os.getsid(pid)
    os.kill(pid, number)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
    wait_for(lambda: not is_alive(unit) and not is_alive(child), 5.0)
    assert logged()[-1] == f"stopped, 1 at work: smoke/{NAME}/7/train A"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_units_of_a_killed_queue_end_with_it_and_go_on_where_they_were(monkeypatch, tmp_path):
    r, data = recipe(NAME, "smoke"), load("digits")
    path, key = runs.run_path(r, 7, "A", data), runs.run_key(r, 7, "A", data)
    latest = runs.latest_path(path)
    program = (
        "from llfc_book.study import queue; queue._give_way = int; queue.main(['unit',"
        f" 'smoke/{NAME}/7/train A'])"
    )
    pid = queue_in_another_process(monkeypatch, [sys.executable, "-c", program])
    wait_for(lambda: latest.exists() and checkpoints.read(latest, key).epoch >= 2, 300.0)
    (unit,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for(lambda: not is_alive(unit), 5.0)
    then = checkpoints.read(latest, key)
    assert 2 <= then.epoch < r.epochs and not path.exists()
    assert queue.run_unit(f"smoke/{NAME}/7/train A", "cpu") == 0
    resumed, undisturbed = checkpoints.read(path, key), runs.train(r, 7, "A", data, cache=tmp_path)
    assert resumed.history[: then.epoch] == then.history  # seconds among them
    assert resumed.digest() == undisturbed.digest()


# shipping


def trained(name: str, seed: int, branch: str, add: float = 0.0, kept: tuple[int, ...] = ()) -> str:
    """Put a network into the cache that was never trained; ``add`` stands for another processor.
    Returns its digest.
    """
    r = recipe(recipe(name, "smoke").trained_as, "smoke")
    data = load(r.data, normalise=r.normalise)
    path, key = runs.run_path(r, seed, branch, data), runs.run_key(r, seed, branch, data)
    state = loop.new_network(r, data, seed).state_dict()
    numbers = ("seconds", "train_loss", "train_error", "test_loss", "test_error")
    history = [{"epoch": 1, **dict.fromkeys(numbers, 0.5)}]
    weights = {key: value + add for key, value in state.items()}
    found = Checkpoint(weights, epoch=r.epochs, history=history)
    checkpoints.write(path, found, key)
    for epoch in kept:
        then = replace(found, epoch=epoch, history=history[:epoch])
        checkpoints.write(runs.kept_path(path, epoch), then, key)
    return found.digest()


@pytest.fixture
def told(tree, monkeypatch) -> Callable[..., list[str]]:
    """What is shipped where a recipe says so, of two pairs with networks 0A and 0B, which records
    quote as they were first trained.
    """
    both = replace(FAMILIES["spawned"], members=lambda pair: {"A": (0, "AB"[pair])})
    monkeypatch.setitem(FAMILIES, "spawned", both)
    monkeypatch.setitem(PAIRS, "smoke", {NAME: 2})
    quoted = [trained(NAME, 0, branch) for branch in "AB"]
    data = {"sha256": load("digits").sha256}
    monkeypatch.setattr(
        publish, "_told", lambda _, r, index: {"data": data, "endpoints": {"A": quoted[index]}}
    )
    original = RECIPES[NAME]

    def ship(**fields) -> list[str]:
        monkeypatch.setitem(RECIPES, NAME, replace(original, **fields))
        return publish._ship(recipe(NAME, "smoke"))

    return ship


def test_a_recipe_says_which_networks_are_shipped(told, monkeypatch):
    monkeypatch.setattr(publish, "SMALL", 0)
    assert told(shipped="none") == []
    assert told() == [f"shipped {NAME}-0A.safetensors"]
    assert told(shipped="every") == [f"shipped {NAME}-0B.safetensors"]
    with pytest.raises(ValueError, match=f"recipe '{NAME}': shipped = 'all'; choose one of"):
        told(shipped="all")


def test_what_is_shipped_is_what_records_quote(told):
    trained(NAME, 0, "A", add=1.0)  # elsewhere it has other bits
    assert told(shipped="every") == [f"shipped {NAME}-0B.safetensors"]
    trained(NAME, 0, "A")
    assert told() == [f"shipped {NAME}-0A.safetensors"]
    shipped = pairs.shipped_path("smoke", NAME, 0, "A")
    whole = shipped.read_bytes()
    trained(NAME, 0, "A", add=1.0)
    assert told() == [] and shipped.read_bytes() == whole
    shipped.write_bytes(whole[:-7])
    assert told() == []  # what is here now is another
    trained(NAME, 0, "A")
    assert told() == [f"shipped {NAME}-0A.safetensors"]  # in place of the damaged one


def test_no_reduced_network_is_shipped_beside_a_full_one(told, monkeypatch):
    monkeypatch.setitem(PROFILE, "smoke", replace(PROFILE["smoke"], embedded=False))
    full = pairs.shipped_path("paper", NAME, 0, "A")
    full.parent.mkdir(parents=True)
    full.write_text("")
    assert told() == []
    full.unlink()
    assert told() == [f"shipped {NAME}-{name}.safetensors" for name in ("0A", "0B")]


def sparse(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize("size, fits", [(20 * 10**6, True), (20 * 10**6 + 1, False)])
def test_nothing_over_twenty_megabytes_goes_into_the_tracked_tree(tree, size, fits):
    source, target = sparse(tree / "a", size), tree / "tree" / "b"
    said = publish._into_tree(source, target, "shipped")
    assert said[0].startswith("shipped b" if fits else "too large to ship: b")
    assert target.exists() == fits


def test_small_checkpoints_on_the_way_are_shipped_with_the_first_pair(told, monkeypatch):
    monkeypatch.setattr(publish, "is_published", lambda unit: True)
    for branch in "AB":
        trained(NAME, 0, branch, kept=(0, 2))
    names = ("0A", "0A.epoch0", "0A.epoch2", "0B")
    assert told(kept=(0, 2, 5)) == [f"shipped {NAME}-{name}.safetensors" for name in names]
    assert told(kept=(0, 2, 5)) == []
    then = kept_path(pairs.shipped_path("smoke", NAME, 0, "A"), 2)
    then.unlink()
    trained(NAME, 0, "A", add=1.0, kept=(2,))  # elsewhere: what is shipped did not come of it
    assert told(kept=(0, 2)) == []
    trained(NAME, 0, "A", kept=(2,))
    monkeypatch.setattr(publish, "SMALL", 0)
    assert told(kept=(0, 2)) == []
    monkeypatch.setattr(publish, "SMALL", 10**6)
    assert told(kept=(0, 2)) == [f"shipped {then.name}"]
    # of another pair until it is measured
    monkeypatch.setattr(publish, "is_published", lambda unit: False)
    assert told(kept=(0, 2)) == [f"shipped {NAME}-0B.epoch{k}.safetensors" for k in (0, 2)]
    monkeypatch.setattr(publish, "is_published", lambda unit: True)
    assert told(kept=(0, 2)) == [
        f"no longer needed: {NAME}-0B.epoch{k}.safetensors" for k in (0, 2)
    ]


# no record mixes two networks


def train_all(name: str, **add: float) -> dict[str, str]:
    return {
        who: trained(name, seed, branch, add.get(who, 0.0))
        for who, (seed, branch) in recipe(name, "smoke").members(0).items()
    }


def measured(part: str, networks: dict[str, str], mean: float = 1.0, name: str = NAME) -> Unit:
    """Put a finished measurement into the cache."""
    unit, every = Unit("smoke", name, 0, part), recipe(name, "smoke").plan.parts
    rows = [
        asdict(Row(quantity, mean, kind=part))
        for e in EXPERIMENTS.values()
        if name in e.recipes and part in e.reads(every)
        for quantity in sorted(e.quantities)
    ]
    result = {"unit": str(unit), "rows": rows, "environment": {"commit": "abc"}, "seconds": 1.0}
    result["networks"] = {who: networks[who] for who in unit.networks()}
    if part == "match":
        result["permutations"] = {"fc1": [0, 1] if mean == 1 else [1, 0]}
    unit.path().parent.mkdir(parents=True, exist_ok=True)
    unit.path().write_text(json.dumps(result))
    return unit


def every_unit(name: str = NAME) -> list[Unit]:
    return [Unit("smoke", name, 0, part) for part in recipe(name, "smoke").plan.parts]


def measure_all(networks: dict[str, str], name: str = NAME) -> None:
    for unit in every_unit(name):
        measured(unit.part, networks, name=name)


def quoted(name: str = NAME) -> set[str]:
    """Digests of A in all records, those of the shipped order of units among them."""
    found = {
        records.load(path.stem, "smoke").pairs[f"{name}/0"]["endpoints"]["A"]
        for path in (records.RECORDS / "smoke").glob("*.json")
    }
    order = matched.shipped_permutation("smoke", name, 0)
    return found | ({json.loads(order.read_text())["networks"]["A"]} if order.exists() else set())


@pytest.fixture
def unshipped(tree, monkeypatch) -> Path:
    for name in (NAME, "mlp_mnist_perm"):
        monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], shipped="none"))
    monkeypatch.setitem(PAIRS, "smoke", {NAME: 1, MATCHED: 1})
    return tree


@pytest.mark.parametrize("name", [NAME, MATCHED])
def test_a_network_of_other_bits_has_its_pair_measured_and_published_anew_as_a_whole(
    unshipped, name
):
    old = train_all(name)
    every = every_unit(name)
    *some, last = [unit.part for unit in every]
    for what in some:
        measured(what, old, name=name)
    assert f"smoke {name}/0: {', '.join(some)}" in publish.publish("smoke")
    assert quoted(name) == {old["A"]} and [u.part for u in queue.missing(every)] == [last]
    written = [path for path in unshipped.rglob("*.json") if "cache" not in path.parts]
    before = {path: path.read_bytes() for path in written}
    new = train_all(name, A=1.0)
    assert new["A"] != old["A"] and new["B"] == old["B"]
    assert queue.missing(every) == every  # old results are of the old network
    assert publish.publish("smoke") == "nothing new to publish"
    measured(last, new, mean=2.0, name=name)  # the new part alone: no record may take it
    assert f"smoke {name}/0 waits for: {', '.join(some)} (" in publish.publish("smoke")
    for what in some[1:]:
        measured(what, new, mean=2.0, name=name)
    assert [u.part for u in queue.missing(every)] == some[:1]
    assert f"waits for: {some[0]} (" in publish.publish("smoke")
    assert {path: path.read_bytes() for path in before} == before
    measured(some[0], new, mean=2.0, name=name)
    assert publish.publish("smoke") == f"smoke {name}/0: {', '.join((*some, last))}"
    assert quoted(name) == {new["A"]} and queue.missing(every) == []
    published = [path.stem for path in (records.RECORDS / "smoke").glob("*.json")]
    assert {m for e in published for m in records.load(e, "smoke").table["mean"]} == {2.0}
    assert publish.publish("smoke") == "nothing new to publish"
    if name == MATCHED:
        order = json.loads(matched.shipped_permutation("smoke", name, 0).read_text())
        assert order["permutations"] == {"fc1": [1, 0]}


def test_networks_that_are_not_here_contradict_nothing(unshipped, monkeypatch):
    measure_all(train_all(NAME))
    publish.publish("smoke")
    monkeypatch.setenv("LLFC_CACHE", str(unshipped / "empty"))
    assert queue.missing(every_unit()) == []
    assert publish.publish("smoke") == "nothing new to publish"


def test_a_pair_is_measured_anew_on_the_shipped_network_that_a_record_does_not_quote(tree):
    measure_all(train_all(NAME))
    publish.publish("smoke")
    shipped = pairs.shipped_path("smoke", NAME, 0, "B")
    whole = shipped.read_bytes()
    train_all(NAME, B=1.0)
    assert queue.missing(every_unit()) == []  # the shipped one goes before
    shipped.unlink()
    left = [unit for unit in every_unit() if "B" in unit.networks()]
    assert queue.missing(every_unit()) == left
    assert publish.publish("smoke") == "nothing new to publish" and not shipped.exists()
    shipped.write_bytes(whole)
    assert queue.missing(every_unit()) == []


def test_a_result_of_other_networks_is_measured_again(unshipped, monkeypatch):
    unit, ran = measured("closeness", train_all(NAME)), []
    again = replace(part("closeness"), measure=lambda pair: ran.append(pair) or [])
    monkeypatch.setitem(PARTS, "closeness", again)
    unit.run()
    assert not ran and unit.finished()
    new = train_all(NAME, B=1.0)
    assert not unit.finished()
    unit.run()
    assert len(ran) == 1 and unit.result()["networks"] == {who: new[who] for who in "AB"}


def test_publishing_trains_nothing_and_says_which_networks_it_waits_for(unshipped, monkeypatch):
    digests, r = train_all(NAME), recipe(NAME, "smoke")
    monkeypatch.setattr(pairs, "train", lambda *_: pytest.fail("trained while publishing"))
    # it needs no independent network, the record does
    measured("closeness", {who: digests[who] for who in "AB"})
    runs.run_path(r, 1, "A", units.dataset(r)).unlink()
    assert publish.publish("smoke") == f"smoke {NAME}/0 waits for its networks: independent"
    assert not list(unshipped.rglob("records/**/*.json"))


LAYER_NORM = "resnet20x0.25_cifar10_perm"


def test_what_a_run_kept_goes_with_it_while_it_is_unfinished(tree, monkeypatch):
    r, unit = recipe(LAYER_NORM, "smoke"), Unit("smoke", LAYER_NORM, 0, "train A")
    path, key = unit.path(), runs.run_key(r, 0, "A", units.dataset(r))
    history = [{"epoch": epoch, "seconds": 5000.0} for epoch in (1, 2)]

    def write(path: Path, epoch: int) -> Path:
        found = Checkpoint({"w": torch.ones(2)}, epoch=epoch, history=history[:epoch])
        checkpoints.write(path, found, key)
        return path

    paths = [write(runs.kept_path(path, epoch), epoch) for epoch in (0, 1)]
    paths += [write(runs.latest_path(path), 2)]
    with monkeypatch.context() as patch:
        patch.setattr(publish, "LONG", 10001.0)
        assert publish._keep_unfinished([unit]) == []  # it cost too little to be worth it
    assert len(publish._keep_unfinished([unit])) == 3
    assert publish._keep_unfinished([unit]) == []  # once
    assert {file.name for file in places.UNFINISHED.glob("*")} == {file.name for file in paths}
    write(path, r.epochs)
    assert len(publish._keep_unfinished([unit])) == 3 and not list(places.UNFINISHED.glob("*"))


def test_make_passes_recipes_on():
    command = ["make", "-n", "runs", "PROFILE=smoke", "RECIPES=a b"]
    for given, expected in ((command, True), (command[:-1], False)):
        said = subprocess.run(given, cwd=ROOT, capture_output=True, text=True).stdout
        assert "--profile smoke" in said and ("--recipes a b" in said) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nohup_holds(tmp_path, monkeypatch):
    told = tmp_path / "pid"
    pid = queue_in_another_process(
        monkeypatch, ["sh", "-c", f"touch {told}; sleep 1"], hup=signal.SIG_IGN
    )
    wait_for(told.exists)
    os.kill(pid, signal.SIGHUP)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_looked_at_other_networks_only_need_not_be_measured_again(unshipped):
    every = every_unit(MATCHED)
    measure_all(train_all(MATCHED), MATCHED)
    publish.publish("smoke")
    new = train_all(MATCHED, B=1.0)
    left = queue.missing(every)
    assert left == [unit for unit in every if "B" in unit.networks()] != every
    for unit in left:
        measured(unit.part, new, name=MATCHED)
    parts = ", ".join(unit.part for unit in every)
    assert f"smoke {MATCHED}/0: {parts}" in publish.publish("smoke")
    assert records.load("fig20", "smoke").pairs[f"{MATCHED}/0"]["endpoints"]["B"] == new["B"]


def test_a_scale_that_a_larger_one_has_replaced_is_not_measured():
    asked = units.plan("lite", ["mlp_mnist_spawn"])
    assert any(unit.part == "decisive" for unit in asked) and queue.missing(asked) == []
