"""The ledger of claims: every verdict, counted and listed by section, its badges and the rules
behind them explained.
"""

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from llfc_book.claims import verdicts
from llfc_book.claims.claims import CLAIMS, TABLES, Claim
from llfc_book.claims.verdicts import NOTHING, Verdict
from llfc_book.show.tables import MyST, badge, table
from llfc_book.study.settings import RECIPES

#: The sections of the appendix that claims are from.
SECTIONS = tuple(sorted({claim.section for claim in CLAIMS}))

#: What every badge says; the first five are about agreement, the others about evidence.
AGREEMENT = {
    verdicts.REPRODUCED: "The rule of the claim holds in every case.",
    verdicts.PARTLY: "It holds in some cases.",
    verdicts.NOT: "It holds in none, at the settings of the paper.",
    verdicts.NOT_HERE: "It holds in none, in a reduced profile, which cannot say more than that.",
    verdicts.NOT_COMPARABLE: "Measured on embedded data, of which the paper's numbers say nothing.",
}
EVIDENCE = {
    verdicts.EXCEEDS: (
        f"In every case below {verdicts.SUPPORTED:g} of each null, and better than the control."
    ),
    verdicts.EXCEEDS_NOT: (
        "In at least one case a null or the control does about as well: below the badge stands"
        " which, and in how many."
    ),
    verdicts.INCOMPLETE: "No null does as well so far, but not all are measured everywhere.",
    verdicts.NO_NULL: (
        "A printed number beside a measured one: there is nothing that it could exceed."
    ),
}


def legend() -> MyST:
    """Every badge, and what it says."""
    rows = [
        (badge(word), question, meaning)
        for question, words in (("agreement", AGREEMENT), ("evidence", EVIDENCE))
        for word, meaning in words.items()
    ]
    return table(
        pd.DataFrame(rows, columns=["badge", "about", "what it says"]),
        "The badges. A *case* is what the rule of a claim is asked of: a pair, at one layer, α and"
        " direction where there are several.",
        "tbl-badges",
        "badges",
    )


def counts(judged: Sequence[Verdict]) -> MyST:
    """How many claims of each section have which verdict; badges that no claim has are left out."""
    rows = []
    for of, words in (("agreement", AGREEMENT), ("evidence", EVIDENCE)):
        for word in words:
            having = [v.claim.section for v in judged if getattr(v, of) == word]
            if having:
                rows.append(
                    (
                        badge(word),
                        *(having.count(section) or NOTHING for section in SECTIONS),
                        len(having),
                    )
                )
    total = [v.claim.section for v in judged]
    rows.append(("claims", *(total.count(section) for section in SECTIONS), len(total)))
    return table(
        pd.DataFrame(rows, columns=["verdict", *SECTIONS, "all"]),
        "Verdicts by section of the appendix. Look for the row that is "
        "almost empty: claims that exceed every null.",
        "tbl-ledger",
        "counts",
    )


def ledger(judged: Iterable[Verdict], section: str) -> MyST:
    """The claims of one section, chapter by chapter, with links to where they are measured."""
    chosen = sorted(
        (v for v in judged if v.claim.section == section), key=lambda v: _place(v.claim)
    )
    rows = [
        (
            f"{v.claim.statement}\n\n{_where(v.claim)}",
            f"{v.claim.paper}\n\n{v.claim.source}",
            f"{v.short}\n\n{v.profile}, {v.pairs} pair{'s' * (v.pairs > 1)}",
            f"{badge(v.agreement)}\n\n{_whole(f'{v.holds} of {v.cases}')} cases",
            badge(v.evidence) + (f"\n\n{_nulls(v)}" if _nulls(v) else ""),
        )
        for v in chosen
    ]
    return table(
        pd.DataFrame(
            rows, columns=["claim", "the paper", "ours, ± over pairs", "agreement", "evidence"]
        ),
        f"The claims of {section}: what the paper says, what we measured in which profile, and both"
        " verdicts.",
        f"tbl-ledger-{section.replace('.', '').lower()}",
        "ledger",
    )


def _place(claim: Claim) -> tuple[int, int]:
    """As in the book: MLPs, convolutional networks, matched ones."""
    kinds = [claim.chapter.endswith(end) for end in ("_conv", "_perm", "_matching")]
    return (1 if kinds[0] else 2 if any(kinds[1:]) else 0), CLAIMS.index(claim)


def _where(claim: Claim) -> str:
    """Our own chapter and figure."""
    shown = f", {{numref}}`{claim.shown}`" if claim.shown else ""
    return f"{{doc}}`{claim.chapter}`{shown}" + "; *our extension*" * claim.extension


