"""The settings of B.1 as tables, generated from the recipes."""

from collections.abc import Iterable

import pandas as pd

from llfc_book.show.tables import MyST, table
from llfc_book.study.catalogue import EXPERIMENTS
from llfc_book.study.settings import (
    PAIRS,
    PROFILES,
    RECIPES,
    SPAWN_AT,
    WIDTHS,
    Setting,
    group,
    recipe,
    reductions,
)

ROWS = {
    "network": ("model", "model_args"),
    "data set": ("data",),
    "initialisation": ("init",),
    "input": ("normalise",),
    "augmentation": ("augment",),
    "optimiser": ("optimiser", "momentum"),
    "learning rate": ("lr",),
    "schedule": ("schedule", "drops", "warmup"),
    "weight decay": ("weight_decay",),
    "batch": ("batch",),
    "epochs": ("epochs",),
    "spawned after epoch": ("spawn_epoch",),
}
#: Recipes that the second edition brings; its pages show them.
LATER = tuple(group("layer norm", "layer norm, as the code trains it", "matched layer norm"))
LABELS = {
    "model_args": "network",
    "init": "initialisation",
    "normalise": "input",
    "augment": "augmentation",
    "lr": "learning rate",
    "data": "data set",
    "matching_args": "matching",
    "warmup": "warm-up",
    "spawn_epoch": "spawned after epoch",
}


def _value(r: Setting, names: tuple[str, ...]) -> str:
    parts = []
    for name in names:
        value = getattr(r, name)
        if name == "model_args":
            parts += [f"{key} {v}" for key, v in value]
        elif name == "drops" and value:
            parts.append("x 0.1 at epochs " + ", ".join(map(str, value)))
        elif name == "warmup" and value:
            parts.append(f"warm-up of {value} epoch" + "s" * (value > 1))
        elif name == "momentum" and value:
            parts.append(f"momentum {value:g}")
        elif name == "augment":
            parts.append(", ".join(value) or "none")
        elif name == "spawn_epoch":
            parts.append("not spawned" if value is None else str(value))
        elif name not in ("drops", "warmup", "momentum"):
            parts.append(f"{value:g}" if isinstance(value, float) else str(value))
    dagger = " †" if any(name in r.choices for name in names) else ""
    return ", ".join(parts) + dagger


def table_of(section: str) -> MyST:
    """The settings of ``section`` ("B.1.1" or "B.1.2"), a column a setting; † marks what the
    appendix leaves out. What is derived from them (other epochs of spawning, other widths, a method
    of matching) has no column of its own."""
    chosen = [
        r
        for r in RECIPES.values()
        if r.section == section and r.name not in (*SPAWN_AT, *WIDTHS, *LATER) and not r.base
    ]
    frame = pd.DataFrame(
        {
            "setting": list(ROWS),
            **{
                r.title.removesuffix(", spawning").removesuffix(", permutation"): [
                    _value(r, names) for names in ROWS.values()
                ]
                for r in chosen
            },
        }
    )
    how = {
        "B.1.1": "networks that are spawned",
        "B.1.2": "networks that are trained independently, then permuted",
    }[section]
    return table(
        frame,
        f"The settings of {section}: {how}. † our choice, the appendix does not say.",
        f"tbl-settings-{section.replace('.', '').lower()}",
    )


def choices() -> MyST:
    """Every value that the appendix leaves out, and where ours comes from."""
    settings: dict[tuple[str, str], list[str]] = {}
    for r in (r for name, r in RECIPES.items() if name not in LATER):
        derived_from = RECIPES[_ORIGIN[r.name]].choices if r.name in _ORIGIN else {}
        for name, why in r.choices.items():
            if derived_from.get(name) != why:  # said once, of the setting that it is derived from
                why = why.removeprefix("our choice: ").removeprefix("our variant: ")
                titles = settings.setdefault((LABELS.get(name, name.replace("_", " ")), why), [])
                titles += [title for title in [_who(r.name, RECIPES)] if title not in titles]
    together: dict[tuple[str, str], list[str]] = {}
    for (name, why), titles in settings.items():
        together.setdefault(("; ".join(titles), why), []).append(name)
    rows = [(", ".join(names), titles, why) for (titles, why), names in together.items()]
    return table(
        pd.DataFrame(rows, columns=["values", "settings", "where ours comes from"]),
        "What the appendix leaves to the reader, and where our choice comes from. What is derived"
        " from a setting shares its choices.",
        "tbl-choices",
    )


_ORIGIN = {
    **{name: r.base for name, r in RECIPES.items() if r.base},
    **{name: "mlp_mnist_perm" for name in WIDTHS},
    **{name: "resnet20_cifar10_spawn" for name in SPAWN_AT},
}


def _who(name: str, among: Iterable[str]) -> str:
    """The title of a recipe, or of the group that it belongs to ``among`` others."""
    if name in SPAWN_AT:
        return "ResNet-20, CIFAR-10, spawned after other epochs"
    if name in WIDTHS:
        widths = [WIDTHS[other] for other in among if other in WIDTHS]
        return f"MLPs of widths {min(widths)} to {max(widths)}, MNIST"
    return RECIPES[name].title


def _grouped(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows of (profile, title, ...) that differ in nothing but the title, as one row."""
    found: dict[tuple[str, ...], list[str]] = {}
    for profile, title, *rest in rows:
        titles = found.setdefault((profile, *rest), [])
        titles += [title] * (title not in titles)
    return [(profile, "; ".join(titles), *rest) for (profile, *rest), titles in found.items()]


def planned(profile: str) -> dict[str, int]:
    """Pairs of every recipe that the pages show; the second edition shows its own."""
    shown = {name for e in EXPERIMENTS.values() if e.edition == 1 for name in e.recipes}
    return {name: count for name, count in PAIRS[profile].items() if name in shown}


def reductions_table() -> MyST:
    """What each profile changes in each recipe, and how many pairs it has."""
    rows = [
        (
            profile,
            _who(name, planned(profile)),
            PAIRS[profile][name],
            (reductions(name, profile) or "nothing").replace(" -> ", " → "),
        )
        for profile in PROFILES
        for name in planned(profile)
    ]
    return table(
        pd.DataFrame(
            _grouped(rows),
            columns=["profile", "setting", "pairs of each, planned", "what it changes"],
        ),
        "What each profile scales down, and how many pairs of each setting it is to have.",
        "tbl-profiles",
    )


def measuring_table() -> MyST:
    """How many images and draws the nulls of each setting rest on."""
    rows = []
    for profile in PROFILES:
        for name in (n for n in planned(profile) if n not in SPAWN_AT):
            plan = recipe(name, profile).plan
            first = [
                f"first {count:,}" if count else "all" for count in (plan.pair_first, plan.first)
            ]
            rows.append(
                (
                    profile,
                    _who(name, planned(profile)),
                    first[0],
                    plan.draws,
                    first[1],
                    f"{plan.calibration:,}" if plan.calibration else "has none",
                )
            )
    columns = [
        "profile",
        "setting",
        "test images for the pair and its controls",
        "displaced partners of each kind",
        "test images for these",
        "training images that running statistics are recomputed on",
    ]
    return table(
        pd.DataFrame(_grouped(rows), columns=columns),
        "How pairs are measured: on how many images, with how many displaced partners.",
        "tbl-measuring",
    )
