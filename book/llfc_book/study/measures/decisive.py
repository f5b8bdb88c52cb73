"""Is LLFC more than closeness? rho against feature distance, for partners of several kinds at
several sizes.

Every kind answers one question. Where two curves lie on each other, what distinguishes the two
kinds makes no difference to linearity; so nothing has to be brought to one distance beforehand.
What is expected of the curves is written down in :mod:`llfc_book.claims.predictions`. Two more
kinds are in :mod:`llfc_book.study.measures.noise`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from llfc_book.study import pairs
from llfc_book.study.closeness import Linearity, Origin, cycle
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import register
from llfc_book.study.settings import Setting
from llfc_lib.matching import UnsupportedOperation, symmetry
from llfc_lib.metrics import Row
from llfc_lib.metrics.displacement import partner_of, random_difference
from llfc_lib.metrics.measure import Pair as TwoNetworks
from llfc_lib.models.view import View
from llfc_lib.progress import Progress
from llfc_lib.streams import numpy_generator
from llfc_lib.training.checkpoints import Checkpoint
from llfc_lib.training.loop import (
    evaluate,
    learning_rate,
    make_optimiser,
    new_network,
    prepare,
    speedups,
    train_epoch,
)

STEPS = tuple(k / 8 for k in range(1, 9))  # along the way from one network to another
SIZES = tuple(2.0 ** (k / 2) for k in range(-4, 5))  # 1/4 to 4 times |B - A|
NOISE_SIZES = tuple(2.0 ** (k / 2) for k in range(-10, 1))  # noise lies in directions that matter
SHARES = tuple(2.0**-k for k in range(5, -1, -1))  # of a group's units that change places
TUNED_FROM = (0.25, 0.5, 1.0, 2.0, 4.0)  # sizes t of the Gaussian step that is then trained

#: A partner that a step of ``size`` leads to; ``draw`` numbers the draws.
Make = Callable[[float, int], View]


def settings(setting: Setting) -> dict[str, Any]:
    """Sizes, draws and images; fewer through a convolutional net, where a look takes seconds."""
    thorough = setting.plan.thorough
    return {
        "images": setting.plan.first or 2000,
        "draws": 3 if thorough else 2,
        "sizes": list(SIZES if thorough else SIZES[::2]),
        "noise_sizes": list(NOISE_SIZES if thorough else NOISE_SIZES[::2]),
        "shares": list(SHARES if thorough else SHARES[1::2]),
        "tuned_from": list(TUNED_FROM),
        "tuned_epochs": 10 if thorough else 4,  # at most
    }


@dataclass(frozen=True)
class Arm:
    """A kind of partner: at which ``sizes`` it is made, how, and how often it is drawn. ``value``:
    it was trained as the pair was. ``same``: its partners are the same function, and have no
    distance at the logits.
    """

    kind: str
    sizes: Sequence[float]
    make: Make
    draws: int = 1
    value: bool = False
    same: bool = False


@dataclass(frozen=True)
class End:
    """One network of the pair (``who``), from which partners are made, and the ``other``."""

    pair: Pair
    who: str
    origin: Origin
    other: View

    @property
    def buffers(self) -> set[str]:
        """Names of what is no weight: no step is made there."""
        return {name for name, _ in self.origin.view.module.named_buffers()}

    def gaussian(self, *key: object) -> dict[str, Tensor]:
        """A Gaussian step with the norm of B - A in every tensor."""
        start, other = self.origin.view.state(), self.other.state()
        return random_difference(start, other, "gaussian", (self.pair.name, *key), self.buffers)

    def difference(self, goal: View) -> dict[str, Tensor]:
        """The step from here to ``goal``, in float64."""
        a, b = self.origin.view.state(), goal.state()
        return {
            name: b[name].double() - value.double()
            for name, value in a.items()
            if name not in self.buffers and value.is_floating_point()
        }

    def moved(self, step: Mapping[str, Tensor], size: float) -> View:
        """The partner ``size`` times ``step`` away, its running statistics recomputed."""
        return partner_of(self.origin.view, step, size, self.origin.calibration)

    def towards(self, kind: str, goal: nn.Module | View) -> Arm:
        """The way to ``goal``, in eight steps."""
        step = self.difference(goal if isinstance(goal, View) else View(goal).to(self.pair.dtype))
        return Arm(kind, STEPS, lambda size, draw: self.moved(step, size), value=True)

    def curve(self, arm: Arm) -> list[Row]:
        """What lies between this network and the arm's partners, size by size."""
        output, nodes = self.origin.view.output, self.origin.nodes
        sites = [site for site, node in nodes.items() if not (arm.same and node == output)]
        found: list[Row] = []
        for size in arm.sizes:
            looks = [self.origin.beside(arm.make(size, draw)) for draw in range(arm.draws)]
            found += self.rows(looks, sites, size, arm.kind, "value" if arm.value else "null")
        return found

    def rows(
        self,
        looks: Sequence[Linearity],
        sites: Sequence[str],
        size: float,
        kind: str,
        role: str = "null",
        **told: float,
    ) -> list[Row]:
        """Mean and std over ``looks`` (a draw each) of distance, rho and errors, and what else is
        ``told`` of the partner.
        """
        # of as many digits as a record keeps
        where = {"alpha": float(f"{size:.8g}"), "direction": f"from {self.who}"}
        where |= {"role": role, "kind": kind}
        found = [Row(quantity, value, **where) for quantity, value in told.items()]

        def add(quantity: str, values: Sequence[float], site: str = "") -> None:
            drawn = torch.tensor([v for v in values if math.isfinite(v)], dtype=torch.float64)
            if len(drawn):
                std = float(drawn.std()) if len(drawn) > 1 else None
                found.append(Row(quantity, float(drawn.mean()), std, len(drawn), site, **where))

        for site in sites:
            add("distance", [look.distance[site] for look in looks], site)
            add("rho", [look.rho[site] for look in looks], site)
        add("partner_error", [look.errors[1] for look in looks])
        add("middle_error", [look.errors[2] for look in looks])
        return found

    def trained_on(self, network: nn.Module, size: float, kind: str, **told: float) -> list[Row]:
        """The same of a ``network`` that was just trained."""
        partner = View(network.eval()).to(self.pair.dtype)
        if self.origin.calibration is not None:
            partner = partner_of(partner, {}, 0.0, self.origin.calibration)
        looks = [self.origin.beside(partner)]
        return self.rows(looks, list(self.origin.nodes), size, kind, **told)


