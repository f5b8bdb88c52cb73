"""A.3: its identities and what would be seen of a slip, its assignment problems against
enumeration, and the reduction.
"""

from functools import cache
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llfc_book.appendix import assignment as a
from llfc_book.appendix import hardness, identities
from llfc_book.appendix.joint import Residual, enumerate_minimum
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


def matrices(seed: int, n: int = 5, out: int = 4, images: int = 6) -> tuple[torch.Tensor, ...]:
    rng = numpy_generator("test qap", seed)
    return tuple(
        torch.from_numpy(rng.normal(size=size)) for size in ((out, n), (n, images), (n, images))
    )


# Identities


@pytest.mark.parametrize("matrices_of", [lambda: RANDOM, trained], ids=["random", "trained"])
@by_name
def test_identity_holds_unless_printed_wrong(identity, matrices_of):
    layers = matrices_of()
    orders = [identities.random_orders(layers, "test", k) for k in range(4)]
    assert identities.deviation(identity, layers, orders, true_right(identity)) < EXACT
    off = identities.deviation(identity, layers, orders)
    assert off < EXACT if identity.holds_as_printed else off > 1e-3


@pytest.mark.parametrize("factor", [-1.0, 0.5], ids=["sign", "half"])
@by_name
def test_a_wrong_sign_or_factor_would_be_seen(identity, factor):
    right = true_right(identity)
    for k in range(len(right.coefficients)):
        wrong = tuple(factor * c if j == k else c for j, c in enumerate(right.coefficients))
        off = identities.deviation(identity, RANDOM, ORDERS, right, wrong)
        assert off > 1e-3, f"coefficient {k} of {right.math}"


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
        (lambda t: a.solve_qap(t.w_a[:, 1:], t.h_a, t.h_b), "do not fit features"),
        (lambda t: a.solve_qap(t.w_a, t.h_a, t.h_b, "simplex"), "unknown method 'simplex'"),
        (lambda t: identities.layers_of(conv(0), conv(1), loader(4, (2, 6, 6))), "no chain"),
        (lambda t: hardness.hamiltonian_networks(torch.ones(3, 3).triu(1)), "symmetric"),
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
    assert torch.allclose(terms.objective, enumerate_minimum(residual).values, rtol=1e-10)
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


def test_first_and_second_term_fall_apart_into_layers_and_the_last_does_not():
    layers = identities.random_layers((5, 4, 4, 3), 20, "apart")
    terms = a.enumerate_terms(layers)
    for values in (terms.first, terms.second):
        assert abs(a.interaction_share(values)) < EXACT
        alone = [values.min(axis).values.argmin() for axis in (1, 0)]  # L - 1 problems side by side
        assert values[alone[0], alone[1]] == values.min()
    assert a.interaction_share(terms.cross) > 0.01 and a.interaction_share(terms.objective) > 1e-3


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


def test_interaction_of_known_tables():
    rows, columns = torch.arange(3.0).double()[:, None], torch.arange(4.0).double()[None]
    centred = (rows - rows.mean()) * (columns - columns.mean())
    assert a.interaction_share(centred) == pytest.approx(1)
    one_axis = (rows - rows.mean()).expand(3, 4) / rows.std(correction=0)
    both = one_axis + centred / centred.std(correction=0)
    assert a.interaction_share(both) == pytest.approx(0.5)


def test_bilinear_term_falls_apart_exactly_for_row_and_column_sums():
    """The proposition about the last term, on matrices."""
    orders, rng = a.all_orders(4), numpy_generator("test rank")
    row, column, other = (torch.from_numpy(rng.normal(size=n)) for n in (4, 4, (4, 4)))
    constant, free = (d[torch.arange(4), orders].sum(1) for d in (row[:, None] + column, other))
    assert float(constant.max() - constant.min()) < EXACT < 0.1 < float(free.max() - free.min())


def test_one_hidden_layer_is_one_problem_of_lawlers_form():
    layers = identities.random_layers((3, 5, 4), 12, "lawler")
    c, constant = a.lawler_form(layers[1])
    orders, units = a.all_orders(5), torch.arange(5)
    values = torch.stack([c[units[:, None], p[:, None], units, p].sum() + constant for p in orders])
    assert torch.allclose(values, a.enumerate_terms(layers).objective, rtol=1e-10)