def _nulls(v: Verdict) -> str:
    """Which nulls do as well, in how many cases, shorter than in the table of a chapter."""
    if v.null == NOTHING:
        return ""
    told = [word.removeprefix(verdicts.NOT_BELOW) for word in v.null.split("; ")]
    failing = [
        word
        for word in told
        if word.endswith(" cases") or word.startswith(verdicts.NOT_BELOW.rstrip(": "))
    ]
    return _whole(
        "; ".join(
            word.removesuffix(" cases").replace(" in ", ": ") if word.endswith(" cases") else word
            for word in failing or told
        )
    )


def _whole(text: str) -> str:
    """ "71 of 120" kept together on a line."""
    return re.sub(r"(\d+) of (?=\d)", "\\1\u00a0of\u00a0", text)


def _printed_excess() -> str:
    """Where the printed tables themselves fail the rule."""
    words = []
    for name, printed in TABLES.items():
        mean = (printed["A"] + printed["B"]) / 2
        over = [
            site for site, value in printed.items() if (value - mean) / mean > verdicts.RESEMBLES
        ]
        if over:
            words.append(f"the paper's Table {name[-1]} at {', '.join(over)}")
    return f"The printed numbers themselves exceed this in {' and in '.join(words)}."


def rules() -> MyST:
    """The rules in words, with the constants that the code uses."""
    spawned_after = RECIPES["resnet20_cifar10_spawn"].spawn_epoch
    lines = [
        "**When a claim holds**",
        "",
        (
            "- *Connected*: in every pair the error barrier above the chord is at most"
            f" {verdicts.CONNECTED_SE:g} binomial standard errors of the endpoint error."
        ),
        (
            f"- *Negligible*, *close to 0 compared with*: at most {verdicts.NEGLIGIBLE:g} of what"
            " it is compared with, in every pair and site. *Close to 1*: within"
            f" {verdicts.CLOSE_TO_ONE:g}."
        ),
        "- *Resembles* (stitching): above the mean endpoint error by at most"
        f" {verdicts.RESEMBLES:g} of it in every pair, site and direction, and falling with depth"
        " where the printed table does. " + _printed_excess(),
        (
            f"- *A printed number agrees* if it lies within {verdicts.INTERVAL_SD:g} standard"
            " deviations of our independent pairs; beside a single pair, within"
            f" {verdicts.CONNECTED_SE:g} standard errors of the difference of two errors on so many"
            " images."
        ),
        (
            "- *Rises and falls as printed*: the rank correlation over layers with the printed"
            f" table is at least {verdicts.ALIKE:g} in every pair and direction."
        ),
        (
            f"- *Spawning*: children are connected from epoch {spawned_after} on at the latest, and"
            " not when spawned at the initialisation."
        ),
        (
            f"- *Of low rank*: half of the singular values are below {verdicts.NEGLIGIBLE:g} of the"
            " largest. *Low rank makes matchable*: the rank correlation of stable rank / n and the"
            f" training loss barrier after weight matching is at least {verdicts.ALIKE:g} over all"
            " widths and epochs, at fixed width and at fixed epoch."
        ),
        (
            "- *Co-occurs*: a pair is connected exactly if the ratio of 1-cos to its baseline,"
            f" mean over layers at α = 0.5, is at most {verdicts.NEGLIGIBLE:g}; over all pairs of"
            " the book and their controls."
        ),
        "",
        "**When it exceeds its nulls**",
        "",
        (
            f"- In every pair and site it is below {verdicts.SUPPORTED:g} of each null and better"
            " than the control; otherwise the table says which null does as well and in how many"
            " cases."
        ),
        (
            "- *Displaced partners* are held against the pair on quantities that do not change with"
            " the size of the difference: the ratio of 1-cos to its baseline; Dist_com divided by"
            " the product of Dist_W and Dist_H. Weak additivity has none, so only partners at the"
            " same distance count there."
        ),
        (
            f"- *Rises and falls as printed*: less than {verdicts.SUPPORTED:g} as far from a rank"
            " correlation of 1 as each null."
        ),
        (
            f"- *Spawning*: the barriers from epoch {spawned_after} on are held against partners"
            " rotated as far away."
        ),
        (
            "- *Of low rank*: the stable rank over n is held against a matrix without structure and"
            " the network before training. *Low rank makes matchable*: untrained networks, cut to"
            " the trained rank, match twice as well as whole ones."
        ),
        "",
        "**What changed after the first runs**",
        "",
        (
            "- *To be stricter.* A displaced partner that is stitched without loss counts as having"
            " no excess; a null that lacks some pairs is called incomplete; the spread shown is"
            " that over pairs, not over α as well; a displaced partner's excess is over A's error"
            " on the same images. No verdict changed by these."
        ),
        (
            "- *To be stricter.* The rank correlation with a printed table is judged in each"
            " direction, with the margin that every other null has, and against independent pairs"
            " as well. By this the profile of the paper's Table 3 lost the only *exceeds every"
            " null* that there was then, and *reproduced* became *partly*."
        ),
        (
            "- *To be less strict.* A printed number, which could not agree with a single pair at"
            " all, now may within the error of so many images."
        ),
    ]
    return MyST("\n".join(lines))
