"""What the book cost in computing time, what B.1 would cost, and how fast the library is."""

import json
import math
from collections import defaultdict
from contextlib import suppress
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from llfc_book import evidence as ev
from llfc_book import records
from llfc_book.places import RECORDS
from llfc_book.show.text import MyST, number, table
from llfc_book.study.catalogue import EXPERIMENTS
from llfc_book.study.settings import PROFILES, RECIPES, SPAWN_AT, Setting, recipe
from llfc_lib.models import build

#: What a GPU is expected to do in training, operations a second: a tenth of the 67 TFLOP/s in
#: float32 of an H100 SXM (its data sheet), since batches of small images keep it from more.
GPU_RATE = 6.7e12
GPU_STEP = 2e-3  # expected seconds a step at least: hundreds of kernels, started one by one
HOUR = 3600
CIFAR, TINY = (3, 32, 32), (3, 64, 64)
SHAPES = {"mnist": (1, 28, 28), "cifar10": CIFAR, "tiny_imagenet_50": TINY, "digits": (1, 8, 8)}
#: Training images of the official sets, which B.1 uses whole; 50 classes of Tiny-ImageNet are none.
OFFICIAL = {"mnist": 60_000, "cifar10": 50_000}
Key = tuple[str, str]  # a profile and a setting


@cache
def operations(r: Setting) -> float:
    """Floating-point operations of one image's forward pass."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build(r.model, SHAPES[r.data], 10, **dict(r.model_args)).eval()
        network(torch.empty(1, *SHAPES[r.data]))
    return float(counter.get_total_flops())


def training(r: Setting, images: int, branch: str = "A") -> tuple[float, float]:
    """Operations (three forward passes a step) and steps of training a network; "B" of a spawned
    pair shares its trunk with A.
    """
    epochs = r.epochs - ((r.spawn_epoch or 0) if branch == "B" and r.shares_trunk else 0)
    return 3 * operations(r) * images * epochs, epochs * math.ceil(images / r.batch)


def on_gpu(work: float, steps: float) -> float:
    """Expected seconds on one GPU."""
    return max(work / GPU_RATE, steps * GPU_STEP)


@cache
def provenances() -> list[tuple[str, str, dict[str, Any]]]:
    """Profile, pair and provenance of every pair in every record."""
    found = []
    for profile, name in product(PROFILES, EXPERIMENTS):
        with suppress(records.RecordError):
            pairs = records.provenances(name, profile)
            found += [(profile, pair, p) for pair, p in pairs.items()]
    return found


def trained() -> dict[Key, np.ndarray]:
    """By setting: networks, seconds, operations and steps of their training; each counts once."""
    found: dict[Key, dict[str, tuple[float, ...]]] = defaultdict(dict)
    for profile, _, p in provenances():
        of, ends = recipe(p["recipe"], profile), p["endpoints"]
        r = recipe(of.trained_as, profile)
        for who, digest in ends.items():
            work = training(r, p["data"]["train"], "A" if of.matching else who)
            found[profile, r.name].setdefault(digest, (1, p["train_seconds"] / len(ends), *work))
    return {key: np.sum([*networks.values()], axis=0) for key, networks in found.items()}


def measured() -> dict[Key, float]:
    """By setting: seconds of measuring. A part that several records share counts once."""
    passes = {(profile, pair, *p["parts"]): p for profile, pair, p in provenances()}
    found: dict[Key, float] = defaultdict(float)
    seen: dict[Key, set[str]] = defaultdict(set)
    for (profile, pair, *parts), p in sorted(passes.items(), key=lambda one: -len(one[0])):
        new = set(parts) - seen[profile, pair]
        key = profile, recipe(p["recipe"], profile).trained_as
        found[key] += p["measure_seconds"] * len(new) / len(parts)
        seen[profile, pair] |= new
    return dict(found)


def full_scale() -> dict[str, tuple[float | None, float]]:
    """By setting that B.1 prints, on an official set, hours to train a pair and its control: here,
    at the rate of the largest scale there is (None without one), and expected on one GPU.
    """
    known, found = trained(), dict[str, tuple[float | None, float]]()
    for name, r in RECIPES.items():
        if r.base or r.is_variant or r.data not in OFFICIAL:
            continue
        networks = "ABA" if r.shares_trunk else "AA"  # the last is independent
        work, steps = np.sum([training(r, OFFICIAL[r.data], who) for who in networks], axis=0)
        gpu = on_gpu(work, steps) / HOUR
        done = [known[p, name] for p in ("paper", "lite") if (p, name) in known]
        found[name] = (work / done[0][2] * done[0][1] / HOUR if done else None), gpu
    return found


def by_setting() -> MyST:
    """Networks and hours of every setting and scale on real data."""
    rows: dict[Key, np.ndarray] = defaultdict(lambda: np.zeros(3))
    networks = trained()
    for key, seconds in measured().items():
        if key[0] != "smoke":  # seconds
            head = "ResNet-20, by epoch of spawning" if key[1] in SPAWN_AT else ev.name_of(key[1])
            n, training_, *_ = networks.get(key, (0, 0.0))
            rows[head, ev.SCALES[key[0]]] += n, training_ / HOUR, seconds / HOUR
    lines = [
        (*head, f"{n:.0f}", number(training_), number(measuring))
        for head, (n, training_, measuring) in sorted(rows.items(), key=lambda row: -row[1][1])
    ]
    heads = ["setting", "scale", "networks", "training (h)", "measuring (h)"]
    caption = "What the records cost, in hours of one thread."
    return table(pd.DataFrame(lines, columns=heads), caption, "tbl-cost")


def at_full_scale() -> MyST:
    """What a pair of each setting of B.1 and its control take to train, here and on one GPU."""
    lines = [
        (ev.name_of(name), RECIPES[name].epochs, number(here) if here else "–", number(gpu))
        for name, (here, gpu) in full_scale().items()
    ]
    heads = ["setting", "epochs", "one thread here (h)", "one GPU, expected (h)"]
    caption = "Training one pair and its control by B.1 as printed, on the whole official set."
    return table(pd.DataFrame(lines, columns=heads), caption, "tbl-full-scale")


def bench() -> dict[str, Any]:
    """What `make bench` found. ValueError where it was too short or of uncommitted code."""
    found: dict[str, Any] = json.loads((RECORDS / "bench.json").read_text())
    if found["rounds"] < 3 or found["commit"].endswith("-dirty"):
        raise ValueError("fewer than three rounds, or uncommitted code: run `make bench` again")
    return found


def loops() -> list[list[float]]:
    """How many times as fast as a plain loop we train, network by network: a median, or every
    round's.
    """
    nets = bench()["convolutional"].values()
    rounds = [ratios for network in nets for ratios in network["ratio_to_plain"].values()]
    return [[ratio] for ratio in bench()["ratios"].values()] + rounds


def sweeps() -> list[list[list[float]]]:
    """Of every pair of networks, seconds a sweep of weight matching, by ours and by
    straightforward code.
    """
    return [
        [[r["seconds"] / r["sweeps"] for r in runs] for runs in found["runs"].values()]
        for found in bench()["matching"].values()
    ]
