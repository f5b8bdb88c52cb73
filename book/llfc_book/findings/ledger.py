"""What the ledger's page says in words."""

from llfc_book.claims import ledger
from llfc_book.claims.claim import CLAIMS, FAILS, HOLDS, MOST
from llfc_book.findings import finding

PAGE = "ledger"


@finding(PAGE, "some claims of the appendix are judged at its own settings")
def full_cells() -> tuple[str, bool]:
    cells = ledger.total("appendix", "full").cells
    return str(cells), cells > 0


@finding(PAGE, "more of these hold, in every case or in most, than fail")
def full_hold() -> tuple[str, bool]:
    counts = ledger.total("appendix", "full").counts
    held = counts[HOLDS] + counts[MOST]
    return str(held), held > counts[FAILS]


@finding(PAGE, "at a reduced scale there are cells as well")
def reduced_cells() -> tuple[str, bool]:
    cells = ledger.total("appendix", "reduced").cells
    return str(cells), cells > 0


@finding(PAGE, "at a reduced scale, too, more hold than fail")
def reduced_hold() -> tuple[str, bool]:
    counts = ledger.total("appendix", "reduced").counts
    held = counts[HOLDS] + counts[MOST]
    return str(held), held > counts[FAILS]


@finding(PAGE, "the appendix's claims are counted apart from ours")
def claims() -> tuple[str, bool]:
    count = sum(claim.of == "appendix" for claim in CLAIMS)
    return str(count), 0 < count < len(CLAIMS)
