"""`make bench`: how fast are training and matching, as ratios from one interleaved run.

Blocks of steps of each variant follow each other in turn, several rounds of them, so that a busy
moment of the machine falls on all alike; the median block of each is reported. "Plain" is the loop
that a reader would write first: a torchvision-style data set, a DataLoader, an ordinary optimiser,
`.item()` at every step. "Straightforward" weight matching is tests/straightforward.py.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from llfc_book.places import RECORDS
from llfc_book.show import cost
from llfc_book.study.settings import recipe
from llfc_book.study.units import cpu_name, environment
from PIL import Image
from straightforward import match
from torch import nn

from llfc_lib.data import Dataset, load
from llfc_lib.data.torchvision import torchvision
from llfc_lib.matching import Permutations, Symmetry, objective, symmetry, weight_matching
from llfc_lib.models.resnet import ResNet20
from llfc_lib.models.weights import State
from llfc_lib.streams import numpy_generator
from llfc_lib.training import loop
from llfc_lib.training.recipe import Recipe


class PlainImages(torch.utils.data.Dataset):
    """One image at a time through PIL and torchvision's transforms, as its data sets give them."""

    def __init__(self, r: Recipe, data: Dataset) -> None:
        transforms = torchvision().transforms
        # handing the tensor to another process moves its memory
        images = data.x_train.permute(0, 2, 3, 1).numpy().copy()
        self.images = images[..., 0] if images.shape[-1] == 1 else images
        self.labels = data.y_train.tolist()
        crop = transforms.RandomCrop(images.shape[1], padding=4)
        augment = [crop, transforms.RandomHorizontalFlip()] if r.augment else []
        normalise = transforms.Normalize(data.mean, data.std)
        self.transform = transforms.Compose([*augment, transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class PlainLoop:
    def __init__(self, r: Recipe, data: Dataset) -> None:
        self.model = loop.new_network(r, data)
        if r.optimiser == "adam":
            self.optimiser = torch.optim.Adam(self.model.parameters(), lr=r.lr)
        else:
            usual = {"momentum": r.momentum, "weight_decay": r.weight_decay}
            self.optimiser = torch.optim.SGD(self.model.parameters(), lr=r.lr, **usual)
        images = PlainImages(r, data)
        self.loader = torch.utils.data.DataLoader(images, batch_size=r.batch, shuffle=True)

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
        how = ((0, "bench"), self.augmenter, "bf16 autocast" in self.fast)
        began = time.perf_counter()
        losses = loop.train_epoch(
            self.learner, self.optimiser, self.data, self.recipe, self.epoch, *how
        )
        losses.tolist()  # wait for them
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


def interleaved(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What every variant gives in every round, after one to warm up."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for k in range(rounds + 1):
        for name, run in variants.items():
            found[name].append(run())
        print(f"round {k} of {rounds}", file=sys.stderr)
    return {name: values[1:] for name, values in found.items()}


def bench(rounds: int, steps: int) -> dict:
    r, data = recipe("mlp_mnist_spawn"), load("mnist")
    epoch = len(data.y_train) / r.batch / steps  # blocks in an epoch
    plain, ours = PlainLoop(r, data), OurLoop(r, data, steps)
    pipes = two_workers(r, None, steps)
    for pipe in pipes:
        pipe.recv()
    two = "this loop, two networks at once, 1 thread each"
    variants = {
        "plain loop, 2 threads": lambda: with_threads(2, lambda: plain.run(steps)),
        "plain loop, 1 thread": lambda: with_threads(1, lambda: plain.run(steps)),
        "this loop, 2 threads": lambda: with_threads(2, ours.run),
        "this loop, 1 thread": lambda: with_threads(1, ours.run),
        two: lambda: both(pipes),
    }
    times = interleaved(variants, rounds)
    for pipe in pipes:
        pipe.send(None)
    seconds = {name: epoch * statistics.median(t) for name, t in times.items()}
    plain_two = seconds["plain loop, 2 threads"]
    ratios = {
        "one network, 2 threads: plain / this": plain_two / seconds["this loop, 2 threads"],
        "one network, 1 thread: plain / this": (
            seconds["plain loop, 1 thread"] / seconds["this loop, 1 thread"]
        ),
        "two networks: plain, one after the other / this, at once": 2 * plain_two / seconds[two],
    }
    return {
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "rounds": rounds,
        "steps": steps,
        "seconds_per_epoch": seconds,
        "ratios": ratios,
    }


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
    plain_loop = "plain loop, 2 threads"
    rates = interleaved(
        {
            plain_loop: lambda: images / with_threads(2, lambda: plain.run(steps)),
            **{k: lambda group=group: 2 * images / both(group) for k, group in pipes.items()},
        },
        rounds,
    )
    for pipe in (pipe for group in pipes.values() for pipe in group):
        pipe.send(None)

    def ratios(label: str) -> list[float]:
        """The lowest, the median and the highest, round by round."""
        found = sorted(ours / of for ours, of in zip(rates[label], rates[plain_loop], strict=True))
        return [found[0], statistics.median(found), found[-1]]

    return {"speedups": used, "ratio_to_plain": {label: ratios(label) for label in pipes}}


# weight matching

WIDTHS = (1, 4, 8)


def matched_pair(name: str) -> tuple[str, nn.Module, nn.Module, torch.Tensor]:
    """What it is, A, B and an image; ``name`` is "mlp" (two of the permutation chapters that have
    learned for half an epoch) or a width in units of 16 channels.
    """
    nets: list[nn.Module] = []
    if name == "mlp":
        r = recipe("mlp_mnist_perm")
        data = load(r.data, normalise=r.normalise)
        for seed in (0, 1):
            ours = OurLoop(r, data, len(data.y_train) // r.batch // 2, seed)
            ours.run()
            nets.append(ours.model.eval())
        return "MLP, MNIST, half an epoch", *nets, torch.zeros(1, nets[0].fc1.in_features)
    channels = 16 * int(name)
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(ResNet20(3, channels, 10, "B").eval())
    return f"ResNet-20, option B, {channels} channels, random", *nets, torch.zeros(1, 3, 32, 32)


def match_ours(sym: Symmetry, a: State, b: State, seed: int) -> tuple[Permutations, int]:
    found = weight_matching(sym, a, b, seed)
    return found.permutations, found.sweeps


def match_straightforward(sym: Symmetry, a: State, b: State, seed: int) -> tuple[Permutations, int]:
    return match(sym, a, b, numpy_generator("weight matching", seed))  # the same visits


def bench_matching(rounds: int) -> dict:
    """Both tools on one pair after each other, a seed a round, at one thread. Seconds are the
    processor's: what else runs on the machine changes them less.
    """
    torch.set_num_threads(1)
    tools = {"ours": match_ours, "straightforward": match_straightforward}
    result = {}
    for name in ("mlp", *map(str, WIDTHS)):
        told, a, b, x = matched_pair(name)
        sym, *states = symmetry(a, x), a.state_dict(), b.state_dict()
        runs: dict[str, list[dict]] = {tool: [] for tool in tools}
        for k in range(rounds):
            for tool, run in tools.items():
                began = time.process_time()
                permutations, sweeps = run(sym, *states, k)
                seconds = time.process_time() - began
                reached = objective(sym, *states, permutations)
                runs[tool].append({"seconds": seconds, "sweeps": sweeps, "objective": reached})
            print(f"matching {told}, round {k + 1}", file=sys.stderr)
        result[told] = {"runs": runs}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100, help="training steps in a block")
    parser.add_argument("--convolutional-steps", type=int, default=5, help="of the large networks")
    parser.add_argument(
        "--only", choices=("training", "convolutional", "matching"), help="write no file, print all"
    )
    options = parser.parse_args()
    state = environment("cpu")
    if not options.only and (state["commit"].endswith("-dirty") or options.rounds < 3):
        parser.error("the page on speed wants committed code and three rounds; or take --only")
    rounds = options.rounds
    parts = {
        "training": lambda: bench(rounds, options.steps),
        "convolutional": lambda: {
            name: bench_convolutional(name, rounds, options.convolutional_steps)
            for name in ("resnet20_cifar10_spawn", "vgg16_cifar10_spawn")
        },
        "matching": lambda: bench_matching(rounds),
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
