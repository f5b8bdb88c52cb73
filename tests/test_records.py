"""Records: what is written comes back, one pair at a time, and what cannot be trusted is refused."""

import json

import pytest
from llfc_book import records
from llfc_book.records import RecordError

from llfc_lib.metrics.rows import Row

ROWS = [
    Row("1-cos_alpha", 0.0123456789123, 0.001, 100, site="FC 2", alpha=0.5),
    Row("1-cos_alpha", 0.03, None, 10, site="FC 2", alpha=0.5, role="null", kind="rotation t=1"),
    Row("stitched_error", 0.0205, n=100, site="FC 1", direction="A to B"),
    Row("test_error", 0.02, kind="A", epoch=3),
]


def provenance(**change):
    return {
        "recipe": "mlp_mnist_spawn",
        "recipe_hash": "abc",
        "data": {"name": "digits", "source": "toy"},
        **change,
    }


def save(folder, pair="mlp_mnist_spawn/0", rows=ROWS, **change):
    records.save_pair(
        "fig08",
        "smoke",
        pair,
        provenance(**change),
        rows,
        model="mlp",
        data="digits",
        method="spawning",
        folder=folder,
    )


def test_what_is_written_comes_back(tmp_path):
    save(tmp_path)
    record = records.load("fig08", "smoke", tmp_path)
    frame = record.frame()
    assert list(frame.columns) == records.COLUMNS and len(frame) == len(ROWS)
    row = frame[frame["role"] == "null"].iloc[0]
    assert (row["pair"], row["mean"], row["alpha"], row["kind"], row["n"]) == (
        "mlp_mnist_spawn/0",
        0.03,
        0.5,
        "rotation t=1",
        10,
    )
    value = frame[(frame["quantity"] == "1-cos_alpha") & (frame["role"] == "value")].iloc[0]
    assert value["mean"] == 0.012345679  # eight significant digits
    assert frame.attrs["profile"] == "smoke" and frame.attrs["source"] == "toy"
    assert record.pairs["mlp_mnist_spawn/0"]["recipe_hash"] == "abc"


def test_a_frame_without_some_recipes_does_not_speak_of_them(tmp_path):
    save(tmp_path, reductions="half the epochs")
    save(
        tmp_path,
        "mlp_cifar10_perm_weight/0",
        recipe="mlp_cifar10_perm_weight",
        reductions="a tenth of the images",
    )
    record = records.load("fig08", "smoke", tmp_path)
    assert (
        record.frame()["pair"].nunique() == 2
        and "a tenth of the images" in record.frame().attrs["reductions"]
    )
    frame = record.frame(without={"mlp_cifar10_perm_weight"})
    assert (
        set(frame["pair"]) == {"mlp_mnist_spawn/0"}
        and frame.attrs["reductions"] == "half the epochs"
    )
    assert list(frame.attrs["by_recipe"]) == ["mlp_mnist_spawn"]
    save(tmp_path, "mlp_mnist_spawn/0", profile="paper")
    mixed = records.load("fig08", "smoke", tmp_path)
    assert (
        mixed.frame().attrs["profile"],
        mixed.frame(without={"mlp_cifar10_perm_weight"}).attrs["profile"],
    ) == ("smoke and paper", "paper")


def test_pairs_merge_and_one_pair_changes_only_its_lines(tmp_path):
    save(tmp_path)
    save(tmp_path, "mlp_mnist_spawn/1")
    path = records.path_of("fig08", "smoke", tmp_path)
    before = path.read_text().splitlines()
    save(tmp_path, "mlp_mnist_spawn/1", [Row("1-cos_alpha", 9.0, site="FC 2", alpha=0.5)])
    after = path.read_text().splitlines()
    assert [line for line in before if "spawn/0" in line] == [
        line for line in after if "spawn/0" in line
    ]
    frame = records.load("fig08", "smoke", tmp_path).frame()
    assert len(frame) == len(ROWS) + 1 and frame.loc[
        frame["pair"] == "mlp_mnist_spawn/1", "mean"
    ].tolist() == [9.0]


def test_the_order_of_publishing_does_not_matter(tmp_path):
    for folder, order in ((tmp_path / "a", (0, 1)), (tmp_path / "b", (1, 0))):
        for k in order:
            save(folder, f"mlp_mnist_spawn/{k}", ROWS if k else ROWS[::-1])
    assert (
        records.path_of("fig08", "smoke", tmp_path / "a").read_bytes()
        == records.path_of("fig08", "smoke", tmp_path / "b").read_bytes()
    )


