"""Figures and tables of A.1: the bound of Lemma 1 on trained pairs, and what a margin certifies
where LLFC holds only about.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import nn

from llfc_book import evidence as ev
from llfc_book.appendix.lemma import rescaled, without_llfc
from llfc_book.evidence import Measured
from llfc_book.show import style
from llfc_book.show.style import LOOKS, Shown, span
from llfc_book.show.text import MyST, folded, number, spread, table
from llfc_lib.metrics import LLFC, Barrier, Row, measure
from llfc_lib.models import MLP
from llfc_lib.streams import generator, seed_of

CONNECTED = 2.0  # points: the margin of Frankle et al. (2020)
KINDS = {"pair": ("value", ""), **{k: ("control", k) for k in ("unmatched", "independent")}}
TALLY = ("not_certified_scaled", "not_certified")  # with the best c of each image, and with c = 1


def _trained(quantity: str) -> list[Measured]:
    """Every setting on real data whose pairs are spawned or matched, variants among them."""
    found = ev.measured(quantity, lambda s: s.family in ("spawned", "matched"))
    return [m for m in found if m.scale != "proxy"]


def printed() -> list[Measured]:
    """Those of them that are the appendix's own, with the margins."""
    found = _trained("twice_epsilon")
    return [m for m in found if ev.spawned(m.setting) or ev.matched(m.setting)]


@cache
def curves() -> pd.DataFrame:
    """A line a pair or control, in percent: the larger error of its ends ("epsilon"), the largest
    on the line between them ("top") and what that is above the ends' mean ("barrier"). "kept" says
    whether the bound of the lemma is, "connected" whether the barrier is at most 2 points.
    """
    lines = []
    for m in _trained("disagreement"):  # which the experiments with a whole curve have
        for kind, who in KINDS.items():
            errors = 100 * m.of("error", *who)
            alpha = errors.index.get_level_values("alpha")
            ends = errors[(alpha == 0) | (alpha == 1)].groupby(level="pair")
            top = errors.groupby(level="pair").max()
            found = {"epsilon": ends.max(), "top": top, "barrier": top - ends.mean()}
            one = pd.DataFrame(found).reset_index()
            kept, connected = one["top"] <= 2 * one["epsilon"], one["barrier"] <= CONNECTED
            told = {"setting": m.setting.name, "kind": kind, "kept": kept, "connected": connected}
            lines.append(one.assign(**told))
    found = pd.concat(lines, ignore_index=True)
    twice = found.duplicated(["kind", "epsilon", "top"]) & (found["kind"] != "pair")
    return found[~twice]  # three methods that match the same two share a control


def certified(
    m: Measured, who: tuple[str, str] = KINDS["pair"], tally: str = TALLY[0]
) -> pd.Series:
    """By pair, the share of the images that A and B both get right of which the margin says that
    the network half-way gets them right too.
    """
    wrong = ev.by_pair(m.of("error_either", *who))
    missed = ev.by_pair(ev.half_way(m.of(tally, *who)))
    return (1 - missed) / (1 - wrong)


def bound() -> Shown:
    """The largest error on the line against the larger error of its ends, and the share of images
    that the margin certifies half-way.

    Source: Lemma 1 (A.1); the margins are this book's.
    """
    figure, (left, right) = style.sheet(2, 1, 3.9)
    found = curves()
    _against_epsilon(left, found)
    settings = printed()
    told = []
    for kind, who in KINDS.items():
        if kind == "unmatched":
            continue
        shares = [100 * certified(m, who).to_numpy() for m in settings]
        for place, values in enumerate(shares):
            _across(right, place, values, kind)
        told.append(f"{LOOKS[kind].label} {span(np.concatenate(shares), 0)} %")
    right.set_yticks(range(len(settings)), [m.name for m in settings])
    right.set_ylim(len(settings) - 0.4, -0.6)
    right.grid(axis="y", visible=False)
    right.set_xlabel("certified, % of images both get right")
    style.title(right, "the margin argument, half-way")
    style.legend(figure, [left, right], columns=3)
    kept = found.groupby("kind")["kept"].agg(["sum", "size"])
    counts = ", ".join(f"{LOOKS[k].label} {kept['sum'][k]} of {kept['size'][k]}" for k in KINDS)
    alt = f"Pairs whose error between stays within 2 epsilon: {counts}. Certified images: "
    return Shown(figure, alt + "; ".join(told) + ".")


