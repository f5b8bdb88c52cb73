"""How linear is a displacement that training did not make? Expected size of e = f_alpha - alpha f_A
- (1 - alpha) f_B, to second order.

Let r = |e|^2 / |f_A - f_B|^2. If dW points in directions that have nothing to do with the features,
at each layer

- what e was below is carried as the difference of features is: r stays, but weighs only with the
  share 1 - fresh of |dZ|^2 that comes from below;
- |dW dH|^2 / |dW H|^2 = |dH|^2 / |H|^2 =: moved, so that the commutativity residual adds fresh
  (alpha (1 - alpha))^2 moved;
- at a ReLU, a pre-activation that moves by delta from z flips if z lies in an interval of length
  |delta|, over which the gap is a triangle of height alpha (1 - alpha) |delta|: its mean square
  given a flip is (alpha (1 - alpha))^2 delta^2 / 3. So it adds (alpha (1 - alpha))^2 / 3 times
  "flipped", the share of |dZ|^2 at flips, over "passed", the share of |dZ|^2 that passes the ReLU.
  For normal delta flipped is twice the share of flips.

Chapter A.2 has the derivation.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llfc_lib.metrics.rows import Row
from llfc_lib.models import MLP
from llfc_lib.streams import generator


def relu_term(flipped: float, passed: float, alpha: float) -> float:
    """What a ReLU adds to r: (alpha (1 - alpha))^2 / 3 flipped / passed."""
    return (alpha * (1 - alpha)) ** 2 / 3 * flipped / passed if passed else 0.0


def layer_term(below: float, moved: float, fresh: float, alpha: float) -> float:
    """r after a linear map: what is carried and what the map adds."""
    return (1 - fresh) * below + fresh * (alpha * (1 - alpha)) ** 2 * moved


def expected(rows: Sequence[Row], alpha: float = 0.5) -> dict[str, float]:
    """r at every site of a chain of maps and ReLUs, from the rows "moved", "fresh", "flipped" and
    "passed" that
    :class:`~llfc_lib.metrics.decomposition.Decomposition` measured on a pair: what they would give
    a pair without structure.

    ValueError if a row is missing: not such a chain.
    """
    own = [row for row in rows if row.role == "value"]
    values = {(row.quantity, row.site): row.mean for row in own if row.alpha is None}
    sites = [
        row.site for row in own if row.quantity == "bound" and row.alpha == alpha
    ]  # which only chains have
    maps = [row.site for row in own if row.quantity == "moved"]
    if not sites or len(maps) != len(sites) - 1:
        raise ValueError(
            f"{len(sites)} sites and {len(maps)} maps after the first are no chain of linear maps"
            f" and ReLUs, measured at {alpha}"
        )
    return chain(sites, [None, *maps], values, alpha)


def chain(
    sites: Sequence[str],
    maps: Sequence[str | None],
    values: dict[tuple[str, str], float],
    alpha: float,
) -> dict[str, float]:
    """The recursion of :func:`expected` over ``sites`` and the ``maps`` below them (the first,
    None, adds nothing).
    """
    r, found = 0.0, {}
    for site, m in zip(sites, maps, strict=True):
        if m is not None:
            r = layer_term(r, values["moved", m], values["fresh", m], alpha)
        if ("flipped", site) in values:
            r += relu_term(values["flipped", site], values["passed", site], alpha)
        found[site] = r
    return found


def gaussian_ratio(t: float, depth: int, alpha: float = 0.5) -> list[float]:
    """r after each of ``depth`` ReLU layers of a wide network with independent Gaussian weights,
    displaced by ``t`` times such weights.

    After l layers |dZ|^2 / |Z|^2 = l t^2, half of which comes back through every ReLU, and a share
    arctan(t sqrt(l)) / pi of units flips: r_l = (alpha (1 - alpha))^2 [(l - 1) t^2 / 2 + (4 / 3 l)
    sum_{k <= l} k arctan(t sqrt(k)) / pi]. Width does not enter.
    """
    weight = (alpha * (1 - alpha)) ** 2
    flips = [k * math.atan(t * math.sqrt(k)) / math.pi for k in range(1, depth + 1)]
    return [weight * ((k - 1) * t**2 / 2 + 4 / 3 * sum(flips[:k]) / k) for k in range(1, depth + 1)]


def gaussian_pair(
    width: int, t: float, seed: object = 0, inputs: int = 64, classes: int = 10
) -> tuple[MLP, MLP]:
    """An MLP with independent N(0, 2/n) weights and no biases, and one displaced by ``t`` times an
    independent draw of the same; float64.
    """
    draw = generator("gaussian pair", width, seed)
    nets = [MLP(inputs, width, classes).double().eval() for _ in range(2)]
    for own, other in zip(nets[0].modules(), nets[1].modules()):
        if isinstance(own, nn.Linear):
            first, second = (
                torch.randn(own.weight.shape, generator=draw, dtype=torch.float64)
                * math.sqrt(2 / own.in_features)
                for _ in range(2)
            )
            own.weight.data, other.weight.data = first, first + t * second
            own.bias.data.zero_()
            other.bias.data.zero_()
    return nets[0], nets[1]


def gaussian_images(number: int = 200, inputs: int = 64) -> list[tuple[Tensor, Tensor]]:
    """A loader of one batch of independent N(0, 1) images, with labels of no meaning."""
    draw = generator("gaussian images", number)
    return [
        (
            torch.randn(number, inputs, generator=draw, dtype=torch.float64),
            torch.zeros(number, dtype=torch.long),
        )
    ]
