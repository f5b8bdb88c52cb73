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
from llfc_book.show import select
from llfc_book.study import matched, pairs, publish, widths
from llfc_book.study.settings import MATCHED, MATCHED_SPAWNED, RECIPES, WIDTHS, recipe
from llfc_book.study.units import Unit, dataset, measure_version, plan

from llfc_lib.matching import permuted, symmetry
from llfc_lib.metrics import Row, stable_rank
from llfc_lib.models import MLP
from llfc_lib.models.view import View

CLAIM = {claim.id: claim for claim in CLAIMS}
NAME = "mlp_mnist_perm_weight"


@pytest.fixture(scope="module")
def pair():
    return pairs.networks("smoke", NAME, 0)


def test_matched_pairs_are_independent_networks_and_share_none():
    seeds = [pairs.members(NAME, k)[who] for k in range(3) for who in "AB"]
    assert len(set(seeds)) == 6 and {branch for _, branch in seeds} == {"A"}
    for k in range(3):
        own = pairs.members(NAME, k)
        assert own["independent"] not in (own["A"], own["B"])
    assert "independent" not in pairs.members("vgg16_cifar10_spawn_weight", 0)


def test_matching_trains_no_network_of_its_own():
    for name, (base, method) in {**MATCHED, **MATCHED_SPAWNED}.items():
        r = RECIPES[name]
        assert (r.trained_as, r.matching) == (base, method)
        assert {
            u.name
            for profile in ("smoke",)
            for u in Unit(profile, name, 0, "pair").needs()
            if u.trains
        } == {base}
        assert r.hash != RECIPES[base].hash  # but a record of another method is another record
    assert len({RECIPES[name].hash for name in MATCHED}) == len(MATCHED)
    assert {u.part for u in plan("smoke") if u.name in MATCHED} >= {
        "match",
        "pair",
        "spectra",
        "rotation matched",
    }


def test_the_units_of_a_matched_pair_wait_for_its_matching():
    needs = Unit("smoke", NAME, 1, "rotation matched").needs()
    assert (
        Unit("smoke", NAME, 1, "match") in needs
        and [u.part for u in Unit("smoke", NAME, 1, "match").needs()] == ["train A"] * 2
    )
    joint = [str(u) for u in Unit("smoke", NAME, 1, "joint").needs()]
    assert joint == [
        "smoke/mlp_mnist_perm/2/train A",
        "smoke/mlp_mnist_perm/3/train A",
        *(f"smoke/mlp_mnist_perm_{method}/1/match" for method in ("activation", "weight", "ste")),
    ]


@pytest.mark.parametrize("name", MATCHED)
def test_the_shipped_order_is_found_again(name):
    nets, data = pairs.networks("smoke", name, 0)
    shipped = json.loads(matched.shipped_permutation("smoke", name, 0).read_text())["permutations"]
    found, rows = matched.find("smoke", name, 0, nets, data, known=matched.from_text(shipped))
    assert matched.as_text(found) == shipped
    if MATCHED[name][1] != "ste":  # which takes a while
        first, *others = shipped["fc2"]
        with pytest.raises(
            AssertionError, match="pair 0: another order than the one known of .*'fc2'"
        ):
            matched.find(
                "smoke",
                name,
                0,
                nets,
                data,
                known=matched.from_text({**shipped, "fc2": [*others, first]}),
            )

    def loss(role="value", kind=""):
        return next(
            r.mean for r in rows if (r.quantity, r.role, r.kind) == ("half_way_loss", role, kind)
        )

    assert loss() < 0.5 * min(loss("null", "before matching"), loss("null", "random order"))
    objective = {(r.role, r.kind): r.mean for r in rows if r.quantity == "objective"}
    assert objective["value", ""] > max(
        objective["null", "before matching"], objective["null", "random order"]
    )
    if MATCHED[name][1] == "weight":  # the order with the lowest training loss half-way, of five
        losses = [
            r.mean for r in rows if r.quantity == "half_way_loss" and r.kind.startswith("seed")
        ]
        assert len(losses) == 5 and loss() == min(losses)


