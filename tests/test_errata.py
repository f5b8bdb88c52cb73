"""Errata: every check says what its list says, and would be refused if it did not."""

from dataclasses import replace

import numpy as np
import pytest
from llfc_book.claims import errata
from llfc_book.claims.errata import (
    ERRATA,
    STANDING,
    Erratum,
    Evidence,
    Mistaken,
    Standing,
    confirm,
    examples,
    listing,
    standing,
)

by_id = {item.id: item for item in (*ERRATA, *STANDING)}
assert len(by_id) == len(ERRATA) + len(STANDING)


@pytest.mark.parametrize("name", by_id)
def test_errata_fail_as_printed_hold_as_corrected_and_what_was_found_right_holds(name):
    found = confirm(by_id[name])
    assert found.numbers and found.holds_corrected is not False
    assert found.holds_as_printed == (name in {item.id for item in STANDING})


def planted(printed: bool, corrected: bool | None) -> Erratum:
    return replace(ERRATA[0], id="planted", check=lambda: Evidence(printed, "1 = 1", corrected))


@pytest.mark.parametrize(
    "printed, corrected, message",
    [
        (True, True, "'planted': it holds as printed"),
        (True, None, "it holds as printed"),
        (False, False, "the correction fails"),
    ],
)
def test_a_planted_erratum_stops_the_page(monkeypatch, printed, corrected, message):
    monkeypatch.setattr(listing, "ERRATA", [planted(printed, corrected)])
    with pytest.raises(Mistaken, match=message):
        errata.errata_table("A.1")


def test_a_wrong_thing_found_right_stops_the_page(monkeypatch):
    monkeypatch.setattr(
        listing,
        "STANDING",
        [Standing("planted", "A.1", "1 = 2", lambda: Evidence(False, "1 and 2"), "ledger")],
    )
    with pytest.raises(Mistaken, match="'planted' does not hold as printed"):
        errata.standing_table()


# checks can fail: break what they look at


AGREES = replace(examples.RECIPES["resnet20x32_cifar10_perm"], warmup=5, weight_decay=1e-4)
FIGURE_20 = ("singular values", {("ResNet-20 (1x), CIFAR-10", "weight")})
FIGURE_12 = ("LLFC", {(examples.MNIST, "activation")})


@pytest.mark.parametrize(
    "erratum, module, name, value",
    [
        ("missing_figure", examples, "CAPTIONS", {**examples.CAPTIONS, 20: FIGURE_20}),
        ("figures_of_llfc", examples, "CAPTIONS", {**examples.CAPTIONS, 12: FIGURE_12}),
        ("not_so_strictly", examples, "RECIPES", {**examples.RECIPES, AGREES.name: AGREES}),
        ("stable_rank_formula", standing, "stable_rank", lambda matrix: 2.0),
    ],
)
def test_another_figure_setting_or_formula_is_found(monkeypatch, erratum, module, name, value):
    monkeypatch.setattr(module, name, value)
    with pytest.raises(Mistaken, match=erratum):
        confirm(by_id[erratum])


def test_the_exact_pair_is_a_pair_of_different_networks():
    x, nets = examples.exact_pair()
    a, b = (examples.forward(nets[name], x) for name in "AB")
    assert all(np.abs(one - other).max() > 0.05 for one, other in zip(a[1:], b[1:]))
    assert all(np.abs(one[0] - other[0]).max() > 0.05 for one, other in zip(nets["A"], nets["B"]))


@pytest.mark.parametrize(
    "name", ["definition_4", "squares", "subsequently_last", "equation_10", "theorem_1"]
)
def test_the_proof_fails_without_commutativity(monkeypatch, name):
    x, nets = examples.exact_pair()
    nets["B"][1][0][0, 0] += 0.5  # a weight that sees the difference of the features
    monkeypatch.setattr(examples, "exact_pair", lambda: (x, nets))
    with pytest.raises(Mistaken, match=name):
        confirm(by_id[name])


@pytest.mark.parametrize(
    "name", ["definition_3", "additivity_for_all_alpha", "equation_10", "theorem_1"]
)
def test_the_proof_fails_without_weak_additivity(monkeypatch, name):
    x, nets = examples.exact_pair()
    nets["B"][1][1][2] -= (
        100.0  # a bias: the unit is silent in B alone, and commutativity is not touched
    )
    monkeypatch.setattr(examples, "exact_pair", lambda: (x, nets))
    with pytest.raises(Mistaken, match=name):
        confirm(by_id[name])
    assert confirm(by_id["affine_in_weights"]).holds_as_printed


def test_networks_alike_are_as_far_apart_as_asked_and_know_nothing_of_each_other():
    w_a, w_b, h_a, h_b = examples.alike(0.1, "a test", units=60)

    def cosine(x: np.ndarray, y: np.ndarray) -> float:
        return float((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))

    assert all(abs(1 - cosine(a, b) - 0.1) < 0.01 for a, b in ((w_a, w_b), (h_a, h_b)))
    assert all(
        abs(cosine(x, y)) < 0.1
        for x, y in ((w_a, h_a), (w_a - w_b, h_a - h_b), (w_a + w_b, w_a - w_b))
    )
