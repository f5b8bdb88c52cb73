"""What pages read: each setting at its largest scale, of its own recipe, under a name that tells
it from the others.
"""

import pandas as pd
import pytest
from llfc_book import evidence as ev
from llfc_book import records
from llfc_book.study.catalogue import EXPERIMENTS
from llfc_book.study.settings import PAIRS, PROFILES, RECIPES, recipe

from llfc_lib.metrics import Row

MLP = "mlp_mnist_spawn"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Records of one's own."""
    monkeypatch.setattr(records, "RECORDS", tmp_path)
    ev.at.cache_clear()
    yield tmp_path
    ev.at.cache_clear()


def save(profile: str, count: int, name: str = MLP, value: float = 0.5, hashed: str = "") -> None:
    for k in range(count):
        told = {
            "recipe": name,
            "recipe_hash": hashed or recipe(name, profile).hash,
            "data": {"name": "mnist", "source": "toy"},
        }
        rows = [Row("cos_ratio", value, site="FC 1", alpha=0.5)]
        about = {"model": "mlp", "data": "mnist", "method": "spawning"}
        records.save_pair("fig08", profile, f"{name}/{k}", told, rows, **about)


def test_the_largest_scale_is_shown_and_others_beside_it_only_where_asked(folder):
    assert ev.best("cos_ratio", MLP) is None
    for profile, scale in zip(reversed(PROFILES[::-1]), ("proxy", "reduced", "full")):
        save(profile, 1 if profile == "paper" else 3)
        ev.at.cache_clear()
        assert ev.best("cos_ratio", MLP).scale == scale
    assert [(m.scale, m.pairs) for m in ev.every_scale("cos_ratio", MLP)] == [
        ("full", 1),
        ("reduced", 3),
    ]


def test_a_record_of_another_recipe_is_refused(folder):
    save("paper", 1, hashed="of before")
    with pytest.raises(records.RecordError, match="made from another recipe"):
        ev.best("cos_ratio", MLP)


def test_names_tell_settings_apart():
    named = [n for n, s in RECIPES.items() if s.family in ("spawned", "matched")]
    names = [ev.name_of(name) for name in named]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "_" in name]


def test_what_is_shown_as_the_appendixs_is_no_variant():
    shown = {n for n, s in RECIPES.items() if ev.spawned(s) or ev.matched(s)}
    assert "mlp_mnist_spawn_lr1.2e-3" not in shown
    assert not {n for n in shown if "_at" in n or "code" in n}
    assert {"vgg16_cifar10_spawn", "mlp_cifar10_perm_ste", "resnet50_tinyimagenet_spawn"} <= shown


@pytest.mark.parametrize("profile", PROFILES)
def test_every_pair_on_record_is_a_planned_one(profile):
    for name in EXPERIMENTS:
        if records.path_of(name, profile).exists():
            for pair, told in records.provenances(name, profile).items():
                assert int(pair.rpartition("/")[2]) < PAIRS[profile][told["recipe"]]


def test_layers_are_in_the_order_of_the_network():
    given = ["logits", "FC 1", "Conv 2-1", "Conv 1-2", "Block 1-1 inner", "Conv 1", "Block 1-1"]
    values = [("x/0", site, 0.5, "") for site in given]
    series = pd.Series(1.0, pd.MultiIndex.from_tuples(values, names=ev.KEYS))
    order = "Conv 1|Block 1-1 inner|Block 1-1|Conv 1-2|Conv 2-1|FC 1|logits"
    assert ev.sites_of(series, inner=True) == order.split("|")
