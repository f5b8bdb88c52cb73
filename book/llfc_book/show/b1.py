"""B.1: the settings as tables, the barriers of every setting, and the lines between networks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llfc_book import evidence as ev
from llfc_book.claims.rules import MARGIN, UNSURE
from llfc_book.evidence import DATA, METHODS, NETWORKS, Measured
from llfc_book.show import style
from llfc_book.show.style import LOOKS, Shown, span
from llfc_book.show.text import MyST, folded, number, spread, table
from llfc_book.study.settings import LABELS, LAYER_NORM, RECIPES, SPAWN_AT, Setting

FLOOR = 0.01  # points: smaller barriers are drawn there
WIDTHS = {"vgg16": 64, "resnet20": 16, "resnet50": 64}  # channels of the first layer
WORDS = LABELS | {"init": "initialisation", "normalise": "input", "augment": "augmentation"}
WORDS |= {"warmup": "warm-up"}
#: The settings that B.1 prints.
PRINTED = {name: s for name, s in RECIPES.items() if not (s.base or s.is_variant)}
TRAINED = (
    "mlp_mnist_spawn",
    "vgg16_cifar10_spawn",
    "resnet20_cifar10_spawn",
    "mlp_mnist_perm_weight",
    "mlp_cifar10_perm_weight",
    "resnet20x0.5_cifar10_perm_weight",
)
LINES = (*TRAINED[:5], "vgg16_cifar10_spawn_weight")
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


def barriers(
    m: Measured, role: str = "value", kind: str = "", statistics: str = "interpolated"
) -> pd.DataFrame:
    """By pair, the "barrier" with its "lower" and "upper" 95 % limits over images, as fractions.
    Where no limits are on record, both are the barrier itself; so near the margin that it decides
    nothing, a point on either side.

    Source: Frankle et al. (2020), section 2.
    """

    def read(of: Measured, quantity: str) -> pd.Series:
        return of.of(quantity, role, kind, statistics).groupby(level="pair").first()

    plain = read(m, "error_barrier")
    sure = ev.at("error_barrier_lower", m.setting.name, m.setting.profile, "connected")
    near, found = UNSURE * ((plain - MARGIN).abs() < UNSURE), {}
    for column, limit, side in (
        ("barrier", "", 0),
        ("lower", "_lower", -1),
        ("upper", "_upper", 1),
    ):
        known = plain if sure is None else read(sure, f"error_barrier{limit}")
        if sure is None:
            known = known + side * near
        found[column] = known.reindex(plain.index).fillna(plain + side * near)
    return pd.DataFrame(found)


def verdicts(found: pd.DataFrame) -> pd.Series:
    """Of barriers, by pair: "connected" where the upper limit is within the margin, "not" where the
    lower limit is above it, else "undecided".
    """
    above = np.where(found["lower"] > MARGIN, "not", "undecided")
    return pd.Series(np.where(found["upper"] <= MARGIN, "connected", above), found.index)


def ends(errors: Measured) -> pd.Series:
    """By pair, the mean error of its two networks."""
    found = errors.of("error")
    alpha = found.index.get_level_values("alpha")
    return ev.by_pair(found[(alpha == 0) | (alpha == 1)])


def shows(m: Measured, what: str) -> bool:
    """Whether a reading belongs beside the pair: what matching starts from are two independent
    networks, so that others say no more.
    """
    return what != "independent" or m.setting.family != "matched"


def overview() -> Shown:
    """The error barrier of every setting, a mark a pair, with the margin.

    Source: B.1, "modes that satisfy LMC".
    """
    settings = measured()
    figure, (axis,) = style.sheet(1, 1, 0.9 + 0.3 * len(settings))
    told = []
    for what, *reading in READINGS:
        rows = [k for k, m in enumerate(settings) if shows(m, what)]
        groups = [100 * barriers(settings[k], *reading) for k in rows]
        _marks(axis, rows, groups, what)
        every = pd.concat(groups)["barrier"] if groups else []
        told.append(f"{LOOKS[what].label} {span(every)}")
    _points(axis, "x")
    axis.set_xlabel("error barrier (points); dotted: the threshold of 2")
    axis.set_yticks(range(len(settings)), [f"{m.name} ({m.scale})" for m in settings])
    axis.set_ylim(len(settings) - 0.4, -0.6)
    matched = [k for k, m in enumerate(settings) if m.setting.family == "matched"]
    axis.axhline(min(matched, default=0) - 0.5, color="black", linewidth=0.6)
    style.legend(figure, [axis], columns=2)
    kinds = ", ".join(m.tag for m in settings)
    return Shown(figure, f"Error barriers in points ({kinds}): {'; '.join(told)}.")


def _marks(axis: Axes, rows: Sequence[int], groups: Sequence[pd.DataFrame], what: str) -> None:
    """In every row the pairs as marks, their intervals as thin lines."""
    look, label, above = LOOKS[what], LOOKS[what].label, 4 if what == "pair" else 3
    how: Any = {"linestyle": "", "marker": look.marker, "color": look.colour, "markersize": 4.5}
    for row, found in zip(rows, groups):
        if not len(found):
            continue
        places = row + np.linspace(-0.12, 0.12, len(found)) * (len(found) > 1)
        places += 0.2 if what == "recomputed" else -0.05
        seen = found.clip(lower=FLOOR)
        axis.hlines(places, seen["lower"], seen["upper"], look.colour, linewidth=0.8, zorder=above)
        axis.plot(seen["barrier"], places, alpha=0.75, label=label, zorder=above, **how)
        label = "_"


def _points(axis: Axes, along: str) -> None:
    """A logarithmic axis of points with the margin on it."""
    which = axis.xaxis if along == "x" else axis.yaxis
    (axis.set_xscale if along == "x" else axis.set_yscale)("log")
    which.set_major_formatter(lambda value, _: f"{value:g}")
    line = axis.axvline if along == "x" else axis.axhline
    line(100 * MARGIN, color="black", linewidth=0.9, linestyle=":")


def _panels(quantity: str, names: Sequence[str]) -> tuple[Figure, list[tuple[Axes, Measured]]]:
    """A panel for each setting that has the quantity on real data."""
    chosen = [m for name in names if (m := ev.best(quantity, name)) and m.scale != "proxy"]
    figure, axes = style.sheet(3, -(-len(chosen) // 3), 2.1)
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    for axis, m in zip(axes, chosen):
        network, _, made = m.name.partition(", ")
        style.title(axis, f"{network},\n{made} ({m.scale})")
    for axis in axes[::3]:
        axis.set_ylabel("test error (%)")
    return figure, list(zip(axes, chosen))


def lines() -> Shown:
    """The test error from B to A along the straight line, for a few settings."""
    figure, panels = _panels("error", LINES)
    told = []
    for axis, m in panels:
        for what, *reading in READINGS:
            curves = (100 * m.of("error", *reading)).unstack("alpha").dropna(axis=1)
            if curves.size and shows(m, what):
                dashed = what in ("unmatched", "recomputed")
                style.line(axis, curves.columns, list(curves.to_numpy()), what, dashed=dashed)
        axis.set_xticks([0, 0.5, 1], ["B", "½", "A"])
        axis.set_ylim(bottom=0)
        peaks = (100 * m.of("error")).groupby(level="pair").max()
        told.append(f"{m.tag}, highest error of the pair {span(peaks, 1)} %")
    style.legend(figure, [axis for axis, _ in panels], columns=2)
    return Shown(figure, f"Test error along the line between two networks. {'; '.join(told)}.")


def training() -> Shown:
    """Test error of every network of a few settings while it was trained."""
    figure, panels = _panels("test_error", TRAINED)
    told = []
    for axis, m in panels:
        rows = m.rows[m.rows["quantity"] == "test_error"]
        curves = 100 * rows.pivot(index=["pair", "kind"], columns="epoch", values="mean")
        style.line(axis, curves.columns, list(curves.to_numpy()), "pair", label="_")
        style.log_axis(axis)
        axis.set_xlabel("epoch")
        told.append(f"{m.name}: {span(curves.iloc[:, -1], 1)} % at the end of {len(curves)} runs")
    return Shown(figure, f"Test error over epochs. {'; '.join(told)}.")


def spawn_epochs() -> Shown:
    """Barrier and distance of the two children by the epoch at which they part.

    Source: B.1.1, "we start spawning after training 5 epochs".
    """
    found = spawning()
    figure, (left, right) = style.sheet(2, 1, 2.6)
    for (what, *reading), shift in zip(READINGS[:2], (-0.1, 0.2)):
        values = [100 * barriers(m, *reading)["barrier"].to_numpy() for m in found.values()]
        values = [np.maximum(v, FLOOR) for v in values]
        style.dots(left, range(len(found)), values, what, shift)
    _points(left, "y")
    left.set_ylabel("error barrier (points)")
    apart = [m.of("weight_distance").to_numpy() for m in found.values()]
    style.dots(right, range(len(found)), apart, "pair")
    right.set_ylabel("distance, |A − B| / |A|")
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.set_xticks(range(len(found)), [str(epoch) for epoch in found])
        axis.set_xlabel("epoch of spawning")
    style.legend(figure, [left], columns=2)
    told = "; ".join(
        f"epoch {epoch} ({m.pairs}): barrier {span(100 * barriers(m)['barrier'])} points,"
        f" distance {span(m.of('weight_distance'))}"
        for epoch, m in found.items()
    )
    return Shown(figure, f"Children by the epoch of spawning (number of pairs): {told}.")


def settings() -> MyST:
    """The settings of the appendix, and at which scale each is here.

    Source: B.1.
    """
    rows = [
        (
            f"{_network(s)}, {DATA[s.data]}",
            _optimiser(s),
            f"{s.batch}{_mark(s, 'batch')}",
            f"{s.epochs}{_mark(s, 'epochs')}",
            _pairs(s),
            _here(s),
        )
        for s in PRINTED.values()
    ]
    heads = ["setting", "optimiser, learning rate", "batch", "epochs", "pairs", "in this book"]
    caption = "The settings of B.1. † is our choice where the appendix gives none."
    return table(pd.DataFrame(rows, columns=heads), caption, "tbl-settings")


def _mark(s: Setting, field: str) -> str:
    return " †" if field in s.choices else ""


def _network(s: Setting) -> str:
    args = dict(s.model_args)
    if s.model == "mlp":
        return f"MLP, 3 × {args['hidden']}"
    return NETWORKS[s.model] + (f", {args['width'] // 16}×" if s.model == "resnet20_ln" else "")


def _optimiser(s: Setting) -> str:
    words = [f"{s.optimiser.replace('sgd', 'SGD').replace('adam', 'Adam')} {s.lr:g}"]
    words += [f"a tenth from {', '.join(map(str, s.drops))} on"] * bool(s.drops)
    words += [f"cosine{_mark(s, 'schedule')}"] * (s.schedule == "cosine")
    words += [f"warm-up {s.warmup}{_mark(s, 'warmup')}"] * bool(s.warmup)
    return ", ".join(words)


def _matched(s: Setting) -> dict[str, str]:
    """The settings that match its networks, by method."""
    return {METHODS[r.matching]: name for name, r in RECIPES.items() if r.base == s.name}


def _pairs(s: Setting) -> str:
    if s.shares_trunk:
        return f"spawned after epoch {s.spawn_epoch}"
    return f"matched: {', '.join(_matched(s))}"


def _here(s: Setting) -> str:
    """The scale that the setting is measured at, what is reduced, and how many pairs there are."""
    names = [s.name] if s.shares_trunk else _matched(s).values()
    found = [m for name in names for m in ev.every_scale("error_barrier", name)]
    told = {_scale(m, s): m.pairs for m in found}
    if found:
        return "; ".join(f"{scale}, {n} pair{'s' * (n != 1)}" for scale, n in told.items())
    narrow = [m for w in LAYER_NORM for m in ev.every_scale("error_barrier", f"{w}_weight")]
    if s.model != "resnet20_ln" or not narrow:
        return "missing"
    widths = [m.name.split(",")[0].rpartition(" ")[2] for m in narrow]
    return f"missing; in its place {', '.join(widths)}: {_scale(narrow[0], s)}"


def _scale(m: Measured, printed: Setting) -> str:
    """ "reduced (40 epochs, ¼ width)"."""
    words = [f"{m.setting.epochs} epochs"] * (m.setting.epochs != printed.epochs)
    width, usual = dict(m.setting.model_args).get("width"), WIDTHS.get(m.setting.model)
    if width and usual:
        share = width / usual
        words.append(f"{({0.25: '¼', 0.5: '½'}).get(share, number(share))} width")
    return f"{m.scale} ({', '.join(words)})" if words else m.scale


def choices() -> MyST:
    """What the appendix leaves out of its settings, and where our choice comes from, folded."""
    settings: dict[tuple[str, str], list[str]] = {}  # by reason and value
    for s in (s for s in RECIPES.values() if s.name in PRINTED or s.base in PRINTED):
        said = PRINTED[s.base].choices if s.base else {}
        who = f"{_network(s)}, {DATA[s.data]}, {METHODS[s.matching] if s.base else _pairs(s)[:7]}"
        for field, why in s.choices.items():
            if said.get(field) != why:
                word = WORDS.get(field, field.replace("_args", "").replace("_", " "))
                settings.setdefault((why.removeprefix("our choice: "), word), []).append(who)
    values: dict[tuple[str, str], list[str]] = {}  # by setting and reason
    for (why, word), names in settings.items():
        values.setdefault(("; ".join(names), why), []).append(word)
    rows = [(", ".join(words), names, why) for (names, why), words in values.items()]
    heads = ["value", "setting", "where ours comes from"]
    caption = "What the appendix leaves out, and where our choice comes from."
    return folded(caption[:-1], table(pd.DataFrame(rows, columns=heads), caption, "tbl-choices"))


def barriers_table() -> MyST:
    """Every barrier, the same over the chord, the ends' error and the verdicts, folded."""
    rows = []
    for m in (*measured(), *spawning().values()):
        own, said = barriers(m), verdicts(barriers(m))
        errors = ev.at("error", m.setting.name, m.setting.profile)
        values = (own["barrier"], ev.by_pair(m.of("error_barrier_chord")), ends(errors or m))
        counts = [f"{(said == verdict).sum()}" for verdict in ("connected", "undecided", "not")]
        numbers = [spread(100 * of) for of in values]
        rows.append((f"{m.name} ({m.scale})", *numbers, " / ".join(counts)))
    heads = ["setting", "barrier", "above the chord", "error of A and B (%)", "verdict"]
    caption = (
        "Error barriers in points: mean and range over pairs. Verdict: how many pairs are connected"
        " / undecided / not."
    )
    made = table(pd.DataFrame(rows, columns=heads), caption, "tbl-barriers")
    return folded("All barriers, above the mean and above the chord", made)
