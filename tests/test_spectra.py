"""Singular values, stable ranks, and the stronger forms of commutativity."""

import numpy as np
import pytest
import torch
from nets import conv, find, loader, mlp, near, whole
from torch import nn

from llfc_lib.metrics import (
    SameWeights,
    feature_spectra,
    living_units,
    measure,
    singular_values,
    stable_rank,
    weight_spectra,
)
from llfc_lib.metrics.commutativity import unit_order
from llfc_lib.metrics.spectra import SHARES
from llfc_lib.models.view import View


def test_stable_rank_of_known_matrices():
    assert stable_rank(torch.eye(7)) == pytest.approx(7)
    assert stable_rank(torch.outer(torch.arange(1.0, 5), torch.ones(9))) == pytest.approx(1)
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))) == pytest.approx(6 / 4)
    assert stable_rank(torch.zeros(3, 4)) == 0
    # |W|_F^2 / |W|_2^2, not of squared singular values once more, nor of the nuclear norm
    w = torch.randn(20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert stable_rank(w) == pytest.approx(
        float(torch.linalg.matrix_norm(w) ** 2 / torch.linalg.matrix_norm(w, 2) ** 2)
    )


def test_a_convolutions_weight_is_taken_as_outputs_by_inputs_times_kernel():
    w = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(singular_values(w), torch.linalg.svdvals(w.reshape(4, 12)))
    rows = weight_spectra(conv(0))
    assert find(rows, "stable_rank_W", site="conv2").n == 6 * 9


def test_a_spectrum_is_read_against_index_over_the_units_that_enter():
    network = mlp(0)
    values = np.zeros(16)  # fc4 is 5 x 16: of 16 units that enter, it sees five directions
    values[:5] = np.linalg.svd(network.fc4.weight.detach().numpy(), compute_uv=False)
    rows = weight_spectra(network)
    for share in SHARES:
        expected = values[round(share * 15)] / values[0]
        found = find(rows, f"sigma_W/{share:g}", site="FC 4").mean
        assert found == pytest.approx(expected, abs=1e-12)
    rank = find(rows, "stable_rank_W", site="FC 4").mean
    assert find(rows, "stable_rank_share_W", site="FC 4").mean == pytest.approx(rank / 16)
    drawn = {row.quantity for row in rows if row.quantity.startswith("sigma_W/")}
    assert len(drawn) == len(SHARES) == 33


def test_the_references_of_a_weight_have_its_shape_and_no_structure():
    trained, start = near(mlp(1), 0, 2.0), mlp(1)
    where = {"quantity": "stable_rank_W", "site": "FC 2", "role": "null"}
    before = find(weight_spectra(trained, start), **where, kind="before training").mean
    assert before == pytest.approx(stable_rank(start.fc2.weight.detach()))
    gaussian = [
        find(weight_spectra(trained, seed=s), **where, kind="gaussian matrix").mean
        for s in range(40)
    ]
    assert len(set(gaussian)) == 40  # a draw of its own each
    # of large n x n Gaussian matrices the largest singular value is about 2 sqrt(n), of small ones
    # less
    assert 16 / 4 < np.mean(gaussian) < 1.25 * 16 / 4


def test_features_over_the_whole_set_however_it_is_batched():
    network = mlp(2)
    h = View(network).run(whole(loader())[0], {"relu2"})["relu2"].T.double()
    values, centred = singular_values(h), h - h.mean(1, keepdim=True)
    for batch in (7, 60):
        rows = feature_spectra(network, loader(batch=batch))
        for quantity, expected in (
            ("stable_rank_H", stable_rank(h)),
            ("stable_rank_Hc", stable_rank(centred)),
            ("sigma_H/0.5", float(values[round(0.5 * 15)] / values[0])),
        ):
            assert find(rows, quantity, site="FC 2").mean == pytest.approx(expected)


def test_shuffling_images_unit_by_unit_loses_what_units_share_and_nothing_else():
    """One response in sixteen units: rank one, until each is shuffled by itself."""
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)
    copies = nn.Sequential(*layers).double()
    copies[1].weight.data[:], copies[1].bias.data[:] = copies[1].weight.data[:1], 1.0
    rows = feature_spectra(copies, loader(n=400))
    null = {"site": "2", "role": "null", "kind": "images shuffled unit by unit"}
    assert find(rows, "stable_rank_Hc", site="2").mean == pytest.approx(1)
    assert find(rows, "stable_rank_Hc", **null).mean > 8
    # uncentred, the mean response alone makes a large singular value
    assert find(rows, "stable_rank_H", **null).mean < 3


