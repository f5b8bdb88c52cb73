"""What a reader of a page would trip over, as a browser without a network sees it.

Each page is loaded once. The colour scheme and the width are then switched by emulation: the theme
follows the system's colour scheme while it is shown, which is checked too.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import Error, Page
from playwright.sync_api import TimeoutError as PatienceError

WIDE, NARROW = {"width": 1400, "height": 1000}, {"width": 390, "height": 844}
LOCAL = ("file:", "data:", "blob:", "about:")
KINDS = {
    "load": "the page does not open",
    "math": "mathematics that is not typeset, or typeset as an error",
    "markup": "markup shown as text",
    "image": "an image that can not be shown",
    "alt": "an image without alternative text, or with a file name for it",
    "remote": "a request that leaves this machine",
    "file": "a file that a page asks for and does not get",
    "script": "an error in JavaScript",
    "sideways": f"a page wider than a window of {NARROW['width']} pixels",
    "id": "an id that is given twice",
    "link": "a link to a page or an anchor that does not exist",
    "caption": "a number that is given twice",
    "axe": "a critical or serious violation that axe-core finds",
    "scheme": "a page that does not follow the system's colour scheme",
    "ground": "a figure that does not change with the theme, or was drawn on a dark ground",
}

# The theme's search button shows its keys next to its name ("Search Ctrl+K"), and its colour button
# shows letters of an icon font. (rule, what the element matches): nothing else is passed over.
EXCEPTIONS = (
    (
        "label-content-name-mismatch",
        "button.search-button-field.search-button__button[aria-label='Search']",
    ),
    ("label-content-name-mismatch", "button.theme-switch-button[aria-label='Color mode']"),
)
# Rules of axe-core: those that it leaves out unless asked, those that a narrow window with its
# other buttons and its scrolling tables can break by itself, and the slow one, which is needed in
# both colour schemes.
EXTRA_RULES = ("label-content-name-mismatch",)
NARROW_RULES = (
    "scrollable-region-focusable",
    "button-name",
    "link-name",
    "label-content-name-mismatch",
    "aria-hidden-focus",
)
CONTRAST = ("color-contrast",)
MARKUP = re.compile(
    "|".join(
        (
            r"\{[A-Za-z][\w:.+-]*\}`",  # a role
            r"\{(?:prf:ref|numref|eq|ref|doc|math|term|cite(?::\w+)?|glue(?::\w+)?)\}",
            r"`{3,}|:{3,}",  # a fence
            r"^[ \t]*:[a-z][a-z-]*:(?=\s|$)",  # an option of a directive
            r"\$\$|\$[^$\n]*\\[^$\n]*\$",  # dollars around mathematics
            r"\\[()\[\]]|\\[A-Za-z]{2,}",  # TeX
            r"\]\([^)\s]+\)|\*\*\w",  # Markdown
            r"&(?:lt|gt|amp|quot|nbsp|#\d+);",  # HTML
        )
    ),
    re.MULTILINE,
)
FILE_NAME = re.compile(r"\.(?:png|jpe?g|svg|gif|webp)\s*$", re.IGNORECASE)


class Findings(list[str]):
    """What is wrong with one page, each finding as "kind: detail" and once."""

    def find(self, kind: str, detail: str) -> None:
        assert kind in KINDS
        if f"{kind}: {detail}" not in self:
            self.append(f"{kind}: {detail}")


def look(page: Page, root: Path, name: str) -> tuple[Findings, dict[str, Any]]:
    """Everything that is wrong with one page of the book in ``root``, and what it shows."""
    found, facts = Findings(), {}
    try:
        with listening(page, found):
            page.set_viewport_size(WIDE)
            page.emulate_media(color_scheme="light", reduced_motion="reduce")
            page.goto((root / name).as_uri(), wait_until="load", timeout=120_000)
            page.evaluate("checks.settle()")
            facts = page.evaluate("checks.facts()")
            judge(found, facts)
            judge_images(found, facts)
            check_links(found, facts, root, root / name)
            measure(page, found)
            settle_tab_stops(page)
            page.evaluate("checks.withoutFormulae()")
            page.evaluate(Axe().axe_script)
            axe(page, found, NARROW_RULES)
            page.set_viewport_size(WIDE)
            axe(page, found)
            axe(page, found, CONTRAST)
            switch(page, found, "dark")
            axe(page, found, CONTRAST)
    except Error as error:
        found.find("load", str(error).splitlines()[0])
    return found, facts


@contextmanager
def listening(page: Page, found: Findings) -> Iterator[None]:
    """Note what a page asks for and what its scripts complain of."""

    def asked(request: Any) -> None:
        if not request.url.startswith(LOCAL):
            found.find("remote", request.url)

    def failed(request: Any) -> None:
        if request.url.startswith("file:"):
            found.find("file", f"{request.url.rpartition('/')[2]} ({request.failure})")

    def said(message: Any) -> None:
        # the browser's own line on a failed request is a finding already
        if message.type == "error" and not message.text.startswith("Failed to load resource: "):
            found.find("script", message.text[:160])

    def threw(error: Error) -> None:
        found.find("script", str(error)[:160])

    handlers = {
        "request": asked,
        "websocket": asked,
        "requestfailed": failed,
        "console": said,
        "pageerror": threw,
    }
    for event, handler in handlers.items():
        page.on(event, handler)
    try:
        yield
    finally:
        for event, handler in handlers.items():
            page.remove_listener(event, handler)


def judge(found: Findings, facts: dict[str, Any]) -> None:
    """Findings from the facts of a page by itself."""
    for text in facts["raw"] + facts["wrong"]:
        found.find("math", text)
    for text in facts["texts"]:
        if leak := MARKUP.search(text):
            found.find("markup", text[max(0, leak.start() - 20) : leak.start() + 60].strip())
    for text in facts["unresolved"]:
        found.find("markup", text)
    for identifier in facts["twice"]:
        found.find("id", identifier)
    for url in facts["hints"]:
        if not url.startswith(LOCAL):
            found.find("remote", url)
    for number, count in Counter(facts["equations"]).items():
        if count > 1:
            found.find("caption", f"equation {number}")


def judge_images(found: Findings, facts: dict[str, Any]) -> None:
    """Pictures that are not shown, or have no words."""
    for image in facts["images"]:
        name = image["source"].rpartition("/")[2][:60]
        if not image["shown"]:
            found.find("image", name)
        if not (image["alt"] or "").strip() or FILE_NAME.search(image["alt"]):
            found.find("alt", f"{name}: {image['alt']!r}")


def check_links(found: Findings, facts: dict[str, Any], root: Path, page: Path) -> None:
    """Links within the book. Those that leave it are not followed: there is no network."""
    for link in facts["links"]:
        url = urlsplit(link["meant"])
        path, anchor = Path(unquote(url.path)), unquote(url.fragment)
        inside = path == page and anchor in facts["ids"]  # some are made by a script
        if url.scheme == "file" and not inside and is_dead(root, path, anchor):
            found.find("link", link["written"])


def is_dead(root: Path, path: Path, anchor: str) -> bool:
    """Whether a link leads to no page of the book, or to no place on it."""
    if not path.is_file() or not path.is_relative_to(root):
        return True
    return bool(anchor) and path.suffix == ".html" and anchor not in anchors(path)


@cache
def anchors(path: Path) -> set[str]:
    """What a link into a page can point at."""
    page = BeautifulSoup(path.read_text(), "html.parser")
    return {tag["id"] for tag in page.select("[id]")} | {
        tag["name"] for tag in page.select("a[name]")
    }


def switch(page: Page, found: Findings, scheme: str) -> None:
    """Let the system change its colour scheme; the theme hears of it a moment later."""
    page.emulate_media(color_scheme=scheme)
    if any(finding.startswith("scheme: ") for finding in found):
        return  # waited for in vain before
    try:
        page.wait_for_function(
            "scheme => document.documentElement.dataset.theme === scheme", arg=scheme, timeout=5000
        )
    except PatienceError:
        found.find("scheme", f"not {scheme} where the system is")


def measure(page: Page, found: Findings) -> None:
    """The ground under figures in the dark, and the width of the page in a narrow window. Ends
    there, in the light.
    """
    page.evaluate("checks.unfold()")
    switch(page, found, "dark")
    for figure in page.evaluate("checks.grounds()"):
        if not (figure["light"] and figure["follows"]):
            found.find("ground", figure["source"].rpartition("/")[2][:60])
    page.set_viewport_size(NARROW)
    for scheme in ("dark", "light"):
        switch(page, found, scheme)
        if wide := page.evaluate("checks.sideways()"):
            found.find("sideways", wide)


def settle_tab_stops(page: Page) -> None:
    """Wait until code that overflows can be reached by keys: the theme sees to it some time after
    the width has changed.
    """
    with suppress(PatienceError):  # axe says which
        page.wait_for_function(
            """() => [...document.querySelectorAll("pre")].every(
            code => code.scrollWidth <= code.clientWidth || code.tabIndex >= 0)""",
            timeout=3000,
        )


def axe(page: Page, found: Findings, rules: tuple[str, ...] = ()) -> None:
    """Only ``rules``, or all but the contrast of colours."""
    arguments = {"rules": rules, "extra": EXTRA_RULES, "exceptions": EXCEPTIONS}
    for broken in page.evaluate("options => checks.runAxe(options)", arguments):
        colours = f" ({broken['colours']})" if broken["colours"] else ""
        found.find("axe", f"{broken['rule']}: {broken['selector']}{colours} {broken['html']}")
