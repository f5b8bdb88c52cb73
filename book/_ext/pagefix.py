"""Repairs of the finished pages: what would need a network, trip a screen reader, or differ from
build to build.

Hover tips come from sphinx-tippy, with its two scripts out of ``book/_static/tippy`` instead of
from a CDN.
"""

import json
import re
from pathlib import Path
from typing import Any

from sphinx.addnodes import number_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

#: sphinx-tippy gives the script of a page a random name at every build, with a checksum in pages.
RANDOM_END = re.compile(r"\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.js(\?v=[0-9a-f]+)?")
#: Of a table that a tip quotes, its head included.
TIP_ROWS = 10
NAVIGATION = ' role="complementary" aria-label="Book navigation"'
#: Pattern and replacement. What is dropped from the theme and from extensions, and why:
REPAIRS = [
    (re.compile(pattern, re.DOTALL), replacement)
    for pattern, replacement in (
        # sphinx-thebe names a CDN on every page, declares its script twice, and is not used
        (r"<script[^>]*>[^<]*THEBE_JS_URL[^<]*</script>\s*", ""),
        (r'<script[^>]*src="[^"]*sphinx-thebe[^"]*"></script>\s*', ""),
        (r'<link[^>]*href="[^"]*sphinx-thebe[^"]*"[^>]*>\s*', ""),
        (r'<script type="text/x-thebe-config">.*?</script>\s*', ""),
        (r"<script>kernelName = '[^']*'</script>\s*", ""),
        # roles that are none, and labels that hide the words which a button shows
        (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
        (r' role="doc-biblioentry"', ""),
        (r' aria-label="Toggle hidden content"', ""),
        (r' aria-label="Search" data-bs-placement', " data-bs-placement"),
        # landmarks and folds without a name
        (r'<div id="pst-primary-sidebar"(?= class)', r"\g<0>" + NAVIGATION),
        (r'<div class="bd-sidebar-primary bd-sidebar"(?=>)', r"\g<0>" + NAVIGATION),
        (r'<summary(?=><span class="toctree-toggle")', r'\g<0> aria-label="Pages below"'),
        # wide tables scroll, by keys as well
        (r'<table(?![^>]*tabindex)(?= class="[^"]*\btable\b)', r'\g<0> tabindex="0"'),
        # every proof without a label, and every part of one, has the same id
        (r'(<div class="proof [^"]*admonition") id="proof"', r"\1"),
        (r'(<section class="[^"]*-content") id="proof-content"', r"\1"),
        (r'(<p class="admonition-title") id="[^"]*"', r"\1"),
        # Sphinx sets the parameters of a long signature as a list of descriptions without a term
        (r'<dl>(?=\s*<dd><em class="sig-param">)', '<span class="sig-lines">'),
        (r'<dd>(<em class="sig-param">(?:(?!</dd>).)*)</dd>\s*</dl>', r"<span>\1</span></span>"),
        (r'<dd>(<em class="sig-param">.*?)</dd>', r"<span>\1</span>"),
    )
]


def shortened(tip: str) -> str:
    """A tip of a long table has its caption and first rows: more would not fit a window."""
    rows = tip.split("</tr>")
    more = len(rows) - 1 - TIP_ROWS
    if not tip.startswith("<table") or more <= 0:
        return tip
    return "</tr>".join(rows[:TIP_ROWS]) + f"</tr></tbody></table><p>… {more} more rows</p>"


def tip_script(text: str) -> str:
    """The script of a page's tips, the same at every build, with mathematics typeset once a tip is
    in the page.
    """
    text = text.replace("onShow(instance)", "onMount(instance)")  # before, MathJax measures nothing
    text = text.replace('console.log("tippy tips loaded!");', "")
    text = re.sub(r' id=\\"[^"\\]*\\"', "", text)  # a tip must not repeat the id of what it quotes
    head, _, tail = text.partition("\n")
    tips = json.loads(head.removeprefix("selector_to_html = ").rstrip().rstrip(";"))
    short = {target: shortened(tip) for target, tip in sorted(tips.items())}  # random before
    return f"selector_to_html = {json.dumps(short)}\n{tail}"


def finish(app: Sphinx, failed: Exception | None) -> None:
    """On "build-finished", after sphinx-tippy: mend every page and the scripts of the tips."""
    if failed or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for script in sorted((out / "_static" / "tippy").rglob("*.js")):
        if RANDOM_END.search(script.name):
            target = script.with_name(RANDOM_END.sub(".tips.js", script.name))
            target.write_text(tip_script(script.read_text()))
            script.unlink()
    for page in out.rglob("*.html"):
        text = RANDOM_END.sub(".tips.js", page.read_text())
        for pattern, replacement in REPAIRS:
            text = pattern.sub(replacement, text)
        page.write_text(text)


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
                text = title % ".".join(map(str, kinds[kind][label]))
                where = (self.env.docname, self.app.builder, page, label, text, "numref")
                options = {"nodeclass": number_reference, "title": title}
                node.replace_self(domain.build_reference_node(*where, **options))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(QuickNumbers)
    app.connect("build-finished", finish, priority=990)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
