"""What chapters rely on: parameters that are checked, live numbers that are held against the
record.
"""

import pytest
from llfc_book import chapter, records
from llfc_book.chapter import Chapter

GOOD = {
    "profile": "smoke",
    "retrain": False,
    "device": "cpu",
    "In": [""],
    "Out": {},
    "_ih": [""],
    "__name__": "__main__",
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"profil": "paper"}, "unknown parameter 'profil'; choose from .*'profile'"),
        ({"profile": "smok"}, "unknown profile 'smok'; choose one of"),
        ({"device": "cpux"}, "device 'cpux' is not available"),
    ],
)
def test_bad_parameters_are_refused(change, message):
    assert chapter.begin(GOOD) == Chapter("smoke", False, "cpu")
    with pytest.raises(ValueError, match=message):
        chapter.begin({**GOOD, **change})


def test_live_smoke_numbers_agree_with_the_committed_record():
    here = Chapter("smoke", False, "cpu")
    live = here.live("tab1")
    assert {"value", "control"} == set(live.table["role"])
    assert "all within" in here.check("tab1", live).text


@pytest.mark.parametrize("quantity", ["stitched_error", "error"])
def test_a_live_number_that_differs_is_an_error(quantity):
    here = Chapter("smoke", False, "cpu")
    live = records.load("tab1", "smoke")
    here.check("tab1", live)
    table = live.table
    table.loc[table.index[table["quantity"] == quantity][3], "mean"] += 2e-6
    with pytest.raises(AssertionError, match=quantity):
        here.check("tab1", live)


@pytest.mark.parametrize(
    "there, retrain, expected",
    [(None, False, "smoke"), ("lite", False, "lite"), (None, True, "paper")],
)
def test_networks_that_are_not_here_are_replaced_by_smaller_ones(
    monkeypatch, there, retrain, expected
):
    """Unless they are asked for."""
    monkeypatch.setattr(chapter.Unit, "finished", lambda unit: unit.profile == there)
    assert Chapter("paper", retrain, "cpu").at_hand("resnet20_cifar10_spawn") == expected


def test_a_pair_trained_now_begins_at_the_same_bits_and_parts(monkeypatch):
    here = Chapter("smoke", False, "cpu")
    told = here.same_start("mlp_mnist_spawn").text
    assert "trained just now" in told and "bit for bit" in told
    own = chapter.train
    alike = lambda recipe, seed, branch, *rest: own(recipe, seed, "A", *rest)  # noqa: E731
    for module in (chapter, chapter.pairs):
        monkeypatch.setattr(module, "train", alike)
    with pytest.raises(ValueError, match="same start True, same end True"):
        here.same_start("mlp_mnist_spawn")
