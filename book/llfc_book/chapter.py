"""What every chapter does: check its parameters, measure live, and hold the result against the
committed record.
"""

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import nn

from llfc_book import records
from llfc_book.show.text import MyST, folded, table
from llfc_book.study import matched, pairs
from llfc_book.study.catalogue import experiment
from llfc_book.study.measures.pair import (
    ALPHAS,
    COARSE_GRID,
    CONTROLS,
    DISPLACED,
    MakeMetrics,
    measure_displaced,
    measure_pair,
)
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import part
from llfc_book.study.publish import describe
from llfc_book.study.runs import train
from llfc_book.study.settings import (
    MATCHED,
    PAIRS,
    PROFILE,
    PROFILES,
    check_profile,
    recipe,
    reductions,
)
from llfc_book.study.units import Unit, environment
from llfc_lib.data import Dataset
from llfc_lib.metrics import (
    LLFC,
    Barrier,
    Commutativity,
    Row,
    SameWeights,
    Stitching,
    Transfer,
    WeakAdditivity,
)
from llfc_lib.metrics.measure import Loader

PARAMETERS = {"profile", "retrain", "device"}
IPYTHON = {"In", "Out", "exit", "quit", "get_ipython", "open"}

#: Only what a chapter is about is measured live, with the barrier, which has a displaced partner's
#: own error.
METRICS: dict[str, MakeMetrics] = {
    "B.1": lambda grid, detail=False, nulls=True: [Barrier(grid)],
    "B.2": lambda grid, detail=False, nulls=True: [
        LLFC(ALPHAS, pre=detail, raw=detail),
        Barrier(COARSE_GRID),
    ],
    "B.3": lambda grid, detail=False, nulls=True: [
        Commutativity(nulls=nulls),
        WeakAdditivity(nulls=nulls),
        Barrier(COARSE_GRID),
    ],
    "B.5": lambda grid, detail=False, nulls=True: [
        Commutativity(nulls=nulls),
        Transfer(nulls=nulls),
        SameWeights(nulls=nulls),
        Barrier(COARSE_GRID),
    ],
    "B.4": lambda grid, detail=False, nulls=True: [
        Stitching(raw=detail),
        Transfer(nulls=nulls),
        Barrier(COARSE_GRID),
    ],
}

