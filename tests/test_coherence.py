"""Coherence and alignment: against every pattern of signs and every order of a few units, and on
planted cases.
"""

from itertools import permutations, product

import pytest
import torch
from nets import conv, find, loader, mlp, near
from torch import nn
from torch.func import functional_call

from llfc_lib.metrics import Coherence, Commutativity, coherence, measure

QUANTITIES = ("commutator_energy", "sign_energy", "shuffle_energy", "coherence", "energy_alignment")


class Small(nn.Module):
    """A layer between others, as a map that is not the first."""

    def __init__(self, before: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.before, self.relu, self.layer = before, nn.ReLU(), layer

    def forward(self, x):
        return self.layer(self.relu(self.before(x))).flatten(1)


def small(name, seed):
    torch.manual_seed(seed)
    before, layer = {
        "linear": lambda: (nn.Linear(4, 5), nn.Linear(5, 6)),
        "linear of one unit": lambda: (nn.Linear(4, 1), nn.Linear(1, 6)),
        "linear of tokens": lambda: (nn.Linear(4, 4), nn.Linear(4, 3)),
        "3x3": lambda: (nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3)),
        "3x3, padded": lambda: (nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3, padding=1)),
        "3x3, stride 2": lambda: (nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3, stride=2, padding=1)),
        "1x1": lambda: (nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1)),
        "1x1, stride 2": lambda: (nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1, stride=2)),
        "2x3, dilated, circular": lambda: (
            nn.Conv2d(2, 4, 2),
            nn.Conv2d(4, 3, (2, 3), dilation=(2, 1), padding=(1, 2), padding_mode="circular"),
        ),
        "3x3, same": lambda: (
            nn.Conv2d(2, 4, 2),
            nn.Conv2d(4, 3, 3, padding="same", padding_mode="reflect"),
        ),
        "3x3, 2 groups": lambda: (nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 3, padding=1, groups=2)),
        "depthwise": lambda: (
            nn.Conv2d(2, 4, 3),
            nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4),
        ),
        "depthwise, two outputs each": lambda: (nn.Conv2d(2, 3, 3), nn.Conv2d(3, 6, 2, groups=3)),
        "one channel": lambda: (nn.Conv2d(2, 1, 3), nn.Conv2d(1, 3, 3)),
        "1d": lambda: (nn.Conv1d(2, 4, 3), nn.Conv1d(4, 3, 3, stride=2)),
        "3d": lambda: (nn.Conv3d(2, 3, 1), nn.Conv3d(3, 2, 2)),
    }[name]()
    return Small(before, layer).double().eval()


def shape_of(name):
    shapes = {
        "linear": (4,),
        "linear of one unit": (4,),
        "linear of tokens": (3, 4),
        "1d": (2, 9),
        "3d": (2, 3, 3, 4),
    }
    return shapes.get(name, (2, 6, 7))


NAMES = (
    "linear",
    "linear of one unit",
    "linear of tokens",
    "3x3",
    "3x3, padded",
    "3x3, stride 2",
    "1x1",
    "1x1, stride 2",
    "2x3, dilated, circular",
    "3x3, same",
    "3x3, 2 groups",
    "depthwise",
    "depthwise, two outputs each",
    "one channel",
    "1d",
    "3d",
)


def differences(a, b, batches):
    """(dH on all images, dH -> |dW dH|^2, axis of its units), by the layers themselves."""
    x = torch.cat([x for x, _ in batches])
    d_h = (a.relu(a.before(x)) - b.relu(b.before(x))).detach()
    d_w = (a.layer.weight - b.layer.weight).detach()

    def energy(h):
        weights = {"weight": d_w, "bias": torch.zeros_like(a.layer.bias)}
        return functional_call(a.layer, weights, (h,)).square().sum().item()

    return d_h, energy, d_h.ndim - 1 if isinstance(a.layer, nn.Linear) else 1


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    a, b = small(request.param, 0), small(request.param, 1)
    batches = [(x, y.clamp(max=2)) for x, y in loader(7, shape_of(request.param), 3)]
    return measure(a, b, batches, [Coherence()]), *differences(a, b, batches)


# every pattern, every order


def test_the_energy_of_the_commutator(case):
    rows, d_h, energy, _ = case
    assert [(r.quantity, r.site, r.n) for r in rows] == [(q, "layer", 7) for q in QUANTITIES]
    assert find(rows, "commutator_energy").mean == pytest.approx(energy(d_h), rel=1e-12)
    v, by_sign, by_order = (find(rows, q).mean for q in QUANTITIES[:3])
    assert (
        find(rows, "coherence").mean == v / by_sign
        and find(rows, "energy_alignment").mean == by_sign / by_order
    )


