"""The commutativity residual and its joint minimum."""

import itertools

import pytest
import torch
from nets import conv, loader, mlp

from llfc_lib.matching import activation_matching, permuted
from llfc_lib.matching.joint import Residual, enumerate_minimum, local_search
from llfc_lib.models.view import View


def direct(a, b, data):
    """R from the definition, with b already permuted."""
    views, total = [View(n) for n in (a, b)], 0.0
    for m in views[0].maps[1:]:
        h = [torch.cat([v.run(x, {m.input})[m.input] for x, _ in data]) for v in views]
        w = [v.state()[m.weight] for v in views]
        total += float(((h[0] - h[1]) @ (w[0] - w[1]).T).square().sum())
    return total


@pytest.mark.parametrize("seed", range(3))
def test_the_residual_is_its_definition(seed):
    a, b, data = mlp(0), mlp(1), loader()
    residual = Residual(a, b, data)
    order = residual.sym.random(seed)
    assert residual.value(order) == pytest.approx(direct(a, permuted(b, residual.sym, order), data), rel=1e-10)


def test_a_permuted_copy_has_none():
    a, data = mlp(0), loader()
    sym = Residual(a, a, data).sym
    order = sym.random(5)
    back = {name: torch.argsort(p) for name, p in order.items()}
    residual = Residual(a, permuted(a, sym, order), data)
    assert residual.value(back) < 1e-9 * residual.scale < residual.value({})


def test_an_exchange_changes_it_by_what_was_foretold():
    residual = Residual(mlp(0), mlp(1), loader())
    order = residual.sym.random(1)
    before = residual.value(order)
    for name in order:
        deltas = residual.swap_deltas(order, name)
        for i, j in ((0, 1), (2, 9), (15, 4)):
            swapped = {**order, name: order[name].clone()}
            swapped[name][[i, j]] = order[name][[j, i]]
            assert float(deltas[i, j]) == pytest.approx(residual.value(swapped) - before, rel=1e-8, abs=1e-9 * residual.scale)


def test_local_search_never_raises_it_and_enumeration_is_the_minimum():
    from torch import nn

    def tiny(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 5)).double().eval()

    a, b, data = tiny(0), tiny(1), loader()
    residual = Residual(a, b, data)
    names = list(residual.sym.identity())
    every = [{n: torch.tensor(p) for n, p in zip(names, both)} for both in itertools.product(itertools.permutations(range(4)), repeat=2)]
    least = min(residual.value(order) for order in every)
    assert enumerate_minimum(residual).value == pytest.approx(least, rel=1e-9)
    start = residual.sym.random(3)
    found = local_search(residual, start)
    assert least * (1 - 1e-9) <= found.value <= residual.value(start)
    # activation matching minimises the other factor, exactly
    matched = activation_matching(residual.sym, a, b, data).permutations
    assert residual.features(matched) == pytest.approx(min(residual.features(order) for order in every), rel=1e-9)


def test_convolutions_are_refused():
    with pytest.raises(ValueError, match="is a convolution"):
        Residual(conv(0), conv(1), loader(shape=(2, 5, 5)))
