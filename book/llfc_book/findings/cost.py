"""What the page on speed and cost says."""

import numpy as np

from llfc_book.findings import Found, finding
from llfc_book.show import cost
from llfc_book.show.prose import between, number
from llfc_book.study.settings import RECIPES

PAGE = "cost"
DAY = 24  # hours


@finding(PAGE, "all networks and pairs on record were trained and measured on one thread of a CPU")
def hours() -> Found:
    training = sum(found[1] for found in cost.trained().values()) / cost.HOUR
    told = {"training": training, "measuring": sum(cost.measured().values()) / cost.HOUR}
    machines = {(p["device"], p["threads"]) for _, _, p in cost.provenances()}
    return {name: number(hours) for name, hours in told.items()}, machines == {("cpu", 1)}


@finding(PAGE, "by the two constants, steps and not work hold up perceptrons")
def constants() -> Found:
    work, steps = cost.training(RECIPES["mlp_mnist_spawn"], cost.OFFICIAL["mnist"])
    told = {"rate": number(cost.GPU_RATE / 1e12), "step": number(1000 * cost.GPU_STEP, 1)}
    return told, cost.on_gpu(work, steps) > cost.on_gpu(work, 0)


@finding(PAGE, "perceptrons take hours of a thread, VGG-16 days, the wide ResNet-20 days of a GPU")
def pairs() -> Found:
    found = cost.full_scale()
    perceptrons = [here or np.inf for name, (here, _) in found.items() if name.startswith("mlp")]
    vgg, vgg_gpu = found["vgg16_cifar10_spawn"]
    wide_gpu = found["resnet20x32_cifar10_perm"][1]
    told = {
        "perceptrons": between(perceptrons),
        "vgg": f"{number(vgg or 0)} hours here and {number(vgg_gpu)} on a GPU",
        "wide": number(wide_gpu / DAY),
    }
    days = min(vgg or 0, wide_gpu) > 2 * DAY
    return told, days and max(perceptrons) < DAY and vgg_gpu < DAY


@finding(PAGE, "in every round and whatever is trained, we train faster than the plain loop")
def loops() -> Found:
    found = cost.loops().values()
    return between(np.median(of) for of in found), min(map(min, found)) > 1


@finding(PAGE, "on most networks weight matching is faster, and it finds the same in every round")
def matching() -> Found:
    ratios = np.array([np.sum(plain) / np.sum(ours) for ours, plain in cost.sweeps().values()])
    found = [[*of["runs"].values()] for of in cost.bench()["matching"].values()]
    same = all(
        np.isclose(mine["objective"], theirs["objective"], rtol=1e-9, atol=1e-8)
        for ours, plain in found
        for mine, theirs in zip(ours, plain)
    )
    return between(ratios), (ratios > 1).mean() > 0.5 and same
