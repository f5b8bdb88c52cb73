"""One measured number."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """``mean`` of ``quantity`` with its ``std`` over ``n`` images (or draws, for displaced
    partners).

    ``alpha`` is the share of network A. ``direction`` "A to B" is the bottom of A under the top of
    B. ``statistics`` says whether running statistics were "interpolated" or "recomputed". ``role``
    is "value", "null" or "control" and ``kind`` which one. Errors are fractions, losses nats.
    """

    quantity: str
    mean: float
    std: float | None = None
    n: int | None = None
    site: str = ""
    alpha: float | None = None
    direction: str = ""
    statistics: str = "interpolated"
    role: str = "value"
    kind: str = ""
    epoch: int | None = None
