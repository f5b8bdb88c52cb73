"""What the book cost in computing time, from the provenance of its records, and what B.1 would cost
on one GPU.

Times are of one thread of the processors that the records name. Nothing here was measured on a GPU:
its times are expectations from two constants, which the page states.
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from llfc_book import records
from llfc_book.places import RECORDS
from llfc_book.show import prose
from llfc_book.show.tables import NOTHING, MyST, table
from llfc_book.study.settings import PROFILES, RECIPES, recipe
from llfc_lib.data import Dataset
from llfc_lib.training.loop import new_network
from llfc_lib.training.recipe import Recipe

#: What a GPU is taken to sustain in training, operations a second: a tenth of the 67 TFLOP/s in
#: float32 of an H100 SXM (its data sheet), since batches of small images keep it from more.
GPU_RATE = 6.7e12
#: What a training step takes at least, seconds: its kernels, dozens for a perceptron and hundreds
#: for a ResNet, have to be started one by one. An upper guess for the small networks.
GPU_STEP = 2e-3
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "digits": (1, 8, 8)}
#: Training images of the official sets, which B.1 uses whole.
OFFICIAL = {"mnist": 60_000, "cifar10": 50_000}
#: The settings of B.1 and how many networks a pair and its control take.
SETTINGS = (
    "mlp_mnist_spawn",
    "vgg16_cifar10_spawn",
    "resnet20_cifar10_spawn",
    "mlp_mnist_perm",
    "mlp_cifar10_perm",
)


@dataclass
class Spent:
    """Of one recipe as one profile scales it: ``networks`` maps a digest to (seconds, operations,
    steps).
    """

    networks: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    measured: dict[tuple, float] = field(default_factory=dict)

    def sums(self) -> tuple[float, float, float]:
        """Seconds, operations and steps of training."""
        return (
            tuple(sum(values) for values in zip(*self.networks.values()))
            if self.networks
            else (0.0, 0.0, 0.0)
        )


@lru_cache(maxsize=64)
def operations(r: Recipe) -> float:
    """Floating-point operations of one image's forward pass, counted on device "meta" (N = 1)."""
    shape = SHAPES[r.data]
    x, y = torch.zeros(1, *shape, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    blank = Dataset(
        r.data,
        x,
        y,
        x,
        y,
        10,
        "blank",
        "",
        (0.0,) * shape[0],
        (1.0,) * shape[0],
        normalisation=r.normalise,
    )
    network = new_network(r, blank).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, *shape, device="meta"))
    return float(counter.get_total_flops())


def training(r: Recipe, images: int, branch: str = "A") -> tuple[float, float]:
    """Operations (three forward passes a step) and steps of training one network on ``images``
    images; "B" shares its trunk with A.
    """
    epochs = r.epochs - ((r.spawn_epoch or 0) if branch == "B" else 0)
    return 3.0 * operations(r) * images * epochs, epochs * math.ceil(images / r.batch)


def on_gpu(work: float, steps: float) -> float:
    """Expected seconds on one GPU."""
    return max(work / GPU_RATE, steps * GPU_STEP)


def spent() -> dict[tuple[str, str], Spent]:
    """By profile and recipe, what all records together cost; networks and passes that several
    records share count once.
    """
    found: dict[tuple[str, str], Spent] = defaultdict(Spent)
    for profile in PROFILES:
        for name in records.experiments_shown(profile):
            for pair, p in records.provenances(name, profile).items():
                if records.is_held(p["recipe"], profile):
                    continue
                r = recipe(p["recipe"], profile)
                trained = recipe(r.trained_as, profile)
                for who, digest in p["endpoints"].items():
                    work, steps = training(
                        trained, p["data"]["train"], "B" if who == "B" and not r.matching else "A"
                    )
                    networks = found[profile, trained.name].networks
                    networks.setdefault(
                        digest, (p["train_seconds"] / len(p["endpoints"]), work, steps)
                    )
                found[profile, trained.name].measured[
                    pair, tuple(p["parts"]), p["measure_seconds"]
                ] = p["measure_seconds"]
    return dict(found)


