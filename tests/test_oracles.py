"""The oracles see what changes."""

import json

import oracles


def test_every_kind_of_change_is_seen():
    before = {"a": 1, "list": ["x", "y"], "deep": {"b": [1, 2]}}
    assert oracles.changes(before, json.loads(json.dumps(before))) == []
    assert oracles.changes(before, {**before, "a": 2}) == ["/a: 1 -> 2"]
    assert oracles.changes(before, {**before, "new": 0}) == ['/new: "nothing" -> 0']
    assert oracles.changes(before, {"a": 1, "list": ["x", "y"]}) == [
        '/deep: {"b": [1, 2]} -> "nothing"'
    ]
    assert oracles.changes(before, {**before, "list": ["x", "z"]}) == [
        "/list: no longer y",
        "/list: now z",
    ]
    assert oracles.changes(before, {**before, "list": ["y", "x"]}) == ["/list: in another order"]
    assert oracles.changes(before, {**before, "deep": {"b": [1, 3]}}) == [
        "/deep/b: [1, 2] -> [1, 3]"
    ]


def test_pages_hold_told_numbers_outputs_and_descriptions(tmp_path):
    def notebook(told: str, table: str, alt: str) -> None:
        outputs = [
            {
                "data": {"application/papermill.record/text/plain": told},
                "metadata": {"scrapbook": {"name": "barrier"}},
            },
            {"data": {"text/markdown": table}},
            {"data": {"image/png": "..."}, "metadata": {"image/png": {"alt": alt}}},
            {"name": "stdout", "text": "said"},
        ]
        (tmp_path / "page.ipynb").write_text(
            json.dumps({"cells": [{"source": "prose"}, {"outputs": outputs}]})
        )

    notebook("'1 point'", "| 1 |", "a curve")
    before = oracles.pages(tmp_path)
    assert set(before) == {
        "page/barrier",
        "page/1",
        "page/2",
        "page/3",
    } and "..." not in json.dumps(before)
    for changed, where in (
        (("'2 points'", "| 1 |", "a curve"), "page/barrier"),
        (("'1 point'", "| 2 |", "a curve"), "page/1"),
        (("'1 point'", "| 1 |", "two curves"), "page/2"),
    ):
        notebook(*changed)
        (line,) = oracles.changes(before, oracles.pages(tmp_path))
        assert line.startswith(f"/{where}/")


def test_the_tracked_pages_are_read():
    found = {key.partition("/")[0] for key in oracles.pages(oracles.NOTEBOOKS)}
    assert (
        {"A1_lemma", "B2_llfc"}
        <= found
        == {path.stem for path in oracles.NOTEBOOKS.glob("*.ipynb")}
    )
