"""What the records hold of the book's settings: each at the largest scale that it was measured at.

Pages, figures, findings and claims read records through this module alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from llfc_book import records
from llfc_book.study.catalogue import EXPERIMENTS
from llfc_book.study.settings import PROFILES, RECIPES, SCALE, Setting, recipe

#: How far a profile is from B.1, in the word of pages: B.1 itself, real data with reductions, or
#: embedded data in their place.
SCALES = {"paper": "full", "lite": "reduced", "smoke": "proxy"}
NETWORKS = {
    "mlp": "MLP",
    "vgg16": "VGG-16",
    "resnet20": "ResNet-20",
    "resnet20_ln": "ResNet-20 LN",
    "resnet50": "ResNet-50",
}
DATA = {"mnist": "MNIST", "cifar10": "CIFAR-10", "tiny_imagenet_50": "Tiny-ImageNet"}
METHODS = {"activation": "activation", "weight": "weight", "ste": "STE", "": "spawned"}
KEYS = ["pair", "site", "alpha", "direction"]
READINGS = ("(pre)", "(raw)")  # of a site: before the activation, before normalisation


@dataclass(frozen=True)
class Measured:
    """One setting at one scale: its ``rows`` of every record that holds the quantity asked for.

    ``name`` is a head for panels and tables ("VGG-16, spawned"); ``scale`` a word of
    :data:`SCALES`, ``pairs`` how many there are.
    """

    setting: Setting
    rows: pd.DataFrame

    @property
    def name(self) -> str:
        """The network, its data where they tell it from another, and how its pairs are made."""
        return name_of(self.setting.name)

    @property
    def scale(self) -> str:
        """ "full", "reduced" or "proxy"."""
        return SCALES[self.setting.profile]

    @property
    def pairs(self) -> int:
        """How many independent pairs."""
        return int(self.rows["pair"].nunique())

    @property
    def tag(self) -> str:
        """The name with scale and pairs, as a panel is headed."""
        return f"{self.name} ({self.scale}, {self.pairs} pair{'s' * (self.pairs != 1)})"

    def of(
        self,
        quantity: str,
        role: str = "value",
        kind: str = "",
        statistics: str = "interpolated",
        reading: str = "",
    ) -> pd.Series:
        """Means of ``quantity``, indexed by pair, site, alpha (-1 where there is none) and
        direction; of another ``reading`` of the features only where asked.
        """
        chosen = self.rows
        for column, value in (
            ("quantity", quantity),
            ("kind", kind),
            ("role", role),
            ("statistics", statistics),
        ):
            chosen = chosen[chosen[column].to_numpy() == value]
        site = chosen["site"].str
        chosen = chosen[site.endswith(reading) if reading else ~site.endswith(READINGS)]
        return chosen.set_index(KEYS)["mean"]

    def spread(self, quantity: str, alpha: float | None = None) -> pd.Series:
        """The standard deviation over images, in the mean over pairs, by site."""
        chosen = self.rows[
            (self.rows["quantity"] == quantity)
            & (self.rows["role"] == "value")
            & (self.rows["statistics"] == "interpolated")
            & (self.rows["alpha"] == (-1.0 if alpha is None else alpha))
        ]
        return chosen.groupby("site")["std"].mean()


def measured(
    quantity: str, where: Callable[[Setting], bool] = lambda s: True, record: str = ""
) -> list[Measured]:
    """Every setting of which ``quantity`` is on record, and ``where`` holds, at its largest scale;
    embedded data stand in for real ones only where there are no others. ``record`` names the
    experiment, where several have the quantity in different senses.

    In the order of ``book/data/settings.toml``.
    """
    found = (best(quantity, name, record) for name, setting in RECIPES.items() if where(setting))
    return [one for one in found if one is not None]


def best(quantity: str, name: str, record: str = "") -> Measured | None:
    """The setting ``name`` at its largest scale; None where no record has the quantity of it."""
    for profile in reversed(PROFILES):
        found = at(quantity, name, profile, record)
        if found is not None:
            return found
    return None


def every_scale(quantity: str, name: str, record: str = "") -> list[Measured]:
    """The setting at every scale but embedded data, the largest first: one full-scale pair must not
    hide three reduced ones.
    """
    found = (at(quantity, name, profile, record) for profile in ("paper", "lite"))
    return [one for one in found if one is not None]


def at(quantity: str, name: str, profile: str, record: str = "") -> Measured | None:
    """The setting at one scale. None where no record has the quantity of it."""
    rows = _rows(quantity, name, profile, record)
    return None if rows is None else Measured(recipe(name, profile), rows)


@cache
def _rows(quantity: str, name: str, profile: str, only: str) -> pd.DataFrame | None:
    tables: list[pd.DataFrame] = []
    seen: set[str] = set()
    if name not in SCALE[profile]:
        return None
    hashes = {name: recipe(name, profile).hash}  # of another recipe: refused
    for experiment in (e for e in EXPERIMENTS.values() if only in ("", e.name)):
        if (
            name not in experiment.recipes
            or quantity.partition("/")[0] not in experiment.quantities
        ):
            continue
        if not records.path_of(experiment.name, profile).exists():
            continue
        record = records.load(experiment.name, profile, hashes)
        table = record.table
        mine = [p for p, told in record.pairs.items() if told["recipe"] == name and p not in seen]
        chosen = table[table["pair"].isin(mine) & table["quantity"].eq(quantity)]
        if len(chosen):
            seen |= set(chosen["pair"])
            tables.append(table[table["pair"].isin(set(chosen["pair"]))])
    if not tables:
        return None
    return pd.concat(tables, ignore_index=True).assign(alpha=lambda t: t["alpha"].fillna(-1.0))


def name_of(recipe_name: str) -> str:
    """A setting in a few words: the network, its data where they tell it from another, how its
    pairs come together, and what is changed in a variant.
    """
    setting = RECIPES[recipe_name]
    network = NETWORKS[setting.model]
    if setting.model == "mlp":
        network += f" {DATA[setting.data]}"
    if setting.model == "resnet20_ln":
        width = dict(setting.model_args)["width"] / 16
        network += f" {({0.25: '¼', 0.5: '½'}).get(width, f'{width:g}')}×"
    if setting.family == "swept":
        return f"{network}, by width"
    alone = setting.family == "independent"  # networks that are matched as other settings
    words = [network, "independent" if alone else METHODS.get(setting.matching, setting.matching)]
    if "spawn_epoch" in setting.choices:
        words.append(f"after epoch {setting.spawn_epoch}")
    elif "our variant" in setting.choices.get("lr", ""):
        words.append(f"rate {setting.lr:g}")
    elif "our variant" in setting.choices.get("warmup", ""):
        words.append("the code's warm-up and decay")
    return ", ".join(words)


def variant(setting: Setting) -> bool:
    """Whether the appendix does not have this setting: it differs in one thing from one that it
    has.
    """
    changed = {field for field, why in setting.choices.items() if "our variant" in why}
    return bool(changed) and not stands_in(setting)


def stands_in(setting: Setting) -> bool:
    """Whether it is the appendix's 32 times as wide ResNet-20 with layer norm, but narrower."""
    changed = {field for field, why in setting.choices.items() if "our variant" in why}
    return setting.model == "resnet20_ln" and changed == {"model_args"}