def _against_epsilon(axis: Axes, found: pd.DataFrame) -> None:
    ends = np.geomspace(1, 60, 100)
    black = {"color": "black", "linewidth": 0.9}
    axis.plot(ends, 2 * ends, label="2ε, the bound of the lemma", **black)
    axis.plot(ends, ends + CONNECTED, linestyle=":", label="2 points above ε", **black)
    for kind in reversed(KINDS):
        chosen, look = found[found["kind"] == kind], LOOKS[kind]
        how = {"linestyle": "", "marker": look.marker, "color": look.colour, "markersize": 4}
        axis.plot(chosen["epsilon"], chosen["top"], alpha=0.8, label=look.label, **how)
    axis.fill_between(ends, ends, 2 * ends, color="black", alpha=0.07, linewidth=0)
    axis.set_xscale("log")
    axis.set_xlim(1, 60)
    axis.set_ylim(1, 110)
    axis.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axis.minorticks_off()
    style.log_axis(axis)
    axis.set_xlabel("ε, the larger error of the two ends (%)")
    axis.set_ylabel("largest error on the line (%)")
    style.title(axis, "the bound: kept where shaded")


def _across(axis: Axes, place: int, values: np.ndarray, kind: str) -> None:
    """One setting's values on its line, their mean in full."""
    if not len(values):
        return
    look = LOOKS[kind]
    how = {"linestyle": "", "marker": look.marker, "color": look.colour}
    axis.plot(values, [place] * len(values), markersize=3, alpha=0.35, **how)
    axis.plot([values.mean()], [place], markersize=5, label=look.label, **how)


def every_setting() -> MyST:
    """The bound and the margins of every setting half-way, folded."""
    lines = []
    for m in _trained("twice_epsilon"):
        for kind, who in KINDS.items():
            ends = {q: ev.by_pair(m.of(q, *who)) for q in ("twice_epsilon", "error_either")}
            if ends["twice_epsilon"].empty:
                continue
            between = ev.by_pair(ev.half_way(m.of("error_between", *who)))
            shares = [certified(m, who, tally) for tally in TALLY]
            name = m.tag if kind == "pair" else f"… {LOOKS[kind].label}"
            lines.append((name, *(spread(100 * v) for v in (*ends.values(), between, *shares))))
    columns = ["pairs", "2ε", "A or B wrong", "wrong half-way", "certified", "with c = 1"]
    caption = (
        "Lemma 1 half-way, percent of test images: mean and range over pairs. The last two columns"
        " are of the images that A and B both get right. Convolutional networks: 1,000 images."
    )
    return folded(
        "Every setting", table(pd.DataFrame(lines, columns=columns), caption, "tbl-lemma")
    )


def compared(rows: Mapping[str, Sequence[Row]]) -> MyST:
    """What :class:`~llfc_book.appendix.lemma.Margins` measured half-way on some pairs, a line a
    pair, in percent.
    """
    columns = {
        "twice_epsilon": "2ε",
        "error_either": "A or B wrong",
        "error_between": "wrong half-way",
        "not_certified_scaled": "A or B wrong, or not certified",
    }
    lines = []
    for name, found in rows.items():
        values = {row.quantity: row.mean for row in found if row.alpha in (None, 0.5)}
        lines.append((name, *(f"{number(100 * values[q], 3)} %" for q in columns)))
    frame = pd.DataFrame(lines, columns=["pair", *columns.values()])
    return table(frame, "Lemma 1 on two pairs, measured as this page was made.", "tbl-live-lemma")


def plain_network(inputs: int = 12) -> tuple[MLP, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A small random perceptron without biases (float64), and random images that it labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("base network"))
        network = MLP(inputs, 16, 5).double().eval()
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.bias.data.zero_()
    x = torch.randn(60, inputs, generator=generator("base images"), dtype=torch.float64)
    return network, [(x, network(x).argmax(1))]


def dropped_factor(scale: float = 10.0) -> tuple[float, float, float]:
    """Half-way between one function and itself with two layers rescaled: c at the logits as
    measured and by the formula, and 1 - cosine, 0 where LLFC is exact.
    """
    network, images = plain_network()
    rows = measure(network, rescaled(network, scale), images, [LLFC((0.5,))])
    found = {r.quantity: r.mean for r in rows if r.site == "logits" and r.role == "value"}
    return found["set_c"], 4 / ((1 + scale) * (1 + 1 / scale)), found["1-cos_alpha"]


def converse() -> tuple[float, np.ndarray]:
    """Of a pair that is connected without LLFC: its error barrier, and rho at every layer."""
    network, images = plain_network()
    grid = (0.0, 0.25, 0.5, 0.75, 1.0)
    rows = measure(*without_llfc(network), images, [LLFC((0.5,)), Barrier(grid)])
    rho = [r.mean**0.5 for r in rows if r.quantity == "cos_ratio" and r.role == "value"]
    return next(r.mean for r in rows if r.quantity == "error_barrier"), np.array(rho)
