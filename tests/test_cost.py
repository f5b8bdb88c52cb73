"""What the page on speed and cost adds up, on records small enough to add up by hand."""

import json

import pytest
from llfc_book import records
from llfc_book.show import cost
from llfc_book.study.settings import recipe

NAME, TINY, TWO = "resnet20_cifar10_spawn", "resnet50_tinyimagenet_spawn", ["pair", "rotation t=1"]


def provenance(parts, measured, trained=3600.0, index=0, name=NAME, who=("A", "B", "independent")):
    ends = (f"a{index}", f"b{index}", f"a{index + 1}")
    return {
        **{"recipe": name, "endpoints": dict(zip(who, ends)), "data": {"train": 1000}},
        **{"parts": parts, "train_seconds": trained, "measure_seconds": measured},
    }


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Two records share two pairs; others hold another part, what counts already, a B that is no
    child of A, and other images.
    """
    both = {f"{NAME}/0": provenance(TWO, 100.0), f"{NAME}/1": provenance(TWO, 200.0, 7200.0, 1)}
    alone = provenance(["pair"], 8.0, 3600.0, 5, f"{NAME}_weight", "AB")
    found = {
        **{"fig10": both, "tab2": both, "vgg_perm": {f"{NAME}_weight/0": alone}},
        "lemma": {f"{NAME}/0": provenance(["decomposition"], 50.0)},
        "train_resnet20": {f"{NAME}/0": provenance(["pair"], 60.0, 9000.0)},
        "closeness": {f"{TINY}/0": provenance(["closeness"], 10.0, 3600.0, 9, TINY)},
    }
    (tmp_path / "lite").mkdir()
    for experiment, pairs in found.items():
        text = json.dumps({"pairs": pairs}, indent=1).removesuffix("\n}") + ',\n "columns": []\n}'
        (tmp_path / "lite" / f"{experiment}.json").write_text(text)
    for module in (cost, records):
        monkeypatch.setattr(module, "RECORDS", tmp_path)
    cost.provenances.cache_clear()
    yield tmp_path
    cost.provenances.cache_clear()


def test_shared_networks_and_passes_count_once(written):
    networks, seconds, work, _ = cost.trained()["lite", NAME]
    # a0, b0, a1 at a third of an hour each, of pair 1 only b1 and a2 are new; a5 and b5 are whole
    assert (networks, seconds) == (7, pytest.approx(3600 + 2 * 2400 + 3600))
    (whole, _), (child, _) = (cost.training(recipe(NAME, "lite"), 1000, who) for who in "AB")
    assert work == pytest.approx(5 * whole + 2 * child)
    assert cost.measured() == {("lite", NAME): 100 + 200 + 50 + 8, ("lite", TINY): 10}


def test_the_trunk_of_two_children_counts_once():
    r = recipe(NAME, "lite")
    (whole, steps), (rest, fewer) = (cost.training(r, 1000, branch) for branch in "AB")
    assert whole == pytest.approx(3 * cost.operations(r) * 1000 * r.epochs)
    assert steps == r.epochs * -(-1000 // r.batch)
    assert rest / whole == fewer / steps == pytest.approx((r.epochs - r.spawn_epoch) / r.epochs)
    assert 7e7 < cost.operations(r) < 9e7  # 41 million multiply-adds, as He et al. count


def test_full_scale_is_told_of_official_sets_alone(written):
    _, seconds, work, _ = cost.trained()["lite", NAME]
    printed = sum(cost.training(cost.RECIPES[NAME], 50_000, branch)[0] for branch in "ABA")
    found = cost.full_scale()
    assert found[NAME][0] == pytest.approx(printed * seconds / work / 3600)
    assert found["mlp_mnist_spawn"][0] is None and TINY not in found
    assert "ResNet-50" in cost.by_setting().text and NAME not in cost.by_setting().text


def test_a_benchmark_that_says_nothing_is_refused(written):
    for rounds, commit in ((1, "abc"), (5, "abc-dirty")):
        (written / "bench.json").write_text(json.dumps({"rounds": rounds, "commit": commit}))
        with pytest.raises(ValueError, match="make bench"):
            cost.bench()


def test_a_gpu_is_held_up_by_work_or_by_steps():
    assert [cost.on_gpu(cost.GPU_RATE * 7, 1), cost.on_gpu(1, 5)] == [7, 5 * cost.GPU_STEP]
