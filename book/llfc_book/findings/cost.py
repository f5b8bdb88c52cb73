"""What the page on speed and cost says."""

import numpy as np
import pandas as pd

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
def step() -> Found:
    work, steps = cost.training(RECIPES["mlp_mnist_spawn"], cost.OFFICIAL["mnist"])
    return number(1000 * cost.GPU_STEP, 1), cost.on_gpu(work, steps) > cost.on_gpu(work, 0)


@finding(PAGE, "perceptrons take hours of a thread, VGG-16 days, the wide ResNet-20 days of a GPU")
def wide() -> Found:
    here = pd.DataFrame(cost.full_scale(), index=["here", "gpu"], dtype=float).T
    perceptrons = here.loc[here.index.str.startswith("mlp"), "here"]
    vgg, gpu = here.loc["vgg16_cifar10_spawn", "here"], here.loc["resnet20x32_cifar10_perm", "gpu"]
    return number(gpu / DAY), (perceptrons < DAY).all() and min(vgg, gpu) > 2 * DAY


@finding(PAGE, "in every round and whatever is trained, we train faster than the plain loop")
def loops() -> Found:
    found = cost.loops()
    return between(np.median(of) for of in found), min(map(min, found)) > 1


@finding(PAGE, "on most networks weight matching is faster, and it finds the same in every round")
def matching() -> Found:
    ratios = np.array([np.sum(plain) / np.sum(ours) for ours, plain in cost.sweeps()])
    tools = [found["runs"].values() for found in cost.bench()["matching"].values()]
    ours, plain = ([one["objective"] for run in runs for one in run] for runs in zip(*tools))
    return between(ratios), (ratios > 1).mean() > 0.5 and np.allclose(ours, plain, rtol=1e-9)
