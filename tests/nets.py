"""Small networks and data for tests."""

import torch
from torch import Tensor, nn

from llfc_lib.models import MLP


def mlp(seed: int, inputs: int = 12, hidden: int = 16, dtype: torch.dtype = torch.float64) -> MLP:
    torch.manual_seed(seed)
    return MLP(inputs, hidden, 5).to(dtype).eval()


def near(network: nn.Module, seed: int, size: float = 0.3) -> nn.Module:
    """The network with Gaussian noise of relative ``size`` on every tensor."""
    import copy

    other, generator = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    for p in other.parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        p.data += size * noise * p.data.norm() / noise.norm()
    return other


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


def conv(seed: int, dtype: torch.dtype = torch.float64) -> Conv:
    torch.manual_seed(seed)
    return Conv().to(dtype).eval()


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


def find(rows: list, quantity: str, **where: object):
    """The one row that fits."""
    where = {"role": "value", **where}
    found = [
        r
        for r in rows
        if r.quantity == quantity and all(getattr(r, k) == v for k, v in where.items())
    ]
    assert len(found) == 1, f"{len(found)} rows for {quantity} {where}"
    return found[0]
