"""What the pages say was found: every number in their prose, with the condition under which its
sentence stands. Each module of this folder declares those of one page.

A page tells them with one hidden line, ``findings.tell("B2_llfc")``, and its text shows one by
``{glue:text}`name```. A test asks on the records, without a page, whether every sentence stands.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llfc_book.show.prose import Told

#: What a finding shows, one text or several by name, and whether its sentence holds.
Found = tuple[str | dict[str, str], bool | np.bool_]


@dataclass(frozen=True)
class Finding:
    """``sentence`` says in words what must hold for the page's sentence to stand; ``measure``
    returns what it shows, under the finding's ``name`` where it is one text, and whether it holds.
    """

    page: str
    name: str
    sentence: str
    measure: Callable[[], Found]

    def told(self) -> dict[str, str]:
        """Its texts by name. ValueError, with the sentence, where it no longer stands."""
        shown, holds = self.measure()
        if not holds:
            raise ValueError(
                f"{self.page}: {self.name} is {shown!r}, and its sentence no longer stands:"
                f" {self.sentence}. Rewrite the page's text, or mend the record"
            )
        return {self.name: shown} if isinstance(shown, str) else shown


FINDINGS: dict[tuple[str, str], Finding] = {}


def finding(page: str, sentence: str) -> Callable[[Callable[[], Found]], Callable[[], Found]]:
    """Enter the function below: a finding of ``page`` by the function's name. ValueError for a name
    that the page has already.
    """

    def enter(measure: Callable[[], Found]) -> Callable[[], Found]:
        key = (page, measure.__name__)
        if key in FINDINGS:
            raise ValueError(f"page {page} has a finding {measure.__name__!r} already")
        FINDINGS[key] = Finding(page, measure.__name__, sentence, measure)
        return measure

    return enter


def tell(page: str) -> Told:
    """The texts of the page's findings. ValueError for a page that has none, or where a sentence no
    longer stands.
    """
    found = [one.told() for (of, _), one in FINDINGS.items() if of == page]
    if not found:
        raise ValueError(f"no findings of page {page!r}; of {sorted({p for p, _ in FINDINGS})}")
    texts = {name: text for texts in found for name, text in texts.items()}
    if len(texts) < sum(map(len, found)):
        raise ValueError(f"page {page}: one name for two texts, of {sorted(texts)}")
    return Told(texts)


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
