"""Every figure of the book: described in words that hold its numbers, readable where it is shown,
drawn to the same bytes each time.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable

import numpy as np
import pytest
from llfc_book import evidence as ev
from llfc_book import show
from llfc_book.claims import ledger, rules
from llfc_book.show import b1, b2, style
from matplotlib.text import Text

from llfc_lib.figures import Shown

MODULES = [
    importlib.import_module(f"{show.__name__}.{m.name}")
    for m in pkgutil.iter_modules(show.__path__)
]
TALLEST = 6.9  # inches: no taller than a screen
SMALLEST = 7.9  # points


def drawn(module) -> list[Callable[[], Shown]]:
    """Its public functions that draw a figure from the records alone."""
    return [
        function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and not name.startswith("_")
        and inspect.signature(function).return_annotation is Shown
        and all(p.default is not p.empty for p in inspect.signature(function).parameters.values())
    ]


FIGURES = [f for module in (*MODULES, ledger) for f in drawn(module)]


@pytest.mark.parametrize(
    "function", FIGURES, ids=lambda f: f"{f.__module__.split('.')[-1]}.{f.__name__}"
)
def test_a_figure_can_be_read(function: Callable[[], Shown]):
    shown = function()
    assert len(shown.alt) > 60 and any(c.isdigit() for c in shown.alt), shown.alt
    assert "nan" not in shown.alt.lower().split()
    width, height = shown.figure.get_size_inches()
    assert width == style.WIDTH and height <= TALLEST
    assert shown.png[:4] == b"\x89PNG"  # drawn: only then all its letters are there
    letters = [t for t in shown.figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    small = {t.get_text(): t.get_fontsize() for t in letters if t.get_fontsize() < SMALLEST}
    assert not small, small


def test_there_are_figures_of_every_page():
    pages = {f.__module__.split(".")[-1] for f in FIGURES}
    assert len(FIGURES) > 15 and pages >= {"b1", "b2", "b3", "b4", "b5"}


def test_a_figure_is_the_same_to_the_byte():
    assert b2.together().png == b2.together().png


def test_its_words_follow_the_record(monkeypatch):
    before = b2.spawned().alt
    found = ev.Measured.of

    def more(self: ev.Measured, quantity: str, *rest: str, **named: str):
        return found(self, quantity, *rest, **named) * (1.5 if quantity == "1-cos_alpha" else 1)

    monkeypatch.setattr(ev.Measured, "of", more)
    assert b2.spawned().alt != before


def test_what_is_drawn_is_what_was_measured():
    """Of every connected pair its barrier and, in its panel, rho at hidden layers or the logits."""
    m = ev.best("cos_ratio", "mlp_mnist_spawn")
    rho, barrier = b2.rho(m), 100 * rules.barriers(ev.best("error", m.setting.name))
    for axis, part in zip(b2.together().figure.axes, (ev.hidden, ev.logits)):
        (drawn,) = (line for line in axis.lines if line.get_label() == style.LOOKS["pair"].label)
        known = ev.typical(part(rho))
        for pair in known.index:
            point = max(barrier[pair], 0.02), known[pair]
            assert np.isclose(drawn.get_xydata(), point).all(axis=1).any(), (pair, point)


def test_a_panel_draws_every_pair_their_mean_and_the_range_of_what_they_are_held_against():
    figure, (axis,) = style.sheet(1)
    pairs, partners = [np.array([1.0, 3.0]), np.array([])], [np.array([4.0, 5.0, 9.0]), [np.nan]]
    series = [style.Series("spread", partners, band=True), style.Series("pair", pairs)]
    words = style.panel(axis, ["FC 1", "logits"], series, "layers", mark=0.5)
    assert words == "layers: spread partner 4.0 to 9.0, the pair 1.0 to 3.0"
    drawn = {tuple(map(float, point)) for line in axis.lines[:2] for point in line.get_xydata()}
    assert drawn == {(0, 1), (0, 3), (0, 2)}
    (box,), (mean,) = axis.patches, axis.collections
    assert (box.get_y(), box.get_height()) == (4, 5) and mean.get_segments()[0][0][1] == 6


def test_one_thing_has_one_look():
    marks = [(look.colour, look.marker) for look in style.LOOKS.values()]
    assert len(set(marks)) == len(marks)


def test_every_setting_named_in_the_overview_of_barriers_has_one():
    assert {m.tag for m in b1.measured() if b1.barriers(m)["barrier"].isna().all()} == set()
    assert all(len(b1.barriers(m)) == m.pairs for m in b1.measured())
