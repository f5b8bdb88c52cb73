"""The ledger's arithmetic: most is most, an interval that does not say is undecided, a cell without
a reference has no third answer.
"""

import math

import numpy as np
import pandas as pd
import pytest
from llfc_book import evidence as ev
from llfc_book.claims import ledger, rules
from llfc_book.claims.claim import (
    CLAIMS,
    FAILS,
    HOLDS,
    MOST,
    ORIGINS,
    UNDECIDED,
    UNTESTED,
    Cell,
    effect,
)
from llfc_book.evidence import Measured
from llfc_book.study.settings import RECIPES, recipe

BY_ID = {claim.id: claim for claim in CLAIMS}
MLP = "mlp_mnist_spawn"


def made(lines: list[tuple], name: str = MLP) -> Measured:
    """A setting whose rows are (pair, quantity, site, alpha, mean), or with role and kind too."""
    columns = ["pair", "quantity", "site", "alpha", "mean", "role", "kind"]
    padded = [(*line, "value", "")[:5] + (line[5:] or ("value", "")) for line in lines]
    rows = pd.DataFrame(padded, columns=columns)
    rows = rows.assign(direction="", statistics="interpolated", std=np.nan, n=100.0, epoch=np.nan)
    return Measured(recipe(name, "paper"), rows.assign(alpha=rows["alpha"].fillna(-1.0)))


@pytest.fixture
def on_record(monkeypatch):
    """What records hold: by quantity (and experiment), a setting made up."""
    held: dict[str, Measured] = {}

    def best(quantity: str, name: str, record: str = "") -> Measured | None:
        return held.get(record or quantity)

    monkeypatch.setattr(ev, "best", best)
    monkeypatch.setattr(ev, "at", lambda quantity, name, profile, record="": None)
    return held


@pytest.mark.parametrize(
    "cases, share, undecided, answer",
    [
        (4, 1.0, 0.0, HOLDS),
        (4, 0.75, 0.0, MOST),
        (4, 0.5, 0.0, UNDECIDED),
        (4, 0.25, 0.0, FAILS),
        (4, 0.25, 0.5, UNDECIDED),
        (4, 0.0, 1.0, UNDECIDED),
        (0, 0.0, 0.0, UNTESTED),
    ],
)
def test_most_is_more_than_half(cases, share, undecided, answer):
    assert Cell("x", MLP, "full", 2, cases, share, undecided, ()).answer == answer


def test_every_pair_weighs_alike(on_record):
    """One pair with many layers, all near 1, does not outvote one with few that is not."""
    lines = [("x/0", "1-coef_alpha", f"FC {k}", 0.5, 0.01) for k in range(1, 10)]
    on_record["1-coef_alpha"] = made([*lines, ("x/1", "1-coef_alpha", "FC 1", 0.5, 0.5)])
    cell = rules.within(BY_ID["coefficient"], MLP)
    assert (cell.share, cell.pairs, cell.cases) == (0.5, 2, 10) and cell.answer == UNDECIDED


@pytest.mark.parametrize("off, share", [(-0.05, 1.0), (0.05, 1.0), (-0.2, 0.0), (0.2, 0.0)])
def test_close_to_1_is_within_a_tenth_on_either_side(on_record, off, share):
    on_record["1-coef_alpha"] = made([("x/0", "1-coef_alpha", "FC 1", 0.5, off)])
    assert rules.within(BY_ID["coefficient"], MLP).share == share


def test_the_effect_of_the_cosine_is_a_plain_distance_half_way_layers_and_logits_apart(on_record):
    values = [("FC 1", 0.5, 0.04), ("logits", 0.5, 0.25), ("FC 1", 0.25, 0.9)]
    lines = [(f"x/{k}", "cos_ratio", site, alpha, v) for k in range(3) for site, alpha, v in values]
    on_record["cos_ratio"] = made(lines)
    hidden, logits = rules.within(BY_ID["cosine"], MLP).effects
    assert (hidden.value, logits.value) == (pytest.approx(0.2), pytest.approx(0.5))
    assert hidden.unit == "share of the distance, hidden layers" and hidden.n == 3
    assert rules.within(BY_ID["cosine"], MLP).closeness == ""  # nothing to hold it against


@pytest.mark.parametrize(
    "spread, sparse, word",
    [
        (0.3, 0.3, "hidden layers: as linear"),
        (0.6, 0.6, "hidden layers: more linear"),
        (0.15, 0.15, "hidden layers: less linear"),
        (0.15, 0.6, "hidden layers: between spread and sparse (2.00 of spread, 0.50 of sparse)"),
        (0.0, None, ""),
    ],
)
def test_the_third_answer_is_beside_both_kinds_of_partner(on_record, spread, sparse, word):
    lines = []
    for k in range(4):
        lines.append((f"x/{k}", "rho", "FC 1", np.nan, 0.3))
        for kind, value in (("spread", spread), ("sparse", sparse)):
            if value:  # a partner that is the same function has no rho: it earns nothing
                lines.append((f"x/{k}", "rho", "FC 1", np.nan, value, "null", kind))
    on_record["closeness"] = made(lines)
    assert rules._beside_partners(MLP) == word


@pytest.mark.parametrize(
    "logs, word",
    [
        ([0.0, 0.01, -0.01], "as linear"),
        ([0.4, -0.4, 0.4], "undecided"),
        ([-0.5, -0.51, -0.49], "more linear"),
        ([0.5], "less linear"),
    ],
)
def test_an_interval_that_holds_the_margin_is_undecided(logs, word):
    assert rules.compared(np.array(logs)) == word


