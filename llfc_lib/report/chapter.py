"""What every chapter does: check its parameters, measure live, and hold the result against the committed record.

Source: this book.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from llfc_lib.experiments import decomposition, matched, pairs
from llfc_lib.experiments.catalogue import experiment
from llfc_lib.experiments.publish import describe
from llfc_lib.experiments.units import Unit, environment
from llfc_lib.metrics import LLFC, Barrier, Commutativity, SameWeights, Stitching, Transfer, WeakAdditivity
from llfc_lib.report import records
from llfc_lib.report.tables import MyST, table
from llfc_lib.training.checkpoints import Checkpoint
from llfc_lib.training.loop import train
from llfc_lib.training.recipes import PAIRS, PROFILES, check_profile, recipe, reductions

PARAMETERS = {"profile", "retrain", "device"}
IPYTHON = {"In", "Out", "exit", "quit", "get_ipython", "open"}

#: Only what a chapter is about is measured live, with the barrier, which has a displaced partner's own error.
METRICS: dict[str, pairs.MakeMetrics] = {
    "B.1": lambda grid, detail=False, nulls=True: [Barrier(grid)],
    "B.2": lambda grid, detail=False, nulls=True: [LLFC(pairs.ALPHAS, pre=detail, raw=detail), Barrier(pairs.COARSE_GRID)],
    "B.3": lambda grid, detail=False, nulls=True: [Commutativity(nulls=nulls), WeakAdditivity(nulls=nulls), Barrier(pairs.COARSE_GRID)],
    "B.5": lambda grid, detail=False, nulls=True: [Commutativity(nulls=nulls), Transfer(nulls=nulls), SameWeights(nulls=nulls),
                                                   Barrier(pairs.COARSE_GRID)],
    "B.4": lambda grid, detail=False, nulls=True: [Stitching(raw=detail), Transfer(nulls=nulls), Barrier(pairs.COARSE_GRID)],
}

#: How far a live number may lie from the record of the same profile: absolute, or relative to the record where that is
#: above 1. In float64 (smoke) only rounding differs between processors; in float32 an image may change sides.
TOLERANCE = {"smoke": 1e-6, "lite": 5e-4, "paper": 5e-4}
QUICK = 1e13  # operations: some minutes of training
#: What a network trained now must reach on the test set.
TRAINED = {"smoke": 0.06, "lite": 0.035, "paper": 0.025}


def begin(namespace: Mapping[str, Any]) -> "Chapter":
    """Check the notebook's parameters. papermill takes any name: a misspelt one would silently do nothing.

    ``namespace`` is ``globals()`` of the notebook after its parameters cell. ValueError for an unknown parameter or
    profile, or a device that torch does not have.
    """
    plain = (str, int, float, bool, list, dict, tuple, type(None))
    given = {name: value for name, value in namespace.items()
             if isinstance(value, plain) and not name.startswith("_") and name not in IPYTHON}
    unknown = sorted(set(given) - PARAMETERS)
    if unknown:
        raise ValueError(f"unknown parameter {unknown[0]!r}; choose from {sorted(PARAMETERS)}")
    try:
        torch.empty(0, device=given["device"])
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {given['device']!r} is not available ({error}); use 'cpu'") from error
    return Chapter(check_profile(given["profile"]), bool(given["retrain"]), given["device"])


@dataclass(frozen=True)
class Chapter:
    """The parameters of a chapter, and what it does with them."""

    profile: str
    retrain: bool
    device: str

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict]]:
        """Shown in a hidden cell: its metadata tells the line under the title what the live part is on."""
        source = pairs.load(recipe("mlp_mnist_spawn", self.profile).data).source
        seeds = [*range(max(PAIRS[self.profile].values()))]  # pair k is trained from seed k
        run = {"data": source, "device": self.device, "seeds": seeds}
        return {"text/plain": f"profile {self.profile}, {source}"}, {"run": run}

    def live(self, name: str, control: bool = True) -> pd.DataFrame:
        """The rows of experiment ``name``, measured now on its first recipe: every pair in smoke, the first elsewhere.

        Networks that are neither shipped nor in the cache and would take long to train are replaced by those of a
        smaller profile, which the figure names; ``retrain`` trains them all the same. Convolutional nets
        take long: in smoke A is not compared with itself, on real data only the pair is measured; the record has the
        rest. ``control`` False leaves out their independent pair, for what is checked but not drawn. The displacement null is measured for the first pair: whole for the MLP in smoke, elsewhere the rotation with
        t = 1 alone.
        """
        chosen, found = experiment(name), {}
        recipe_name, metrics = chosen.recipes[0], METRICS.get(chosen.section)
        profile = self.at_hand(recipe_name)
        mlp, smoke = recipe(recipe_name, profile).model == "mlp", profile == "smoke"
        controls = ("unmatched", "independent", "itself") if mlp else ("independent",) if smoke and control else ()
        possible = [pairs.DISPLACED[part] for part in pairs.plan_of(recipe_name, profile).parts if part in pairs.DISPLACED]
        displaced = possible[:6 if mlp and smoke else 1 if mlp or smoke else 0]
        for index in range(PAIRS[profile][recipe_name] if profile == "smoke" else 1):
            nets, data = pairs.networks(profile, recipe_name, index, self.device, self.retrain)
            if recipe(recipe_name, profile).matching:
                nets = matched.bring_together(profile, recipe_name, nets, data, matched.of_pair(profile, recipe_name, index, nets, data))
            if metrics is None:  # appendix A: one part of a pair's measurement, the same here as for the record
                rows = decomposition.rows(profile, recipe_name, index, nets, data)
            else:
                rows = pairs.measure_pair(profile, recipe_name, nets, data, metrics, controls)
            for kind, far in displaced if index == 0 and metrics is not None else ():
                rows += pairs.measure_displaced(profile, recipe_name, index, nets, data, kind, far, metrics)
            found[f"{recipe_name}/{index}"] = [row for row in rows if chosen.keeps(row)]
        r = recipe(recipe_name, profile)
        provenance = {"recipe": recipe_name, "recipe_hash": r.hash, "data": describe(data),
                      "plan": pairs.plan_of(recipe_name, profile).told(), "reductions": reductions(recipe_name, profile),
                      **environment(self.device)}
        return records.live_record(name, profile, {pair: provenance for pair in found}, found, model=r.model,
                                   data=r.data, method=r.matching or "spawning").frame()

    def at_hand(self, recipe_name: str) -> str:
        """The highest profile up to this chapter's whose first pair is there, or is quickly trained."""
        for profile in PROFILES[PROFILES.index(self.profile):0:-1]:
            if recipe_name in PAIRS[profile]:
                networks = Unit(profile, recipe_name, 0, "pair").needs()
                if self.retrain or all(u.at_hand() or u.work() < QUICK for u in networks):
                    return profile
        return "smoke"

    def published(self, name: str) -> records.Record:
        """The best committed record of the experiment, recipe by recipe where it has several networks; figures drawn
        from it name its profile."""
        return published(name)

    def check(self, name: str, live: pd.DataFrame) -> MyST:
        """Live against the committed record of this profile: the largest difference per quantity.

        AssertionError if one exceeds its tolerance, or its standard deviation does (not with ``retrain``: other bits, other numbers).
        """
        profile = live.attrs["profile"]
        try:
            record = records.load(name, profile)
        except records.RecordError:
            return MyST(f"There is no record of profile *{profile}* to hold this against.")
        compared = records.compare(live, record.frame(), TOLERANCE[profile])
        spread = records.compare(*(frame.assign(mean=frame["std"]) for frame in (live, record.frame())), TOLERANCE[profile])
        within = compared["difference"] <= compared["tolerance"]
        if not self.retrain:
            both = within & (spread["difference"] <= spread["tolerance"])
            assert both.all(), f"live numbers differ from the record:\n{compared.assign(of_std=spread['difference'])[~both].to_string()}"
        rows = [(f"`{c.quantity}`", c.compared, _below(c.difference), f"{c.tolerance:g}", "yes" if ok else "no")
                for c, ok in zip(compared.itertuples(), within)]
        columns = ["quantity", "numbers compared", "largest difference", "tolerance", "all within"]
        return table(pd.DataFrame(rows, columns=columns),
                     f"{experiment(name).title}: live against the committed record of profile {profile}.", f"tbl-check-{name.replace('_', '-')}")

    def tolerance(self, quantity: str, recipe_name: str) -> float:
        """The bound that a network trained now must keep."""
        return {"test_error": TRAINED}[quantity][self.profile]

    def train_pair(self, recipe_name: str) -> "LivePair":
        """Train the first pair now in smoke or with ``retrain``; elsewhere read the shipped networks."""
        r = recipe(recipe_name, self.profile)
        data = pairs.load(r.data, normalise=r.normalise)
        new = self.profile == "smoke" or self.retrain
        runs = {branch: train(r, 0, branch, data, self.device) if new else
                pairs.endpoint(self.profile, recipe_name, 0, branch, data, self.device) for branch in "AB"}
        starts = {branch: train(replace(r, epochs=0), 0, branch, data, self.device) for branch in "AB"}
        return LivePair(new, runs, starts, data.source, r.epochs)


