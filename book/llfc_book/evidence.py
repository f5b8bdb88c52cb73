"""What the records hold of the book's settings: each at the largest scale that it was measured at.

Pages, figures, findings and claims read records through this module alone, and take the marks that
they judge by from here.
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
CLOSE = 0.1  # "close", "negligible": a tenth
CONNECTED = 0.02  # of errors, a fraction: Frankle et al. (2020) call a barrier up to 2 % connected
ALIKE = 1.25  # a ratio nearer to 1 than that is "as"


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
        column: str = "mean",
    ) -> pd.Series:
        """Means of ``quantity`` (or another ``column``), indexed by pair, site, alpha (-1 where
        there is none) and direction; of another ``reading`` of the features only where asked.
        """
        chosen = self.rows
        wanted = {"quantity": quantity, "kind": kind, "role": role, "statistics": statistics}
        for name, value in wanted.items():
            chosen = chosen[chosen[name].to_numpy() == value]
        site = chosen["site"].str
        chosen = chosen[site.endswith(reading) if reading else ~site.endswith(READINGS)]
        return chosen.set_index(KEYS)[column]

    def spread(self, quantity: str, alpha: float = -1.0) -> pd.Series:
        """The standard deviation over images, in the mean over pairs, by site."""
        found = self.of(quantity, column="std")
        return found[found.index.get_level_values("alpha") == alpha].groupby("site").mean()


def measured(
    quantity: str,
    where: Callable[[Setting], bool] = lambda s: True,
    record: str = "",
    **fields: str,
) -> list[Measured]:
    """Every setting of which ``quantity`` is on record on real data, at its largest scale: those
    that ``where`` holds for and whose ``fields`` (model, data, …) are as given. ``record`` names
    the experiment, where several have the quantity in different senses.

    In the order of ``book/data/settings.toml``.
    """
    chosen = [
        name
        for name, s in RECIPES.items()
        if where(s) and all(getattr(s, field) == value for field, value in fields.items())
    ]
    found = (best(quantity, name, record) for name in chosen)
    return [one for one in found if one is not None and one.scale != "proxy"]


def best(quantity: str, name: str, record: str = "") -> Measured | None:
    """The setting ``name`` at its largest scale, embedded data where there are no others; None
    where no record has the quantity of it.
    """
    found = (at(quantity, name, profile, record) for profile in reversed(PROFILES))
    return next((one for one in found if one is not None), None)


def every_scale(quantity: str, name: str, record: str = "") -> list[Measured]:
    """The setting at every scale but embedded data, the largest first: one full-scale pair must not
    hide three reduced ones.
    """
    found = (at(quantity, name, profile, record) for profile in ("paper", "lite"))
    return [one for one in found if one is not None]


@cache
def at(quantity: str, name: str, profile: str, record: str = "") -> Measured | None:
    """The setting at one scale: of every pair that has the quantity, all rows of the first record
    that has it. None where none has, RecordError where one is of another recipe.
    """
    if name not in SCALE[profile]:
        return None
    setting, base = recipe(name, profile), quantity.partition("/")[0]
    tables, seen = [], set[str]()
    for e in EXPERIMENTS.values():
        asked = record in ("", e.name) and name in e.recipes and base in e.quantities
        if asked and records.path_of(e.name, profile).exists():
            table = records.load(e.name, profile, {name: setting.hash}).table
            its = table["pair"].str.startswith(f"{name}/") & table["quantity"].eq(quantity)
            new = set(table.loc[its, "pair"]) - seen
            tables.append(table[table["pair"].isin(new)])
            seen |= new
    if not seen:
        return None
    rows = pd.concat(tables, ignore_index=True)
    return Measured(setting, rows.assign(alpha=rows["alpha"].fillna(-1.0)))


def name_of(recipe_name: str) -> str:
    """A setting in a few words: the network, its data where they tell it from another, how its
    pairs come together, and what is changed in a variant.
    """
    s = RECIPES[recipe_name]
    network = NETWORKS[s.model] + (f" {DATA[s.data]}" if s.model == "mlp" else "")
    if s.model == "resnet20_ln":
        width = dict(s.model_args)["width"] / 16
        network += f" {({0.25: '¼', 0.5: '½'}).get(width, f'{width:g}')}×"
    if s.family == "swept":
        return f"{network}, by width"
    alone = s.family == "independent"  # networks that are matched as other settings
    made = "independent" if alone else METHODS.get(s.matching, s.matching)
    if "spawn_epoch" in s.choices:
        return f"{network}, {made}, after epoch {s.spawn_epoch}"
    if "our variant" in s.choices.get("lr", ""):
        return f"{network}, {made}, rate {s.lr:g}"
    changed = "our variant" in s.choices.get("warmup", "")
    return f"{network}, {made}" + ", the code's warm-up and decay" * changed


def stands_in(setting: Setting) -> bool:
    """Whether it is the appendix's 32 times as wide ResNet-20 with layer norm, but narrower."""
    changed = {field for field, why in setting.choices.items() if "our variant" in why}
    return setting.model == "resnet20_ln" and changed == {"model_args"}


def variant(setting: Setting) -> bool:
    """Whether the appendix does not have this setting: it differs in one thing from one that it
    has.
    """
    return setting.is_variant and not stands_in(setting)


def spawned(setting: Setting) -> bool:
    """Whether the setting's pairs are children of one start, as the appendix has them."""
    return setting.family == "spawned" and not variant(setting)


def matched(setting: Setting) -> bool:
    """Whether its pairs are independent networks that a permutation brings together, in a setting
    of the appendix.
    """
    convolutional = setting.group.endswith("convolutional")
    return setting.family == "matched" and not variant(setting) and not convolutional


def printed(setting: Setting) -> bool:
    """Whether it is a setting of the appendix."""
    return spawned(setting) or matched(setting)


def depth(site: str) -> tuple[int, list[int], int]:
    """Sorts sites and maps as they lie in the network."""
    kind, _, place = site.partition(" ")
    first = {"Conv": 1, "Block": 1, "FC": 2, "logits": 3}.get(kind, 1)
    if kind == "Conv" and place.isdigit():
        first = 0  # ResNet's first layer stands before its blocks
    numbers = [int(n) for n in place.partition(" ")[0].split("-") if n.isdigit()]
    parts = ("inner", "conv 1", "conv 2", "conv 3", "shortcut")
    return first, numbers, next((k for k, part in enumerate(parts) if part in site), len(parts))


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


def ends(errors: pd.Series) -> pd.Series:
    """Of errors along the line, the mean of its two networks, by pair."""
    alpha = errors.index.get_level_values("alpha")
    return by_pair(errors[(alpha == 0) | (alpha == 1)])


def typical(values: pd.Series) -> pd.Series:
    """One number a pair: the geometric mean over its sites and ends."""
    return np.exp(by_pair(np.log(values)))


def hidden(values: pd.Series) -> pd.Series:
    """Without the logits."""
    return values[values.index.get_level_values("site") != "logits"]


def logits(values: pd.Series) -> pd.Series:
    """At the logits alone."""
    return values[values.index.get_level_values("site") == "logits"]


def together(found: Iterable[pd.Series | np.ndarray]) -> np.ndarray:
    """All numbers of several settings."""
    return np.concatenate([np.asarray(values) for values in found])
