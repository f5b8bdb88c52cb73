"""Figures: readable axes, few series, words that hold the numbers, the same bytes each time."""

import struct
from functools import cache

import pandas as pd
import pytest
from llfc_book import records
from llfc_book.claims.verdicts import numbers, spread
from llfc_book.show import plots, select, tables
from llfc_book.study.catalogue import EXPERIMENTS

FIGURES = {
    "llfc": ("fig08", "fig09", "fig10"),
    "commutativity": ("com_mlp", "fig16", "com_resnet20"),
    "additivity": ("com_mlp", "fig16", "com_resnet20"),
    "stitching": ("tab1", "tab2", "tab3"),
    "barrier": ("lmc_mlp", "lmc_vgg16", "lmc_resnet20"),
    "training": ("train_mlp", "train_vgg16", "train_resnet20"),
    "transfer": ("tab2", "tab3"),
    "excess": ("tab2", "tab3"),
    "connected_or_not": ("fig19",),
    "spawn_epoch": ("spawn_epoch",),
    "cooccur": ("cooccur",),
    "matched_barriers": ("lmc_perm",),
    "matched_curves": ("lmc_perm",),
    "strong_forms": ("strong",),
    "spectra": ("fig20",),
    "widths": ("widths",),
    "joint": ("joint",),
}
MATCHED = {
    "llfc": ("fig12", "fig13", "fig14"),
    "commutativity": ("fig17", "fig18"),
    "stitching": ("stitch_perm",),
    "barrier": ("lmc_perm",),
}
FIGURES = {name: (*FIGURES.get(name, ()), *MATCHED.get(name, ())) for name in FIGURES}
ALL = [(name, experiment) for name, experiments in FIGURES.items() for experiment in experiments]


@cache
def smoke(experiment: str) -> pd.DataFrame:
    """Read once; nobody writes to it."""
    return records.load(experiment, "smoke").frame()


@pytest.fixture(scope="module", params=ALL, ids=lambda param: "-".join(param))
def drawn(request):
    name, experiment = request.param
    frame = smoke(experiment)
    if set(frame["method"]) & {"activation", "weight", "ste"} and name not in (
        "matched_barriers",
        "widths",
        "cooccur",
    ):
        frame = select.of(
            frame, EXPERIMENTS[experiment].recipes[0]
        )  # a figure of one setting of several
    return name, frame, getattr(plots, name)(frame)


def test_axes_say_what_they_show(drawn):
    _, _, shown = drawn
    for axis in shown.figure.axes:
        named = {text.get_text() for text in axis.get_xticklabels()}
        assert axis.get_ylabel() and (axis.get_xlabel() or named & {"FC 1", "FC 2", "FC"})
        assert 1 <= len(set(axis.get_legend_handles_labels()[1])) <= 6
        assert axis.yaxis.label.get_size() >= 8 and all(
            t.get_size() >= 7 for t in axis.get_xticklabels()
        )


def test_the_figure_names_the_profile_that_made_it(drawn):
    name, frame, shown = drawn
    count = frame["pair"].nunique()
    made_by, told = (
        f"profile smoke, digits, {count} pair{'s' * (count > 1)}",
        shown.figure._supxlabel.get_text().replace("\n", " "),
    )
    assert (
        told.startswith(f"{made_by}; train / test images: digits (1,297 / 500")
        and made_by in shown.alt
    )
    few = "digits (1,297 / 500; pairs: first 120; displaced: first 60)" in told
    assert few == bool(set(frame["model"]) - {"mlp"}), (
        "the figure says of fewer images than were measured, or of more"
    )
    assert "reduced in several ways" in told or "reduced: " in told and "→ digits" in told
    assert "reduced in several ways" not in told or name in (
        "cooccur",
        "matched_barriers",
        "widths",
    )  # too many to say
    if frame["model"].nunique() > 1 and name != "cooccur":  # whose reductions they are
        assert all(
            f"{network}: " in told
            for network in ("MLP", "VGG-16", "ResNet-20", "ResNet-20 by epoch of spawning")
        )


def test_the_same_bytes_each_time_at_the_width_of_the_page(drawn):
    name, frame, shown = drawn
    assert getattr(plots, name)(frame).png == shown.png
    width = struct.unpack(">I", shown.png[16:20])[0]
    assert width == 1280 and len(shown.png) < 350_000
    data, metadata = shown._repr_mimebundle_()
    assert data["text/plain"] == f"<figure: {shown.alt}>" and metadata["image/png"] == {
        "width": 640,
        "alt": shown.alt,
    }


@pytest.mark.parametrize(
    "name, quantity, text",
    [
        ("llfc", "cos_ratio", lambda v: f"{v.xs(0.5, level='alpha').max():.3f} of its baseline"),
        ("additivity", "dist_add", lambda v: f"dist is {v.min():.4f} to {v.max():.4f}"),
        (
            "barrier",
            "error_barrier_chord",
            lambda v: f"{100 * v.max():.2f} points for spawned pairs",
        ),
        (
            "spawn_epoch",
            "error_barrier_chord",
            lambda v: f"0: {100 * v.xs('resnet20_cifar10_spawn_at0/0').mean():.1f}, 1: ",
        ),
        (
            "matched_curves",
            "error_on_training",
            lambda v: (
                "activation matching training error "
                f"{100 * v[v.index.get_level_values('pair').str.contains('mnist_perm_activation')].xs(0.5, level='alpha').mean():.3g} %"
            ),
        ),
        (
            "stitching",
            "stitched_error",
            lambda v: f"FC 1 {100 * v.xs('FC 1', level='site').mean():.2f}",
        ),
    ],
)
def test_the_words_hold_the_numbers(name, quantity, text):
    frame = smoke(FIGURES[name][0])
    assert text(numbers(frame, quantity)) in getattr(plots, name)(frame).alt
    changed = frame.copy()
    changed.attrs = frame.attrs
    changed.loc[changed["quantity"] == quantity, "mean"] *= 1.5
    assert getattr(plots, name)(changed).alt != getattr(plots, name)(frame).alt