#: Test images at a time where LLFC is measured live in smoke: two batches must give what one gave
#: for the record. (Not so the null of B.3 that shuffles images: it does so within a batch.)
BATCH = 300
QUICK = 1e13  # operations: some minutes of training


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

    def live(self, name: str, control: bool = True, of: Sequence[str] = ()) -> records.Record:
        """The rows of experiment ``name``, measured now on the recipes ``of``, else its first:
        every pair in smoke, the first elsewhere.

        Networks that are neither shipped nor in the cache and would take long to train are replaced
        by those of a smaller profile, which the figure names; ``retrain`` trains them all the same.
        Convolutional nets take long: in smoke A is not compared with itself, on real data only the
        pair is measured; the record has the rest. ``control`` False leaves out their independent
        pair, for what is checked but not drawn. The displacement null is measured for the first
        pair: whole for the MLP in smoke, elsewhere the rotation with t = 1 alone. Where a record
        reads one part of a pair's measurement, that part is measured as it was for the record, but
        for what takes long in it.
        """
        recipes = of or experiment(name).recipes[:1]
        profile = min(map(self.at_hand, recipes), key=PROFILES.index)
        found: dict[str, list[Row]] = {}
        provenance: dict[str, dict[str, Any]] = {}
        for recipe_name in recipes:
            rows, data = self._measured(name, profile, recipe_name, control)
            found |= rows
            provenance |= dict.fromkeys(rows, self._provenance(profile, recipe_name, data))
        r = recipe(recipes[0], profile)
        return records.live_record(
            name, profile, provenance, found, r.model, r.data, r.matching or "spawning"
        )

    def _measured(
        self, name: str, profile: str, recipe_name: str, control: bool
    ) -> tuple[dict[str, list[Row]], Dataset]:
        """By pair of one recipe, the rows of experiment ``name``."""
        chosen, found = experiment(name), {}
        metrics, setting = METRICS.get(chosen.section), recipe(recipe_name, profile)
        thorough, smoke = setting.plan.thorough, setting.scale.embedded
        controls = CONTROLS if thorough else ("independent",) if smoke and control else ()
        possible = [DISPLACED[part] for part in setting.plan.parts if part in DISPLACED]
        displaced = possible[: 6 if thorough and smoke else 1 if thorough or smoke else 0]
        for index in range(PAIRS[profile][recipe_name] if smoke else 1):
            pair = pairs.load_pair(setting, index, self.device, self.retrain)
            if setting.needs_order:
                pair = matched.bring_together(pair, matched.of_pair(pair))
            rows = [row for part in chosen.parts for row in _part(part, pair)]
            if not chosen.parts:
                batch = BATCH if smoke and chosen.section == "B.2" else None
                rows = measure_pair(pair, metrics, controls, batch)
                for kind, far in displaced if index == 0 else ():
                    rows += measure_displaced(pair, kind, far, metrics)
            found[f"{recipe_name}/{index}"] = [row for row in rows if chosen.keeps(row)]
        return found, pair.data

    def _provenance(self, profile: str, recipe_name: str, data: Dataset) -> dict[str, Any]:
        return {
            "recipe": recipe_name,
            "recipe_hash": recipe(recipe_name, profile).hash,
            "data": describe(data),
            "plan": recipe(recipe_name, profile).plan.identity(),
            "reductions": reductions(recipe_name, profile),
            **environment(self.device),
        }

    def pair(self, name: str, index: int = 0) -> tuple[nn.Module, nn.Module, Loader]:
        """Two networks of the setting ``name`` at this profile, B's units in the order that its
        method found, and the test images that a page measures them on: what the lines of code that
        a page shows begin with.

        Networks that are not here are trained first.
        """
        setting = recipe(name, self.profile)
        both = pairs.load_pair(setting, index, self.device, self.retrain, only=("A", "B"))
        if setting.needs_order:
            both = matched.bring_together(both, matched.of_pair(both))
        a, b = both.in_dtype("A", "B")
        return a, b, list(both.loader("test", setting.plan.pair_first))

    def checked(self, name: str, control: bool = True, of: Sequence[str] = ()) -> MyST:
        """Experiment ``name`` measured now (:meth:`live`) and held against its record
        (:meth:`check`), folded.
        """
        return self.check(name, self.live(name, control, of))

    def orders(self, base: str) -> records.Record:
        """How every method matches the first pair of recipe ``base``, found anew: rows of
        experiment "lmc_perm". Of smoke in any profile, as the straight-through estimator takes long
        on larger networks.

        AssertionError if a method finds another order than the one that is shipped
        (:func:`llfc_book.study.matched.find`).
        """
        found: dict[str, list[Row]] = {}
        provenance: dict[str, dict[str, Any]] = {}
        for name in (name for name, (of, _) in MATCHED.items() if of == base):
            pair = pairs.load_pair(recipe(name, "smoke"), 0)
            with warnings.catch_warnings():
                # they are counted in the rows
                warnings.filterwarnings("ignore", "units that respond to no image")
                _, rows = matched.find(pair, known=matched.of_pair(pair))
            found[f"{name}/0"] = rows
            provenance[f"{name}/0"] = self._provenance("smoke", name, pair.data)
        r = recipe(base, "smoke")
        return records.live_record(
            "lmc_perm", "smoke", provenance, found, r.model, r.data, "matched"
        )

    def at_hand(self, recipe_name: str) -> str:
        """The highest profile up to this chapter's whose first pair is there, or is quickly
        trained.
        """
        for profile in PROFILES[PROFILES.index(self.profile) : 0 : -1]:
            if recipe_name in PAIRS[profile]:
                networks = Unit(profile, recipe_name, 0, "pair").needs()
                if self.retrain or all(u.at_hand() or u.work() < QUICK for u in networks):
                    return profile
        return "smoke"

    def check(self, name: str, live: records.Record, what: str = "") -> MyST:
        """Live against the committed record of this profile: the largest difference per quantity;
        ``what`` it is of tells the table from another one on the same record.

        AssertionError if one exceeds its tolerance, or its standard deviation does, or if a mean is
        over another number of things (not with ``retrain``: other bits, other numbers).
        """
        profile = live.profile
        try:
            record = records.load(name, profile)
        except records.RecordError:
            return MyST(f"There is no record of profile *{profile}* to hold this against.")
        compared = records.compare(live.table, record.table, PROFILE[profile].tolerance)
        within = (compared[["difference", "spread"]].max(axis=1) <= compared["tolerance"]) & (
            compared["count"] == 0
        )
        assert self.retrain or within.all(), (
            f"live numbers differ from the record:\n{compared[~within].to_string()}"
        )
        curves = compared.groupby(
            compared["quantity"].str.partition("/")[0], sort=False
        )  # a spectrum or quantiles: one line
        rows = [
            (
                f"`{quantity}`",
                of["compared"].sum(),
                _below(of["difference"].max()),
                f"{PROFILE[profile].tolerance:g}",
                "yes" if within[of.index].all() else "no",
            )
            for quantity, of in curves
        ]
        columns = ["quantity", "numbers compared", "largest difference", "tolerance", "all within"]
        told, label = (
            (f"{experiment(name).title}, {what}", f"{name} {what}")
            if what
            else (experiment(name).title, name)
        )
        held = table(
            pd.DataFrame(rows, columns=columns),
            f"{told}: measured now, against the committed record of profile {profile}.",
            f"tbl-check-{label.replace('_', '-').replace(' ', '-')}",
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
        runs = [
            train(r, 0, branch, data, self.device)
            if new
            else pairs.endpoint(*known, branch, data, self.device)
            for branch in "AB"
        ]
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


def _part(name: str, pair: Pair) -> list[Row]:
    """One part of a pair's measurement by what made its record, or its shorter form."""
    measure = part(name).live or part(name).measure
    assert measure is not None, name
    return measure(pair)


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

    def every(key: str, of: Any = lambda p: p) -> list[str]:
        return sorted({str(of(p)[key]) for p in pairs.values()})

    return {
        "record": name,
        "profile": profile,
        "sha256": hashlib.sha256(records.path_of(name, profile).read_bytes()).hexdigest()[:16],
        "pairs": len(pairs),
        "data": every("name", lambda p: p["data"]),
        "seeds": sorted(
            {seed for p in pairs.values() for seed in p["seeds"].values()},
            key=lambda s: (int(s[:-1]), s),
        ),
        "commits": sorted({one for p in pairs.values() for one in p["commit"].split(", ")}),
        "device": every("device"),
        "cpu": every("cpu"),
        "threads": every("threads"),
        "torch": every("torch", lambda p: p["versions"]),
        "python": every("python", lambda p: p["versions"]),
        "train_minutes": round(sum(p["train_seconds"] for p in pairs.values()) / 60),
        "measure_minutes": round(sum(p["measure_seconds"] for p in pairs.values()) / 60),
        "finished": max(p["finished"] for p in pairs.values()),
    }


def _below(difference: float) -> str:
    """The next power of ten: what is behind it is rounding, which differs between processors."""
    return f"below 1e{math.floor(math.log10(max(difference, 1e-12))) + 1}"
