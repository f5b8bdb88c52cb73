"""Units, the queue, and publishing, on the smoke profile: everything from training to a committed
record.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from llfc_book import records
from llfc_book.places import ROOT
from llfc_book.study import pairs, publish, queue, units
from llfc_book.study.catalogue import EXPERIMENTS, experiment
from llfc_book.study.runs import run_key, run_path
from llfc_book.study.settings import PAIRS, recipe
from llfc_book.study.units import Busy, Unit, plan

from llfc_lib.training import checkpoints
from llfc_lib.training.checkpoints import CheckpointError

NAME = "mlp_mnist_spawn"


@pytest.fixture
def empty_tree(tmp_path, monkeypatch):
    """No committed record and no shipped network: what a change of a recipe would leave."""
    monkeypatch.setattr(pairs, "ENDPOINTS", tmp_path / "endpoints")
    monkeypatch.setattr(records, "RECORDS", tmp_path / "records")
    publish._provenances.cache_clear()
    yield tmp_path
    publish._provenances.cache_clear()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A cache in which the first smoke pair is trained, and measured in two of its parts."""
    cache = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLFC_CACHE", str(cache))
        patch.setattr(pairs, "ENDPOINTS", cache / "no endpoints")
        unit = Unit("smoke", NAME, 0, "pair")
        for need in unit.needs():
            need.run()
        unit.run()
        Unit("smoke", NAME, 0, "rotation t=1").run()
    return cache


def test_the_plan_holds_every_pair_once_with_what_it_needs_first():
    everything = plan(
        names={name for recipes in PAIRS.values() for name in recipes}
    )  # those too large for the queue as well
    assert len(everything) == len(set(everything)) and set(plan()) < set(everything)
    for profile, recipes in PAIRS.items():
        for name, count in recipes.items():
            for index in range(count):
                for part in pairs.plan_of(name, profile).parts:
                    unit = Unit(profile, name, index, part)
                    assert all(
                        everything.index(need) < everything.index(unit) for need in unit.needs()
                    )
    # n pairs with a control each need 2 n + 1 networks, and where the trunk has epochs n + 1 trunks
    smoke = [u for u in plan("smoke") if u.trains]
    assert sum(u.name == NAME for u in smoke) == 2 * PAIRS["smoke"][NAME] + 1
    assert (
        sum(u.name == "resnet20_cifar10_spawn" for u in smoke)
        == 3 * PAIRS["smoke"]["resnet20_cifar10_spawn"] + 2
    )
    with pytest.raises(ValueError, match="unknown profile 'smok'"):
        plan("smok")


def test_every_unit_has_a_file_of_its_own_and_a_name_that_parses():
    everything = plan("smoke")
    assert len({u.path() for u in everything}) == len(everything)
    assert [Unit.parse(str(u)) for u in everything] == everything


def test_unknown_experiment():
    with pytest.raises(ValueError, match="unknown experiment 'fig8'; choose one of .*fig08"):
        experiment("fig8")


def test_a_finished_pair_has_every_role(finished, monkeypatch):
    monkeypatch.setenv("LLFC_CACHE", str(finished))
    result = Unit("smoke", NAME, 0, "pair").result()
    rows = result["rows"]
    assert {row.role for row in rows} == {"value", "null", "control"}
    kinds = {row.kind for row in rows if row.role == "control"}
    assert {
        "independent",
        "itself",
        "independent: nearest endpoint",
        "independent: formula",
    } <= kinds
    itself = [
        row
        for row in rows
        if row.kind == "itself" and row.quantity in ("1-cos_alpha", "1-coef_alpha", "dist_com")
    ]
    assert itself and all(row.mean == 0 for row in itself)
    assert {row.epoch for row in rows if row.quantity == "test_error"} == set(range(1, 21))
    displaced = Unit("smoke", NAME, 0, "rotation t=1").result()["rows"]
    assert {row.n for row in displaced if row.quantity == "1-cos_alpha"} == {10}
    assert all(row.role == "null" and row.kind == "rotation t=1" for row in displaced)
    # the control is another network, further away than the spawned one; A itself is nowhere else
    apart = {(row.role, row.kind): row.mean for row in rows if row.quantity == "weight_distance"}
    assert (
        apart["control", "independent"] > 1.2 * apart["value", ""] > 0 == apart["control", "itself"]
    )
    # every experiment finds its rows
    for e in EXPERIMENTS.values():
        if NAME in e.recipes and not e.parts:
            assert any(e.keeps(row) for row in rows), e.name