def rates(profile: str, name: str) -> pd.Series:
    """Operations a second of training, by pair of a recipe: what processors and their arithmetic
    make of the same work.

    Where records of a pair were trained on different machines, each counts.
    """
    found = {}
    r = recipe(name, profile)
    for experiment in records.experiments_shown(profile):
        for pair, p in records.provenances(experiment, profile).items():
            if p["recipe"] == name:
                work = sum(
                    training(r, p["data"]["train"], "B" if who == "B" else "A")[0]
                    for who in p["endpoints"]
                )
                found[pair, p["train_seconds"]] = work / p["train_seconds"]
    return pd.Series(found)


def floor_share() -> float:
    """How much of the expected hours on a GPU is the least time of a step (:data:`GPU_STEP`)."""
    by_floor = sum(
        steps * GPU_STEP
        for s in spent().values()
        for _, work, steps in [s.sums()]
        if steps * GPU_STEP > work / GPU_RATE
    )
    return by_floor / 3600 / totals()[2]


def full_scale(name: str) -> tuple[float | None, float]:
    """Hours that a pair of B.1's setting ``name`` and its independent network take, here at the
    rate of the highest profile there is (None without one) and expected on one GPU.
    """
    r, done = RECIPES[name], spent()
    work, steps = (
        sum(values)
        for values in zip(*(training(r, OFFICIAL[r.data], branch) for branch in ("A", "B", "A")))
    )
    sums = next(
        (
            s.sums()
            for profile in ("paper", "lite")
            if (s := done.get((profile, name))) and s.networks
        ),
        None,
    )
    return sums and work / (sums[1] / sums[0]) / 3600, on_gpu(work, steps) / 3600


def _merged(part: dict[tuple, float]) -> float:
    """Seconds of measuring: of records that share passes, the one with the most parts of each pair
    counts.
    """
    total, by_pair = 0.0, defaultdict(list)
    for (pair, parts, _), seconds in part.items():
        by_pair[pair].append((set(parts), seconds))
    for groups in by_pair.values():
        seen: set[str] = set()
        for parts, seconds in sorted(groups, key=lambda group: -len(group[0])):
            total += seconds * len(parts - seen) / len(parts)
            seen |= parts
    return total


def totals() -> tuple[float, float, float]:
    """Hours of training and of measuring, one thread each, and the hours of training expected on
    one GPU.
    """
    found = spent().values()
    training_, measuring = sum(s.sums()[0] for s in found), sum(_merged(s.measured) for s in found)
    return training_ / 3600, measuring / 3600, sum(on_gpu(*s.sums()[1:]) for s in found) / 3600


def by_recipe() -> MyST:
    """Every recipe and profile but smoke: networks, hours, operations and the rate that they were
    done at.
    """
    rows = []
    shown = [item for item in spent().items() if item[0][0] != "smoke"]  # those take seconds
    for (profile, name), s in sorted(
        shown, key=lambda item: (-PROFILES.index(item[0][0]), -item[1].sums()[0])
    ):
        seconds, work, steps = s.sums()
        rows.append(
            (
                f"`{name}`",
                profile,
                len(s.networks) or NOTHING,
                _hours(seconds),
                _hours(_merged(s.measured)),
                prose.number(work / 1e15) if work else NOTHING,
                prose.number(work / seconds / 1e9) if seconds else NOTHING,
                _hours(on_gpu(work, steps)) if work else NOTHING,
            )
        )
    columns = [
        "recipe",
        "profile",
        "networks",
        "training (h)",
        "measuring (h)",
        "operations of training (10¹⁵)",
        "GFLOP/s of one thread",
        "training expected on one GPU (h)",
    ]
    return table(
        pd.DataFrame(rows, columns=columns),
        "What the records cost, in hours of one thread; what several of them share counts once;"
        " networks of the sweep over widths were trained while measuring. Look at the rate, which"
        " depends on the processor, and on what else it did, as much as on the network.",
        "tbl-cost",
    )