def test_beside_minimum_counts_what_is_better_and_lets_no_rounding_decide():
    objective = torch.tensor([4.0, 1.0, 2.0, 3.0]).double()
    assert a.beside_minimum(objective, objective) == (1, 0)
    assert a.beside_minimum(objective, -objective) == (4, 0.75)
    assert a.beside_minimum(objective, torch.tensor([1.0, 9, 1 + 1e-13, 9]).double()) == (2, 0.25)


def test_minimiser_of_the_printed_line_is_another_one():
    draws = [identities.random_layers((4, 4, 4, 3), 15, "other", k) for k in range(12)]
    frame = a.consequences(draws, "other").pivot(index="draw", columns="minimised", values="over")
    assert list(a.consequences(draws, "other")["minimised"].unique()) == list(a.MINIMISED)
    assert (frame >= 1).all(axis=None) and (frame[a.MINIMISED[0]] > 1 + 1e-6).mean() > 0.7
    assert frame[a.MINIMISED[0]].median() > frame["first + second term"].median()


# Quadratic assignment


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_the_embedding_has_the_same_values(seed, n, out, images):
    w, h_a, h_b = matrices(seed, n, out, images)
    m, both = a.embedded(w, h_a, h_b)
    orders = a.all_orders(n)
    values = a.qap_values(w, h_a, h_b, orders)
    for p, value in zip(orders[::7], values[::7]):
        whole = torch.cat([torch.arange(n), n + p])
        plain = float((w @ (h_a - h_b[p])).square().sum())
        for found in ((m * both[whole][:, whole]).sum(), value):
            assert float(found) == pytest.approx(plain, rel=1e-9, abs=1e-9)


@given(st.integers(0, 10**6), st.integers(2, 5))
def test_solvers_return_permutations_no_better_than_the_optimum(seed, n):
    w, h_a, h_b = matrices(seed, n)
    plain = {p: float((w @ (h_a - h_b[list(p)])).square().sum()) for p in permutations(range(n))}
    least = min(plain.values())
    assert plain[tuple(a.solve_qap(w, h_a, h_b).tolist())] == pytest.approx(least, rel=1e-9)
    for method in a.METHODS:
        p = a.solve_qap(w, h_a, h_b, method, seed)
        assert plain[tuple(p.tolist())] >= least * (1 - 1e-9)
        assert torch.equal(p, a.solve_qap(w, h_a, h_b, method, seed))


def test_2opt_ends_where_no_exchange_helps():
    for seed in range(5):
        w, h_a, h_b = matrices(seed, 6)
        p = a.solve_qap(w, h_a, h_b, "2opt", seed)
        value = a.qap_values(w, h_a, h_b, p[None])[0]
        for i in range(6):
            for j in range(i):
                q = p.clone()
                q[i], q[j] = p[j], p[i]
                assert a.qap_values(w, h_a, h_b, q[None])[0] >= value * (1 - 1e-12)


@pytest.mark.parametrize("method", ["enumeration", "faq", "activation"])
def test_a_planted_order_is_found_without_noise(method):
    planted = a.planted_layers(6, 30, 5, noise=0.0)
    for layer in planted:
        found = a.solve_qap(layer.w_a, layer.h_a, layer.h_b, method)
        torch.testing.assert_close(layer.h_b[found], layer.h_a)
        torch.testing.assert_close(layer.w_b[:, found], layer.w_a)
    assert any(not torch.equal(layer.h_a, layer.h_b) for layer in planted)


def test_linear_relaxations_minimise_their_own_part():
    w, h_a, h_b = matrices(3, 5)
    _, _, c = a.koopmans_beckmann(w, h_a, h_b)
    orders, units = a.all_orders(5), torch.arange(5)
    for method, gain in (("linear", c), ("activation", h_a @ h_b.T)):
        p = a.solve_qap(w, h_a, h_b, method)
        assert float(gain[units, p].sum()) == pytest.approx(float(gain[units, orders].sum(1).max()))


