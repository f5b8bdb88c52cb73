"""What the page on speed and cost adds up, on records small enough to add up by hand."""

import json

import pytest
from llfc_book import records
from llfc_book.show import cost
from llfc_book.study.settings import recipe

NAME = "resnet20_cifar10_spawn"


def provenance(parts, measured, trained=3600.0, index=0):
    ends = {"A": f"a{index}", "B": f"b{index}", "independent": f"a{index + 1}"}
    return {
        "recipe": NAME,
        "endpoints": ends,
        "train_seconds": trained,
        "measure_seconds": measured,
        "parts": parts,
        "data": {"name": "cifar10", "train": 1000, "test": 100},
    }


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Two records of two pairs that share passes and networks, one of another part, and one of a
    pass and networks that count already.
    """
    both = {
        f"{NAME}/0": provenance(["pair", "rotation t=1"], 100.0),
        f"{NAME}/1": provenance(["pair", "rotation t=1"], 200.0, 7200.0, 1),
    }
    found = {
        "fig10": both,
        "tab3": both,
        "lemma": {f"{NAME}/0": provenance(["decomposition"], 50.0)},
        "train_resnet20": {f"{NAME}/0": provenance(["pair"], 60.0, 9000.0)},
    }
    (tmp_path / "lite").mkdir()
    for experiment, pairs in found.items():
        about = {"experiment": experiment, "profile": "lite", "pairs": pairs}
        text = json.dumps(about, indent=1).removesuffix("\n}") + ',\n "columns": []\n}\n'
        (tmp_path / "lite" / f"{experiment}.json").write_text(text)
    for module in (cost, records):
        monkeypatch.setattr(module, "RECORDS", tmp_path)
    return tmp_path


def test_shared_networks_and_passes_count_once(written):
    (spent,) = cost.spent().values()
    # a0, b0, a1 at a third of an hour each, of pair 1 only b1 and a2 are new
    assert set(spent.networks) == {"a0", "b0", "a1", "b1", "a2"}
    assert spent.sums()[0] == pytest.approx(3600 + 2 * 2400)
    training, measuring, gpu = cost.totals()
    assert training == pytest.approx(8400 / 3600)
    assert measuring == pytest.approx((100 + 200 + 50) / 3600)
    assert gpu == pytest.approx(cost.on_gpu(*spent.sums()[1:]) / 3600)


def test_the_trunk_of_two_children_counts_once():
    r = recipe(NAME, "lite")
    (whole, steps), (rest, fewer) = (cost.training(r, 1000, branch) for branch in "AB")
    assert whole == pytest.approx(3 * cost.operations(r) * 1000 * r.epochs)
    assert steps == r.epochs * -(-1000 // r.batch)
    share = (r.epochs - r.spawn_epoch) / r.epochs
    assert (rest / whole, fewer / steps) == pytest.approx((share, share))
    assert 7e7 < cost.operations(r) < 9e7  # 41 million multiply-adds, as He et al. count


def test_rates_and_full_scale(written):
    rates = cost.rates("lite", NAME)
    # a pair trained twice counts twice
    assert (rates / rates.iloc[0]).to_list() == pytest.approx([1, 0.5, 0.4])
    here, gpu = cost.full_scale(NAME)
    (spent,) = cost.spent().values()
    seconds, work, _ = spent.sums()
    printed = sum(cost.training(cost.RECIPES[NAME], 50_000, branch)[0] for branch in "ABA")
    assert here == pytest.approx(printed * seconds / work / 3600) and 0 < gpu < here
    assert cost.full_scale("mlp_mnist_spawn")[0] is None


def test_a_benchmark_that_says_nothing_is_refused(written):
    with pytest.raises(FileNotFoundError, match="make bench"):
        cost.bench()
    for rounds, commit in ((1, "abc"), (5, "abc-dirty")):
        (written / "bench.json").write_text(json.dumps({"rounds": rounds, "commit": commit}))
        with pytest.raises(ValueError, match="make bench"):
            cost.bench()
    (written / "bench.json").write_text(json.dumps({"rounds": 5, "commit": "abc"}))
    assert cost.bench()["rounds"] == 5


def test_a_gpu_is_held_up_by_work_or_by_steps():
    assert cost.on_gpu(cost.GPU_RATE * 7, 1) == pytest.approx(7)
    assert cost.on_gpu(1, 5) == pytest.approx(5 * cost.GPU_STEP)