def test_the_best_record_is_that_of_the_highest_profile(tmp_path):
    save(tmp_path)
    assert records.best("fig08", tmp_path).profile == "smoke"
    records.save_pair(
        "fig08",
        "paper",
        "mlp_mnist_spawn/0",
        provenance(),
        ROWS,
        model="mlp",
        data="mnist",
        method="spawning",
        folder=tmp_path,
    )
    assert records.best("fig08", tmp_path).profile == "paper"
    with pytest.raises(RecordError, match="no record of 'tab1' yet; `make runs`"):
        records.best("tab1", tmp_path)


def test_a_record_of_another_recipe_is_refused(tmp_path):
    save(tmp_path)
    assert records.load("fig08", "smoke", tmp_path, {"mlp_mnist_spawn": "abc"})
    with pytest.raises(
        RecordError, match="pair mlp_mnist_spawn/0 was made from another recipe .abc, now xyz"
    ):
        records.load("fig08", "smoke", tmp_path, {"mlp_mnist_spawn": "xyz"})


def test_damaged_and_missing_records_are_named(tmp_path):
    with pytest.raises(
        RecordError, match="no record of 'fig08' in profile 'smoke'.*make runs PROFILE=smoke"
    ):
        records.load("fig08", "smoke", tmp_path)
    with pytest.raises(ValueError, match="unknown profile 'smok'"):
        records.load("fig08", "smok", tmp_path)
    save(tmp_path)
    path = records.path_of("fig08", "smoke", tmp_path)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(RecordError, match="smoke/fig08.json is damaged"):
        records.load("fig08", "smoke", tmp_path)
    path.write_text(json.dumps({**json.loads(text), "format": 0}))
    with pytest.raises(RecordError, match="another format"):
        records.load("fig08", "smoke", tmp_path)


def test_compare_finds_the_largest_difference(tmp_path):
    save(tmp_path)
    record = records.load("fig08", "smoke", tmp_path).frame()
    live = record.copy()
    assert (records.compare(live, record, 1e-6)["difference"] == 0).all()
    live.loc[live["role"] == "null", "mean"] += 0.004
    compared = records.compare(live, record, 1e-6).set_index("quantity")
    assert (
        compared.loc["1-cos_alpha", "difference"] == pytest.approx(0.004)
        and compared.loc["1-cos_alpha", "compared"] == 2
    )
    assert (
        compared.loc["stitched_error", "difference"]
        == compared.loc["test_error", "difference"]
        == 0
    )
    assert (compared[["spread", "count"]] == 0).all(axis=None)
    changed = records.compare(record.assign(std=0.125, n=record["n"] + 1), record, 1e-6).set_index(
        "quantity"
    )
    assert (changed["difference"] == 0).all() and (changed["spread"] == float("inf")).all()
    assert (changed["count"] > 0).to_dict() == {
        "1-cos_alpha": True,
        "stitched_error": True,
        "test_error": False,
    }  # which has none
    with pytest.raises(RecordError, match="4 of 4 numbers measured now are not in the record"):
        records.compare(live.assign(pair="another/0"), record, 1e-6)


def test_what_is_measured_now_cannot_slip_past_the_record(tmp_path):
    save(tmp_path)
    record = records.load("fig08", "smoke", tmp_path).frame()
    live = record.copy()
    live.loc[live["role"] == "null", "mean"] = float(
        "nan"
    )  # the value row of this quantity still agrees
    assert records.compare(live, record, 1e-6).set_index("quantity").loc[
        "1-cos_alpha", "difference"
    ] == float("inf")
    renamed = record.assign(site=record["site"].where(record["role"] != "null", "FC two"))
    with pytest.raises(
        RecordError, match="1 of 4 numbers measured now are not in the record .'1-cos_alpha'."
    ):
        records.compare(renamed, record, 1e-6)
    assert len(records.compare(record.iloc[:1], record, 1e-6)) == 1  # the record may hold more


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda found: [], "damaged"),
        (lambda found: {**found, "rows": None}, "damaged"),
        (lambda found: {**found, "rows": [["x"] * len(records.COLUMNS)]}, "damaged"),
        (lambda found: {**found, "pairs": {"mlp_mnist_spawn/0": {}}}, "damaged"),
        (
            lambda found: {**found, "pairs": {**found["pairs"], "mlp_mnist_spawn/7": provenance()}},
            "damaged",
        ),
        (lambda found: {key: value for key, value in found.items() if key != "pairs"}, "damaged"),
        (
            lambda found: {
                **found,
                "columns": found["columns"][:-1],
                "rows": [row[:-1] for row in found["rows"]],
            },
            "another format",
        ),
        (lambda found: {**found, "experiment": "tab1"}, "holds 'tab1'"),
        (lambda found: {**found, "profile": "paper"}, "of profile 'paper'"),
    ],
)
def test_every_damage_is_a_record_error(tmp_path, damage, said):
    save(tmp_path)
    path = records.path_of("fig08", "smoke", tmp_path)
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(RecordError, match=said):
        records.load("fig08", "smoke", tmp_path)
