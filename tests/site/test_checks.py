"""What tests/site/checks.py finds, on small pages with one fault each, and that it finds nothing on
pages without one.
"""

import base64
import shutil
from pathlib import Path

import pytest
from checks import KINDS, look
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
# Follows the system's colours as the theme does
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
html[data-theme="light"] body {{ color: #111; background: #fff; }}
html[data-theme="light"] a {{ color: #0a4fb0; }}
html[data-theme="dark"] body {{ color: #eee; background: #111; }}
html[data-theme="dark"] a {{ color: #8cc4ff; }}
figure img {{ background: #fff; }} html[data-theme="dark"] figure img {{ filter: invert(.9); }}
.scrolls {{ overflow-x: auto; }} .wide {{ width: 600px; }}
</style>
<script>
const system = matchMedia("(prefers-color-scheme: dark)");
const follow = () => {{
    document.documentElement.dataset.theme = system.matches ? "dark" : "light";
}};
follow(); system.onchange = follow;
</script>
</head><body><main><h1>{title}</h1>
{body}
</main></body></html>
"""
MATHJAX = (
    "<script>MathJax = {options: {enableMenu: false}}</script><script"
    ' src="mathjax/tex-svg-full.js"></script>'
)
THEME_BUTTONS = (
    '<button class="btn search-button-field search-button__button" aria-label="Search">Search'
    ' <kbd>Ctrl+K</kbd></button><button class="btn theme-switch-button" aria-label="Color'
    ' mode">half</button>'
)
CELLS = "".join(f"<tr><td>{number}</td><td>words</td></tr>" for number in range(5))


def folded(body: str) -> str:
    return f"<details><summary>More</summary>{body}</details>"


CLEAN = {
    "clean": (
        '<p id="here">Words, <a href="#here">an anchor</a>, <a href="other.html#there">another</a>,'
        ' <a href="https://example.org">elsewhere</a>, a price of $5 or $6, {a, b} and a 3:1'
        " ratio.</p><pre>{ref}`x` $$ :::</pre><p><code>\\alpha **bold**</code></p>"
    ),
    "formulae": (
        MATHJAX + r'<p>Mathematics, <span class="math">\(\frac{x}{2} + \text{words}\)</span>.</p>'
        r'<div class="math">\[\begin{align*} a &amp;= \mathbb{R} \\ b &amp;= 2 \end{align*}\]</div>'
    ),
    "other": '<p id="there">There.</p>' + THEME_BUTTONS,
    "pictures": (
        '<figure><img alt="A grey square." src="pixel.png"><figcaption><span'
        ' class="caption-number">Fig. 1 </span></figcaption></figure><span'
        ' class="eqno">(1)</span><span class="eqno">(2)</span>'
    ),
    "table": (
        '<div class="scrolls" tabindex="0"><table class="wide"><caption><span'
        f' class="caption-number">Table 1 </span></caption>{CELLS}</table></div>'
        + folded("<p>More words.</p>")
    ),
}
# name: (body, the kind of all findings, words of one of them)
FAULTS = {
    "untypeset": (r'<p class="math">\(x\)</p>', "math", r"\(x\)"),
    "badtex": (MATHJAX + r'<p class="math">\(\frac{1}\)</p>', "math", "Missing argument"),
    "role": ("<p>See {prf:ref}<code>lem-sign</code>.</p>", "markup", "{prf:ref}"),
    "broken": ('<img alt="A square." src="broken.png">', "image", "broken.png"),
    "filealt": (
        '<figure><img alt="../pixel.png" src="pixel.png"></figure>',
        "alt",
        "../pixel.png",
    ),
    "remotescript": (
        '<script src="https://cdn.example.org/x.js"></script>',
        "remote",
        "cdn.example.org",
    ),
    "missing": ('<script src="nothing.js"></script>', "file", "nothing.js"),
    "throws": ('<script>throw new Error("planted")</script>', "script", "planted"),
    "sideways": ('<div class="wide first">Words</div>', "sideways", "div.wide.first"),
    "twice": ('<p id="same">One</p><p id="same">Two</p>', "id", "same"),
    "deadother": ('<a href="other.html#nowhere">There</a>', "link", "other.html#nowhere"),
    "sameequation": (
        '<span class="eqno">(1)</span><span class="eqno">(1)</span>',
        "caption",
        "equation (1)",
    ),
    "pale": (
        '<style>html[data-theme="light"] .first { color: #bbb; }</style><p class="first">Words</p>',
        "axe",
        "color-contrast: p (#bbbbbb on #ffffff",
    ),
    "dim": (
        '<style>html[data-theme="dark"] .first { color: #444; }</style><p class="first">Words</p>',
        "axe",
        "color-contrast: p (#444444 on #111111",
    ),
    "palecell": (
        f'<table>{CELLS}<tr><td>9</td><td style="color: #999">pale</td></tr>{CELLS}</table>',
        "axe",
        "#999999 on #ffffff",
    ),
    # axe can not tell what lies under the longer words, which look like the shorter ones otherwise
    "untold": (
        (
            '<style>html[data-theme="light"] p { color: #bbb; } .first::before { content: "";'
            " position: absolute; background: #fff; width: 200px; height: 40px; z-index: -1;"
            ' }</style><p class="first">Longer words than those</p><p>Words</p>'
        ),
        "axe",
        "#bbbbbb on #ffffff",
    ),
    "nameless": (
        (
            "<style>@media (min-width: 500px) { .first { display: none; } }</style><button"
            ' class="first"></button>'
        ),
        "axe",
        "button-name: button",
    ),
    "mislabelled": (
        (
            "<style>@media (max-width: 500px) { .first { display: none; } }</style>"
            '<button class="first" aria-label="Print">Save this page</button>'
        ),
        "axe",
        "label-content-name-mismatch: button",
    ),
    "dark": ('<img alt="A square." src="pixel.png">', "ground", "pixel.png"),
    "white": (
        '<img alt="A square." src="pixel.png" style="background: #fff">',
        "ground",
        "pixel.png",
    ),
    "light": ("<script>system.onchange = null</script>", "scheme", "not dark"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All the small pages."""
    folder = tmp_path_factory.mktemp("planted")
    for name, body in (CLEAN | {name: body for name, (body, _, _) in FAULTS.items()}).items():
        (folder / f"{name}.html").write_text(PAGE.format(title=f"{name} page", body=body))
    (folder / "pixel.png").write_bytes(base64.b64decode(PIXEL))
    (folder / "broken.png").write_bytes(b"no picture")
    shutil.copytree(ROOT / "book" / "_static" / "mathjax", folder / "mathjax")
    return folder


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_called_by_its_name(
    page: Page, folder: Path, name: str
) -> None:
    _, kind, words = FAULTS[name]
    found, _ = look(page, folder, f"{name}.html")
    assert {finding.partition(": ")[0] for finding in found} == {kind}, found
    assert any(words in finding for finding in found), found


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_page_is_clean(page: Page, folder: Path, name: str) -> None:
    assert look(page, folder, f"{name}.html")[0] == []


def test_a_page_that_does_not_open_is_no_clean_page(page: Page, folder: Path) -> None:
    found, _ = look(page, folder, "nowhere.html")
    assert any(finding.startswith("load: ") for finding in found)


def test_the_planted_faults_are_of_every_kind() -> None:
    assert {kind for _, kind, _ in FAULTS.values()} | {"load"} == set(KINDS)
