"""Is LLFC more than closeness? rho against feature distance, for partners of six kinds at several
sizes.

Every kind answers one question. Where two curves lie on each other, what distinguishes the two
kinds makes no difference to linearity; so nothing has to be brought to one distance beforehand.
What is expected of the curves is written down in :mod:`llfc_book.claims.predictions`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llfc_book.study import pairs
from llfc_book.study.closeness import Linearity, Origin, cycle
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import register
from llfc_book.study.settings import Setting
from llfc_lib.data import Dataset
from llfc_lib.matching import Symmetry, UnsupportedOperation, symmetry
from llfc_lib.metrics import Row
from llfc_lib.metrics.displacement import partner_of, random_difference
from llfc_lib.metrics.measure import Pair as TwoNetworks
from llfc_lib.models.view import View
from llfc_lib.progress import Progress
from llfc_lib.streams import generator, numpy_generator
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
NOISE_BATCHES = 200  # of training images, in which Adam's second moment is estimated

#: A partner is made from the network ``view`` by a step of ``size``; ``draw`` numbers the draws.
Make = Callable[[View, float, int], View]


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


def _work(setting: Setting, data: Dataset) -> float:
    told = settings(setting)
    drawn = sum(len(told[what]) for what in ("sizes", "noise_sizes", "shares"))
    looks = 4 * len(STEPS) + 2 * told["draws"] * drawn
    ends = 2 if setting.plan.thorough else 1
    tuning = ends * len(TUNED_FROM) * 2 * 3 * len(data.y_train)  # two epochs each, as a rule
    return 2.0 * looks * (told["images"] + setting.plan.calibration) + tuning


@dataclass(frozen=True)
class Arm:
    """A kind of partner: how it is made, at which ``sizes``, how often it is drawn. ``value``: it
    was trained as the pair was. ``same``: its partners are the same function, and have no distance
    at the logits.
    """

    kind: str
    sizes: Sequence[float]
    make: Make
    draws: int = 1
    value: bool = False
    same: bool = False


def _live(pair: Pair) -> list[Row]:
    """Without what is trained: that has other bits on another processor."""
    return rows(pair, trained=False)


@register(
    "decisive",
    members=("A", "B", "independent"),
    settings=settings,
    work=_work,
    live=_live,
)
def rows(pair: Pair, trained: bool = True) -> list[Row]:
    """ "rho" and "distance" per site between A and partners of every kind, and between B and such;
    ``alpha`` is the size of the step, ``direction`` which end it starts from, mean and std over
    draws.

    - "B": on the way from A to B; "C": to a third child of the same start (where that is here);
      "independent": to a network of another start. Sizes are shares of the way.
    - "G": A + t G, G Gaussian with the norm of B - A in every tensor; "N": A + t N, N a step of
      gradient noise at the point of spawning, with the norm of B - A in all. Sizes are t.
    - "P": the same function, some units of every group that may be permuted in a cycle. Sizes are
      shares of the units.
    - "T": "G" trained on at the last learning rate, for an epoch at least and until its training
      loss is at most the larger of A's and B's; "tuned_epochs", "tuned_loss" and "reached" tell how
      that went.

    ``trained`` False leaves out C and T.
    """
    told, nets = settings(pair.setting), pair.nets
    loader = list(pair.loader("test", told["images"]))
    images = pair.calibration
    calibration = None if images is None else [x.to(pair.dtype) for x in images]
    both = TwoNetworks(nets["A"], nets["B"], pair.dtype, calibration)
    a, b = both.a, both.b
    nodes = a.features(None)
    found: list[Row] = []
    with Progress(f"partners of {pair.name}", 2) as bar:
        for who, start, other in (("A", a, b), ("B", b, a)):
            origin = Origin(start, loader, nodes, calibration)
            for arm in _arms(pair, who, start, other, told, calibration):
                found += _curve(origin, who, arm)
            # tuning a convolutional net takes many minutes: from A alone
            if trained and (who == "A" or pair.setting.plan.thorough):
                found += _tuned(pair, origin, who, other, told, calibration)
            if trained and who == "A":
                found += _third(pair, origin, calibration)
            bar.advance(f"from {who}")
    return found


def _curve(origin: Origin, who: str, arm: Arm) -> list[Row]:
    """What lies between the origin and the arm's partners, size by size."""
    output, found = origin.view.output, []
    sites = [site for site, node in origin.nodes.items() if not (arm.same and node == output)]
    for size in arm.sizes:
        looks = [origin.beside(arm.make(origin.view, size, draw)) for draw in range(arm.draws)]
        found += _rows(looks, sites, size, who, arm.kind, "value" if arm.value else "null")
    return found


