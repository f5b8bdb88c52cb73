"""Every page of the book in a browser without a network: the book itself, and small pages with one
fault each.
"""

import base64
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "book" / "_tools"


def tool(name: str) -> ModuleType:
    """A module of book/_tools, whose names are those of modules elsewhere."""
    spec = importlib.util.spec_from_file_location(f"book_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pages = tool("pages")
if pages.chromium() is None:
    pytest.skip(pages.NO_CHROMIUM, allow_module_level=True)


# the book


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The tracked book, rendered apart from the checkout, and what there is to see on its pages."""
    folder = tmp_path_factory.mktemp("book")
    for name in ("_config.yml", "_toc.yml", "book", "notebooks", "llfc_lib"):
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        site = tool("site")
        assert site.build(site.stage(folder, None), folder / "rendered") == 0
    return pages.visit_all(folder / "rendered" / "_build" / "html")


@pytest.mark.parametrize("kind", pages.KINDS)
def test_the_book_is_free_of(book, kind):
    found = [
        f"{finding.page}: {finding.detail}"
        for visit in book
        for finding in visit.findings
        if finding.kind == kind
    ]
    assert not found, f"{pages.KINDS[kind]}\n" + "\n".join(found)


def test_every_chapter_was_looked_at(book):
    seen = {visit.page: visit.facts for visit in book}
    chapters = {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.md")}
    assert chapters | {"book/index.html", "search.html"} <= set(seen)
    assert sum(facts.get("maths", 0) for facts in seen.values()) > 100
    for part in ("images", "captions", "links", "ids", "texts"):
        assert sum(len(facts.get(part, [])) for facts in seen.values()) > 20, part


# planted faults

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
# Follows the system's colours as the theme does
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
html[data-theme="light"] body {{ color: #111; background: #fff; }} html[data-theme="light"] a {{ color: #0a4fb0; }}
html[data-theme="dark"] body {{ color: #eee; background: #111; }} html[data-theme="dark"] a {{ color: #8cc4ff; }}
figure img {{ background: #fff; }} .scrolls {{ overflow-x: auto; }} .wide {{ width: 600px; }}
</style>
<script>
const system = matchMedia("(prefers-color-scheme: dark)");
const follow = () => {{ document.documentElement.dataset.theme = system.matches ? "dark" : "light"; }};
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
SEARCH = """<ul id="search-results"></ul><script>
const word = new URLSearchParams(location.search).get("q"), titles = %s;
for (const [page, title] of Object.entries(titles))
    if (word && title.includes(word))
        document.getElementById("search-results").innerHTML += `<li><a href="${page}">${title}</a></li>`;
</script>"""
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
# name: (body, the kinds of all findings, words of one of them)
FAULTS = {
    "untypeset": (r'<p class="math">\(x\)</p>', {"math"}, r"\(x\)"),
    "nomathjax": (
        r'<p class="math">\(x\)</p><script src="nothing.js"></script>',
        {"math", "file"},
        "nothing.js",
    ),
    "macro": (MATHJAX + r'<p class="math">\(\nosuchmacro\)</p>', {"math"}, r"\nosuchmacro"),
    "badtex": (MATHJAX + r'<p class="math">\(\frac{1}\)</p>', {"math"}, "Missing argument"),
    "role": ("<p>See {prf:ref}<code>lem-sign</code>.</p>", {"markup"}, "{prf:ref}"),
    "ownrole": ("<p>See {own}<code>words</code>.</p>", {"markup"}, "{own}"),
    "glue": ("<p>It is {glue:text} of it.</p>", {"markup"}, "{glue:text}"),
    "fence": ("<p>Words\n:::{note}</p>", {"markup"}, ":::{note}"),
    "backticks": ("<p>```{note} of</p>", {"markup"}, "```{note}"),
    "option": ("<p>Words\n:nonumber:\nwords</p>", {"markup"}, ":nonumber:"),
    "dollars": ("<p>So $$x$$.</p>", {"markup"}, "$$x$$"),
    "dollar": (r"<p>So $x^\top$.</p>", {"markup"}, r"$x^\top$"),
    "texalt": (
        r'<figure><img alt="Error over \alpha." src="pixel.png"></figure>',
        {"markup"},
        r"\alpha",
    ),
    "unresolved": ('<p><span class="problematic">words</span></p>', {"markup"}, "words"),
    "markdown": ("<p>See [there](there.md).</p>", {"markup"}, "](there.md)"),
    "escaped": ("<p>So a &amp;lt; b.</p>", {"markup"}, "&lt;"),
    "broken": ('<img alt="A square." src="broken.png">', {"image"}, "broken.png"),
    "missing": ('<img alt="A square." src="nothing.png">', {"image", "file"}, "nothing.png"),
    "altless": (
        '<figure><img src="pixel.png" role="presentation"></figure>',
        {"alt"},
        "pixel.png: None",
    ),
    "emptyalt": (
        '<figure><img alt="" src="pixel.png" role="presentation"></figure>',
        {"alt"},
        "pixel.png",
    ),
    "filealt": (
        '<figure><img alt="../pixel.png" src="pixel.png"></figure>',
        {"alt"},
        "../pixel.png",
    ),
    "remotescript": (
        '<script src="https://cdn.example.org/x.js"></script>',
        {"remote"},
        "cdn.example.org",
    ),
    "remoteimage": (
        '<img alt="A square." src="http://127.0.0.1:80/x.png">',
        {"remote", "image"},
        "127.0.0.1",
    ),
    "remotefetch": (
        '<script>fetch("https://example.org/x").catch(() => 0)</script>',
        {"remote"},
        "example.org",
    ),
    "remotehint": (
        '<link rel="preconnect" href="https://fonts.example.org">',
        {"remote"},
        "fonts.example.org",
    ),
    "throws": ('<script>throw new Error("planted")</script>', {"script"}, "planted"),
    "complains": ('<script>console.error("planted")</script>', {"script"}, "planted"),
    "rejects": ('<script>Promise.reject(new Error("planted"))</script>', {"script"}, "planted"),
    "sideways": ('<div class="wide first">Words</div>', {"sideways"}, "div.wide.first"),
    "foldedwide": (folded('<div class="wide first">Words</div>'), {"sideways"}, "div.wide.first"),
    "darkwide": (
        (
            '<style>html[data-theme="dark"] .first { width: 600px; }</style><div'
            ' class="first">Words</div>'
        ),
        {"sideways"},
        "div.first",
    ),
    "twice": ('<p id="same">One</p><p id="same">Two</p>', {"id"}, "same"),
    "deadpage": ('<a href="nowhere.html">There</a>', {"link"}, "nowhere.html"),
    "deadanchor": ('<a href="#nowhere">There</a>', {"link"}, "#nowhere"),
    "deadother": ('<a href="other.html#nowhere">There</a>', {"link"}, "other.html#nowhere"),
    "deadformula": (
        (
            '<svg width="90" height="20"><a href="#nowhere"><text y="15"'
            ' fill="#777">There</text></a></svg>'
        ),
        {"link"},
        "#nowhere",
    ),
    "outside": (f'<a href="{TOOLS.as_uri()}/pages.py">There</a>', {"link"}, "pages.py"),
    "samecaption": (
        '<span class="caption-number">Fig. 2 </span> <span class="caption-number">Fig. 2</span>',
        {"caption"},
        "Fig. 2",
    ),
    "theircaption": (
        '<span class="caption-number">Table 1</span>',
        {"caption"},
        "Table 1 (already in table.html)",
    ),
    "sameequation": (
        '<span class="eqno">(1)</span><span class="eqno">(1)</span>',
        {"caption"},
        "equation (1)",
    ),
    "pale": (
        '<style>html[data-theme="light"] .first { color: #bbb; }</style><p class="first">Words</p>',
        {"axe"},
        "color-contrast: p (#bbbbbb on #ffffff",
    ),
    "dim": (
        '<style>html[data-theme="dark"] .first { color: #444; }</style><p class="first">Words</p>',
        {"axe"},
        "color-contrast: p (#444444 on #111111",
    ),
    "palecell": (
        f'<table>{CELLS}<tr><td>9</td><td style="color: #999">pale</td></tr>{CELLS}</table>',
        {"axe"},
        "#999999 on #ffffff",
    ),
    "palerow": (
        f'<table>{CELLS}<tr style="background: #777"><td>9</td><td>pale</td></tr>{CELLS}</table>',
        {"axe"},
        "on #777777",
    ),
    # axe can not tell what lies under the longer words, which look like the shorter ones otherwise
    "untold": (
        (
            '<style>html[data-theme="light"] p { color: #bbb; } .first::before { content: "";'
            " position: absolute; background: #fff; width: 200px; height: 40px; z-index: -1;"
            ' }</style><p class="first">Longer words than those</p><p>Words</p>'
        ),
        {"axe"},
        "#bbbbbb on #ffffff",
    ),
    "foldedpale": (
        folded('<p style="color: #808080; background: #777">Words</p>'),
        {"axe"},
        "#808080 on #777777",
    ),
    "unlabelled": ('<form><input type="text"></form>', {"axe"}, "label: input"),
    "scrolls": (
        '<div class="scrolls"><p class="wide">' + 30 * "Words " + "</p></div>",
        {"axe"},
        "scrollable-region-focusable: div",
    ),
    "nameless": (
        (
            "<style>@media (min-width: 500px) { .first { display: none; } }</style><button"
            ' class="first"></button>'
        ),
        {"axe"},
        "button-name: button",
    ),
    "mislabelled": (
        (
            "<style>@media (max-width: 500px) { .first { display: none; } }</style>"
            '<button class="first" aria-label="Print">Save this page</button>'
        ),
        {"axe"},
        "label-content-name-mismatch: button",
    ),
    "themecontrast": (
        (
            '<button class="search-button-field search-button__button" aria-label="Search" '
            'style="color: #888; background: #777">Search</button>'
        ),
        {"axe"},
        "color-contrast: button (#888888 on #777777",
    ),
    "dark": ('<img alt="A square." src="pixel.png">', {"ground"}, "pixel.png"),
    "light": ("<script>system.onchange = null</script>", {"scheme"}, "not dark"),
    "unfound": ("<p>Words</p>", {"search"}, "'unfound'"),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """All the small pages in one folder; the findings of each, by its name."""
    folder = tmp_path_factory.mktemp("planted")
    bodies = CLEAN | {name: body for name, (body, _, _) in FAULTS.items()}
    titles = {f"{name}.html": f"{name} page" for name in bodies if name != "unfound"}
    for name, body in {**bodies, "search": SEARCH % json.dumps(titles)}.items():
        (folder / f"{name}.html").write_text(PAGE.format(title=f"{name} page", body=body))
    (folder / "pixel.png").write_bytes(base64.b64decode(PIXEL))
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "index.html").write_text('<meta http-equiv="Refresh" content="0; url=clean.html" />')
    (folder / "stub.html").write_text('<meta http-equiv="Refresh" content="0; url=nowhere.html" />')
    shutil.copytree(ROOT / "book" / "_static" / "mathjax", folder / "mathjax")
    found: dict[str, list] = {}
    for finding in pages.check(folder):
        found.setdefault(finding.page.removesuffix(".html"), []).append(finding)
    return found


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_called_by_its_name(planted, name):
    _, kinds, words = FAULTS[name]
    found = planted.get(name, [])
    assert {finding.kind for finding in found} == kinds, found
    assert any(words in finding.detail for finding in found), found


def test_clean_pages_are_clean(planted):
    assert {
        name: found for name, found in planted.items() if name not in FAULTS and name != "stub"
    } == {}


def test_a_redirection_to_nowhere_is_a_dead_link(planted):
    assert [(finding.kind, finding.detail) for finding in planted["stub"]] == [
        ("link", "nowhere.html")
    ]


def test_the_planted_faults_are_of_every_kind():
    assert set().union(*(kinds for _, kinds, _ in FAULTS.values())) | {"load"} == set(pages.KINDS)


def test_a_book_without_pages_is_no_clean_book(tmp_path):
    assert [finding.kind for finding in pages.check(tmp_path, workers=1)] == ["load"]


def test_the_command_line_names_pages_and_findings_and_takes_pictures(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "good.html").write_text(PAGE.format(title="good", body="<p>Words</p>"))
    (tmp_path / "bad.html").write_text(
        PAGE.format(title="bad", body='<img src="nothing.png" alt="Nothing.">')
    )
    for arguments, status in (
        (["--only", "good.html", "--shots", str(tmp_path / "shots")], 0),
        (["--only", "bad.html"], 1),
    ):
        monkeypatch.setattr(sys, "argv", ["pages.py", str(tmp_path), "--workers", "1", *arguments])
        assert pages.main() == status
    shown = capsys.readouterr().out
    assert (
        "ok   good.html  0 formulae, 0 images" in shown
        and "FAIL bad.html" in shown
        and "image: nothing.png" in shown
    )
    assert sorted(path.name for path in (tmp_path / "shots").iterdir()) == [
        f"good-{scheme}-{width}.png" for scheme in ("dark", "light") for width in (1400, 390)
    ]