def spawned(setting: Setting) -> bool:
    """Whether the setting's pairs are children of one start, as the appendix has them."""
    return setting.family == "spawned" and not variant(setting)


def matched(setting: Setting) -> bool:
    """Whether its pairs are independent networks that a permutation brings together, in a setting
    of the appendix.
    """
    return (
        setting.family == "matched"
        and not variant(setting)
        and not setting.group.endswith("convolutional")
    )


def depth(site: str) -> tuple[int, list[int], int]:
    """Sorts sites and maps as they lie in the network."""
    words = site.split(" ")
    kind, place = words[0], words[1] if len(words) > 1 else ""
    first = {"Conv": 1, "Block": 1, "FC": 2, "logits": 3}.get(kind, 1)
    if kind == "Conv" and place.isdigit():
        first = 0  # ResNet's first layer stands before its blocks
    numbers = [int(n) for n in place.split("-") if n.isdigit()]
    within = next(
        (
            k
            for k, word in enumerate(("inner", "conv 1", "conv 2", "conv 3", "shortcut"))
            if word in site
        ),
        5,
    )
    return first, numbers, within


def sites_of(values: pd.Series, inner: bool = False) -> list[str]:
    """The sites of a series in order of depth; without a block's inner activations unless
    ``inner``.
    """
    found = values.index.get_level_values("site").unique()
    return sorted((site for site in found if inner or "inner" not in site), key=depth)


def half_way(values: pd.Series) -> pd.Series:
    """Those at alpha = 1/2."""
    return values[values.index.get_level_values("alpha") == 0.5]


def by_site(values: pd.Series, sites: Sequence[str]) -> list[np.ndarray]:
    """The values of all pairs at each site, an array a site."""
    level = values.index.get_level_values("site")
    return [values[level == site].to_numpy() for site in sites]


def by_pair(values: pd.Series, how: str = "mean") -> pd.Series:
    """One number a pair."""
    return values.groupby(level="pair").agg(how)


def typical(values: pd.Series) -> pd.Series:
    """One number a pair: the geometric mean over its sites and ends."""
    return np.exp(by_pair(np.log(values)))


def hidden(values: pd.Series) -> pd.Series:
    """Without the logits."""
    return values[values.index.get_level_values("site") != "logits"]


def logits(values: pd.Series) -> pd.Series:
    """At the logits alone."""
    return values[values.index.get_level_values("site") == "logits"]


def together(found: Iterable[pd.Series]) -> np.ndarray:
    """All numbers of several settings."""
    return np.concatenate([values.to_numpy() for values in found])
