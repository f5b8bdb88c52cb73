"""What the second edition is measured with: its parts as units, its smoke records measured again,
and each number sabotaged.

No page shows these numbers yet. Until one does, and nbval holds it against the record, this file
does.
"""

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from llfc_book import records
from llfc_book.show import cost, settings
from llfc_book.study import closeness, connected, pairs, units, widths
from llfc_book.study.catalogue import EXPERIMENTS
from llfc_book.study.settings import (
    LAYER_NORM,
    LAYER_NORM_BY_CODE,
    PAIRS,
    PROFILES,
    recipe,
    reductions,
)
from llfc_book.study.units import Unit, plan

from llfc_lib.metrics import Row, coherence, spectra

MLP, LN, RESNET50 = (
    "mlp_mnist_spawn",
    "resnet20x0.25_cifar10_perm_weight",
    "resnet50_tinyimagenet_spawn",
)
TOLERANCE = 1e-6  # of the record, as of chapters in smoke: float64 on another processor
RESNET20 = "resnet20_cifar10_spawn"  # with running statistics
CLOSENESS = ("closeness", MLP)


def live(part: str, name: str) -> list[Row]:
    """The part of the first smoke pair, measured now on the networks that are shipped."""
    if recipe(name, "smoke").matching:
        Unit("smoke", name, 0, "match").run()
    unit = Unit("smoke", name, 0, part)
    unit.run()
    return unit.result()["rows"]


#: Experiments that hold all of a part's rows, or most, where there is none of its name.
OF_PART = {"sweep": ("fig22",), "pair": ("fig15", "com_ln", "stitch_ln")}


@cache
def recorded(experiment: str, name: str) -> dict[tuple, tuple]:
    table = records.load(experiment, "smoke").table
    table = table[table["pair"] == f"{name}/0"]
    return {
        tuple(None if isinstance(v, float) and math.isnan(v) else v for v in key): number
        for *key, number in zip(
            *(table[column] for column in records.KEYS[1:]),
            zip(table["mean"], table["std"], table["n"]),
        )
    }


def wrong(rows: list[Row], part: str, name: str) -> set[str]:
    """Quantities of which a live number differs from its record, or has none."""
    return {
        quantity
        for experiment in OF_PART.get(part, (part,))
        for quantity in _wrong(rows, experiment, name)
    }


def _wrong(rows: list[Row], experiment: str, name: str) -> set[str]:
    record, found = recorded(experiment, name), set()
    rows = [row for row in rows if EXPERIMENTS[experiment].keeps(row)]
    assert record and rows
    for row in rows:
        key = tuple(getattr(row, field) for field in records.KEYS[1:])
        if key not in record:
            found.add(f"{row.quantity} {row.kind}".strip())
            continue
        for now, then in zip((row.mean, row.std, row.n), record[key]):
            now, then = (math.nan if v is None else v for v in (now, then))
            if not (
                abs(now - then) <= TOLERANCE * max(1.0, abs(then))
                or math.isnan(now)
                and math.isnan(then)
            ):
                found.add(f"{row.quantity} {row.kind}".strip())
    live_keys = {tuple(getattr(row, field) for field in records.KEYS[1:]) for row in rows}
    return found | {f"{key[0]} {key[5]}".strip() for key in record if key not in live_keys}


