"""Weight matching (Ainsworth et al., 2023, Algorithm 1): permutations under which B's weights lie
closest to A's.

The objective is <A, pi(B)> over all parameters, so that |A - pi(B)|^2 = |A|^2 + |B|^2 - 2 *
objective. With all permutations but one held, it is a linear assignment problem in that one, whose
similarity is a sum of matrix products over the (parameter, axis) pairs that it acts on. Three
things make a visit cheap and change no result: products whose other axis has not moved since are
kept, those where it moved a little are corrected by the units that moved, and the assignment starts
from the prices of the last visit.
"""

import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from llfc_lib.matching.methods import METHODS, Found
from llfc_lib.matching.symmetry import Permutation, Permutations, Symmetry, Use
from llfc_lib.metrics.measure import PIECE, Loader, dot
from llfc_lib.models.weights import State, check_finite, check_same_shapes
from llfc_lib.streams import numpy_generator

TOLERANCE = 1e-6  # relative: float32 products are sure to seven digits
MAX_SWEEPS = 100
PRICE_STEPS = 4


@dataclass
class Matching(Found):
    """What a matching found. ``objective`` is <A, pi(B)> in float64, ``history`` its value after
    every accepted step (the first entry: before any). ``seconds`` is the time in "products",
    "gathers" and "assignment"; ``visits`` and ``assignments`` count permutations looked at and
    assignment problems really solved.

    Source: Ainsworth et al. (2023), Algorithm 1; B.1.2.
    """

    history: list[float] = field(default_factory=list)
    sweeps: int = 0
    visits: int = 0
    assignments: int = 0
    converged: bool = True
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    prices: dict[str, np.ndarray] = field(default_factory=dict, repr=False)


def weight_matching(
    sym: Symmetry,
    a: State,
    b: State,
    seed: object = 0,
    start: Permutations | None = None,
    tolerance: float = TOLERANCE,
    max_sweeps: int = MAX_SWEEPS,
    prices: Mapping[str, np.ndarray] | None = None,
) -> Matching:
    """Coordinate ascent from ``start`` (else the identity) until a whole sweep raises no term by
    ``tolerance``.

    ``a`` and ``b`` are state dicts of one architecture, on any device: products run there,
    assignments on the processor. ``seed`` orders the visits of each sweep. The objective never
    falls. ``prices`` of an earlier matching of almost the same weights save time, no more.
    ValueError for other shapes, NaN weights or a start of the wrong size; a warning where
    ``max_sweeps`` did not suffice.

    Source: Ainsworth et al. (2023), Algorithm 1; B.1.2.
    """
    check_same_shapes(a, b)
    check_finite(a, "A")
    check_finite(b, "B")
    if start is not None:
        sym.check_permutations(start)
    with torch.no_grad():
        return _Ascent(sym, a, b, start, tolerance, prices).run(
            numpy_generator("weight matching", seed), max_sweeps
        )


@METHODS.register("weight")
def _match(
    sym: Symmetry, a: nn.Module, b: nn.Module, loader: Loader, seed: object = 0, **args: Any
) -> Matching:
    return weight_matching(sym, a.state_dict(), b.state_dict(), seed, **args)


def objective(sym: Symmetry, a: State, b: State, permutations: Permutations) -> float:
    """<A, pi(B)> over all parameters (no running statistics; a tied one once), in float64.

    Source: Ainsworth et al. (2023), section 3.2.
    """
    return _inner(a, sym.apply(b, permutations), sym.trained)


def _inner(a: State, b: State, names: Iterable[str]) -> float:
    total = 0.0
    for name in names:
        x, y = a[name], b[name]
        total += float(dot(x, y) if x.numel() > PIECE else (x.double() * y.double()).sum())
    return total


@dataclass
class _Term:
    """One (parameter, axis) pair in a permutation's similarity: product[i, j] = <A's unit i,
    current B's unit j>.

    ``pending``: the order in which the units of the other axis have been put since ``product`` was
    made.
    """

    use: Use
    a: Tensor  # n x r x others x rest
    product: Tensor | None = None
    pending: Tensor | None = None


