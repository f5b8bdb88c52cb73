"""B.1: the settings as tables, the barriers of every setting, and the lines between networks."""

from collections import defaultdict

import pandas as pd

from llfc_book import evidence as ev
from llfc_book.claims.rules import connectivity
from llfc_book.evidence import CONNECTED, METHODS, NETWORKS, Measured
from llfc_book.show import style
from llfc_book.show.style import Series, Shown
from llfc_book.show.text import MyST, folded, table
from llfc_book.study.settings import LABELS, RECIPES, SPAWN_AT, Setting, reductions

FLOOR = 0.01  # points: smaller barriers are drawn there
WORDS = LABELS | {"init": "initialisation", "normalise": "input", "augment": "augmentation"}
WORDS |= {"warmup": "warm-up"}
#: The settings that B.1 prints.
PRINTED = {name: s for name, s in RECIPES.items() if not (s.base or s.is_variant)}
LINES = (
    "mlp_mnist_spawn",
    "vgg16_cifar10_spawn",
    "resnet20_cifar10_spawn",
    "mlp_mnist_perm_weight",
    "mlp_cifar10_perm_weight",
    "vgg16_cifar10_spawn_weight",
)
#: What is drawn (style.LOOKS), and how it is read from a record.
READINGS = (
    ("pair", "value", "", "interpolated"),
    ("recomputed", "value", "", "recomputed"),
    ("unmatched", "control", "unmatched", "interpolated"),
    ("independent", "control", "independent", "interpolated"),
)


def measured() -> list[Measured]:
    """The settings whose barriers are on record, on real data: those of the appendix, its stand-ins
    and the higher rate; the reduced pairs beside the full ones where there are more of them.
    """
    found = []
    for name, s in RECIPES.items():
        other = ev.variant(s) and (s.group or s.matching)
        if s.family in ("spawned", "matched") and not other:
            scales = ev.every_scale("error_barrier", name)
            found += [m for k, m in enumerate(scales) if k == 0 or m.pairs > scales[0].pairs]
    return found


def spawning() -> dict[int, Measured]:
    """By epoch of spawning, the pairs that were spawned after it."""
    found = {epoch or 0: ev.every_scale("error_barrier", name) for name, epoch in SPAWN_AT.items()}
    return {epoch: scales[0] for epoch, scales in sorted(found.items()) if scales}


def barriers(m: Measured, *reading: str) -> pd.DataFrame:
    """By pair, barriers with their limits (as :func:`connectivity` gives them), in points."""
    line = ev.at("error", m.setting.name, m.setting.profile)
    assert line is not None, m.tag
    return 100 * connectivity(line, *reading)[["barrier", "lower", "upper"]]


def shows(m: Measured, what: str) -> bool:
    """Whether a reading belongs beside the pair: what matching starts from are two independent
    networks, so that others say no more.
    """
    return what != "independent" or m.setting.family != "matched"


def overview() -> Shown:
    """The error barrier of every setting, with intervals over images and the margin (B.1,
    "modes that satisfy LMC").
    """
    figure, (axis,) = style.sheet(1, 1, 0.9 + 0.3 * len(measured()))
    series = []
    for what, *reading in READINGS:
        found = [barriers(m, *reading).clip(lower=FLOOR) for m in measured()]
        found = [of if shows(m, what) else of[:0] for m, of in zip(measured(), found)]
        limits = [of[["lower", "upper"]].to_numpy() for of in found]
        series.append(Series(what, [of["barrier"] for of in found], limits=limits))
    names = [f"{m.name} ({m.scale})" for m in measured()]
    label, mark = "error barrier (points); dotted: the threshold of 2", 100 * CONNECTED
    told = style.panel(axis, names, series, "", label, mark, True, 0.1, across=True)
    matched = [k for k, m in enumerate(measured()) if m.setting.family == "matched"]
    axis.axhline(min(matched, default=0) - 0.5, color="black", linewidth=0.6)
    return style.shown(figure, f"Barriers of {', '.join(m.tag for m in measured())}", [told], 2)