def test_random_signs_over_all_patterns(case):
    rows, d_h, energy, axis = case
    shape = [-1 if k == axis else 1 for k in range(d_h.ndim)]
    patterns = [
        torch.tensor(s, dtype=torch.float64).reshape(shape)
        for s in product((-1, 1), repeat=d_h.shape[axis])
    ]
    expected = sum(energy(d_h * signs) for signs in patterns) / len(patterns)
    assert find(rows, "sign_energy").mean == pytest.approx(expected, rel=1e-11)
    # and unit by unit, as it is defined
    alone = [
        energy(d_h * one.reshape(shape)) for one in torch.eye(d_h.shape[axis], dtype=torch.float64)
    ]
    assert find(rows, "sign_energy").mean == pytest.approx(sum(alone), rel=1e-11)


def test_a_random_order_over_all_orders(case):
    rows, d_h, energy, axis = case
    energies = [
        energy(d_h.index_select(axis, torch.tensor(order)))
        for order in permutations(range(d_h.shape[axis]))
    ]
    assert find(rows, "shuffle_energy").mean == pytest.approx(
        sum(energies) / len(energies), rel=1e-11
    )
    if len(energies) > 1:
        assert max(energies) > 1.01 * min(energies)  # else the order would not have been tested


# by hand


def planted(d_w, d_h):
    """The rows of a map with these dW (outputs x units) and dH (images x units): images are unit
    vectors, B is 0.
    """
    n, units = d_h.shape
    a, b = (
        nn.Sequential(
            nn.Linear(n, units, bias=False), nn.Linear(units, len(d_w), bias=False)
        ).double()
        for _ in range(2)
    )
    a[0].weight.data, a[1].weight.data = d_h.T.clone(), d_w.clone()
    for layer in b:
        nn.init.zeros_(layer.weight)
    return measure(
        a, b, [(torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.long))], [Coherence()]
    )


def test_a_linear_map_by_loops():
    torch.manual_seed(0)
    outputs, units, images = (3, 5, 4)
    d_w, d_h = (
        torch.randn(outputs, units, dtype=torch.float64),
        torch.randn(images, units, dtype=torch.float64),
    )
    rows = planted(d_w, d_h)
    v = by_sign = 0.0
    for o in range(outputs):
        for i in range(images):
            v += sum(float(d_w[o, u] * d_h[i, u]) for u in range(units)) ** 2
    for u in range(units):
        squares = [sum(float(row[u]) ** 2 for row in m) for m in (d_w, d_h)]
        by_sign += squares[0] * squares[1]
    gram, k = (d_w.T @ d_w).numpy(), (d_h.T @ d_h).numpy()
    off = [sum(m[u, w] for u in range(units) for w in range(units) if u != w) for m in (gram, k)]
    by_order = gram.trace() * k.trace() / units + off[0] * off[1] / (units * (units - 1))
    for quantity, value in (
        ("commutator_energy", v),
        ("sign_energy", by_sign),
        ("shuffle_energy", by_order),
    ):
        assert find(rows, quantity).mean == pytest.approx(value, rel=1e-12)


def means(draw, draws=150):
    """Mean and its standard error of coherence and alignment over draws of (dW, dH)."""
    found = {"coherence": [], "energy_alignment": []}
    for seed in range(draws):
        rows = planted(*draw(torch.Generator().manual_seed(seed)))
        for quantity, values in found.items():
            values.append(find(rows, quantity).mean)
    values = torch.tensor([found["coherence"], found["energy_alignment"]])
    return values.mean(1).tolist(), (values.std(1) / draws**0.5).tolist()


def gaussian(g, outputs=6, images=8, units=24):
    return [torch.randn(k, units, generator=g, dtype=torch.float64) for k in (outputs, images)]


def test_independent_gaussian_differences_are_neither_coherent_nor_aligned():
    (coherent, aligned), (error, other) = means(gaussian)
    assert abs(coherent - 1) < 4 * error < 0.1
    assert abs(aligned - 1) < 4 * other < 0.1


def test_units_that_move_in_both_are_aligned_and_not_coherent():
    scale = torch.linspace(0.2, 2, 24, dtype=torch.float64)
    expected = (24 * (scale**4).sum() / (scale**2).sum() ** 2).item()

    def draw(g):
        return [m * scale for m in gaussian(g)]

    (coherent, aligned), (error, _) = means(draw)
    assert abs(coherent - 1) < 4 * error < 0.15
    assert expected > 1.5 and aligned == pytest.approx(expected, rel=0.1)

    def apart(g):  # large weights where features hardly move
        d_w, d_h = gaussian(g)
        return d_w * scale, d_h * scale.flip(0)

    assert means(apart)[0][1] < 0.6


