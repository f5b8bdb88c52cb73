"""Every page within the lengths that a reader was promised."""

from pathlib import Path

import pytest
from playwright.sync_api import Page
from reading import HEAD, read

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "_build" / "html"
#: Words of visible prose that a page may have.
WORDS = {
    "index": 600,
    "ten_minutes": 1200,
    "A1_lemma": 1200,
    "A2_theorem": 1200,
    "A3_assignment": 1500,
    "B1_settings": 900,
    "B2_llfc": 900,
    "B3_commutativity": 900,
    "closeness_test": 900,
    "B4_stitching": 900,
    "B5_rebasin": 900,
    "ledger": 600,
    "errata": 700,
}
OF_B = [name for name in WORDS if name.startswith("B") or name == "closeness_test"]
NUMBERS = 14  # measured, in the prose of a page of B: four in its first minute, ten beside

if not (BOOK / "notebooks").exists():
    pytest.skip("the book is not rendered: make site", allow_module_level=True)


@pytest.mark.parametrize("name", WORDS)
def test_a_page_keeps_its_length(page: Page, name: str) -> None:
    found = read(page, BOOK, f"notebooks/{name}.html")
    print(f"\n{HEAD}\n{found.row(name)}")
    assert 100 < found.words <= WORDS[name], found
    assert not found.wide, f"{found.wide} tables are wider than the column"
    assert found.tallest <= 0.85, "a figure is taller than a screen"
    if name in OF_B:
        assert found.finding < 0.5 and found.figure < 1.2, "the finding is too far down"
        assert found.numbers <= NUMBERS, f"{found.numbers} numbers in the prose"
        assert 2 <= found.figures <= 6 and found.tables <= 4, found
