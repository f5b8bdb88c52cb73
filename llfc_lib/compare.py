"""Your own pair of networks in one call: matched, interpolated and measured, every number beside
its nulls.

``print(compare(net_a, net_b, test_loader, train_loader=train_loader))`` needs two networks of one
architecture and images, and nothing else of this project. :func:`load_weights` fills a network from
a file first.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llfc_lib.matching import METHODS
from llfc_lib.matching.methods import Found
from llfc_lib.matching.symmetry import Permutations, Symmetry, check_symmetry, permuted, symmetry
from llfc_lib.metrics import (
    LLFC,
    Barrier,
    Commutativity,
    Row,
    Stitching,
    displacement_null,
    measure,
)
from llfc_lib.metrics.barrier import GRID, NEEDED
from llfc_lib.metrics.measure import NO_IMAGES, Batch, Loader, Metric, Pair, exact_float32
from llfc_lib.models.files import load_weights
from llfc_lib.models.statistics import has_statistics, recomputed
from llfc_lib.models.view import ACTIVATIONS, MAP_MODULES, View
from llfc_lib.models.weights import interpolate
from llfc_lib.progress import Progress

__all__ = ["Attempt", "Comparison", "DeadUnits", "compare", "load_weights"]

if TYPE_CHECKING:
    from llfc_lib.figures import Shown

CONTROL = "before matching"
CALIBRATED = 2000  # training images that running statistics are recomputed on
CHECKED = 4  # images on which f(pi(B)) = f(B) is checked, in float64
#: What a table shows, in this order; ``rows`` have the rest.
TOLD = (
    "error",
    "loss",
    "error_barrier_chord",
    "loss_barrier_chord",
    "disagreement",
    "weight_distance",
    "cos_ratio",
    "1-cos_alpha",
    "1-cos_AB",
    "1-coef_alpha",
    "dist_com",
    "dist_W",
    "dist_H",
    "stitched_error",
    "dead_units_A",
    "dead_units_B",
    "zero_features",
)
#: 0 is perfect structure, so that a share of the null says something.
FROM_ZERO = ("cos_ratio", "1-cos_alpha", "dist_com")
LINE = 88  # characters: what a terminal shows
ENDS = {1.0: "A", 0.5: "half-way", 0.0: "B"}


@dataclass
class Attempt:
    """One matching: ``objective`` is what it maximised, ``loss`` the training loss half-way (nats),
    where it was asked.
    """

    permutations: dict[str, Tensor]
    objective: float
    loss: float | None = None

    def rank(self) -> float:
        """What attempts are compared by; the lowest is chosen."""
        return -self.objective if self.loss is None else self.loss


@dataclass
class Comparison:
    """What :func:`compare` found. ``rows`` hold every number; ``partner`` is the network that A was
    measured with: B with its units in the order of ``permutations``, B itself without a matching.
    ``attempts`` has every matching, of which number ``chosen`` was taken. ``draws`` displaced
    partners were asked for; those that could not be put as far from A as B are left out.
    """

    rows: list[Row]
    images: int
    matching: str | None
    partner: nn.Module
    draws: int = 0
    symmetry: Symmetry | None = None
    attempts: list[Attempt] = field(default_factory=list)
    chosen: int = 0

    @property
    def permutations(self) -> dict[str, Tensor]:
        """Those of the matching that was taken, by name (new unit i of B is its old unit p[i]);
        empty without a matching."""
        return self.attempts[self.chosen].permutations if self.attempts else {}

    def frame(self) -> pd.DataFrame:
        """The rows as a tidy table, a number a line."""
        return pd.DataFrame([asdict(row) for row in self.rows])

    def table(self, alpha: float = 0.5) -> pd.DataFrame:
        """A line for each quantity and place, at one alpha: the pair in the first column, nulls and
        control beside it.

        "pair / smallest null" is 1 where a number is no more than it would be without structure; a
        displaced partner's Dist_com, which grows with both its factors, is first brought to the
        pair's Dist_W Dist_H. "recomputed" are running statistics. Errors are fractions, losses
        nats; both are always given at A, half-way and at B.
        """
        lines: dict[tuple[str, str], dict[str, float]] = {}
        told = [row for row in self.rows if row.quantity in TOLD]
        for row in sorted(told, key=lambda row: TOLD.index(row.quantity)):
            is_curve = row.quantity in ("error", "loss")
            if row.alpha in (ENDS if is_curve else (None, alpha)):
                place = f"{row.site} {row.direction}".strip()
                if is_curve and row.alpha is not None:
                    place = ENDS[row.alpha]
                lines.setdefault((row.quantity, place), {})[_column(row)] = row.mean
        table = pd.DataFrame(
            list(lines.values()), pd.MultiIndex.from_tuples(lines, names=["quantity", "place"])
        )
        told_once = [name for name in table if not name.endswith(", recomputed")]
        nulls = [name for name in told_once if name.startswith("null: ")]
        from_zero = table.index.get_level_values("quantity").isin(FROM_ZERO)
        fair = table[nulls].copy()
        if "null: rotation matched" in fair and "dist_com" in table.index:
            w, h = table.loc["dist_W"], table.loc["dist_H"]
            turned = w["null: rotation matched"] * h["null: rotation matched"]
            size = (w["pair"] * h["pair"] / turned).rename(lambda place: ("dist_com", place))
            fair["null: rotation matched"] *= size.reindex(table.index).fillna(1.0)
        table.insert(1, "pair / smallest null", (table["pair"] / fair.min(axis=1)).where(from_zero))
        return table

    def figure(self) -> "Shown":
        """The standard figure: the way between the networks, LLFC, commutativity, stitching. It
        shows itself in a notebook; ``.figure`` is matplotlib's, ``.alt`` its description in
        words."""
        from llfc_lib.figures import figure

        return figure(self.frame(), self.title())

    def title(self) -> str:
        """How the pair was matched, on how many images it was measured, and how many displaced
        partners there are.
        """
        placed = next((row.n for row in self.rows if row.quantity == "t"), 0)
        partners = f", {placed} of {self.draws} displaced partners" if self.draws else ""
        how = f"{self.matching} matching" if self.matching else "not matched"
        return f"{how}, {self.images:,} images{partners}"

    def summary(self) -> str:
        """Every matching, and of every quantity the mean over its places beside the main null and
        control.
        """
        lines = [self.title()]
        for k, attempt in enumerate(self.attempts):
            loss = "" if attempt.loss is None else f", training loss half-way {attempt.loss:.4g}"
            chosen = ", chosen" if k == self.chosen else ""
            lines.append(f"  matching {k}: objective {attempt.objective:.6g}{loss}{chosen}")
        table = self.table().groupby(level="quantity", sort=False).mean()
        main = ("pair", "pair / smallest null", CONTROL, "null: rotation matched")
        shown = [name for name in table if name.split(",")[0] in main]
        plain = {"float_format": "{:.3g}".format, "na_rep": "", "line_width": LINE}
        short = table[shown].rename(columns={"pair / smallest null": "pair / null"})
        return "\n".join([*lines, short.to_string(**plain)])

    __str__ = summary


def _column(row: Row) -> str:
    name = f"null: {row.kind}" if row.role == "null" else row.kind or "pair"
    return name if row.statistics == "interpolated" else f"{name}, recomputed"


@exact_float32()
def compare(
    a: nn.Module,
    b: nn.Module,
    loader: Loader,
    matching: str | None = "weight",
    train_loader: Loader | None = None,
    seeds: int = 3,
    draws: int = 2,
    grid: Sequence[float] = GRID,
    dtype: torch.dtype | None = None,
    seed: object = 0,
) -> Comparison:
    """Match B to A, and measure the pair: barrier (Definition 1), LLFC (2), commutativity (4),
    stitching (B.4).

    ``loader`` and ``train_loader`` give (images, labels) on the networks' device, anew each time
    they are gone through. ``matching``: one of :data:`llfc_lib.matching.METHODS` ("weight",
    "activation", ...), or None for two networks of one checkpoint, whose units correspond already.
    It is run with ``seeds`` seeds, the orders in which weight matching visits permutations; of the
    results, the lowest training loss half-way is chosen (statistics recomputed, where there are
    any), without a ``train_loader`` the highest objective. Methods see the images of
    ``train_loader``, else of ``loader``. With a ``train_loader``, what lies between is measured a
    second time, running statistics recomputed on up to 2,000 of its images. Nulls are those of the
    metrics, and ``draws`` partners displaced at random, as far as B at the last hidden site (0:
    none). The control of a matched pair is the pair before matching. ``dtype`` measures in another
    precision, say float64. Neither network is changed.

    ValueError for an unknown matching, networks that differ, NaN weights, a loader that is empty or
    can be used only once, labels out of range; UntraceableError and UnsupportedOperation (of
    matchings) for a network that cannot be followed; RuntimeError if f(pi(B)) is not f(B). Units
    that respond to no image are counted in a warning.

    Source: Definitions 1, 2 and 4, measured as in B.2 to B.4; matchings of Ainsworth et al. (2023);
    nulls and controls are ours.
    """
    method = None if matching is None else METHODS.get(matching)
    if seeds < 1:
        raise ValueError(f"seeds = {seeds}: there must be at least one")
    if draws < 0:
        raise ValueError(f"draws = {draws}: there cannot be fewer than none")
    Barrier(grid)  # a wrong grid is refused now, not after long work
    pair, x, calibration = Pair(a, b), _first_images(loader, "loader"), None
    _check_same_layers(pair)
    _check_same_ties(a, b)
    pair.check_traced(x)
    if train_loader is not None:
        _first_images(train_loader, "train_loader")
        calibration = _calibration(train_loader) if has_statistics(pair.a) else None

    found, partner = Comparison([], 0, matching, b, draws), pair.b
    if method is not None:
        found.symmetry = sym = symmetry(pair.a, x)
        # statistics of 0 and 1 would hide a mistake
        check_symmetry(b, sym, x[:CHECKED], randomise=True, seed=seed)
        images, loss = loader, None
        if train_loader is not None:
            images, loss = (
                train_loader,
                partial(_loss_half_way, pair, sym, train_loader, calibration),
            )
        found.attempts = _attempts(
            partial(method, sym, a, b, images), seeds, seed, loss, f"{matching} matching"
        )
        found.chosen = min(range(len(found.attempts)), key=lambda k: found.attempts[k].rank())
        check_symmetry(b, sym, x[:CHECKED], found.permutations)
        found.partner = permuted(b, sym, found.permutations)
        partner = pair.b.with_state(sym.apply(pair.state_b, found.permutations))

    def measured(other: View, *more: Metric) -> list[Row]:
        rows = measure(pair.a, other, loader, [*_metrics(grid), *more], dtype)
        if calibration is not None:
            rows += measure(pair.a, other, loader, [LLFC(), Barrier(grid)], dtype, calibration)
        return rows

    found.rows = measured(partner, DeadUnits())
    found.images = next(row.n or 0 for row in found.rows if row.quantity == "disagreement")
    if matching != "activation":  # which has said so already
        _warn_of_dead_units(found.rows)
    if matching is not None:
        found.rows += [
            replace(row, role="control", kind=f"{CONTROL}: {row.kind}" if row.kind else CONTROL)
            for row in measured(pair.b)
        ]
    if draws and len(pair.a.sites) > 1:
        found.rows += displacement_null(
            pair.a,
            partner,
            loader,
            lambda: _metrics(NEEDED, nulls=False),
            "rotation",
            matched=True,
            draws=draws,
            seed=seed,
            dtype=dtype,
            calibration=calibration,
        )
    return found


def _metrics(grid: Sequence[float], nulls: bool = True) -> list[Metric]:
    return [LLFC(), Commutativity(nulls=nulls), Stitching(), Barrier(grid)]


def _attempts(
    method: Callable[[object], Found],
    seeds: int,
    seed: object,
    loss: Callable[[Permutations], float] | None,
    title: str,
) -> list[Attempt]:
    attempts = []
    with Progress(title, seeds) as bar:
        for k in range(seeds):
            result = method((seed, k))
            attempts.append(Attempt(result.permutations, result.objective))
            if result.optimal:
                break
            if loss is not None:
                attempts[k].loss = loss(result.permutations)
            bar.advance(f"objective {result.objective:.6g}")
    return attempts


def _loss_half_way(
    pair: Pair,
    sym: Symmetry,
    loader: Loader,
    calibration: Sequence[Tensor] | None,
    permutations: Permutations,
) -> float:
    """Mean cross-entropy (nats) of (A + pi(B)) / 2."""
    moved = sym.apply(pair.state_b, permutations)
    half = pair.a.with_state(interpolate(pair.state_a, moved, 0.5))
    half = half if calibration is None else recomputed(half, calibration)
    total, n = 0.0, 0
    for x, y in loader:
        total, n = total + float(F.cross_entropy(half(x), y, reduction="sum")), n + len(y)
    return total / n


def _warn_of_dead_units(rows: Sequence[Row]) -> None:
    dead = [
        f"{row.mean} of {row.quantity[-1]} at {row.site!r}"
        for row in rows
        if row.quantity.startswith("dead_units")
    ]
    if dead:
        told = f"units that respond to no image: {', '.join(dead)}"
        warnings.warn(told, stacklevel=4)  # the line that called compare, behind its decorator


def _first_images(loader: Loader, name: str) -> Tensor:
    batches = iter(loader)
    if batches is loader:
        raise ValueError(
            f"{name} is an iterator and gives its images only once; pass a list or a DataLoader"
        )
    first = next(batches, None)
    if first is None:
        raise ValueError(f"{name}: {NO_IMAGES}")
    if (
        not isinstance(first, (tuple, list))
        or len(first) != 2
        or not all(isinstance(part, Tensor) for part in first)
    ):
        raise ValueError(
            f"{name} must give (images, labels), two tensors; its first batch is a"
            f" {type(first).__name__}"
            f"{f' of {len(first)}' if isinstance(first, (tuple, list)) else ''}"
        )
    x, y = first
    if not len(x):
        raise ValueError(f"{name}: {NO_IMAGES}")
    if y.ndim != 1 or y.is_floating_point():
        raise ValueError(
            f"{name}: labels must be class numbers, one integer an image; they are {_told(y)}"
            f" {y.dtype}"
        )
    if x.is_floating_point() and not x.isfinite().all():
        raise ValueError(f"{name}: images hold NaN or infinity")
    return x


def _calibration(loader: Loader) -> list[Tensor]:
    """The first batches, all of one size, since each counts alike."""
    kept: list[Tensor] = []
    for x, _ in loader:
        if kept and len(x) != len(kept[0]):
            break
        kept.append(x)
        if len(kept) * len(x) >= CALIBRATED:
            break
    return kept


def _check_same_layers(pair: Pair) -> None:
    """Shapes do not show everything: an activation or a stride of A would silently take the place
    of B's.
    """
    in_a, in_b = (
        {n.name: n.format_node() for n in view.nodes}
        | {name: _described(layer) for name, layer in view.module.named_modules()}
        for view in (pair.a, pair.b)
    )
    for name, what in in_a.items():
        if in_b.get(name) != what:
            raise ValueError(
                f"the networks differ: {name!r} is {what} in A and {in_b.get(name)} in B; they must"
                " be of one architecture"
            )


def _described(layer: nn.Module) -> str:
    settings = layer.extra_repr() if isinstance(layer, (*MAP_MODULES, *ACTIVATIONS)) else ""
    return f"{type(layer).__name__}({settings})"


def _check_same_ties(a: nn.Module, b: nn.Module) -> None:
    if (one := _tied(a)) != (other := _tied(b)):
        names = sorted(min(one ^ other, key=sorted))
        raise ValueError(
            f"the networks differ: {' and '.join(map(repr, names))} are one parameter in only one"
            " of them; they must be of one architecture"
        )


def _tied(network: nn.Module) -> set[frozenset[str]]:
    """The names that stand for one parameter."""
    names: dict[int, set[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {frozenset(group) for group in names.values() if len(group) > 1}


class DeadUnits:
    """ "dead_units_A" and "dead_units_B": how many units of a site respond to none of the images,
    where there are any.
    """

    def start(self, pair: Pair) -> None:
        self.nodes = {s.name: s.node for s in pair.a.sites if s.node != pair.a.output}
        pair.want(*self.nodes.values())
        self.alive: dict[tuple[str, str], Tensor] = {}

    def update(self, batch: Batch) -> None:
        for name, node in self.nodes.items():
            for who, h in (("A", batch.a[node]), ("B", batch.b[node])):
                responds = (h != 0).movedim(2 if h.ndim == 3 else 1, -1).flatten(0, -2).any(0)
                self.alive[name, who] = (
                    self.alive[name, who] | responds if (name, who) in self.alive else responds
                )

    def rows(self) -> list[Row]:
        count = {key: int((~alive).sum()) for key, alive in self.alive.items()}
        return [Row(f"dead_units_{who}", n, site=name) for (name, who), n in count.items() if n]


def _told(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