def at_full_scale() -> MyST:
    """The settings of B.1 as printed: what a pair and its control take, here and on one GPU."""
    done, rows = spent(), []
    for name in SETTINGS:
        r, (here, gpu) = RECIPES[name], full_scale(name)
        work = sum(training(r, OFFICIAL[r.data], branch)[0] for branch in ("A", "B", "A"))
        shown = [
            f"{profile}: {len(done[profile, name].networks)}"
            for profile in reversed(PROFILES)
            if (profile, name) in done
        ]
        rows.append(
            (
                r.title,
                r.section,
                r.epochs,
                prose.number(work / 1e15),
                prose.number(here) if here else NOTHING,
                prose.number(gpu),
                ", ".join(shown),
            )
        )
    columns = [
        "setting",
        "section",
        "epochs",
        "operations (10¹⁵)",
        "here, one thread (h)",
        "one GPU, expected (h)",
        "networks in the records",
    ]
    return table(
        pd.DataFrame(rows, columns=columns),
        "B.1 as printed, on all images of the official sets: training two networks and an"
        " independent one. Here: at the rate of the recipe in the highest profile there is;"
        " VGG-16's is that of a network a quarter as wide.",
        "tbl-full-scale",
    )


def _hours(seconds: float) -> str:
    return prose.number(seconds / 3600)


def bench() -> dict:
    """What the last `make bench` found. FileNotFoundError, saying what to do, if none is there;
    ValueError for one that was too short or of uncommitted code.
    """
    path = RECORDS / "bench.json"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path.name} in {path.parent.name}/; `make bench` makes one"
        )
    found = json.loads(path.read_text())
    if found["rounds"] < 3 or found["commit"].endswith("-dirty"):
        raise ValueError(
            "a benchmark of fewer than three rounds, or of uncommitted code, says nothing: run"
            " `make bench` again"
        )
    return found


def speed() -> MyST:
    """Training and measuring beside a plain loop: ratios of interleaved blocks."""
    found = bench()
    rows = [(name, f"{ratio:.2g}", NOTHING) for name, ratio in found["ratios"].items()]
    for name, network in found["convolutional"].items():
        for label, (low, middle, high) in network["ratio_to_plain"].items():
            fast = ", ".join(network["speedups"].get(label, ())) or NOTHING
            rows.append(
                (
                    f"`{name}`, two networks at once: {label} / plain",
                    f"{middle:.2g} ({low:.2g} to {high:.2g})",
                    fast,
                )
            )
    for images, run in found["metric_pass"].items():
        rows.append(
            (
                f"all metrics of a pair of perceptrons over {images}, one thread",
                f"{run['seconds']:.2g} s",
                NOTHING,
            )
        )
    return table(
        pd.DataFrame(rows, columns=["what", "times as fast, or seconds", "sped up by"]),
        "Training beside the loop that a reader would write first, `make bench`: medians of"
        f" {found['rounds']} interleaved rounds. {machine()}",
        "tbl-speed",
    )


def matching_speed() -> MyST:
    """Weight matching beside a straightforward implementation, a sweep of all layers each."""
    rows = []
    for told, found in bench()["matching"].items():
        ours = found["runs"]["ours"]
        for tool, runs in found["runs"].items():
            ratios = sorted(
                f["seconds"] / f["sweeps"] / (o["seconds"] / o["sweeps"])
                for f, o in zip(runs, ours, strict=True)
            )
            each = [f["seconds"] / f["sweeps"] for f in runs]
            rows.append(
                (
                    told,
                    tool,
                    prose.between(each),
                    prose.between(ratios),
                    prose.between([f["sweeps"] for f in runs]),
                    prose.between([f["objective"] for f in runs], digits=4),
                )
            )
    columns = ["networks", "tool", "seconds a sweep", "times ours", "sweeps", "objective"]
    return table(
        pd.DataFrame(rows, columns=columns),
        "Weight matching, one thread, a seed a round. Look at the objective as well: a faster "
        f"tool must not match worse. {machine()}",
        "tbl-matching-speed",
    )


def machine() -> str:
    """The machine of the last `make bench`, in words."""
    found = bench()
    return f"{found['cpu']}, torch {found['torch']}, commit {found['commit']}, {found['date']}."
