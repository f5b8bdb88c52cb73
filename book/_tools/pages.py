"""Open every page of a rendered book from disk in Chromium, with the network closed, and say what a
reader would trip over.

    python book/_tools/pages.py _build/html                      one line per page; exit code 1
    where anything was found python book/_tools/pages.py _build/html --only notebooks/B2_llfc.html
    --shots shots      with full-page pictures

Each page is loaded once. The colour scheme and the width are then switched by emulation: the theme
follows the system's colour scheme while it is shown, which is checked too. Chromium is the
system's: LLFC_CHROMIUM, or the first on the PATH.
"""

import argparse
import os
import queue
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from playwright.sync_api import BrowserContext, Error, Page, TimeoutError, sync_playwright
from playwright.sync_api import TimeoutError as PatienceError

NO_CHROMIUM = "no Chromium: apt-get install chromium"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
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
    "ground": "a figure on a dark ground",
    "search": "a page that the search does not find by a word of its title",
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
# The search does not index them
SMALL_WORDS = {"their", "there", "these"}

# MathJax has typeset all of a page once its first promise is kept. Pictures further down may wait
# for the reader.
SETTLE = """async () => {
    const late = new Promise(resolve => setTimeout(resolve, 60000));
    if (window.MathJax?.startup?.promise) await Promise.race([MathJax.startup.promise, late]);
    for (const image of document.images) image.loading = "eager";
    await Promise.race([Promise.all([...document.images].map(image => image.decode().catch(() => null))), late]);
}"""

# What a page shows, as JSON.
FACTS = r"""() => {
    const all = selector => [...document.querySelectorAll(selector)];
    const short = text => text.trim().replace(/\s+/g, " ").slice(0, 90);
    const maths = all(".math");
    const undefinedMacros = all("mjx-assistive-mml mtext").filter(text => text.textContent.trim().startsWith("\\"));
    const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const elsewhere = "pre, code, .sig, script, style, noscript, textarea, mjx-container, .math";
    for (let node; (node = walker.nextNode());) {
        if (!node.data.trim() || node.parentElement.closest(elsewhere)) continue;
        // the text of a role is code to Markdown
        texts.push(node.data + (node.nextSibling?.nodeName === "CODE" ? "`" : ""));
    }
    const ids = all("[id]").map(element => element.id);
    return {
        title: document.querySelector("h1")?.firstChild?.textContent ?? "",
        maths: maths.length,
        raw: maths.filter(math => !math.querySelector("mjx-container")).map(math => short(math.textContent)),
        wrong: [...all("mjx-merror, [data-mjx-error]"), ...undefinedMacros]
            .map(error => short(error.getAttribute("data-mjx-error") || error.textContent)),
        texts: [document.title, ...texts, ...all("[alt], [aria-label], [title]")
            .filter(element => !element.closest("mjx-container")).flatMap(element =>
                ["alt", "aria-label", "title"].map(name => element.getAttribute(name)).filter(Boolean))],
        unresolved: all(".system-message, .problematic").map(element => short(element.textContent)),
        images: [...document.images].map(image => ({source: image.getAttribute("src") ?? "", alt: image.getAttribute("alt"),
            shown: image.complete && image.naturalWidth > 0})),
        ids: [...new Set(ids)],
        twice: [...new Set(ids.filter((id, index) => ids.indexOf(id) !== index))],
        links: all("a[href], area[href]").map(link => ({written: link.getAttribute("href"),
            meant: link.href.baseVal ? new URL(link.href.baseVal, document.baseURI).href : link.href})),  // in a formula
        hints: all("link[rel~=preconnect], link[rel~=dns-prefetch]").map(link => link.href),
        captions: all(".caption-number").map(number => short(number.textContent)),
        equations: all(".eqno").map(number => short(number.firstChild?.textContent ?? "")),
    };
}"""

# Elements that stick out of the window and are not inside something that scrolls by itself; the
# innermost ones say most.
SIDEWAYS = """() => {
    const root = document.documentElement, width = window.innerWidth;
    if (root.scrollWidth <= width) return null;
    const scrolls = element => {
        for (let above = element.parentElement; above && above !== document.body; above = above.parentElement)
            if (getComputedStyle(above).overflowX !== "visible") return true;
        return false;
    };
    const wide = [...document.body.querySelectorAll("*")]
        .filter(element => element.getBoundingClientRect().right > width + 1 && !scrolls(element));
    const inner = wide.filter(element => !wide.some(other => other !== element && element.contains(other)));
    const name = ({tagName, id, classList}) =>
        tagName.toLowerCase() + (id ? "#" + id : "") + [...classList].map(word => "." + word).join("");
    return `${root.scrollWidth} pixels: ` + inner.slice(0, 3).map(name).join(", ");
}"""