def lines() -> Shown:
    """The test error from B to A along the straight line, for a few settings."""
    settings = ev.measured("error", lambda s: s.name in LINES)
    figure, axes = style.sheet(3, -(-len(settings) // 3), 2.1)
    told = []
    for axis, m in zip(axes, settings):
        for what, *reading in READINGS:
            curves = (100 * m.of("error", *reading)).unstack("alpha").dropna(axis=1)
            if curves.size and shows(m, what):
                dashed = what in ("unmatched", "recomputed")
                style.line(axis, curves.columns, curves.to_numpy(), what, dashed=dashed)
        axis.set_xticks([0, 0.5, 1], ["B", "½", "A"])
        axis.set_ylim(bottom=0)
        axis.set_ylabel("test error (%)")
        network, _, made = m.name.partition(", ")
        style.title(axis, f"{network},\n{made} ({m.scale})")
        peaks = ev.by_pair(100 * m.of("error"), "max")
        told.append(f"{m.tag}, highest error of the pair {style.span(peaks)} %")
    return style.shown(figure, "Test error along the line between two networks", told, 2)


def spawn_epochs() -> Shown:
    """Barrier and distance of the two children by the epoch at which they part (B.1.1, "we
    start spawning after training 5 epochs").
    """
    found = spawning()
    figure, (left, right) = style.sheet(2, 1, 2.6)
    series = [
        Series(what, [barriers(m, *of)["barrier"].clip(lower=FLOOR) for m in found.values()])
        for what, *of in READINGS[:2]
    ]
    apart = [Series("pair", [m.of("weight_distance") for m in found.values()])]
    epochs, head = [*map(str, found)], f"{NETWORKS['resnet20']} ({found[0].scale})"
    told = [
        style.panel(left, epochs, series, head, "error barrier (points)", 2, log=True),
        style.panel(right, epochs, apart, head, "distance, |A − B| / |A|"),
    ]
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.set_xlabel("epoch of spawning")
    pairs = ", ".join(f"{m.pairs} of epoch {epoch}" for epoch, m in found.items())
    return style.shown(figure, f"Children by the epoch of spawning, pairs: {pairs}", told)


def settings() -> MyST:
    """The settings of the appendix, and at which scale each is here."""
    rows = []
    for s in PRINTED.values():
        marks = {field: " †" * (field in s.choices) for field in ("batch", "epochs")}
        optimiser = {"adam": "Adam", "sgd": "SGD"}[s.optimiser]
        methods = ", ".join(METHODS[r.matching] for r in _matched(s))
        pairs = f"spawned after epoch {s.spawn_epoch}" if s.shares_trunk else f"matched: {methods}"
        numbers = [f"{getattr(s, field)}{mark}" for field, mark in marks.items()]
        name = ev.name_of(s.name).partition(",")[0]
        rows.append((name, f"{optimiser} {s.lr:g}", *numbers, pairs, _here(s)))
    heads = ["setting", "optimiser, learning rate", "batch", "epochs", "pairs", "in this book"]
    caption = "The settings of B.1. † is our choice where the appendix gives none."
    return table(pd.DataFrame(rows, columns=heads), caption, "tbl-settings")


def _matched(s: Setting) -> list[Setting]:
    """The settings that match its networks."""
    return [r for r in RECIPES.values() if r.base == s.name]


def _here(s: Setting) -> str:
    """The scale that the setting, or what stands in for it, is measured at, and what is reduced."""
    names = [s.name] if s.shares_trunk else [r.name for r in _matched(s)]
    own = [m for m in measured() if m.setting.name in names]
    narrow = [m for m in measured() if ev.stands_in(m.setting) and m.setting.model == s.model]
    told: dict[str, list[str]] = defaultdict(list)
    for m in own or narrow:
        less = reductions(m.setting.name, m.setting.profile).replace("->", "→")
        told[f"{m.scale}, {m.pairs} pairs" + (less and f": {less}")].append(m.name.split(",")[0])
    if own:
        return "; ".join(told)
    instead = [f"; in its place {', '.join(names)}: {how}" for how, names in told.items()]
    return "".join(["missing", *instead])


def choices() -> MyST:
    """What the appendix leaves out of its settings, and where our choice comes from, folded."""
    words: dict[tuple[str, str], list[str]] = defaultdict(list)
    for s in (s for s in RECIPES.values() if s.name in PRINTED or s.base in PRINTED):
        for field, why in s.choices.items():
            if not s.base or PRINTED[s.base].choices.get(field) != why:
                word = WORDS.get(field, field.replace("_args", "").replace("_", " "))
                words[ev.name_of(s.name), why.removeprefix("our choice: ")].append(word)
    found = [(name, ", ".join(values), why) for (name, why), values in words.items()]
    caption = "What the appendix leaves out, and where our choice comes from."
    frame = pd.DataFrame(found, columns=["setting", "value", "where ours comes from"])
    return folded(caption[:-1], table(frame, caption, "tbl-choices"))