def ends_of(pair: Pair) -> Iterator[End]:
    """A, then B."""
    loader = list(pair.loader("test", settings(pair.setting)["images"]))
    images = pair.calibration
    calibration = None if images is None else [x.to(pair.dtype) for x in images]
    two = TwoNetworks(pair.nets["A"], pair.nets["B"], pair.dtype, calibration)
    nodes = two.a.features(None)
    with Progress(f"partners of {pair.name}", 2) as bar:
        for who, start, other in (("A", two.a, two.b), ("B", two.b, two.a)):
            yield End(pair, who, Origin(start, loader, nodes, calibration), other)
            bar.advance(f"from {who}")


def _live(pair: Pair) -> list[Row]:
    """Without what is trained: that has other bits on another processor."""
    return rows(pair, trained=False)


@register("decisive", members=("A", "B", "independent"), settings=settings, live=_live)
def rows(pair: Pair, trained: bool = True) -> list[Row]:
    """ "rho" and "distance" per site between A and partners of every kind, and between B and such;
    ``alpha`` is the size of the step, ``direction`` which end it starts from, mean and std over
    draws.

    - "B": on the way from A to B; "C": to a third child of the same start (where that is here);
      "independent": to a network of another start. Sizes are shares of the way.
    - "G": A + t G, G Gaussian with the norm of B - A in every tensor. Sizes are t.
    - "P": the same function, some units of every group that may be permuted in a cycle. Sizes are
      shares of the units.
    - "T": "G" trained on at the last learning rate, for an epoch at least and until its training
      loss is at most the larger of A's and B's; "tuned_epochs", "tuned_loss" and "reached" tell how
      that went.

    ``trained`` False leaves out C and T.
    """
    found: list[Row] = []
    for end in ends_of(pair):
        for arm in _arms(end):
            found += end.curve(arm)
        # tuning a convolutional net takes many minutes: from A alone
        if trained and (end.who == "A" or pair.setting.plan.thorough):
            for size, network, how in tuned(end, TUNED_FROM):
                found += end.trained_on(network, size, "T", **how)
        if trained and end.who == "A" and (third := _third(pair)) is not None:
            found += end.curve(end.towards("C", third))
    return found


