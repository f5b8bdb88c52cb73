"""Units, the queue, and publishing, on the smoke profile: everything from training to a committed
record.
"""

import re
import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from llfc_book import records
from llfc_book.study import pairs, publish, queue, units
from llfc_book.study.catalogue import EXPERIMENTS
from llfc_book.study.parts import PARTS, part
from llfc_book.study.runs import run_key
from llfc_book.study.settings import PAIRS, Plan, recipe
from llfc_book.study.units import Busy, Unit, plan

from llfc_lib.training import checkpoints
from llfc_lib.training.checkpoints import CheckpointError

NAME = "mlp_mnist_spawn"
#: Experiments that read the pair itself.
OWN = [e for e in EXPERIMENTS.values() if NAME in e.recipes and "pair" in e.parts]


@pytest.fixture
def empty_tree(tmp_path, monkeypatch):
    """No committed record and no shipped network: what a change of a recipe would leave."""
    monkeypatch.setattr(pairs, "ENDPOINTS", tmp_path / "endpoints")
    monkeypatch.setattr(records, "RECORDS", tmp_path / "records")
    publish._provenances.cache_clear()
    yield tmp_path
    publish._provenances.cache_clear()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache in which the first smoke pair is trained, and measured in one of its parts."""
    cache = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLFC_CACHE", str(cache))
        patch.setattr(pairs, "ENDPOINTS", cache / "no endpoints")
        unit = Unit("smoke", NAME, 0, "pair")
        for need in unit.needs():
            need.run()
        unit.run()
    return cache


@pytest.fixture
def finished(cache, monkeypatch):
    """That cache, as the one in use."""
    monkeypatch.setenv("LLFC_CACHE", str(cache))
    return cache


def test_the_plan_holds_every_pair_once_with_what_it_needs_first():
    # those too large for the queue as well
    everything = plan(names={name for recipes in PAIRS.values() for name in recipes})
    place = {unit: k for k, unit in enumerate(everything)}
    assert len(everything) == len(place) and set(plan()) < set(everything)
    for profile, recipes in PAIRS.items():
        for name, count in recipes.items():
            for what in recipe(name, profile).plan.parts:
                for unit in (Unit(profile, name, index, what) for index in range(count)):
                    assert all(place[need] < place[unit] for need in unit.needs())
    # n pairs with a control each need 2 n + 1 networks, and where the trunk has epochs n + 1 trunks
    trained = [u.name for u in plan("smoke") if u.trains]
    assert trained.count(NAME) == 2 * PAIRS["smoke"][NAME] + 1
    large = "resnet20_cifar10_spawn"
    assert trained.count(large) == 3 * PAIRS["smoke"][large] + 2


def test_every_unit_has_a_file_of_its_own_and_a_name_that_parses():
    everything = plan("smoke")
    assert len({u.path() for u in everything}) == len(everything)
    assert [Unit.parse(str(u)) for u in everything] == everything


def test_a_finished_pair_has_every_role(finished):
    rows = Unit("smoke", NAME, 0, "pair").result()["rows"]
    assert {row.role for row in rows} == {"value", "null", "control"}
    of = {"independent", "independent: nearest endpoint", "independent: formula"}
    assert of <= {row.kind for row in rows if row.role == "control"}
    assert {row.epoch for row in rows if row.quantity == "test_error"} == set(range(1, 21))
    # the control is another network, further away than the spawned one
    apart = {(row.role, row.kind): row.mean for row in rows if row.quantity == "weight_distance"}
    assert apart["control", "independent"] > 1.2 * apart["value", ""] > 0
    for e in OWN:
        assert any(e.keeps(row) for row in rows), e.name


def test_what_is_finished_is_not_done_again(finished, empty_tree, monkeypatch):
    monkeypatch.setattr(units, "train", lambda *_: pytest.fail("trained again"))
    again = replace(part("pair"), measure=lambda _: pytest.fail("measured again"))
    monkeypatch.setitem(PARTS, "pair", again)
    for what in ("pair", "train A"):
        Unit("smoke", NAME, 0, what).run()


def test_a_unit_that_another_process_holds_is_left_alone():
    unit = Unit("smoke", NAME, 0, "train A")
    with unit.locked(), pytest.raises(Busy, match="smoke/mlp_mnist_spawn/0/train A"):
        unit.run()


def test_missing_asks_only_for_networks_that_something_needs(cache, empty_tree, monkeypatch):
    everything, first = plan("smoke"), Unit("smoke", NAME, 0, "pair")
    assert queue.missing(everything) == everything  # an empty cache and no record
    monkeypatch.setenv("LLFC_CACHE", str(cache))
    left = queue.missing(everything)
    assert not {first, *first.needs()} & set(left)
    assert {Unit("smoke", NAME, 0, "closeness"), Unit("smoke", NAME, 1, "train B")} <= set(left)
    monkeypatch.setattr(publish, "is_published", lambda unit: True)
    assert queue.missing(everything) == []


def test_publishing_writes_records_and_networks_that_then_count_as_done(
    finished, monkeypatch, empty_tree
):
    assert "smoke mlp_mnist_spawn/0: pair" in publish.publish("smoke")
    before = {p: p.read_bytes() for p in empty_tree.rglob("*") if p.is_file()}
    assert publish.publish("smoke") == "nothing new to publish"
    assert before == {p: p.read_bytes() for p in empty_tree.rglob("*") if p.is_file()}
    for e in OWN:
        provenance = records.load(e.name, "smoke").pairs[f"{NAME}/0"]
        assert provenance["data"]["name"] == "digits" and provenance["recipe_fields"]
        assert provenance["seeds"] == {"A": "0A", "B": "0B", "independent": "1A"}
    monkeypatch.setenv("LLFC_CACHE", str(empty_tree / "empty"))
    left = queue.missing(plan("smoke"))
    assert Unit("smoke", NAME, 0, "pair") not in left
    assert Unit("smoke", NAME, 0, "closeness") in left
    # the shipped network is what was trained, and a damaged one is refused
    data, shipped = pairs.load("digits"), pairs.shipped_path("smoke", NAME, 0, "A")
    assert pairs.endpoint("smoke", NAME, 0, "A", data).digest() == provenance["endpoints"]["A"]
    shipped.write_bytes(shipped.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="0A.safetensors is damaged"):
        pairs.endpoint("smoke", NAME, 0, "A", data)


def test_a_part_that_only_its_own_experiments_read_is_published_alone(
    finished, monkeypatch, empty_tree
):
    def written() -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in records.RECORDS.glob("*/*.json")}

    pair, unit = (Unit("smoke", NAME, 0, part) for part in ("pair", "decomposition"))
    monkeypatch.setenv("LLFC_CACHE", str(shutil.copytree(finished, empty_tree / "cache")))
    publish.publish("smoke")
    before = written()
    for path in pair.path().parent.iterdir():  # on another machine, where the rest is not at hand
        path.unlink()
    unit.run()
    assert "smoke mlp_mnist_spawn/0: decomposition" in publish.publish("smoke")
    after = written()
    assert {name: after.pop(name) for name in before} == before
    assert set(after) == {"lemma", "decomposition"}
    record = records.load("decomposition", "smoke")
    assert record.pairs[f"{NAME}/0"]["parts"] == ["decomposition"]
    assert set(zip(record.table["role"], record.table["kind"])) == {
        ("value", ""),
        ("control", "independent"),
        ("null", "gaussian matched"),
    }
    assert publish.is_published(unit) and publish.is_published(pair)
    monkeypatch.setitem(PARTS, "decomposition", replace(part("decomposition"), version=99))
    assert not publish.is_published(unit) and publish.is_published(pair)


def test_the_shipped_networks_are_those_that_the_records_were_measured_on():
    quoted = {
        (path.parent.name, pair, seeds[who], found["endpoints"][who], found["data"]["sha256"])
        for path in records.RECORDS.glob("*/*.json")
        for pair, found in records.load(path.stem, path.parent.name).pairs.items()
        for seeds in (found["seeds"],)
        for who in seeds
    }
    # the control of this pair was another training of the same seed, in bf16; only the later one is
    # left
    quoted = {q for q in quoted if q[:3] != ("lite", "resnet20_cifar10_spawn/1", "2A")}
    shipped = set()
    for profile, pair, seed, digest, data in quoted:
        name = recipe(pair.rpartition("/")[0], profile).trained_as
        member, named = (int(seed[:-1]), seed[-1]), SimpleNamespace(sha256=data)
        path = pairs.shipped_path(profile, name, *member)
        if path.exists():
            key = run_key(recipe(name, profile), *member, named)
            assert checkpoints.read(path, key).digest() == digest, path
            shipped.add(path)
    # those of an earlier epoch lie beside the network that became of them
    every = set(pairs.ENDPOINTS.rglob("*.safetensors"))
    beside = {path: path.with_stem(re.sub(r"\.epoch\d+$", "", path.stem)) for path in every}
    assert set(beside.values()) == shipped


def test_what_was_measured_by_another_version_or_plan_does_not_count(
    finished, monkeypatch, empty_tree
):
    publish.publish("smoke")
    unit = Unit("smoke", NAME, 0, "pair")
    assert publish.is_published(unit) and unit.finished()
    with monkeypatch.context() as patch:
        patch.setitem(PARTS, "pair", replace(part("pair"), version=99))
        assert not publish.is_published(unit)
    for record in empty_tree.rglob("*.json"):  # as records were before they named their plan
        record.write_text(record.read_text().replace('"plan"', '"no plan"'))
    publish._provenances.cache_clear()
    for planned, counts in ((Plan(batch=7), True), (Plan(draws=9), False)):
        setting = replace(recipe(NAME, "smoke"), plan=replace(planned, parts=("pair",)))
        monkeypatch.setattr(units, "recipe", lambda *_, setting=setting: setting)
        assert publish.is_published(unit) == unit.finished() == counts


@pytest.mark.parametrize(
    "code, word, failures", [(1, "FAILED", True), (queue.BUSY, "left to another queue", False)]
)
def test_what_needs_a_network_that_failed_or_is_trained_elsewhere_is_left_out(
    monkeypatch, capsys, empty_tree, code, word, failures
):
    def start(unit: Unit, device: str) -> subprocess.Popen:
        return subprocess.Popen(["sh", "-c", f"exit {code * (unit == bad)}"])

    monkeypatch.setattr(queue, "_start", start)
    bad = Unit("smoke", NAME, 0, "train B")
    broken = {bad, *(unit for unit in plan("smoke") if bad in unit.needs())}
    assert len(broken) > 5
    failed = queue.run("smoke", jobs=2, device="cpu", recipes=[NAME])
    assert failed == len(broken) * failures
    printed = capsys.readouterr().out
    done = {line.partition("done: ")[2].partition(" (")[0] for line in printed.splitlines()}
    assert f"{word}: {bad}" in printed and str(Unit("smoke", NAME, 1, "pair")) in done
    assert not done & set(map(str, broken))


def test_without_data_it_is_said_what_cannot_run(monkeypatch, capsys):
    def absent(r):
        raise FileNotFoundError(f"{r.data} is not there; set LLFC_DATA")

    monkeypatch.setattr(units, "dataset", absent)
    monkeypatch.setattr(publish, "is_published", lambda unit: unit.profile == "paper")
    assert "cannot be run here: cifar10 is not there; set LLFC_DATA" in queue.status(None)
    assert queue.main(["run", "--profile", "lite"]) == 1
    assert "cifar10 is not there; set LLFC_DATA" in capsys.readouterr().err


def test_statistics_are_recomputed_on_augmented_training_images():
    data = pairs.load("digits")
    r = replace(recipe("resnet20_cifar10_spawn", "smoke"), augment=("crop",))
    (batch,) = pairs.calibration(data, r, 70)
    assert len(batch) == 70 and pairs.calibration(data, r, 0) is None
    without_test = replace(data, x_test=torch.zeros_like(data.x_test))
    assert torch.equal(batch, torch.cat(pairs.calibration(without_test, r, 70)))
    plain = torch.cat(pairs.calibration(data, replace(r, augment=()), 70))
    of_training = {image.numpy().tobytes() for image in data.normalise(data.x_train)}
    assert all(image.numpy().tobytes() in of_training for image in plain)
    moved = sum(not torch.equal(image, still) for image, still in zip(batch, plain))
    assert moved > 40  # eight of nine crops by at most one pixel move the image
