"""Matched pairs as the book measures them: found, checked, shipped, published. All on smoke, in
float64.
"""

import json
from dataclasses import replace

import pytest
import torch
from llfc_book import records
from llfc_book.study import matched, pairs, publish
from llfc_book.study.measures import sweep
from llfc_book.study.measures.pair import measure_pair, metrics_of
from llfc_book.study.pairs import Pair, load_pair
from llfc_book.study.parts import versions
from llfc_book.study.settings import RECIPES, WIDTHS, group, recipe
from llfc_book.study.units import Unit, dataset
from nets import find, whole

from llfc_lib.matching import permuted, symmetry
from llfc_lib.metrics import stable_rank
from llfc_lib.models import MLP
from llfc_lib.models.view import View
from llfc_lib.models.weights import interpolate
from llfc_lib.training.loop import new_network

NAME = "mlp_mnist_perm_weight"
MATCHED = group("matched MLP")


@pytest.fixture(scope="module")
def pair():
    return load_pair(recipe(NAME, "smoke"), 0)


def test_matched_pairs_are_independent_networks_and_share_none():
    seeds = [recipe(NAME, "smoke").members(k)[who] for k in range(3) for who in "AB"]
    assert len(set(seeds)) == 6 and {branch for _, branch in seeds} == {"A"}
    for k in range(3):
        own = recipe(NAME, "smoke").members(k)
        assert own["independent"] not in (own["A"], own["B"])
    assert "independent" not in recipe("vgg16_cifar10_spawn_weight", "smoke").members(0)


def test_matching_trains_no_network_of_its_own():
    for name in group("matched MLP", "matched, convolutional"):
        r, base = RECIPES[name], RECIPES[name].trained_as
        trained = {u.name for u in Unit("smoke", name, 0, "pair").needs() if u.trains}
        assert trained == {base}
        assert r.hash != RECIPES[base].hash  # but a record of another method is another record
        assert name not in MATCHED or replace(r, matching_args=()).hash != r.hash
    assert len({RECIPES[name].hash for name in MATCHED}) == len(MATCHED)


def test_the_units_of_a_matched_pair_wait_for_its_matching():
    match = Unit("smoke", NAME, 1, "match")
    assert [str(u) for u in match.needs()] == [
        f"smoke/mlp_mnist_perm/{index}/train A" for index in (2, 3)
    ]
    for part in ("pair", "closeness", "joint"):
        assert match in Unit("smoke", NAME, 1, part).needs()


def test_an_unknown_matching_is_refused(pair):
    wrong = replace(pair, setting=replace(pair.setting, matching="wieght"))
    with pytest.raises(ValueError, match="unknown matching 'wieght'"):
        matched.find(wrong)


@pytest.mark.parametrize("name", MATCHED)
def test_the_shipped_order_is_found_again(name):
    pair = load_pair(recipe(name, "smoke"), 0)
    shipped = json.loads(matched.shipped_permutation("smoke", name, 0).read_text())["permutations"]
    found, rows = matched.find(pair, known=matched.from_text(shipped))
    assert matched.as_text(found) == shipped
    if MATCHED[name].matching != "ste":  # which takes a while
        first, *others = shipped["fc2"]
        other = matched.from_text({**shipped, "fc2": [*others, first]})
        with pytest.raises(AssertionError, match="'fc2'"):
            matched.find(pair, known=other)
    losses, objectives = (
        {r.kind: r.mean for r in rows if r.quantity == quantity}
        for quantity in ("half_way_loss", "objective")
    )
    nulls = ("before matching", "random order")
    assert losses[""] < 0.5 * min(losses[kind] for kind in nulls)
    assert objectives[""] > max(objectives[kind] for kind in nulls)


@torch.no_grad()
def test_networks_with_running_statistics_are_chosen_on_recomputed_ones(monkeypatch):
    """Against PyTorch's own way of taking statistics anew."""
    pair = load_pair(recipe("resnet20_cifar10_spawn_weight", "smoke"), 0)
    data, a, b, losses, own = pair.data, pair.nets["A"], pair.nets["B"], [], matched.half_way_loss
    monkeypatch.setattr(matched, "half_way_loss", lambda *a: losses.append(own(*a)) or losses[-1])
    chosen, rows = matched.find(pair)
    found = find(rows, "half_way_loss", role="value").mean
    assert found == min(losses[:5]) < max(losses[:5])  # of five seeds
    sym, state = symmetry(a, next(iter(data.loader("test", 2)))[0]), a.state_dict()
    between = interpolate(state, sym.apply(b.state_dict(), chosen), 0.5)
    middle = permuted(a, sym, {})
    middle.load_state_dict(between)
    torch.optim.swa_utils.update_bn([x.double() for x in pair.calibration], middle)
    x, y = whole(list(data.loader("train", 100, torch.float64)))
    loss = float(torch.nn.functional.cross_entropy(middle.eval()(x), y))
    assert found == pytest.approx(loss, rel=1e-9)


def test_a_shipped_order_of_other_networks_is_not_used(pair, tmp_path, monkeypatch):
    real = json.loads(matched.shipped_permutation("smoke", NAME, 0).read_text())
    path, of = tmp_path / "wrong.json", real["networks"]
    monkeypatch.setattr(matched, "shipped_permutation", lambda *_: path)
    turned = {name: order[::-1] for name, order in real["permutations"].items()}
    for networks, expected in (({**of, "B": "another"}, real["permutations"]), (of, turned)):
        path.write_text(json.dumps({"networks": networks, "permutations": turned}))
        assert matched.as_text(matched.of_pair(pair)) == expected


