"""What the ledger's page says in words."""

from llfc_book.claims import ledger
from llfc_book.claims.claim import CLAIMS, FAILS, HOLDS, MOST
from llfc_book.findings import Found, finding

PAGE = "ledger"


def _held(scale: str) -> Found:
    """How many of the appendix's cells hold in all cases or in most, and how many there are."""
    answers = ledger.counts().loc["appendix", scale]
    held = answers[HOLDS] + answers[MOST]
    return {f"{scale}_hold": str(held), f"{scale}_cells": str(answers.sum())}, held > answers[FAILS]


@finding(PAGE, "at the appendix's own settings more of its claims hold than fail")
def full() -> Found:
    return _held("full")


@finding(PAGE, "at a reduced scale, too, more hold than fail")
def reduced() -> Found:
    return _held("reduced")


@finding(PAGE, "the appendix's claims are counted apart from ours")
def claims() -> Found:
    count = sum(claim.of == "appendix" for claim in CLAIMS)
    return str(count), 0 < count < len(CLAIMS)