def test_networks_with_running_statistics_are_chosen_on_recomputed_ones():
    """Against PyTorch's own way of taking statistics anew."""
    profile, name = "smoke", "resnet20_cifar10_spawn_weight"
    nets, data = pairs.networks(profile, name, 0)
    chosen, rows = matched.find(profile, name, 0, nets, data)
    losses = {r.kind: r.mean for r in rows if r.quantity == "half_way_loss" and r.role == "value"}
    assert losses[""] == min(losses.values()) < max(losses.values()) and len(losses) == 6
    a, b = (
        nets["A"],
        permuted(nets["B"], symmetry(nets["A"], next(iter(data.loader("test", 2)))[0]), chosen),
    )
    middle, state_b = pairs.networks(profile, name, 0, only=("A",))[0]["A"].double(), b.state_dict()
    middle.load_state_dict(
        {
            key: (value + state_b[key]) / 2 if value.is_floating_point() else value
            for key, value in a.state_dict().items()
        }
    )
    images = pairs.calibration(
        data, recipe(name, profile), pairs.plan_of(name, profile).calibration
    )
    torch.optim.swa_utils.update_bn([x.double() for x in images], middle)
    middle.eval()
    with torch.no_grad():
        loss = sum(
            float(torch.nn.functional.cross_entropy(middle(x), y, reduction="sum"))
            for x, y in data.loader("train", 100, torch.float64)
        )
    assert losses[""] == pytest.approx(loss / len(data.y_train), rel=1e-9)


def test_a_shipped_order_of_other_networks_is_not_used(pair, tmp_path, monkeypatch):
    nets, data = pair
    real = json.loads(matched.shipped_permutation("smoke", NAME, 0).read_text())
    path = tmp_path / "wrong.json"
    monkeypatch.setattr(matched, "shipped_permutation", lambda *_: path)
    turned = {name: order[::-1] for name, order in real["permutations"].items()}
    path.write_text(
        json.dumps({"networks": {**real["networks"], "B": "another"}, "permutations": turned})
    )
    assert matched.as_text(matched.of_pair("smoke", NAME, 0, nets, data)) == real["permutations"]
    path.write_text(json.dumps({"networks": real["networks"], "permutations": turned}))
    assert matched.as_text(matched.of_pair("smoke", NAME, 0, nets, data)) == turned


def test_the_pair_is_measured_against_b_in_its_new_order_and_before(pair):
    nets, data = pair
    order = matched.of_pair("smoke", NAME, 0, nets, data)
    both = matched.bring_together("smoke", NAME, nets, data, order)
    assert both["unmatched"] is nets["B"] and not torch.equal(
        both["B"].fc1.weight, nets["B"].fc1.weight
    )
    rows = pairs.measure_pair("smoke", NAME, both, data, controls=("unmatched",))

    def barrier(quantity, role="value", kind=""):
        return next(r.mean for r in rows if (r.quantity, r.role, r.kind) == (quantity, role, kind))

    for quantity in (
        "error_barrier_chord",
        "error_barrier_chord_on_training",
        "loss_barrier_chord_on_training",
    ):
        assert barrier(quantity) < 0.5 * barrier(quantity, "control", "unmatched"), quantity
    assert {r.quantity for r in rows} >= {
        "dist_transfer",
        "dist_weights",
        "dist_com",
        "cos_ratio",
        "stitched_error",
    }


def test_a_wrong_order_stops_before_anything_is_measured(pair):
    nets, data = pair
    order = matched.of_pair("smoke", NAME, 0, nets, data)
    with pytest.raises(ValueError, match="must hold each of 0..63 once"):
        matched.bring_together("smoke", NAME, nets, data, {**order, "fc2": order["fc2"][:-1]})


