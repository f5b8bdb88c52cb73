"""Weight matching as one would write it down first: Algorithm 1 of Ainsworth et al. (2023), term by
term.

Tests compare the library with it, and `make bench` times the two. Nothing is kept between visits:
every product is made anew from B's own weights, with all axes but one in their current order.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from llfc_lib.matching import Permutation, Permutations, Symmetry, Use


def inner_product(
    sym: Symmetry, a: dict[str, Tensor], b: dict[str, Tensor], permutations: Permutations
) -> float:
    """<A, pi(B)> in float64, over the parameters that some permutation moves."""
    names = {u.parameter for p in sym for u in p.uses if counts(u)}
    return sum(
        float((a[n].double() * put(sym, n, b[n], permutations).double()).sum()) for n in names
    )


def counts(use: Use) -> bool:
    """Trained, and not a second name of what is counted already."""
    return "running_" not in use.parameter and not use.alias


def put(
    sym: Symmetry, name: str, value: Tensor, permutations: Permutations, but: int | None = None
) -> Tensor:
    """Parameter ``name`` with every axis ``but`` one in the order of ``permutations``."""
    for p in sym:
        for use in p.uses:
            if use.parameter == name and use.axis != but:
                new = value.clone()
                rows = slice(*use.rows) if use.rows else slice(None)
                for k in range(use.positions.shape[1]):
                    to, source = use.positions[:, k], use.positions[permutations[p.name], k]
                    units = value[rows].index_select(use.axis, source)
                    new[rows].index_copy_(use.axis, to, units)
                value = new
    return value


def similarity(
    sym: Symmetry,
    p: Permutation,
    a: dict[str, Tensor],
    b: dict[str, Tensor],
    permutations: Permutations,
) -> Tensor:
    """[i, j]: what it adds to <A, pi(B)> if B's own unit j is put where A's unit i is."""
    total = 0
    for use in filter(counts, p.uses):
        rows = slice(*use.rows) if use.rows else slice(None)
        x = a[use.parameter][rows]
        y = put(sym, use.parameter, b[use.parameter], permutations, but=use.axis)[rows]
        for k in range(use.positions.shape[1]):
            u, v = (
                w.index_select(use.axis, use.positions[:, k]).movedim(use.axis, 0) for w in (x, y)
            )
            total = total + u.reshape(p.size, -1) @ v.reshape(p.size, -1).T
    return total


def both_axes(sym: Symmetry, p: Permutation) -> bool:
    """One parameter has two axes whose order is ``p``: its products are quadratic in ``p``."""
    return any(u.parameter == v.parameter and u.axis != v.axis for u in p.uses for v in p.uses)


def match(
    sym: Symmetry,
    a: dict[str, Tensor],
    b: dict[str, Tensor],
    rng: np.random.Generator,
    tolerance: float = 1e-6,
    max_sweeps: int = 100,
) -> tuple[dict[str, Tensor], int]:
    """Permutations, and the number of sweeps; ``rng`` draws the order of visits."""
    found, all_of_them = sym.identity(), list(sym)
    for sweep in range(1, max_sweeps + 1):
        gained = False
        for i in rng.permutation(len(all_of_them)):
            p = all_of_them[i]
            s = similarity(sym, p, a, b, found).double().numpy()
            rows, order = linear_sum_assignment(s, maximize=True)
            gain = (s[rows, order] - s[rows, found[p.name].numpy()]).sum()
            new = {**found, p.name: torch.from_numpy(order)}
            if both_axes(sym, p) and gain > 0:
                gain = inner_product(sym, a, b, new) - inner_product(sym, a, b, found)
            if gain > tolerance * np.abs(s[rows, order]).sum():
                found, gained = new, True
        if not gained:
            return found, sweep
    return found, max_sweeps
