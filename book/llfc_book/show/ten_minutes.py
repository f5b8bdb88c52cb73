"""Figures of "LLFC in ten minutes": two small networks and the line between them, and how a figure
of the book is read.
"""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from llfc_book import evidence as ev
from llfc_book.show import b2, front, style
from llfc_book.show.style import LOOKS, Series, Shown
from llfc_book.study import pairs
from llfc_book.study.pairs import Pair
from llfc_book.study.settings import recipe
from llfc_lib.models.view import View
from llfc_lib.models.weights import interpolate
from llfc_lib.training.loop import new_network

LAYER = "relu3"  # the last hidden layer of a perceptron
WORDS: Any = {"textcoords": "offset points", "ha": "center", "fontsize": style.SMALL}
STEPS = np.linspace(-0.25, 1.25, 19)  # of the plane's grid, in lengths of the line
LEVELS = [0, 5, 10, 20, 40, 100]  # of the error, in percent
SHADES = ["#ffffff", "#ececec", "#d5d5d5", "#b5b5b5", "#939393"]


def small_pair(profile: str, device: str) -> Pair:
    """The first pair of spawned perceptrons of a profile, with a network of another start."""
    return pairs.load_pair(recipe(front.SPAWNED, profile), 0, device)


def two_networks(profile: str, device: str) -> Shown:
    """The plane of weights through A, B and their start with its error; and the features half-
    way, image by image, between spawned ends and between ends of different starts.
    """
    pair = small_pair(profile, device)
    figure, (plane, near, far) = style.sheet(3, 1, 2.4)
    told = [f"error on the line {style.span(_plane(plane, pair))} %"]
    for axis, who, what, head in (
        (near, "B", "pair", "features, spawned\n(proxy)"),
        (far, "independent", "independent", "features, another start\n(proxy)"),
    ):
        along, off = half_way(pair, who)
        axis.plot(along, off, LOOKS[what].marker, color=LOOKS[what].colour, markersize=2, alpha=0.4)
        axis.plot([-0.5, 0.5], [0, 0], "ko-", linewidth=1, markersize=4, clip_on=False)
        axis.plot([0], [0], "k|", markersize=9)
        for x, word in ((-0.5, "$f_B$"), (0, "mean"), (0.5, "$f_A$")):
            axis.annotate(word, (x, 0), (0, -14), **WORDS)
        axis.set(xlim=(-0.7, 0.7), ylim=(0, 0.5), xticks=[], ylabel="off the line")
        style.title(axis, head)
        off_mean = np.hypot(along, off).mean()
        told.append(f"{' '.join(head.split())}: mean distance from the mean {off_mean:.2f}")
    return style.shown(figure, "Two small perceptrons, their weights and features", told)


def _plane(axis: Axes, pair: Pair) -> np.ndarray:
    """Draws the plane; returns the errors (%) along the line."""
    start = new_network(pair.setting, pair.data, pair.index).to(pair.device, pair.dtype)
    flat_a, flat_b, flat_s = (
        parameters_to_vector(net.parameters()).detach() for net in (*pair.in_dtype("A", "B"), start)
    )
    line, up = flat_a - flat_b, flat_s - flat_b
    share = float(up @ line / (line @ line))
    up = up - share * line
    height = float(up.norm() / line.norm())
    x, y = next(iter(pair.loader("test", 500)))

    def error(k: float, h: float) -> float:  # B at (0, 0), A at (1, 0), in lengths of the line
        vector_to_parameters(flat_b + k * line + (h / height) * up, start.parameters())
        with torch.no_grad():
            return 100 * float((start(x).argmax(1) != y).double().mean())

    heights = np.linspace(-0.35, 1.2 * height, 15)
    grid = STEPS, heights, np.array([[error(k, h) for k in STEPS] for h in heights])
    axis.contourf(*grid, levels=LEVELS, colors=SHADES)
    lines = axis.contour(*grid, levels=LEVELS[1:-1], colors="#777777", linewidths=0.5)
    axis.clabel(lines, fontsize=style.SMALL, fmt="%g")
    look = LOOKS["pair"]
    axis.plot([0, 1], [0, 0], look.marker, linestyle="-", color=look.colour, linewidth=1.8)
    axis.plot([0.5], [0], "o", color=look.colour, markerfacecolor="white")
    axis.plot([share], [height], LOOKS["start"].marker, color=LOOKS["start"].colour)
    for place, word in (((0, 0), "B"), ((1, 0), "A"), ((0.5, 0), "half-way")):
        axis.annotate(word, place, (0, -13), **WORDS)
    axis.annotate("start", (share, height), (20, -3), **WORDS)
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    style.title(axis, "weights: error (%)\n(proxy)")
    return np.array([error(k, 0) for k in np.linspace(0, 1, 11)])


def half_way(pair: Pair, who: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the features half-way from A to ``who`` lie, image by image and up to a factor: along
    the way from the mean, and off it, as shares of the distance between the ends' features.
    """
    first, second = (View(net) for net in pair.in_dtype("A", who))
    between = first.with_state(interpolate(first.state(), second.state(), 0.5))
    x, _ = next(iter(pair.loader("test", 500)))
    f_a, f_b, f = (view.run(x, {LAYER})[LAYER] for view in (first, second, between))
    mean, way = (f_a + f_b) / 2, f_a - f_b
    factor = (f * mean).sum(1) / (f * f).sum(1)  # Definition 2's c, by least squares
    e, length = factor[:, None] * f - mean, (way * way).sum(1)
    along = (e * way).sum(1) / length
    off = (e - along[:, None] * way).norm(dim=1) / length.sqrt()
    return along.cpu().numpy(), off.cpu().numpy()


def how_to_read() -> Shown:
    """One panel of the book, with what its marks mean."""
    m = b2.held()[0]
    spread = m.of("rho", "null", "spread").groupby(["pair", "site"]).mean()
    sites = ev.sites_of(ev.hidden(spread))[:3]
    groups, bands = (ev.by_site(values, sites) for values in (m.of("rho"), spread))
    figure, (axis,) = style.sheet(1, 1, 2.4)
    series = [Series("spread", bands, band=True), Series("pair", groups)]
    told = style.panel(axis, sites, series, m.tag, "distance from the mean, ρ", b2.ENDPOINT)
    axis.set(ylim=(0, 0.6), xlim=(-0.5, 6))
    for height, place, words in (
        (0.56, (2.6, 0.5), "dotted line: an endpoint in the middle's place"),
        (0.4, (2.05, groups[2].max()), "dots: faint for each pair, full for their mean"),
        (0.1, (2.4, bands[2].min()), "band: partners, smallest to largest, line at the mean"),
    ):
        how: Any = {"arrowstyle": "-", "color": "#777777", "linewidth": 0.7, "relpos": (0, 0.5)}
        axis.annotate(words, place, (2.75, height), fontsize=8, va="center", arrowprops=how)
    axis.annotate("title: network, how the pair is made, scale, pairs", (2.75, 0.25), fontsize=8)
    return style.shown(figure, "A panel with its marks explained", [told])
