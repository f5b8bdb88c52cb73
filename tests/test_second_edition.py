"""The parts that the second edition added, measured again on smoke pairs, and sabotaged."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from llfc_book import records
from llfc_book.study import closeness, connected, pairs, units
from llfc_book.study.catalogue import EXPERIMENTS
from llfc_book.study.measures import references, sweep
from llfc_book.study.parts import PARTS, part
from llfc_book.study.settings import PAIRS, recipe
from llfc_book.study.units import Unit, plan

from llfc_lib.metrics import Row, coherence, spectra
from llfc_lib.training.checkpoints import atomic_write, writable

MLP, LN, RESNET50 = (
    "mlp_mnist_spawn",
    "resnet20x0.25_cifar10_perm_weight",
    "resnet50_tinyimagenet_spawn",
)
TOLERANCE = 1e-6  # of the record, as of chapters in smoke: float64 on another processor
RESNET20 = "resnet20_cifar10_spawn"  # with running statistics


@cache
def order_of(name: str) -> bytes:
    """What a finished search for the order of B's units leaves: every part needs the same."""
    unit = Unit("smoke", name, 0, "match")
    unit.run()
    return unit.path().read_bytes()


def live(part: str, name: str) -> list[Row]:
    """The part of the first smoke pair, measured now on the networks that are shipped."""
    if recipe(name, "smoke").matching:
        order, path = order_of(name), Unit("smoke", name, 0, "match").path()
        atomic_write(writable(path.parent) / path.name, order)
    unit = Unit("smoke", name, 0, part)
    unit.run()
    return unit.result()["rows"]


#: Experiments that hold all of a part's rows, or most, where there is none of its name.
OF_PART = {"sweep": ("fig22",), "pair": ("fig15", "com_ln", "stitch_ln")}


@cache
def recorded(experiment: str, name: str) -> dict[tuple, tuple]:
    """Mean, standard deviation and count by the keys of a row, but for what is not measured any
    more.
    """
    table = records.load(experiment, "smoke").table
    still = table["quantity"].str.partition("/")[0].isin(EXPERIMENTS[experiment].quantities)
    still &= ~table["kind"].str.startswith("itself") & ~table["site"].str.endswith("(pre)")
    table = table[still & table["pair"].eq(f"{name}/0")].astype(object)
    table = table.where(table.notna(), None)
    keys = table[records.KEYS[1:]].itertuples(index=False, name=None)
    return dict(zip(keys, table[["mean", "std", "n"]].itertuples(index=False, name=None)))


def wrong(rows: list[Row], part: str, name: str) -> set[str]:
    """Quantities of which a live number differs from its record, or that one of the two lacks."""
    found = set()
    for experiment in OF_PART.get(part, (part,)):
        record = recorded(experiment, name)
        live = {
            tuple(getattr(row, field) for field in records.KEYS[1:]): (row.mean, row.std, row.n)
            for row in rows
            if EXPERIMENTS[experiment].keeps(row)
        }
        assert record and live
        found |= {
            f"{key[0]} {key[6]}".strip()  # quantity and kind
            for key in {*live, *record}
            if not (key in live and key in record and agree(live[key], record[key]))
        }
    return found


def agree(live: tuple, record: tuple) -> bool:
    return all(
        (now is None or math.isnan(now)) == (then is None)
        and (then is None or abs(now - then) <= TOLERANCE * max(1.0, abs(then)))
        for now, then in zip(live, record)
    )


@pytest.mark.parametrize(
    "part, name",
    [
        ("closeness", MLP),
        ("closeness", LN),
        ("connected", LN),
        ("coherence", LN),
        ("weights", LN),
        ("sweep", LN),
        ("pair", LN),
        ("coherence", RESNET50),
        ("closeness", RESNET20),
        ("connected", RESNET20),
    ],
)
def test_a_smoke_pair_gives_its_record_again(part, name):
    assert wrong(live(part, name), part, name) == set()


# sabotage: one wrong step at a time, by patching


def with_result(change: Callable) -> Callable:
    """A function as it is, but for its result."""
    return lambda f: lambda *args: change(f(*args))


def with_argument(place: int, change: Callable) -> Callable:
    """A function as it is, but for one of its arguments."""
    return lambda f: lambda *args: f(*args[:place], change(args[place]), *args[place + 1 :])


def twice(x):
    return 2 * x


def shifted(w):
    return w + w.mean()


def inverted(found):
    return ((*where, ~wrong) for *where, wrong in found)


def without_sweeps(f: Callable) -> Callable:
    return lambda *args, **how: f(*args, **how, max_sweeps=0)


def scaled_residual(products: dict) -> dict:
    return {k: 2 * v if isinstance(k, tuple) and k[0] == "ee" else v for k, v in products.items()}


def limits(*names: str) -> set[str]:
    return {f"{name}{limit}" for name in names for limit in ("", "_lower", "_upper")}


