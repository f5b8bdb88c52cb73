"""What every chapter does: check its parameters, measure live, and hold the result against the
committed record.
"""

import hashlib
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from typing import Any

import pandas as pd
import torch
from torch import nn

from llfc_book import records
from llfc_book.show.text import MyST, folded, table
from llfc_book.study import matched, pairs
from llfc_book.study.catalogue import Experiment, experiment
from llfc_book.study.measures.pair import measure_pair, metrics_of
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import part
from llfc_book.study.runs import train
from llfc_book.study.settings import (
    PAIRS,
    PROFILE,
    PROFILES,
    RECIPES,
    Setting,
    check_profile,
    recipe,
)
from llfc_book.study.units import Unit, environment
from llfc_lib.metrics import (
    LLFC,
    Barrier,
    Commutativity,
    Row,
    SameWeights,
    Stitching,
    Transfer,
)
from llfc_lib.metrics.measure import Loader

PARAMETERS = {"profile", "retrain", "device"}
IPYTHON = {"In", "Out", "exit", "quit", "get_ipython", "open"}

#: Of the metrics planned for a pair, what a section is about: that alone is measured live.
METRICS = {
    "B.1": (Barrier,),
    "B.2": (LLFC,),
    "B.3": (Commutativity,),
    "B.4": (Stitching,),
    "B.5": (Commutativity, Transfer, SameWeights),
}
BATCH = 300  # test images at a time in smoke: two batches must give what one gave for the record


def begin(namespace: Mapping[str, Any]) -> "Chapter":
    """Check the notebook's parameters. papermill takes any name: a misspelt one would silently do
    nothing.

    ``namespace`` is ``globals()`` of the notebook after its parameters cell. ValueError for an
    unknown parameter or profile, or a device that torch does not have.
    """
    plain = (str, int, float, bool, list, dict, tuple, type(None))
    given = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, plain) and not name.startswith("_") and name not in IPYTHON
    }
    unknown = sorted(set(given) - PARAMETERS)
    if unknown:
        raise ValueError(f"unknown parameter {unknown[0]!r}; choose from {sorted(PARAMETERS)}")
    try:
        torch.empty(0, device=given["device"])
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {given['device']!r} is not available ({error}); use 'cpu'"
        ) from error
    return Chapter(check_profile(given["profile"]), bool(given["retrain"]), given["device"])


