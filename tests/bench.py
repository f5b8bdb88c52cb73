"""`make bench`: how fast is training, measuring and matching, as ratios from one interleaved run.

Blocks of steps of each variant follow each other in turn, several rounds of them, so that a busy
moment of the machine falls on all alike; the median block of each is reported. "Plain" is the loop
that a reader would write first: a torchvision-style data set, a DataLoader, an ordinary optimiser,
`.item()` at every step. "Straightforward" weight matching is tests/straightforward.py; the package
`rebasin` is timed beside it where it is installed (the project does not need it).
"""

import argparse
import copy
import gc
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from llfc_book.places import RECORDS, ROOT
from llfc_book.study import pairs, runs
from llfc_book.study.settings import recipe
from llfc_book.study.units import cpu_name, environment
from straightforward import match
from torch import nn

from llfc_lib.data import Dataset, load
from llfc_lib.data.torchvision import torchvision
from llfc_lib.matching import Symmetry, objective, symmetry, weight_matching
from llfc_lib.metrics import measure
from llfc_lib.models.resnet import ResNet20
from llfc_lib.streams import numpy_generator
from llfc_lib.training import checkpoints, loop
from llfc_lib.training.recipe import Recipe


class PlainImages(torch.utils.data.Dataset):
    """One image at a time through PIL and torchvision's transforms, as its data sets give them."""

    def __init__(self, r: Recipe, data: Dataset) -> None:
        transforms = torchvision().transforms
        images = (
            data.x_train.permute(0, 2, 3, 1).numpy().copy()
        )  # handing the tensor to another process moves its memory
        self.images, self.labels = (
            images[..., 0] if images.shape[-1] == 1 else images,
            data.y_train.tolist(),
        )
        augment = (
            [transforms.RandomCrop(images.shape[1], padding=4), transforms.RandomHorizontalFlip()]
            if r.augment
            else []
        )
        self.transform = transforms.Compose(
            [*augment, transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class PlainLoop:
    def __init__(self, r: Recipe, data: Dataset) -> None:
        self.model = loop.new_network(r, data)
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[r.optimiser]
        extra = (
            {}
            if r.optimiser == "adam"
            else {"momentum": r.momentum, "weight_decay": r.weight_decay}
        )
        self.optimiser = kind(self.model.parameters(), lr=r.lr, **extra)
        self.loader = torch.utils.data.DataLoader(
            PlainImages(r, data), batch_size=r.batch, shuffle=True
        )

    def run(self, steps: int) -> float:
        self.model.train()
        batches, total, correct = iter(self.loader), 0.0, 0
        began = time.perf_counter()
        for _ in range(steps):
            x, y = next(batches)
            logits = self.model(x)
            loss = nn.functional.cross_entropy(logits, y)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            total += loss.item()
            correct += (logits.argmax(1) == y).sum().item()
        return time.perf_counter() - began


class OurLoop:
    """`loop.train_epoch` over as many images as the block has steps."""

    def __init__(self, r: Recipe, data: Dataset, steps: int, seed: int = 0) -> None:
        images = steps * r.batch
        self.recipe, self.fast = r, loop.speedups(r, "cpu")
        self.data = replace(data, x_train=data.x_train[:images], y_train=data.y_train[:images])
        self.model = loop.new_network(r, data, seed)
        self.learner, self.augmenter = loop.prepare(self.model, r, self.data, self.fast)
        self.optimiser = loop.make_optimiser(r, self.model)
        self.epoch = 0

    def run(self) -> float:
        began = time.perf_counter()
        loop.train_epoch(
            self.learner,
            self.optimiser,
            self.data,
            self.recipe,
            self.epoch,
            (0, "bench"),
            self.augmenter,
            "bf16 autocast" in self.fast,
        ).tolist()
        self.epoch += 1
        return time.perf_counter() - began


def with_threads(threads: int, work) -> float:
    torch.set_num_threads(threads)
    return work()


def worker(pipe, r: Recipe, data: Dataset | None, steps: int) -> None:
    """One of two training processes at one thread each: runs what it is told to and answers with
    the seconds.
    """
    torch.set_num_threads(1)
    ours = OurLoop(r, data or load(r.data), steps)
    ours.run()
    pipe.send(ours.fast)
    tasks = {"train": ours.run, "products": products}
    while task := pipe.recv():
        pipe.send(tasks[task]())
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def two_workers(r: Recipe, data: Dataset | None, steps: int) -> list:
    """Pipes to two training processes that are warm and wait."""
    context, pipes = multiprocessing.get_context("spawn"), []
    for _ in range(2):
        here, there = context.Pipe()
        context.Process(target=worker, args=(there, r, data, steps), daemon=True).start()
        there.close()  # a worker that dies then ends the waiting
        pipes.append(here)
    return pipes


def both(pipes, task: str = "train") -> float:
    """Seconds until all of the processes, told at once, have done the task."""
    began = time.perf_counter()
    for pipe in pipes:
        pipe.send(task)
    for pipe in pipes:
        pipe.recv()
    return time.perf_counter() - began


PRODUCTS, SIDE = 50, 1024
ALONE = "this loop, float32, one network alone"


def products() -> float:
    """Seconds for 50 float32 products of two square matrices."""
    a = torch.ones(SIDE, SIDE)
    began = time.perf_counter()
    for _ in range(PRODUCTS):
        a @ a
    return time.perf_counter() - began


def matmul_rate(r: Recipe, data: Dataset, threads: int) -> tuple[float, float]:
    """Operations a second of bare matrix products at the shapes of one training step (forward, two
    backward).
    """
    torch.set_num_threads(threads)
    network = loop.new_network(r, data)
    shapes = [
        (m.out_features, m.in_features) for m in network.modules() if isinstance(m, nn.Linear)
    ]
    products = []
    for out, inner in shapes:
        x, w, g = torch.randn(r.batch, inner), torch.randn(out, inner), torch.randn(r.batch, out)
        products += [(x, w.T), (g.T, x)] + ([(g, w)] if inner != shapes[0][1] else [])
    operations = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b in products)
    times = []
    for _ in range(60):
        began = time.perf_counter()
        for a, b in products:
            a @ b
        times.append(time.perf_counter() - began)
    return operations / statistics.median(times), operations


def metric_pass(images: int) -> None:
    """In a process of its own: all metrics of one pair over ``images`` images; prints seconds and
    peak memory.
    """
    torch.set_num_threads(1)
    data = load("mnist" if images else "digits")
    r = recipe("mlp_mnist_spawn")
    nets = [loop.new_network(r, data, seed).eval() for seed in (0, 1)]
    x, y = data.x_test[:images], data.y_test[:images]
    batches = [
        (x[i : i + pairs.Plan().batch], y[i : i + pairs.Plan().batch])
        for i in range(0, images, pairs.Plan().batch)
    ]

    class Normalised:
        def __iter__(self):
            return ((data.normalise(x), y) for x, y in batches)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    rows = measure(*nets, Normalised(), pairs.standard_metrics())
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - began,
                "rows": len(rows),
                "MiB_before": before / 1024,
                "MiB_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def run_metric_pass(images: int, **environment: str) -> dict:
    out = subprocess.run(
        [sys.executable, __file__, "--metric-pass", str(images)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    return json.loads(out.stdout.splitlines()[-1])


def bench(rounds: int, steps: int) -> dict:
    r, data = recipe("mlp_mnist_spawn"), load("mnist")
    epoch = len(data.y_train) / r.batch / steps  # blocks in an epoch
    plain, ours = PlainLoop(r, data), OurLoop(r, data, steps)
    pipes = two_workers(r, None, steps)
    for pipe in pipes:
        pipe.recv()
    variants = {
        "plain loop, 2 threads": lambda: with_threads(2, lambda: plain.run(steps)),
        "plain loop, 1 thread": lambda: with_threads(1, lambda: plain.run(steps)),
        "this loop, 2 threads": lambda: with_threads(2, ours.run),
        "this loop, 1 thread": lambda: with_threads(1, ours.run),
        "this loop, two networks at once, 1 thread each": lambda: both(pipes),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for name, run in variants.items():
        run()  # warm up
    for k in range(rounds):
        for name, run in variants.items():
            times[name].append(run() * epoch)
        print(f"round {k + 1} of {rounds}", file=sys.stderr)
    for pipe in pipes:
        pipe.send(None)
    seconds = {name: statistics.median(t) for name, t in times.items()}
    result = {
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "rounds": rounds,
        "steps": steps,
        "seconds_per_epoch": seconds,
        "fastest_block": {name: min(t) for name, t in times.items()},
    }
    two = "this loop, two networks at once, 1 thread each"
    result["ratios"] = {
        "one network, 2 threads: plain / this": (
            seconds["plain loop, 2 threads"] / seconds["this loop, 2 threads"]
        ),
        "one network, 1 thread: plain / this": (
            seconds["plain loop, 1 thread"] / seconds["this loop, 1 thread"]
        ),
        "two networks: plain, one after the other / this, at once": (
            2 * seconds["plain loop, 2 threads"] / seconds[two]
        ),
    }
    result["share_of_matmul_rate"] = {}
    for threads, name in ((1, "this loop, 1 thread"), (2, "this loop, 2 threads")):
        rate, operations = matmul_rate(r, data, threads)
        share = operations * steps * epoch / seconds[name] / rate
        result["share_of_matmul_rate"][name] = {
            "share": share,
            "GFLOP/s of the products": rate / 1e9,
        }
    result["metric_pass"] = {}
    for images in (1000, 10000):
        result["metric_pass"][f"{images} images"] = {
            "seconds": statistics.median(run_metric_pass(images)["seconds"] for _ in range(3)),
            # what is freed is given back at once (slow): the peak is then what was in use, not what
            # malloc kept
            "memory": run_metric_pass(
                images, MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="0"
            ),
        }
    return result


def random_images(r: Recipe, images: int) -> Dataset:
    """As many images of CIFAR-10's form as a block needs: speed does not depend on what they show."""
    g = torch.Generator().manual_seed(0)
    x, y = (
        torch.randint(0, 256, (images, 3, 32, 32), generator=g, dtype=torch.uint8),
        torch.randint(0, 10, (images,), generator=g),
    )
    return Dataset(
        "cifar10", x, y, x[:1], y[:1], 10, "random pixels", "", (0.49, 0.48, 0.45), (0.2, 0.2, 0.2)
    )


def bench_convolutional(name: str, rounds: int, steps: int) -> dict:
    """Images a second of a plain loop and of ours (two networks at once, one thread each), in
    float32 and, where the processor can do more, sped up. Ratios are taken round by round: what
    else runs on the host changes within a minute."""
    fast = recipe(name, "lite")
    single = replace(fast, speedups=tuple(s for s in fast.speedups if s != "bf16 autocast"))
    data = random_images(fast, steps * fast.batch)
    plain, images = PlainLoop(fast, data), steps * fast.batch
    pipes = {"this loop, float32": two_workers(single, data, steps)}
    if loop.speedups(fast, "cpu") != loop.speedups(single, "cpu"):
        pipes["this loop, sped up"] = two_workers(fast, data, steps)
    used = {label: [pipe.recv() for pipe in group][0] for label, group in pipes.items()}
    first, work = pipes["this loop, float32"], PRODUCTS * 2 * SIDE**3 / 1e9
    variants = {
        "plain loop, 2 threads": lambda: images / with_threads(2, lambda: plain.run(steps)),
        **{label: lambda group=group: 2 * images / both(group) for label, group in pipes.items()},
        # the machine's rate under the same conditions: two processes of one thread at once
        "products": lambda: work / both(first, "products"),
        ALONE: lambda: images / both(first[:1]),
        "products alone": lambda: work / both(first[:1], "products"),
    }
    rates: dict[str, list[float]] = {label: [] for label in variants}
    plain.run(1)
    for k in range(rounds):
        for label, run in variants.items():
            rates[label].append(run())
        print(f"{name}, round {k + 1} of {rounds}", file=sys.stderr)
    median = {label: statistics.median(values) for label, values in rates.items()}
    memory = {}
    for label, group in pipes.items():
        for pipe in group:
            pipe.send(None)
        memory[label] = max(pipe.recv() for pipe in group)
    each = 3 * flops_of(fast, data) / 1e9

    def by_round(label: str, other: str, factor: float = 1.0) -> list[float]:
        """The lowest, the median and the highest ratio."""
        found = sorted(factor * a / b for a, b in zip(rates[label], rates[other], strict=True))
        return [found[0], statistics.median(found), found[-1]]

    return {
        "rounds": rounds,
        "GFLOP/s of the products": [median.pop("products"), median.pop("products alone")],
        "images_per_second": median,
        "speedups": used,
        "peak_MiB_a_process": memory,
        "ratio_to_plain": {label: by_round(label, "plain loop, 2 threads") for label in pipes},
        "share_of_matmul_rate": (
            {label: by_round(label, "products", each / 2) for label in pipes}
            | {ALONE: by_round(ALONE, "products alone", each)}
        ),
    }


def flops_of(r: Recipe, data: Dataset) -> float:
    """Operations of one image's forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    network = loop.new_network(r, data).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, *data.image_shape, device="meta"))
    return counter.get_total_flops()


# weight matching

WIDTHS, LARGEST = (1, 4, 8), 16


@dataclass
class Found:
    """``seconds`` of the processor, at one thread: what else runs on the machine changes them less.
    ``parts``: the shares of products, gathers, assignment and everything else, where the tool
    tells."""

    seconds: float
    sweeps: int
    objective: float
    parts: dict[str, float] | None = None


def trained_pair() -> tuple[str, nn.Module, nn.Module]:
    """Two MLPs of the permutation chapters from the cache, else two that have seen the embedded
    digits a few times.
    """
    r = recipe("mlp_mnist_perm", "paper")
    try:
        data = load(r.data, normalise=r.normalise)
        paths = [
            (runs.run_path(r, seed, "A", data), runs.run_key(r, seed, "A", data))
            for seed in range(8)
        ]
        two = [checkpoints.read(*found) for found in paths if Path(found[0]).exists()][:2]
    except Exception as error:  # no data set, no cache: any pair will do
        print(f"({error})", file=sys.stderr)
        two = []
    if len(two) == 2:
        return "MLP, MNIST, as in profile paper", *(
            pairs.as_network(r, found, data) for found in two
        )
    r = replace(recipe("mlp_mnist_perm", "smoke"), model_args=(("hidden", 512),))
    data = load(r.data, normalise=r.normalise)
    nets = []
    for seed in (0, 1):
        ours = OurLoop(r, data, len(data.y_train) // r.batch, seed)
        for _ in range(10):
            ours.run()
        nets.append(ours.model.eval())
    return "MLP, digits, 10 epochs", *nets


def matched_pair(name: str) -> tuple[str, nn.Module, nn.Module, torch.Tensor]:
    """What it is, A, B and an image; ``name`` is "mlp" or a width in units of 16 channels."""
    if name == "mlp":
        told, a, b = trained_pair()
        return told, a, b, torch.zeros(1, a.fc1.in_features)
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(ResNet20(3, 16 * int(name), 10, "B").eval())
    return (
        f"ResNet-20, option B, {16 * int(name)} channels, random",
        *nets,
        torch.zeros(1, 3, 32, 32),
    )


def match_ours(sym: Symmetry, a: nn.Module, b: nn.Module, x: torch.Tensor, seed: int) -> Found:
    began, wall = time.process_time(), time.perf_counter()
    found = weight_matching(sym, a.state_dict(), b.state_dict(), seed)
    seconds, wall = time.process_time() - began, time.perf_counter() - wall
    parts = {part: found.seconds[part] / wall for part in ("products", "gathers", "assignment")}
    return Found(
        seconds, found.sweeps, found.objective, {**parts, "the rest": 1 - sum(parts.values())}
    )


@torch.no_grad()
def match_straightforward(
    sym: Symmetry, a: nn.Module, b: nn.Module, x: torch.Tensor, seed: int
) -> Found:
    state_a, state_b = a.state_dict(), b.state_dict()
    began = time.process_time()
    permutations, sweeps = match(
        sym, state_a, state_b, numpy_generator("weight matching", seed)
    )  # the same order of visits
    return Found(
        time.process_time() - began, sweeps, objective(sym, state_a, state_b, permutations)
    )


def match_rebasin(sym: Symmetry, a: nn.Module, b: nn.Module, x: torch.Tensor, seed: int) -> Found:
    """Without the time that it takes to trace the two networks; it draws its order of visits
    itself.
    """
    from rebasin import PermutationCoordinateDescent

    torch.manual_seed(seed)
    b, sweeps = copy.deepcopy(b), 0
    descent = PermutationCoordinateDescent(a, b, x)
    step = descent._calculate_permutations_step

    def counted(*args):
        nonlocal sweeps
        sweeps += 1
        return step(*args)

    descent._calculate_permutations_step = counted
    began = time.process_time()
    descent.calculate_permutations()
    seconds = time.process_time() - began
    descent.apply_permutations()
    return Found(seconds, sweeps, objective(sym, a.state_dict(), b.state_dict(), {}))


def matchers() -> dict[str, Callable[..., Found]]:
    tools = {"ours": match_ours, "straightforward": match_straightforward}
    try:
        import rebasin  # noqa: F401
    except ImportError:
        return tools
    return {**tools, "rebasin": match_rebasin}


def matching_memory(name: str, tool: str) -> None:
    """In a process of its own: prints what one matching takes at most beyond what was there before,
    in units of both networks.
    """
    torch.set_num_threads(1)
    told, a, b, x = matched_pair(name)
    sym, small = symmetry(a, x), matched_pair("1")
    matchers()[tool](
        symmetry(small[1], small[3]), *small[1:], 0
    )  # libraries are loaded, and their buffers made
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    matchers()[tool](sym, a, b, x, 0)
    two = sum(v.numel() * v.element_size() for net in (a, b) for v in net.state_dict().values())
    print(json.dumps((memory("VmHWM") - before) / two))


def memory(field: str) -> int:
    """Bytes, from what Linux tells of this process."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    )
    return 1024 * int(line.split()[1])


def run_matching_memory(name: str, tool: str) -> float | None:
    if not Path("/proc/self/clear_refs").exists():
        return None
    out = subprocess.run(
        [sys.executable, __file__, "--matching-memory", name, tool],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"},
    )
    return json.loads(out.stdout.splitlines()[-1])


def bench_matching(rounds: int, widths: tuple[int, ...]) -> dict:
    """All tools on one pair after each other, a seed a round, at one thread."""
    torch.set_num_threads(1)
    result = {}
    for name in ("mlp", *map(str, widths)):
        told, a, b, x = matched_pair(name)
        began = time.process_time()
        sym = symmetry(a, x)
        derived = time.process_time() - began
        runs: dict[str, list[Found]] = {tool: [] for tool in matchers()}
        for k in range(1 if name == str(LARGEST) else rounds):
            for tool, run in matchers().items():
                runs[tool].append(run(sym, a, b, x, k))
            print(f"matching {told}, round {k + 1}", file=sys.stderr)
        result[told] = {
            "seconds_to_derive": derived,
            "before": objective(sym, a.state_dict(), b.state_dict(), {}),
            "runs": {tool: [asdict(f) for f in found] for tool, found in runs.items()},
            "memory": {
                tool: run_matching_memory(name, tool) for tool in runs if name not in ("mlp", "1")
            },
        }
    return result


def print_matching(result: dict) -> None:
    print(
        "weight matching, seconds of one thread; median (lowest to highest) of interleaved rounds,"
        " a seed each; ratios round by round"
    )
    if "rebasin" not in matchers():
        print("  (the package rebasin is not installed here, so it is not in the comparison)")
    for told, found in result.items():
        print(
            f"{told}: symmetry derived in {found['seconds_to_derive']:.2f} s, objective before"
            f" {found['before']:.1f}"
        )
        ours = found["runs"]["ours"]
        for tool, runs in found["runs"].items():
            seconds, each = (
                [f["seconds"] / (f["sweeps"] if by else 1) for f in runs] for by in (False, True)
            )
            ratios = [
                f["seconds"] / f["sweeps"] / (o["seconds"] / o["sweeps"])
                for f, o in zip(runs, ours, strict=True)
            ]
            peak = found["memory"].get(tool)
            print(
                f"  {tool:<16} {spread(each, 4)} s a sweep, {spread(ratios, 2)} times ours;"
                f" {spread(seconds, 3)} s for {spread([f['sweeps'] for f in runs], 0)} sweeps;"
                f" objective {spread([f['objective'] for f in runs], 1)}"
                + (
                    f"; peak {1 + peak:.1f} times both networks, themselves included"
                    if peak is not None
                    else ""
                )
            )
            if runs[0]["parts"]:
                print(
                    " " * 19
                    + ", ".join(
                        f"{100 * statistics.median(f['parts'][part] for f in runs):.0f} % {part}"
                        for part in runs[0]["parts"]
                    )
                )


def spread(values: list[float], digits: int) -> str:
    low, middle, high = (
        f"{v:.{digits}f}" for v in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({low} to {high})" if len(values) > 1 else middle


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100, help="training steps in a block")
    parser.add_argument(
        "--convolutional-steps", type=int, default=5, help="the same for VGG-16 and ResNet-20"
    )
    parser.add_argument(
        "--only-convolutional",
        action="store_true",
        help="VGG-16 and ResNet-20 only; writes no file",
    )
    parser.add_argument(
        "--only-matching", action="store_true", help="weight matching only; writes no file"
    )
    parser.add_argument(
        "--widest",
        action="store_true",
        help=f"match ResNet-20 at {16 * LARGEST} channels as well (minutes, 2 GB)",
    )
    parser.add_argument(
        "--matching-memory", nargs=2, metavar=("PAIR", "TOOL"), help=argparse.SUPPRESS
    )
    parser.add_argument("--metric-pass", type=int, metavar="IMAGES", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.metric_pass is not None:
        return metric_pass(options.metric_pass)
    if options.matching_memory:
        return matching_memory(*options.matching_memory)
    widths = (*WIDTHS, LARGEST) if options.widest else WIDTHS
    if options.only_matching:
        return print_matching(bench_matching(options.rounds, widths))
    networks = {
        name: bench_convolutional(name, options.rounds, options.convolutional_steps)
        for name in ("resnet20_cifar10_spawn", "vgg16_cifar10_spawn")
    }
    if options.only_convolutional:
        return print_convolutional(networks)
    result = {
        **bench(options.rounds, options.steps),
        "convolutional": networks,
        "matching": bench_matching(options.rounds, widths),
    }
    state = environment("cpu")
    result |= {"commit": state["commit"], "date": state["finished"]}
    (RECORDS / "bench.json").write_text(
        json.dumps(result, indent=1) + "\n"
    )  # the book's page on speed shows it
    print(
        f"{result['cpu']}, torch {result['torch']}; median of {result['rounds']} interleaved blocks"
        f" of {result['steps']} steps, scaled to an epoch"
    )
    for name, value in result["seconds_per_epoch"].items():
        print(f"  {value:7.2f} s an epoch  {name}")
    for name, value in result["ratios"].items():
        print(f"  {value:7.2f} x         {name}")
    for name, value in result["share_of_matmul_rate"].items():
        print(
            f"  {100 * value['share']:7.0f} %         of the matrix-product rate"
            f" ({value['GFLOP/s of the products']:.0f} GFLOP/s): {name}"
        )
    for name, value in result["metric_pass"].items():
        print(
            f"  {value['seconds']:7.2f} s         all metrics of a pair over {name}, 1 thread, peak"
            f" {value['memory']['MiB_peak']:.0f} MiB, of it"
            f" {value['memory']['MiB_peak'] - value['memory']['MiB_before']:.0f} in the pass"
        )
    print_convolutional(result["convolutional"])
    print_matching(result["matching"])


def print_convolutional(networks: dict) -> None:
    for name, found in networks.items():
        print(
            f"{name} as in profile lite, batch 128; two networks at once, one thread each, against"
            " a plain loop of one at two"
        )
        for label, value in found["images_per_second"].items():
            fast = ", ".join(found["speedups"].get(label, ()))
            print(f"  {value:7.0f} images a second  {label}" + (f" ({fast})" if fast else ""))

        def told(values: list[float], factor: float = 1, digits: int = 2) -> str:
            low, middle, high = (f"{factor * value:.{digits}f}" for value in values)
            return f"{middle} ({low} to {high} over {found['rounds']} rounds)"

        for label, ratio in found["ratio_to_plain"].items():
            print(
                f"  {told(ratio)} times the plain loop, peak"
                f" {found['peak_MiB_a_process'][label]:.0f} MiB: {label}"
            )
        for label, share in found["share_of_matmul_rate"].items():
            products = found["GFLOP/s of the products"][label == ALONE]
            print(
                f"  {told(share, 100, 0)} % of the float32 matrix-product rate ({products:.0f}"
                f" GFLOP/s a thread): {label}"
            )


if __name__ == "__main__":
    main()
