"""What the pages say was found: every number in their prose, with the condition under which its
sentence stands. Each module of this folder declares those of one page.

A page tells them with one hidden line, ``findings.tell("B2_llfc")``, and its text shows one by
``{glue:text}`name```. A test asks on the records, without a page, whether every sentence stands.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from llfc_book.show.prose import Told


@dataclass(frozen=True)
class Finding:
    """``sentence`` says in words what must hold for the page's sentence to stand; ``measure``
    returns the text that it shows and whether it holds.
    """

    page: str
    name: str
    sentence: str
    measure: Callable[[], tuple[str, bool]]


FINDINGS: dict[tuple[str, str], Finding] = {}


def finding(page: str, sentence: str) -> Callable[[Callable], Callable]:
    """Enter the function below: a finding of ``page`` by the function's name. ValueError for a name
    that the page has already.
    """

    def enter(measure: Callable[[], tuple[str, bool]]) -> Callable:
        key = (page, measure.__name__)
        if key in FINDINGS:
            raise ValueError(f"page {page} has a finding {measure.__name__!r} already")
        FINDINGS[key] = Finding(page, measure.__name__, sentence, measure)
        return measure

    return enter


def of_page(page: str) -> list[Finding]:
    """Those of one page. ValueError for a page that has none."""
    found = [f for (of, _), f in FINDINGS.items() if of == page]
    if not found:
        raise ValueError(
            f"no findings of page {page!r}; there are {sorted({p for p, _ in FINDINGS})}"
        )
    return found


def tell(page: str) -> Told:
    """The texts of the page's findings. ValueError, with the sentence, where one no longer
    stands.
    """
    texts = {}
    for one in of_page(page):
        text, holds = one.measure()
        if not holds:
            raise ValueError(
                f"{page}: {one.name} is {text!r}, and its sentence no longer stands:"
                f" {one.sentence}. Rewrite the page's text, or mend the record"
            )
        texts[one.name] = text
    return Told(texts)


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