@pytest.mark.parametrize(
    "name, quantity, kind, text",
    [
        (
            "barrier",
            "error",
            "rotation t=1",
            lambda v: f"rotated err {v.xs(0.0, level='alpha').min():.1f}",
        ),
        (
            "spawn_epoch",
            "error_barrier_chord",
            "rotation matched",
            lambda v: f"as far away: 0: {v.iloc[0]:.1f}",
        ),
    ],
)
def test_barriers_stand_beside_their_nulls(name, quantity, kind, text):
    frame = smoke(FIGURES[name][0])
    shown = getattr(plots, name)(frame)
    assert any("null" in label for label in shown.figure.axes[0].get_legend_handles_labels()[1])
    assert text(100 * numbers(frame, quantity, "null", kind)) in shown.alt


@pytest.mark.parametrize("name, experiment", ALL)
def test_one_pair_without_displaced_partners_can_be_drawn(name, experiment):
    frame = smoke(experiment)
    first = EXPERIMENTS[experiment].recipes[0]  # where figures show one recipe, they show this one
    one = frame[
        (frame["pair"] == min(p for p in frame["pair"] if p.startswith(f"{first}/")))
        & ~frame["kind"].str.contains("t=1| matched")
    ]
    one.attrs = frame.attrs
    shown = getattr(plots, name)(one)
    assert "1 pair)" in shown.alt and "nan" not in shown.alt and shown.png


@pytest.mark.parametrize("name, experiment", ALL)
@pytest.mark.parametrize("dropped", ["null", "control"])
def test_what_is_missing_is_said_so(name, experiment, dropped):
    frame = smoke(experiment)
    rest = frame[frame["role"] != dropped]
    rest.attrs = frame.attrs
    assert "nan" not in getattr(plots, name)(rest).alt


def test_tables_hold_the_records_numbers():
    frame = smoke("tab1")
    text = tables.stitching(frame).text
    stitched = 100 * numbers(frame, "stitched_error").xs("FC 1", level="site").xs(
        "A to B", level="direction"
    )
    assert spread(stitched) in text and "2.69" in text and "profile smoke" in text.lower()
    assert tables.llfc(smoke("fig08")).text.count("* - FC") == 3
    assert tables.commutativity(smoke("com_mlp")).text.count("* - FC") == 3
    displaced = tables.displaced(smoke("fig08")).text
    assert displaced.count("matched") == 3 and displaced.count("t=1") == 3


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    for text in (
        tables.displaced(smoke("fig08")).text,
        tables.provenance().text,
        tables.distances(smoke("lmc_mlp")).text,
    ):
        rows = text.split("\n* - ")[1:]
        assert len(rows) > 1 and len({row.count("\n  - ") for row in rows}) == 1


@pytest.mark.parametrize("experiment, sites", [("tab2", 15), ("tab3", 10)])
def test_tables_of_the_convolutional_nets_are_in_order_of_depth(experiment, sites):
    frame = smoke(experiment)
    text = tables.stitching(frame).text
    names = [row.split("\n")[0] for row in text.split("\n* - ")[2:]]
    assert (
        len(names) == 2 + sites
        and names[2] in ("Conv 1", "Conv 1-1")
        and names[-1] in ("FC 2", "Block 3-3")
    )
    assert (f"Table {experiment[-1]} of the paper" in text) and ("11.84" in text or "13.35" in text)
    raw = 100 * numbers(frame, "stitched_error", suffix="(raw)").xs(
        f"{names[2]} (raw)", level="site"
    ).xs("A to B", level="direction")
    assert spread(raw) in text.split(names[2])[1]


@pytest.mark.parametrize("experiment", ["tab1", "tab3"])
def test_the_stitched_tables_begin_with_the_errors_of_the_networks_alone(experiment):
    frame = smoke(experiment)
    error = 100 * numbers(frame, "error")
    partner = 100 * numbers(frame, "error", "null", "rotation matched").xs(0.0, level="alpha")
    independent = 100 * numbers(frame, "error", "control", "independent").xs(0.0, level="alpha")
    assert (
        len({spread(values) for values in (error.xs(0.0, level="alpha"), partner, independent)}) > 1
    )
    rows = [row.split("\n  - ") for row in tables.stitching(frame).text.split("\n* - ")[2:4]]
    for row, name, alpha in zip(rows, "AB", (1.0, 0.0), strict=True):
        assert row[0] == f"{name} alone" and row[3] == spread(error.xs(alpha, level="alpha"))
    assert rows[1][-2].strip() == spread(partner) and rows[1][-1].strip() == spread(independent)


def test_the_cost_of_stitching_stands_beside_that_of_an_independent_network():
    frame = smoke("tab3")
    stitched, error = (
        100 * numbers(frame, quantity, "control", "independent")
        for quantity in ("stitched_error", "error")
    )
    alone = error[error.index.get_level_values("alpha").isin([0.0, 1.0])].mean()
    shown = plots.excess(frame)
    told = f"{stitched.min() - alone:.0f} to {stitched.max() - alone:.0f}"
    assert (
        f"an independent network: {told};" in shown.alt
        and f"{told} points" in shown.figure.axes[0].get_title(loc="left")
    )
