"""Singular values, stable ranks, and the stronger forms of commutativity."""

import numpy as np
import pytest
import torch
from nets import conv, find, loader, mlp, near
from torch import nn

from llfc_lib.metrics import (
    Commutativity,
    SameWeights,
    feature_spectra,
    living_units,
    measure,
    singular_values,
    stable_rank,
    weight_spectra,
)
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
    assert find(rows, "sigma_W/0", site="FC 4").mean == 1
    for share in SHARES:
        assert find(rows, f"sigma_W/{share:g}", site="FC 4").mean == pytest.approx(
            values[round(share * 15)] / values[0], abs=1e-12
        )
    rank = find(rows, "stable_rank_W", site="FC 4").mean
    assert find(rows, "stable_rank_share_W", site="FC 4").mean == pytest.approx(rank / 16)
    assert (
        len({row.quantity for row in rows if row.quantity.startswith("sigma_W/")})
        == len(SHARES)
        == 33
    )


def test_the_references_of_a_weight_have_its_shape_and_no_structure():
    trained, start = near(mlp(1), 0, 2.0), mlp(1)
    rows = weight_spectra(trained, start, seed=3)
    before = find(rows, "stable_rank_W", site="FC 2", role="null", kind="before training").mean
    assert before == pytest.approx(stable_rank(start.fc2.weight.detach()))
    gaussian = [
        find(
            weight_spectra(trained, seed=s),
            "stable_rank_W",
            site="FC 2",
            role="null",
            kind="gaussian matrix",
        ).mean
        for s in range(40)
    ]
    assert len(set(gaussian)) == 40  # a draw of its own each
    # of large n x n Gaussian matrices the largest singular value is about 2 sqrt(n), of small ones
    # less
    n = 16
    assert n / 4 < np.mean(gaussian) < 1.25 * n / 4


def test_features_over_the_whole_set_however_it_is_batched():
    network = mlp(2)
    view = View(network)
    h = torch.cat([view.run(x, {"relu2"})["relu2"] for x, _ in loader()]).T.double()
    for batch in (7, 60):
        rows = feature_spectra(network, loader(batch=batch))
        assert find(rows, "stable_rank_H", site="FC 2").mean == pytest.approx(stable_rank(h))
        centred = h - h.mean(1, keepdim=True)
        assert find(rows, "stable_rank_Hc", site="FC 2").mean == pytest.approx(stable_rank(centred))
        assert find(rows, "sigma_H/0.5", site="FC 2").mean == pytest.approx(
            float(singular_values(h)[round(0.5 * 15)] / singular_values(h)[0])
        )


def test_shuffling_images_unit_by_unit_loses_what_units_share_and_nothing_else():
    class Copies(
        nn.Module
    ):  # one response in sixteen units: rank one, until each is shuffled by itself
        def __init__(self):
            super().__init__()
            self.fc, self.relu, self.out = nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)
            self.fc.weight.data[:] = self.fc.weight.data[:1]
            self.fc.bias.data[:] = 1.0

        def forward(self, x):
            return self.out(self.relu(self.fc(x.flatten(1))))

    torch.manual_seed(0)
    rows = feature_spectra(Copies().double().eval(), loader(n=400))
    null = {"role": "null", "kind": "images shuffled unit by unit"}
    assert find(rows, "stable_rank_Hc", site="relu").mean == pytest.approx(1)
    assert find(rows, "stable_rank_Hc", site="relu", **null).mean > 8
    # uncentred, the mean response alone makes a large singular value
    assert find(rows, "stable_rank_H", site="relu", **null).mean < 3


def test_an_empty_loader_is_refused():
    with pytest.raises(ValueError, match="gave no images"):
        feature_spectra(mlp(0), [])


def test_same_weights_is_what_its_definition_says():
    a, b = mlp(0), near(mlp(0), 1, 0.4)
    rows = measure(a, b, loader(), [SameWeights()])
    views = [View(n) for n in (a, b)]
    h = [torch.cat([v.run(x, {"relu1"})["relu1"] for x, _ in loader()]).T for v in views]
    w = [n.fc2.weight.detach() for n in (a, b)]

    def dist(x, y):
        return float((x - y).norm() ** 2 / (x.norm() * y.norm()))

    assert find(rows, "dist_weights", site="FC 2", direction="on A").mean == pytest.approx(
        dist(w[0] @ h[0], w[1] @ h[0])
    )
    assert find(rows, "dist_weights", site="FC 2", direction="on B").mean == pytest.approx(
        dist(w[1] @ h[1], w[0] @ h[1])
    )
    assert not [r for r in rows if r.site == "FC 1"]  # there the features are the input
    assert all(r.mean == 0 for r in measure(a, a, loader(), [SameWeights()]))


