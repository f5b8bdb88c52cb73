"""Lemma 1: from LLFC at the logits to a low error, exactly, with a factor c, and when LLFC holds
only approximately.
"""

import numpy as np
import torch
from torch import Tensor, nn

from llfc_lib.metrics import LLFC, Barrier, measure
from llfc_lib.metrics.measure import Batch, Moments, Pair
from llfc_lib.metrics.rows import Row
from llfc_lib.models import MLP
from llfc_lib.models.weights import check_alpha
from llfc_lib.streams import generator, seed_of


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of the true class less the largest other one, per image (N): above 0 where the image is
    classified correctly.
    """
    own = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -torch.inf)
    return own[:, 0] - others.amax(1)


def survives(mean_logits: Tensor, logits: Tensor, y: Tensor, scaled: bool = False) -> Tensor:
    """Whether the margin argument certifies each image (N, bool): margin(m) > sqrt(2) |e|, e =
    f_alpha - m.

    ``scaled``: logits may be multiplied by any c > 0, and a number that is the same for all classes
    may be added, for each image, since neither moves the largest logit: e is what is left of
    f_alpha - m after the best of both.
    """
    if scaled:
        m, f = (x - x.mean(1, keepdim=True) for x in (mean_logits, logits))
        c = (f * m).sum(1, keepdim=True) / f.square().sum(1, keepdim=True).clamp_min(
            torch.finfo(f.dtype).tiny
        )
        e = torch.where(c > 0, c * f - m, torch.inf)
    else:
        e = logits - mean_logits
    return margin(mean_logits, y) > 2**0.5 * e.norm(dim=1)


class Margins:
    """Lemma 1 on a pair, for :func:`llfc_lib.metrics.measure`. Per alpha, shares of images:

    "error_between" of the network between, "error_mean_logits" of m = alpha f_A + (1 - alpha) f_B,
    "not_certified" and "not_certified_scaled": those that A or B get wrong, or whose margin LLFC's
    error may use up (:func:`survives`). Without alpha "error_either", the share that A or B get
    wrong, and "twice_epsilon", twice the larger error: the bound of the lemma.

    Source: Lemma 1 (A.1); the margins are this book's.
    """

    def __init__(self, alphas: tuple[float, ...] = (0.25, 0.5, 0.75)) -> None:
        self.alphas = tuple(check_alpha(alpha) for alpha in alphas)

    def start(self, pair: Pair) -> None:
        self.output, self.found = pair.a.output, {}
        for alpha in self.alphas:
            pair.want_between(alpha, self.output)

    def update(self, batch: Batch) -> None:
        f_a, f_b, y = batch.a[self.output].double(), batch.b[self.output].double(), batch.y
        right_a, right_b = (margin(f, y) > 0 for f in (f_a, f_b))
        self._add("error_A", None, ~right_a)
        self._add("error_B", None, ~right_b)
        self._add("error_either", None, ~(right_a & right_b))
        for alpha in self.alphas:
            f, m = batch.at(alpha)[self.output].double(), torch.lerp(f_b, f_a, alpha)
            self._add("error_between", alpha, margin(f, y) <= 0)
            self._add("error_mean_logits", alpha, margin(m, y) <= 0)
            for name, scaled in (("not_certified", False), ("not_certified_scaled", True)):
                self._add(name, alpha, ~(right_a & right_b & survives(m, f, y, scaled)))

    def _add(self, quantity: str, alpha: float | None, values: Tensor) -> None:
        self.found.setdefault((quantity, alpha), Moments()).add(values.double())

    def rows(self) -> list[Row]:
        rows = [
            moments.row(quantity, alpha=alpha) for (quantity, alpha), moments in self.found.items()
        ]
        worse = max(float(self.found[who, None].mean) for who in ("error_A", "error_B"))
        return [row for row in rows if row.quantity not in ("error_A", "error_B")] + [
            Row("twice_epsilon", 2 * worse)
        ]


def tight_pair(
    points: int = 20, wrong: int = 2, depth: float = 3.0
) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """Two networks that satisfy LLFC exactly and attain the bound: A, B, images (points x points),
    labels.

    Each image has a coordinate of its own. Both networks are right by a margin of 1 but for
    ``wrong`` images each, not the same ones, on which they are wrong by ``depth``. For alpha
    between 1 / (1 + depth) and depth / (1 + depth) the network between errs on all of those: twice
    the error of either. ValueError unless 2 * wrong <= points and depth > 1.
    """
    if not 0 < 2 * wrong <= points or depth <= 1:
        raise ValueError(
            f"{wrong} wrong images of {points} at depth {depth}: both networks must err on images"
            " of their own (2 * wrong <= points) by more than 1"
        )
    x, y = torch.eye(points, dtype=torch.float64), torch.arange(points) % 2
    nets = []
    for first in (0, wrong):
        margins = torch.ones(points, dtype=torch.float64)
        margins[first : first + wrong] = -depth
        net = nn.Sequential(nn.Linear(points, points), nn.ReLU(), nn.Linear(points, 2)).double()
        sign = torch.where(y == 0, 0.5, -0.5) * margins
        state = {
            "0.weight": x,
            "0.bias": torch.zeros(points),
            "2.weight": torch.stack((sign, -sign)),
            "2.bias": torch.zeros(2),
        }
        net.load_state_dict(state)
        nets.append(net.eval())
    return (*nets, x, y)


def without_llfc(network: MLP, units: int = 8, size: float = 3.0) -> tuple[nn.Module, nn.Module]:
    """Two networks of one function up to a shift of all logits, linearly connected without any
    barrier, yet LLFC fails at every layer.

    Each hidden layer gets ``units`` more, which look at the input with opposite weights in A and B,
    and at nothing else; in the end they add one and the same number to all logits. Half-way their
    weights cancel: the features vanish that both networks have.
    """
    inputs, classes = network.fc1.in_features, network.fc4.out_features
    hidden = network.fc1.out_features
    drawn = {
        layer: torch.randn(
            units, width, generator=generator("without LLFC", layer), dtype=torch.float64
        )
        for layer, width in (("fc1", inputs), ("fc2", units), ("fc3", units))
    }
    nets = []
    for sign in (1.0, -1.0):
        wide = MLP(inputs, hidden + units, classes).double().eval()
        for name, layer in wide.named_modules():
            if isinstance(layer, nn.Linear):
                old = network.get_submodule(name)
                layer.weight.data.zero_()
                layer.bias.data.zero_()
                layer.weight.data[: old.out_features, : old.in_features] = old.weight.data
                layer.bias.data[: old.out_features] = old.bias.data
        wide.fc1.weight.data[hidden:] = sign * size * drawn["fc1"] / inputs**0.5
        for name in ("fc2", "fc3"):
            wide.get_submodule(name).weight.data[hidden:, hidden:] = sign * drawn[name] / units**0.5
        wide.fc4.weight.data[:, hidden:] = 0.05
        nets.append(wide)
    return nets[0], nets[1]


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


def converse() -> tuple[float, np.ndarray]:
    """Of a pair that is connected without LLFC: its error barrier, and rho at every layer."""
    network, images = plain_network()
    grid = (0.0, 0.25, 0.5, 0.75, 1.0)
    rows = measure(*without_llfc(network), images, [LLFC((0.5,)), Barrier(grid)])
    rho = [r.mean**0.5 for r in rows if r.quantity == "cos_ratio" and r.role == "value"]
    return next(r.mean for r in rows if r.quantity == "error_barrier"), np.array(rho)
