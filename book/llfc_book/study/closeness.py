"""Is a pair more linear than closeness alone makes it? Its residual half-way beside partners at the
same feature distance.

Second order in the distance between two networks, features interpolate linearly whatever the
networks are. So the residual of LLFC says something of training only beside partners that are as
far away and that training did not make. Two kinds bracket the answer: *spread*, a Gaussian step in
every weight, and *sparse*, some units of the same network in another order.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llfc_lib.matching import Permutation, Symmetry
from llfc_lib.metrics.displacement import partner_of, random_difference
from llfc_lib.metrics.llfc import inner_products, one_minus_cos_from, without_rounding
from llfc_lib.metrics.measure import NO_IMAGES, Loader, Network, Pair, exact_float32
from llfc_lib.metrics.rows import Row
from llfc_lib.models.statistics import recomputed
from llfc_lib.models.view import View
from llfc_lib.models.weights import State, interpolate
from llfc_lib.progress import Progress
from llfc_lib.streams import numpy_generator

SCALES = tuple(
    2.0 ** (k / 2) for k in range(-4, 7)
)  # 1/4 to 8: the steps t at which a spread partner is first looked at
TOLERANCE = 0.03  # of the pair's distance
REFINEMENTS = 8  # further looks a site; one or two do, as the distance grows nearly as a power of t
HALF = 0.5


@dataclass(frozen=True)
class Linearity:
    """What lies between two networks: per site the feature ``distance`` sqrt(E[1 - cos(f_1, f_2)]),
    and the share ``rho`` of it that separates the features half-way from the mean of both.

    Images on which the first or the second network's features are all 0 have no angle: they are
    left out of a site's means, and ``zero`` counts them. ``errors`` are those of the first network,
    the second and the one half-way (fractions), ``images`` their number.

    Source: cosine of B.2, as a plain distance.
    """

    distance: dict[str, float]
    rho: dict[str, float]
    zero: dict[str, int]
    errors: tuple[float, float, float]
    images: int


@exact_float32()
@torch.no_grad()
def linearity(
    first: View,
    second: View,
    between: View,
    loader: Loader,
    nodes: Mapping[str, str],
    kept: Sequence[dict[str, Tensor]] | None = None,
) -> Linearity:
    """rho at every site of ``nodes`` (site to node): sqrt(E[1 - cos(f_between, (f_1 + f_2) / 2)] /
    E[1 - cos(f_1, f_2)]).

    An endpoint in the place of the network half-way has rho of about 1/2. Where both networks
    agree, or one is 0 on every image, rho is NaN. ``kept``: the first network's values of these
    nodes and its logits, a batch an entry, if they are known. ValueError for an empty loader.

    Source: cosine of B.2.
    """
    wanted, output = {*nodes.values(), first.output}, first.output
    seen: dict[str, list[Tensor]] = {site: [] for site in nodes}
    wrong, count = torch.zeros(3, dtype=torch.float64), 0
    for batch, (x, y) in enumerate(loader):
        f_1 = kept[batch] if kept is not None else first.run(x, wanted)
        f_2, middle = second.run(x, wanted), between.run(x, wanted)
        for site, node in nodes.items():
            gram = inner_products(f_1[node], f_2[node], {HALF: middle[node]})
            aa, ad, dd = gram["aa"], gram["ad"], gram["dd"]  # d = f_2 - f_1, e = f_between - m
            ae, de, ee = (gram[key, HALF] for key in ("ae", "de", "ee"))
            off, apart = (
                one_minus_cos_from(aa + ad + dd / 4, ae + de / 2, ee),
                one_minus_cos_from(aa, ad, dd),
            )
            angled = (aa > 0) & (without_rounding(aa + 2 * ad + dd, aa) > 0)
            seen[site].append(torch.stack((off, apart))[:, angled])
        wrong += torch.stack([(f[output].argmax(1) != y).sum() for f in (f_1, f_2, middle)]).cpu()
        count += len(y)
    if not count:
        raise ValueError(NO_IMAGES)
    found = Linearity({}, {}, {}, tuple((wrong / count).tolist()), count)
    for site, values in seen.items():
        off, apart = torch.cat(values, 1)
        share = float(off.mean() / apart.mean()) if len(apart) and apart.mean() > 0 else math.nan
        found.distance[site] = float(apart.mean().clamp_min(0).sqrt()) if len(apart) else math.nan
        found.rho[site] = math.sqrt(share) if share >= 0 else math.nan
        found.zero[site] = count - len(apart)
    return found


@dataclass
class Origin:
    """A or B, from which partners are made: its features, kept batch by batch, and what lies
    between it and a partner.
    """

    view: View
    loader: Loader
    nodes: Mapping[str, str]
    calibration: Sequence[Tensor] | None
    kept: list[dict[str, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        wanted = {*self.nodes.values(), self.view.output}
        self.kept = [self.view.run(x, wanted) for x, _ in self.loader]

    def beside(self, partner: View) -> Linearity:
        """``partner`` and the network half-way, the running statistics of the latter recomputed if
        there are any.
        """
        between = self.view.with_state(interpolate(self.view.state(), partner.state(), HALF))
        if self.calibration is not None:
            between = recomputed(between, self.calibration)
        return linearity(self.view, partner, between, self.loader, self.nodes, self.kept)


def closeness(
    a: Network,
    b: Network,
    loader: Loader,
    sym: Symmetry | None = None,
    draws: int = 10,
    seed: object = 0,
    dtype: torch.dtype | None = None,
    calibration: Sequence[Tensor] | None = None,
    sites: Sequence[str] | None = None,
) -> list[Row]:
    """ "rho" and "distance" of A and B per site (see :func:`linearity`), beside the same of
    partners at that distance.

    Partners have role "null", averaged over ``draws`` from A and as many from B, which
    ``direction`` tells ("from A"; std over draws, n how many):

    - kind "spread": A + t G, G Gaussian, of the norm of B - A in every tensor. At each site of its
      own t ("t"), the smallest between 1/4 and 8 whose distance is within 3 % of the pair's.
    - kind "sparse": A with a cycle over some units of every group of ``sym`` that may be permuted,
      as many as bring the group's last site to the pair's distance (within 3 %, or half of what one
      unit more or less makes). The same function as A. None without ``sym``.

    "zero_features" counts the images that a site leaves out (see :class:`Linearity`), where there
    are any; where there are no others, there is no rho. "no_partner" is the share of draws that
    have none at a site: their rho is left out, not guessed. "partner_error" and "middle_error" are
    the errors (fractions) of the partner and of the network half-way. With ``calibration`` (batches
    of training images) the running statistics of all networks are recomputed on it. ``sites`` None
    takes all.

    ValueError for fewer than one draw, an unknown site, networks of different architecture or an
    empty loader.

    Source: Definition 2 and B.2.
    """
    if draws < 1:
        raise ValueError(f"draws = {draws}; at least one partner of each kind is needed")
    if calibration is not None and dtype is not None:
        calibration = [x.to(dtype) for x in calibration]
    pair = Pair(a, b, dtype, calibration)
    images = [(x if dtype is None else x.to(dtype), y) for x, y in loader]
    if not images:
        raise ValueError(NO_IMAGES)
    pair.check_traced(images[0][0])
    nodes = pair.a.features(sites)
    own = linearity(pair.a, pair.b, pair.between(HALF), images, nodes)
    rows = []
    for site in nodes:
        where = {"n": own.images - own.zero[site], "site": site}
        if where["n"]:
            rows += [
                Row("rho", own.rho[site], **where),
                Row("distance", own.distance[site], **where),
            ]
        if own.zero[site]:
            rows.append(Row("zero_features", own.zero[site], n=own.images, site=site))
    rows.append(Row("middle_error", own.errors[2], n=own.images))
    buffers = {name for name, _ in pair.a.module.named_buffers()}
    found: dict[tuple[str, str, str], list[Shown]] = {}  # (kind, site, A or B): a draw an entry
    with Progress("partners at equal distance", 2 * draws) as bar:
        for who, view in (("A", pair.a), ("B", pair.b)):
            origin = Origin(view, images, nodes, calibration)
            for draw in range(draws):
                moved = random_difference(
                    pair.state_a, pair.state_b, "gaussian", (seed, "spread", who, draw), buffers
                )
                of = {"spread": _spread(origin, moved, own.distance)}
                if sym is not None:
                    of["sparse"] = _sparse(origin, sym, own.distance, (seed, who, draw))
                for kind, shown in of.items():
                    for site, partner in shown.items():
                        found.setdefault((kind, site, who), []).append(partner)
                bar.advance(f"{who}, draw {draw + 1}")
    return rows + [row for key, partners in found.items() for row in _rows(*key, partners)]


#: What a partner shows at a site, by quantity; None where it is none.
Shown = dict[str, float] | None


def _shown(found: Linearity, site: str, **more: float) -> dict[str, float]:
    errors = {"partner_error": found.errors[1], "middle_error": found.errors[2]}
    return {"rho": found.rho[site], "distance": found.distance[site], **more, **errors}


def _rows(kind: str, site: str, who: str, partners: Sequence[Shown]) -> list[Row]:
    where = {"site": site, "direction": f"from {who}", "role": "null", "kind": kind}
    there = [partner for partner in partners if partner is not None]
    rows = [Row("no_partner", 1 - len(there) / len(partners), n=len(partners), **where)]
    for quantity in there[0] if there else ():
        values = torch.tensor([partner[quantity] for partner in there], dtype=torch.float64)
        std = float(values.std()) if len(there) > 1 else None
        rows.append(Row(quantity, float(values.mean()), std, len(there), **where))
    return rows


# spread


def _spread(origin: Origin, moved: State, targets: Mapping[str, float]) -> dict[str, Shown]:
    """Per site, what the partner origin + t * moved shows at the smallest t that brings it to the
    site's target.
    """
    looks: dict[float, Linearity] = {}

    def look(t: float) -> Linearity:
        if t not in looks:
            looks[t] = origin.beside(partner_of(origin.view, moved, t, origin.calibration))
        return looks[t]

    open_sites = {site for site, target in targets.items() if target > 0}
    for t in SCALES:  # from near to far, until every site has a partner that is too far
        look(t)
        open_sites -= {site for site in open_sites if looks[t].distance[site] >= targets[site]}
        if not open_sites:
            break
    return {site: _nearest(look, looks, site, target) for site, target in targets.items()}


def _nearest(
    look: Callable[[float], Linearity], looks: Mapping[float, Linearity], site: str, target: float
) -> Shown:
    """The t nearest to ``target``, if within tolerance, between the first t that is too far and the
    one before it.
    """
    if not target > 0:
        return None  # the pair does not differ there, or has no angle
    for refinement in range(REFINEMENTS + 1):
        order = sorted(looks)
        first = next(
            (k for k, t in enumerate(order) if looks[t].distance[site] > target), len(order)
        )
        bracket = order[max(first - 1, 0) : first + 1]
        t = min(bracket, key=lambda t: abs(looks[t].distance[site] - target))
        found = looks[t]
        if abs(found.distance[site] - target) <= TOLERANCE * target:
            return _shown(found, site, t=t)
        if len(bracket) < 2 or refinement == REFINEMENTS:
            return None  # even the nearest is too far, or the farthest too near (or not a number)
        (low, high), (near, far) = bracket, (looks[t].distance[site] for t in bracket)
        share = math.log(target / near) / math.log(far / near) if near > 0 else HALF
        look(low * (high / low) ** min(max(share, 0.05), 0.95))
    return None


# sparse


def _sparse(
    origin: Origin, sym: Symmetry, targets: Mapping[str, float], key: tuple[object, ...]
) -> dict[str, Shown]:
    """Per hidden site, what the partner shows whose groups are each in another order, as far as
    brings them to the pair's distance.
    """
    orders, tolerance = {}, dict.fromkeys(targets, TOLERANCE)
    for p in sym:
        if p.site in targets and targets[p.site] > 0 and p.positions is not None and p.size > 1:
            drawn = torch.from_numpy(numpy_generator(*key, "sparse", p.name).permutation(p.size))
            count = _units_to_move(origin, p, drawn, targets[p.site])
            orders[p.name] = cycle(drawn, count)
            # units are whole, and the distance grows with the root of their number
            tolerance[p.site] = max(TOLERANCE, 1 / (4 * max(count, 1)))
    partner = origin.view.with_state(sym.apply(origin.view.state(), orders))
    found = origin.beside(partner)
    # the partner is the same function: there is no distance at the logits
    hidden = {s: t for s, t in targets.items() if origin.nodes[s] != origin.view.output}
    return {
        site: _shown(found, site)
        if target > 0 and abs(found.distance[site] - target) <= tolerance[site] * target
        else None
        for site, target in hidden.items()
    }


def cycle(order: Tensor, count: int) -> Tensor:
    """The first ``count`` units of ``order`` each in the next one's place; the others stay."""
    moved = torch.arange(len(order))
    moved[order[:count]] = order[:count].roll(-1)
    return moved


def _units_to_move(origin: Origin, p: Permutation, order: Tensor, target: float) -> int:
    """How long the cycle must be for the features at the group's site to be ``target`` from where
    they were: by bisection.
    """
    assert p.site is not None and p.positions is not None
    node, whole = origin.nodes[p.site], p.positions.reshape(-1)

    def distance(count: int) -> float:
        moved, off = p.positions[cycle(order, count)].reshape(-1), []
        for kept in origin.kept:
            h = kept[node]
            index = torch.arange(h.shape[p.axis])
            index[whole] = moved
            gram = inner_products(h, h.index_select(p.axis, index.to(h.device)), {})
            off.append(one_minus_cos_from(gram["aa"], gram["ad"], gram["dd"]))
        return float(torch.cat(off).mean().clamp_min(0).sqrt())

    low, high = 0, p.size  # distance(low) <= target; a cycle of one moves nothing
    far = distance(high)
    if far <= target:
        return high
    near = 0.0
    while high - low > 1:
        middle = (low + high) // 2
        if (value := distance(middle)) <= target:
            low, near = middle, value
        else:
            high, far = middle, value
    return low if target - near <= far - target else high