def _arms(end: End) -> Iterator[Arm]:
    """The kinds that need no training."""
    pair, who, told = end.pair, end.who, settings(end.pair.setting)
    yield end.towards("B", end.other)
    if who == "A" and "independent" in pair.nets:
        yield end.towards("independent", pair.nets["independent"])
    yield Arm(
        "G",
        told["sizes"],
        lambda size, draw: end.moved(end.gaussian("G", who, draw), size),
        told["draws"],
    )
    with suppress(UnsupportedOperation):
        yield Arm("P", told["shares"], _exchange(end), told["draws"], same=True)


def _exchange(end: End) -> Make:
    """The first ``size`` of every group's units, in an order that is drawn, each in the next one's
    place.
    """
    view, pair = end.origin.view, end.pair
    sym = symmetry(view, next(iter(pair.loader("test", 8)))[0])

    def make(size: float, draw: int) -> View:
        orders = {}
        for p in sym:
            if p.site is not None and p.size > 1:
                key = (pair.name, "P", end.who, draw, p.name)
                drawn = torch.from_numpy(numpy_generator(*key).permutation(p.size))
                orders[p.name] = cycle(drawn, max(2, round(size * p.size)))
        return view.with_state(sym.apply(view.state(), orders))

    return make


# what is trained


def endpoint_of(pair: Pair, branch: str) -> Checkpoint:
    """A network of the pair's start, trained now if it is not here."""
    setting = pair.setting
    return pairs.endpoint(
        setting.profile, setting.trained_as, pair.index, branch, pair.data, pair.device
    )


def _third(pair: Pair) -> nn.Module | None:
    """A third child of the very start that A and B had; None where that start is not here."""
    setting = pair.setting
    if not setting.shares_trunk:
        return None
    a, spawned = endpoint_of(pair, "A"), setting.spawn_epoch
    if spawned and endpoint_of(pair, "trunk").history != a.history[:spawned]:
        return None  # its trunk was trained again: no sibling would be of the same start
    return pairs.as_network(setting, endpoint_of(pair, "C"), pair.data).to(pair.device)


def tuned(end: End, sizes: Sequence[float]) -> Iterator[tuple[float, nn.Module, dict[str, float]]]:
    """Gaussian partners of these sizes that training has brought to the pair's training loss, each
    with how that went: "tuned_epochs", "tuned_loss" (nats) and "reached" (1 or 0).
    """
    pair, most = end.pair, settings(end.pair.setting)["tuned_epochs"]
    step = end.gaussian("T", end.who)
    wanted = max(float(evaluate(pair.nets[one], pair.data, "train")[0]) for one in "AB")
    for size in sizes:
        network = new_network(pair.setting, pair.data).to(pair.device)
        network.load_state_dict(end.moved(step, size).state())
        loss, epochs = train_on(network, pair, wanted, most, (pair.name, "T", end.who, size))
        how = {"tuned_epochs": float(epochs), "tuned_loss": loss, "reached": float(loss <= wanted)}
        yield size, network, how


def train_on(
    network: nn.Module, pair: Pair, wanted: float, most: int, key: tuple[object, ...]
) -> tuple[float, int]:
    """Train at the recipe's last learning rate until the training loss (nats) is at most
    ``wanted``, ``most`` epochs at the most; returns it and the epochs.
    """
    setting, data = pair.setting, pair.data
    last = learning_rate(setting, setting.epochs - 1e-9)
    recipe = replace(setting, schedule="constant", warmup=0, lr=last)
    fast = speedups(recipe, pair.device)
    learner, augmenter = prepare(network, recipe, data, fast)
    optimiser = make_optimiser(recipe, network)
    loss, epochs = math.inf, 0
    with Progress(f"partner tuned from {key[-2]}, t = {key[-1]:g}", most) as bar:
        while epochs < most and loss > wanted:
            train_epoch(
                learner, optimiser, data, recipe, epochs, key, augmenter, "bf16 autocast" in fast
            )
            epochs += 1
            loss = float(evaluate(network, data, "train")[0])
            bar.advance(f"training loss {loss:.4f}, wanted {wanted:.4f}")
    return loss, epochs
