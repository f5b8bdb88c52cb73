"""What minimising the terms of A.3 means: all permutations of tiny networks looked at.

:func:`enumerate_terms` gives the three terms under each of them, :func:`consequences` where the
minimiser of something else ends.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from llfc_book.appendix.identities import DOUBLE, Layer
from llfc_book.appendix.joint import add_over, all_orders, check_few, grams
from llfc_lib.streams import numpy_generator

ROUNDING = 1e-9  # values nearer than this, relative to the least, count as equal


@dataclass(frozen=True)
class Terms:
    """The three sums of A.3 under all permutations, each n_1! x ... x n_(L-1)!, orders as in
    :func:`all_orders`.

    Source: A.3, the last line of its first block.
    """

    first: Tensor
    second: Tensor
    cross: Tensor

    @property
    def objective(self) -> Tensor:
        """first + second - 2 cross, which A.3 sets out to minimise."""
        return self.first + self.second - 2 * self.cross

    @property
    def printed(self) -> Tensor:
        """first + second + cross, as A.3 prints it."""
        return self.first + self.second + self.cross


def enumerate_terms(layers: Sequence[Layer]) -> Terms:
    """The three sums of ``layers`` under all permutations of their hidden units, in float64.

    ValueError above eight units in a layer or 600,000 permutations in all, or without a hidden
    layer.

    Source: A.3, the last line of its first block.
    """
    sizes = [len(t.h_a) for t in layers[1:]]
    check_few(sizes)
    outer = [*map(all_orders, sizes[1:]), torch.arange(len(layers[-1].w_a))[None]]
    total = [torch.zeros([math.factorial(n) for n in sizes], dtype=DOUBLE) for _ in range(3)]
    for k, (t, inner, q) in enumerate(zip(layers[1:], map(all_orders, sizes), outer)):
        aa, ab, bb = t.h_a @ t.h_a.T, t.h_a @ t.h_b.T, t.h_b @ t.h_b.T
        gram, w_b = grams(aa, ab, bb, inner), t.w_b.T[inner].transpose(1, 2)  # W_B P^T
        mixed = t.w_a @ gram @ w_b.transpose(1, 2)  # X (Q^T Y)^T
        for sum_, table in zip(
            total,
            (
                (t.w_a @ gram * t.w_a).sum((1, 2)),
                (w_b @ gram * w_b).sum((1, 2)),
                mixed[:, torch.arange(len(t.w_a)), q].sum(2),
            ),
        ):
            add_over(sum_, k, table)
    return Terms(*total)


def over_minimum(objective: Tensor, chosen_by: Tensor) -> float:
    """Where the permutation that minimises ``chosen_by`` ends: ``objective`` over its minimum. Of
    several equally good by ``chosen_by`` the best is taken, so that no rounding decides.
    """
    low, high = chosen_by.min(), chosen_by.max()
    ends = objective[chosen_by <= low + ROUNDING * (high - low)]
    return float(ends.min() / objective.min())


MINIMISED = (
    "as printed, +⟨X, Y⟩",
    "first term",
    "second term",
    "first + second term",
    "random order",
)


def consequences(draws: Sequence[Sequence[Layer]], *stream: object) -> pd.DataFrame:
    """What comes of minimising something else than the objective: ``over`` its minimum
    (:func:`over_minimum`) with each of MINIMISED, for every draw.
    """
    found = []
    for k, layers in enumerate(draws):
        terms, rng = enumerate_terms(layers), numpy_generator("A.3 random order", *stream, k)
        random = torch.from_numpy(rng.permutation(terms.first.numel())).reshape(terms.first.shape)
        others = (terms.printed, terms.first, terms.second, terms.first + terms.second, random)
        for name, other in zip(MINIMISED, others):
            found.append((k, name, over_minimum(terms.objective, other)))
    return pd.DataFrame(found, columns=["draw", "minimised", "over"])