def test_orthogonal_columns_make_the_first_term_linear():
    """The easy special case of the page."""
    _, h_a, h_b = matrices(0, 5)
    scale = torch.tensor([1.0, 2, 3, 0.5, 1.5]).double()
    columns = torch.from_numpy(numpy_generator("test columns").normal(size=(7, 5)))
    w = torch.linalg.qr(columns)[0] * scale
    cost = scale[:, None].square() * (h_a[:, None] - h_b[None]).square().sum(2)
    orders = a.all_orders(5)
    assert torch.allclose(a.qap_values(w, h_a, h_b, orders), cost[torch.arange(5), orders].sum(1))


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


@pytest.mark.parametrize(
    "graph",
    [
        *hardness.graphs(4),
        *hardness.graphs(5)[1::4],
        *(hardness.random_graph(n, "test", k) for n, k in ((6, 0), (6, 1), (7, 0))),
    ],
)
def test_least_residual_tells_whether_there_is_a_hamiltonian_cycle(graph):
    made = hardness.hamiltonian_networks(graph)
    weights = [w for net in (made.a, made.b) for w in net.parameters()]
    assert all(((w == 0) | (w == 1)).all() for w in weights)
    least = enumerate_minimum(Residual(made.a, made.b, made.images))
    assert (least.value == made.threshold) == has_hamiltonian_cycle(graph)
    assert least.value == made.threshold + 2 * hardness.missing_edges(graph)
    if least.value == made.threshold:  # the order is the cycle
        place = torch.argsort(next(iter(least.permutations.values())))
        assert all(graph[place[k - 1], place[k]] for k in range(len(graph)))


def test_matchings_are_blind_to_the_graph():
    for graph in hardness.graphs(4):
        found = hardness.verified(graph)
        assert found["spread"] < EXACT and found["excess"] == 2 * found["missing"]


def test_an_easy_sum_with_a_hard_term():
    path = hardness.graph_of(5, [(0, 1), (1, 2), (2, 3), (3, 4)])
    for graph in (path, *hardness.graphs(4)):
        made = hardness.hamiltonian_networks(graph, same_weights=True)
        terms = a.enumerate_terms(identities.layers_of(made.a, made.b, made.images))
        assert float(terms.objective[0]) == float(terms.objective.min()) == 0  # the identity
        assert float(terms.first.min()) == made.threshold + 2 * hardness.missing_edges(graph)
    hard = hardness.hamiltonian_networks(path)
    terms = a.enumerate_terms(identities.layers_of(hard.a, hard.b, hard.images))
    assert torch.equal(terms.objective, terms.first)
    assert not terms.second.any() and not terms.cross.any()


# What the page shows


def test_what_is_said_of_every_method_is_what_enumeration_says():
    draws = [identities.random_layers((5, 5, 5), 20, "excess", k)[1] for k in range(3)]
    found = a.solved(draws).set_index(["draw", "term", "method"])
    for k, layer in enumerate(draws):
        for term, t in (("first", layer), ("second", layer.exchanged())):

            def value(p: torch.Tensor, t: identities.Layer = t) -> torch.Tensor:
                return (t.w_a @ (t.h_a - t.h_b[p])).square().sum()

            every = torch.stack([value(p) for p in a.all_orders(5)])
            for method in a.METHODS[1:]:
                above = value(a.solve_qap(t.w_a, t.h_a, t.h_b, method, k)) - every.min()
                excess = float(above / (every.mean() - every.min()))
                row = found.loc[(k, term, method)]
                assert row["excess"] == pytest.approx(excess, abs=1e-9)
                assert row["optimal"] == (excess < 1e-9)


def test_a_random_order_is_as_far_from_the_optimum_as_the_mean():
    draws = [identities.random_layers((5, 5, 5), 20, "chance", k)[1] for k in range(12)]
    found = a.solved(draws)
    assert 0.6 < found[found["method"] == "random order"]["excess"].mean() < 1.4
    assert set(found["method"]) == {*a.METHODS[1:], "random order"}


def test_the_null_of_a_wrong_objective_is_a_random_order():
    draws = [identities.random_layers((4, 4, 4, 4), 15, "null", k) for k in range(20)]
    rank = a.consequences(draws, "null").groupby("minimised")["rank"].mean()
    assert 0.25 < rank[a.MINIMISED[-1]] < 0.75 and rank[a.MINIMISED[3]] < 0.2