@pytest.mark.parametrize(
    "part, name",
    [
        CLOSENESS,
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

Patch = Callable[[pytest.MonkeyPatch], None]


def replaced(module: object, name: str, change: Callable[[Callable], Callable]) -> Patch:
    return lambda patch: patch.setattr(module, name, change(getattr(module, name)))


def _scaled_residual(products: Callable) -> Callable:
    def wrapped(a: torch.Tensor, b: torch.Tensor, between: dict) -> dict:
        return {
            key: 2 * value if isinstance(key, tuple) and key[0] == "ee" else value
            for key, value in products(a, b, between).items()
        }

    return wrapped


SABOTAGES: list[tuple[str, str, Patch, set[str]]] = [
    # part, recipe, what is patched, quantities that must be seen to be wrong
    (
        *CLOSENESS,
        replaced(closeness, "inner_products", _scaled_residual),
        {"rho", "rho spread", "rho sparse", "rho_standard_error"},
    ),
    (
        *CLOSENESS,
        replaced(closeness, "one_minus_cos_from", lambda f: lambda *args: 2 * f(*args)),
        {"distance"},
    ),
    (*CLOSENESS, replaced(closeness, "TOLERANCE", lambda _: 1e-12), {"no_partner spread"}),
    (
        *CLOSENESS,
        replaced(closeness, "_units_to_move", lambda f: lambda *args: f(*args) // 4),
        {"no_partner sparse"},
    ),
    (
        *CLOSENESS,
        replaced(
            closeness,
            "partner_of",
            lambda f: lambda view, moved, t, images: f(view, moved, -t, images),
        ),
        {"t spread", "distance spread", "partner_error spread"},
    ),
    (
        *CLOSENESS,
        replaced(closeness, "interpolate", lambda f: lambda a, b, alpha: f(a, b, 0.25)),
        {"middle_error spread", "middle_error sparse"},
    ),
    (
        *CLOSENESS,
        replaced(closeness, "_cycle", lambda f: lambda order, count: f(order.flip(0), count)),
        {"distance sparse", "rho sparse", "middle_error sparse"},
    ),
    (
        *CLOSENESS,
        replaced(
            closeness,
            "random_difference",
            lambda f: lambda a, b, kind, key, buffers: f(a, b, "entries", key, buffers),
        ),
        {"t spread", "rho spread"},
    ),
    (
        "connected",
        LN,
        replaced(connected, "barriers", lambda f: lambda curves, grid: f(curves * 1.5, grid)),
        {
            f"{what}_barrier{over}{limit}"
            for what in ("error", "loss")
            for over in ("", "_chord")
            for limit in ("", "_lower", "_upper")
        },
    ),
    (
        "connected",
        LN,
        replaced(
            connected,
            "barriers",
            lambda f: lambda curves, grid: {**f(curves, grid), "ends": curves[..., 0]},
        ),
        {f"{what}_ends{limit}" for what in ("error", "loss") for limit in ("", "_lower", "_upper")},
    ),
    (
        "connected",
        LN,
        replaced(
            connected,
            "bootstrap_means",
            lambda f: lambda values, resamples, seed: f(values, resamples, "another"),
        ),
        {"error_barrier_lower", "loss_barrier_upper", "stitched_excess_lower"},
    ),
    (
        "connected",
        LN,
        replaced(
            connected,
            "stitched_wrong",
            lambda f: lambda *args: ((*where, ~wrong) for *where, wrong in f(*args)),
        ),
        {"stitched_excess", "stitched_excess_lower", "stitched_excess_upper"},
    ),
    (
        "coherence",
        LN,
        replaced(coherence, "dot", lambda f: lambda x, y: 2 * f(x, y)),
        {"commutator_energy", "sign_energy"},
    ),
    (
        "coherence",
        LN,
        replaced(coherence, "expectations", lambda f: lambda *args: (2 * f(*args)[0], f(*args)[1])),
        {"sign_energy", "coherence", "energy_alignment"},
    ),
    (
        "coherence",
        LN,
        replaced(coherence, "expectations", lambda f: lambda *args: (f(*args)[0], 2 * f(*args)[1])),
        {"shuffle_energy", "energy_alignment"},
    ),
    (
        "weights",
        LN,
        replaced(spectra, "singular_values", lambda f: lambda w: f(w + w.mean())),
        {"sigma_W/0.5", "stable_rank_W", "stable_rank_share_W"},
    ),
    (
        "sweep",
        LN,
        replaced(
            widths,
            "weight_matching",
            lambda f: lambda sym, a, b, seed: f(sym, a, b, seed, max_sweeps=0),
        ),
        {"matched_cosine", "loss_barrier_chord", "dist_transfer"},
    ),
    (
        "sweep",
        LN,
        replaced(pairs, "endpoint_after", lambda f: lambda epoch, *args: f(min(epoch, 1), *args)),
        {"stable_rank_W", "stable_rank_share_W", "error", "error_barrier_chord_on_training"},
    ),
]


@pytest.mark.parametrize(
    "part, name, patched, quantities",
    SABOTAGES,
    ids=[f"{part} {k}" for k, (part, *_) in enumerate(SABOTAGES)],
)
@pytest.mark.filterwarnings("ignore:weight matching still gained")
def test_the_record_notices(part, name, patched, quantities, monkeypatch):
    patched(monkeypatch)
    missed = quantities - wrong(live(part, name), part, name)
    assert missed == set()


def test_every_quantity_of_the_new_parts_is_sabotaged():
    covered = {
        (part, quantity.split(" ")[0].partition("/")[0])
        for part, _, _, quantities in SABOTAGES
        for quantity in quantities
    }
    for part in ("closeness", "connected", "coherence", "weights"):
        there = {
            (part, key[0].partition("/")[0])
            for key in recorded(part, MLP if part == "closeness" else LN)
        }
        assert there - covered - {(part, "stable_rank_W")} == set()


# parts, plans and queue


def test_parts_that_are_due_together_share_one_pass(monkeypatch):
    passes = []
    measured = pairs.measure_references
    monkeypatch.setattr(
        pairs, "measure_references", lambda *args: passes.append(args[-1]) or measured(*args)
    )
    first, second = (Unit("smoke", MLP, 0, part) for part in ("connected", "coherence"))
    first.run()
    assert passes == [["connected", "coherence"]] and first.available() and second.available()
    second.run()
    assert len(passes) == 1  # it is done
    quantities = {
        unit.part: {row.quantity for row in unit.result()["rows"]} for unit in (first, second)
    }
    assert (
        quantities["connected"] == pairs.IN_ONE_PASS["connected"][1]
        and quantities["coherence"] == pairs.IN_ONE_PASS["coherence"][1]
    )
    assert first.result()["networks"] == second.result()["networks"] and set(
        first.result()["networks"]
    ) == {"A", "B", "independent"}


def test_a_part_that_is_done_is_not_measured_again_for_company():
    first, second = (Unit("smoke", MLP, 0, part) for part in ("connected", "coherence"))
    second.path().parent.mkdir(parents=True, exist_ok=True)
    second.path().write_text("done before")
    first.run()
    assert second.path().read_text() == "done before"


def test_a_part_that_somebody_else_is_at_is_left_to_them(monkeypatch):
    first, second = (Unit("smoke", MLP, 0, part) for part in ("connected", "coherence"))
    with second._lock():
        first.run()
    assert first.available() and not second.available()


def test_the_parts_of_a_pass_are_taken_before_its_networks_are_read(monkeypatch):
    first, second = (Unit("smoke", MLP, 0, part) for part in ("connected", "coherence"))

    def networks(*_: object, **__: object) -> None:
        raise RuntimeError(f"other part taken: {second.is_running()}")

    monkeypatch.setattr(pairs, "networks", networks)
    with pytest.raises(RuntimeError, match="other part taken: True"):
        first.run()
    assert not second.is_running()


def test_results_name_the_code_they_were_begun_with(monkeypatch):
    unit, commits = Unit("smoke", LN, 0, "weights"), ["then"]
    monkeypatch.setattr(
        units, "environment", lambda device: {"commit": commits[-1], "device": device}
    )
    weight_rows = units.spectra.weight_rows

    def pulled_meanwhile(*args: object) -> list:
        commits.append("later")
        return weight_rows(*args)

    monkeypatch.setattr(units.spectra, "weight_rows", pulled_meanwhile)
    unit.run()
    found = unit.result()["environment"]
    assert found["commit"] == "then" and set(found) == {"commit", "device", "finished"}


def test_results_name_the_networks_they_were_measured_on():
    unit = Unit("smoke", LN, 0, "weights")
    unit.run()
    data = units.dataset(unit.recipe())
    seed, branch = pairs.members(LN, 0)["A"]
    assert unit.result()["networks"] == {
        "A": pairs.endpoint("smoke", LN, seed, branch, data).digest()
    }


def test_the_keys_of_units_measured_before_are_what_they_were():
    """Records and caches hang on them."""
    assert pairs.plan_of(RESNET20, "lite").told() == {
        "pair_first": None,
        "draws": 4,
        "first": 1000,
        "calibration": 2000,
        "control": True,
    }
    assert pairs.plan_of(MLP, "paper").told() == {
        "pair_first": None,
        "draws": 10,
        "first": None,
        "calibration": 0,
        "control": True,
    }
    assert pairs.plan_of("resnet20x4_cifar10_perm_weight", "lite").told()["train_first"] == 2500


def test_what_a_number_depends_on_beyond_the_plan_is_in_its_key_and_its_record(monkeypatch):
    unit = Unit("smoke", MLP, 0, "closeness")
    before = unit.path()
    monkeypatch.setattr(pairs, "TOLERANCE", 0.01)
    assert unit.path() != before
    assert pairs.settings_of("pair", MLP, "paper") == {}
    told = records.load("closeness", "smoke").pairs[f"{MLP}/0"]["settings"]["closeness"]
    assert told == {"draws": 10, "images": 2000, "scales": [0.25, 8.0], "tolerance": 0.03}
    assert pairs.settings_of("closeness", RESNET20, "lite")["draws"] == 3
    assert pairs.settings_of("sweep", "resnet20x1_cifar10_perm_weight", "lite") == {
        "test": 2000,
        "train": 10_000,
    }


def test_settings_of_the_networks_that_are_new():
    """The issue's figures: epochs, schedules, what is shipped, on how many images."""
    r = recipe(RESNET50, "lite")
    assert (r.epochs, r.warmup, r.drops, r.spawn_epoch, r.batch, r.lr, r.shipped) == (
        18,
        1,
        (6, 12, 16),
        3,
        128,
        0.4,
        "none",
    )
    full = recipe("resnet20x32_cifar10_perm", "paper")
    assert (full.epochs, dict(full.model_args)["width"], full.shipped) == (250, 512, "none")
    shipped = {m: recipe(name, "lite").shipped for name, m in LAYER_NORM.items()}
    assert shipped == {0.25: "small", 0.5: "small", 1: "small", 2: "every", 4: "none"}
    assert recipe(RESNET50, "smoke").shipped == "small"
    images = {
        m: (p.pair_first, p.first, p.train_first, p.calibration)
        for name, m in LAYER_NORM.items()
        for p in [pairs.plan_of(f"{name}_weight", "lite")]
    }
    assert images == {
        0.25: (None, 1000, 10_000, 0),
        0.5: (None, 1000, 10_000, 0),
        1: (3000, 1000, 10_000, 0),
        2: (1500, 500, 5000, 0),
        4: (750, 250, 2500, 0),
    }
    plan_ = pairs.plan_of(RESNET50, "lite")
    assert (plan_.pair_first, plan_.first, plan_.calibration, plan_.draws) == (400, 100, 200, 2)


def test_controls_are_independent_networks_where_there_are_three_pairs():
    assert pairs.members("resnet20x1_cifar10_perm_weight", 2) == {
        "A": (4, "A"),
        "B": (5, "A"),
        "independent": (0, "A"),
    }
    for name in (
        "resnet20x2_cifar10_perm_weight",
        "resnet20x4_cifar10_perm_weight",
        "resnet20x32_cifar10_perm_weight",
    ):
        assert (
            set(pairs.members(name, 0)) == {"A", "B"}
            and not pairs.plan_of(name, "paper" if "x32" in name else "lite").control
        )
    trained = {u for u in plan("lite") if u.trains}
    for name, networks in (
        ("resnet20x0.25", 6),
        ("resnet20x0.5", 6),
        ("resnet20x1", 6),
        ("resnet20x2", 4),
        ("resnet20x4", 2),
    ):
        assert sum(u.name == f"{name}_cifar10_perm" for u in trained) == networks
    assert (
        sum(u.name == RESNET50 for u in trained) == 5
    )  # two trunks, A and B of one, A of the other


def test_the_queue_comes_to_small_networks_first_and_measures_each_right_behind_it():
    units_ = plan()
    first = {
        key: next(k for k, u in enumerate(units_) if (u.profile, u.name, u.part) == key)
        for key in (
            ("lite", "resnet20x0.25_cifar10_perm_weight", "sweep"),
            ("paper", "resnet20_cifar10_spawn", "pair"),
            ("lite", "resnet20x2_cifar10_perm_weight", "sweep"),
            ("paper", MLP, "closeness"),
            ("lite", "resnet20_cifar10_spawn", "closeness"),
            ("lite", RESNET50, "closeness"),
            ("lite", "resnet20x4_cifar10_perm_weight", "sweep"),
            ("lite", "resnet20_cifar10_spawn_at5", "pair"),
        )
    }
    assert list(first.values()) == sorted(first.values())
    wide = [u for u in units_ if u.name.startswith("resnet20x4") and u.profile == "lite"]
    assert [u.part for u in wide] == [
        "train A",
        "train A",
        *pairs.plan_of("resnet20x4_cifar10_perm_weight", "lite").parts,
    ]
    assert not any("x32" in u.name for u in units_)
    assert {u.name for u in plan("paper", ["resnet20x32_cifar10_perm_weight"])} == {
        "resnet20x32_cifar10_perm",
        "resnet20x32_cifar10_perm_weight",
    }
    assert {u.name for u in plan(None, [MLP])} == {MLP} and {
        u.profile for u in plan(None, [MLP])
    } == {"smoke", "lite", "paper"}


def test_what_a_profile_reduces_is_told():
    assert (
        reductions("resnet20x1_cifar10_perm_weight", "lite")
        == "epochs 250 -> 24; warm-up as long as it is (1 of 24 epochs)"
    )
    assert reductions(f"{LAYER_NORM_BY_CODE}_weight", "lite").endswith("(5 of 24 epochs)")
    assert "epochs 90 -> 18" in reductions(RESNET50, "lite") and "shipped" not in reductions(
        RESNET50, "smoke"
    )


# pages of the first edition


def test_pages_of_the_first_edition_show_what_they_showed(tmp_path, monkeypatch):
    """Larger networks of a recipe that they show reduced, and experiments that are new, wait for
    the second.
    """
    name = "resnet20_cifar10_spawn"
    rows = {
        "lite": [Row("1-cos_AB", 0.25, site="Block 1-1")],
        "paper": [Row("1-cos_AB", 0.5, site="Block 1-1")],
    }
    monkeypatch.setattr(records, "RECORDS", tmp_path)
    for profile in ("lite", "paper"):
        provenance = {
            "recipe": name,
            "recipe_hash": recipe(name, profile).hash,
            "endpoints": {},
            "train_seconds": 60.0,
            "measure_seconds": 60.0,
            "parts": ["pair"],
            "data": {"name": "cifar10", "train": 100, "test": 10, "source": "a test"},
        }
        for experiment in ("fig10", "decomposition", "closeness"):
            records.save_pair(
                experiment,
                profile,
                f"{name}/0",
                provenance,
                rows[profile],
                model="resnet20",
                data="cifar10",
                method="spawning",
            )
    assert (
        records.best("fig10").profile == "lite"
        and records.best_of_each("decomposition").profile == "lite"
    )
    assert records.best_of_each("decomposition").table["mean"].tolist() == [0.25]
    assert records.experiments_shown("paper") == [] and records.experiments_shown("lite") == [
        "decomposition",
        "fig10",
    ]
    assert {profile for profile, _ in cost.spent()} == {"lite"}
    monkeypatch.setattr(records, "HELD", {})
    assert records.best("fig10").profile == "paper" and records.experiments_shown("paper") == [
        "decomposition",
        "fig10",
    ]


def test_settings_shown_are_those_of_the_first_edition():
    planned = {name for profile in PROFILES for name in settings.planned(profile)}
    assert MLP in planned and not any(
        name.startswith(("resnet20x", "resnet50")) for name in planned
    )
    shown = settings.choices().text + settings.table_of("B.1.2").text
    assert "ResNet-20 (32x, LayerNorm)" in shown and not any(
        f"({m:g}x, LayerNorm)" in shown for m in LAYER_NORM.values()
    )
    assert set(PAIRS["lite"]) - planned  # they are planned all the same
