"""One pass over the data for any number of metrics of a pair of networks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llfc_lib.metrics.rows import Row
from llfc_lib.models.statistics import recompute, recomputed
from llfc_lib.models.view import UntraceableError, View, copy_of
from llfc_lib.models.weights import check_finite, check_same_shapes, interpolate
from llfc_lib.registry import Registry

Network = nn.Module | View  # any module that torch.fx can trace, or one that has been
# batches of images (N x C x H x W) and labels (N integers)
Loader = Iterable[tuple[Tensor, Tensor]]
PIECE = 2**15
NO_IMAGES = "the loader gave no images; is the data set empty, or an iterator already used up?"


class Metric(Protocol):
    """What :func:`measure` asks of a metric. ``update`` must not wait for the device (no
    ``.item()``).
    """

    def start(self, pair: "Pair") -> None:
        """Ask ``pair`` for the node values that will be needed; called once, before the first
        batch.
        """

    def update(self, batch: "Batch") -> None:
        """Take what one batch has to offer."""

    def rows(self) -> list[Row]:
        """The result, once all batches have been seen."""


#: Metrics by name; each registers itself, and without arguments measures what its defaults say.
METRICS: Registry[Callable[[], Metric]] = Registry("metric")


class Pair:
    """Two networks of one architecture, seen through the same graph, and every network between
    them.

    With ``calibration`` (batches of training images) the running statistics of all of them are
    recomputed on it; without it, those between are interpolated like the weights. ValueError for
    networks of different architecture.

    Source: Definition 1, for the networks between.
    """

    def __init__(
        self,
        a: Network,
        b: Network,
        dtype: torch.dtype | None = None,
        calibration: Sequence[Tensor] | None = None,
    ) -> None:
        self.a, self.b = (n if isinstance(n, View) else View(n) for n in (a, b))
        both = ((a, self.a), (b, self.b))
        self._given = [(net, view) for net, view in both if not isinstance(net, View)]
        if dtype is not None:
            self.a, self.b = self.a.to(dtype), self.b.to(dtype)
        self.state_a, self.state_b = self.a.state(), self.b.state()
        check_same_shapes(self.state_a, self.state_b)
        if [n.name for n in self.a.nodes] != [n.name for n in self.b.nodes]:
            raise ValueError(
                "the networks differ: their forward passes are not the same; they must be of one"
                " architecture"
            )
        check_finite(self.state_a, "A")
        check_finite(self.state_b, "B")
        self.calibration = calibration
        if calibration is not None:
            self.a, self.b = recomputed(self.a, calibration), recomputed(self.b, calibration)
            self.state_a, self.state_b = self.a.state(), self.b.state()
        self._scratch: View | None = None
        self._recomputed: dict[float, dict[str, Tensor]] = {}  # buffers by alpha
        self.wanted: set[str] = {self.a.output}  # nodes that metrics read, of A and B
        self.wanted_between: dict[float, set[str]] = {}

    def between(self, alpha: float) -> View:
        """alpha A + (1 - alpha) B, in one copy that the next call overwrites: memory for one
        network, not one an alpha.
        """
        if self._scratch is None:
            self._scratch = self.a.with_state(self.state_a)
        self._scratch.load(
            interpolate(self.state_a, self.state_b, alpha) | self._recomputed.get(alpha, {})
        )
        if self.calibration is not None and alpha not in self._recomputed:
            recompute(self._scratch, self.calibration)
            self._recomputed[alpha] = {
                name: value.clone() for name, value in self._scratch.module.named_buffers()
            }
        return self._scratch

    @torch.no_grad()
    def check_traced(self, x: Tensor) -> None:
        """UntraceableError unless the traced graph computes what the module does: torch.fx takes
        ``h += 1`` for ``h = h + 1``, which is something else where the old tensor is read again."""
        for module, view in self._given:
            own = next((p.dtype for p in module.parameters()), x.dtype)
            given = copy_of(module).eval()(x.to(own))  # a copy: its mode is the user's
            traced = view(x.to(own))
            if not torch.allclose(given, traced, rtol=0, atol=0, equal_nan=True):
                raise UntraceableError(
                    f"the traced graph of {type(module).__name__} gives other outputs than the"
                    " network itself; does it change a tensor in place and read it again under"
                    " another name?"
                )

    def want(self, *nodes: str) -> None:
        """Ask for node values of A and B; what nobody asks for is not kept."""
        self.wanted |= set(nodes)

    def want_between(self, alpha: float, *nodes: str) -> None:
        """The same of the network at ``alpha``; its logits are kept in any case."""
        self.wanted_between.setdefault(alpha, {self.a.output}).update(nodes)


class Batch:
    """What one batch offers to every metric; nothing is computed twice, and nothing that nobody
    asks for.
    """

    def __init__(self, pair: Pair, x: Tensor, y: Tensor) -> None:
        self.pair, self.x, self.y = pair, x, y
        self._between: dict[float, dict[str, Tensor]] = {}

    @cached_property
    def a(self) -> dict[str, Tensor]:
        """Node values of A that were asked for."""
        return self.pair.a.run(self.x, self.pair.wanted)

    @cached_property
    def b(self) -> dict[str, Tensor]:
        """The same of B."""
        return self.pair.b.run(self.x, self.pair.wanted)

    def at(self, alpha: float) -> dict[str, Tensor]:
        """Node values of alpha A + (1 - alpha) B."""
        if alpha in (0.0, 1.0):
            return self.a if alpha else self.b
        if alpha not in self._between:
            wanted = self.pair.wanted_between[alpha]
            self._between[alpha] = self.pair.between(alpha).run(self.x, wanted)
        return self._between[alpha]


@contextmanager
def exact_float32() -> Iterator[None]:
    """Without TF32, whose ten bits of mantissa a GPU else takes for convolutions: 1 - cos would
    drown in rounding.
    """
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(
            enabled=True,
            benchmark=torch.backends.cudnn.benchmark,
            deterministic=torch.backends.cudnn.deterministic,
            allow_tf32=False,
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products


@exact_float32()
def measure(
    a: Network,
    b: Network,
    loader: Loader,
    metrics: Sequence[Metric | str],
    dtype: torch.dtype | None = None,
    calibration: Sequence[Tensor] | None = None,
) -> list[Row]:
    """Rows of all ``metrics`` for networks A and B, in one pass over ``loader``'s (images, labels).

    A metric may be given by its name in :data:`METRICS`. ``dtype`` converts networks and images
    first (None: as they are). ``calibration``, batches of training images, recomputes the running
    statistics of A, B and every network between on them; rows then say "recomputed".

    ValueError for an unknown metric, networks of different architecture, NaN or infinite weights,
    an empty loader, labels out of range; UntraceableError from torch.fx.
    """
    if calibration is not None and dtype is not None:
        calibration = [x.to(dtype) for x in calibration]
    chosen = [METRICS.get(metric)() if isinstance(metric, str) else metric for metric in metrics]
    pair = Pair(a, b, dtype, calibration)
    for metric in chosen:
        metric.start(pair)
    n, lowest, highest, classes = 0, [], [], 0
    for x, y in loader:
        if n == 0 and x.device.type != "meta":
            pair.check_traced(x)
        batch = Batch(pair, x if dtype is None else x.to(dtype), y)
        for metric in chosen:
            metric.update(batch)
        n += len(y)
        lowest.append(y.amin())
        highest.append(y.amax())
        classes = batch.a[pair.a.output].shape[-1]
    if n == 0:
        raise ValueError(NO_IMAGES)
    # Looked at once, after the pass: asking in the loop would wait for the device at every batch.
    if y.device.type != "meta":
        low, high = int(torch.stack(lowest).min()), int(torch.stack(highest).max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels run from {low} to {high}, outside 0..{classes - 1}, the networks' classes"
            )
    rows = [row for metric in chosen for row in metric.rows()]
    return rows if calibration is None else [replace(row, statistics="recomputed") for row in rows]


class Moments:
    """Streamed mean and unbiased standard deviation of per-image values, merged by Chan's update in
    float64.

    Source: Chan, Golub and LeVeque (1979).
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean = self.m2 = torch.zeros((), dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """``values``: one number an image (N, float64)."""
        n, mean = len(values), values.mean()
        m2 = (values - mean).square().sum()
        if self.n == 0:
            self.n, self.mean, self.m2 = n, mean, m2
            return
        total, delta = self.n + n, mean - self.mean
        self.mean = self.mean + delta * (n / total)
        self.m2 = self.m2 + m2 + delta.square() * (self.n * n / total)
        self.n = total

    def row(self, quantity: str, **where: Any) -> Row:
        """Mean, standard deviation (None for a single image) and number of what was added, as a
        row.
        """
        std = float((self.m2 / (self.n - 1)).sqrt()) if self.n > 1 else None
        return Row(quantity, float(self.mean), std, self.n, **where)


class Sums:
    """Named float64 sums on the device."""

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}

    def add(self, **values: Tensor) -> None:
        """Add to the sums of these names; a sum begins with what is first added to it."""
        for name, value in values.items():
            self.total[name] = self.total[name] + value if name in self.total else value

    def __getitem__(self, name: str) -> float:
        return float(self.total[name])


def dot(x: Tensor, y: Tensor) -> Tensor:
    """<x, y> over all entries, in float64; on a processor in pieces that stay in its cache."""
    if x.device.type != "cpu":
        return (x.double() * y.double()).sum()
    pieces = zip(x.reshape(-1).split(PIECE), y.reshape(-1).split(PIECE), strict=True)
    return torch.stack([torch.dot(u.double(), v.double()) for u, v in pieces]).sum()


def ratio(numerator: float, denominator: float) -> float:
    """numerator / denominator, 0 / 0 = 0: two equal zero tensors are at distance 0."""
    return numerator / denominator if denominator else (0.0 if numerator == 0 else float("inf"))
