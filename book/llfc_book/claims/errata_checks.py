"""The numerical checks behind the errata, which are data (``book/data/errata.toml``).

A check is run for the printed reading and for the corrected one, and returns the number of that
reading and the one that is right. :func:`readings` raises where a printed line turns out to be
right: no page is made with an erratum that is none.
"""

import itertools
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from llfc_book.places import DATA
from llfc_book.study.settings import RECIPES
from llfc_lib.metrics.llfc import one_minus_cos
from llfc_lib.metrics.spectra import stable_rank
from llfc_lib.models import build
from llfc_lib.streams import numpy_generator

ROUNDING = 1e-9
DRAWS = 20  # of random layers, where one is not enough
MARGIN = 2.0  # points of error, the book's margin for "about as often"
Reading = tuple[float, float]


class DoesNotShow(AssertionError):
    """What is listed as an erratum holds as printed, or its correction does not hold."""


@dataclass(frozen=True)
class Check:
    """``run(False)`` is the printed reading, ``run(True)`` the corrected one: its number, and the
    one that is right, to ``tolerance``.
    """

    run: Callable[[bool], Reading]
    tolerance: float = ROUNDING

    def holds(self, corrected: bool) -> tuple[float, bool]:
        """The number of a reading, and whether it is right."""
        value, right = map(float, self.run(corrected))
        return value, abs(value - right) <= self.tolerance * max(1.0, abs(right))


CHECKS: dict[str, Check] = {}


def check(tolerance: float = ROUNDING) -> Callable[[Callable], Callable]:
    """Enter the function below as a check, by its name."""

    def enter(run: Callable[[bool], Reading]) -> Callable[[bool], Reading]:
        CHECKS[run.__name__] = Check(run, tolerance)
        return run

    return enter


def readings(name: str) -> tuple[float, float]:
    """The numbers of the printed and the corrected reading. DoesNotShow where the printed one is
    right or the corrected one is not.
    """
    (printed, right), (corrected, stands) = (CHECKS[name].holds(which) for which in (False, True))
    if right:
        raise DoesNotShow(f"{name}: the printed line holds ({printed:g}); it is no erratum")
    if not stands:
        raise DoesNotShow(f"{name}: the correction does not hold ({corrected:g})")
    return tuple(0.0 if abs(value) < ROUNDING else value for value in (printed, corrected))


@cache
def data() -> dict[str, Any]:
    """The file: entries, misprints, and the appendix' tables."""
    return tomllib.loads((DATA / "errata.toml").read_text())


def draw(*name: object, shape: tuple[int, ...]) -> ndarray:
    """Normal numbers, the same on every processor."""
    return numpy_generator("errata", *name).standard_normal(shape)


def off(left: ndarray, right: ndarray) -> float:
    """The largest difference, relative to the largest entry."""
    return float(np.abs(left - right).max() / max(np.abs(left).max(), np.abs(right).max()))


def relu(x: ndarray) -> ndarray:
    """The ReLU, entry by entry."""
    return np.maximum(x, 0.0)


def square(x: ndarray) -> ndarray:
    """The squared Frobenius norm of a matrix, or of each of a stack."""
    return (x * x).sum((-1, -2))


def dist(x: ndarray, y: ndarray) -> float:
    """|x - y|^2 / (|x| |y|), the distance of this book."""
    return float(square(x - y) / np.linalg.norm(x) / np.linalg.norm(y))


def fitted(f: ndarray, m: ndarray) -> float:
    """How far c f is from m for the best c."""
    return float(np.linalg.norm((f * m).sum() / (f * f).sum() * f - m))


@cache
def orders(n: int) -> ndarray:
    """All permutation matrices of ``n`` units, the identity first."""
    return np.stack([np.eye(n)[list(order)] for order in itertools.permutations(range(n))])


def layer(number: int) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """W_A, W_B (3 x 4), H_A, H_B (4 x 6) without structure."""
    shapes = ((3, 4), (3, 4), (4, 6), (4, 6))
    return tuple(draw("layer", number, k, shape=shape) for k, shape in enumerate(shapes))


