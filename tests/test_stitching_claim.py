"""B.4's third answer, on partners whose excess is known."""

import numpy as np
import pandas as pd
import pytest
from llfc_book.claims import stitching
from llfc_book.claims.claim import Effect
from llfc_book.evidence import KEYS, Measured


@pytest.mark.parametrize(
    "low, high, word",
    [
        (-0.4, 0.4, "as much as tuned partners"),
        (-2.0, -0.6, "less than tuned partners"),
        (0.6, 2.0, "more than tuned partners"),
        (0.2, 2.0, "undecided"),
    ],
)
def test_the_word_follows_the_interval(low, high, word):
    assert stitching.said(Effect((low + high) / 2, "points", 4, low, high)) == word
    middle = (low + high) / 2
    alone = stitching.said(Effect(middle, "points", 1, np.nan, np.nan))
    assert alone == ("more than tuned partners" if word == "undecided" else word)


def measured() -> Measured:
    """One pair: sizes 1, 2, 4 at distances .1, .3, .2; the largest did not reach the loss."""
    lines = []
    for size, distance, excess, reached in ((1, 0.1, 0.01, 1), (2, 0.3, 0.03, 1), (4, 0.2, 9, 0)):
        lines.append(("x/0", "", size, "from A", "reached", reached))
        lines.append(("x/0", "FC 1", size, "from A", "distance", distance))
        lines += [
            ("x/0", "FC 1", size, way, "stitched_excess", excess + off)
            for way, off in (("A to B", 0.001), ("B to A", -0.001))
        ]
    rows = pd.DataFrame(lines, columns=[*KEYS, "quantity", "mean"])
    rows = rows.assign(role="null", kind="T", statistics="interpolated", alpha=rows["alpha"] * 1.0)
    return Measured(None, rows)


@pytest.mark.parametrize("target, excess", [(0.2, 0.02), (0.1, 0.01), (0.05, None), (0.4, None)])
def test_partners_that_are_good_are_read_at_the_distance_of_the_pair(target, excess):
    distance = pd.Series({("x/0", "FC 1"): target})
    found = stitching.at_distance(stitching.good(measured()), distance)["x/0", "FC 1"]
    assert np.isnan(found) if excess is None else found == pytest.approx(excess)
