"""Figures: readable axes, few series, words that hold the numbers, the same bytes each time."""

import struct

import pytest

from llfc_lib.report import plots, records, tables
from llfc_lib.report.verdicts import numbers, spread

FIGURES = {"llfc": "fig08", "commutativity": "com_mlp", "additivity": "com_mlp", "stitching": "tab1", "barrier": "lmc_mlp",
           "training": "train_mlp"}


@pytest.fixture(params=FIGURES)
def drawn(request):
    frame = records.load(FIGURES[request.param], "smoke").frame()
    return request.param, frame, getattr(plots, request.param)(frame)


def test_axes_say_what_they_show(drawn):
    _, _, shown = drawn
    for axis in shown.figure.axes:
        named = {text.get_text() for text in axis.get_xticklabels()}
        assert axis.get_ylabel() and (axis.get_xlabel() or named & {"FC 1", "FC 2"})
        assert 1 <= len(axis.get_legend_handles_labels()[1]) <= 6
        assert axis.yaxis.label.get_size() >= 8 and all(t.get_size() >= 7 for t in axis.get_xticklabels())


def test_the_figure_names_the_profile_that_made_it(drawn):
    _, frame, shown = drawn
    assert shown.figure._supxlabel.get_text() == "profile smoke, digits, 2 pairs"
    assert "profile smoke, digits, 2 pairs" in shown.alt


def test_the_same_bytes_each_time_at_the_width_of_the_page(drawn):
    name, frame, shown = drawn
    assert getattr(plots, name)(frame).png == shown.png
    width = struct.unpack(">I", shown.png[16:20])[0]
    assert width == 1280 and len(shown.png) < 200_000
    data, metadata = shown._repr_mimebundle_()
    assert data["text/plain"] == f"<figure: {shown.alt}>" and metadata["image/png"] == {"width": 640, "alt": shown.alt}


@pytest.mark.parametrize("name, quantity, text", [
    ("llfc", "cos_ratio", lambda v: f"{v.xs(0.5, level='alpha').max():.3f} of its baseline"),
    ("additivity", "dist_add", lambda v: f"dist is {v.min():.4f} to {v.max():.4f}"),
    ("barrier", "error_barrier_chord", lambda v: f"{100 * v.max():.2f} points for spawned pairs"),
    ("stitching", "stitched_error", lambda v: f"FC 1 {100 * v.xs('FC 1', level='site').mean():.2f}"),
])
def test_the_words_hold_the_numbers(name, quantity, text):
    frame = records.load(FIGURES[name], "smoke").frame()
    assert text(numbers(frame, quantity)) in getattr(plots, name)(frame).alt
    changed = frame.copy()
    changed.attrs = frame.attrs
    changed.loc[changed["quantity"] == quantity, "mean"] *= 1.5
    assert getattr(plots, name)(changed).alt != getattr(plots, name)(frame).alt


@pytest.mark.parametrize("name", FIGURES)
def test_one_pair_without_displaced_partners_can_be_drawn(name):
    frame = records.load(FIGURES[name], "smoke").frame()
    one = frame[(frame["pair"] == "mlp_mnist_spawn/0") & ~frame["kind"].str.contains("t=1|matched")]
    one.attrs = frame.attrs
    shown = getattr(plots, name)(one)
    assert "1 pair)" in shown.alt and "nan" not in shown.alt


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("dropped", ["null", "control"])
def test_what_is_missing_is_said_so(name, dropped):
    frame = records.load(FIGURES[name], "smoke").frame()
    rest = frame[frame["role"] != dropped]
    rest.attrs = frame.attrs
    assert "nan" not in getattr(plots, name)(rest).alt


def test_tables_hold_the_records_numbers():
    frame = records.load("tab1", "smoke").frame()
    text = tables.stitching(frame).text
    stitched = 100 * numbers(frame, "stitched_error").xs("FC 1", level="site").xs("A to B", level="direction")
    assert spread(stitched) in text and "2.69" in text and "profile smoke" in text.lower()
    assert tables.llfc(records.load("fig08", "smoke").frame()).text.count("* - FC") == 3
    assert tables.commutativity(records.load("com_mlp", "smoke").frame()).text.count("* - FC") == 3
    displaced = tables.displaced(records.load("fig08", "smoke").frame()).text
    assert displaced.count("matched") == 3 and displaced.count("t=1") == 3


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    for text in (tables.displaced(records.load("fig08", "smoke").frame()).text, tables.provenance().text,
                 tables.distances(records.load("lmc_mlp", "smoke").frame()).text):
        rows = text.split("\n* - ")[1:]
        assert len(rows) > 1 and len({row.count("\n  - ") for row in rows}) == 1