def x_and_y(layer: tuple[ndarray, ...], p: ndarray, q: ndarray) -> tuple[ndarray, ndarray]:
    """A.3's two differences, for P^(l-1) = p and P^(l) = q or stacks of them."""
    w_a, w_b, h_a, h_b = layer
    return w_a @ h_a - w_a @ p @ h_b, q @ w_b @ p.swapaxes(-1, -2) @ h_a - q @ w_b @ h_b


def residual(layer: tuple[ndarray, ...], p: ndarray, q: ndarray) -> ndarray:
    """A.3's objective, as the square of the product of differences."""
    w_a, w_b, h_a, h_b = layer
    return square((w_a - q @ w_b @ p.swapaxes(-1, -2)) @ (h_a - p @ h_b))


def alike(far: float, units: int = 200) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """W_A, W_B, H_A, H_B at 1 - cos of ``far``, otherwise without structure: nothing commutes."""
    size = (far / (2 - far)) ** 0.5  # of the difference over the sum, at that cosine
    pairs = [[draw("alike", far, m, k, shape=(units, units)) for k in (0, 1)] for m in "WH"]
    return tuple(both + sign * size * apart for both, apart in pairs for sign in (1, -1))


def dist_com(w_a: ndarray, w_b: ndarray, h_a: ndarray, h_b: ndarray) -> float:
    """The distance of the two sides of Definition 4."""
    return dist(w_a @ h_a + w_b @ h_b, w_a @ h_b + w_b @ h_a)


def over_chance(w_a: ndarray, w_b: ndarray, h_a: ndarray, h_b: ndarray) -> float:
    """|dW dH| over what two matrices of these norms give that know nothing of each other."""
    d_w, d_h = w_a - w_b, h_a - h_b
    chance = np.linalg.norm(d_w) * np.linalg.norm(d_h) / d_w.shape[1] ** 0.5
    return float(np.linalg.norm(d_w @ d_h) / chance)


@check()
def lost_c(corrected: bool) -> Reading:
    """A network with c = 2: how far the sides of the line are apart."""
    mean = draw("lost c", shape=(5, 200))
    return off((2 if corrected else 1) * mean / 2, mean), 0.0


@check()
def not_connected(corrected: bool) -> Reading:
    """Margins linear in the weights, so that LLFC is exact, and each network errs on another image:
    the error half-way that the reading expects, in percent, and the one there is.
    """
    a, b = np.ones(20), np.ones(20)
    a[0] = b[1] = -3
    own, middle = 100 * max((a < 0).mean(), (b < 0).mean()), 100 * ((a + b) < 0).mean()
    return (2 if corrected else 1) * own, middle


@check()
def last_relu(corrected: bool) -> Reading:
    """Two last layers on equal features, where the theorem's conclusion is exact: how far the
    condition is from holding.
    """
    h = relu(draw("last", "h", shape=(6, 30)))
    z_a, z_b = (draw("last", k, shape=(4, 6)) @ h for k in (0, 1))
    sigma = (lambda z: z) if corrected else relu
    return off(sigma(z_a + z_b), sigma(z_a) + sigma(z_b)), 0.0


@check()
def missing_step(corrected: bool) -> Reading:
    """Numbers for which sigma(x + y) = sigma(x) + sigma(y): how far sigma is from linear between
    them, for tanh, of which the printed step would have to be true as well, and for the ReLU.
    """
    x = draw("step", 0, shape=(1000,))
    y = draw("step", 1, shape=(1000,)) if corrected else -x
    sigma = relu if corrected else np.tanh
    held = np.abs(sigma(x + y) - sigma(x) - sigma(y)) < ROUNDING
    return np.abs(sigma(0.9 * x + 0.1 * y) - 0.9 * sigma(x) - 0.1 * sigma(y))[held].max(), 0.0


