"""Curves whose answer is known, and what the predictions say of them."""

import math

import numpy as np
import pandas as pd
import pytest
from llfc_book.claims import predictions
from llfc_book.claims.predictions import Cell, compared, connection, curves, holm, verdicts

SITES = ("FC 1", "FC 2", "logits")


def rows(factors: dict[str, float], pairs: int = 4, noise: float = 0.01) -> pd.DataFrame:
    """rho = factor * distance^0.8 for every kind, at other sizes of step for each."""
    rng, found = np.random.default_rng(0), []
    for k in range(pairs):
        for kind, factor in factors.items():
            for end in ("from A", "from B"):
                for site in SITES[: 2 if kind == "P" else 3]:
                    for size in (0.25, 0.5, 1.0, 2.0):
                        if kind == "B" and size > 1:
                            continue
                        distance = 0.1 * size * (1.0 if kind == "B" else 1.7)
                        rho = factor * distance**0.8 * math.exp(noise * rng.standard_normal())
                        for quantity, value in (("distance", distance), ("rho", rho)):
                            found.append((f"x/{k}", kind, end, site, size, quantity, value))
    columns = ["pair", "kind", "direction", "site", "alpha", "quantity", "mean"]
    return pd.DataFrame(found, columns=columns)


@pytest.mark.parametrize(
    "factors, words",
    [
        ({"B": 1.0, "T": 1.1, "N": 0.95, "G": 1.05, "P": 2.0}, ("holds", "fails", "holds")),
        ({"B": 1.0, "T": 2.0, "N": 2.0, "G": 2.0, "P": 2.0}, ("fails", "holds", "fails")),
        ({"B": 1.0, "T": 1.0, "N": 2.0, "G": 1.0, "P": 1.0}, ("undecided", "fails", "fails")),
    ],
)
def test_what_the_predictions_say_of_curves_that_are_known(factors, words):
    assert tuple(v.word for v in verdicts(rows(factors))) == words


def test_the_ratio_is_read_at_equal_distance():
    cells = compared(curves(rows({"B": 1.0, "T": 1.3}, noise=0.0)), "B", "T")
    assert {cell.site for cell in cells} == set(SITES) and {cell.n for cell in cells} == {4}
    for cell in cells:
        assert cell.ratio == pytest.approx(1 / 1.3)
        assert cell.distance == pytest.approx(0.1 * cell.size)
    # T's nearest point is too far for B's first
    assert {cell.size for cell in cells} == {0.5, 1.0}


@pytest.mark.parametrize(
    "low, high, alike, below",
    [
        (0.9, 1.1, True, False),
        (0.5, 0.7, False, True),
        (1.3, 1.5, False, False),
        (0.7, 1.0, None, None),
    ],
)
def test_an_interval_that_holds_the_margin_says_nothing(low, high, alike, below):
    cell = Cell("B", "T", "FC 1", 1.0, 0.1, 1.0, low, high, 3)
    assert (cell.alike(), cell.below()) == (alike, below)


def test_fewer_than_three_pairs_have_no_cells():
    assert compared(curves(rows({"B": 1.0, "T": 1.0}, pairs=2)), "B", "T") == []
    assert {v.word for v in verdicts(rows({"B": 1.0, "T": 1.0}, pairs=2))} == {"not tested"}


def test_headlines_are_tested_with_holms_p_values():
    found = predictions.tested(curves(rows({"B": 1.0, "T": 1.3, "G": 1.0, "P": 1.5}, pairs=8)))
    assert [h for h, *_ in found] == list(predictions.HEADLINES)
    for headline, ratio, low, high, p in found:
        truth = {"T": 1 / 1.3, "G": 1.0, "P": 1 / 1.5}[headline.second]
        assert low < truth < high and ratio == pytest.approx(truth, rel=0.02)
        assert p < 1e-6 if headline.second != "G" else p > 0.05
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_factor_of_connection_is_found_beside_distance():
    rng, found = np.random.default_rng(0), []
    for k in range(12):
        linked = k % 2 == 0
        for site, slope in (("FC 1", 0.5), ("FC 2", 1.0)):
            distance = float(np.exp(rng.uniform(-2, 0)))
            rho = (
                distance**slope * (0.6 if linked else 1.0) * math.exp(0.02 * rng.standard_normal())
            )
            found.append((f"x/{k}", site, distance, rho, linked, (f"{k}A", f"{k}B")))
    columns = ["pair", "site", "distance", "rho", "connected", "networks"]
    points = pd.DataFrame(found, columns=columns)
    told = connection(points)
    assert told.low < 0.6 < told.high < 1 and told.word == "holds"
    assert (told.pairs, told.connected) == (12, 6)
    assert connection(points.assign(rho=points["distance"])).word == "undecided"
    # without the others, with too few of them, or where all of them are farther away
    few = points[points["connected"] | points["pair"].isin(["x/1", "x/3"])]
    far = points.assign(distance=points["distance"] * np.where(points["connected"], 1, 100))
    for some in (points[points["connected"]], few, far):
        assert connection(some).word == "not tested"


def test_tuned_partners_most_of_whose_way_is_training_are_left_out():
    columns = ["pair", "direction", "site", "size", "kind", "distance", "rho"]
    told = [("x/0", "from A", "FC 1", size) for size in (1.0, 2.0)]
    step = [(*where, "G", 0.1, 0.1) for where in told]
    tuned = [(*told[0], "T", 0.15, 0.1), (*told[1], "T", 0.139, 0.1)]  # 0.1 * sqrt(2) = 0.1414
    kept = predictions.mostly_random(pd.DataFrame([*step, *tuned], columns=columns))
    assert kept[kept["kind"] == "T"]["size"].tolist() == [2.0] and len(kept) == 3


def test_a_partner_is_connected_and_linear_by_its_own_numbers():
    def lines(end: str, kind: str, error: float, middle: float, rho: float) -> list[tuple]:
        where = ("x/0", kind, end, 1.0)
        numbers = {"partner_error": error, "middle_error": middle}
        deep = [(*where, "FC 1", "rho", rho), (*where, "logits", "rho", 9.0)]
        return [(*where, "", quantity, value) for quantity, value in numbers.items()] + deep

    # A errs 10 %, B 2 %
    told = lines("from A", "B", 0.02, 0.05, 0.3) + lines("from B", "B", 0.10, 0.05, 0.3)
    told += lines("from A", "P", 0.10, 0.119, 0.33) + lines("from B", "G", 0.02, 0.041, 0.31)
    columns = ["pair", "kind", "direction", "alpha", "site", "quantity", "mean"]
    found = predictions.partners(pd.DataFrame(told, columns=columns)).set_index("kind")
    assert found.loc["B", "connected"].all() and found.loc["B", "linear"].all()
    assert found.loc["P", ["connected", "linear"]].tolist() == [True, False]  # 1.9 points
    assert found.loc["G", ["connected", "linear"]].tolist() == [False, True]  # 2.1 points
