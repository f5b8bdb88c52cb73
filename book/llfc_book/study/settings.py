"""The book's settings: every one of B.1 (``book/data/settings.toml``), and what is measured on its
pairs (``book/data/study.toml``). Nothing else in the book knows a hyper-parameter.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar

import torch

from llfc_book.places import DATA
from llfc_lib.metrics.barrier import GRID
from llfc_lib.training.recipe import Recipe

_RECIPES, _STUDY = (
    tomllib.loads((DATA / name).read_text()) for name in ("settings.toml", "study.toml")
)


@dataclass(frozen=True)
class Profile:
    """How far a setting is scaled down: ``embedded`` data that come with the project, or real ones;
    pairs are measured in ``dtype``. ``tolerance`` is how far a number measured now may lie from the
    record of the same profile: absolute, or relative to the record where that is above 1. In
    float64 only rounding differs between processors; in float32 an image may change sides.
    ``trained`` is the test error that a network trained now must reach, a fraction.
    """

    name: str
    dtype: torch.dtype
    tolerance: float
    trained: float
    embedded: bool = False


PROFILE = {
    name: Profile(name, **{**told, "dtype": getattr(torch, told["dtype"])})
    for name, told in _STUDY["profile"].items()
}
PROFILES = tuple(PROFILE)


@dataclass(frozen=True)
class Plan:
    """How the pairs of a recipe are measured.

    ``parts`` are what is measured, by name; "pair" on the ``pair_first`` test images (None: all),
    ``draws`` displaced partners on the ``first``. ``calibration`` is the number of training images
    on which running statistics are recomputed (0: there are none). ``control``: beside an
    independent network. ``train_first`` is how many training images matched networks are compared
    on (None: all), ``connected_grid`` the alphas at which a barrier with its interval is looked
    for, told as a setting of that part.

    What follows is no part of a unit's key, as it is fixed for a recipe or changes no number:
    ``batch`` images at a time (all features of five networks are in memory at once: 3 GB for 250
    images of ResNet-20); ``metrics`` of the pair by their name in
    :mod:`llfc_book.study.measures.pair`, on a ``coarse`` grid or the full one; ``thorough``: a pass
    over all test images takes seconds, so that parts look at every alpha; ``tiny_draws`` of
    networks of which all permutations are looked at; ``after`` which epochs networks are matched
    that nobody keeps.
    """

    parts: tuple[str, ...] = ()
    pair_first: int | None = None
    draws: int = 10
    first: int | None = None
    calibration: int = 0
    control: bool = True
    train_first: int | None = None
    connected_grid: tuple[float, ...] = GRID
    batch: int = 1000
    metrics: str = "standard"
    coarse: bool = False
    thorough: bool = True
    tiny_draws: int = 0
    after: tuple[int, ...] = ()

    def identity(self) -> dict[str, Any]:
        """What all numbers of a pair depend on, for a record and the key of a unit. ``train_first``
        came later and is told only where it is set, so that older units keep their keys.
        """
        names = ("pair_first", "draws", "first", "calibration", "control")
        later = {} if self.train_first is None else {"train_first": self.train_first}
        return {**{name: getattr(self, name) for name in names}, **later}


Member = tuple[int, str]  # seed and branch of a network
MATCHED_PAIRS = 3  # of each setting that is matched, where there is room


@dataclass(frozen=True)
class Family:
    """What a pair is. ``members`` are the networks of pair k by what they are in it;
    ``needs_order``: B's units are put in an order that the setting's method finds first;
    ``shares_trunk``: A and B are one network up to the epoch of spawning.
    """

    members: Callable[[int], dict[str, Member]] = lambda k: {}
    needs_order: bool = False
    shares_trunk: bool = False


FAMILIES = {
    # two children of one start; A of the next pair is independent of both
    "spawned": Family(
        lambda k: {"A": (k, "A"), "B": (k, "B"), "independent": (k + 1, "A")}, shares_trunk=True
    ),
    # two independent networks; the next pair's A beside A, the first's beside the last's
    "matched": Family(
        lambda k: {
            "A": (2 * k, "A"),
            "B": (2 * k + 1, "A"),
            "independent": (2 * ((k + 1) % MATCHED_PAIRS), "A"),
        },
        needs_order=True,
    ),
    "swept": Family(),  # networks that are trained where they are measured, epoch after epoch
    "independent": Family(),  # networks trained alone, for a matched setting to make pairs of
}


@dataclass(frozen=True)
class Setting(Recipe):
    """A recipe with its place in the paper (``section``, ``title``), its ``family`` (by name), and
    how its pairs are measured (``plan``), as one ``profile`` scales it.

    ``matching`` is the method that brings the two networks of a pair together
    (:data:`llfc_lib.matching.METHODS`) with its settings in ``matching_args``; its networks are
    trained as the recipe ``base``. ``group`` names settings that differ in one thing. ``shipped``
    says which networks go into the tracked tree: "small" (small ones of every pair, larger ones of
    the first), "every" (those of every pair) or "none". ``choices`` maps a field that the appendix
    leaves out to the reason for our value.

    Source: B.1.
    """

    section: str = ""
    title: str = ""
    family: str = "independent"
    group: str = ""
    matching: str = ""
    matching_args: tuple[tuple[str, Any], ...] = ()
    base: str = ""
    shipped: str = "small"
    profile: str = "paper"
    plan: Plan = field(default_factory=Plan)
    choices: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)

    UNHASHED: ClassVar[frozenset[str]] = Recipe.UNHASHED | {
        *("section", "title", "family", "group", "base", "shipped", "profile", "plan", "choices")
    }

    @property
    def trained_as(self) -> str:
        """The recipe whose networks these are: matching them trains none."""
        return self.base or self.name

    @property
    def is_variant(self) -> bool:
        """Not a setting of the paper but a change of one."""
        return any("our variant" in why for why in self.choices.values())

    @property
    def scale(self) -> Profile:
        """What its profile says of all settings."""
        return PROFILE[self.profile]

    @property
    def _family(self) -> Family:
        if self.family not in FAMILIES:
            raise ValueError(f"unknown family {self.family!r}; choose one of {list(FAMILIES)}")
        return FAMILIES[self.family]

    @property
    def needs_order(self) -> bool:
        """Whether B's units are put in an order that ``matching`` finds first."""
        return self._family.needs_order

    @property
    def shares_trunk(self) -> bool:
        """Whether A and B are one network up to the epoch of spawning."""
        return self._family.shares_trunk

    @property
    def method(self) -> str:
        """How the two networks of a pair come together, in the word of records."""
        return "spawning" if self.shares_trunk else self.matching or "none"

    def members(self, pair: int) -> dict[str, Member]:
        """The (seed, branch) of the networks that its pair number ``pair`` needs: without a control
        no "independent" one. ValueError for an unknown family.
        """
        every = self._family.members(pair)
        return {who: one for who, one in every.items() if self.plan.control or who in "AB"}


