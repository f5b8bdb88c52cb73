"""What the page on speed and cost says."""

import numpy as np

from llfc_book.findings import finding
from llfc_book.show import cost
from llfc_book.show.prose import between, number
from llfc_book.study.settings import RECIPES

PAGE = "cost"
DAY = 24  # hours
DATA_SHEET = 67e12  # operations a second in float32 of an H100 SXM


def _on_one_thread() -> bool:
    return {(p["device"], p["threads"]) for _, _, p in cost.provenances()} == {("cpu", 1)}


@finding(PAGE, "all networks on record were trained on one thread of a CPU")
def training() -> tuple[str, bool]:
    hours = sum(found[1] for found in cost.trained().values()) / cost.HOUR
    return number(hours), _on_one_thread()


@finding(PAGE, "all pairs on record were measured on one thread of a CPU")
def measuring() -> tuple[str, bool]:
    return number(sum(cost.measured().values()) / cost.HOUR), _on_one_thread()


@finding(PAGE, "a GPU is taken to sustain a tenth of what its data sheet says")
def rate() -> tuple[str, bool]:
    return number(cost.GPU_RATE / 1e12), bool(np.isclose(cost.GPU_RATE, DATA_SHEET / 10))


@finding(PAGE, "by the two constants, steps and not work hold up perceptrons")
def step() -> tuple[str, bool]:
    work, steps = cost.training(RECIPES["mlp_mnist_spawn"], cost.OFFICIAL["mnist"])
    return number(1000 * cost.GPU_STEP, 1), cost.on_gpu(work, steps) > cost.on_gpu(work, 0)


@finding(PAGE, "every perceptron's pair of B.1 takes hours of a thread, not days")
def perceptrons() -> tuple[str, bool]:
    hours = [here for name, (here, _) in cost.full_scale().items() if name.startswith("mlp")]
    found = [here for here in hours if here is not None]
    return between(found), len(found) == len(hours) and bool(max(found) < DAY)


@finding(PAGE, "B.1's VGG-16 takes days of a thread, and hours are expected on a GPU")
def vgg() -> tuple[str, bool]:
    here, gpu = cost.full_scale()["vgg16_cifar10_spawn"]
    assert here is not None
    return f"{number(here)} hours here and {number(gpu)} on a GPU", bool(here > 2 * DAY > 2 * gpu)


@finding(PAGE, "the 32 times as wide ResNet-20 is expected to take days even on a GPU")
def wide() -> tuple[str, bool]:
    _, gpu = cost.full_scale()["resnet20x32_cifar10_perm"]
    return number(gpu / DAY), bool(gpu > 2 * DAY)


@finding(PAGE, "in every round and whatever is trained, we train faster than the plain loop")
def loops() -> tuple[str, bool]:
    found = cost.loops()
    return between(np.median(of) for of in found), min(min(of) for of in found) > 1


@finding(PAGE, "on most networks weight matching is faster, and it finds the same in every round")
def matching() -> tuple[str, bool]:
    ratios = np.array([np.sum(plain) / np.sum(ours) for ours, plain in cost.sweeps()])
    tools = [found["runs"].values() for found in cost.bench()["matching"].values()]
    found = [[[one["objective"] for one in runs] for runs in both] for both in tools]
    same = all(np.allclose(ours, plain, rtol=1e-9) for ours, plain in found)
    return between(ratios), bool((ratios > 1).mean() > 0.5) and same
