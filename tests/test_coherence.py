"""Coherence and alignment: against every pattern of signs and every order of a few units, and on
planted cases.
"""

from itertools import permutations, product

import pytest
import torch
from nets import Net, conv, find, loader, mlp, near, whole
from torch import nn
from torch.func import functional_call

from llfc_lib.metrics import Coherence, Commutativity, coherence, measure

QUANTITIES = ("commutator_energy", "sign_energy", "shuffle_energy", "coherence", "energy_alignment")
PIXELS = (2, 6, 7)
LAYERS = {  # what comes before, a map that is not the first, the shape of an image
    "linear": (lambda: (nn.Linear(4, 5), nn.Linear(5, 6)), (4,)),
    "linear of tokens": (lambda: (nn.Linear(4, 4), nn.Linear(4, 3)), (3, 4)),
    "strided": (lambda: (nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3, stride=2, padding=1)), PIXELS),
    "2x3, dilated, circular": (
        lambda: (
            nn.Conv2d(2, 4, 2),
            nn.Conv2d(4, 3, (2, 3), dilation=(2, 1), padding=(1, 2), padding_mode="circular"),
        ),
        PIXELS,
    ),
    "groups": (lambda: (nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 3, padding=1, groups=2)), PIXELS),
    "depthwise": (lambda: (nn.Conv2d(2, 3, 3), nn.Conv2d(3, 6, 2, groups=3)), PIXELS),
    "one channel": (lambda: (nn.Conv2d(2, 1, 3), nn.Conv2d(1, 3, 3)), PIXELS),
    "3d": (lambda: (nn.Conv3d(2, 3, 1), nn.Conv3d(3, 2, 2)), (2, 3, 3, 4)),
}


def small(name, seed):
    torch.manual_seed(seed)
    before, layer = LAYERS[name][0]()
    parts = {"before": before, "relu": nn.ReLU(), "layer": layer}
    return Net(lambda s, x: s.layer(s.relu(s.before(x))).flatten(1), **parts).double().eval()


def differences(a, b, batches):
    """(dH on all images, dH -> |dW dH|^2, axis of its units), by the layers themselves."""
    x = whole(batches)[0]
    d_h = (a.relu(a.before(x)) - b.relu(b.before(x))).detach()
    d_w = (a.layer.weight - b.layer.weight).detach()

    def energy(h):
        weights = {"weight": d_w, "bias": torch.zeros_like(a.layer.bias)}
        return functional_call(a.layer, weights, (h,)).square().sum().item()

    return d_h, energy, d_h.ndim - 1 if isinstance(a.layer, nn.Linear) else 1


@pytest.fixture(scope="module", params=LAYERS)
def case(request):
    a, b = small(request.param, 0), small(request.param, 1)
    batches = [(x, y.clamp(max=2)) for x, y in loader(7, LAYERS[request.param][1], 3)]
    return measure(a, b, batches, [Coherence()]), *differences(a, b, batches)


# every pattern, every order


def test_the_energy_of_the_commutator(case):
    rows, d_h, energy, _ = case
    assert [(r.quantity, r.site, r.n) for r in rows] == [(q, "layer", 7) for q in QUANTITIES]
    v, by_sign, by_order, coherent, aligned = (find(rows, q).mean for q in QUANTITIES)
    assert v == pytest.approx(energy(d_h), rel=1e-12)
    assert coherent == v / by_sign and aligned == by_sign / by_order


@pytest.mark.parametrize("quantity", ["sign_energy", "shuffle_energy"])
def test_its_expectation_over_all_signs_and_all_orders(case, quantity):
    rows, d_h, energy, axis = case
    n = d_h.shape[axis]
    if quantity == "sign_energy":
        signs = torch.tensor(list(product((-1.0, 1.0), repeat=n)), dtype=torch.float64)
        every = [(d_h.movedim(axis, -1) * s).movedim(-1, axis) for s in signs]
    else:
        orders = torch.tensor(list(permutations(range(n))))
        every = [d_h.index_select(axis, order) for order in orders]
    energies = [energy(h) for h in every]
    expected = sum(energies) / len(energies)
    assert find(rows, quantity).mean == pytest.approx(expected, rel=1e-11)
    if n > 1 and quantity == "shuffle_energy":  # signs of a depthwise map change nothing
        assert max(energies) > 1.01 * min(energies)


# by hand


@pytest.mark.parametrize("c", [0.3, 1.7, 2.3, 3.1])
def test_rounding_does_not_make_an_energy_negative(c):
    """dW is the same at every unit, dH sums to 0 in every order: the image is 1, and B is 0."""
    a, b = (
        nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False)).double()
        for _ in range(2)
    )
    for layer in b:
        nn.init.zeros_(layer.weight)
    a[0].weight.data = torch.tensor([[1.0], [c], [-1 - c]], dtype=torch.float64)
    a[1].weight.data = c * torch.ones(1, 3, dtype=torch.float64)
    x, y = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    assert 0 <= find(measure(a, b, [(x, y)], [Coherence()]), "shuffle_energy").mean < 1e-12


# the rest


@pytest.mark.parametrize("make, shape", [(mlp, (1, 3, 4)), (conv, (2, 5, 5))])
def test_the_maps_and_the_energy_are_those_of_commutativity(make, shape):
    a, data, metric = make(0), loader(shape=shape), Commutativity(nulls=False)
    b = near(a, 1)
    rows, others = (measure(a, b, data, [m]) for m in (Coherence(), metric))
    sites = [r.site for r in others if r.quantity == "dist_com"]
    assert [r.site for r in rows] == [site for site in sites for _ in QUANTITIES]
    for site in sites:
        assert find(rows, "commutator_energy", site=site).mean == metric.sums[site]["qq"]
    assert {(r.n, r.std) for r in rows} == {(60, None)}


@pytest.mark.parametrize("size", [1, 500, 10**9])
def test_neither_batches_nor_pieces_matter(monkeypatch, size):
    a, b, data = conv(0), conv(1), loader(30, (2, 5, 5), 7)
    plain = measure(a, b, loader(30, (2, 5, 5)), [Coherence()])
    monkeypatch.setattr(coherence, "PATCHES", size)
    for one, other in zip(plain, measure(a, b, data, [Coherence()]), strict=True):
        assert (one.quantity, one.site, one.n) == (other.quantity, other.site, other.n)
        assert one.mean == pytest.approx(other.mean, rel=1e-12)


def test_products_are_in_float64():
    """From the same float32 differences, sums agree with float64 ones to far more than float32 has
    digits.
    """
    a, b = small("strided", 0).float(), small("strided", 1).float()
    data = [(x, y.clamp(max=2)) for x, y in loader(50, PIXELS, dtype=torch.float32)]
    rows, (d_h, _, _) = measure(a, b, data, [Coherence()]), differences(a, b, data)
    d_h, d_w = d_h.double(), (a.layer.weight - b.layer.weight).detach().double()
    alone = [
        nn.functional.conv2d(d_h[:, c : c + 1], d_w[:, c : c + 1], None, 2, 1) for c in range(4)
    ]
    expected = sum(z.square().sum().item() for z in alone)
    assert find(rows, "sign_energy").mean == pytest.approx(expected, rel=1e-10)
