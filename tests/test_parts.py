"""Families, parts and plans: who answers for what."""

from dataclasses import replace

import pytest
from llfc_book.study import matched
from llfc_book.study.measures import joint
from llfc_book.study.measures.pair import metrics_of
from llfc_book.study.pairs import load_pair
from llfc_book.study.parts import part, register
from llfc_book.study.settings import FAMILIES, PAIRS, PROFILE, RECIPES, SCALE, Plan, recipe
from llfc_book.study.units import Unit

NAME = "mlp_mnist_spawn"


def test_every_recipe_has_a_family_and_its_pairs_have_distinct_networks():
    assert {setting.family for setting in RECIPES.values()} == set(FAMILIES)
    for profile, counts in PAIRS.items():
        for name, count in counts.items():
            setting = recipe(name, profile)
            assert setting.profile == profile and setting.scale is PROFILE[profile]
            assert setting.family in ("spawned", "matched", "swept") and setting.plan.parts
            for pair in range(count):
                members = setting.members(pair)
                assert len(set(members.values())) == len(members)
                assert ("independent" in members) == (setting.plan.control and bool(members))
    two = recipe(NAME, "smoke").members(1)
    assert two == {"A": (1, "A"), "B": (1, "B"), "independent": (2, "A")}
    matched = recipe("mlp_mnist_perm_weight", "paper").members(2)
    assert matched == {"A": (4, "A"), "B": (5, "A"), "independent": (0, "A")}


def test_matched_settings_are_scaled_as_their_networks_are_trained():
    for scale in SCALE.values():
        for name in (name for name in scale if RECIPES[name].base):
            ours, theirs = (
                {k: v for k, v in scale[n].items() if k != "matching_args"}
                for n in (name, RECIPES[name].base)
            )
            assert ours == theirs


def test_every_planned_part_is_registered():
    for profile, counts in PAIRS.items():
        for name in counts:
            setting = recipe(name, profile)
            for of in setting.plan.parts:
                assert not set(part(of).members) - {"A", "B", "independent"}
                assert "match" not in setting.plan.parts or setting.needs_order


def test_an_unknown_part_is_refused_and_no_name_is_taken_twice():
    with pytest.raises(ValueError, match="unknown part 'pairs'; choose one of .*'pair'"):
        part("pairs")
    with pytest.raises(ValueError, match="there is a part 'pair' already"):
        register("pair")(lambda pair: [])


def test_a_plan_tells_what_numbers_depend_on():
    plan = Plan()
    for change in ({"draws": 3}, {"train_first": 10}, {"control": False}, {"first": 5}):
        assert replace(plan, **change).identity() == {**plan.identity(), **change}
    for change in ({"batch": 7}, {"metrics": "large"}, {"thorough": False}):
        assert replace(plan, **change).identity() == plan.identity()


def test_the_joint_part_sets_all_orders_beside_b_as_it_was(monkeypatch):
    """Under "before matching" B must not be in the order that a method found."""
    seen = []
    monkeypatch.setattr(joint, "rows", lambda pair, orders: seen.append((pair, orders)) or [])
    pair = Unit("smoke", "mlp_mnist_perm_weight", 0, "joint")._pair("cpu")
    joint.rows_with_tiny(pair, ())
    ((measured, orders),) = seen
    assert set(orders) == {"activation", "weight", "ste"}
    assert measured.nets["B"] is pair.nets["unmatched"] is not pair.nets["B"]


def test_a_live_joint_part_finds_orders_of_b_as_it_was(monkeypatch, tmp_path):
    """Where no order is shipped: found on a B that was matched before, it would be of that one."""
    setting = recipe("mlp_mnist_perm_weight", "smoke")
    pair = matched.bring_together(first := load_pair(setting, 0), matched.of_pair(first))
    monkeypatch.setattr(matched, "shipped_permutation", lambda *_: tmp_path / "none")
    looked_at = []
    monkeypatch.setattr(matched, "find", lambda pair: looked_at.append(pair.nets["B"]) or ({}, []))
    monkeypatch.setattr(joint, "rows", lambda pair, orders: [])
    monkeypatch.setattr(joint, "tiny", lambda *_: [])
    assert part("joint").live(pair) == []
    assert len(looked_at) == 3 and all(b is pair.nets["unmatched"] for b in looked_at)


def test_an_unknown_family_or_set_of_metrics_is_refused_by_name():
    setting = recipe(NAME, "smoke")
    with pytest.raises(ValueError, match="unknown family 'spawnd'; choose one of"):
        replace(setting, family="spawnd").members(0)
    with pytest.raises(ValueError, match="unknown metrics 'larg' in a plan; choose one of"):
        metrics_of(Plan(metrics="larg"))