# The ground under a figure is its own background, or that of what lies below it.
GROUNDS = r"""() => [...document.querySelectorAll("main img, article img, figure img")]
    .filter(image => image.naturalWidth).map(image => {
    for (let element = image; element; element = element.parentElement) {
        const [red, green, blue, alpha = 1] = getComputedStyle(element).backgroundColor.match(/[\d.]+/g).map(Number);
        if (alpha > 0.9) return {source: image.getAttribute("src"), light: Math.min(red, green, blue) >= 200};
    }
    return {source: image.getAttribute("src"), light: false};
})"""

# Whether the search shows all of these pages.
FOUND = """pages => {
    const shown = [...document.querySelectorAll("#search-results a")]
        .filter(link => link.textContent.trim()).map(link => link.href.replace(/[?#].*/, ""));
    return pages.every(page => shown.includes(page));
}"""

# What is folded is opened first, for its colours and widths count as well.
UNFOLD = """() => document.querySelectorAll("details").forEach(fold => { fold.open = true; })"""

# The thousands of elements inside formulae took axe seconds a page and hold no text for it: a box
# of the same size stands in.
WITHOUT_FORMULAE = """() => {
    const formulae = [...document.querySelectorAll("mjx-container")].map(formula => [formula, formula.getBoundingClientRect()]);
    for (const [formula, size] of formulae) {
        const box = document.createElement("span");
        box.className = "formula-box";
        box.style.cssText = `display: inline-block; width: ${size.width}px; height: ${size.height}px; vertical-align: middle`;
        formula.replaceWith(box);
    }
    document.head.insertAdjacentHTML("beforeend", "<style>.looks-alike { visibility: hidden !important; } " +
        "*, ::before, ::after { transition: none !important; animation: none !important; }</style>");
}"""

# preload: axe would fetch the style sheets, which a page from disk is not allowed to.
AXE = """async ({rules, extra, exceptions}) => {
    const contrast = rules.length === 1 && rules[0] === "color-contrast";
    const options = {preload: false, elementRef: true, resultTypes: contrast ? ["violations", "passes"] : ["violations"],
        ...(rules.length ? {runOnly: {type: "rule", values: rules}}
        : {rules: Object.fromEntries([["color-contrast", {enabled: false}], ...extra.map(rule => [rule, {enabled: true}])])})};

    // axe measures the contrast of each of a thousand table cells anew. Of the pieces of text that share their own style and
    // that of all that lies around them, the longest is enough; the others keep their place, unseen. Where axe can not tell by
    // the longest, all are shown to it.
    const unseen = element => element.classList.add("looks-alike"), seen = element => element.classList.remove("looks-alike");
    const groups = new Map(), around = new Map([[null, ""]]);
    const look = element => {
        if (!around.has(element)) {
            const style = getComputedStyle(element);
            around.set(element, look(element.parentElement) + "|" + [style.backgroundColor, style.backgroundImage, style.opacity,
                style.filter, style.mixBlendMode, style.position, style.visibility, style.textShadow]);
        }
        return around.get(element);
    };
    for (const element of contrast ? document.querySelectorAll("main *") : []) {
        const box = element.getBoundingClientRect();
        if (!element.textContent.trim() || !box.width || element.querySelector(":scope > :not(.formula-box)")) continue;
        const style = getComputedStyle(element);
        const key = [element.tagName, style.color, style.fontSize, style.fontWeight, look(element)].join();
        groups.set(key, [...(groups.get(key) ?? []), element]);
    }
    const results = [], alike = [...groups.values()].map(group => group.sort((one, other) =>
        other.textContent.trim().length - one.textContent.trim().length));
    alike.forEach(([longest, ...others]) => others.forEach(unseen));
    results.push(await axe.run(document, options));
    const told = new Set([...results[0].violations, ...results[0].passes]
        .flatMap(({nodes}) => nodes.map(({element}) => element)));
    alike.flat().forEach(seen);
    const untold = alike.filter(([longest, ...others]) => others.length && !told.has(longest)).flat();
    if (untold.length) results.push(await axe.run({include: untold}, options));

    const found = results.flatMap(({violations}) => violations)
        .filter(({impact}) => impact === "critical" || impact === "serious");
    return found.flatMap(({id, nodes}) => nodes.map(({target, html, any, element}) => {
        const colours = any.map(check => check.data).find(data => data?.contrastRatio);
        return {rule: id, selector: target.flat().join(" "), html: html.slice(0, 90),
            colours: colours ? `${colours.fgColor} on ${colours.bgColor} is ${colours.contrastRatio}` : "",
            passed: exceptions.some(([rule, allowed]) => rule === id && element?.matches(allowed))};
    })).filter(({passed}) => !passed);
}"""

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
REDIRECT = re.compile(
    r"""<meta\s+http-equiv="refresh"\s+content="\d+;\s*url=([^"]+)""", re.IGNORECASE
)


