"""Small networks and data for tests, and what several of them look at."""

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from llfc_lib.matching.symmetry import randomise_norms
from llfc_lib.metrics import measure
from llfc_lib.models import MLP


def mlp(seed: int, inputs: int = 12, hidden: int = 16, dtype: torch.dtype = torch.float64) -> MLP:
    torch.manual_seed(seed)
    return MLP(inputs, hidden, 5).to(dtype).eval()


def lively(seed: int, hidden: int = 16) -> MLP:
    """No unit is dead: of those, activations cannot tell one from the other."""
    network = mlp(seed, hidden=hidden)
    for layer in (network.fc1, network.fc2, network.fc3):
        layer.bias.data += 1.0
    return network


def broken(value: float) -> MLP:
    """One weight is NaN or infinite."""
    network = mlp(1)
    network.fc2.weight.data[3, 4] = value
    return network


@torch.no_grad()
def near(network: nn.Module, seed: int, size: float = 0.3) -> nn.Module:
    """The network with Gaussian noise of relative ``size`` on every tensor."""
    other, generator = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    for p in other.parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        p.data += size * noise * p.data.norm() / noise.norm()
    return other


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Evaluated; statistics and affine parameters of 0 and 1 would hide mistakes."""
    randomise_norms(network, seed)
    return network.eval()


class Net(nn.Module):
    """Layers and parameters by name, and their forward pass as a function of (self, x)."""

    def __init__(self, run: Callable, **parts: object) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Conv(nn.Module):
    """Two convolutions with a residual sum between ReLUs, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.conv1(x))
        h = self.relu2(self.conv2(h) + h)
        return self.fc(h.mean((2, 3)))


class Beside(Conv):
    """Information passes beside its second ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.conv1(x))
        return self.fc((self.relu2(self.conv2(h)) + h).mean((2, 3)))


def conv(seed: int, dtype: torch.dtype = torch.float64, make: type[nn.Module] = Conv) -> nn.Module:
    torch.manual_seed(seed)
    return make().to(dtype).eval()


class Norm(nn.Module):
    """Running statistics, a residual sum and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.relu, self.drop, self.fc = nn.ReLU(), nn.Dropout(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.norm1(self.conv1(x)))
        h = self.relu(self.norm2(self.conv2(h)) + h)
        return self.fc(self.drop(h.mean((2, 3))))


class InPlace(nn.Module):
    """torch.fx takes its sum for ``h = h + 1``, which leaves ``kept`` as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(12, 5), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x.flatten(1))
        kept = h
        h += 1
        return self.act(h) + kept


@torch.no_grad()
def norm(seed: int) -> Norm:
    """Statistics as after a little training."""
    network = conv(seed, make=Norm).train()
    for x, _ in loader(seed=seed):
        network(x)
    return network.eval()


def loader(
    n: int = 60,
    shape: tuple[int, ...] = (1, 3, 4),
    batch: int = 25,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(0, 5, (n,), generator=generator)
    return list(zip(x.split(batch), y.split(batch)))


def whole(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All images and all labels."""
    x, y = zip(*batches)
    return torch.cat(x), torch.cat(y)


def find(rows: list, quantity: str, **where: object):
    """The one row that fits."""
    where = {"role": "value", "quantity": quantity, **where}
    found = [r for r in rows if all(getattr(r, k) == v for k, v in where.items())]
    assert len(found) == 1, f"{len(found)} rows for {where}"
    return found[0]


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Equal to the bit, name by name."""
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def waits_for_no_device(a: nn.Module, b: nn.Module, batches: list, metrics: list) -> None:
    """Device meta refuses CPU operands and every ``.item()``: what runs there runs on any device
    without hidden waits. Only where numbers are read, after the last batch, it has to stop.
    """
    ran = []

    class Last:  # reached only when every update before it went through
        def start(self, pair): ...

        def update(self, batch):
            ran.append(len(batch.y))

        def rows(self):
            return []

    batches = [(x.to("meta"), y.to("meta")) for x, y in batches]
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        measure(a.to("meta"), b.to("meta"), batches, [*metrics, Last()])
    assert ran == [len(y) for _, y in batches]
