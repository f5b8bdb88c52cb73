"""What "LLFC in ten minutes" says in numbers."""

import numpy as np

from llfc_book.findings import Found, finding
from llfc_book.show import closeness_test, front
from llfc_book.show.prose import percent

PAGE = "ten_minutes"


def _order(kind: str) -> float:
    """The power of the feature distance with which the residual grows: 1 + slope of log rho."""
    curve = front.by_kind(closeness_test.of(front.SPAWNED).rows, logits=False)[kind]
    return 1 + float(np.polyfit(np.log(curve["distance"]), np.log(curve["rho"]), 1)[0])


@finding(PAGE, "a spread step's residual is between the orders of kinks (3/2) and smoothness (2)")
def halved_spread() -> Found:
    return percent(0.5 ** _order("G")), all(1.5 <= _order(kind) <= 2 for kind in ("G", "B"))


@finding(PAGE, "a sparse step's residual is nearer to the first order than to that of kinks")
def halved_sparse() -> Found:
    return percent(0.5 ** _order("P")), 1 <= _order("P") < 1.25
