"""Errata: each shows in the numbers, and would be refused if it did not."""

from types import SimpleNamespace

import numpy as np
import pytest
from llfc_book.claims import errata_checks as checks
from llfc_book.claims.errata_checks import CHECKS, DoesNotShow, readings
from llfc_book.places import ROOT
from llfc_book.show import errata

ENTRIES = {one.id: one for one in errata.errata()}
CHECKED = [one.id for one in ENTRIES.values() if one.check]


@pytest.mark.parametrize("name", CHECKED)
def test_every_check_tells_the_printed_line_from_the_corrected_one(name):
    one = ENTRIES[name]
    printed, corrected = readings(one.check)
    assert not np.isclose(printed, corrected)
    assert np.isfinite([printed, corrected]).all()
    text = one.measured()
    assert text and "{printed" not in text and "{corrected" not in text
    assert readings(one.check) == (printed, corrected)  # the same draws again


def test_every_check_belongs_to_one_entry_and_every_entry_to_a_page():
    assert sorted(one.check for one in ENTRIES.values() if one.check) == sorted(CHECKS)
    for one in ENTRIES.values():
        assert (ROOT / "notebooks" / f"{one.page}.md").exists(), one.id
        assert one.page.startswith(one.section.replace(".", "")), one.id
        assert all(text == text.strip() and text for text in (one.printed, one.stands)), one.id
        assert not one.stands.endswith("."), one.id
        assert one.consequence.endswith("."), one.id
    assert all(wrong != right for wrong, right in checks.data()["spelling"].items())


def test_the_page_has_every_entry_once_and_a_statement_always_has_numbers():
    parts = (errata.statements, errata.formulas, errata.wording)
    page = "\n".join(part().text for part in parts)
    for one in ENTRIES.values():
        assert page.count(one.follows()) == 1, one.id
        assert one.printed in page and one.stands in page, one.id
    assert {one.group for one in ENTRIES.values()} == set(errata.GROUPS)
    assert all(one.check for one in errata.of_group("statement"))
    assert not any(one.check for one in errata.of_group("wording"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"group": "statment"}, "statment"),
        ({"check": "lost_beta", "numbers": "{printed}"}, "no check 'lost_beta'"),
        ({"check": "", "numbers": "{printed}"}, "needs a text"),
        ({"check": "not_connected", "numbers": ""}, "needs a text"),
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused(monkeypatch, change, message):
    entries = checks.data()["erratum"]
    monkeypatch.setattr(errata, "data", lambda: {"erratum": [{**entries[0], **change}]})
    with pytest.raises(ValueError, match=message):
        errata.errata.__wrapped__()
    monkeypatch.setattr(errata, "data", lambda: {"erratum": entries[:1] * 2})
    with pytest.raises(ValueError, match="occurs twice"):
        errata.errata.__wrapped__()


# checks can fail


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_a_check_goes_red_where_the_printed_line_is_right_or_the_correction_wrong(
    monkeypatch, name
):
    own = CHECKS[name]
    monkeypatch.setitem(CHECKS, name, lambda _: own(True))
    with pytest.raises(DoesNotShow, match="the printed line holds"):
        readings(name)
    value, right = own(True)
    monkeypatch.setitem(CHECKS, name, lambda _: (value + 1, right))
    with pytest.raises(DoesNotShow, match="the correction does not hold"):
        readings(name)


def test_a_check_that_goes_red_stops_the_page(monkeypatch):
    own = CHECKS["second_order"]
    monkeypatch.setitem(CHECKS, "second_order", lambda _: own(True))
    with pytest.raises(DoesNotShow, match="second_order"):
        errata.statements()


NORMALISED = {"none": (True, 0.1), "batch normalisation": (True, 0.1)}


@pytest.mark.parametrize(
    "name, part, value",
    [
        ("normalisation", "construct", SimpleNamespace(normalised=lambda: NORMALISED)),
        ("second_order", "dist_com", lambda w_a, w_b, h_a, h_b: checks.dist(w_a, w_b)),
        ("easier", "square", lambda x: np.ones(len(x))),
        ("stitched_errors", "CONNECTED", 0.05),
    ],
)
def test_another_formula_or_table_is_noticed(monkeypatch, name, part, value):
    monkeypatch.setattr(checks, part, value)
    with pytest.raises(DoesNotShow, match=name):
        readings(name)
