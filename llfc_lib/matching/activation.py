"""Activation matching (Ainsworth et al., 2023, section 3.1): units of B are put where A's respond
most alike.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from llfc_lib.matching.methods import METHODS, Found
from llfc_lib.matching.symmetry import Permutation, Permutations, Symmetry
from llfc_lib.metrics.measure import NO_IMAGES, Loader, Network, exact_float32
from llfc_lib.models.view import View
from llfc_lib.models.weights import check_finite, check_same_shapes


@dataclass
class ActivationMatching(Found):
    """``objective`` is the sum over permutations of <H_A, P H_B>, or of correlations; ``images``
    how many it was taken over; ``dead`` names permutations with units that never respond, with
    their number in A and in B. ``similarity`` has its terms, A's units by B's.

    Source: Ainsworth et al. (2023), section 3.1; B.1.2.
    """

    optimal: ClassVar[bool] = True
    images: int
    dead: dict[str, tuple[int, int]]
    similarity: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def objective_of(self, permutations: Permutations) -> float:
        """The objective under another order, which may be as high: units that never respond stand
        anywhere.
        """
        return sum(
            float(similarity[np.arange(len(similarity)), permutations[name].numpy()].sum())
            for name, similarity in self.similarity.items()
        )


class _Products:
    """Streamed sums over images and pixels of one permutation's features."""

    def __init__(self, permutation: Permutation) -> None:
        if permutation.site is None or permutation.positions is None:
            raise ValueError(
                f"the units of {permutation.name!r} pass no activation function on their own, so"
                " there are no features to match them by; use weight matching"
            )
        self.site, self.positions = permutation.site, permutation.positions
        self.axis, self.count = permutation.axis, 0
        self.ab = self.a = self.b = self.aa = self.bb = torch.zeros((), dtype=torch.float64)

    def add(self, a: Tensor, b: Tensor) -> None:
        a, b = (self._units(h) for h in (a, b))
        self.count += len(a)
        self.ab = self.ab + (a.T @ b).double()
        a, b = a.double(), b.double()
        self.a, self.b = self.a + a.sum(0), self.b + b.sum(0)
        self.aa, self.bb = self.aa + a.square().sum(0), self.bb + b.square().sum(0)

    def _units(self, h: Tensor) -> Tensor:
        """Samples x units: a pixel of an image is a sample of its own."""
        return h.movedim(self.axis, -1).flatten(0, -2).index_select(1, self.positions.to(h.device))

    def dead(self) -> tuple[int, int]:
        return int((self.aa == 0).sum()), int((self.bb == 0).sum())

    def similarity(self, correlation: bool) -> np.ndarray:
        """n x n, A's units by B's: E[a b] times the number of samples, or Pearson's correlation (0
        for a constant unit).
        """
        if not correlation:
            return self.ab.cpu().numpy()
        covariance = self.ab - torch.outer(self.a, self.b) / self.count
        spread = [
            (s - m.square() / self.count).clamp_min(0).sqrt()
            for s, m in ((self.aa, self.a), (self.bb, self.b))
        ]
        size = torch.outer(*spread)
        return torch.where(size == 0, torch.zeros_like(size), covariance / size).cpu().numpy()


@exact_float32()
@torch.no_grad()
def activation_matching(
    sym: Symmetry, a: Network, b: Network, loader: Loader, correlation: bool = False
) -> ActivationMatching:
    """One assignment a permutation, maximising the uncentred product of post-activation features,
    streamed.

    Uncentred, because that minimises |H_A - P H_B| (A.3); ``correlation`` takes Pearson's instead.
    Features are read at the permutation's ``site``: the last one that its units reach, for a
    residual stream. B is seen as it is, so that the permutations do not depend on each other.
    ValueError for an empty loader, or a permutation without a site; units that never respond are
    counted in a warning, and put where they do no harm.

    Source: Ainsworth et al. (2023), section 3.1; B.1.2.
    """
    views = [n if isinstance(n, View) else View(n) for n in (a, b)]
    check_same_shapes(*(view.state() for view in views))
    for view, who in zip(views, "AB"):
        check_finite(view.state(), who)
    state = views[0].state()
    for name in (u.parameter for p in sym for u in p.uses if u.parameter in state):
        if tuple(state[name].shape) != sym.shapes[name]:
            raise ValueError(
                f"{name!r} must be of shape {sym.shapes[name]}: the symmetry is of another"
                " architecture"
            )
    products = {p.name: _Products(p) for p in sym}
    node = {name: views[0].site(sums.site).node for name, sums in products.items()}
    images = 0
    for x, _ in loader:
        h_a, h_b = (view.run(x, set(node.values())) for view in views)
        for name, sums in products.items():
            sums.add(h_a[node[name]], h_b[node[name]])
        images += len(x)
    if not images:
        raise ValueError(NO_IMAGES)
    found, total, dead, similarities = {}, 0.0, {}, {}
    for name, sums in products.items():
        similarities[name] = similarity = sums.similarity(correlation)
        if not np.isfinite(similarity).all():
            raise ValueError(f"the features of {name!r} hold NaN or infinite values on some image")
        rows, order = linear_sum_assignment(similarity, maximize=True)
        found[name] = torch.from_numpy(order)
        total += float(similarity[rows, order].sum())
        if any(sums.dead()):
            dead[name] = sums.dead()
    if dead:
        told = ", ".join(f"{a} of A, {b} of B in {name!r}" for name, (a, b) in dead.items())
        # two decorators stand between
        warnings.warn(f"units that respond to no image: {told}", stacklevel=4)
    return ActivationMatching(found, total, images, dead, similarities)


@METHODS.register("activation")
def _match(
    sym: Symmetry, a: nn.Module, b: nn.Module, loader: Loader, seed: object = 0, **args: Any
) -> ActivationMatching:
    return activation_matching(sym, a, b, loader, **args)