@dataclass(frozen=True)
class Chapter:
    """The parameters of a chapter, and what it does with them."""

    profile: str
    retrain: bool
    device: str

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict]]:
        """Shown in a hidden cell: its metadata tells the line under the title what the live part is
        on.
        """
        source = pairs.load(recipe("mlp_mnist_spawn", self.profile).data).source
        seeds = [*range(max(PAIRS[self.profile].values()))]  # pair k is trained from seed k
        run = {"data": source, "device": self.device, "seeds": seeds}
        return {"text/plain": f"profile {self.profile}, {source}"}, {"run": run}

    def live(self, name: str, of: Sequence[str] = ()) -> records.Record:
        """The rows of experiment ``name``, measured now on the recipes ``of``, else its first:
        every pair in smoke, the first elsewhere. What takes long is left out, as the record has it:
        the search for an order, what a section is not about, controls of convolutional nets on
        real data, and what a part leaves out itself.

        Networks that are neither shipped nor in the cache are replaced by those of a smaller
        profile, which the figure names; ``retrain`` trains them all the same.
        """
        chosen, tables = experiment(name), []
        recipes = of or chosen.recipes[:1]
        profile = min(map(self.at_hand, recipes), key=PROFILES.index)
        for setting in (recipe(one, profile) for one in recipes):
            smoke = setting.scale.embedded
            who = ("A", "B", "independent") if smoke or setting.plan.thorough else ("A", "B")
            for index in range(PAIRS[profile][setting.name] if smoke else 1):
                pair = self._pair(setting, index, who)
                tables.append(_table(pair, filter(chosen.keeps, _rows(chosen, pair))))
        return records.Record(name, profile, {}, pd.concat(tables, ignore_index=True))

    def _pair(self, setting: Setting, index: int, who: Sequence[str]) -> Pair:
        pair = pairs.load_pair(setting, index, self.device, self.retrain, who)
        return matched.bring_together(pair, matched.of_pair(pair)) if setting.needs_order else pair

    def pair(self, name: str, index: int = 0) -> tuple[nn.Module, nn.Module, Loader]:
        """Two networks of the setting ``name`` at this profile, B's units in the order that its
        method found, and the test images that a page measures them on: what the lines of code that
        a page shows begin with.

        Networks that are not here are trained first.
        """
        setting = recipe(name, self.profile)
        both = self._pair(setting, index, ("A", "B"))
        a, b = both.in_dtype("A", "B")
        return a, b, list(both.loader("test", setting.plan.pair_first))

    def checked(self, name: str, of: Sequence[str] = ()) -> MyST:
        """Experiment ``name`` measured now (:meth:`live`) and held against its record
        (:meth:`check`), folded.
        """
        return self.check(name, self.live(name, of))

    def orders(self, base: str) -> records.Record:
        """How every method matches the first pair of recipe ``base``, found anew: rows of
        experiment "lmc_perm". Of smoke in any profile, as the straight-through estimator takes long
        on larger networks.

        AssertionError if a method finds another order than the one that is shipped
        (:func:`llfc_book.study.matched.find`).
        """
        tables = []
        for name in (name for name, r in RECIPES.items() if r.base == base and r.matching):
            pair = pairs.load_pair(recipe(name, "smoke"), 0)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "units that respond to no image")
                tables.append(_table(pair, matched.find(pair, known=matched.of_pair(pair))[1]))
        return records.Record("lmc_perm", "smoke", {}, pd.concat(tables, ignore_index=True))

    def at_hand(self, recipe_name: str) -> str:
        """The highest profile up to this chapter's whose first pair's networks are there."""
        for profile in PROFILES[PROFILES.index(self.profile) : 0 : -1]:
            if recipe_name in PAIRS[profile]:
                networks = Unit(profile, recipe_name, 0, "pair").needs()
                if self.retrain or all(u.finished() for u in networks if u.trains):
                    return profile
        return "smoke"

    def check(self, name: str, live: records.Record, what: str = "") -> MyST:
        """Live against the committed record of this profile: the largest difference per quantity
        (:func:`llfc_book.records.compare`); ``what`` it is of tells the table from another one on
        the same record.

        AssertionError if one exceeds its tolerance (not with ``retrain``: other bits, other
        numbers).
        """
        profile, tolerance = live.profile, PROFILE[live.profile].tolerance
        try:
            record = records.load(name, profile)
        except records.RecordError:
            return MyST(f"There is no record of profile *{profile}* to hold this against.")
        compared = records.compare(live.table, record.table)
        within = compared["difference"] <= tolerance
        assert self.retrain or within.all(), (
            f"live numbers differ from the record:\n{compared[~within].to_string()}"
        )
        curve = compared["quantity"].str.partition("/")[0]  # a spectrum or quantiles: one line
        rows = [
            (
                f"`{quantity}`",
                of["compared"].sum(),
                _below(of["difference"].max()),
                f"{tolerance:g}",
                "yes" if within[of.index].all() else "no",
            )
            for quantity, of in compared.groupby(curve, sort=False)
        ]
        columns = ["quantity", "numbers compared", "largest difference", "tolerance", "all within"]
        told = ", ".join(filter(None, (experiment(name).title, what)))
        held = table(
            pd.DataFrame(rows, columns=columns),
            f"{told}: measured now, against the committed record of profile {profile}.",
            f"tbl-check-{f'{name} {what}'.strip().replace('_', '-').replace(' ', '-')}",
        )
        verdict = "all agree" if within.all() else "NOT ALL AGREE"
        count = f"{compared['compared'].sum():,}"
        return folded(f"Measured now: {count} numbers held against the record: {verdict}", held)

    def same_start(self, name: str) -> MyST:
        """Train the first pair of a setting now, in smoke or with ``retrain``, and say, folded,
        that its children began at the same bits and parted; elsewhere the shipped networks are
        read. ValueError where they did not, or did not learn.
        """
        r = recipe(name, self.profile)
        data = pairs.load(r.data, normalise=r.normalise)
        new = r.scale.embedded or self.retrain
        known = (self.profile, name, 0)
        runs = [pairs.endpoint(*known, branch, data, self.device, new) for branch in "AB"]
        starts = [train(replace(r, epochs=0), 0, branch, data, self.device) for branch in "AB"]
        alike, parted = (len({run.digest() for run in them}) == 1 for them in (starts, runs))
        worst = max(run.history[-1]["test_error"] for run in runs)
        if not alike or parted or worst > r.scale.trained:
            raise ValueError(
                f"children of {name}: same start {alike}, same end {parted}, test error {worst:.3f}"
            )
        how = "trained just now" if new else "read from the files that the project ships"
        said = "They began at the same weights, bit for bit, and ended at different ones."
        text = f"Children A and B were {how}, {r.epochs} epochs each. {said}"
        return folded("Two children of one start", MyST(f"{text} Data: {data.source}."))


