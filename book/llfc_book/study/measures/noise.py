"""Two more kinds of partner for the curves of :mod:`llfc_book.study.measures.decisive`: a step of
gradient noise, and the network itself trained on.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llfc_book.study.measures.decisive import (
    Arm,
    End,
    endpoint_of,
    ends_of,
    settings,
    train_on,
)
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import register
from llfc_lib.metrics import Row
from llfc_lib.streams import generator
from llfc_lib.training.loop import new_network

LONGER = (1, 2, 4)  # epochs that A is trained on


@register("noise", settings=settings, live=lambda pair: rows(pair, trained=False))
def rows(pair: Pair, trained: bool = True) -> list[Row]:
    """Rows as of the part "decisive", for partners of two more kinds.

    - "N": A + t N, N a step of gradient noise at the point of spawning (:func:`noise`), with the
      norm of B - A over all weights. Sizes are t. None where A and B do not share a start.
    - "L": A trained on at the last learning rate; sizes are epochs. Left out if not ``trained``.
    """
    told, found = settings(pair.setting), []
    if pair.setting.shares_trunk:
        steps = [noise(pair, draw) for draw in range(told["draws"])]
        for end in ends_of(pair):
            found += end.curve(_arm(end, steps, told["noise_sizes"]))
            if trained and end.who == "A":
                found += _longer(end)
    return found


def _arm(end: End, steps: list[dict[str, Tensor]], sizes: list[float]) -> Arm:
    """The steps in ``sizes`` of the difference's norm."""
    whole = _norm(end.difference(end.other).values())
    shares = [whole / _norm(step.values()) for step in steps]
    return Arm("N", sizes, lambda t, draw: end.moved(steps[draw], t * shares[draw]), len(steps))


def _norm(step: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(value.square().sum()) for value in step))


def _longer(end: End) -> list[Row]:
    pair, found = end.pair, []
    for epochs in LONGER:
        network = new_network(pair.setting, pair.data).to(pair.device)
        network.load_state_dict(end.origin.view.state())
        train_on(network, pair, -math.inf, epochs, (pair.name, "L", end.who, epochs))
        found += end.trained_on(network, float(epochs), "L")
    return found


def noise(pair: Pair, draw: int) -> dict[str, Tensor]:
    """sum_i xi_i g_i over the training images, g_i the gradient of image i's loss at the point of
    spawning, xi_i normal; where Adam trains, divided by the root of its second moment there, the
    mean of the squared gradients of all batches. By weight, in float64.
    """
    setting, data = pair.setting, pair.data
    network = _at_spawning(pair).to(pair.device, pair.dtype).train()
    weights = dict(network.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    second = {name: torch.zeros_like(p) for name, p in weights.items()}
    drawn = generator(pair.name, "noise", draw)
    order = torch.randperm(len(data.y_train), generator=generator(pair.name, "noise order"))
    batches = order.to(data.x_train.device).split(setting.batch)
    for index in batches:
        x, y = data.normalise(data.x_train[index], pair.dtype), data.y_train[index]
        losses = F.cross_entropy(network(x), y, reduction="none")
        xi = torch.randn(len(y), generator=drawn, dtype=torch.float64).to(losses)
        adam = setting.optimiser == "adam"
        one = torch.autograd.grad((xi * losses).sum(), [*weights.values()], retain_graph=adam)
        for name, g in zip(weights, one, strict=True):
            total[name] += g
        if adam:
            mean = torch.autograd.grad(losses.mean(), [*weights.values()])
            for name, g in zip(weights, mean, strict=True):
                second[name] += g.square() / len(batches)
    if setting.optimiser == "adam":
        total = {name: value / (second[name].sqrt() + 1e-8) for name, value in total.items()}
    return {name: value.double() for name, value in total.items()}


def _at_spawning(pair: Pair) -> nn.Module:
    network = new_network(pair.setting, pair.data, pair.index)
    if pair.setting.spawn_epoch:
        network.load_state_dict(endpoint_of(pair, "trunk").model)
    return network
