"""Partners of every kind: that each is what its name says, on a small pair."""

import math
from dataclasses import replace

import pytest
import torch
from llfc_book import records
from llfc_book.study import pairs
from llfc_book.study.measures import decisive, noise, stitched_tuned
from llfc_book.study.pairs import Pair
from llfc_book.study.settings import recipe
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from llfc_lib.metrics import Row
from llfc_lib.streams import generator
from llfc_lib.training.loop import evaluate, new_network

NAME = "mlp_mnist_spawn"


@pytest.fixture(scope="module")
def pair() -> Pair:
    return pairs.load_pair(recipe(NAME, "smoke"), 0)


@pytest.fixture(scope="module")
def rows(pair) -> list[Row]:
    return decisive.rows(pair, trained=False) + noise.rows(pair, trained=False)


def of(rows: list[Row], quantity: str, kind: str, **where: object) -> list[Row]:
    chosen = [row for row in rows if (row.quantity, row.kind) == (quantity, kind)]
    return [row for row in chosen if all(getattr(row, k) == v for k, v in where.items())]


def test_a_whole_step_to_b_is_the_pair_as_its_own_part_measured_it(rows):
    table = records.load("closeness", "smoke").table
    own = table[table["pair"].eq(f"{NAME}/0") & table["role"].eq("value")]
    for quantity in ("rho", "distance"):
        known = own[own["quantity"] == quantity].set_index("site")["mean"]
        for end in ("from A", "from B"):
            found = {r.site: r.mean for r in of(rows, quantity, "B", alpha=1.0, direction=end)}
            assert found == pytest.approx(known.to_dict(), rel=1e-6)


def test_the_farther_the_step_the_larger_the_distance(rows):
    for kind in ("B", "independent", "G", "N", "P"):
        for site in ("FC 1", "FC 2", "FC 3"):
            found = of(rows, "distance", kind, site=site, direction="from A")
            by_size = [row.mean for row in sorted(found, key=lambda row: row.alpha)]
            assert len(by_size) > 4 and by_size == sorted(by_size), (kind, site)


def test_units_that_change_places_leave_the_function(rows, pair):
    error = float(
        (pair.nets["A"](pair.data.normalise(pair.data.x_test)).argmax(1) != pair.data.y_test)
        .double()
        .mean()
    )
    assert not of(rows, "rho", "P", site="logits") and of(rows, "rho", "P", site="FC 3")
    for row in of(rows, "partner_error", "P", direction="from A"):
        assert row.mean == pytest.approx(error) and row.n == 3


def test_steps_are_as_large_as_the_difference(pair):
    end = next(decisive.ends_of(pair))
    state_a, state_b = end.origin.view.state(), end.other.state()
    arms = {arm.kind: arm for arm in decisive._arms(end)}
    for size in (0.5, 2.0):  # a Gaussian one in every tensor
        moved = arms["G"].make(size, 0).state()
        for name, value in state_a.items():
            step = (moved[name] - value).norm() / (state_b[name] - value).norm()
            assert float(step) == pytest.approx(size, rel=1e-6)
    arm = noise._arm(end, [noise.noise(pair, draw) for draw in (0, 1)], [1.0])
    moved = arm.make(1.0, 0).state()  # one of noise over all
    length = math.sqrt(sum(float((moved[k] - v).square().sum()) for k, v in state_a.items()))
    whole = math.sqrt(sum(float((state_b[k] - v).square().sum()) for k, v in state_a.items()))
    assert length == pytest.approx(whole, rel=1e-6)
    # two draws are two directions
    assert arm.make(1.0, 1).state()["fc1.weight"].ne(moved["fc1.weight"]).any()


def test_gradient_noise_is_the_sum_over_images_of_drawn_multiples_of_their_gradients(pair):
    few = replace(
        pair,
        data=replace(pair.data, x_train=pair.data.x_train[:90], y_train=pair.data.y_train[:90]),
    )
    network = new_network(few.setting, few.data, 0).to(few.dtype).train()
    state = dict(network.named_parameters())
    x = few.data.normalise(few.data.x_train, few.dtype)

    def loss(parameters, image, label):
        return F.cross_entropy(functional_call(network, parameters, (image[None],)), label[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(state, x, few.data.y_train)
    order = torch.randperm(90, generator=generator(few.name, "noise order"))
    drawn = generator(few.name, "noise", 0)
    batches = order.split(few.setting.batch)
    xi = torch.cat(
        [torch.randn(len(index), generator=drawn, dtype=torch.float64) for index in batches]
    )
    for name, found in noise.noise(few, 0).items():
        g = each[name]
        total = torch.einsum("i,i...->...", xi, g[order])
        second = torch.stack([g[index].mean(0).square() for index in batches]).mean(0)
        assert torch.allclose(found, total / (second.sqrt() + 1e-8), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("wanted, most, expected", [(1e9, 5, 1), (0.0, 2, 2)])
def test_a_partner_is_tuned_until_its_loss_is_low_enough(pair, wanted, most, expected):
    network = new_network(pair.setting, pair.data, 3)
    before = float(evaluate(network, pair.data, "train")[0])
    loss, epochs = decisive.train_on(network, pair, wanted, most, ("x", "T", "A", 1.0))
    assert epochs == expected and loss < before
    assert loss == pytest.approx(float(evaluate(network, pair.data, "train")[0]))


def test_a_third_child_is_a_sibling_or_none(pair, monkeypatch):
    told: dict[str, list] = {"trunk": ["other"], "A": ["mine", "other"]}
    spawned = replace(pair, setting=replace(pair.setting, spawn_epoch=1))
    monkeypatch.setattr(
        decisive, "endpoint_of", lambda _, who: type("C", (), {"history": told[who]})
    )
    assert decisive._third(spawned) is None


def test_a_network_trained_on_is_trained_for_as_many_epochs_as_its_size_says(pair, monkeypatch):
    epochs: list[int] = []
    monkeypatch.setattr(noise, "train_on", lambda *told: epochs.append(told[3]))
    found = noise._longer(next(decisive.ends_of(pair)))
    assert epochs == [*noise.LONGER] == sorted({int(row.alpha) for row in found})
    # nothing was trained: A is at no distance from itself
    assert {row.mean for row in found if row.quantity == "distance"} == {0.0}


def test_a_network_is_stitched_to_its_tuned_partners(pair, monkeypatch):
    """To itself at no cost; to a stranger at the cost of chance below the logits."""
    stranger = new_network(pair.setting, pair.data, 9).eval()
    partners = [(1.0, pair.nets["A"], {"reached": 1.0}), (2.0, stranger, {"reached": 0.0})]
    monkeypatch.setattr(stitched_tuned, "tuned", lambda end, sizes: iter(partners))
    found = [row for row in stitched_tuned.rows(pair) if row.quantity == "stitched_excess"]
    assert {row.mean for row in found if row.alpha == 1.0} == {0.0}
    far = [row.mean for row in found if row.alpha == 2.0 and row.site == "FC 1"]
    assert len(far) == 2 and min(far) > 0.2
