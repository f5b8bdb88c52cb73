"""Networks brought together by a permutation of B's units: found once a pair, kept, shipped."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llfc_book.study import pairs
from llfc_book.study.pairs import Pair
from llfc_book.study.settings import RECIPES, Setting, recipe
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
    epoch: Iterator[int] = field(default_factory=lambda: count(1))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        draw = generator(self.stream, next(self.epoch))
        order = self.images[torch.randperm(len(self.images), generator=draw)]
        for index in order.to(self.data.x_train.device).split(self.batch):
            x, y = self.data.x_train[index], self.data.y_train[index]
            yield self.data.normalise(x, self.dtype), y


@dataclass
class Search:
    """What a method looks for an order with. ``known`` is an order found before."""

    pair: Pair
    sym: Symmetry
    a: nn.Module
    b: nn.Module
    known: Permutations | None

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


def _activation(search: Search) -> Permutations:
    found, known = activation_matching(search.sym, search.a, search.b, search.loader), search.known
    # units that respond to no image may stand anywhere: rounding decides where
    if known is not None and math.isclose(found.objective_of(known), found.objective, rel_tol=1e-9):
        return known
    return found.permutations


def _weight(search: Search) -> Permutations:
    """The order with the lowest training loss half-way, of several seeds'."""
    states = search.a.state_dict(), search.b.state_dict()
    tried = [
        weight_matching(search.sym, *states, seed=f"{search.pair.name}/{k}").permutations
        for k in range(search.settings["seeds"])
    ]
    return min(tried, key=search.loss_of)


def _ste(search: Search) -> Permutations:
    pair, settings, data = search.pair, search.settings, search.pair.data
    order = torch.randperm(len(data.y_train), generator=generator("held out", pair.setting.name))
    held, rest = order[: settings["held_out"]], order[settings["held_out"] :]
    return straight_through(
        search.sym,
        search.a,
        search.b,
        TrainingImages(data, rest, settings["batch"], f"ste/{pair.name}", pair.dtype),
        list(TrainingImages(data, held, 1000, "held out", pair.dtype)),
        settings["epochs"],
        settings["lr"],
        settings["momentum"],
        seed=pair.name,
        title=f"{pair.setting.title}, pair {pair.index}",
    ).best


def _plainly(search: Search) -> Permutations:
    """Any other method that is registered."""
    method, loader = METHODS.get(search.pair.setting.matching), search.loader
    found = method(search.sym, search.a, search.b, loader, search.pair.name, **search.settings)
    return found.permutations


#: Methods that the book runs in a way of its own.
SEARCHES = {"activation": _activation, "weight": _weight, "ste": _ste}


def find(pair: Pair, known: Permutations | None = None) -> tuple[dict[str, Tensor], list[Row]]:
    """The permutations that the setting's method finds for the pair, and rows on them, beside the
    order before and a random one: "objective" is <A, pi(B)>, "half_way_loss" the training loss of
    (A + pi(B)) / 2, with running statistics recomputed where there are any.

    ``known`` is an order found before, which is then returned and described. AssertionError if the
    method finds another one now: for activation matching a better or worse one, as units that
    respond to no image may stand anywhere, and rounding decides where. ValueError for an unknown
    method.
    """
    name = pair.setting.name
    a, b = pair.in_dtype("A", "B")
    x, _ = next(iter(pair.data.loader("test", CHECKED_ON, pair.dtype)))
    sym = symmetry(a, x)
    check_symmetry(b, sym, x)
    search = Search(pair, sym, a, b, known)
    chosen = dict(SEARCHES.get(pair.setting.matching, _plainly)(search))
    other = [where for where, order in (known or {}).items() if not order.equal(chosen[where])]
    assert not other, f"{name}, pair {pair.index}: another order than the one known of {other}"
    rows, states = [], (a.state_dict(), b.state_dict())
    for kind, order in {
        "": chosen,
        "before matching": sym.identity(),
        "random order": sym.random(name, pair.index),
    }.items():
        where = {"role": "null" if kind else "value", "kind": kind}
        rows += [
            Row("objective", objective(sym, *states, order), **where),
            Row("half_way_loss", search.loss_of(order), **where),
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
        total += float(F.cross_entropy(middle(x).double(), y, reduction="sum"))
        n += len(y)
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


def shipped_order(setting: Setting, index: int, data: Dataset) -> dict[str, Tensor] | None:
    """The pair's permutations as they are shipped, if they are of the very networks at hand."""
    path, members = (
        shipped_permutation(setting.profile, setting.name, index),
        setting.members(index),
    )
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    here = {who: pairs.digest(setting.profile, setting.name, *members[who], data) for who in "AB"}
    return from_text(found["permutations"]) if found["networks"] == here else None


def of_pair(pair: Pair, name: str = "") -> dict[str, Tensor]:
    """The pair's permutations, those of the setting ``name`` of the same networks if it is given:
    as shipped, else found now. B is not matched yet.
    """
    setting = recipe(name or pair.setting.name, pair.setting.profile)
    shipped = shipped_order(setting, pair.index, pair.data)
    return shipped or find(replace(pair, setting=setting))[0]


def orders_of_every_method(pair: Pair) -> dict[str, dict[str, Tensor]]:
    """The same by method, of all settings of the networks of a pair that was brought together."""
    before = replace(pair, nets={**pair.nets, "B": pair.nets["unmatched"]})
    same = {r.matching: name for name, r in RECIPES.items() if r.base == pair.setting.base}
    return {method: of_pair(before, name) for method, name in same.items()}