def test_differences_of_one_direction_are_coherent():
    """dW = u s', dH = v s' with signs s: all n units add up, n times what random signs give;
    opposite halves cancel.
    """
    n = 8
    torch.manual_seed(0)
    u, v = torch.randn(3, 1, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    s = torch.tensor([1, -1, 1, 1, -1, -1, 1, -1], dtype=torch.float64)
    rows = planted(u * s, v * s)
    assert find(rows, "coherence").mean == pytest.approx(n)
    # s sums to 0, off-diagonals to -n: in units of |u|^2 |v|^2 the shuffle's mean is n + n / (n -
    # 1), that of signs n
    assert find(rows, "energy_alignment").mean == pytest.approx((n - 1) / n)
    half = torch.tensor([1.0] * 4 + [-1.0] * 4, dtype=torch.float64)
    assert find(planted(u * s, v * s * half), "coherence").mean == pytest.approx(0, abs=1e-20)
    together = planted(u * torch.ones(n), v * torch.ones(n))  # no order changes anything
    assert find(together, "energy_alignment").mean == pytest.approx(1 / n)
    assert find(together, "shuffle_energy").mean == pytest.approx(
        find(together, "commutator_energy").mean
    )


def test_rounding_does_not_make_an_energy_negative():
    for c in (0.3, 1.7, 2.3, 3.1):  # 0 in every order
        d_w, d_h = (
            c * torch.ones(1, 3, dtype=torch.float64),
            torch.tensor([[1.0, c, -1 - c]], dtype=torch.float64),
        )
        found = find(planted(d_w, d_h), "shuffle_energy").mean
        assert 0 <= found < 1e-12


# the rest


def test_the_maps_and_the_energy_are_those_of_commutativity():
    for a, b, data in (
        (mlp(0), near(mlp(0), 1), loader()),
        (conv(0), conv(1), loader(shape=(2, 5, 5))),
    ):
        rows, metric = measure(a, b, data, [Coherence()]), Commutativity(nulls=False)
        sites = [r.site for r in measure(a, b, data, [metric]) if r.quantity == "dist_com"]
        assert [r.site for r in rows] == [site for site in sites for _ in QUANTITIES]
        for site in sites:
            assert find(rows, "commutator_energy", site=site).mean == metric.sums[site]["qq"]
        assert {r.n for r in rows} == {60} and all(r.std is None for r in rows)


@pytest.mark.parametrize("size", [1, 500, 10**9])
def test_neither_batches_nor_pieces_matter(monkeypatch, size):
    a, b = conv(0), conv(1)
    plain = measure(a, b, loader(30, (2, 5, 5)), [Coherence()])
    monkeypatch.setattr(coherence, "PATCHES", size)
    for one, other in zip(
        plain, measure(a, b, loader(30, (2, 5, 5), 7), [Coherence()]), strict=True
    ):
        assert (one.quantity, one.site, one.n) == (other.quantity, other.site, other.n)
        assert one.mean == pytest.approx(other.mean, rel=1e-12)


def test_pieces_are_small(monkeypatch):
    seen, patches = [], coherence._patches

    def watched(*args):
        for piece in patches(*args):
            seen.append(piece.numel())
            yield piece

    monkeypatch.setattr(coherence, "_patches", watched)
    monkeypatch.setattr(coherence, "PATCHES", 6 * 9 * 25 * 2)
    measure(conv(0), conv(1), loader(9, (2, 5, 5)), [Coherence()])
    assert max(seen) == 6 * 9 * 25 * 2


def test_a_network_with_itself_has_no_energy():
    a = conv(0)
    assert {r.mean for r in measure(a, a, loader(shape=(2, 5, 5)), [Coherence()])} == {0.0}


def test_biases_are_left_out():
    a, b = mlp(0), near(mlp(0), 1)
    before = measure(a, b, loader(), [Coherence()])
    b.fc4.bias.data += 100
    after = measure(a, b, loader(), [Coherence()])
    assert [r for r in before if r.site == "FC 4"] == [r for r in after if r.site == "FC 4"]


def test_products_are_in_float64():
    """From the same float32 differences, sums agree with float64 ones to far more than float32 has
    digits.
    """
    a, b = small("3x3, stride 2", 0).float(), small("3x3, stride 2", 1).float()
    data = loader(50, (2, 6, 7), dtype=torch.float32)
    rows = measure(a, b, [(x, y.clamp(max=2)) for x, y in data], [Coherence()])
    x = torch.cat([x for x, _ in data])
    d_h = (a.relu(a.before(x)) - b.relu(b.before(x))).detach().double()
    d_w = (a.layer.weight - b.layer.weight).detach().double()
    alone = [
        nn.functional.conv2d(d_h[:, c : c + 1], d_w[:, c : c + 1], None, 2, 1) for c in range(4)
    ]
    expected = sum(z.square().sum().item() for z in alone)
    assert find(rows, "sign_energy").mean == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("make, shape", [(mlp, (1, 3, 4)), (conv, (2, 5, 5))])
def test_nothing_waits_for_the_device(make, shape):
    a, b = make(0).to("meta"), make(1).to("meta")
    ran = []

    class Last:  # reached only when every update before it went through
        def start(self, pair): ...
        def update(self, batch):
            ran.append(len(batch.y))

        def rows(self):
            return []

    with pytest.raises(
        (RuntimeError, NotImplementedError), match="meta"
    ):  # only here, where numbers are read
        measure(
            a,
            b,
            [(x.to("meta"), y.to("meta")) for x, y in loader(shape=shape)],
            [Coherence(), Last()],
        )
    assert ran == [25, 25, 10]