@pytest.mark.parametrize("call", [feature_spectra, living_units])
def test_an_empty_loader_is_refused(call):
    with pytest.raises(ValueError, match="no images"):
        call(mlp(0), [])


def dist(x, y):
    return float((x - y).norm() ** 2 / (x.norm() * y.norm()))


def test_same_weights_is_what_its_definition_says():
    a, b = mlp(0), near(mlp(0), 1, 0.4)
    rows, (_, second, *_) = measure(a, b, loader(), [SameWeights()]), View(a).maps
    h_a, h_b = (View(n).run(whole(loader())[0], {"relu1"})["relu1"].T for n in (a, b))
    w_a, w_b = (n.fc2.weight.detach() for n in (a, b))
    shuffled = unit_order(second, h_a.T, 0)
    for h, w, d_w, direction in ((h_a, w_a, w_b - w_a, "on A"), (h_b, w_b, w_a - w_b, "on B")):
        where = {"quantity": "dist_weights", "site": "FC 2", "direction": direction}
        found = find(rows, **where).mean
        assert found == pytest.approx(dist(w @ h, w @ h + d_w @ h))
        found = find(rows, **where, role="null", kind="shuffled units").mean
        assert found == pytest.approx(dist(w @ h, w @ h + d_w @ h[shuffled]))
    assert not [r for r in rows if r.site == "FC 1"]  # there the features are the input


def test_dead_units_count_for_nothing():
    """What a unit without response holds in its weights is not part of the block between living
    ones, nor are its features.
    """
    network, start, images = mlp(0), mlp(1), loader()
    network.fc1.bias.data[:3], network.fc2.bias.data[3:8] = -100.0, -100.0
    living = living_units(network, images)
    sites = [s for s in View(network).sites if s.node in living]
    alive = {s.name: living[s.node].numpy() for s in sites}
    assert alive["FC 1"].sum() == 13 and not alive["FC 2"][3:8].any()
    rows = weight_spectra(network, start, living=living) + feature_spectra(network, images, start)
    for weights, role, kind in ((network, "value", ""), (start, "null", "before training")):
        block = weights.fc2.weight.detach().numpy()[alive["FC 2"]][:, alive["FC 1"]]
        values = np.zeros(13)
        values[: len(block)] = np.linalg.svd(block, compute_uv=False)[:13]
        where = {"site": "FC 2", "role": role, "kind": kind}
        found = find(rows, "sigma_W_living/0.5", **where).mean
        assert found == pytest.approx(values[6] / values[0], abs=1e-12)
        found = find(rows, "stable_rank_share_W_living", **where).mean
        assert found == pytest.approx(float((values**2).sum() / values[0] ** 2) / 13)
    gaussian = find(rows, "sigma_W_living/0.5", site="FC 2", role="null", kind="gaussian matrix")
    assert gaussian.n == 13 and gaussian.mean > 0.1
    h = torch.relu(network.fc1(whole(images)[0].flatten(1))).detach().numpy().T[alive["FC 1"]]
    values = np.linalg.svd(h - h.mean(1, keepdims=True), compute_uv=False)
    found = find(rows, "sigma_Hc_living/0.5", site="FC 1").mean
    assert found == pytest.approx(values[6] / values[0])
    counted = find(rows, "living_units", site="FC 1")
    assert (counted.mean, counted.n) == (13, 16)
    whole_, part = (find(rows, f"sigma_{h}/1", site="FC 1").mean for h in ("Hc", "Hc_living"))
    assert whole_ < 1e-9 < part
