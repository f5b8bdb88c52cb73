"""Networks brought together by a permutation of B's units: found once a pair, kept, shipped."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llfc_book.study import pairs
from llfc_book.study.pairs import Pair
from llfc_book.study.settings import recipe
from llfc_lib.data import Dataset
from llfc_lib.matching import (
    METHODS,
    Permutations,
    Symmetry,
    activation_matching,
    check_symmetry,
    objective,
    permuted,
    straight_through,
    symmetry,
    weight_matching,
)
from llfc_lib.metrics.measure import Loader
from llfc_lib.metrics.rows import Row
from llfc_lib.models.statistics import recomputed
from llfc_lib.models.view import View
from llfc_lib.models.weights import interpolate
from llfc_lib.streams import generator

CHECKED_ON = 8  # images on which f(pi(B)) = f(B) is checked before every experiment


def shipped_permutation(profile: str, name: str, pair: int) -> Path:
    """Where the pair's permutations lie in the tracked tree."""
    return pairs.ENDPOINTS / profile / f"{name}-{pair}.permutation.json"


@dataclass(frozen=True)
class TrainingImages:
    """Normalised batches of training images without augmentation, in a new order every time they
    are asked for.
    """

    data: Dataset
    images: Tensor
    batch: int
    stream: str
    dtype: torch.dtype
    epoch: list[int]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.epoch[0] += 1
        order = torch.randperm(len(self.images), generator=generator(self.stream, self.epoch[0]))
        for index in self.images[order].to(self.data.x_train.device).split(self.batch):
            yield (
                self.data.normalise(self.data.x_train[index], self.dtype),
                self.data.y_train[index],
            )


@dataclass
class Search:
    """What a method looks for an order with, and the ``rows`` on how it found it. ``known`` is an
    order found before.
    """

    pair: Pair
    sym: Symmetry
    a: nn.Module
    b: nn.Module
    known: Permutations | None
    rows: list[Row] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """The method's own."""
        return dict(self.pair.setting.matching_args)

    @property
    def loader(self) -> Loader:
        """Training images."""
        return self.pair.loader("train", self.pair.setting.plan.train_first)

    def loss_of(self, permutations: Permutations) -> float:
        """The training loss half-way under an order."""
        images, state = self.pair.calibration, self.b.state_dict()
        images = None if images is None else [x.to(self.pair.dtype) for x in images]
        return half_way_loss(self.a, self.sym, state, permutations, self.loader, images)


def _activation(search: Search) -> dict[str, Tensor]:
    found = activation_matching(search.sym, search.a, search.b, search.loader)
    search.rows += [
        Row("dead_units", float(count), n=search.sym[where].size, site=where, kind=who)
        for where, counts in found.dead.items()
        for who, count in zip("AB", counts)
    ]
    known = (
        search.known
    )  # units that respond to no image may stand anywhere: rounding decides where
    if known is not None and math.isclose(found.objective_of(known), found.objective, rel_tol=1e-9):
        return dict(known)
    return found.permutations


def _weight(search: Search) -> dict[str, Tensor]:
    state_a, state_b = search.a.state_dict(), search.b.state_dict()
    tried = [
        weight_matching(search.sym, state_a, state_b, seed=f"{search.pair.name}/{k}")
        for k in range(search.settings["seeds"])
    ]
    losses = [search.loss_of(m.permutations) for m in tried]
    for k, (m, loss) in enumerate(zip(tried, losses)):
        search.rows += [
            Row("objective", m.objective, kind=f"seed {k}"),
            Row("sweeps", float(m.sweeps), kind=f"seed {k}"),
            Row("half_way_loss", loss, kind=f"seed {k}"),
        ]
    return tried[losses.index(min(losses))].permutations


def _ste(search: Search) -> dict[str, Tensor]:
    pair, settings, data = search.pair, search.settings, search.pair.data
    order = torch.randperm(len(data.y_train), generator=generator("held out", pair.setting.name))
    held, rest = order[: settings["held_out"]], order[settings["held_out"] :]
    stream = f"ste/{pair.name}"
    found = straight_through(
        search.sym,
        search.a,
        search.b,
        TrainingImages(data, rest, settings["batch"], stream, pair.dtype, [0]),
        list(TrainingImages(data, held, 1000, "held out", pair.dtype, [0])),
        settings["epochs"],
        settings["lr"],
        settings["momentum"],
        seed=pair.name,
        title=f"{pair.setting.title}, pair {pair.index}",
    )
    search.rows += [
        Row("held_out_loss", loss, epoch=epoch) for epoch, loss in enumerate(found.history)
    ]
    search.rows += [
        Row(quantity, float(getattr(found, quantity)))
        for quantity in ("matchings", "sweeps", "assignments", "changed")
    ]
    search.rows.append(Row("half_way_loss", search.loss_of(found.last), kind="last iterate"))
    return found.best


