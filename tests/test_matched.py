"""Matched pairs as the book measures them: found, checked, shipped, published. All on smoke, in
float64.
"""

import json
from dataclasses import replace

import pytest
import torch
from llfc_book import records
from llfc_book.claims import verdicts
from llfc_book.claims.claims import CLAIMS
from llfc_book.claims.verdicts import (
    EXCEEDS,
    EXCEEDS_NOT,
    NO_NULL,
    NOT,
    PARTLY,
    REPRODUCED,
    judge_claim,
)
from llfc_book.study import matched, pairs, publish
from llfc_book.study.measures import sweep
from llfc_book.study.measures.pair import measure_pair
from llfc_book.study.pairs import Pair, load_pair
from llfc_book.study.parts import versions
from llfc_book.study.settings import MATCHED, MATCHED_SPAWNED, RECIPES, WIDTHS, recipe
from llfc_book.study.units import Unit, dataset
from nets import find, whole

from llfc_lib.matching import permuted, symmetry
from llfc_lib.metrics import Row, stable_rank
from llfc_lib.models import MLP
from llfc_lib.models.view import View
from llfc_lib.models.weights import interpolate
from llfc_lib.training.loop import new_network

CLAIM = {claim.id: claim for claim in CLAIMS}
NAME = "mlp_mnist_perm_weight"


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
    for name in (*MATCHED, *MATCHED_SPAWNED):
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
    for part in ("pair", "rotation matched", "joint"):
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
    if MATCHED[name][1] != "ste":  # which takes a while
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
    if MATCHED[name][1] == "weight":  # the order with the lowest training loss half-way, of five
        tried = [loss for kind, loss in losses.items() if kind.startswith("seed")]
        assert len(tried) == 5 and losses[""] == min(tried)


@torch.no_grad()
def test_networks_with_running_statistics_are_chosen_on_recomputed_ones():
    """Against PyTorch's own way of taking statistics anew."""
    pair = load_pair(recipe("resnet20_cifar10_spawn_weight", "smoke"), 0)
    data, a, b = pair.data, pair.nets["A"], pair.nets["B"]
    chosen, rows = matched.find(pair)
    losses = {r.kind: r.mean for r in rows if r.quantity == "half_way_loss" and r.role == "value"}
    assert losses[""] == min(losses.values()) < max(losses.values()) and len(losses) == 6
    sym, state = symmetry(a, next(iter(data.loader("test", 2)))[0]), a.state_dict()
    between = interpolate(state, sym.apply(b.state_dict(), chosen), 0.5)
    middle = permuted(a, sym, {})
    middle.load_state_dict(between)
    torch.optim.swa_utils.update_bn([x.double() for x in pair.calibration], middle)
    x, y = whole(list(data.loader("train", 100, torch.float64)))
    loss = float(torch.nn.functional.cross_entropy(middle.eval()(x), y))
    assert losses[""] == pytest.approx(loss, rel=1e-9)


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
    rows = measure_pair(both, controls=("unmatched",))
    for quantity in (
        "error_barrier_chord",
        "error_barrier_chord_on_training",
        "loss_barrier_chord_on_training",
    ):
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
    pair = Unit("smoke", NAME, 0, "pair")
    for unit in (*pair.needs(), pair):
        unit.run()
    assert f"smoke {NAME}/0: match, pair" in publish.publish("smoke")
    path = matched.shipped_permutation("smoke", NAME, 0)
    assert path.parent == tmp_path / "endpoints" / "smoke"
    shipped = json.loads(path.read_text())["permutations"]
    assert shipped == matched.as_text(pair.permutations())
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


def test_a_planted_order_is_found_until_noise_buries_it(pair):
    a = pair.nets["A"]
    sym = symmetry(a, next(iter(pair.data.loader("test", 2)))[0])
    found = {
        noise: [matched.finds_planted(a, sym, noise, seed) for seed in range(3)]
        for noise in (0.1, 3.0)
    }
    assert found[0.1] == [True] * 3 and not all(found[3.0])


# rules


def record(rows_by_pair, method="weight", data="mnist"):
    provenance = {
        pair: {"recipe": pair.split("/")[0], "data": {"name": data, "source": "toy"}}
        for pair in rows_by_pair
    }
    return records.live_record(
        "toy", "paper", provenance, rows_by_pair, model="mlp", data=data, method=method
    )


def judged(claim, rows, name=NAME, **of):
    verdict = judge_claim(CLAIM[claim], record({f"{name}/0": rows}, **of))
    return verdict.agreement, verdict.evidence


def nulls(quantity, value, kinds, **where):
    return [Row(quantity, value, role="null", kind=kind, **where) for kind in kinds]


@pytest.mark.parametrize("before, expected", [(0.9, EXCEEDS), (0.04, EXCEEDS_NOT)])
def test_a_matched_pair_must_also_beat_itself_before_matching(before, expected):
    where = {"site": "FC 2", "direction": "on A"}
    rows = [
        Row("dist_weights", 0.05, **where),
        Row("dist_weights", before, **where, role="control", kind="unmatched"),
        *nulls("dist_weights", 0.5, ("shuffled units", *verdicts.MATCHED), **where),
    ]
    assert judged("strong_weights_mnist_weight", rows) == (REPRODUCED, expected)


RANDOM = ("gaussian matrix", "before training")


def low_rank(what, middle, rank=0.01, site="FC 2", null=0.5):
    return [
        Row(f"sigma_{what}/0.5", middle, site=site),
        Row(f"stable_rank_share_{what}", rank, site=site),
        *nulls(f"sigma_{what}/0.5", null, RANDOM[:1], site=site),
        *nulls(f"stable_rank_share_{what}", 0.25, RANDOM, site=site),
    ]