@check()
def normalisation(corrected: bool) -> Reading:
    """A layer with batch norm on inputs that are equal in both networks, all pre-activations
    positive: both conditions hold. What is left half-way at the best c, in percent of the distance
    between A and B, with interpolated statistics, and with one scale for all networks.
    """
    x = np.array([[1.0, 1, -1, -1], [1, -1, 1, -1]])
    weights = np.array([[[1.0, 0], [1, 0], [1, 0]], [[0, 1], [3, 0], [1, 0]]])
    variances = np.stack([(w @ x).var(1) for w in weights])
    if corrected:
        variances[1] = variances[0]

    def features(w: ndarray, variance: ndarray) -> ndarray:
        return relu(w @ x / np.sqrt(variance)[:, None] + 4)

    a, b = map(features, weights, variances)
    assert a.min() > 0 and b.min() > 0
    left = fitted(features(weights.mean(0), variances.mean(0)), (a + b) / 2)
    return 100 * left / np.linalg.norm(a - b), 0.0


@check()
def max_pooling(corrected: bool) -> Reading:
    """How far pooling of non-negative features is from linear half-way, in percent: the maximum,
    and the average.
    """
    a, b = (np.abs(draw("pool", k, shape=(50, 4))) for k in (0, 1))
    pool = np.mean if corrected else np.max
    mean = (pool(a, axis=1) + pool(b, axis=1)) / 2
    return 100 * off(pool((a + b) / 2, axis=1), mean), 0.0


@check()
def cross_term(corrected: bool) -> Reading:
    """In how many layers the expansion is minimised by another order than the objective."""
    moved = 0
    for number in range(DRAWS):
        case = layer(number), orders(4), orders(3)[:, None]
        x, y = x_and_y(*case)
        terms = square(x) + square(y) + (-2 if corrected else 1) * (x * y).sum((-1, -2))
        moved += terms.argmin() != residual(*case).argmin()
    return moved, 0.0


@check()
def quadratic_part(corrected: bool) -> Reading:
    """Range of the first term's quadratic part over that of its linear part, over all orders: for
    general weights, and for orthonormal columns.
    """
    w, (h_a, h_b) = draw("special", "w", shape=(6, 4)), layer(0)[2:]
    w = np.linalg.qr(w)[0] if corrected else w
    turned = orders(4).swapaxes(-1, -2) @ w.T @ w
    quadratic = np.trace(turned @ orders(4) @ h_b @ h_b.T, axis1=-2, axis2=-1)
    return np.ptp(quadratic) / np.ptp(np.trace(turned @ h_a @ h_b.T, axis1=-2, axis2=-1)), 0.0


@check()
def one_problem(corrected: bool) -> Reading:
    """One hidden layer: the least objective by three terms minimised apart, and by one quadratic
    form in P, over the true one. t holds what each entry of P adds.
    """
    w_a, w_b, h_a, h_b = sample = layer(0)
    p = orders(4)
    true = residual(sample, p, np.eye(3)).min()
    if not corrected:
        x, y = x_and_y(sample, p, np.eye(3))
        apart = square(x).min() + square(y).min() + (-2 * (x * y).sum((-1, -2))).min()
        return apart / true, 1.0
    t = np.einsum("ri,jn->ijrn", w_a, h_b) + np.einsum("rj,in->ijrn", w_b, h_a)
    t, constant, flat = t.reshape(16, -1), (w_a @ h_a + w_b @ h_b).ravel(), p.reshape(len(p), 16)
    form = ((flat @ (t @ t.T)) * flat).sum(1) - 2 * flat @ (t @ constant)
    return (form.min() + constant @ constant) / true, 1.0


@check()
def free_ends(corrected: bool) -> Reading:
    """In how many last layers the least objective has the classes in another order."""
    ends = orders(3)[:1] if corrected else orders(3)
    least = (residual(layer(n), orders(4), ends[:, None]).min(1) for n in range(DRAWS))
    return sum(values.argmin() > 0 for values in least), 0.0