@dataclass(frozen=True, order=True)
class Finding:
    """Something wrong with a page (its path below the root of the book); ``kind`` is one of KINDS."""

    page: str
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


@dataclass
class Visit:
    """What was seen on one page."""

    page: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: Counter = field(default_factory=Counter)

    def find(self, kind: str, detail: str) -> None:
        assert kind in KINDS
        finding = Finding(self.page, kind, detail)
        if finding not in self.findings:
            self.findings.append(finding)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start


def chromium() -> str | None:
    """The system's Chromium, if there is one."""
    return os.environ.get("LLFC_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def browser() -> Iterator[BrowserContext]:
    """A browser without a network: whatever is not on this disk would have to pass a proxy where
    there is none.
    """
    executable = chromium()
    if executable is None:
        raise FileNotFoundError(NO_CHROMIUM)
    # Chromium has no sandbox for root
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--proxy-server=http://127.0.0.1:9",
        "--proxy-bypass-list=<-loopback>",
    ]
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=executable, args=arguments) as launched:
            yield launched.new_context(reduced_motion="reduce")


def targets(root: Path) -> tuple[list[str], dict[str, str]]:
    """The pages of a book, the large ones first, and its redirections."""
    pages, redirects = [], {}
    for path in sorted(root.rglob("*.html"), key=lambda path: -path.stat().st_size):
        name = path.relative_to(root).as_posix()
        stub = REDIRECT.search(path.read_text()[:500])
        if stub:
            redirects[name] = stub[1]
        elif not name.startswith("_"):  # the theme's own
            pages.append(name)
    return pages, redirects


# one page


@contextmanager
def listening(page: Page, visit: Visit) -> Iterator[None]:
    """Note what a page asks for and what its scripts complain of."""

    def asked(request: Any) -> None:
        if not request.url.startswith(LOCAL):
            visit.find("remote", request.url)

    def failed(request: Any) -> None:
        if request.url.startswith("file:"):
            visit.find("file", f"{request.url.rpartition('/')[2]} ({request.failure})")

    def said(message: Any) -> None:
        # the browser's own line on a failed request is a finding already
        if message.type == "error" and not message.text.startswith("Failed to load resource: "):
            visit.find("script", message.text[:160])

    def threw(error: Error) -> None:
        visit.find("script", str(error)[:160])

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


def judge(visit: Visit) -> None:
    """Findings from the facts of a page by itself."""
    facts = visit.facts
    for text in facts["raw"] + facts["wrong"]:
        visit.find("math", text)
    for text in facts["texts"]:
        leak = MARKUP.search(text)
        if leak:
            visit.find("markup", text[max(0, leak.start() - 20) : leak.start() + 60].strip())
    for text in facts["unresolved"]:
        visit.find("markup", text)
    for image in facts["images"]:
        name = image["source"].rpartition("/")[2][:60]
        if not image["shown"]:
            visit.find("image", name)
        if not (image["alt"] or "").strip() or FILE_NAME.search(image["alt"]):
            visit.find("alt", f"{name}: {image['alt']!r}")
    for identifier in facts["twice"]:
        visit.find("id", identifier)
    for url in facts["hints"]:
        if not url.startswith(LOCAL):
            visit.find("remote", url)
    for number, count in Counter(facts["equations"]).items():
        if count > 1:
            visit.find("caption", f"equation {number}")


def switch(page: Page, visit: Visit, scheme: str) -> None:
    """Let the system change its colour scheme; the theme hears of it a moment later."""
    page.emulate_media(color_scheme=scheme)
    if any(finding.kind == "scheme" for finding in visit.findings):
        return
    try:
        page.wait_for_function(
            "scheme => document.documentElement.dataset.theme === scheme", arg=scheme, timeout=5000
        )
    except PatienceError:
        visit.find("scheme", f"not {scheme} where the system is")