def _fields(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML's types as those of a setting: hashable, arguments as pairs in the order given."""
    return {
        key: tuple(value.items())
        if key in ("model_args", "matching_args")
        else tuple(value)
        if isinstance(value, list)
        else value
        for key, value in table.items()
        if key not in ("like", "recipes")
    }


@cache
def _recipe(name: str) -> dict[str, Any]:
    """All fields of a recipe, those that it takes over among them."""
    table = _RECIPES["recipe"][name]
    before = _recipe(table["like"]) if "like" in table else {}
    own = {key: _RECIPES["sources"].get(why, why) for key, why in table.get("choices", {}).items()}
    base = {"base": table["like"]} if "matching" in table else {}
    choices = {**before.get("choices", {}), **own}
    return {**before, **base, **_fields(table), "name": name, "choices": choices}


@cache
def _plan(name: str, profile: str) -> Plan:
    """A plan of study.toml: its own words over those of the plan that it is like, the profile's
    over both."""
    general: dict[str, Any] = {}
    scaled: dict[str, Any] = {}
    while name:
        if name not in _STUDY["plan"]:
            raise ValueError(f"unknown plan {name!r}; choose one of {list(_STUDY['plan'])}")
        table = _STUDY["plan"][name]
        plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
        general, scaled = (
            {**_fields(plain), **general},
            {**_fields(table.get(profile, {})), **scaled},
        )
        name = table.get("like", "")
    return Plan(**{**general, **scaled})


def _scale(profile: str) -> dict[str, dict[str, Any]]:
    """By recipe, what the profile changes; a matched one is scaled as it is trained."""
    own: dict[str, dict[str, Any]] = {}
    for entry in (entry for entry in _RECIPES["scale"] if entry["profile"] == profile):
        change = {key: value for key, value in _fields(entry).items() if key != "profile"}
        own |= {name: {**own.get(name, {}), **change} for name in entry["recipes"]}
    for name, table in _RECIPES["recipe"].items():
        if "matching" in table and table["like"] in own:
            own[name] = {**own[table["like"]], **own.get(name, {})}
    return own


#: By profile and recipe, the fields that the profile changes. A recipe without an entry has no such
#: profile.
SCALE = {profile: _scale(profile) for profile in PROFILES}
#: Every recipe as the paper has it.
RECIPES = {
    name: Setting(**{**_recipe(name), "plan": _plan(_recipe(name).get("plan", ""), "paper")})
    for name in _RECIPES["recipe"]
}
#: Independently initialised pairs of each recipe. Recipes without an entry have no results yet.
PAIRS: dict[str, dict[str, int]] = _STUDY["pairs"]
#: What the queue does first: a profile, recipes, and which parts of their pairs (None: all that no
#: line before names). Within a line all first pairs, then all second ones, and so on.
QUEUE: tuple[tuple[str, tuple[str, ...], tuple[str, ...] | None], ...] = tuple(
    (
        line["profile"],
        tuple(line.get("recipes", PAIRS[line["profile"]])),
        tuple(line["parts"]) if "parts" in line else None,
    )
    for line in _STUDY["queue"]
)


def group(*names: str) -> dict[str, Setting]:
    """Settings that differ in one thing, by name: those of the groups named."""
    return {name: setting for name, setting in RECIPES.items() if setting.group in names}


#: When must one spawn? Settings that fork after other epochs; 5 is the paper's. To that epoch.
SPAWN_AT = {name: setting.spawn_epoch for name, setting in group("spawn epoch").items()}
#: When do permutations fail (B.5)? The MNIST MLP of other widths. To that width.
WIDTHS = {name: dict(setting.model_args)["hidden"] for name, setting in group("width").items()}


def check_profile(profile: str) -> str:
    """``profile`` itself. ValueError for a name that is none of :data:`PROFILES`."""
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; choose one of {list(PROFILES)}")
    return profile


def recipe(name: str, profile: str = "paper") -> Setting:
    """The recipe ``name`` as ``profile`` scales it. ValueError for an unknown one or one without
    that profile.

    Source: B.1, scaled down by this book.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; choose one of {list(RECIPES)}")
    if name not in SCALE[check_profile(profile)]:
        raise ValueError(
            f"recipe {name!r} has no profile {profile!r} yet; there are {sorted(SCALE[profile])}"
        )
    planned = _recipe(name).get("plan", "")
    return replace(
        RECIPES[name], **SCALE[profile][name], profile=profile, plan=_plan(planned, profile)
    )


def reductions(name: str, profile: str) -> str:
    """In words, what ``profile`` changes in the recipe: to be printed beside its figures. Empty for
    nothing.
    """
    full, scale = RECIPES[name], SCALE[check_profile(profile)][name]
    changes = [
        f"{LABELS.get(key, key.replace('_', ' '))} {_plain(key, getattr(full, key))} ->"
        f" {_plain(key, value)}"
        for key, value in scale.items()
        if key not in (*Recipe.UNHASHED, "shipped") and getattr(full, key) != value
    ]
    if full.kept and full.warmup and "epochs" in scale and "warmup" not in scale:
        changes.append(f"warm-up as long as it is ({full.warmup} of {scale['epochs']} epochs)")
    return "; ".join(changes)


#: Fields in words, where their names say less.
LABELS = {"model_args": "network", "spawn_epoch": "spawned after epoch", "lr": "learning rate"}


def _plain(key: str, value: Any) -> str:
    if value == ():
        return "as printed" if key == "model_args" else "none"
    if isinstance(value, tuple):
        return ", ".join(f"{v[0]} {v[1]}" if isinstance(v, tuple) else str(v) for v in value)
    return str(value)