def test_what_is_finished_is_not_done_again(finished, monkeypatch):
    monkeypatch.setenv("LLFC_CACHE", str(finished))
    monkeypatch.setattr(units, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(pairs, "measure_pair", lambda *_: pytest.fail("measured again"))
    Unit("smoke", NAME, 0, "pair").run()
    Unit("smoke", NAME, 0, "train A").run()


def test_a_unit_that_another_process_holds_is_left_alone():
    unit = Unit("smoke", NAME, 0, "train A")
    with unit._lock(), pytest.raises(Busy, match="smoke/mlp_mnist_spawn/0/train A"):
        unit.run()


def test_missing_asks_only_for_networks_that_something_needs(finished, monkeypatch, empty_tree):
    everything = plan("smoke")
    assert queue.missing(everything) == everything  # an empty cache and no record
    monkeypatch.setenv("LLFC_CACHE", str(finished))
    left = queue.missing(everything)
    assert (
        Unit("smoke", NAME, 0, "pair") not in left and Unit("smoke", NAME, 0, "train A") not in left
    )
    assert (
        Unit("smoke", NAME, 0, "gaussian t=1") in left and Unit("smoke", NAME, 1, "train B") in left
    )


def test_publishing_writes_records_and_networks_that_then_count_as_done(
    finished, monkeypatch, empty_tree
):
    monkeypatch.setenv("LLFC_CACHE", str(finished))
    assert "smoke mlp_mnist_spawn/0: pair, rotation t=1" in publish.publish("smoke")
    for e in (e for e in EXPERIMENTS.values() if NAME in e.recipes and not e.parts):
        record = records.load(e.name, "smoke")
        provenance = record.pairs[f"{NAME}/0"]
        assert provenance["data"]["name"] == "digits" and len(provenance["endpoints"]["A"]) == 64
        assert provenance["reductions"] and provenance["seeds"] == {
            "A": "0A",
            "B": "0B",
            "independent": "1A",
        }
    shipped = pairs.shipped_path("smoke", NAME, 0, "A")
    assert shipped.exists()
    monkeypatch.setenv("LLFC_CACHE", str(empty_tree / "empty"))
    left = queue.missing(plan("smoke"))
    assert (
        Unit("smoke", NAME, 0, "pair") not in left and Unit("smoke", NAME, 0, "entries t=1") in left
    )
    # the shipped network is what was trained, and a damaged one is refused
    data = pairs.load("digits")
    assert pairs.endpoint("smoke", NAME, 0, "A", data).digest() == provenance["endpoints"]["A"]
    shipped.write_bytes(shipped.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="0A.safetensors is damaged"):
        pairs.endpoint("smoke", NAME, 0, "A", data)


def test_a_part_that_only_its_own_experiments_read_is_published_alone(
    finished, monkeypatch, empty_tree
):
    cache = shutil.copytree(finished, empty_tree / "cache")
    monkeypatch.setenv("LLFC_CACHE", str(cache))
    publish.publish("smoke")
    before = {path.name: path.read_bytes() for path in records.RECORDS.glob("*/*.json")}
    assert {"lemma.json", "decomposition.json"}.isdisjoint(before)
    for path in (
        cache / "units"
    ).iterdir():  # on another machine, later, where the rest is not at hand
        path.unlink()
    unit = Unit("smoke", NAME, 0, "decomposition")
    unit.run()
    assert "smoke mlp_mnist_spawn/0: decomposition" in publish.publish("smoke")
    after = {path.name: path.read_bytes() for path in records.RECORDS.glob("*/*.json")}
    assert {name: after[name] for name in before} == before and set(after) == {
        *before,
        "lemma.json",
        "decomposition.json",
    }
    record = records.load("decomposition", "smoke")
    assert (
        record.pairs[f"{NAME}/0"]["parts"] == ["decomposition"]
        and publish.is_published(unit)
        and publish.is_published(Unit("smoke", NAME, 0, "pair"))
    )
    kinds = set(zip(record.table["role"], record.table["kind"]))
    assert kinds == {
        ("value", ""),
        ("control", "independent"),
        ("null", "rotation matched"),
        ("null", "gaussian matched"),
    }
    monkeypatch.setitem(units.OTHER_VERSION, "decomposition", 99)
    assert not publish.is_published(unit) and publish.is_published(Unit("smoke", NAME, 0, "pair"))


def test_small_networks_are_shipped_with_every_pair_and_large_ones_with_the_first(
    finished, monkeypatch, empty_tree
):
    monkeypatch.setenv("LLFC_CACHE", str(finished))
    assert PAIRS["smoke"][NAME] == 2
    assert publish._ship("smoke", NAME) == []  # nothing is published yet
    monkeypatch.setattr(publish, "_published_parts", lambda *_: {"pair"})
    monkeypatch.setattr(
        pairs, "members", lambda name, pair: {"A": (0, "AB"[pair])}
    )  # 0A in the first pair, 0B in the second
    monkeypatch.setattr(publish, "SMALL", 0)
    assert publish._ship("smoke", NAME) == [f"shipped {NAME}-0A.safetensors"]
    monkeypatch.setattr(publish, "SMALL", 2**20)
    assert publish._ship("smoke", NAME) == [f"shipped {NAME}-0B.safetensors"]
    shipped = pairs.shipped_path("smoke", NAME, 0, "A")
    whole = shipped.read_bytes()
    source = run_path(recipe(NAME, "smoke"), 0, "A", pairs.load("digits"))
    trained = source.read_bytes()
    other = checkpoints.read(source, run_key(recipe(NAME, "smoke"), 0, "A", pairs.load("digits")))
    other.model["fc4.bias"] += 1
    try:  # trained anew it may have other bits: what is quoted stays, what is damaged is replaced
        checkpoints.write(
            source, other, run_key(recipe(NAME, "smoke"), 0, "A", pairs.load("digits"))
        )
        assert publish._ship("smoke", NAME) == [] and shipped.read_bytes() == whole
        shipped.write_bytes(whole[:-7])
        assert publish._ship("smoke", NAME) == [f"shipped {NAME}-0A.safetensors"]
    finally:
        source.write_bytes(trained)


def test_the_shipped_networks_are_those_that_the_records_were_measured_on():
    quoted = {
        (
            path.parent.name,
            pair,
            found["seeds"][who],
            found["endpoints"][who],
            found["data"]["sha256"],
        )
        for path in records.RECORDS.glob("*/*.json")
        for pair, found in records.load(path.stem, path.parent.name).pairs.items()
        for who in found["seeds"]
    }
    # the control of this pair was another training of the same seed, in bf16; only the later one is
    # left
    quoted = {q for q in quoted if q[:3] != ("lite", "resnet20_cifar10_spawn/1", "2A")}
    shipped = set()
    for profile, pair, seed, digest, data in quoted:
        name = recipe(pair.rpartition("/")[0], profile).trained_as
        path = pairs.shipped_path(profile, name, int(seed[:-1]), seed[-1])
        if path.exists():
            key = run_key(
                recipe(name, profile), int(seed[:-1]), seed[-1], SimpleNamespace(sha256=data)
            )
            assert checkpoints.read(path, key).digest() == digest, path
            shipped.add(path)
    # those of an earlier epoch lie beside the network that became of them
    kept = {
        path
        for path in pairs.ENDPOINTS.rglob("*.safetensors")
        if re.search(r"\.epoch\d+$", path.stem)
    }
    assert {
        path.with_name(re.sub(r"\.epoch\d+$", "", path.stem) + path.suffix) for path in kept
    } <= shipped
    assert shipped == set(pairs.ENDPOINTS.rglob("*.safetensors")) - kept


def test_publishing_twice_changes_nothing(finished, monkeypatch, empty_tree):
    monkeypatch.setenv("LLFC_CACHE", str(finished))
    publish.publish("smoke")
    before = {p: p.read_bytes() for p in empty_tree.rglob("*") if p.is_file()}
    assert publish.publish("smoke") == "nothing new to publish"
    assert before == {p: p.read_bytes() for p in empty_tree.rglob("*") if p.is_file()}


def test_a_record_of_another_recipe_does_not_count(finished, monkeypatch, empty_tree):
    monkeypatch.setenv("LLFC_CACHE", str(finished))
    publish.publish("smoke")
    monkeypatch.setitem(units.MEASURE_VERSION, "pair", 99)
    assert not publish.is_published(Unit("smoke", NAME, 0, "pair"))


def test_what_was_measured_by_another_plan_does_not_count(finished, monkeypatch, empty_tree):
    monkeypatch.setenv("LLFC_CACHE", str(finished))
    publish.publish("smoke")
    unit = Unit("smoke", NAME, 0, "pair")
    assert publish.is_published(unit) and unit.available()
    for record in empty_tree.rglob(
        "*.json"
    ):  # as records of MLPs were before they named their plan
        record.write_text(record.read_text().replace('"plan"', '"no plan"'))
    publish._provenances.cache_clear()
    assert publish.is_published(unit)
    monkeypatch.setattr(pairs, "plan_of", lambda name, profile: pairs.Plan(batch=7))
    assert publish.is_published(unit) and unit.available()
    monkeypatch.setattr(pairs, "plan_of", lambda name, profile: pairs.Plan(draws=9))
    assert not publish.is_published(unit) and not unit.available()


def test_a_failing_unit_is_named_and_the_others_go_on(monkeypatch, capsys, empty_tree):
    def start(unit, device, lines):
        code = 1 if str(unit).endswith("0/train B") else 0
        return subprocess.Popen([sys.executable, "-S", "-c", f"raise SystemExit({code})"])

    monkeypatch.setattr(queue, "_start", start)
    broken: set[Unit] = set()  # networks, and what needs them
    for unit in plan("smoke"):
        if str(unit).endswith("0/train B") or broken & set(unit.needs()):
            broken.add(unit)
    assert queue.run("smoke", jobs=2, device="cpu") == len(broken) > 20
    printed = capsys.readouterr().out
    assert (
        f"FAILED: smoke/{NAME}/0/train B" in printed and f"left out: smoke/{NAME}/0/pair" in printed
    )
    assert f"done: smoke/{NAME}/1/pair" in printed


def test_what_another_queue_trains_is_not_measured_before_it_is_done(
    monkeypatch, capsys, empty_tree
):
    def start(unit, device, lines):
        code = queue.BUSY if str(unit) == f"smoke/{NAME}/0/train B" else 0
        return subprocess.Popen([sys.executable, "-S", "-c", f"raise SystemExit({code})"])

    monkeypatch.setattr(queue, "_start", start)
    assert queue.run("smoke", jobs=2, device="cpu") == 0
    printed = capsys.readouterr().out
    assert f"left to another queue: smoke/{NAME}/0/train B" in printed
    assert (
        f"left to another queue: smoke/{NAME}/0/pair" in printed
        and f"done: smoke/{NAME}/0/pair" not in printed
    )
    assert f"done: smoke/{NAME}/1/pair" in printed


def test_status_counts_and_foretells(finished, monkeypatch, empty_tree):
    monkeypatch.setenv("LLFC_CACHE", str(finished))
    text = queue.status("smoke")
    assert (
        "3 of   5 done, 2 missing, about" in text
        and "1 of   2 done" in text
        and "left: about" in text
    )


def test_without_data_the_status_says_what_cannot_run(monkeypatch, tmp_path, capsys):
    def absent(r):
        raise FileNotFoundError(f"{r.data} is not there; set LLFC_DATA")

    monkeypatch.setattr(units, "dataset", absent)
    monkeypatch.setattr(queue, "dataset", absent)
    monkeypatch.setattr(publish, "is_published", lambda unit: unit.profile == "paper")
    text = queue.status(None)
    assert (
        "lite   mlp_mnist_spawn            cannot be run here: mnist is not there; set LLFC_DATA"
        in text
    )
    assert queue.main(["run", "--profile", "lite"]) == 1
    assert "FileNotFoundError: cifar10 is not there; set LLFC_DATA" in capsys.readouterr().err


def test_a_killed_unit_goes_on_where_it_was(tmp_path):
    environment = {**os.environ, "LLFC_CACHE": str(tmp_path / "queue")}
    command = [
        sys.executable,
        "-m",
        "llfc_book.study.queue",
        "unit",
        f"smoke/{NAME}/7/train A",
    ]
    runs = tmp_path / "queue" / "runs"

    def finished():
        return [path for path in runs.glob("*.safetensors") if ".latest" not in path.name]

    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    while process.poll() is None and not list(runs.glob("*.latest.safetensors")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not finished()
    assert subprocess.run(command, env=environment, cwd=ROOT).returncode == 0
    assert len(finished()) == 1


def test_what_is_published_needs_no_network(monkeypatch, empty_tree):
    monkeypatch.setattr(publish, "is_published", lambda unit: True)
    assert queue.missing(plan("smoke")) == []


def test_statistics_are_recomputed_on_augmented_training_images():
    data = pairs.load("digits")
    r = replace(recipe("resnet20_cifar10_spawn", "smoke"), augment=("crop",))
    batches = pairs.calibration(data, r, 70)
    assert [len(x) for x in batches] == [70] and pairs.calibration(data, r, 0) is None
    without_test = pairs.calibration(replace(data, x_test=torch.zeros_like(data.x_test)), r, 70)
    assert all(torch.equal(x, y) for x, y in zip(batches, without_test, strict=True))
    plain = torch.cat(pairs.calibration(data, replace(r, augment=()), 70))
    of_training = {image.numpy().tobytes() for image in data.normalise(data.x_train)}
    assert all(image.numpy().tobytes() in of_training for image in plain)
    moved = sum(not torch.equal(image, still) for image, still in zip(torch.cat(batches), plain))
    assert moved > 40  # eight of nine crops by at most one pixel move the image