def test_publishing_a_matched_pair_ships_its_order(tmp_path, monkeypatch):
    monkeypatch.setenv("LLFC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pairs, "ENDPOINTS", tmp_path / "endpoints")
    monkeypatch.setattr(records, "RECORDS", tmp_path / "records")
    publish._provenances.cache_clear()
    units = [u for u in Unit("smoke", NAME, 0, "pair").needs()] + [Unit("smoke", NAME, 0, "pair")]
    for unit in units:
        unit.run()
    assert f"smoke {NAME}/0: match, pair" in publish.publish("smoke")
    assert matched.shipped_permutation("smoke", NAME, 0).parent == tmp_path / "endpoints" / "smoke"
    assert json.loads(matched.shipped_permutation("smoke", NAME, 0).read_text())[
        "permutations"
    ] == matched.as_text(units[-1].permutations())
    assert publish.is_published(units[-1]) and publish.is_published(Unit("smoke", NAME, 0, "match"))
    record = records.load("fig12", "smoke")
    assert record.pairs[f"{NAME}/0"]["measure_version"] == {
        part: measure_version(part) for part in ("match", "pair")
    }
    assert set(record.table["method"]) == {"weight"} and record.pairs[f"{NAME}/0"]["seeds"] == {
        "A": "0A",
        "B": "1A",
        "independent": "2A",
    }
    publish._provenances.cache_clear()


def test_truncation_brings_the_stable_rank_down_and_keeps_the_largest_direction():
    torch.manual_seed(0)
    network = MLP(12, 16, 5)
    ranks = {
        m.weight: 0.7 * stable_rank(network.state_dict()[m.weight]) for m in View(network).maps
    }
    cut = widths.truncated(network, ranks)
    for name, rank in ranks.items():
        before, after = network.state_dict()[name], cut.state_dict()[name]
        assert stable_rank(after) <= rank + 1e-6 and torch.linalg.matrix_rank(after) < min(
            after.shape
        )
        assert torch.linalg.matrix_norm(after, 2) == pytest.approx(
            float(torch.linalg.matrix_norm(before, 2)), rel=1e-5
        )
    assert torch.equal(cut.fc1.bias, network.fc1.bias)


def test_a_planted_order_is_found_until_noise_buries_it(pair, monkeypatch):
    nets, data = pair
    sym = symmetry(nets["A"], next(iter(data.loader("test", 2)))[0])
    found = {
        noise: [matched.finds_planted(nets["A"], sym, noise, seed) for seed in range(3)]
        for noise in (0.1, 3.0)
    }
    assert found[0.1] == [True] * 3 and not all(found[3.0])
    real = matched.weight_matching
    monkeypatch.setattr(
        matched,
        "weight_matching",
        lambda *args, **options: replace(
            real(*args, **options), objective=0.99 * real(*args, **options).objective
        ),
    )
    assert not matched.finds_planted(nets["A"], sym, 0.1, 0)


# rules


def record(rows_by_pair, method="weight", data="mnist"):
    provenance = {
        pair: {"recipe": pair.split("/")[0], "data": {"name": data, "source": "toy"}}
        for pair in rows_by_pair
    }
    return records.live_record(
        "toy", "paper", provenance, rows_by_pair, model="mlp", data=data, method=method
    )


def test_a_matched_pair_must_also_beat_itself_before_matching():
    def rows(before):
        return [
            Row("dist_weights", 0.05, site="FC 2", direction="on A"),
            *(
                Row("dist_weights", 0.5, site="FC 2", direction="on A", role="null", kind=kind)
                for kind in ("shuffled units", *verdicts.MATCHED)
            ),
            Row(
                "dist_weights",
                before,
                site="FC 2",
                direction="on A",
                role="control",
                kind="unmatched",
            ),
        ]

    claim = CLAIM["strong_weights_mnist_weight"]
    good, bad = (judge_claim(claim, record({f"{NAME}/0": rows(before)})) for before in (0.9, 0.04))
    assert (good.agreement, good.evidence) == (REPRODUCED, EXCEEDS)
    assert bad.evidence == EXCEEDS_NOT and "before matching in 1 of 1" in bad.null


@pytest.mark.parametrize(
    "middle, rank, expected",
    [
        (0.05, 0.01, (REPRODUCED, EXCEEDS)),
        (0.2, 0.01, (NOT, EXCEEDS)),
        (0.05, 0.2, (REPRODUCED, EXCEEDS_NOT)),
    ],
)
def test_low_rank(middle, rank, expected):
    rows = [
        Row("sigma_W/0.5", middle, site="FC 2"),
        Row("stable_rank_share_W", rank, site="FC 2"),
        Row("sigma_W/0.5", 0.5, site="FC 2", role="null", kind="gaussian matrix"),
        # ten rows of 512: the middle singular value is 0 for any weights, which must not count as
        # agreement
        Row("sigma_W/0.5", 0.0, site="FC 4"),
        Row("sigma_W/0.5", 0.0, site="FC 4", role="null", kind="gaussian matrix"),
        *(
            Row("stable_rank_share_W", 0.25, site="FC 2", role="null", kind=kind)
            for kind in ("gaussian matrix", "before training")
        ),
    ]
    verdict = judge_claim(CLAIM["low_rank_weights_mnist"], record({f"{NAME}/0": rows}))
    assert (verdict.agreement, verdict.evidence) == expected


def test_low_rank_between_living_units_is_another_claim():
    def rows(what, middle):
        return [
            Row(f"sigma_{what}/0.5", middle, site="FC 2"),
            Row(f"stable_rank_share_{what}", 0.01, site="FC 2"),
            Row(f"sigma_{what}/0.5", 0.5, site="FC 2", role="null", kind="gaussian matrix"),
            *(
                Row(f"stable_rank_share_{what}", 0.25, site="FC 2", role="null", kind=kind)
                for kind in ("gaussian matrix", "before training")
            ),
        ]

    found = record({f"{NAME}/0": rows("W", 1e-4) + rows("W_living", 0.15)})
    whole, living = (
        judge_claim(CLAIM[f"low_rank_{what}_mnist"], found)
        for what in ("weights", "living_weights")
    )
    assert (whole.agreement, living.agreement) == (REPRODUCED, NOT)


def test_low_rank_by_shape_alone_is_no_verdict():
    rows = [
        Row("sigma_W/0.5", 0.0, site="FC 4", **what)
        for what in ({}, {"role": "null", "kind": "gaussian matrix"})
    ]
    rows += [
        Row("stable_rank_share_W", 0.01, site="FC 4", **what)
        for what in (
            {},
            *({"role": "null", "kind": kind} for kind in ("gaussian matrix", "before training")),
        )
    ]
    with pytest.raises(records.RecordError, match="nothing that this claim"):
        judge_claim(CLAIM["low_rank_weights_mnist"], record({f"{NAME}/0": rows}))


@pytest.mark.parametrize(
    "activation, weight, chance, before, expected",
    [
        (1.05, 1.09, 9.0, 9.0, (REPRODUCED, EXCEEDS)),
        (1.05, 1.2, 9.0, 9.0, (PARTLY, EXCEEDS)),
        (1.5, 1.2, 9.0, 9.0, (NOT, EXCEEDS)),
        (1.05, 1.09, 2.0, 9.0, (REPRODUCED, EXCEEDS_NOT)),
        (1.05, 1.09, 9.0, 2.0, (REPRODUCED, EXCEEDS_NOT)),
    ],
)
def test_matching_comes_near_the_joint_minimum(activation, weight, chance, before, expected):
    rows = [
        Row("residual", 7.0 * value, kind=kind)
        for kind, value in (("activation", activation), ("weight", weight), ("local search", 1.0))
    ]
    rows += [
        Row("residual", 7.0 * null, role="null", kind=kind)
        for kind, null in (("random order", chance), ("before matching", before))
    ]
    verdict = judge_claim(CLAIM["joint_mnist"], record({f"{NAME}/0": rows}))
    assert (verdict.agreement, verdict.evidence) == expected


@pytest.mark.parametrize(
    "interpolated, again, expected", [(0.8, 0.3, REPRODUCED), (0.8, 0.0, NOT), (0.0, 0.8, NOT)]
)
def test_vgg_is_not_connected_only_if_it_is_so_with_either_statistics(
    interpolated, again, expected
):
    name = "vgg16_cifar10_spawn_weight"
    rows = [
        Row("error_barrier_chord", interpolated, n=10000),
        Row("error_barrier_chord", again, n=10000, statistics="recomputed"),
        Row("error", 0.08, n=10000, alpha=0.0),
        Row("error", 0.08, n=10000, alpha=1.0),
        Row("error_barrier_chord", 0.82, n=10000, role="control", kind="unmatched"),
    ]
    verdict = judge_claim(CLAIM["vgg_perm"], record({f"{name}/0": rows}, data="cifar10"))
    assert (verdict.agreement, verdict.evidence) == (expected, NO_NULL)


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
    names = list(WIDTHS)[:4]

    def frame(rank, barrier, **rest):
        return record(
            {
                f"{name}/0": width_rows(
                    lambda e, k=k: rank(k, e), lambda e, k=k: barrier(k, e), **rest
                )
                for k, name in enumerate(names)
            }
        )

    follows = frame(lambda k, e: 0.2 / (1 + k + e / 20), lambda k, e: 2 / (1 + k + e / 20))
    verdict = judge_claim(CLAIM["widths"], follows)
    assert (verdict.agreement, verdict.evidence) == (REPRODUCED, EXCEEDS)
    assert "over all 1.00, at fixed width 1.00, at fixed epoch 1.00" in verdict.ours
    # over widths only: as training goes on the rank rises while the barrier falls
    verdict = judge_claim(
        CLAIM["widths"],
        frame(lambda k, e: 0.2 / (1 + k) + e / 1000, lambda k, e: 2 / (1 + k + e / 20)),
    )
    assert verdict.agreement == PARTLY and "at fixed width -1.00" in verdict.ours
    # low rank alone does not make untrained networks match
    assert (
        judge_claim(
            CLAIM["widths"],
            frame(lambda k, e: 0.2 / (1 + k + e), lambda k, e: 2 / (1 + k + e), cut=0.5),
        ).evidence
        == EXCEEDS_NOT
    )


def test_what_matching_leaves_is_the_root_of_a_ratio_over_maps_that_a_permutation_enters():
    rows = width_rows(lambda e: 0.1, lambda e: 1.0, gain=0.3)
    rows += [
        Row(quantity, 50.0, site="FC 1", epoch=15)
        for quantity in ("stable_rank_share_W", "dist_transfer")
    ]
    table = verdicts.width_table(record({f"{list(WIDTHS)[0]}/0": rows}).frame())
    last = table[table["epoch"] == 15].iloc[0]
    assert last["gain"] == pytest.approx(0.3) and last["rank"] == pytest.approx(
        0.1
    )  # not .09, and without the images' map


def test_a_sweep_measures_the_matched_pair_beside_the_unmatched_one(monkeypatch):
    profile, name = "smoke", list(WIDTHS)[0]
    monkeypatch.setattr(widths, "WIDTH_EPOCHS", (0, 2))
    data = dataset(recipe(name, profile))
    measured, real = [], widths.measure
    monkeypatch.setattr(
        widths, "measure", lambda a, b, *rest: measured.append((a, b)) or real(a, b, *rest)
    )
    rows = widths.sweep(profile, name, 0, data)

    def found(quantity, epoch, **what):
        what = {"role": "value", "kind": "", **what}
        return [
            r
            for r in rows
            if r.quantity == quantity
            and r.epoch == epoch
            and all(getattr(r, key) == value for key, value in what.items())
        ]

    a, matched_b = measured[4]  # two passes of the matched pair of epoch 2 follow four of epoch 0
    (_, same_b), (_, b), _ = measured[5:8]
    assert same_b is matched_b
    vectors = [
        torch.cat([v.double().flatten() for v in net.state_dict().values()])
        for net in (a, matched_b, b)
    ]
    cosine, before = (
        float(torch.cosine_similarity(vectors[0], other, dim=0)) for other in vectors[1:]
    )
    assert (
        found("matched_cosine", 2)[0].mean == pytest.approx(cosine, rel=1e-9)
        and cosine > before + 0.05
    )
    for m in View(a).maps:
        w = a.state_dict()[m.weight]
        assert [r.mean for r in found("stable_rank_share_W", 2) if r.site == m.name] == [
            pytest.approx(stable_rank(w) / w.shape[1], rel=1e-12)
        ]
    for epoch in (0, 2):
        assert found("cos_ratio", epoch) and found(
            "cos_ratio", epoch, role="control", kind="unmatched"
        )
    for kind in (widths.TRUNCATED, f"{widths.TRUNCATED}: unmatched"):
        assert found("dist_transfer", 0, role="control", kind=kind)


def test_a_figure_of_one_recipe_of_several():
    frame = records.load("fig12", "smoke").frame()
    chosen = select.of(frame, NAME)
    assert (
        set(select.recipe_of(select.own(chosen))) == {NAME}
        and select.pair_word(chosen) == "matched"
    )
    both = records.load("fig20", "paper").frame()  # the figure of one data set names no other
    assert (
        "mnist" in both.attrs["split"]
        and "cifar10" in both.attrs["split"]
        and "mnist" not in select.own(both).attrs["split"]
    )
    with pytest.raises(ValueError, match="has no pair of 'mlp_mnist_perm_wait'"):
        select.of(frame, "mlp_mnist_perm_wait")


def test_a_permuted_network_has_the_spectra_of_the_one_it_was(pair):
    nets, data = pair
    sym = symmetry(nets["B"], next(iter(data.loader("test", 2)))[0])
    other = permuted(nets["B"], sym, sym.random(1))
    for m in View(other).maps:
        before, after = (
            torch.linalg.svdvals(n.state_dict()[m.weight].double()) for n in (nets["B"], other)
        )
        assert torch.allclose(before, after, rtol=1e-6)


def test_recipes_of_methods_say_their_choices():
    for name in MATCHED:
        assert recipe(name, "paper").choices["matching_args"].startswith("our choice")
    assert (
        replace(RECIPES["mlp_mnist_perm_ste"], matching_args=()).hash
        != RECIPES["mlp_mnist_perm_ste"].hash
    )
