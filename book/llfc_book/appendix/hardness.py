"""Why minimising the residual is NP-hard: a reduction from Hamiltonian cycles, built as ordinary
networks and checked.

:func:`hamiltonian_networks` turns a graph into two ReLU networks with weights 0 and 1 whose least
residual tells whether the graph has a Hamiltonian cycle; :func:`verified` holds that against a
search through all cycles, on the graphs of :func:`graphs`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, compress, permutations, product

import torch
from torch import Tensor, nn

from llfc_book.appendix.identities import DOUBLE
from llfc_book.appendix.joint import Residual, all_orders, enumerate_residual
from llfc_lib.models.view import View


@dataclass(frozen=True)
class Reduction:
    """Two ReLU networks with 0/1 weights and n images. The least residual equals ``threshold``
    exactly if the graph has a Hamiltonian cycle, and exceeds it by at least 2 otherwise.
    """

    a: nn.Sequential
    b: nn.Sequential
    images: list[tuple[Tensor, Tensor]]
    threshold: int


def _check_graph(adjacency: Tensor) -> int:
    n, symmetric = len(adjacency), torch.equal(adjacency, adjacency.T)
    if (
        n < 3
        or not symmetric
        or adjacency.diagonal().any()
        or set(adjacency.unique().tolist()) - {0, 1}
    ):
        raise ValueError(
            "the adjacency matrix of a graph is n x n with n >= 3 and entries 0 or 1, symmetric,"
            f" with a diagonal of zeros; got\n{adjacency}"
        )
    return n


def cycle_incidence(n: int) -> Tensor:
    """n x n: column k has ones at the two ends, k and k + 1, of edge k of the n-cycle."""
    return torch.eye(n, dtype=DOUBLE) + torch.eye(n, dtype=DOUBLE).roll(1, 0)


def root_of_complement(adjacency: Tensor) -> tuple[Tensor, int]:
    """W (m x n, entries 0 or 1) and c with W^T W = M + c 1, M being the adjacency matrix of the
    complement of the graph.
    """
    n, one = _check_graph(adjacency), torch.eye(len(adjacency), dtype=DOUBLE)
    missing = [(i, j) for i, j in combinations(range(n), 2) if not adjacency[i, j]]
    degree = [sum(i in edge for edge in missing) for i in range(n)]
    rows = [one[i] + one[j] for i, j in missing] + [
        one[i] for i in range(n) for _ in range(max(degree) - degree[i])
    ]
    return torch.stack(rows or [0 * one[0]]), max(degree)


def hamiltonian_networks(adjacency: Tensor) -> Reduction:
    """The networks of the reduction for a graph (n x n, 0 or 1). ValueError for what is no graph.

    Source: Karp (1972), that Hamiltonian cycles are hard.
    """
    n = _check_graph(adjacency)
    root, c = root_of_complement(adjacency)
    weights = [(torch.zeros(n, n, dtype=DOUBLE), root), (cycle_incidence(n), 0 * root)]
    a, b = (
        nn.Sequential(nn.Linear(n, n, bias=False), nn.ReLU(), nn.Linear(n, len(root), bias=False))
        .to(DOUBLE)
        .eval()
        for _ in "AB"
    )
    for network, (first, second) in zip((a, b), weights):
        network.load_state_dict({"0.weight": first, "2.weight": second})
    return Reduction(
        a, b, [(torch.eye(n, dtype=DOUBLE), torch.zeros(n, dtype=torch.long))], 2 * c * n
    )


def missing_edges(adjacency: Tensor) -> int:
    """The fewest edges that the graph lacks on any cycle through all its vertices, by looking at
    all such cycles; 0: it has a Hamiltonian cycle.
    """
    n = _check_graph(adjacency)
    cycles = torch.cat([torch.full((math.factorial(n - 1), 1), n - 1), all_orders(n - 1)], 1)
    return int((1 - adjacency[cycles, cycles.roll(1, 1)]).sum(1).min())


def graphs(n: int) -> list[Tensor]:
    """All graphs on n vertices, one of each isomorphism class."""
    edges, seen, found = list(combinations(range(n), 2)), set(), []
    for chosen in product((False, True), repeat=len(edges)):
        graph = frozenset(compress(edges, chosen))
        if graph not in seen:
            found.append(graph_of(n, sorted(graph)))
            for p in permutations(range(n)):
                seen.add(frozenset((min(p[i], p[j]), max(p[i], p[j])) for i, j in graph))
    return found


def graph_of(n: int, edges: Sequence[tuple[int, int]]) -> Tensor:
    """The adjacency matrix (n x n) of a list of edges."""
    found = torch.zeros(n, n, dtype=torch.long)
    for i, j in edges:
        found[i, j] = found[j, i] = 1
    return found


def verified(adjacency: Tensor) -> dict[str, float]:
    """The reduction against brute force on one graph: ``excess`` of the least residual over the
    threshold, twice the ``missing`` edges if the theorem is right; ``spread`` of what activation
    and weight matching minimise, over all permutations.
    """
    made = hamiltonian_networks(adjacency)
    view = View(made.a)  # traced once for both: they are of one architecture
    residual = Residual(view, view.with_state(made.b.state_dict()), made.images)
    (name,) = residual.sym.identity()
    orders = [{name: order} for order in all_orders(len(adjacency))]
    factors = [list(map(of, orders)) for of in (residual.weights, residual.features)]
    return {
        "n": len(adjacency),
        "missing": missing_edges(adjacency),
        "excess": float(enumerate_residual(residual).min()) - made.threshold,
        "spread": max(max(values) - min(values) for values in factors),
    }
