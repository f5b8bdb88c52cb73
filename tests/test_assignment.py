"""A.3: its identities and what would be seen of a slip, its terms under all permutations, and the
reduction.
"""

from functools import cache
from itertools import permutations

import numpy as np
import pytest
import torch
from llfc_book.appendix import assignment as a
from llfc_book.appendix import hardness, identities
from llfc_book.appendix.joint import Residual, enumerate_residual
from llfc_book.study.assignment import trained_layers
from nets import conv, loader, mlp
from torch import nn

from llfc_lib.streams import numpy_generator

RANDOM = identities.random_layers((5, 6, 7, 4, 3), 20, "test")
ORDERS = [identities.random_orders(RANDOM, "test", k) for k in range(4)]
EXACT = 1e-12
by_name = pytest.mark.parametrize(
    "identity", identities.IDENTITIES, ids=lambda identity: identity.name
)


@cache
def trained() -> list[identities.Layer]:
    return trained_layers(images=40)


def true_right(identity: identities.Identity) -> identities.Line:
    return identity.correction or identity.right


def tiny(seed: int, *hidden: int, inputs: int = 5, outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    sizes = (inputs, *hidden, outputs)
    parts = [part for n, m in zip(sizes, sizes[1:]) for part in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*parts[:-1]).double().eval()


# Identities


@pytest.mark.parametrize("matrices_of", [lambda: RANDOM, trained], ids=["random", "trained"])
@by_name
def test_identity_holds_unless_printed_wrong(identity, matrices_of):
    layers = matrices_of()
    orders = [identities.random_orders(layers, "test", k) for k in range(4)]
    assert identities.deviation(identity, layers, orders, true_right(identity)) < EXACT
    off = identities.deviation(identity, layers, orders)
    assert off < EXACT if identity.correction is None else off > 1e-3


@pytest.mark.parametrize("factor", [-1.0, 0.5], ids=["sign", "half"])
@by_name
def test_a_wrong_sign_or_factor_would_be_seen(identity, factor):
    right = true_right(identity)
    for k in range(len(right.coefficients)):
        wrong = tuple(factor * c if j == k else c for j, c in enumerate(right.coefficients))
        off = identities.deviation(identity, RANDOM, ORDERS, right, wrong)
        assert off > 1e-3, f"coefficient {k}"


@by_name
def test_a_transposed_permutation_would_be_seen(identity):
    """Where the right line depends on a permutation at all, its inverse gives something else."""
    inverse = [[torch.argsort(p) for p in orders] for orders in ORDERS]
    left = np.array([identity.left.value(RANDOM, orders) for orders in ORDERS])
    right = np.array([true_right(identity).value(RANDOM, orders) for orders in inverse])
    assert np.ptp(left - right) > 1e-3 * np.ptp(left)


def test_constants_are_what_is_said_to_be_dropped():
    for name, dropped in (("F3", lambda t: t.w_a @ t.h_a), ("S4", lambda t: t.w_b @ t.h_b)):
        step = next(i for i in identities.IDENTITIES if i.name == name)
        constant = sum(float(dropped(t).square().sum()) for t in RANDOM)
        for orders in ORDERS:
            apart = step.left.value(RANDOM, orders) - step.right.value(RANDOM, orders)
            assert apart == pytest.approx(constant)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda t: identities.Layer(t.w_a, t.w_b.T, t.h_a, t.h_b), "do not fit features"),
        (lambda t: identities.layers_of(conv(0), conv(1), loader(4, (2, 6, 6))), "no chain"),
        (lambda t: hardness.hamiltonian_networks(torch.ones(3, 3).triu(1)), "symmetric"),
        (lambda t: hardness.missing_edges(torch.full((3, 3), 2) - 2 * torch.eye(3)), "0 or 1"),
        (lambda t: hardness.missing_edges(torch.ones(3, 3)), "diagonal of zeros"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(RANDOM[1])


def test_printed_line_is_half_a_sum_of_three_squares():
    for orders in ORDERS:
        plain = 0.0
        for t, p, q in zip(RANDOM, orders, orders[1:]):
            x = t.w_a @ (t.h_a - t.h_b[p])
            y = (t.w_b @ (t.h_a[torch.argsort(p)] - t.h_b))[q]
            plain += float(x.square().sum() + y.square().sum() + (x + y).square().sum()) / 2
        assert identities.SPLIT.value(RANDOM, orders) == pytest.approx(plain, rel=1e-12)
        assert identities.SPLIT_CORRECTED.value(RANDOM, orders) == pytest.approx(
            identities.OBJECTIVE.value(RANDOM, orders), rel=1e-12
        )


def test_layers_of_a_network_hold_what_enters_its_maps():
    one, two, images = mlp(0), mlp(1), loader()
    layers = identities.layers_of(one, two, images)
    x = torch.cat([x for x, _ in images]).flatten(1).T
    assert torch.equal(layers[0].h_a, x) and torch.equal(layers[0].h_a, layers[0].h_b)
    with torch.no_grad():
        logits = layers[-1].w_b @ layers[-1].h_b + two.fc4.bias[:, None]
        assert torch.allclose(logits.T, torch.cat([two(x) for x, _ in images]))
    residual = Residual(one, two, images)
    p = residual.sym.random("a3")
    orders = [torch.arange(12), *p.values(), torch.arange(5)]
    assert identities.OBJECTIVE.value(layers, orders) == pytest.approx(residual.value(p), rel=1e-11)


# All permutations


@pytest.mark.parametrize("hidden", [(4,), (3, 4), (3, 2, 3)])
def test_enumerated_terms_are_the_printed_lines(hidden):
    one, two = tiny(0, *hidden), tiny(1, *hidden)
    images = loader(20, (5,), 20)
    layers, residual = identities.layers_of(one, two, images), Residual(one, two, images)
    terms = a.enumerate_terms(layers)
    assert torch.allclose(terms.objective, enumerate_residual(residual), rtol=1e-10)
    rng = numpy_generator("test places", hidden)
    for _ in range(6):
        place = tuple(int(rng.integers(n)) for n in terms.first.shape)
        inner = [a.all_orders(n)[k] for n, k in zip(hidden, place)]
        orders = [torch.arange(5), *inner, torch.arange(3)]
        for line, values in (
            (identities.FIRST_NORM, terms.first),
            (identities.SECOND_NORM, terms.second),
            (identities.CROSS, terms.cross),
            (identities.SPLIT, terms.printed),
        ):
            expected = pytest.approx(line.value(layers, orders), rel=1e-10, abs=1e-10)
            assert float(values[place]) == expected


def not_apart(values: torch.Tensor) -> float:
    """What no sum of a function of each axis explains, over what varies."""
    rows, columns = values.mean(1, keepdim=True), values.mean(0, keepdim=True)
    return float((values - rows - columns + values.mean()).std() / values.std())


def test_first_and_second_term_fall_apart_into_layers_and_the_last_does_not():
    layers = identities.random_layers((5, 4, 4, 3), 20, "apart")
    terms = a.enumerate_terms(layers)
    for values in (terms.first, terms.second):
        assert not_apart(values) < EXACT
        alone = [values.min(axis).values.argmin() for axis in (1, 0)]  # L - 1 problems side by side
        assert values[alone[0], alone[1]] == values.min()
    assert not_apart(terms.cross) > 0.01 and not_apart(terms.objective) > 1e-3


def test_terms_vary_in_all_layers_but_the_first():
    """L - 1 problems: with one permutation at a time, layer l's first term changes exactly where l
    - 1 is permuted.
    """
    for k in range(1, len(RANDOM)):
        orders = [p if j == k else torch.arange(len(p)) for j, p in enumerate(ORDERS[0])]
        kept, first = [torch.arange(len(p)) for p in orders], identities.FIRST_NORM.value
        changed = [
            abs(first([t], orders[j : j + 2]) / first([t], kept[j : j + 2]) - 1) > 1e-6
            for j, t in enumerate(RANDOM)
            if j
        ]
        assert changed == [j == k for j in range(1, len(RANDOM))]
    assert all(identities.OBJECTIVE.value(RANDOM[:1], orders[:2]) == 0 for orders in ORDERS)


def test_of_equally_good_orders_the_best_is_taken():
    objective = torch.tensor([4.0, 1.0, 2.0, 3.0]).double()
    assert a.over_minimum(objective, objective) == 1
    assert a.over_minimum(objective, -objective) == 4
    assert a.over_minimum(objective, torch.tensor([1.0, 9, 1 + 1e-13, 9]).double()) == 2


def test_minimiser_of_the_printed_line_is_another_one():
    draws = [identities.random_layers((4, 4, 4, 3), 15, "other", k) for k in range(12)]
    frame = a.consequences(draws, "other").pivot(index="draw", columns="minimised", values="over")
    assert list(a.consequences(draws, "other")["minimised"].unique()) == list(a.MINIMISED)
    assert (frame >= 1).all(axis=None) and (frame[a.MINIMISED[0]] > 1 + 1e-6).mean() > 0.7
    assert frame[a.MINIMISED[0]].median() > frame["first + second term"].median()


# NP-hardness


def has_hamiltonian_cycle(adjacency: torch.Tensor) -> bool:
    n = len(adjacency)
    return any(
        all(adjacency[u, v] for u, v in zip((0, *p), (*p, 0))) for p in permutations(range(1, n))
    )


def test_matrices_of_the_reduction():
    for graph in [g for n in (3, 4, 5) for g in hardness.graphs(n)]:
        n = len(graph)
        complement = 1 - graph - torch.eye(n, dtype=torch.long)
        root, c = hardness.root_of_complement(graph)
        assert torch.equal(root.T @ root, (complement + c * torch.eye(n)).double())
        assert c == complement.sum(0).max() and ((root == 0) | (root == 1)).all()
        assert len(root) <= n * (n - 1) / 2 + n * (n - 1)
        cycle = hardness.graph_of(n, [(k, (k + 1) % n) for k in range(n)])
        incidence = hardness.cycle_incidence(n)
        assert torch.equal(incidence @ incidence.T, (cycle + 2 * torch.eye(n)).double())


@pytest.mark.parametrize("n, classes, hamiltonian", [(3, 4, 1), (4, 11, 3), (5, 34, 8)])
def test_all_graphs_up_to_isomorphism(n, classes, hamiltonian):
    found = hardness.graphs(n)
    cycles = [has_hamiltonian_cycle(graph) for graph in found]
    assert len(found) == classes and sum(cycles) == hamiltonian
    assert [hardness.missing_edges(graph) == 0 for graph in found] == cycles


def lollipops() -> list[torch.Tensor]:
    """Graphs on six and seven vertices: a cycle, which has one, and a cycle with a tail."""
    rings = [(n, [(k, (k + 1) % n) for k in range(n)]) for n in (6, 7)]
    tails = [(n, [*edges[: n - 2], (n - 2, 0), (n - 2, n - 1)]) for n, edges in rings]
    return [hardness.graph_of(n, edges) for n, edges in rings + tails]


@pytest.mark.parametrize("graph", [*hardness.graphs(4), *hardness.graphs(5)[1::4], *lollipops()])
def test_least_residual_tells_whether_there_is_a_hamiltonian_cycle(graph):
    made = hardness.hamiltonian_networks(graph)
    weights = [w for net in (made.a, made.b) for w in net.parameters()]
    assert all(((w == 0) | (w == 1)).all() for w in weights)
    values = enumerate_residual(Residual(made.a, made.b, made.images))
    least = float(values.min())
    assert (least == made.threshold) == has_hamiltonian_cycle(graph)
    assert least == made.threshold + 2 * hardness.missing_edges(graph)
    if least == made.threshold:  # the order is the cycle
        place = torch.argsort(a.all_orders(len(graph))[int(values.argmin())])
        assert all(graph[place[k - 1], place[k]] for k in range(len(graph)))


def test_matchings_are_blind_to_the_graph():
    for graph in hardness.graphs(4):
        found = hardness.verified(graph)
        assert found["spread"] < EXACT and found["excess"] == 2 * found["missing"]


def test_the_networks_of_the_reduction_have_a_first_term_only():
    made = hardness.hamiltonian_networks(hardness.graph_of(5, [(0, 1), (1, 2), (2, 3), (3, 4)]))
    terms = a.enumerate_terms(identities.layers_of(made.a, made.b, made.images))
    assert torch.equal(terms.objective, terms.first)
    assert not terms.second.any() and not terms.cross.any()
