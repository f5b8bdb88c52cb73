"""The oracles see what changes."""

import json

import oracles
import pytest


@pytest.mark.parametrize(
    "changed, seen",
    [
        ({}, []),
        ({"a": 2}, ["/a: 1 -> 2"]),
        ({"new": 0}, ['/new: "nothing" -> 0']),
        ({"list": ["x", "z"]}, ['/list: no longer "y"', '/list: now "z"']),
        ({"list": ["y", "x"]}, ["/list: in another order or number"]),
        ({"deep": {"b": 3}}, ["/deep/b: 2 -> 3"]),
    ],
)
def test_every_kind_of_change_is_seen(changed, seen):
    before = {"a": 1, "list": ["x", "y"], "deep": {"b": 2}}
    assert oracles.changes(before, {**before, **changed}) == seen


def test_a_field_that_recipes_did_not_have_is_told_once_and_every_other_compared():
    before = {"lite/x": {"hash": "a", "lr": 1}, "lite/y": {"hash": "b", "lr": 2}}
    now = {name: {**fields, "family": "spawned"} for name, fields in before.items()}
    assert oracles.known_fields(before, now) == (before, ["family"])
    now["lite/y"].update(hash="c")
    del now["lite/x"]["lr"]
    kept, _ = oracles.known_fields(before, now)
    assert len(oracles.changes(before, kept)) == 2


def test_pages_hold_told_numbers_outputs_and_descriptions(tmp_path):
    def read(told: str, table: str, alt: str) -> dict:
        record = {"application/papermill.record/text/plain": told}
        outputs = [
            {"data": record, "metadata": {"scrapbook": {"name": "barrier"}}},
            {"data": {"text/markdown": table}},
            {"data": {"image/png": "..."}, "metadata": {"image/png": {"alt": alt}}},
            {"name": "stdout", "text": "said"},
        ]
        cells = [{"source": "prose"}, {"outputs": outputs}]
        (tmp_path / "page.ipynb").write_text(json.dumps({"cells": cells}))
        return oracles.pages(tmp_path)

    before = read("'1 point'", "| 1 |", "a curve")
    assert set(before) == {"page/barrier", "page/1", "page/2", "page/3"}
    for changed, where in (
        (("'2 points'", "| 1 |", "a curve"), "page/barrier"),
        (("'1 point'", "| 2 |", "a curve"), "page/1"),
        (("'1 point'", "| 1 |", "two curves"), "page/2"),
    ):
        (line,) = oracles.changes(before, read(*changed))
        assert line.startswith(f"/{where}/")


def test_the_tracked_pages_are_read():
    found = {key.partition("/")[0] for key in oracles.pages(oracles.NOTEBOOKS)}
    assert found and found == {path.stem for path in oracles.NOTEBOOKS.glob("*.ipynb")}