RHO = {"rho", "rho spread", "rho sparse"}
SPREAD = {"t spread", "distance spread", "partner_error spread"}
SPARSE = {"distance sparse", "rho sparse", "middle_error sparse"}
MIDDLE = {"middle_error spread", "middle_error sparse"}
LACKING = {"no_partner sparse"}
DRAWN = {"t spread", "rho spread"}
RESAMPLED = {"error_barrier_lower", "stitched_excess_lower"}
SIGN = {"sign_energy", "coherence", "energy_alignment"}
SHUFFLE = {"shuffle_energy", "energy_alignment"}
RANKS = {"stable_rank_W", "stable_rank_share_W"}
MATCHED = {"matched_cosine", "loss_barrier_chord", "dist_transfer"}
LATER = {*RANKS, "error", "error_barrier_chord_on_training"}
#: Part, module and name of what is replaced, by what, and quantities that must be seen to be wrong.
SABOTAGES: list[tuple[str, object, str, Callable, set[str]]] = [
    ("closeness", closeness, "inner_products", with_result(scaled_residual), RHO),
    ("closeness", closeness, "one_minus_cos_from", with_result(twice), {"distance"}),
    ("closeness", closeness, "TOLERANCE", lambda _: 1e-12, {"no_partner spread"}),
    ("closeness", closeness, "_units_to_move", with_result(lambda n: n // 4), LACKING),
    ("closeness", closeness, "partner_of", with_argument(2, lambda t: -t), SPREAD),
    ("closeness", closeness, "interpolate", with_argument(2, lambda _: 0.25), MIDDLE),
    ("closeness", closeness, "cycle", with_argument(0, lambda order: order.flip(0)), SPARSE),
    ("closeness", closeness, "random_difference", with_argument(2, lambda _: "entries"), DRAWN),
    ("connected", connected, "barriers", with_result(lambda b: b * 1.5), limits("error_barrier")),
    ("connected", connected, "bootstrap_means", with_argument(2, lambda _: "another"), RESAMPLED),
    ("connected", connected, "stitched_wrong", with_result(inverted), limits("stitched_excess")),
    ("coherence", coherence, "dot", with_result(twice), {"commutator_energy", "sign_energy"}),
    ("coherence", coherence, "expectations", with_result(lambda e: (2 * e[0], e[1])), SIGN),
    ("coherence", coherence, "expectations", with_result(lambda e: (e[0], 2 * e[1])), SHUFFLE),
    ("weights", spectra, "singular_values", with_argument(0, shifted), {"sigma_W/0.5", *RANKS}),
    ("sweep", sweep, "weight_matching", without_sweeps, MATCHED),
    ("sweep", pairs, "endpoint_after", with_argument(0, lambda epoch: min(epoch, 1)), LATER),
]


@pytest.mark.parametrize("part, module, name, change, quantities", SABOTAGES)
@pytest.mark.filterwarnings("ignore:weight matching still gained")
def test_the_record_notices(part, module, name, change, quantities, monkeypatch):
    monkeypatch.setattr(module, name, change(getattr(module, name)))
    pair = MLP if part == "closeness" else LN
    assert quantities - wrong(live(part, pair), part, pair) == set()


def test_every_quantity_of_the_new_parts_is_sabotaged():
    def base(quantity: str) -> str:
        return quantity.split(" ")[0].partition("/")[0]

    for name in ("closeness", "connected", "coherence", "weights"):
        covered = {base(q) for of, *_, quantities in SABOTAGES if of == name for q in quantities}
        there = {base(key[0]) for key in recorded(name, MLP if name == "closeness" else LN)}
        assert there - covered - {"stable_rank_W"} == set()


# parts, plans and queue


def test_results_name_the_networks_and_the_code_they_were_begun_with(monkeypatch):
    unit, commits = Unit("smoke", LN, 0, "weights"), ["then"]
    weights = part("weights")

    def pulled_meanwhile(*args: object) -> list:
        commits.append("later")
        return weights.measure(*args)

    monkeypatch.setattr(units, "environment", lambda device: {"commit": commits[-1]})
    monkeypatch.setitem(PARTS, "weights", replace(weights, measure=pulled_meanwhile))
    unit.run()
    assert commits == ["then", "later"] and unit.result()["environment"]["commit"] == "then"
    a = pairs.endpoint("smoke", LN, *unit.recipe().members(0)["A"], units.dataset(unit.recipe()))
    assert unit.result()["networks"] == {"A": a.digest()}


def test_what_a_number_depends_on_beyond_the_plan_is_in_its_key_and_its_record(monkeypatch):
    unit = Unit("smoke", MLP, 0, "closeness")
    told = records.load("closeness", "smoke").pairs[f"{MLP}/0"]["settings"]["closeness"]
    assert told == part("closeness").settings(unit.recipe()) and told["tolerance"]
    before = unit.path()
    monkeypatch.setattr(references, "TOLERANCE", 2 * told["tolerance"])
    assert unit.path() != before and part("closeness").settings(unit.recipe()) != told


def test_controls_are_independent_networks_where_there_are_three_pairs():
    for name, count in PAIRS["lite"].items():
        r = recipe(name, "lite")
        if not name.startswith("resnet20x") or not r.matching:
            continue
        assert r.plan.control == (count >= 3)
        for found in (r.members(index) for index in range(count)):
            assert set(found) == {"A", "B", *(["independent"] if count >= 3 else [])}
            assert len(set(found.values())) == len(found)  # no network beside itself
        trained = {u for u in plan("lite") if u.trains and u.name == r.trained_as}
        assert len(trained) == 2 * count  # controls are networks of other pairs