def measure(page: Page, visit: Visit) -> None:
    """The ground under figures in the dark, and the width of the page in a narrow window. Ends
    there, in the light.
    """
    page.evaluate(UNFOLD)
    switch(page, visit, "dark")
    for figure in page.evaluate(GROUNDS):
        if not figure["light"]:
            visit.find("ground", figure["source"].rpartition("/")[2][:60])
    page.set_viewport_size(NARROW)
    for scheme in ("dark", "light"):
        switch(page, visit, scheme)
        wide = page.evaluate(SIDEWAYS)
        if wide:
            visit.find("sideways", wide)


def settle_tab_stops(page: Page) -> None:
    """Wait until code that overflows can be reached by keys: the theme sees to it some time after
    the width has changed.
    """
    try:
        page.wait_for_function(
            """() => [...document.querySelectorAll("pre")].every(
            code => code.scrollWidth <= code.clientWidth || code.tabIndex >= 0)""",
            timeout=3000,
        )
    except TimeoutError:
        pass  # axe says which


def axe(page: Page, visit: Visit, rules: tuple[str, ...] = ()) -> None:
    """Only ``rules``, or all but the contrast of colours."""
    for found in page.evaluate(
        AXE, {"rules": rules, "extra": EXTRA_RULES, "exceptions": EXCEPTIONS}
    ):
        colours = f" ({found['colours']})" if found["colours"] else ""
        visit.find("axe", f"{found['rule']}: {found['selector']}{colours} {found['html']}")


def picture(page: Page, visit: Visit, folder: Path) -> None:
    """The whole page in both colour schemes at both widths."""
    stem = visit.page.removesuffix(".html").replace("/", "_")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for size in (WIDE, NARROW):
            page.set_viewport_size(size)
            page.screenshot(path=folder / f"{stem}-{scheme}-{size['width']}.png", full_page=True)


def look(page: Page, root: Path, name: str, shots: Path | None) -> Visit:
    """Everything there is to see on one page. The tab is left as empty as it was."""
    visit = Visit(name)
    try:
        with listening(page, visit):
            with visit.timed("load"):
                page.set_viewport_size(WIDE)
                page.emulate_media(color_scheme="light")
                page.goto((root / name).as_uri(), wait_until="load", timeout=120_000)
                page.evaluate(SETTLE)
            with visit.timed("facts"):
                visit.facts = page.evaluate(FACTS)
                judge(visit)
            if shots:
                with visit.timed("shots"):
                    picture(page, visit, shots)
            with visit.timed("measure"):
                measure(page, visit)
            with visit.timed("axe"):
                settle_tab_stops(page)
                page.evaluate(WITHOUT_FORMULAE)
                page.evaluate(AXE_SOURCE)
                axe(page, visit, NARROW_RULES)
                page.set_viewport_size(WIDE)
                axe(page, visit)
            with visit.timed("contrast"):
                axe(page, visit, CONTRAST)
                switch(page, visit, "dark")
                axe(page, visit, CONTRAST)
        # The theme remembers its colours, and the search its words, for the next page
        page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
        page.goto("about:blank")
    except Error as error:
        visit.find("load", str(error).splitlines()[0])
    return visit


AXE_SOURCE = (files("axe_playwright_python") / "axe.min.js").read_text()


# the book as a whole