def _rows(chosen: Experiment, pair: Pair) -> list[Row]:
    """What the parts of an experiment measure of the pair now."""
    rows, plan, only = [], pair.setting.plan, METRICS.get(chosen.section, ())
    if pair.setting.scale.embedded:
        plan = replace(plan, batch=BATCH)
    for name in chosen.parts:
        if name == "pair":
            some = replace(pair, setting=replace(pair.setting, plan=plan))
            rows += measure_pair(some, lambda: [m for m in metrics_of(plan) if isinstance(m, only)])
        elif name != "match":
            rows += (part(name).live or part(name).measure)(pair)
    return rows


def _table(pair: Pair, rows: Iterable[Row]) -> pd.DataFrame:
    r = pair.setting
    return records.table_of(pair.name, [*rows], r.model, r.data, r.method)


class Provenance:
    """What the page at hand is made from: the last cell of an executed chapter shows it, and
    ``book/_tools/execute.py`` takes its metadata for those of the notebook.
    """

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict]]:
        here = environment("cpu")
        run = {
            "cpu": here["cpu"],
            "threads": here["threads"],
            "python": here["versions"]["python"],
            "torch": here["versions"]["torch"],
            "records": [origin(*key, pairs) for key, pairs in records.opened.items()],
        }
        return {"text/plain": f"{len(run['records'])} records opened"}, {"run": run}


def origin(name: str, profile: str, pairs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Where ``pairs`` of the record of experiment ``name`` come from, in JSON's types only."""

    def every(*keys: str) -> list[str]:
        return sorted({str(reduce(getitem, keys, p)) for p in pairs.values()})

    def minutes(key: str) -> int:
        return round(sum(p[key] for p in pairs.values()) / 60)

    seeds = {seed for p in pairs.values() for seed in p["seeds"].values()}
    return {
        "record": name,
        "profile": profile,
        "sha256": hashlib.sha256(records.path_of(name, profile).read_bytes()).hexdigest()[:16],
        "pairs": len(pairs),
        "data": every("data", "name"),
        "seeds": sorted(seeds, key=lambda seed: (int(seed[:-1]), seed)),
        "commits": sorted({one for told in every("commit") for one in told.split(", ")}),
        **{key: every(key) for key in ("device", "cpu", "threads")},
        **{key: every("versions", key) for key in ("torch", "python")},
        "train_minutes": minutes("train_seconds"),
        "measure_minutes": minutes("measure_seconds"),
        "finished": max(every("finished")),
    }


def _below(difference: float) -> str:
    """The next power of ten: what is behind it is rounding, which differs between processors."""
    return f"below 1e{math.floor(math.log10(max(difference, 1e-12))) + 1}"