def published(name: str) -> records.Record:
    """The best committed record of an experiment, recipe by recipe where it has several networks."""
    return records.best_of_each(name) if records.has_several_networks(experiment(name).recipes) else records.best(name)


def origin(name: str) -> list[dict[str, Any]]:
    """Where the record that chapters show of experiment ``name`` comes from: one entry a profile, JSON's types only."""
    record, found = published(name), []
    for profile in record.profile.split(" and "):
        own = {pair: p for pair, p in record.pairs.items() if p.get("profile", record.profile) == profile}

        def every(key: str, of: Any = lambda p: p) -> list[str]:
            return sorted({str(of(p)[key]) for p in own.values()})

        digest = hashlib.sha256(records.path_of(name, profile).read_bytes()).hexdigest()[:16]
        found.append({"record": name, "profile": profile, "sha256": digest, "pairs": len(own), "data": every("name", lambda p: p["data"]),
                      "seeds": sorted({seed for p in own.values() for seed in p["seeds"].values()}, key=lambda s: (int(s[:-1]), s)),
                      "commits": sorted({one for p in own.values() for one in p["commit"].split(", ")}),
                      "device": every("device"), "cpu": every("cpu"), "threads": every("threads"),
                      "torch": every("torch", lambda p: p["versions"]), "python": every("python", lambda p: p["versions"]),
                      "train_minutes": round(sum(p["train_seconds"] for p in own.values()) / 60),
                      "measure_minutes": round(sum(p["measure_seconds"] for p in own.values()) / 60),
                      "finished": max(p["finished"] for p in own.values())})
    return found