class Anchors(HTMLParser):
    """What a link into a page can point at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {
            value
            for key, value in attrs
            if value and (key == "id" or (tag == "a" and key == "name"))
        }


def check_links(root: Path, visits: Iterable[Visit], redirects: dict[str, str]) -> list[Finding]:
    """Links within the book. Those that leave it are not followed: there is no network."""
    anchors: dict[Path, set[str]] = {}
    found = []

    def dead(path: Path, anchor: str) -> bool:
        if not path.is_file() or not path.is_relative_to(root):
            return True
        if not anchor or path.suffix != ".html":
            return False
        if path not in anchors:
            anchors[path] = Anchors(path.read_text()).names
        return anchor not in anchors[path]

    for visit in visits:
        for link in visit.facts.get("links", []):
            url = urlsplit(link["meant"])
            path, anchor = Path(unquote(url.path)), unquote(url.fragment)
            inside = (
                path == root / visit.page and anchor in visit.facts["ids"]
            )  # some are made by a script
            if url.scheme == "file" and not inside and dead(path, anchor):
                found.append(Finding(visit.page, "link", link["written"]))
    for name, to in redirects.items():
        path, _, anchor = to.partition("#")
        if dead((root / name).parent.joinpath(unquote(path)).resolve(), anchor):
            found.append(Finding(name, "link", to))
    return found


def check_captions(visits: Iterable[Visit]) -> list[Finding]:
    """Figures and tables are numbered through the book."""
    first: dict[str, str] = {}
    found = []
    for visit in sorted(visits, key=lambda visit: visit.page):
        for number in visit.facts.get("captions", []):
            if number in first:
                found.append(
                    Finding(visit.page, "caption", f"{number} (already in {first[number]})")
                )
            first.setdefault(number, visit.page)
    return found


def check_search(root: Path, visits: Iterable[Visit]) -> list[Finding]:
    """Words of the titles find their pages. Only titles count: a page from disk may not fetch the
    others for excerpts.
    """
    titles = {
        visit.page: (
            {word.lower() for word in re.findall(r"[A-Za-z]{5,}", visit.facts.get("title", ""))}
            - SMALL_WORDS
        )
        for visit in visits
        if visit.page != "search.html"
    }
    found = []
    with browser() as context:
        page = context.new_page()
        while any(titles.values()):
            # the word that most of the pages left have in common
            word = max(
                sorted(set().union(*titles.values())),
                key=lambda word: sum(word in words for words in titles.values()),
            )
            pages = sorted(name for name, words in titles.items() if word in words)
            try:
                page.goto(f"{(root / 'search.html').as_uri()}?q={word}")
                page.wait_for_function(
                    FOUND, arg=[(root / name).as_uri() for name in pages], timeout=10_000
                )
            except Error as error:
                found += [
                    Finding(name, "search", f"{word!r}: {str(error).splitlines()[0]}")
                    for name in pages
                ]
            titles = {name: words for name, words in titles.items() if name not in pages}
    return found


def visit_all(
    root: Path,
    only: Iterable[str] = (),
    shots: Path | None = None,
    workers: int = 2,
    report: Callable[[Visit], None] = lambda visit: None,
) -> list[Visit]:
    """Look at every page, or at those named, in ``workers`` browsers at a time; ``report`` hears of
    each as it is done.
    """
    root, only = root.resolve(), list(only)
    pages, redirects = targets(root)
    book = Visit(".")  # what belongs to no page
    unknown = set(only) - set(pages)
    if unknown or not pages:
        book.find("load", f"no page {', '.join(sorted(unknown)) or 'at all'} in {root.name}")
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in pages:
        if not only or name in only:
            waiting.put(name)
    if shots:
        shots.mkdir(parents=True, exist_ok=True)

    def work() -> list[Visit]:
        done: list[Visit] = []
        with browser() as context:
            page = context.new_page()
            while True:
                try:
                    visit = look(page, root, waiting.get_nowait(), shots)
                except queue.Empty:
                    return done
                if any(
                    finding.kind == "load" for finding in visit.findings
                ):  # the tab may have crashed
                    page = context.new_page()
                done.append(visit)
                report(visit)

    with ThreadPoolExecutor(workers) as pool:
        visits = [
            visit
            for future in [pool.submit(work) for _ in range(workers)]
            for visit in future.result()
        ]
    visits.sort(key=lambda visit: visit.page)
    with book.timed("search"):
        book.findings += check_search(root, visits)
    with book.timed("links"):
        book.findings += check_links(root, visits, redirects) + check_captions(visits)
    report(book)
    return [*visits, book]


def check(root: Path, only: Iterable[str] = (), workers: int = 2) -> list[Finding]:
    """All findings, by page."""
    return sorted(
        finding for visit in visit_all(root, only, workers=workers) for finding in visit.findings
    )


def show(visit: Visit) -> None:
    parts = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in visit.seconds.items())
    size = (
        f"  {visit.facts['maths']} formulae, {len(visit.facts['images'])} images"
        if visit.facts
        else ""
    )
    print(f"{'FAIL' if visit.findings else 'ok  '} {visit.page}{size}  ({parts})", flush=True)
    for finding in visit.findings:
        print(
            f"       {'' if finding.page == visit.page else finding.page + ' '}{finding}",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="the rendered book, such as _build/html")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PAGE",
        help="a page below the root; may be repeated",
    )
    parser.add_argument(
        "--shots", type=Path, metavar="DIR", help="a folder for pictures of every page"
    )
    parser.add_argument("--workers", type=int, default=2, help="browsers at a time")
    options = parser.parse_args()
    visits = visit_all(options.root, options.only, options.shots, options.workers, report=show)
    seconds = sum((visit.seconds for visit in visits), Counter())
    print("together: " + ", ".join(f"{part} {value:.0f} s" for part, value in seconds.items()))
    kinds = Counter(finding.kind for visit in visits for finding in visit.findings)
    for kind, count in sorted(kinds.items()):
        print(f"{count} x {kind}: {KINDS[kind]}")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
