"""The settings of B.1 as tables, generated from the recipes.

Source: this book.
"""

import pandas as pd

from llfc_lib.experiments.pairs import plan_of
from llfc_lib.report.tables import MyST, table
from llfc_lib.training.recipes import PAIRS, PROFILES, RECIPES, SCALE, SPAWN_AT, Recipe, reductions

ROWS = {
    "network": ("model", "model_args"), "data set": ("data",), "initialisation": ("init",), "input": ("normalise",),
    "augmentation": ("augment",), "optimiser": ("optimiser", "momentum"), "learning rate": ("lr",),
    "schedule": ("schedule", "drops", "warmup"), "weight decay": ("weight_decay",), "batch": ("batch",),
    "epochs": ("epochs",), "spawned after epoch": ("spawn_epoch",),
}
LABELS = {"model_args": "network", "init": "initialisation", "normalise": "input", "augment": "augmentation", "lr": "learning rate", "data": "data set"}


def _value(r: Recipe, names: tuple[str, ...]) -> str:
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
    """The settings of ``section`` ("B.1.1" or "B.1.2"), a column a setting; † marks what the appendix leaves out."""
    chosen = [r for r in RECIPES.values() if r.section == section and r.name not in SPAWN_AT]
    frame = pd.DataFrame({"setting": list(ROWS), **{r.title: [_value(r, names) for names in ROWS.values()] for r in chosen}})
    return table(frame, f"Settings of {section}. † our choice: the appendix does not say.",
                 f"tbl-settings-{section.replace('.', '').lower()}")


def choices() -> MyST:
    """Every value that the appendix leaves out, and where ours comes from."""
    settings: dict[tuple[str, str], list[str]] = {}
    for r in (r for r in RECIPES.values() if r.name not in SPAWN_AT):
        for name, why in r.choices.items():
            why = why.removeprefix("our choice: ").removeprefix("our variant: ")
            settings.setdefault((LABELS.get(name, name.replace("_", " ")), why), []).append(r.title)
    rows = [(name, "; ".join(titles), why) for (name, why), titles in settings.items()]
    return table(pd.DataFrame(rows, columns=["value", "settings", "where ours comes from"]),
                 "Choices that the appendix leaves to the reader.", "tbl-choices")


def reductions_table() -> MyST:
    """What each profile changes in each recipe, and how many pairs it has."""
    rows = []
    for profile in PROFILES:
        rows += [(profile, RECIPES[name].title, PAIRS[profile].get(name, 0), reductions(name, profile) or "nothing")
                 for name in SCALE[profile] if name not in SPAWN_AT]
        spawned = [name for name in SCALE[profile] if name in SPAWN_AT]
        if spawned:
            epochs = ", ".join(str(SPAWN_AT[name]) for name in spawned)
            rows.append((profile, f"ResNet-20, CIFAR-10, spawning after epochs {epochs}", f"{PAIRS[profile][spawned[0]]} each",
                         reductions(spawned[0], profile)))
    return table(pd.DataFrame(rows, columns=["profile", "setting", "pairs", "what it changes"]),
                 "What the profiles scale down.", "tbl-profiles")


def measuring_table() -> MyST:
    """How many images and draws the nulls of each setting rest on."""
    rows = []
    for profile in PROFILES:
        for name in (n for n in PAIRS[profile] if n not in SPAWN_AT):
            plan = plan_of(name, profile)
            first = [f"first {count:,}" if count else "all" for count in (plan.pair_first, plan.first)]
            rows.append((profile, RECIPES[name].title, first[0], plan.draws, first[1],
                         f"{plan.calibration:,}" if plan.calibration else "has none"))
    columns = ["profile", "setting", "test images for the pair and its controls", "displaced partners of each kind",
               "test images for these", "training images that running statistics are recomputed on"]
    return table(pd.DataFrame(rows, columns=columns), "How pairs are measured.", "tbl-measuring")
