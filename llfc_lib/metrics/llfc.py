"""LLFC (Definition 2) per image: cosine and coefficient of B.2, with the null of the nearest endpoint."""

from collections.abc import Sequence

import torch
from torch import Tensor

from llfc_lib.metrics.measure import Batch, Loader, Moments, Network, Pair, Sums, dot, measure, ratio, select_sites
from llfc_lib.metrics.rows import Row
from llfc_lib.models.weights import check_alpha

NEAREST = {"role": "null", "kind": "nearest endpoint"}


class LLFC:
    """Compares f_alpha = f^(l)(alpha A + (1 - alpha) B) with m = alpha f_A + (1 - alpha) f_B, image by image.

    Quantities per site and alpha: "1-cos_alpha" (signed cosine), "1-coef_alpha" (coef = <f_alpha, m> / |m|^2: the
    formula of B.2 with the alpha that its print lost), their null "nearest endpoint" (what f_A or f_B, whichever is
    nearer, gives in f_alpha's place), "cos_ratio" = mean 1-cos_alpha / mean 1-cos_AB; for the whole set
    "set_1-cos_alpha" and "set_c", the c of Definition 2 by least squares, <f_alpha, m> / |f_alpha|^2. Per site
    "1-cos_AB". ``sites`` None takes all; ``pre`` adds the pre-activations as "<site> (pre)".
    """

    def __init__(self, alphas: Sequence[float] = (0.25, 0.5, 0.75), sites: Sequence[str] | None = None,
                 pre: bool = False) -> None:
        self.alphas = [check_alpha(alpha) for alpha in alphas]
        self.names, self.pre = sites, pre

    def start(self, pair: Pair) -> None:
        self.nodes: dict[str, str] = {}
        for site in select_sites(pair.a, self.names):
            if self.pre and site.pre is not None:
                self.nodes[f"{site.name} (pre)"] = site.pre
            self.nodes[site.name] = site.node
        pair.want(*self.nodes.values())
        for alpha in self.alphas:
            pair.want_between(alpha, *self.nodes.values())
        self.moments: dict[tuple, Moments] = {}
        self.sums: dict[tuple, Sums] = {}

    def update(self, batch: Batch) -> None:
        for name, node in self.nodes.items():
            a, b = (_flat(values[node]) for values in (batch.a, batch.b))
            self._moments("1-cos_AB", name, None).add(one_minus_cos(a, b))
            self._sums("zero", name, None).add(n=((_norm(a) == 0) | (_norm(b) == 0)).double().sum())
            for alpha in self.alphas:
                f, m = _flat(batch.at(alpha)[node]), torch.lerp(b, a, alpha)
                self._moments("1-cos_alpha", name, alpha).add(one_minus_cos(f, m))
                self._moments("1-coef_alpha", name, alpha).add(one_minus_coef(f, m))
                ends = torch.stack((one_minus_cos(a, m), one_minus_cos(b, m)))
                self._moments("1-cos_alpha", name, alpha, "null").add(ends.amin(0))
                # alpha (1 - coef of f_A) + (1 - alpha)(1 - coef of f_B) = 0: for every image the same end is nearer to 1
                nearest = one_minus_coef(a if alpha >= 0.5 else b, m)
                self._moments("1-coef_alpha", name, alpha, "null").add(nearest)
                # |f/|f| - m/|m||^2 of the whole set from three sums would cancel; the residual is summed instead
                self._sums("set", name, alpha).add(ff=dot(f, f), fm=dot(f, m), mm=dot(m, m), dd=dot(f - m, f - m))

    def rows(self) -> list[Row]:
        rows = []
        for name in self.nodes:
            rows.append(self.moments["1-cos_AB", name, None, "value"].row("1-cos_AB", site=name))
            zeros = self.sums["zero", name, None]["n"]
            if zeros:
                rows.append(Row("zero_features", zeros, site=name))
            for alpha in self.alphas:
                where = {"site": name, "alpha": alpha}
                for quantity in ("1-cos_alpha", "1-coef_alpha"):
                    rows.append(self.moments[quantity, name, alpha, "value"].row(quantity, **where))
                    rows.append(self.moments[quantity, name, alpha, "null"].row(quantity, **where, **NEAREST))
                base = float(self.moments["1-cos_AB", name, None, "value"].mean)
                for role, extra in (("value", {}), ("null", NEAREST)):
                    mean = float(self.moments["1-cos_alpha", name, alpha, role].mean)
                    rows.append(Row("cos_ratio", ratio(mean, base), **where, **extra))
                s = self.sums["set", name, alpha]
                rows.append(Row("set_1-cos_alpha", _set_one_minus_cos(s), **where))
                rows.append(Row("set_c", ratio(s["fm"], s["ff"]), **where))
        return rows

    def _moments(self, quantity: str, name: str, alpha: float | None, role: str = "value") -> Moments:
        return self.moments.setdefault((quantity, name, alpha, role), Moments())

    def _sums(self, quantity: str, name: str, alpha: float | None) -> Sums:
        return self.sums.setdefault((quantity, name, alpha), Sums())


def _flat(values: Tensor) -> Tensor:
    return values.flatten(1).double()


def _norm(x: Tensor) -> Tensor:
    return x.square().sum(1).sqrt()


def one_minus_cos(x: Tensor, y: Tensor) -> Tensor:
    """1 - cos(x_i, y_i) per image (rows, float64): half the squared distance of the unit vectors.

    Exactly 0 where x equals y, with no cancellation near it. A zero vector is at 0 from another one, at 1 from
    anything else.
    """
    nx, ny = _norm(x), _norm(y)
    unit_x = x / torch.where(nx == 0, 1.0, nx)[:, None]
    unit_y = y / torch.where(ny == 0, 1.0, ny)[:, None]
    half = 0.5 * (unit_x - unit_y).square().sum(1)
    return torch.where((nx == 0) ^ (ny == 0), torch.ones_like(half), half)


def one_minus_coef(f: Tensor, m: Tensor) -> Tensor:
    """1 - <f_i, m_i> / |m_i|^2 per image: 0 where f equals m, also where both are zero; 1 where only m is."""
    mm = m.square().sum(1)
    value = ((m - f) * m).sum(1) / torch.where(mm == 0, 1.0, mm)
    return torch.where((mm == 0) & (f.square().sum(1) > 0), torch.ones_like(value), value)


def _set_one_minus_cos(s: Sums) -> float:
    """1 - <f, m>/(|f||m|) from |f - m|^2, |f|^2 and |m|^2: (|f - m|^2 - (|f| - |m|)^2) / (2 |f||m|)."""
    f, m = s["ff"] ** 0.5, s["mm"] ** 0.5
    return ratio(s["dd"] - (f - m) ** 2, 2 * f * m)


def llfc(a: Network, b: Network, loader: Loader, alphas: Sequence[float] = (0.25, 0.5, 0.75),
         sites: Sequence[str] | None = None, pre: bool = False, dtype: torch.dtype | None = None) -> list[Row]:
    """:class:`LLFC` of two networks over a loader."""
    return measure(a, b, loader, [LLFC(alphas, sites, pre)], dtype)
