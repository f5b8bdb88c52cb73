"""The displacement null: how linear would A be with a partner that training did not make?

B is replaced by A + t R(theta_B - theta_A), R random, layer by layer. Nothing of training is kept
but the size of the difference in each layer, so what such partners show as well is no mark of
training.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from llfc_lib.metrics.llfc import one_minus_cos
from llfc_lib.metrics.measure import NO_IMAGES, Loader, Metric, Network, Pair, measure
from llfc_lib.metrics.rows import Row
from llfc_lib.models.statistics import recomputed
from llfc_lib.models.view import View
from llfc_lib.models.weights import State
from llfc_lib.progress import Progress
from llfc_lib.streams import numpy_generator

KINDS = ("rotation", "entries", "gaussian")
MATCH_IMAGES = 2000  # enough to fix a mean distance to the tolerance below
MATCH_TOLERANCE = 0.02


def random_difference(
    a: State, b: State, kind: str, key: Sequence[object], buffers: Collection[str] = ()
) -> dict[str, Tensor]:
    """R(theta_B - theta_A) in float64, per layer; ``key`` names the draw. Buffers (running
    statistics) get 0.

    "rotation": one random rotation of the layer's output units turns its weight and its bias
    together, which keeps norms, singular values and row space; "entries": the entries of each
    tensor in another order; "gaussian": independent normal entries, scaled to the norm of each
    tensor. ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown displacement {kind!r}; choose one of {KINDS}")
    moved, turns = {}, {}
    for name, value in a.items():
        if name in buffers or not value.is_floating_point():
            continue
        difference = (b[name].double() - value.double()).cpu().numpy()
        layer = name.rpartition(".")[0]
        if kind == "rotation":
            units = difference.shape[0]
            if (layer, units) not in turns:
                turns[layer, units] = _rotation(units, numpy_generator(*key, kind, layer, units))
            new = turns[layer, units] @ difference.reshape(units, -1)
        elif kind == "entries":
            new = numpy_generator(*key, kind, name).permutation(difference.ravel())
        else:
            new = numpy_generator(*key, kind, name).standard_normal(difference.size)
            new *= np.linalg.norm(difference) / (np.linalg.norm(new) or 1.0)
        moved[name] = torch.from_numpy(new.reshape(difference.shape)).to(value.device)
    return moved


def _rotation(n: int, rng: np.random.Generator) -> np.ndarray:
    """Uniformly distributed orthogonal matrix: QR of a Gaussian one, signs fixed."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def displace(a: State, moved: State, t: float) -> dict[str, Tensor]:
    """A + t * moved, in A's precision; what ``moved`` lacks stays A's."""
    return {
        name: (value.double() + t * moved[name]).to(value.dtype) if name in moved else value.clone()
        for name, value in a.items()
    }


def partner_of(view: View, moved: State, t: float, calibration: Sequence[Tensor] | None) -> View:
    """A + t * moved as a network, its running statistics recomputed on ``calibration`` if there is
    one.
    """
    partner = view.with_state(displace(view.state(), moved, t))
    return partner if calibration is None else recomputed(partner, calibration)


def matched_scale(
    view: View,
    moved: State,
    images: Tensor,
    target: float,
    calibration: Sequence[Tensor] | None = None,
) -> float:
    """The t at which the mean 1-cos of A and A + t * moved at the last hidden site equals
    ``target``.

    Found by bisection on log t to a relative tolerance of 2 %; NaN if no t between 2^-12 and 2^12
    reaches it.
    """
    node = last_hidden(view)
    own = view.run(images, {node})[node]

    def distance(t: float) -> float:
        partner = partner_of(view, moved, t, calibration)
        return float(one_minus_cos(own, partner.run(images, {node})[node]).mean())

    if target <= 0:  # the pair does not differ there
        return math.nan
    low = high = 1.0  # then a bracket: distance(low) < target <= distance(high)
    if distance(1.0) < target:
        while distance(high := 2 * high) < target:
            low = high
            if high > 2**12:
                return math.nan
    else:
        while distance(low := low / 2) >= target:
            high = low
            if low < 2**-12:
                return math.nan
    for _ in range(60):
        t = math.sqrt(low * high)
        value = distance(t)
        if abs(value / target - 1) <= MATCH_TOLERANCE:
            return t
        low, high = (t, high) if value < target else (low, t)
    return math.nan


def last_hidden(view: View) -> str:
    """The node of the last site before the logits. ValueError for a network without one."""
    hidden = [site.node for site in view.sites if site.node != view.output]
    if not hidden:
        raise ValueError("the network has no hidden site to match distances at")
    return hidden[-1]


def displacement_null(
    a: Network,
    b: Network,
    loader: Loader,
    make_metrics: Callable[[], Sequence[Metric]],
    kind: str,
    matched: bool = False,
    draws: int = 10,
    seed: object = 0,
    dtype: torch.dtype | None = None,
    calibration: Sequence[Tensor] | None = None,
) -> list[Row]:
    """Every quantity of ``make_metrics`` for A and ``draws`` displaced partners: mean and std over
    draws, n = draws.

    Rows have role "null" and kind "<kind> t=1" or "<kind> matched", "t" is one of the quantities,
    and "error" at alpha 0 (from a Barrier among the metrics) is the partner's own. Draws whose
    distance cannot be matched are left out. On ``calibration``, batches of training images, each
    partner's running statistics are recomputed; else it has A's.
    """
    if calibration is not None and dtype is not None:
        calibration = [x.to(dtype) for x in calibration]
    pair = Pair(a, b, dtype)
    view, name = pair.a, f"{kind} {'matched' if matched else 't=1'}"
    buffers = {n for n, _ in view.module.named_buffers()}
    images, node = _first_images(loader, dtype), last_hidden(view)
    features = [v.run(images, {node})[node] for v in (view, pair.b)]
    target = float(one_minus_cos(*features).mean())
    found: dict[tuple, list[float]] = {}
    with Progress(f"displaced partners, {name}", draws) as bar:
        for draw in range(draws):
            moved = random_difference(pair.state_a, pair.state_b, kind, (seed, draw), buffers)
            t = matched_scale(view, moved, images, target, calibration) if matched else 1.0
            bar.advance(f"t = {t:.3g}")
            if math.isnan(t):
                continue
            partner = partner_of(view, moved, t, calibration)
            found.setdefault(("t", "", None, ""), []).append(t)
            for row in measure(view, partner, loader, make_metrics(), dtype):
                if row.role == "value":
                    place = (row.quantity, row.site, row.alpha, row.direction)
                    found.setdefault(place, []).append(row.mean)
    rows = []
    for (quantity, site, alpha, direction), values in found.items():
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        row = Row(quantity, float(np.mean(values)), std, len(values), site, alpha, direction)
        rows.append(replace(row, role="null", kind=name))
    return rows


def _first_images(loader: Loader, dtype: torch.dtype | None) -> Tensor:
    kept, n = [], 0
    for x, _ in loader:
        kept.append(x)
        n += len(x)
        if n >= MATCH_IMAGES:
            break
    if not kept:
        raise ValueError(NO_IMAGES)
    images = torch.cat(kept)[:MATCH_IMAGES]
    return images if dtype is None else images.to(dtype)