def _rows(
    looks: Sequence[Linearity],
    sites: Sequence[str],
    size: float,
    who: str,
    kind: str,
    role: str = "null",
) -> list[Row]:
    # of as many digits as a record keeps
    where = {"alpha": _kept(size), "direction": f"from {who}", "role": role, "kind": kind}
    found: list[Row] = []

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


def _kept(size: float) -> float:
    return float(f"{size:.8g}")


def _arms(
    pair: Pair,
    who: str,
    start: View,
    other: View,
    told: Mapping[str, Any],
    calibration: Sequence[Tensor] | None,
) -> Iterator[Arm]:
    """The kinds that need no training."""
    buffers = {name for name, _ in start.module.named_buffers()}

    def towards(goal: View) -> Make:
        way = _difference(start, goal, buffers)
        return lambda view, size, draw: partner_of(view, way, size, calibration)

    def gaussian(view: View, size: float, draw: int) -> View:
        step = random_difference(
            start.state(), other.state(), "gaussian", (pair.name, "G", who, draw), buffers
        )
        return partner_of(view, step, size, calibration)

    yield Arm("B", STEPS, towards(other), value=True)
    if who == "A" and "independent" in pair.nets:
        stranger = View(pair.nets["independent"]).to(pair.dtype)
        yield Arm("independent", STEPS, towards(stranger), value=True)
    yield Arm("G", told["sizes"], gaussian, told["draws"])
    with suppress(UnsupportedOperation):
        sym = symmetry(start, next(iter(pair.loader("test", 8)))[0])
        exchange = _exchange(sym, (pair.name, "P", who))
        yield Arm("P", told["shares"], exchange, told["draws"], same=True)
    if pair.setting.shares_trunk:
        norm = _norm(_difference(start, other, buffers))
        steps = [noise(pair, draw) for draw in range(told["draws"])]

        def noisy(view: View, size: float, draw: int) -> View:
            scaled = {
                name: step * (norm / _norm(steps[draw])) for name, step in steps[draw].items()
            }
            return partner_of(view, scaled, size, calibration)

        yield Arm("N", told["noise_sizes"], noisy, told["draws"])


def _difference(start: View, goal: View, buffers: set[str]) -> dict[str, Tensor]:
    a, b = start.state(), goal.state()
    return {
        name: b[name].double() - value.double()
        for name, value in a.items()
        if name not in buffers and value.is_floating_point()
    }


def _norm(step: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(value.square().sum()) for value in step.values()))


def _exchange(sym: Symmetry, key: tuple[object, ...]) -> Make:
    """The first ``size`` of every group's units, in an order drawn by ``key``, each in the next
    one's place.
    """

    def make(view: View, size: float, draw: int) -> View:
        orders = {}
        for p in sym:
            if p.site is not None and p.size > 1:
                drawn = torch.from_numpy(numpy_generator(*key, draw, p.name).permutation(p.size))
                orders[p.name] = cycle(drawn, max(2, round(size * p.size)))
        return view.with_state(sym.apply(view.state(), orders))

    return make


# a step of gradient noise