def test_the_pair_is_measured_against_b_in_its_new_order_and_before(pair):
    order = matched.of_pair(pair)
    both = matched.bring_together(pair, order)
    assert both.nets["unmatched"] is pair.nets["B"]
    assert not torch.equal(both.nets["B"].fc1.weight, pair.nets["B"].fc1.weight)
    rows = measure_pair(both, lambda: metrics_of(both.setting.plan))
    for quantity in ("error_barrier_chord", "loss_barrier_chord"):
        before = find(rows, quantity, role="control", kind="unmatched").mean
        assert find(rows, quantity).mean < 0.5 * before, quantity
    measured = {r.quantity for r in rows}
    assert measured >= {"dist_transfer", "dist_weights", "dist_com", "cos_ratio", "stitched_error"}
    with pytest.raises(ValueError, match="'fc2'"):  # a wrong order, before anything is measured
        matched.bring_together(pair, {**order, "fc2": order["fc2"][:-1]})


def test_publishing_a_matched_pair_ships_its_order(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "ENDPOINTS", tmp_path / "endpoints")
    monkeypatch.setattr(records, "RECORDS", tmp_path / "records")
    publish._provenances.cache_clear()
    pair, match = (Unit("smoke", NAME, 0, part) for part in ("pair", "match"))
    for unit in (*pair.needs(), pair):
        unit.run()
    assert f"smoke {NAME}/0: match, pair" in publish.publish("smoke")
    path = matched.shipped_permutation("smoke", NAME, 0)
    assert path.parent == tmp_path / "endpoints" / "smoke"
    shipped = json.loads(path.read_text())["permutations"]
    assert shipped == matched.as_text(match.permutations())
    assert all(publish.is_published(Unit("smoke", NAME, 0, part)) for part in ("match", "pair"))
    record = records.load("fig12", "smoke")
    provenance = record.pairs[f"{NAME}/0"]
    assert provenance["measure_version"] == versions(["match", "pair"])
    assert provenance["seeds"] == {"A": "0A", "B": "1A", "independent": "2A"}
    assert set(record.table["method"]) == {"weight"}
    publish._provenances.cache_clear()


def test_truncation_brings_the_stable_rank_down_and_keeps_the_largest_direction():
    torch.manual_seed(0)
    network = MLP(12, 16, 5)
    state = network.state_dict()
    ranks = {m.weight: 0.7 * stable_rank(state[m.weight]) for m in View(network).maps}
    cut = sweep.truncated(network, ranks).state_dict()
    for name, rank in ranks.items():
        before, after = (torch.linalg.svdvals(s[name]) for s in (state, cut))
        assert stable_rank(cut[name]) <= rank + 1e-6
        assert torch.linalg.matrix_rank(cut[name]) < min(cut[name].shape)
        assert float(after[0]) == pytest.approx(float(before[0]), rel=1e-5)
    assert torch.equal(cut["fc1.bias"], state["fc1.bias"])


def test_a_sweep_measures_the_matched_pair_beside_the_unmatched_one(monkeypatch):
    r = recipe(list(WIDTHS)[0], "smoke")
    r, data = replace(r, plan=replace(r.plan, after=(0, 2))), dataset(r)
    rows = sweep.sweep(Pair(r, 0, {}, data))
    for epoch in (0, 2):
        found, before = (
            [row.mean for row in rows if (row.quantity, row.epoch, row.role, row.kind) == what]
            for what in (
                ("dist_transfer", epoch, "value", ""),
                ("dist_transfer", epoch, "control", "unmatched"),
            )
        )
        assert len(found) == len(before) > 0 and sum(found) < 0.9 * sum(before)
    start = new_network(r, data, 0)
    for m in View(start).maps:
        w = start.state_dict()[m.weight]
        rank = find(rows, "stable_rank_share_W", site=m.name, epoch=0, kind="").mean
        assert rank == pytest.approx(stable_rank(w) / w.shape[1])
    kinds = {r.kind for r in rows if r.quantity == "dist_transfer" and r.epoch == 0}
    assert kinds >= {sweep.TRUNCATED, f"{sweep.TRUNCATED}: unmatched"}


def test_no_number_is_made_where_the_permuted_network_is_another_function(pair, monkeypatch):
    """f(pi(B)) = f(B) before every experiment: where a symmetry forgets the biases, it is not."""

    def without_biases(network, x):
        sym = symmetry(network, x)
        sym.permutations = tuple(
            replace(p, uses=tuple(u for u in p.uses if not u.parameter.endswith("bias")))
            for p in sym
        )
        return sym

    order = matched.of_pair(pair)
    swept = recipe(list(WIDTHS)[0], "smoke")
    swept = replace(swept, plan=replace(swept.plan, after=(1,)))
    for module in (matched, sweep):
        monkeypatch.setattr(module, "symmetry", without_biases)
    monkeypatch.setattr(matched, "half_way_loss", lambda *_: pytest.fail("measured all the same"))
    for attempt in (
        lambda: matched.bring_together(pair, order),
        lambda: matched.find(pair),
        lambda: sweep.sweep(Pair(swept, 0, {}, dataset(swept))),
    ):
        with pytest.raises(RuntimeError, match=r"f\(pi\(B\)\) differs"):
            attempt()
