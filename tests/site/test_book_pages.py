"""Every page of the rendered book (`make site` first) in a browser without a network."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
from checks import is_dead, look
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "_build" / "html"
REDIRECT = re.compile(
    r"""<meta\s+http-equiv="refresh"\s+content="\d+;\s*url=([^"]+)""", re.IGNORECASE
)
#: By path below the root, the large ones first: what is a page, not the theme's own, and its text.
TEXTS = {
    path.relative_to(BOOK).as_posix(): path.read_text()
    for path in sorted(BOOK.rglob("*.html"), key=lambda path: (-path.stat().st_size, path))
    if not path.relative_to(BOOK).as_posix().startswith("_")
}
REDIRECTS = {name: found[1] for name in TEXTS if (found := REDIRECT.search(TEXTS[name][:500]))}
PAGES = [name for name in TEXTS if name not in REDIRECTS]
SMALL_WORDS = {"their", "there", "these"}

if not PAGES:
    pytest.skip("the book is not rendered: make site", allow_module_level=True)


@pytest.mark.parametrize("name", PAGES)
def test_page(page: Page, name: str) -> None:
    found, facts = look(page, BOOK, name)
    assert not found, "\n".join(found)
    # and the page was there to be looked at
    assert facts["maths"] == TEXTS[name].count("math notranslate")
    assert len(facts["images"]) >= TEXTS[name].count("<img ")


def test_every_chapter_is_there() -> None:
    chapters = {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.md")}
    assert chapters | {"notebooks/index.html", "book/api/index.html", "search.html"} <= set(PAGES)


def test_redirections_lead_somewhere() -> None:
    assert "index.html" in REDIRECTS
    for name, to in REDIRECTS.items():
        path, _, anchor = to.partition("#")
        assert not is_dead(BOOK, ((BOOK / name).parent / path).resolve(), anchor), (name, to)


def test_figures_and_tables_are_numbered_through_the_book() -> None:
    places = defaultdict(list)
    for name, text in TEXTS.items():
        for number in re.findall(r'class="caption-number">([^<]+)<', text):
            places[number.strip()].append(name)
    assert len(places) > 20
    assert not {number: names for number, names in places.items() if len(names) > 1}


def test_the_search_finds_every_page_by_the_words_of_its_title(page: Page) -> None:
    """Without a server: only titles count, as a page from disk may not fetch the others."""
    titles = {}
    for name in set(PAGES) - {"search.html"}:
        title = re.search(r"<h1>(.*?)</h1>", TEXTS[name], re.DOTALL)
        words = re.findall(r"[A-Za-z]{5,}", re.sub(r"<[^>]*>|&\w+;", " ", title[1]))
        titles[name] = {word.lower() for word in words} - SMALL_WORDS
    while any(titles.values()):
        # the word that most of the pages left have in common
        left = list(titles.values())
        word = max(sorted(set().union(*left)), key=lambda w: sum(w in words for words in left))
        wanted = sorted(name for name, words in titles.items() if word in words)
        page.goto(f"{(BOOK / 'search.html').as_uri()}?q={word}")
        arguments = [(BOOK / name).as_uri() for name in wanted]
        page.wait_for_function("pages => checks.found(pages)", arg=arguments, timeout=20_000)
        titles = {name: words for name, words in titles.items() if name not in wanted}