@pytest.mark.parametrize(
    "middle, rank, expected",
    [
        (0.05, 0.01, (REPRODUCED, EXCEEDS)),
        (0.2, 0.01, (NOT, EXCEEDS)),
        (0.05, 0.2, (REPRODUCED, EXCEEDS_NOT)),
    ],
)
def test_low_rank(middle, rank, expected):
    # ten rows of 512: the middle singular value is 0 for any weights, which must not count as
    # agreement
    narrow = [
        Row("sigma_W/0.5", 0.0, site="FC 4"),
        *nulls("sigma_W/0.5", 0.0, RANDOM[:1], site="FC 4"),
    ]
    rows = low_rank("W", middle, rank) + narrow
    assert judged("low_rank_weights_mnist", rows) == expected


def test_low_rank_by_shape_alone_is_no_verdict():
    with pytest.raises(records.RecordError):
        judged("low_rank_weights_mnist", low_rank("W", 0.0, site="FC 4", null=0.0))


@pytest.mark.parametrize(
    "activation, weight, chance, before, expected",
    [
        (1.05, 1.2, 9.0, 9.0, (PARTLY, EXCEEDS)),
        (1.5, 1.2, 9.0, 9.0, (NOT, EXCEEDS)),
        (1.05, 1.09, 2.0, 9.0, (REPRODUCED, EXCEEDS_NOT)),
        (1.05, 1.09, 9.0, 2.0, (REPRODUCED, EXCEEDS_NOT)),
    ],
)
def test_matching_comes_near_the_joint_minimum(activation, weight, chance, before, expected):
    found = {"activation": activation, "weight": weight, "local search": 1.0}
    rows = [Row("residual", 7.0 * value, kind=kind) for kind, value in found.items()]
    rows += nulls("residual", 7.0 * chance, ["random order"])
    rows += nulls("residual", 7.0 * before, ["before matching"])
    assert judged("joint_mnist", rows) == expected


@pytest.mark.parametrize(
    "interpolated, again, expected", [(0.8, 0.3, REPRODUCED), (0.8, 0.0, NOT), (0.0, 0.8, NOT)]
)
def test_vgg_is_not_connected_only_if_it_is_so_with_either_statistics(
    interpolated, again, expected
):
    rows = [
        Row("error_barrier_chord", interpolated, n=10000),
        Row("error_barrier_chord", again, n=10000, statistics="recomputed"),
        Row("error", 0.08, n=10000, alpha=0.0),
        Row("error", 0.08, n=10000, alpha=1.0),
        Row("error_barrier_chord", 0.82, n=10000, role="control", kind="unmatched"),
    ]
    found = judged("vgg_perm", rows, "vgg16_cifar10_spawn_weight", data="cifar10")
    assert found == (expected, NO_NULL)


def width_rows(rank, barrier, gain=0.5, whole=0.6, cut=0.2):
    """Rows of one pair: (rank, barrier) by epoch, what matching leaves of trained, untrained and
    truncated networks.
    """
    found = []
    for epoch, (r, b) in {0: (0.3, 2.0), **{e: (rank(e), barrier(e)) for e in (1, 5, 15)}}.items():
        found += [
            Row("stable_rank_share_W", r, site="FC 2", epoch=epoch),
            Row("loss_barrier_chord_on_training", b, epoch=epoch),
            Row("dist_transfer", (gain if epoch else whole) ** 2, site="FC 2", epoch=epoch),
            Row("dist_transfer", 1.0, site="FC 2", epoch=epoch, role="control", kind="unmatched"),
        ]
    where = {"epoch": 0, "role": "control"}
    return found + [
        Row("stable_rank_share_W", 0.1, site="FC 2", kind="untrained, truncated", **where),
        Row("loss_barrier_chord_on_training", 2.0, kind="untrained, truncated", **where),
        Row("dist_transfer", cut**2, site="FC 2", kind="untrained, truncated", **where),
        Row("dist_transfer", 1.0, site="FC 2", kind="untrained, truncated: unmatched", **where),
    ]


def test_low_rank_predicts_matchability_over_all_at_fixed_width_and_at_fixed_epoch():
    def verdict(rank, barrier, **rest):
        rows = {
            f"{name}/0": width_rows(lambda e, k=k: rank(k, e), lambda e, k=k: barrier(k, e), **rest)
            for k, name in enumerate(list(WIDTHS)[:4])
        }
        return judge_claim(CLAIM["widths"], record(rows))

    found = verdict(lambda k, e: 0.2 / (1 + k + e / 20), lambda k, e: 2 / (1 + k + e / 20))
    assert (found.agreement, found.evidence) == (REPRODUCED, EXCEEDS)
    # over sweep only: as training goes on the rank rises while the barrier falls
    found = verdict(lambda k, e: 0.2 / (1 + k) + e / 1000, lambda k, e: 2 / (1 + k + e / 20))
    assert found.agreement == PARTLY and "at fixed width -1.00" in found.ours
    # low rank alone does not make untrained networks match
    found = verdict(lambda k, e: 0.2 / (1 + k + e), lambda k, e: 2 / (1 + k + e), cut=0.5)
    assert found.evidence == EXCEEDS_NOT


def test_what_matching_leaves_is_the_root_of_a_ratio_over_maps_that_a_permutation_enters():
    rows = width_rows(lambda e: 0.1, lambda e: 1.0, gain=0.3)
    for quantity in ("stable_rank_share_W", "dist_transfer"):
        rows.append(Row(quantity, 50.0, site="FC 1", epoch=15))  # the images' map does not count
    table = verdicts.width_table(record({f"{list(WIDTHS)[0]}/0": rows}).frame())
    last = table[table["epoch"] == 15].iloc[0]
    assert last["gain"] == pytest.approx(0.3) and last["rank"] == pytest.approx(0.1)


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
