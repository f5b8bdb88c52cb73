"""`make bench`: how fast is training, measuring and matching, as ratios from one interleaved run.

Blocks of steps of each variant follow each other in turn, several rounds of them, so that a busy
moment of the machine falls on all alike; the median block of each is reported. "Plain" is the loop
that a reader would write first: a torchvision-style data set, a DataLoader, an ordinary optimiser,
`.item()` at every step. "Straightforward" weight matching is tests/straightforward.py; the package
`rebasin` is timed beside it where it is installed (the project does not need it).
"""

import argparse
import copy
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from llfc_book.places import RECORDS
from llfc_book.show import cost
from llfc_book.study import pairs
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
from llfc_lib.training import loop
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
    """One of two training processes at one thread each: trains a block when told to and answers
    with the seconds.
    """
    torch.set_num_threads(1)
    ours = OurLoop(r, data or load(r.data), steps)
    ours.run()
    pipe.send(ours.fast)
    while pipe.recv():
        pipe.send(ours.run())


def two_workers(r: Recipe, data: Dataset | None, steps: int) -> list:
    """Pipes to two training processes that are warm and wait."""
    context, pipes = multiprocessing.get_context("spawn"), []
    for _ in range(2):
        here, there = context.Pipe()
        context.Process(target=worker, args=(there, r, data, steps), daemon=True).start()
        there.close()  # a worker that dies then ends the waiting
        pipes.append(here)
    return pipes


def both(pipes) -> float:
    """Seconds until all of the processes, told at once, have trained a block."""
    began = time.perf_counter()
    for pipe in pipes:
        pipe.send(True)
    for pipe in pipes:
        pipe.recv()
    return time.perf_counter() - began


def metric_pass(images: int) -> float:
    """Seconds for all metrics of one pair over ``images`` images, at one thread."""
    torch.set_num_threads(1)
    data, r, batch = load("mnist"), recipe("mlp_mnist_spawn"), pairs.Plan().batch
    nets = [loop.new_network(r, data, seed).eval() for seed in (0, 1)]
    x, y = data.normalise(data.x_test[:images]), data.y_test[:images]
    began = time.perf_counter()
    measure(*nets, list(zip(x.split(batch), y.split(batch))), pairs.standard_metrics())
    return time.perf_counter() - began


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
    for run in variants.values():
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
    result["metric_pass"] = {
        f"{images} images": {"seconds": statistics.median(metric_pass(images) for _ in range(3))}
        for images in (1000, 10000)
    }
    return result


def random_images(r: Recipe, images: int) -> Dataset:
    """As many images of CIFAR-10's form as a block needs: speed does not depend on them."""
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (images, 3, 32, 32), generator=g, dtype=torch.uint8)
    y = torch.randint(0, 10, (images,), generator=g)
    mean, std = (0.49, 0.48, 0.45), (0.2, 0.2, 0.2)
    return Dataset("cifar10", x, y, x[:1], y[:1], 10, "random pixels", "", mean, std)


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
    variants = {
        "plain loop, 2 threads": lambda: images / with_threads(2, lambda: plain.run(steps)),
        **{label: lambda group=group: 2 * images / both(group) for label, group in pipes.items()},
    }
    rates: dict[str, list[float]] = {label: [] for label in variants}
    plain.run(1)
    for k in range(rounds):
        for label, run in variants.items():
            rates[label].append(run())
        print(f"{name}, round {k + 1} of {rounds}", file=sys.stderr)
    for pipe in (pipe for group in pipes.values() for pipe in group):
        pipe.send(None)

    def ratios(label: str) -> list[float]:
        """The lowest, the median and the highest, round by round."""
        plain_rates = rates["plain loop, 2 threads"]
        found = sorted(ours / plain for ours, plain in zip(rates[label], plain_rates, strict=True))
        return [found[0], statistics.median(found), found[-1]]

    return {
        "images_per_second": {label: statistics.median(found) for label, found in rates.items()},
        "speedups": used,
        "ratio_to_plain": {label: ratios(label) for label in pipes},
    }


# weight matching

WIDTHS, LARGEST = (1, 4, 8), 16


@dataclass
class Found:
    """``seconds`` of the processor: what else runs on the machine changes them less."""

    seconds: float
    sweeps: int
    objective: float


def trained_pair() -> tuple[str, nn.Module, nn.Module]:
    """Two MLPs of the permutation chapters that have learned for half an epoch."""
    r = recipe("mlp_mnist_perm")
    data = load(r.data, normalise=r.normalise)
    nets = []
    for seed in (0, 1):
        ours = OurLoop(r, data, len(data.y_train) // r.batch // 2, seed)
        ours.run()
        nets.append(ours.model.eval())
    return "MLP, MNIST, half an epoch", *nets


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
    began = time.process_time()
    found = weight_matching(sym, a.state_dict(), b.state_dict(), seed)
    return Found(time.process_time() - began, found.sweeps, found.objective)


@torch.no_grad()
def match_straightforward(
    sym: Symmetry, a: nn.Module, b: nn.Module, x: torch.Tensor, seed: int
) -> Found:
    state_a, state_b = a.state_dict(), b.state_dict()
    began = time.process_time()
    same_visits = numpy_generator("weight matching", seed)
    permutations, sweeps = match(sym, state_a, state_b, same_visits)
    seconds = time.process_time() - began
    return Found(seconds, sweeps, objective(sym, state_a, state_b, permutations))


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
            "runs": {tool: [asdict(f) for f in found] for tool, found in runs.items()},
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100, help="training steps in a block")
    parser.add_argument("--convolutional-steps", type=int, default=5, help="of the large networks")
    parser.add_argument(
        "--only", choices=("training", "convolutional", "matching"), help="write no file, print all"
    )
    parser.add_argument("--widest", action="store_true", help=f"match {16 * LARGEST} channels too")
    options = parser.parse_args()
    state = environment("cpu")
    if not options.only and (state["commit"].endswith("-dirty") or options.rounds < 3):
        parser.error("the page on speed wants committed code and three rounds; or take --only")
    rounds, widths = options.rounds, (*WIDTHS, LARGEST) if options.widest else WIDTHS
    parts = {
        "training": lambda: bench(rounds, options.steps),
        "convolutional": lambda: {
            name: bench_convolutional(name, rounds, options.convolutional_steps)
            for name in ("resnet20_cifar10_spawn", "vgg16_cifar10_spawn")
        },
        "matching": lambda: bench_matching(rounds, widths),
    }
    if options.only:
        return print(json.dumps(parts[options.only](), indent=1))
    result = {name: part() for name, part in parts.items()}
    result = {**result.pop("training"), **result}
    result |= {"commit": state["commit"], "date": state["finished"]}
    # the book's page on speed shows it
    (RECORDS / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    print(cost.speed().text, cost.matching_speed().text, sep="\n\n")


if __name__ == "__main__":
    main()