def test_same_weights_implies_commutativity():
    """Where both networks' weights do the same to both networks' features, nothing is left of
    Dist_com.
    """
    a, b = mlp(0), near(mlp(0), 1, 0.4)
    with torch.no_grad():
        for fc in ("fc2", "fc3", "fc4"):
            b.get_submodule(fc).weight.copy_(a.get_submodule(fc).weight)
    assert (
        max(r.mean for r in measure(a, b, loader(), [SameWeights()]) if r.role == "value") < 1e-25
    )
    assert (
        max(
            r.mean
            for r in measure(a, b, loader(), [Commutativity()])
            if r.quantity == "dist_com" and r.role == "value"
        )
        < 1e-25
    )


def test_the_null_of_same_weights_shuffles_units_against_the_difference():
    a, b = mlp(0), near(mlp(0), 1, 0.4)
    with torch.no_grad():  # the difference sees only units that are always silent
        b.load_state_dict(a.state_dict())
        a.fc1.weight[:8], a.fc1.bias[:8] = 0.0, 0.0
        b.load_state_dict(a.state_dict())
        b.fc2.weight[:, :8] += 1.0
    rows = measure(a, b, loader(), [SameWeights()])
    null = {"role": "null", "kind": "shuffled units"}
    assert find(rows, "dist_weights", site="FC 2", direction="on A").mean == 0
    assert find(rows, "dist_weights", site="FC 2", direction="on A", **null).mean > 0.01
    assert not [r for r in measure(a, b, loader(), [SameWeights(nulls=False)]) if r.role == "null"]


def test_dead_units_count_for_nothing():
    """What a unit without response holds in its weights is not part of the block between living
    ones, nor are its features.
    """
    network, start = mlp(0), mlp(1)
    with torch.no_grad():
        network.fc1.bias[:3] = -100.0
        network.fc2.bias[3:8] = -100.0
    images = loader()
    living = living_units(network, images)
    count = {s.name: int(living[s.node].sum()) for s in View(network).sites if s.node in living}
    assert count["FC 1"] == 13 and count["FC 2"] <= 11  # FC 2 may have lost others by itself
    rows = weight_spectra(network, start, living=living) + feature_spectra(network, images, start)
    alive = {
        name: mask.numpy()
        for name, mask in (
            (s.name, living[s.node]) for s in View(network).sites if s.node in living
        )
    }
    for weights, role, kind in ((network, "value", ""), (start, "null", "before training")):
        block = weights.fc2.weight.detach().numpy()[alive["FC 2"]][:, alive["FC 1"]]
        values = np.zeros(13)
        values[: len(block)] = np.linalg.svd(block, compute_uv=False)[:13]
        where = {"site": "FC 2", "role": role, "kind": kind}
        assert find(rows, "sigma_W_living/0.5", **where).mean == pytest.approx(
            values[6] / values[0], abs=1e-12
        )
        assert find(rows, "stable_rank_share_W_living", **where).mean == pytest.approx(
            float((values**2).sum() / values[0] ** 2) / 13
        )
    gaussian = find(rows, "sigma_W_living/0.5", site="FC 2", role="null", kind="gaussian matrix")
    assert gaussian.n == 13 and gaussian.mean > 0.1
    x = torch.cat([x for x, _ in images]).flatten(1)
    h = torch.relu(network.fc1(x)).detach().numpy().T[alive["FC 1"]]
    values = np.linalg.svd(h - h.mean(1, keepdims=True), compute_uv=False)
    assert find(rows, "sigma_Hc_living/0.5", site="FC 1").mean == pytest.approx(
        values[6] / values[0]
    )
    counted = find(rows, "living_units", site="FC 1")
    assert (counted.mean, counted.n) == (13, 16)
    assert (
        find(rows, "sigma_Hc/1", site="FC 1").mean
        < 1e-9
        < find(rows, "sigma_Hc_living/1", site="FC 1").mean
    )


def test_living_units_need_images():
    with pytest.raises(ValueError, match="gave no images"):
        living_units(mlp(0), [])
