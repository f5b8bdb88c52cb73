"""What the ledger's page says in words."""

from llfc_book.claims import ledger
from llfc_book.claims.claim import CLAIMS, FAILS, HOLDS, MOST
from llfc_book.findings import Found, finding

PAGE = "ledger"


@finding(PAGE, "of the appendix's claims, counted apart, more hold than fail, at either scale")
def cells() -> Found:
    counts = ledger.counts().loc["appendix"]
    held = counts[HOLDS] + counts[MOST]
    told = {f"{scale}_hold": str(held[scale]) for scale in counts.index}
    told |= {f"{scale}_cells": str(counts.loc[scale].sum()) for scale in counts.index}
    own = sum(claim.of == "appendix" for claim in CLAIMS)
    return told | {"claims": str(own)}, (held > counts[FAILS]).all() and own < len(CLAIMS)
