"""Tables and folded parts as MyST text, computed from records or from what was measured now."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from llfc_book.show.prose import number as number
from llfc_lib.metrics import Row


class MyST:
    """Text that a notebook shows as MyST markdown (and nbval compares as plain text)."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/markdown": self.text, "text/plain": self.text}


def table(frame: pd.DataFrame, caption: str, name: str, style: str = "") -> MyST:
    """``frame`` as a numbered table; ``name`` is its label. Cells are MyST text, ``style`` a class
    of book.css.
    """
    lines = [
        f":::{{list-table}} {caption}",
        f":name: {name}",
        ":header-rows: 1",
        f":class: {f'table-scroll {style}'.strip()}",
        "",
    ]
    for row in [list(frame.columns), *frame.itertuples(index=False)]:
        cells = [str(cell).replace("\n\n", "\n\n    ") for cell in row]
        lines += [("* - " if k == 0 else "  - ") + cell for k, cell in enumerate(cells)]
    return MyST("\n".join([*lines, ":::"]))


def folded(head: str, *parts: MyST) -> MyST:
    """``parts`` under a head that opens them."""
    inside = "\n\n".join(part.text for part in parts)
    return MyST(f":::::{{dropdown}} {head}\n{inside}\n:::::")


def measured_now(
    rows: Sequence[Row], columns: Mapping[str, str], caption: str, name: str, digits: int = 2
) -> MyST:
    """A line a site, a column a quantity (its head by ``columns``): the pair's own values, those
    that depend on alpha half-way, of one direction the first.
    """
    found = pd.DataFrame(rows)
    own = found[found["role"].eq("value") & (found["alpha"].isna() | found["alpha"].eq(0.5))]
    own = own[own["quantity"].isin([*columns])]
    wide = own.pivot_table("mean", "site", "quantity", "first", sort=False)[[*columns]]
    cells = wide.map(lambda x: "" if np.isnan(x) else number(x, digits)).rename(columns=columns)
    return table(cells.reset_index(names="layer"), caption, name)
