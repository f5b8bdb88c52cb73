"""Figures and tables: words and cells that hold the records' numbers, the same bytes each time."""

from functools import cache

import pandas as pd
import pytest
from llfc_book import records
from llfc_book.claims.verdicts import numbers, spread
from llfc_book.show import plots, tables
from llfc_book.study.catalogue import EXPERIMENTS

#: A perceptron's record first, a convolutional network's, and one after matching.
FIGURES = {
    "llfc": ("fig08", "fig10", "fig12"),
    "commutativity": ("com_mlp", "com_resnet20", "fig17"),
    "additivity": ("com_mlp", "com_resnet20"),
    "stitching": ("tab1", "tab3", "stitch_perm"),
    "barrier": ("lmc_mlp", "lmc_vgg16", "lmc_perm"),
    "training": ("train_mlp", "train_resnet20"),
    "transfer": ("tab2",),
    "excess": ("tab2",),
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
ALL = [(name, experiment) for name, experiments in FIGURES.items() for experiment in experiments]


@cache
def smoke(experiment: str) -> pd.DataFrame:
    """Read once; nobody writes to it."""
    return records.load(experiment, "smoke").frame()


@pytest.mark.parametrize("name", ["llfc", "barrier", "stitching"])
def test_the_same_bytes_each_time_and_the_words_beside_them(name):
    frame = smoke(FIGURES[name][0])
    shown = getattr(plots, name)(frame)
    assert getattr(plots, name)(frame).png == shown.png
    data, metadata = shown._repr_mimebundle_()
    assert data["text/plain"] == f"<figure: {shown.alt}>"
    assert metadata["image/png"]["alt"] == shown.alt


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
    ],
)
def test_the_words_hold_the_numbers(name, quantity, text):
    frame = smoke(FIGURES[name][0])
    assert text(numbers(frame, quantity)) in getattr(plots, name)(frame).alt
    changed = frame.copy()
    changed.attrs = frame.attrs
    changed.loc[changed["quantity"] == quantity, "mean"] *= 1.5
    assert getattr(plots, name)(changed).alt != getattr(plots, name)(frame).alt


@pytest.mark.parametrize("name, experiment", ALL)
def test_one_pair_without_displaced_partners_and_without_control_can_be_drawn(name, experiment):
    frame = smoke(experiment)
    first = EXPERIMENTS[experiment].recipes[0]  # where figures show one recipe, they show this one
    one = frame[
        (frame["pair"] == min(p for p in frame["pair"] if p.startswith(f"{first}/")))
        & ~frame["kind"].str.contains("t=1| matched")
        & (frame["role"] != "control")
    ]
    one.attrs = frame.attrs
    shown = getattr(plots, name)(one)
    assert "1 pair)" in shown.alt and "nan" not in shown.alt and shown.png


def test_tables_hold_the_records_numbers():
    frame = smoke("tab1")
    text = tables.stitching(frame).text
    stitched = 100 * numbers(frame, "stitched_error").xs("FC 1", level="site").xs(
        "A to B", level="direction"
    )
    assert spread(stitched) in text and "2.69" in text  # the paper's


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