@pytest.mark.parametrize(
    "lower, upper, expected",
    [(0.001, 0.02, True), (0.021, 0.03, False), (0.015, 0.025, None), (0.02, 0.021, None)],
)
def test_connected_is_what_its_interval_says(monkeypatch, lower, upper, expected):
    """And where there is none, what the barrier itself says."""
    line = [(f"x/{k}", "error", "", alpha, e) for k in range(2) for alpha, e in LINE.items()]
    limits = made(
        [
            ("x/0", "error_barrier_lower", "", np.nan, lower),
            ("x/0", "error_barrier_upper", "", np.nan, upper),
        ]
    )
    monkeypatch.setattr(ev, "at", lambda *where: limits)
    found = rules.verdicts(made(line))
    assert found["x/0"] is expected and found["x/1"] is False


LINE = {0.0: 0.10, 0.25: 0.30, 0.5: 0.20, 1.0: 0.14}


def test_a_barrier_is_the_largest_error_less_the_mean_of_the_ends():
    m = made([("x/0", "error", "", alpha, error) for alpha, error in LINE.items()])
    assert rules.barriers(m)["x/0"] == pytest.approx(0.18)


def test_only_connected_pairs_are_asked_for_llfc(on_record, monkeypatch):
    lines = [(f"x/{k}", "cos_ratio", "FC 1", 0.5, 0.05 if k == 0 else 0.5) for k in range(2)]
    on_record["cos_ratio"] = made(lines)
    for linked, share in (({"x/0": True, "x/1": None}, 1.0), ({"x/0": True, "x/1": True}, 0.5)):
        monkeypatch.setattr(rules, "barrier_of", lambda name: made([]))
        monkeypatch.setattr(rules, "verdicts", lambda m, linked=linked: pd.Series(linked))
        assert rules.cooccurs(BY_ID["cooccurs"], MLP).share == share


def test_the_interval_of_an_effect_is_students_on_the_logarithm():
    one = effect([1.0, math.e, math.e**2], "")
    half = 4.302653 / math.sqrt(3)  # t of 2 degrees of freedom, s = 1
    assert (one.value, one.n) == (pytest.approx(math.e), 3)
    assert (one.low, one.high) == (
        pytest.approx(math.exp(1 - half)),
        pytest.approx(math.exp(1 + half)),
    )
    assert math.isnan(effect([1.0, 2.0], "").low)
    with pytest.raises(ValueError, match="no geometric mean"):
        effect([0.0, 1.0, 2.0], "")


def test_claims_name_rules_pages_and_settings_that_there_are():
    assert len(CLAIMS) <= 22 and len(rules.RULES) <= 12
    assert {claim.rule for claim in CLAIMS} == set(rules.RULES)
    for claim in CLAIMS:
        assert claim.of in ORIGINS and set(rules.settings_of(claim)) <= set(RECIPES)
        assert (ev.records.RECORDS.parents[1] / "notebooks" / f"{claim.page}.md").exists()


def test_totals_count_the_appendix_apart_from_our_questions():
    found, counts = rules.judged(), ledger.counts()
    assert counts.to_numpy().sum() == len(found) and set(ledger.ORIGIN) == set(ORIGINS)
    own = {claim.id for claim in CLAIMS if claim.of != "appendix"}
    assert counts.loc["appendix"].to_numpy().sum() == sum(key[0] not in own for key in found)
    assert set(counts.index.unique("scale")) == {"full", "reduced"}
    full = [cell for key, cell in found.items() if key[0] not in own and cell.scale == "full"]
    assert counts.loc["appendix", "full"][FAILS] == sum(cell.answer == FAILS for cell in full)


def test_a_figure_is_at_the_least_scale_of_its_settings_and_a_section_in_part():
    scales = ("full", "missing", "reduced")
    assert ledger.Printed("Figure 1", "", "", scales).state == "missing"
    assert ledger.Printed("Figure 1", "", "", scales[::2]).state == "reduced"
    assert ledger.Printed("Settings (B.1)", "", "", scales).state == ledger.PART


def test_what_is_missing_is_not_shown_as_here():
    by_name = {p.name: p for p in ledger.printed()}
    assert {f"Figure {k}" for k in (*range(8, 19), 21, 22)} <= set(by_name)
    assert {"Table 1", "Table 2", "Table 3", "Figure 19, spawned", "Figure 20, MLPs"} <= set(
        by_name
    )
    # nothing at the appendix's width is on record, so these can not be here
    assert by_name["Figure 15"].state == "missing" and by_name["Figure 15"].instead
    assert by_name["Figure 8"].state == "full" and "missing" in ledger.coverage().text


def test_a_narrow_stand_in_is_judged_only_where_its_pairs_are_connected(monkeypatch):
    name = "resnet20x0.25_cifar10_perm_weight"
    assert ev.stands_in(RECIPES[name]) and not ev.stands_in(RECIPES[MLP])
    rules._tests.cache_clear()
    for linked, there in ((True, True), (False, False), (None, False)):
        monkeypatch.setattr(rules, "verdicts", lambda m, linked=linked: [linked])
        rules._tests.cache_clear()
        assert (name in rules.settings_of(BY_ID["cosine"])) is there
    rules._tests.cache_clear()
