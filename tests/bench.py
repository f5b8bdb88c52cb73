"""`make bench`: how fast is training and measuring, as ratios from one interleaved run.

Blocks of steps of each variant follow each other in turn, several rounds of them, so that a busy moment of the machine
falls on all alike; the median block of each is reported. "Plain" is the loop that a reader would write first: a
torchvision-style data set, a DataLoader, an ordinary optimiser, `.item()` at every step.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch import nn

from llfc_lib import ROOT
from llfc_lib.data import Dataset, load
from llfc_lib.data.torchvision import torchvision
from llfc_lib.experiments import pairs
from llfc_lib.experiments.units import cpu_name
from llfc_lib.metrics import measure
from llfc_lib.training import loop
from llfc_lib.training.recipes import Recipe, recipe


class PlainImages(torch.utils.data.Dataset):
    """One image at a time through PIL, ToTensor and Normalize, as torchvision's MNIST gives them."""

    def __init__(self, data: Dataset) -> None:
        transforms = torchvision().transforms
        self.images, self.labels = data.x_train[:, 0].numpy(), data.y_train.tolist()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(data.mean, data.std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class PlainLoop:
    def __init__(self, r: Recipe, data: Dataset) -> None:
        self.model = loop.new_network(r, data)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=r.lr)
        self.loader = torch.utils.data.DataLoader(PlainImages(data), batch_size=r.batch, shuffle=True)

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

    def __init__(self, r: Recipe, data: Dataset, steps: int) -> None:
        from dataclasses import replace

        images = steps * r.batch
        self.recipe = r
        self.data = replace(data, x_train=data.x_train[:images], y_train=data.y_train[:images])
        self.model = loop.new_network(r, data)
        self.optimiser = loop.make_optimiser(r, self.model)
        self.epoch = 0

    def run(self) -> float:
        began = time.perf_counter()
        loop.train_epoch(self.model, self.optimiser, self.data, self.recipe, self.epoch, (0, "bench")).tolist()
        self.epoch += 1
        return time.perf_counter() - began


def with_threads(threads: int, work) -> float:
    torch.set_num_threads(threads)
    return work()


def worker(pipe, data_name: str, steps: int) -> None:
    """One of two training processes at one thread each: runs a block whenever it is told to."""
    torch.set_num_threads(1)
    ours = OurLoop(recipe("mlp_mnist_spawn"), load(data_name), steps)
    ours.run()
    pipe.send("ready")
    while pipe.recv():
        pipe.send(ours.run())


def both(pipes) -> float:
    began = time.perf_counter()
    for pipe in pipes:
        pipe.send(True)
    for pipe in pipes:
        pipe.recv()
    return time.perf_counter() - began


def matmul_rate(r: Recipe, data: Dataset, threads: int) -> tuple[float, float]:
    """Operations a second of bare matrix products at the shapes of one training step (forward, two backward)."""
    torch.set_num_threads(threads)
    network = loop.new_network(r, data)
    shapes = [(m.out_features, m.in_features) for m in network.modules() if isinstance(m, nn.Linear)]
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
    """In a process of its own: all metrics of one pair over ``images`` images; prints seconds and peak memory."""
    torch.set_num_threads(1)
    data = load("mnist" if images else "digits")
    r = recipe("mlp_mnist_spawn")
    nets = [loop.new_network(r, data, seed).eval() for seed in (0, 1)]
    x, y = data.x_test[:images], data.y_test[:images]
    batches = [(x[i:i + pairs.BATCH], y[i:i + pairs.BATCH]) for i in range(0, images, pairs.BATCH)]

    class Normalised:
        def __iter__(self):
            return ((data.normalise(x), y) for x, y in batches)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    rows = measure(*nets, Normalised(), pairs.standard_metrics())
    print(json.dumps({"seconds": time.perf_counter() - began, "rows": len(rows), "MiB_before": before / 1024,
                      "MiB_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def run_metric_pass(images: int, **environment: str) -> dict:
    out = subprocess.run([sys.executable, __file__, "--metric-pass", str(images)], capture_output=True, text=True, check=True,
                         cwd=ROOT, env={**os.environ, **environment})
    return json.loads(out.stdout.splitlines()[-1])


def bench(rounds: int, steps: int) -> dict:
    r, data = recipe("mlp_mnist_spawn"), load("mnist")
    epoch = len(data.y_train) / r.batch / steps  # blocks in an epoch
    plain, ours = PlainLoop(r, data), OurLoop(r, data, steps)
    context, pipes = multiprocessing.get_context("spawn"), []
    for _ in range(2):
        here, there = context.Pipe()
        context.Process(target=worker, args=(there, data.name, steps), daemon=True).start()
        pipes.append(here)
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
        pipe.send(False)
    seconds = {name: statistics.median(t) for name, t in times.items()}
    result = {"cpu": cpu_name(), "torch": torch.__version__, "rounds": rounds, "steps": steps,
              "seconds_per_epoch": seconds, "fastest_block": {name: min(t) for name, t in times.items()}}
    two = "this loop, two networks at once, 1 thread each"
    result["ratios"] = {
        "one network, 2 threads: plain / this": seconds["plain loop, 2 threads"] / seconds["this loop, 2 threads"],
        "one network, 1 thread: plain / this": seconds["plain loop, 1 thread"] / seconds["this loop, 1 thread"],
        "two networks: plain, one after the other / this, at once": 2 * seconds["plain loop, 2 threads"] / seconds[two],
    }
    result["share_of_matmul_rate"] = {}
    for threads, name in ((1, "this loop, 1 thread"), (2, "this loop, 2 threads")):
        rate, operations = matmul_rate(r, data, threads)
        share = operations * steps * epoch / seconds[name] / rate
        result["share_of_matmul_rate"][name] = {"share": share, "GFLOP/s of the products": rate / 1e9}
    result["metric_pass"] = {}
    for images in (1000, 10000):
        result["metric_pass"][f"{images} images"] = {
            "seconds": statistics.median(run_metric_pass(images)["seconds"] for _ in range(3)),
            # what is freed is given back at once (slow): the peak is then what was in use, not what malloc kept
            "memory": run_metric_pass(images, MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="0")}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100, help="training steps in a block")
    parser.add_argument("--metric-pass", type=int, metavar="IMAGES", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.metric_pass is not None:
        return metric_pass(options.metric_pass)
    result = bench(options.rounds, options.steps)
    folder = ROOT / "_build"
    folder.mkdir(exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(result, indent=1))
    print(f"{result['cpu']}, torch {result['torch']}; median of {result['rounds']} interleaved blocks of "
          f"{result['steps']} steps, scaled to an epoch")
    for name, value in result["seconds_per_epoch"].items():
        print(f"  {value:7.2f} s an epoch  {name}")
    for name, value in result["ratios"].items():
        print(f"  {value:7.2f} x         {name}")
    for name, value in result["share_of_matmul_rate"].items():
        print(f"  {100 * value['share']:7.0f} %         of the matrix-product rate ({value['GFLOP/s of the products']:.0f} GFLOP/s): {name}")
    for name, value in result["metric_pass"].items():
        print(f"  {value['seconds']:7.2f} s         all metrics of a pair over {name}, 1 thread, peak "
              f"{value['memory']['MiB_peak']:.0f} MiB, of it "
              f"{value['memory']['MiB_peak'] - value['memory']['MiB_before']:.0f} in the pass")


if __name__ == "__main__":
    main()
