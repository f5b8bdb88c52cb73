"""The numerical checks behind the errata, which are data (``book/data/errata.toml``).

A check is run for the printed reading and for the corrected one, and returns the number of that
reading and the one that is right. :func:`readings` raises where a printed line turns out to be
right: no page is made with an erratum that is none.
"""

import itertools
import tomllib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy import ndarray

from llfc_book.appendix import construct
from llfc_book.evidence import CONNECTED
from llfc_book.places import DATA
from llfc_book.show import b4
from llfc_lib.streams import numpy_generator

ROUNDING = 1e-9
DRAWS = 20  # of random layers, where one is not enough
Reading = tuple[float, float]
Check = Callable[[bool], Reading]
CHECKS: dict[str, Check] = {}
ABOUT = {"second_order": 0.1, "ranks_only": 0.1}  # tolerances of what holds for large matrices


class DoesNotShow(AssertionError):
    """What is listed as an erratum holds as printed, or its correction does not hold."""


def check(run: Check) -> Check:
    """Enter the function below as a check, by its name: ``run(False)`` is the printed reading,
    ``run(True)`` the corrected one.
    """
    CHECKS[run.__name__] = run
    return run


def readings(name: str) -> tuple[float, float]:
    """The numbers of the printed and the corrected reading. DoesNotShow where the printed one is
    right or the corrected one is not.
    """
    values = []
    for corrected in (False, True):
        value, right = map(float, CHECKS[name](corrected))
        holds = abs(value - right) <= ABOUT.get(name, ROUNDING) * max(1.0, abs(right))
        if holds != corrected:
            what = (
                "the correction does not hold"
                if corrected
                else "no erratum, the printed line holds"
            )
            raise DoesNotShow(f"{name}: {what} ({value:g})")
        values.append(0.0 if abs(value) < ROUNDING else value)
    return values[0], values[1]


@cache
def data() -> dict[str, Any]:
    """The file: entries and misprints."""
    return tomllib.loads((DATA / "errata.toml").read_text())


def draw(*name: object, shape: tuple[int, ...]) -> ndarray:
    """Normal numbers, the same on every processor."""
    return numpy_generator("errata", *name).standard_normal(shape)


def off(left: ndarray, right: ndarray) -> float:
    """The largest difference, relative to the largest entry."""
    return float(np.abs(left - right).max() / max(np.abs(left).max(), np.abs(right).max()))


def square(x: ndarray) -> ndarray:
    """The squared Frobenius norm of a matrix, or of each of a stack."""
    return (x * x).sum((-1, -2))


def dist(x: ndarray, y: ndarray) -> float:
    """|x - y|^2 / (|x| |y|), the distance of this book."""
    return float(square(x - y) / np.linalg.norm(x) / np.linalg.norm(y))


@cache
def orders(n: int) -> ndarray:
    """All permutation matrices of ``n`` units, the identity first."""
    return np.stack([np.eye(n)[list(order)] for order in itertools.permutations(range(n))])


def layer(number: int) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """W_A, W_B (3 x 4), H_A, H_B (4 x 6) without structure."""
    shapes = ((3, 4), (3, 4), (4, 6), (4, 6))
    return tuple(draw("layer", number, k, shape=shape) for k, shape in enumerate(shapes))


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


@check
def not_connected(corrected: bool) -> Reading:
    """Margins linear in the weights, so that LLFC is exact, and each network errs on another image:
    the error half-way that the reading expects, in percent, and the one there is.
    """
    a, b = np.ones(20), np.ones(20)
    a[0] = b[1] = -3
    own, middle = 100 * max((a < 0).mean(), (b < 0).mean()), 100 * ((a + b) < 0).mean()
    return (2 if corrected else 1) * own, middle


@check
def normalisation(corrected: bool) -> Reading:
    """Two networks that meet both conditions: what is left half-way, in percent of the distance
    between them, with batch norm between map and ReLU, and with nothing there.
    """
    met, missed = construct.normalised()["none" if corrected else "batch normalisation"]
    return 100 * missed if met else np.nan, 0.0


@check
def max_pooling(corrected: bool) -> Reading:
    """How far pooling of non-negative features is from linear half-way, in percent: the maximum,
    and the average.
    """
    a, b = (np.abs(draw("pool", k, shape=(50, 4))) for k in (0, 1))
    pool = np.mean if corrected else np.max
    mean = (pool(a, axis=1) + pool(b, axis=1)) / 2
    return 100 * off(pool((a + b) / 2, axis=1), mean), 0.0


@check
def quadratic_part(corrected: bool) -> Reading:
    """Range of the first term's quadratic part over that of its linear part, over all orders: for
    general weights, and for orthonormal columns.
    """
    w, (h_a, h_b) = draw("special", "w", shape=(6, 4)), layer(0)[2:]
    w = np.linalg.qr(w)[0] if corrected else w
    turned = orders(4).swapaxes(-1, -2) @ w.T @ w
    quadratic = np.trace(turned @ orders(4) @ h_b @ h_b.T, axis1=-2, axis2=-1)
    return np.ptp(quadratic) / np.ptp(np.trace(turned @ h_a @ h_b.T, axis1=-2, axis2=-1)), 0.0


@check
def second_order(corrected: bool) -> Reading:
    """Matrices that know nothing of each other, hence do not commute: Dist_com over the smaller of
    Dist_W and Dist_H, and the residual over chance.
    """
    w_a, w_b, h_a, h_b = sample = alike(0.1)
    nearest = min(dist(w_a, w_b), dist(h_a, h_b))
    return over_chance(*sample) if corrected else dist_com(*sample) / nearest, 1.0


@check
def ranks_only(corrected: bool) -> Reading:
    """A near pair over one farther apart, neither of which commutes: by Dist_com, and by the
    residual over chance.
    """
    measure = over_chance if corrected else dist_com
    return measure(*alike(0.01)) / measure(*alike(0.1)), 1.0


@check
def stitched_errors(corrected: bool) -> Reading:
    """Layers of Table 3 at which the stitched network errs within two points of the mean of A and
    B; in Tables 1 and 2 most do.
    """
    near = [b4.printed(name).abs() <= 100 * CONNECTED for name in b4.PRINTED]
    most = [inside.mean() > 0.5 for inside in near]
    if most != [True, True, False]:
        raise DoesNotShow(f"stitched_errors: most layers are within two points in {most}")
    return near[2].sum() if corrected else len(near[2]), near[2].sum()


@check
def guaranteed(corrected: bool) -> Reading:
    """Random layers: what the best of all orders leaves of an average one's residual, in percent,
    where a guarantee leaves nothing.
    """
    left, p = [], orders(4)
    for w_a, w_b, h_a, h_b in map(layer, range(DRAWS)):
        values = square((w_a - w_b @ p.swapaxes(-1, -2)) @ (h_a - p @ h_b))
        left.append(100 * values.min() / values.mean())
    return np.mean(left) if corrected else 0.0, np.mean(left)


@check
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