class _Ascent:
    def __init__(
        self,
        sym: Symmetry,
        a: State,
        b: State,
        start: Permutations | None,
        tolerance: float,
        prices: Mapping[str, np.ndarray] | None,
    ) -> None:
        self.sym, self.a_state, self.b_state, self.tolerance = sym, a, b, tolerance
        self.found = Matching(
            {p.name: (start or {}).get(p.name, torch.arange(p.size)).clone().cpu() for p in sym},
            0.0,
        )
        names = dict.fromkeys(
            u.parameter for p in sym for u in p.uses if not u.statistic and not u.alias
        )
        moved = sym.apply(b, start or {})
        self.b = {name: moved[name].detach() for name in names}
        self.unmoved = {name: b[name] for name in sym.trained if name not in names}
        self.prices = {
            p.name: np.array(prices[p.name]) if prices else np.zeros(p.size) for p in sym
        }
        # they own their axis, one row a unit, in order
        self.whole = {id(u) for p in sym for u in p.uses if _is_whole(u, sym)}
        self.terms: dict[str, list[_Term]] = {}
        # one-dimensional parameters: their product is only ever reordered
        self.vectors: dict[str, Tensor] = {}
        self.twice = {
            p.name: len({(u.parameter, u.axis) for u in p.uses})
            > len({u.parameter for u in p.uses})
            for p in sym
        }
        for p in sym:
            self.terms[p.name], columns = [], []
            for use in p.uses:
                if use.statistic or use.alias:
                    continue
                of_a = self._rows(a[use.parameter].detach(), use)
                if a[use.parameter].ndim == 1:
                    columns.append((of_a, self._rows(self.b[use.parameter], use)))
                else:
                    self.terms[p.name].append(_Term(use, of_a))
            if columns:
                x, y = (torch.cat([pair[i].flatten(1) for pair in columns], 1) for i in (0, 1))
                self.vectors[p.name] = x @ y.T
        #: terms of others (name, term) whose other axis a permutation's use is
        self.beside = {
            p.name: [
                (other, term, u)
                for other, terms in self.terms.items()
                for term in terms
                if (u := acts.get((term.use.parameter, 1 - term.use.axis)))
            ]
            for p in sym
            for acts in ({(u.parameter, u.axis): u for u in p.uses},)
        }
        self.solved: set[str] = set()  # best possible as long as nothing around them moves

    # one permutation

    def _rows(self, value: Tensor, use: Use) -> Tensor:
        """n x r x others x rest: what each unit owns, the other permutable axis third."""
        if use.rows is not None:
            value = value[use.rows[0] : use.rows[1]]
        value = value.movedim(use.axis, 0)
        if id(use) not in self.whole:
            value = value.index_select(0, use.positions.reshape(-1).to(value.device))
        n, r = use.positions.shape
        others = value.shape[1] if value.ndim > 1 else 1
        return value.reshape(n, r, others, -1)

    def _similarity(self, p: Permutation) -> Tensor:
        parts = [self.vectors[p.name]] if p.name in self.vectors else []
        parts += [self._refreshed(term) for term in self.terms[p.name]]
        total = parts[0].clone()
        for part in parts[1:]:
            total.add_(part)
        return total

    def _refreshed(self, term: _Term) -> Tensor:
        """The term's product, made or mended if units of the other axis have moved."""
        kept, pending, term.pending = term.product, term.pending, None
        if kept is not None and pending is None:
            return kept
        moved = torch.empty(0)
        if pending is not None:
            moved = torch.nonzero(pending != torch.arange(len(pending))).flatten()
        if kept is not None and not len(moved):
            return kept
        with self._timed("gathers"):
            b = self._rows(self.b[term.use.parameter], term.use)
            if kept is None or pending is None or 3 * len(moved) >= 2 * len(pending):
                kept, a, b = None, term.a.flatten(1), b.flatten(1)
            else:
                # only these have changed: what was there before stands where the order took it
                before = torch.argsort(pending)[moved].to(b.device)
                moved = moved.to(b.device)
                b = (b.index_select(2, moved) - b.index_select(2, before)).flatten(1)
                a = term.a.index_select(2, moved).flatten(1)
        with self._timed("products"):
            term.product = a @ b.T if kept is None else torch.addmm(kept, a, b.T)
        return term.product

    def visit(self, p: Permutation) -> bool:
        """Put the units of ``p`` in their best order; whether that raised the objective."""
        self.found.visits += 1
        if p.name in self.solved:
            return False
        similarity = self._similarity(p)
        with self._timed("assignment"):
            order, gain, scale = self._assign(p, similarity.double().cpu().numpy())
        if not gain > self.tolerance * scale:
            self.solved.add(p.name)
            return False
        if self.twice[p.name]:
            # both axes move at once, so that the similarity foretold it only roughly
            before = self._exact(p)
            self._move(p, order)
            gain = self._exact(p) - before
            if not gain > self.tolerance * scale:
                self._move(p, torch.argsort(order))
                self.solved.add(p.name)
                return False
        else:
            self._move(p, order)
            self.solved.add(p.name)
        self.found.history.append(self.found.history[-1] + gain)
        return True

    def _assign(self, p: Permutation, similarity: np.ndarray) -> tuple[Tensor, float, float]:
        """The best order, what it gains over the present one, and the size of the sum.

        Any prices of the columns may be taken off without changing which order is best; good ones,
        as the last visit left them, shorten scipy's search, and may show that the present order
        cannot be improved.
        """
        price, own = self.prices[p.name], similarity.diagonal()
        reduced = similarity
        if price.any():
            price, best = _improved_prices(similarity, price, np.arange(p.size), 1)
            scale = float(np.abs(own).sum())
            most = (best - (own - price)).sum()  # that any order could gain
            if most <= self.tolerance * scale:
                self.prices[p.name] = price
                return torch.arange(p.size), 0.0, scale
            reduced = similarity - price
            reduced -= best[:, None]
        self.found.assignments += 1
        rows, order = linear_sum_assignment(reduced, maximize=True)
        price = _improved_prices(similarity, price, order, PRICE_STEPS)[0]
        self.prices[p.name] = price[order]
        chosen = similarity[rows, order]
        return torch.from_numpy(order), float(chosen.sum() - own.sum()), float(np.abs(chosen).sum())

    def _exact(self, p: Permutation) -> float:
        names = dict.fromkeys(u.parameter for u in p.uses if u.parameter in self.b)
        return _inner(self.a_state, self.b, names)

    def _move(self, p: Permutation, order: Tensor) -> None:
        """Reorder B, and everything known of it."""
        with self._timed("gathers"):
            self.found.permutations[p.name] = self.found.permutations[p.name][order]
            for u in p.uses:
                if u.parameter in self.b:
                    self.b[u.parameter] = _reordered(self.b[u.parameter], u, order)
            on_device = order.to(next(iter(self.b.values())).device)
            if p.name in self.vectors:
                self.vectors[p.name] = self.vectors[p.name].index_select(1, on_device)
            for term in self.terms[p.name]:
                if term.product is not None:
                    term.product = term.product.index_select(1, on_device)
        for other, term, u in self.beside[p.name]:
            self.solved.discard(other)
            if u.rows is not None or term.use.rows is not None:
                term.product = None  # only some rows have changed: begin anew
                continue
            now = term.pending
            if now is None:
                now = torch.arange(self.b[u.parameter].shape[u.axis])
            term.pending = now.clone()
            term.pending[u.positions.reshape(-1)] = now[u.positions[order].reshape(-1)]

    # the loop

    def run(self, rng: np.random.Generator, max_sweeps: int) -> Matching:
        found, permutations = self.found, list(self.sym)
        found.history = [self._objective()]
        while found.sweeps < max_sweeps:
            found.sweeps += 1
            if not sum([self.visit(permutations[i]) for i in rng.permutation(len(permutations))]):
                break
        else:
            found.converged = False
            warnings.warn(
                f"weight matching still gained after {max_sweeps} sweeps; raise max_sweeps",
                stacklevel=3,
            )
        found.objective = self._objective()
        found.prices = self.prices
        return found

    def _objective(self) -> float:
        return _inner(self.a_state, {**self.b, **self.unmoved}, self.sym.trained)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.found.seconds[what] += time.perf_counter() - began