def noise(pair: Pair, draw: int) -> dict[str, Tensor]:
    """sum_i xi_i g_i over the training images, g_i the gradient of image i's loss at the point of
    spawning, xi_i normal; divided by the root of Adam's second moment where Adam trains.
    """
    setting, data = pair.setting, pair.data
    network = _at_spawning(pair).to(pair.device, pair.dtype).train()
    parameters = dict(network.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    second = {name: torch.zeros_like(p) for name, p in parameters.items()}
    seen = 0
    weights = generator(pair.name, "noise", draw)
    order = torch.randperm(len(data.y_train), generator=generator(pair.name, "noise order"))
    for batch, index in enumerate(order.to(data.x_train.device).split(setting.batch)):
        x, y = data.normalise(data.x_train[index], pair.dtype), data.y_train[index]
        losses = F.cross_entropy(network(x), y, reduction="none")
        xi = torch.randn(len(y), generator=weights, dtype=torch.float64).to(losses)
        adam = setting.optimiser == "adam" and batch < NOISE_BATCHES
        for name, g in _gradients((xi * losses).sum(), parameters, keep=adam):
            total[name] += g
        if adam:
            seen += 1
            for name, g in _gradients(losses.mean(), parameters):
                second[name] += g.square()
    if not seen:
        return {name: value.double() for name, value in total.items()}
    return {
        name: (value / ((second[name] / seen).sqrt() + 1e-8)).double()
        for name, value in total.items()
    }


def _gradients(
    loss: Tensor, parameters: Mapping[str, Tensor], keep: bool = False
) -> Iterator[tuple[str, Tensor]]:
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=keep)
    return zip(parameters, found)


def _at_spawning(pair: Pair) -> nn.Module:
    network = new_network(pair.setting, pair.data, pair.index)
    if pair.setting.spawn_epoch:
        network.load_state_dict(_endpoint(pair, "trunk").model)
    return network


def _endpoint(pair: Pair, branch: str) -> Checkpoint:
    setting = pair.setting
    return pairs.endpoint(
        setting.profile, setting.trained_as, pair.index, branch, pair.data, pair.device
    )


# what is trained


def _third(pair: Pair, origin: Origin, calibration: Sequence[Tensor] | None) -> list[Row]:
    """The way from A to a third child of the very start that A and B had."""
    setting = pair.setting
    if not setting.shares_trunk:
        return []
    a = _endpoint(pair, "A")
    if setting.spawn_epoch and _endpoint(pair, "trunk").history != a.history[: setting.spawn_epoch]:
        return []  # its trunk was trained again: no sibling would be of the same start
    third = pairs.as_network(setting, _endpoint(pair, "C"), pair.data)
    goal = View(third.to(pair.device)).to(pair.dtype)
    buffers = {name for name, _ in third.named_buffers()}
    way = _difference(origin.view, goal, buffers)

    def make(view: View, size: float, draw: int) -> View:
        return partner_of(view, way, size, calibration)

    return _curve(origin, "A", Arm("C", STEPS, make, value=True))


def _tuned(
    pair: Pair,
    origin: Origin,
    who: str,
    other: View,
    told: Mapping[str, Any],
    calibration: Sequence[Tensor] | None,
) -> list[Row]:
    """Gaussian partners that training has brought to the pair's training loss."""
    start = origin.view
    buffers = {name for name, _ in start.module.named_buffers()}
    moved = random_difference(
        start.state(), other.state(), "gaussian", (pair.name, "T", who), buffers
    )
    wanted = max(float(evaluate(pair.nets[one], pair.data, "train")[0]) for one in "AB")
    found = []
    for size in told["tuned_from"]:
        network = new_network(pair.setting, pair.data).to(pair.device)
        network.load_state_dict(partner_of(start, moved, size, calibration).state())
        key = (pair.name, "T", who, size)
        loss, epochs = _train_on(network, pair, wanted, told["tuned_epochs"], key)
        partner = View(network.eval()).to(pair.dtype)
        if calibration is not None:
            partner = partner_of(partner, {}, 0.0, calibration)
        found += _rows([origin.beside(partner)], list(origin.nodes), size, who, "T")
        where = {"alpha": _kept(size), "direction": f"from {who}", "role": "null", "kind": "T"}
        found += [
            Row("tuned_epochs", float(epochs), **where),
            Row("tuned_loss", loss, n=len(pair.data.y_train), **where),
            Row("reached", float(loss <= wanted), **where),
        ]
    return found


def _train_on(
    network: nn.Module, pair: Pair, wanted: float, most: int, key: tuple[object, ...]
) -> tuple[float, int]:
    """Train at the recipe's last learning rate until the training loss (nats) is at most
    ``wanted``; returns it and the epochs.
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