def drawn_by() -> str:
    """Digest of the modules that draw: nbval compares a figure's words and never its pixels, so that a chapter whose
    figures another state of these modules drew has to be told from one whose figures are up to date.

    Source: this book.
    """
    folder = Path(__file__).parent
    drawing = sorted(path for path in folder.rglob("*.py") if "matplotlib" in path.read_text())
    return hashlib.sha256(b"".join(path.read_bytes() for path in (*drawing, folder / "select.py"))).hexdigest()[:16]


def _below(difference: float) -> str:
    """The next power of ten: the digits behind it are rounding, which differs between processors."""
    return f"below 1e{math.floor(math.log10(max(difference, 1e-12))) + 1}"


@dataclass(frozen=True)
class LivePair:
    """Two children of one start, with what they began from."""

    trained_now: bool
    runs: dict[str, Checkpoint]
    starts: dict[str, Checkpoint]
    source: str
    epochs: int

    def summary(self) -> MyST:
        """What was trained or read, and the errors that came of it."""
        how = "trained just now" if self.trained_now else "read from the files that the project ships"
        return MyST(f"Children A and B were {how}, {self.epochs} epochs each. Data: {self.source}.")

    def children_start_from_the_same_bits(self) -> bool:
        """Whether both children forked from one state."""
        return self.starts["A"].digest() == self.starts["B"].digest()

    def children_end_at_the_same_bits(self) -> bool:
        """Whether both ended at the same weights, as they must not."""
        return self.runs["A"].digest() == self.runs["B"].digest()

    def worst_test_error(self) -> float:
        """The larger of both test errors, a fraction."""
        return max(run.history[-1]["test_error"] for run in self.runs.values())
