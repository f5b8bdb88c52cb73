"""LLFC (Definition 2) per image: cosine and coefficient of B.2, with the null of the nearest
endpoint.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llfc_lib.metrics.measure import METRICS, Batch, Moments, Pair, Sums, ratio
from llfc_lib.metrics.rows import Row
from llfc_lib.models.weights import check_alpha

ROUNDING = 1e-12  # of the largest summand, which float64 leaves of a sum that is 0
CACHED = 2**16  # numbers of one network's features that are compared at a time
NEAREST: dict[str, Any] = {"role": "null", "kind": "nearest endpoint"}


@METRICS.register("llfc")
class LLFC:
    """Compares f_alpha = f^(l)(alpha A + (1 - alpha) B) with m = alpha f_A + (1 - alpha) f_B, image
    by image.

    Quantities per site and alpha: "1-cos_alpha" (signed cosine), "1-coef_alpha" (coef = <f_alpha,
    m> / |m|^2: the formula of B.2 with the alpha that its print lost), their null "nearest
    endpoint" (what f_A or f_B, whichever is nearer, gives in f_alpha's place), "cos_ratio" = mean
    1-cos_alpha / mean 1-cos_AB; for the whole set "set_1-cos_alpha" and "set_c", the c of
    Definition 2 by least squares, <f_alpha, m> / |f_alpha|^2 (NaN where f_alpha is 0 and m is not).
    Per site "1-cos_AB". ``sites`` None takes all; ``pre`` adds the pre-activations as "<site>
    (pre)", ``raw`` the outputs of maps before normalisation as "<map> (raw)".

    Source: Definition 2 (A.1); cosine and coef of B.2, Figures 8 to 15; the null is ours.
    """

    def __init__(
        self,
        alphas: Sequence[float] = (0.25, 0.5, 0.75),
        sites: Sequence[str] | None = None,
        pre: bool = False,
        raw: bool = False,
    ) -> None:
        self.alphas = [check_alpha(alpha) for alpha in alphas]
        self.names, self.pre, self.raw = sites, pre, raw

    def start(self, pair: Pair) -> None:
        self.nodes = pair.a.features(self.names, self.pre, self.raw)
        pair.want(*self.nodes.values())
        for alpha in self.alphas:
            pair.want_between(alpha, *self.nodes.values())
        self.moments: dict[tuple, Moments] = {}
        self.sums: dict[tuple, Sums] = {}

    def update(self, batch: Batch) -> None:
        for name, node in self.nodes.items():
            gram = inner_products(
                batch.a[node],
                batch.b[node],
                {alpha: batch.at(alpha)[node] for alpha in self.alphas},
            )
            aa, ad, dd = gram["aa"], gram["ad"], gram["dd"]  # d = f_B - f_A
            bb = aa + 2 * ad + dd
            self._moments("1-cos_AB", name, None).add(one_minus_cos_from(aa, ad, dd))
            self._sums("zero", name, None).add(n=((aa == 0) | (bb == 0)).double().sum())
            for alpha in self.alphas:
                ae, de, ee = (gram[key, alpha] for key in ("ae", "de", "ee"))  # e = f_alpha - m
                rest = 1 - alpha
                mm, me = aa + 2 * rest * ad + rest**2 * dd, ae + rest * de
                ff = without_rounding(mm + 2 * me + ee, mm)
                self._moments("1-cos_alpha", name, alpha).add(one_minus_cos_from(mm, me, ee))
                self._moments("1-coef_alpha", name, alpha).add(_one_minus_coef(mm, me, ff))
                ends = torch.stack(
                    (
                        one_minus_cos_from(aa, rest * ad, rest**2 * dd),
                        one_minus_cos_from(bb, -alpha * (ad + dd), alpha**2 * dd),
                    )
                )
                self._moments("1-cos_alpha", name, alpha, "null").add(ends.amin(0))
                # alpha (1 - coef of f_A) + (1 - alpha)(1 - coef of f_B) = 0: for every image the
                # same end is nearer to 1
                md = ad + rest * dd
                nearest = (
                    _one_minus_coef(mm, -rest * md, aa)
                    if alpha >= 0.5
                    else _one_minus_coef(mm, alpha * md, bb)
                )
                self._moments("1-coef_alpha", name, alpha, "null").add(nearest)
                # |f/|f| - m/|m||^2 of the whole set from three sums would cancel; the residual is
                # summed instead
                self._sums("set", name, alpha).add(
                    ff=ff.sum(), fm=(mm + me).sum(), mm=mm.sum(), dd=ee.sum()
                )

    def rows(self) -> list[Row]:
        rows = []
        for name in self.nodes:
            rows.append(self.moments["1-cos_AB", name, None, "value"].row("1-cos_AB", site=name))
            zeros = self.sums["zero", name, None]["n"]
            if zeros:
                rows.append(Row("zero_features", zeros, site=name))
            for alpha in self.alphas:
                where: Any = {"site": name, "alpha": alpha}
                both: tuple[tuple[str, Any], ...] = (("value", {}), ("null", NEAREST))
                for quantity in ("1-cos_alpha", "1-coef_alpha"):
                    for role, extra in both:
                        values = self.moments[quantity, name, alpha, role]
                        rows.append(values.row(quantity, **where, **extra))
                base = float(self.moments["1-cos_AB", name, None, "value"].mean)
                for role, extra in both:
                    mean = float(self.moments["1-cos_alpha", name, alpha, role].mean)
                    rows.append(Row("cos_ratio", ratio(mean, base), **where, **extra))
                s = self.sums["set", name, alpha]
                c = ratio(s["fm"], s["ff"]) if s["ff"] or not s["mm"] else math.nan
                rows.append(Row("set_1-cos_alpha", _set_one_minus_cos(s), **where))
                rows.append(Row("set_c", c, **where))
        return rows

    def _moments(
        self, quantity: str, name: str, alpha: float | None, role: str = "value"
    ) -> Moments:
        return self.moments.setdefault((quantity, name, alpha, role), Moments())

    def _sums(self, quantity: str, name: str, alpha: float | None) -> Sums:
        return self.sums.setdefault((quantity, name, alpha), Sums())


def inner_products(a: Tensor, b: Tensor, between: Mapping[float, Tensor]) -> dict[Any, Tensor]:
    """Inner products per image, in float64, of f_A, d = f_B - f_A and, for each alpha, e = f_alpha
    - m.

    Everything else follows from these without subtracting large numbers. A few images at a time:
    what is converted then stays in the processor's cache, which is five times faster than whole
    batches.
    """
    each = max(1, (CACHED if a.device.type == "cpu" else 2**26) * len(a) // max(a.numel(), 1))
    blocks = []
    for rows in range(0, len(a), each):
        block = slice(rows, rows + each)
        x, y = _flat(a[block]), _flat(b[block])
        residuals = [_flat(f[block]) - torch.lerp(y, x, alpha) for alpha, f in between.items()]
        vectors = torch.stack((x, y - x, *residuals), 1)
        blocks.append(vectors @ vectors.transpose(1, 2))
    gram = torch.cat(blocks)
    found: dict[Any, Tensor] = {"aa": gram[:, 0, 0], "ad": gram[:, 0, 1], "dd": gram[:, 1, 1]}
    for k, alpha in enumerate(between, 2):
        found |= {
            ("ae", alpha): gram[:, 0, k],
            ("de", alpha): gram[:, 1, k],
            ("ee", alpha): gram[:, k, k],
        }
    return found


def _flat(values: Tensor) -> Tensor:
    return values.flatten(1).double()


def one_minus_cos(x: Tensor, y: Tensor) -> Tensor:
    """1 - cos(x_i, y_i) per image, of two N x ... tensors (N, float64): exactly 0 where x equals y,
    with no cancellation near it.

    A zero vector is at 0 from another one, at 1 from anything else.

    Source: the cosine of B.2.
    """
    gram = inner_products(x, y, {})
    return one_minus_cos_from(gram["aa"], gram["ad"], gram["dd"])


def one_minus_cos_from(xx: Tensor, xe: Tensor, ee: Tensor) -> Tensor:
    """1 - cos(x, y) of y = x + e: sin^2 / (1 + cos), and |x|^2 |y|^2 sin^2 = |x|^2 |e|^2 - <x,
    e>^2.
    """
    yy, xy = xx + 2 * xe + ee, xx + xe
    zero_x, zero_y = xx == 0, without_rounding(yy, xx) <= 0
    norms = torch.where(zero_x | zero_y, 1.0, xx * yy.clamp(min=0)).sqrt()
    near = (xx * ee - xe.square()).clamp(min=0) / (norms * (norms + xy.clamp(min=0)))
    value = torch.where(xy > 0, near, 1 - xy / norms)
    return torch.where(zero_x | zero_y, (zero_x ^ zero_y).to(value.dtype), value)


def without_rounding(squares: Tensor, others: Tensor) -> Tensor:
    """|y|^2 that was summed up from products as large as |x|^2 (``others``): 0 where nothing of it
    but rounding is left.
    """
    return torch.where(squares <= ROUNDING * others, torch.zeros_like(squares), squares)


def _one_minus_coef(mm: Tensor, me: Tensor, ff: Tensor) -> Tensor:
    """1 - <f, m> / |m|^2 of f = m + e, per image: 0 where f equals m, also where both are zero; 1
    where only m is.
    """
    value = -me / torch.where(mm == 0, 1.0, mm)
    return torch.where((mm == 0) & (ff > 0), torch.ones_like(value), value)


def _set_one_minus_cos(s: Sums) -> float:
    """1 - <f, m>/(|f||m|) from |f - m|^2, |f|^2 and |m|^2: (|f - m|^2 - (|f| - |m|)^2) / (2
    |f||m|). A zero f or m is at 1 from another.
    """
    f, m = s["ff"] ** 0.5, s["mm"] ** 0.5
    if not f or not m:
        return float(f != m)
    return ratio(s["dd"] - (f - m) ** 2, 2 * f * m)