def _is_whole(use: Use, sym: Symmetry) -> bool:
    length = sym.shapes[use.parameter][use.axis]
    return use.positions.shape == (length, 1) and bool(
        (use.positions[:, 0] == torch.arange(length)).all()
    )


def _reordered(value: Tensor, use: Use, order: Tensor) -> Tensor:
    index = torch.arange(value.shape[use.axis])
    index[use.positions.reshape(-1)] = use.positions[order].reshape(-1)
    index = index.to(value.device)
    if use.rows is None:
        return value.index_select(use.axis, index)
    value = value.clone()
    value[use.rows[0] : use.rows[1]] = value[use.rows[0] : use.rows[1]].index_select(
        use.axis, index
    )
    return value


def _improved_prices(
    similarity: np.ndarray, price: np.ndarray, order: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Prices of the columns under which every row prefers the column that ``order`` gives it, as
    nearly as a few steps of Bellman and Ford's get there; and each row's best value less its
    price."""
    own = similarity[np.arange(len(order)), order]
    for _ in range(steps):
        left = own - price[order]  # what a row keeps if it stays
        better = np.maximum(price, (similarity - left[:, None]).max(0))
        done = (better - price).max() <= 1e-12 * np.abs(own).max()  # prices only rise
        price = better
        if done:
            break
    return price, (similarity - price).max(1)