def _plainly(search: Search) -> dict[str, Tensor]:
    """Any other method that is registered: once, with nothing to tell but its order."""
    method = METHODS.get(search.pair.setting.matching)
    found = method(
        search.sym, search.a, search.b, search.loader, search.pair.name, **search.settings
    )
    return found.permutations


#: Methods of which the book tells more than the order.
SEARCHES = {"activation": _activation, "weight": _weight, "ste": _ste}


def find(pair: Pair, known: Permutations | None = None) -> tuple[dict[str, Tensor], list[Row]]:
    """The permutations that the setting's method finds for the pair, and rows on how it found them.

    "objective" is <A, pi(B)> ("seed k" where there are several), beside those of the order before
    and of a random one; "half_way_loss" the training loss of (A + pi(B)) / 2, with running
    statistics recomputed where there are any.

    ``known`` is an order found before, which is then returned and described. AssertionError if the
    method finds another one now: for activation matching a better or worse one, as units that
    respond to no image may stand anywhere, and rounding decides where. ValueError for an unknown
    method.
    """
    name, data = pair.setting.name, pair.data
    a, b = pair.in_dtype("A", "B")
    x, _ = next(iter(data.loader("test", CHECKED_ON, pair.dtype)))
    sym = symmetry(a, x)
    check_symmetry(b, sym, x)
    state_a, state_b = a.state_dict(), b.state_dict()
    search = Search(pair, sym, a, b, known)
    chosen = SEARCHES.get(pair.setting.matching, _plainly)(search)
    rows, loss_of = search.rows, search.loss_of
    other = [where for where, order in (known or {}).items() if not order.equal(chosen[where])]
    assert not other, f"{name}, pair {pair.index}: another order than the one known of {other}"
    rows += [
        Row("objective", objective(sym, state_a, state_b, chosen)),
        Row("half_way_loss", loss_of(chosen)),
    ]
    for kind, other in (
        ("before matching", sym.identity()),
        ("random order", sym.random(name, pair.index)),
    ):
        rows += [
            Row("objective", objective(sym, state_a, state_b, other), role="null", kind=kind),
            Row("half_way_loss", loss_of(other), role="null", kind=kind),
        ]
    check_symmetry(b, sym, x, chosen)
    return chosen, rows


@torch.no_grad()
def half_way_loss(
    a: nn.Module,
    sym: Symmetry,
    state_b: dict[str, Tensor],
    permutations: Permutations,
    loader: Loader,
    images: Sequence[Tensor] | None = None,
) -> float:
    """Mean cross-entropy (nats) of (A + pi(B)) / 2, with running statistics recomputed on the
    batches ``images``, if given.
    """
    middle = View(permuted(a, sym, {})).with_state(
        interpolate(a.state_dict(), sym.apply(state_b, permutations), 0.5)
    )
    middle = middle if images is None else recomputed(middle, images)
    total, n = 0.0, 0
    for x, y in loader:
        total, n = (
            total + float(F.cross_entropy(middle(x).double(), y, reduction="sum")),
            n + len(y),
        )
    return total / n


def as_text(permutations: Permutations) -> dict[str, list[int]]:
    """Permutations as JSON holds them."""
    return {name: p.tolist() for name, p in permutations.items()}


def from_text(found: dict[str, list[int]]) -> dict[str, Tensor]:
    """The inverse of :func:`as_text`."""
    return {name: torch.tensor(p) for name, p in found.items()}


def bring_together(pair: Pair, permutations: Permutations) -> Pair:
    """The pair as it is measured: "B" in the matching's order, "unmatched" as it was. Checks that
    both are one function.
    """
    nets = pair.nets
    x, _ = next(iter(pair.data.loader("test", CHECKED_ON)))
    sym = symmetry(nets["A"], x)
    check_symmetry(nets["B"], sym, x, permutations)
    together = {**nets, "B": permuted(nets["B"], sym, permutations), "unmatched": nets["B"]}
    return replace(pair, nets=together)


def of_pair(pair: Pair, name: str = "") -> dict[str, Tensor]:
    """The pair's permutations, those of the setting ``name`` of the same networks if it is given:
    as shipped, if they are of these very networks, else found now.
    """
    setting = recipe(name or pair.setting.name, pair.setting.profile)
    path = shipped_permutation(setting.profile, setting.name, pair.index)
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        members = setting.members(pair.index)
        here = {
            who: pairs.endpoint(setting.profile, setting.name, *members[who], pair.data).digest()
            for who in "AB"
        }
        if found["networks"] == here:
            return from_text(found["permutations"])
    return find(replace(pair, setting=setting))[0]