@check()
def whose_perceptron(corrected: bool) -> Reading:
    """Updates, as printed and in Ainsworth et al.'s code, which the library has for B.1.2."""
    theirs, printed = RECIPES["mlp_mnist_perm"], RECIPES["mlp_mnist_spawn"]
    one = theirs if corrected else printed
    return 60_000 / one.batch * one.epochs, 60_000 / theirs.batch * theirs.epochs


@check()
def whose_resnet(corrected: bool) -> Reading:
    """Parameters with shortcuts that project, and with those of the authors' code, which pad."""
    padded = sum(p.numel() for p in build("resnet20", (3, 32, 32), 10).parameters())
    projections = sum(i * o + 2 * o for i, o in ((16, 32), (32, 64)))  # 1 x 1 and batch norm
    return padded if corrected else padded + projections, 269_722


@check()
def small_crops(corrected: bool) -> Reading:
    """Features that reach the classifier of the authors' ResNet-50 (stride 8, then pooled by 4)
    from images of 64 pixels, and from crops of 32.
    """
    return 2048 * ((32 if corrected else 64) // 8 // 4) ** 2, 2048


@check()
def warm_up(corrected: bool) -> Reading:
    """Epochs of warm-up as printed, and in the code, which the library has as a variant."""
    code, printed = RECIPES["resnet20x0.5_cifar10_perm_code"], RECIPES["resnet20x32_cifar10_perm"]
    return code.warmup if corrected else printed.warmup, code.warmup


@check()
def silent_perceptron(corrected: bool) -> Reading:
    """How many values of the CIFAR-10 perceptron's training are printed, and how many there are."""
    one = RECIPES["mlp_cifar10_perm"]
    names = ("optimiser", "lr", "epochs", "batch", "momentum", "weight_decay", "schedule")
    needed = [name for name in (*names, "warmup", "augment") if getattr(one, name)]
    return sum(corrected or name not in one.choices for name in needed), len(needed)


@check()
def missing_sizes(corrected: bool) -> Reading:
    """How many settings of B.1 come with a batch size and a number of epochs."""
    settings = [one for one in RECIPES.values() if not (one.base or one.is_variant)]
    sizes = {"batch", "epochs"}
    return sum(corrected or not sizes & {*one.choices} for one in settings), len(settings)


@check()
def lost_alpha(corrected: bool) -> Reading:
    """The coefficient of a network with itself half-way, which is 1."""
    f, alpha = draw("coef", shape=(8,)), 0.5
    mean = (alpha if corrected else 1) * f + (1 - alpha) * f
    return np.linalg.norm(f) / np.linalg.norm(mean), 1.0


@check()
def own_factor(corrected: bool) -> Reading:
    """Features that are the mean times a factor of each image's own: 1 - cosine squared of single
    images, and of the whole set; right is what one c for all images leaves.
    """
    mean, factors = draw("own factor", shape=(50, 8)), np.linspace(0.5, 2, 50)[:, None]
    f, axis = factors * mean, None if corrected else 1
    inner, ff, mm = (x.sum(axis) for x in (f * mean, f * f, mean * mean))
    left = fitted(f, mean) / np.linalg.norm(mean)
    return float(np.mean(1 - inner**2 / (ff * mm))), left**2


@check()
def absolute_cosine(corrected: bool) -> Reading:
    """1 - cosine of f and -f: with the absolute value of the code, and as printed."""
    f = draw("sign", shape=(6,))
    cosine = f @ -f / (f @ f)
    ours = one_minus_cos(torch.tensor(f)[None], torch.tensor(-f)[None])
    return 1 - (cosine if corrected else abs(cosine)), float(ours[0])


@check()
def undefined_dist(corrected: bool) -> Reading:
    """Vectors of one direction, one twice as long: 1 - cosine, and the book's distance."""
    x = draw("dist", shape=(1, 5))
    cosine = (x * (2 * x)).sum() / np.linalg.norm(x) / np.linalg.norm(2 * x)
    return dist(x, 2 * x) if corrected else 1 - cosine, 0.5


@check(tolerance=0.1)
def second_order(corrected: bool) -> Reading:
    """Matrices that know nothing of each other, hence do not commute: Dist_com over the smaller of
    Dist_W and Dist_H, and the residual over chance.
    """
    w_a, w_b, h_a, h_b = sample = alike(0.1)
    nearest = min(dist(w_a, w_b), dist(h_a, h_b))
    return over_chance(*sample) if corrected else dist_com(*sample) / nearest, 1.0


@check(tolerance=0.1)
def ranks_only(corrected: bool) -> Reading:
    """A near pair over one farther apart, neither of which commutes: by Dist_com, and by the
    residual over chance.
    """
    measure = over_chance if corrected else dist_com
    return measure(*alike(0.01)) / measure(*alike(0.1)), 1.0


@check()
def not_the_definition(corrected: bool) -> Reading:
    """Equal weights on different features commute exactly: the distance of the printed condition's
    sides, and of Definition 4's.
    """
    w, _, h_a, h_b = layer(0)
    assert dist_com(w, 0 * w, h_a, h_b) > 0  # where the printed condition is exact for B
    return dist_com(w, w, h_a, h_b) if corrected else dist(w @ h_a, w @ h_b), 0.0


@check()
def raw_outputs(corrected: bool) -> Reading:
    """A is B with the weights before a batch norm doubled, and computes the same: how far stitching
    there takes B's features from its own, with raw outputs and with activations.
    """
    raw_b = draw("raw", shape=(4, 200))
    raw_a, of_a, of_b = 2 * raw_b, 2 * raw_b.std(1)[:, None], raw_b.std(1)[:, None]
    return off(relu(raw_a / (of_a if corrected else of_b)), relu(raw_b / of_b)), 0.0


@check()
def stitched_errors(corrected: bool) -> Reading:
    """Layers of Table 3 at which the stitched network errs within two points of the mean of A and
    B; in Tables 1 and 2 most do.
    """
    near = {
        name: [abs(error - (table["A"] + table["B"]) / 2) <= MARGIN for error in table["stitched"]]
        for name, table in data()["table"].items()
    }
    most = {name: sum(inside) > len(inside) / 2 for name, inside in near.items()}
    if most != {"1": True, "2": True, "3": False}:
        raise DoesNotShow(f"stitched_errors: most layers are within two points in {most}")
    return sum(near["3"]) if corrected else len(near["3"]), sum(near["3"])


@check()
def guaranteed(corrected: bool) -> Reading:
    """Random layers: what the best of all orders leaves of an average one's residual, in percent,
    where a guarantee leaves nothing.
    """
    cases = [residual(layer(number), orders(4), np.eye(3)) for number in range(DRAWS)]
    left = 100 * np.mean([values.min() / values.mean() for values in cases])
    return left if corrected else 0.0, left


@check()
def easier(corrected: bool) -> Reading:
    """|W(H_A - P H_B)|^2 at the best of all orders, in percent of an average one: rank 1 and
    unrelated features, and full rank and permuted ones.
    """
    left = []
    for number in range(DRAWS):
        w, h = draw("easier", number, shape=(5, 5)), draw("easier", "h", number, shape=(2, 5, 8))
        w, other = (w, h[0, ::-1]) if corrected else (np.outer(w[0], w[1]), h[1])
        values = square(w @ (h[0] - orders(5) @ other))
        left.append(100 * values.min() / values.mean())
    return np.mean(left), 0.0


@check()
def stable_rank_is_not_rank(corrected: bool) -> Reading:
    """One large singular value among 64: the stable rank, and the rank."""
    w = np.diag(np.r_[1.0, np.full(63, 0.1)])
    rank = np.linalg.matrix_rank(w)
    return rank if corrected else stable_rank(torch.tensor(w)), rank
