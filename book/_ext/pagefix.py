"""Repairs of the finished pages: what would need a network, trip a screen reader, or differ from
build to build.

Hover tips come from sphinx-tippy, with its two scripts out of ``book/_static/tippy`` instead of
from a CDN.
"""

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

from sphinx.addnodes import number_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

#: sphinx-tippy gives the script of a page a random name at every build.
RANDOM_NAME = re.compile(r"(.+)\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.js")
#: Of a table that a tip quotes, its head included.
TIP_ROWS = 10
#: Sphinx sets the parameters of a long signature as a list of descriptions without a term, which is
#: none.
PARAMETERS = re.compile(r'<dl>\s*((?:<dd><em class="sig-param">.*?</dd>\s*)+)</dl>', re.DOTALL)
LINE = re.compile(r"<dd>(.*?)</dd>", re.DOTALL)
#: Wrong or missing roles and labels in the theme's own frame of a page.
FRAME = (
    (
        ' aria-label="Search" data-bs-placement',
        " data-bs-placement",
    ),  # hides the words that the button shows
    (
        '<div id="pst-primary-sidebar" class="',
        '<div id="pst-primary-sidebar" role="complementary" aria-label="Book navigation" class="',
    ),
    (
        '<div class="bd-sidebar-primary bd-sidebar">',
        (
            '<div class="bd-sidebar-primary bd-sidebar" role="complementary" aria-label="Book'
            ' navigation">'
        ),
    ),
    (
        '<summary><span class="toctree-toggle"',
        '<summary aria-label="Pages below"><span class="toctree-toggle"',
    ),
)


def clean_page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """On "html-page-context": drop sphinx-thebe, which names a CDN on every page and declares its
    script twice; give proofs ids of their own; drop roles and labels that screen readers stumble
    over.
    """

    def wanted(script: Any) -> bool:
        body = (getattr(script, "attributes", None) or {}).get("body", "") or ""
        return "THEBE_JS_URL" not in body and "sphinx-thebe" not in str(
            getattr(script, "filename", script)
        )

    for key in ("script_files", "css_files"):
        context[key] = [script for script in context.get(key, []) if wanted(script)]
    body = context.get("body") or ""
    body = re.sub(r'<script type="text/x-thebe-config">.*?</script>\s*', "", body, flags=re.DOTALL)
    body = re.sub(r"<script>kernelName = '[^']*'</script>\s*", "", body)
    body = body.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    body = body.replace(' role="doc-biblioentry"', "")  # no longer a role of its own
    body = body.replace(
        ' aria-label="Toggle hidden content"', ""
    )  # hides the words that the button shows
    body = re.sub(
        r'<table (?![^>]*tabindex)(class="[^"]*\btable\b)', r'<table tabindex="0" \1', body
    )  # wide ones scroll, by keys as well
    body = PARAMETERS.sub(
        lambda found: (
            '<span class="sig-lines">' + LINE.sub(r"<span>\1</span>", found[1]) + "</span>"
        ),
        body,
    )
    number = count(1)
    body = re.sub(
        r'(<section class="[^"]*-content") id="proof-content"', r"\1", body
    )  # every proof has the same id
    body = re.sub(
        r'(<div class="proof [^"]*admonition") id="proof"',
        lambda found: f'{found[1]} id="proof-{next(number)}"',
        body,
    )
    body = re.sub(r'(<p class="admonition-title") id="[^"]*"', r"\1", body)
    if context.get("body"):
        context["body"] = body


def shortened(tip: str) -> str:
    """A tip of a long table has its caption and first rows: more would not fit a window."""
    rows = tip.split("</tr>")
    if not tip.startswith("<table") or len(rows) <= TIP_ROWS + 1:
        return tip
    return (
        "</tr>".join(rows[:TIP_ROWS])
        + f"</tr></tbody></table><p>… {len(rows) - 1 - TIP_ROWS} more rows</p>"
    )


def tip_script(text: str) -> str:
    """The script of a page's tips, the same at every build, with mathematics typeset once a tip is
    in the page.
    """
    text = text.replace("onShow(instance)", "onMount(instance)")  # before, MathJax measures nothing
    text = text.replace('console.log("tippy tips loaded!");', "")
    text = re.sub(r' id=\\"[^"\\]*\\"', "", text)  # a tip must not repeat the id of what it quotes
    head, _, tail = text.partition("\n")  # the tips come in a random order
    if head.startswith("selector_to_html = "):
        tips = json.loads(head.removeprefix("selector_to_html = ").rstrip().rstrip(";"))
        short = {target: shortened(tip) for target, tip in sorted(tips.items())}
        text = f"selector_to_html = {json.dumps(short)}\n{tail}"
    return text


def finish(app: Sphinx, failed: Exception | None) -> None:
    """On "build-finished", after sphinx-tippy: mend the scripts of the tips and the frame of every
    page.
    """
    if failed or app.builder.format != "html":
        return
    out, renamed = Path(app.outdir), {}
    for script in sorted((out / "_static" / "tippy").rglob("*.js")):
        if found := RANDOM_NAME.fullmatch(script.name):
            target = script.with_name(f"{found[1]}.tips.js")
            target.write_text(tip_script(script.read_text()))
            script.unlink()
            renamed[script.name] = target.name
    for page in out.rglob("*.html"):
        text = page.read_text()
        # the name of a script is followed by a checksum of what it was
        mended = (
            re.sub(r"([\w.-]+\.js)\?v=[0-9a-f]+", lambda m: renamed.get(m[1], m[0]), text)
            if renamed
            else text
        )
        for old, new in renamed.items():
            mended = mended.replace(old, new)
        for old, new in FRAME:
            mended = mended.replace(old, new)
        if mended != text:
            page.write_text(mended)


class QuickNumbers(SphinxPostTransform):
    """References to numbered figures and tables, before Sphinx comes to them: for each it reads the
    whole page of the target anew, which was half of a build. What is not as plain is left to it.
    """

    default_priority = 5  # Sphinx's own has 10

    def run(self, **arguments: Any) -> None:
        domain = self.env.get_domain("std")
        for node in list(self.document.findall(pending_xref)):
            page, label = domain.anonlabels.get(node.get("reftarget"), ("", ""))
            kinds = self.env.toc_fignumbers.get(page, {})
            kind = next((kind for kind, numbers in kinds.items() if label in numbers), None)
            title = self.config.numfig_format.get(kind, "")
            if node.get("reftype") == "numref" and not node["refexplicit"] and "%s" in title:
                number = ".".join(map(str, kinds[kind][label]))
                link = domain.build_reference_node(
                    self.env.docname,
                    self.app.builder,
                    page,
                    label,
                    title % number,
                    "numref",
                    nodeclass=number_reference,
                    title=title,
                )
                node.replace_self(link)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(QuickNumbers)
    app.connect("html-page-context", clean_page, priority=900)
    app.connect("build-finished", finish, priority=990)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
