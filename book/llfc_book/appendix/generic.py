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

from collections.abc import Sequence


def relu_term(flipped: float, passed: float, alpha: float) -> float:
    """What a ReLU adds to r: (alpha (1 - alpha))^2 / 3 flipped / passed."""
    return (alpha * (1 - alpha)) ** 2 / 3 * flipped / passed if passed else 0.0


def layer_term(below: float, moved: float, fresh: float, alpha: float) -> float:
    """r after a linear map: what is carried and what the map adds."""
    return (1 - fresh) * below + fresh * (alpha * (1 - alpha)) ** 2 * moved


def chain(
    sites: Sequence[str],
    maps: Sequence[str | None],
    values: dict[tuple[str, str], float],
    alpha: float,
) -> dict[str, float]:
    """r at every one of the ``sites`` of a chain of maps and ReLUs, with the ``maps`` below them
    (the first, None, adds nothing), from the ``values`` of "moved", "fresh", "flipped" and "passed"
    by (quantity, site) that :class:`~llfc_lib.metrics.decomposition.Decomposition` measured on a
    pair: what they would give a pair without structure.
    """
    r, found = 0.0, {}
    for site, m in zip(sites, maps, strict=True):
        if m is not None:
            r = layer_term(r, values["moved", m], values["fresh", m], alpha)
        if ("flipped", site) in values:
            r += relu_term(values["flipped", site], values["passed", site], alpha)
        found[site] = r
    return found
