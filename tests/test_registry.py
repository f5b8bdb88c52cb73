"""What can be chosen by name: a new architecture, metric or matching method registers itself."""

import numpy as np
import pytest
import torch
from llfc_book.study import matched
from nets import loader, mlp
from torch import nn

from llfc_lib import data
from llfc_lib.compare import compare
from llfc_lib.matching import METHODS, Found, straight_through, symmetry
from llfc_lib.metrics import LLFC, METRICS, Barrier, Row, measure
from llfc_lib.metrics.barrier import NEEDED
from llfc_lib.models import MODELS, build
from llfc_lib.registry import Registry

pytestmark = pytest.mark.filterwarnings("ignore:units that respond to no image")


@pytest.fixture(autouse=True)
def _registered_for_one_test(monkeypatch):
    for registry in (MODELS, METRICS, METHODS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda: build("mpl", (1, 3, 4), 5), "unknown model 'mpl'; choose one of .*'mlp'"),
        (
            lambda: measure(mlp(0), mlp(1), loader(), ["barier"]),
            "unknown metric 'barier'; choose one of .*'barrier'",
        ),
        (
            lambda: compare(mlp(0), mlp(1), loader(), "weights"),
            "unknown matching 'weights'; choose one of .*'weight'",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_there_are(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_a_recipe_with_an_unknown_matching_is_refused_before_anything_is_learned(monkeypatch):
    from dataclasses import replace

    from llfc_book.study.settings import recipe

    name = "mlp_mnist_perm"
    monkeypatch.setattr(matched, "recipe", lambda *at: replace(recipe(*at), matching="wieght"))
    digits, nets = data.load("digits"), {who: mlp(k, 64) for k, who in enumerate("AB")}
    with pytest.raises(ValueError, match="unknown matching 'wieght'"):
        matched.find("smoke", name, 0, nets, digits)


def test_a_name_that_another_module_has_taken_is_refused_and_a_cell_may_be_run_again():
    registry = Registry("thing")

    def first():
        return 1

    def again():
        return 2

    registry.register("one")(first)
    registry.register("one")(again)
    assert registry.get("one") is again and registry.names() == ["one"]
    with pytest.raises(ValueError, match="there is a thing 'one' already"):
        registry.register("one")(np.sum)


def test_metrics_may_be_given_by_name():
    a, b = mlp(0), mlp(1)
    assert measure(a, b, loader(), ["llfc", Barrier(NEEDED)]) == measure(
        a, b, loader(), [LLFC(), Barrier(NEEDED)]
    )

    @METRICS.register("images")
    class Images:
        def start(self, pair):
            self.n = 0

        def update(self, batch):
            self.n += len(batch.y)

        def rows(self):
            return [Row("images", float(self.n))]

    assert [row.mean for row in measure(a, b, loader(), ["images"])] == [60]


def test_an_architecture_of_ones_own():
    @MODELS.register("linear")
    def _linear(shape, classes, width=1):
        return nn.Sequential(nn.Flatten(), nn.Linear(width * shape[1] * shape[2], classes))

    assert build("linear", (3, 2, 2), 5, width=3)[1].weight.shape == (5, 12)


def test_compare_runs_any_method_that_is_registered():
    a, b, seen = mlp(0), mlp(1), []

    @METHODS.register("first images")
    def _match(sym, a, b, loader, seed):
        seen.append((seed, next(iter(loader))[0]))
        return Found(sym.random(seed), float(seed[1]))

    found = compare(a, b, loader(), "first images", draws=0, grid=NEEDED, seed=7)
    assert [seed for seed, _ in seen] == [(7, 0), (7, 1), (7, 2)] and found.chosen == 2
    assert all(torch.equal(images, loader()[0][0]) for _, images in seen)
    expected = found.symmetry.random((7, 2))
    assert all(torch.equal(p, expected[name]) for name, p in found.permutations.items())
    assert found.title().startswith("first images matching")


def test_the_straight_through_estimator_needs_no_more_than_two_networks_and_images():
    a, b, images = mlp(0), mlp(1), loader()
    sym = symmetry(a, images[0][0])
    own = straight_through(sym, a, b, images, images, 5, lr=3.0, seed="s")
    found = METHODS.get("ste")(sym, a, b, images, "s", lr=3.0)
    assert found.objective == -min(own.history) > -max(own.history)
    assert all(torch.equal(p, own.best[name]) for name, p in found.permutations.items())
    assert compare(a, b, images, "ste", seeds=1, draws=0, grid=NEEDED).attempts


@pytest.mark.parametrize("given", [{}, None])
def test_a_set_that_cannot_be_fetched_whole_is_told_like_one_without_a_network(
    given, tmp_path, monkeypatch
):
    def fetch(folder):
        return given["no network"] if given is None else (given, "half a set")

    monkeypatch.setitem(data.SETS, "toy", data.Entry(3, (0.2,), (0.5,), fetch))
    with pytest.raises(FileNotFoundError, match="toy is not at .*put an archive there"):
        data.load("toy", tmp_path)
