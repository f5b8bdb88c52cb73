"""Records: what is written comes back, pair by pair, and what cannot be trusted is refused."""

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


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS", tmp_path)
    return tmp_path


def save(pair="mlp_mnist_spawn/0", rows=ROWS):
    about = {"model": "mlp", "data": "digits", "method": "spawning"}
    records.save_pair("fig08", "smoke", pair, provenance(), rows, **about)


def test_what_is_written_comes_back():
    save()
    record = records.load("fig08", "smoke")
    frame = record.table
    assert list(frame.columns) == records.COLUMNS and len(frame) == len(ROWS)
    (null,) = frame[frame["role"] == "null"].to_dict("records")
    written = {"pair": "mlp_mnist_spawn/0", "mean": 0.03, "alpha": 0.5, "n": 10}
    assert written.items() <= null.items() and null["kind"] == "rotation t=1"
    assert 0.012345679 in frame["mean"].tolist()  # eight significant digits
    assert record.pairs["mlp_mnist_spawn/0"]["recipe_hash"] == "abc"


def test_pairs_merge_and_one_pair_changes_only_its_lines():
    save()
    save("mlp_mnist_spawn/1")
    path = records.path_of("fig08", "smoke")
    before = path.read_text().splitlines()
    save("mlp_mnist_spawn/1", [Row("1-cos_alpha", 9.0, site="FC 2", alpha=0.5)])
    after = path.read_text().splitlines()
    assert [line for line in before if "spawn/0" in line] == [
        line for line in after if "spawn/0" in line
    ]
    frame = records.load("fig08", "smoke").table.set_index("pair")
    assert len(frame) == len(ROWS) + 1 and frame.loc["mlp_mnist_spawn/1", "mean"] == 9.0


def test_the_order_of_publishing_does_not_matter(folder, monkeypatch):
    files = []
    for name, order in (("a", (0, 1)), ("b", (1, 0))):
        monkeypatch.setattr(records, "RECORDS", folder / name)
        for k in order:
            save(f"mlp_mnist_spawn/{k}", ROWS if k else ROWS[::-1])
        files.append(records.path_of("fig08", "smoke").read_bytes())
    assert files[0] == files[1]


def test_a_record_of_another_recipe_is_refused():
    save()
    assert records.load("fig08", "smoke", {"mlp_mnist_spawn": "abc"})
    with pytest.raises(
        RecordError, match="pair mlp_mnist_spawn/0 was made from another recipe .abc, now xyz"
    ):
        records.load("fig08", "smoke", {"mlp_mnist_spawn": "xyz"})


def test_missing_and_truncated_records_are_named():
    with pytest.raises(RecordError, match="no record of 'fig08' in profile 'smoke'"):
        records.load("fig08", "smoke")
    with pytest.raises(ValueError, match="unknown profile 'smok'"):
        records.load("fig08", "smok")
    save()
    path = records.path_of("fig08", "smoke")
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(RecordError, match="smoke/fig08.json is damaged"):
        records.load("fig08", "smoke")


def test_compare_finds_the_largest_difference():
    save()
    record = records.load("fig08", "smoke").table

    def found(live):
        return records.compare(live, record).set_index("quantity")["difference"]

    assert not found(record).any()
    live, null = record.copy(), record["role"] == "null"
    live.loc[null, "mean"] += 0.004
    assert found(live).to_dict() == {
        "1-cos_alpha": pytest.approx(0.004),
        "stitched_error": 0,
        "test_error": 0,
    }
    live.loc[null, "mean"] = float("nan")  # the value row of this quantity still agrees
    assert found(live)["1-cos_alpha"] == float("inf")
    assert (found(record.assign(std=0.125)) == float("inf")).all()  # not all have one
    changed = found(record.assign(n=record["n"] + 1)) == float("inf")
    assert changed.tolist() == [True, True, False]  # the last has none


@pytest.mark.parametrize(
    "rename, said",
    [
        (lambda frame: frame.assign(pair="another/0"), "4 of 4 numbers"),
        (lambda frame: frame.replace({"site": "FC 2"}, "FC two"), "2 of 4 numbers"),
    ],
)
def test_what_is_measured_now_cannot_slip_past_the_record(rename, said):
    save()
    record = records.load("fig08", "smoke").table
    with pytest.raises(RecordError, match=f"{said} measured now are not in the record"):
        records.compare(rename(record), record)
    assert len(records.compare(record.iloc[:1], record)) == 1  # the record may hold more


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda found: [], "damaged"),
        (lambda found: {**found, "rows": [["x"] * len(records.COLUMNS)]}, "damaged"),
        (
            lambda found: {**found, "pairs": found["pairs"] | {"mlp_mnist_spawn/7": provenance()}},
            "damaged",
        ),
        (lambda found: {**found, "columns": found["columns"][:-1]}, "another format"),
        (lambda found: {**found, "format": 0}, "another format"),
        (lambda found: {**found, "experiment": "tab1"}, "holds 'tab1'"),
        (lambda found: {**found, "profile": "paper"}, "of profile 'paper'"),
    ],
)
def test_every_damage_is_a_record_error(damage, said):
    save()
    path = records.path_of("fig08", "smoke")
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(RecordError, match=said):
        records.load("fig08", "smoke")
