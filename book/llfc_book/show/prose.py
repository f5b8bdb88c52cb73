"""Numbers for the running text, so that no sentence holds a typed one: a hidden cell ends with
``findings.tell(page)``, and the text says ``{glue:text}`barrier```.
"""

from collections.abc import Iterable

import numpy as np

MIME = "application/papermill.record/"


class Told:
    """Named pieces of text, which a notebook shows nowhere but stores for the role ``glue`` of
    MyST-NB.
    """

    def __init__(self, pieces: dict[str, str]) -> None:
        self.pieces = pieces

    def _ipython_display_(self) -> None:
        from IPython.display import display  # only a notebook comes here

        for name, text in self.pieces.items():
            display(
                {f"{MIME}text/plain": repr(text)},
                raw=True,
                metadata={"scrapbook": {"name": name, "mime_prefix": MIME}},
            )


def number(value: float, digits: int = 2) -> str:
    """``value`` with ``digits`` significant digits, in plain notation from a thousandth to a
    million: "0.95", "120".
    """
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = int(np.floor(np.log10(abs(rounded))))
    if not -4 < exponent < 6:
        mantissa, power = f"{rounded:.{digits - 1}e}".split("e")
        return (
            f"{mantissa} ×"
            f" 10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
        )
    return f"{rounded:,.{max(digits - 1 - exponent, 0)}f}".replace("-", "−")


def between(values: Iterable[float], unit: str = "", digits: int = 2) -> str:
    """The smallest and the largest of ``values``: "0.55 to 1.4"; one number where both read the
    same.
    """
    found = np.asarray([*values], dtype=float)
    low, high = number(found.min(), digits), number(found.max(), digits)
    return (low if low == high else f"{low} to {high}") + unit


def percent(values: float | Iterable[float], digits: int = 2) -> str:
    """Shares as percentages: "15 to 40 %"; from 100 on to the whole percent."""
    found = 100 * np.atleast_1d(np.asarray([*values] if isinstance(values, Iterable) else values))
    ends = [number(x, digits if abs(x) < 99.5 else 3) for x in (found.min(), found.max())]
    return " to ".join(dict.fromkeys(ends)) + "\u00a0%"


def points(values: float | Iterable[float], digits: int = 2) -> str:
    """Differences of shares in percentage points: "0.29 to 0.65 points"."""
    return percent(values, digits).replace("\u00a0%", " points")


def count(found: Iterable[bool]) -> str:
    """How many of them hold: "3 of 20"."""
    held = [bool(one) for one in found]
    return f"{sum(held)} of {len(held)}"
