"""How near do activation and weight matching come to the joint minimum of the commutativity
residual (A.3)?
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F
from torch.optim.adam import adam

from llfc_book.appendix.joint import Enumeration, Residual, enumerate_minimum, local_search
from llfc_book.study import matched
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import register
from llfc_book.study.settings import RECIPES, Setting
from llfc_lib.data import Dataset
from llfc_lib.matching import Permutations, activation_matching, weight_matching
from llfc_lib.metrics import Row
from llfc_lib.metrics.measure import Loader
from llfc_lib.streams import seed_of

TINY = (
    (4,),
    (6,),
    (8,),
    (4, 4),
    (5, 5),
)  # hidden layers of the networks whose permutations are all looked at
TINY_STEPS = 100  # of Adam: most err on less than 5 % of their images then
NULLS = ("before matching", "random order")
QUANTILES = (0.1, 0.5, 0.9)


def rows(pair: Pair, candidates: Mapping[str, Permutations]) -> list[Row]:
    """R and its two factors on the training images under each of ``candidates`` (kind), the order
    before matching, a random one, and the best of local searches from all of these but the first;
    "<quantity>_share" is relative to before matching, "loss_half_way" the training loss of (A +
    pi(B)) / 2.
    """
    a, b = pair.in_dtype("A", "B")
    images = pair.loader("train")
    residual = Residual(a, b, images)
    starts = {"random order": residual.sym.random(pair.setting.name, pair.index), **candidates}
    searches = {
        kind: local_search(residual, start, f"{pair.name}/{kind}") for kind, start in starts.items()
    }
    best = min(searches.values(), key=lambda found: found.value)
    found = [
        Row(quantity, float(value), kind=f"local search from {kind}")
        for kind, s in searches.items()
        for quantity, value in (
            ("residual", s.value),
            ("swaps_tried", s.tried),
            ("swaps", s.accepted),
            ("converged", s.converged),
        )
    ]
    found += [
        Row(
            "loss_half_way",
            matched.half_way_loss(a, residual.sym, b.state_dict(), p, images),
            kind=kind,
        )
        for kind, p in {**candidates, "local search": best.permutations}.items()
    ]
    for quantity, of in (
        ("residual", residual.value),
        ("factor_weights", residual.weights),
        ("factor_features", residual.features),
        ("factor_weights_after_first", lambda p: residual.weights(p, everything=False)),
    ):
        before = of({})
        for kind, p in {"before matching": {}, **starts, "local search": best.permutations}.items():
            role, value = "null" if kind in NULLS else "value", of(p)
            found += [
                Row(quantity, value, role=role, kind=kind),
                Row(f"{quantity}_share", value / before, role=role, kind=kind),
            ]
    return found


def orders_of_every_method(setting: Setting) -> dict[str, str]:
    """Settings of the same networks, by the method that brings them together."""
    return {r.matching: name for name, r in RECIPES.items() if r.base == setting.base}


def _work(setting: Setting, data: Dataset) -> float:
    # passes for its moments, and products for some 500 visits of a layer
    return 4.0 * len(data.y_train) + 500 * dict(setting.model_args)["hidden"] * 5


def _live(pair: Pair) -> list[Row]:
    """With the orders that are shipped, and the smallest of the tiny networks: the record has the
    rest.
    """
    before = replace(pair, nets={**pair.nets, "B": pair.nets["unmatched"]})
    orders = {
        method: matched.of_pair(before, name)
        for method, name in orders_of_every_method(pair.setting).items()
    }
    return rows_with_tiny(replace(pair, extra={"orders": orders}), TINY[:1])


@register("joint", of_every_method=True, live=_live, work=_work)
def rows_with_tiny(pair: Pair, sizes: Sequence[tuple[int, ...]] = TINY) -> list[Row]:
    """:func:`rows`, and as many draws as are planned of :func:`tiny` networks of these ``sizes``,
    untrained and trained: all that is on record of a pair.

    The orders of all methods are in ``pair.extra["orders"]``, by method; B is looked at before any.

    Source: the objective is that of A.3.
    """
    before = replace(pair, nets={**pair.nets, "B": pair.nets["unmatched"]})
    found, draws = rows(before, pair.extra["orders"]), pair.setting.plan.tiny_draws
    steps = (0, TINY_STEPS) if draws else ()
    return found + [row for k in steps for row in tiny(pair.data, sizes, draws, k, pair.index)]


def tiny(
    data: Dataset,
    sizes: Sequence[tuple[int, ...]] = TINY,
    draws: int = 100,
    steps: int = 0,
    seed: int = 0,
) -> list[Row]:
    """R over its minimum among all permutations, for ``draws`` pairs of tiny networks of each size
    after ``steps`` of Adam.

    "over_minimum/q" is its quantile q over the draws. "rank" is the share of permutations with a
    lower R, "at_minimum" the share of draws in which there is none. "factor ..." are the same of
    the factor that the matching minimises. Over the first 500 training images.
    """
    found, images = [], data.loader("train", 500, torch.float64, 500)
    for hidden in sizes:
        nets, error = tiny_networks(data, images, hidden, 2 * draws, steps, seed)
        seen: dict[
            tuple[str, str], list[tuple[float, float]]
        ] = {}  # (prefix, kind): (over the minimum, rank) of every draw
        for k in range(draws):
            a, b = nets[2 * k : 2 * k + 2]
            residual = Residual(a, b, images)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "units that respond to no image")
                chosen = {
                    "activation": activation_matching(residual.sym, a, b, images).permutations,
                    "weight": (
                        weight_matching(
                            residual.sym, a.state_dict(), b.state_dict(), k
                        ).permutations
                    ),
                }
            searches = [local_search(residual, p, k) for p in chosen.values()]
            chosen |= {
                "local search": min(searches, key=lambda s: s.value).permutations,
                "random order": residual.sym.random(hidden, seed, k),
            }
            least = enumerate_minimum(residual)
            for kind, p in chosen.items():
                seen.setdefault(("", kind), []).append(_beside(residual.value(p), least))
            for kind, of in (("activation", "features"), ("weight", "weights")):
                value = getattr(residual, of)(chosen[kind])
                seen.setdefault(("factor ", kind), []).append(
                    _beside(value, enumerate_minimum(residual, of))
                )
        site = f"{' and '.join(map(str, hidden))} units, {'trained' if steps else 'untrained'}"
        found.append(Row("tiny_error", error, n=2 * draws, site=site))
        for (prefix, kind), pairs_seen in seen.items():
            over, rank = torch.tensor(pairs_seen, dtype=torch.float64).T
            where = {
                "n": draws,
                "site": site,
                "role": "null" if kind in NULLS else "value",
                "kind": kind,
            }
            found += [
                Row(
                    f"{prefix}over_minimum",
                    float(over.mean()),
                    float(over.std()) if draws > 1 else None,
                    **where,
                ),
                Row(f"{prefix}rank", float(rank.mean()), **where),
                Row(f"{prefix}at_minimum", float((rank == 0).double().mean()), **where),
            ]
            found += [
                Row(f"{prefix}over_minimum/{q:g}", float(over.quantile(q)), **where)
                for q in QUANTILES
            ]
    return found


def _beside(value: float, least: Enumeration) -> tuple[float, float]:
    """The value over the minimum, and the share of permutations that are lower by more than
    rounding.
    """
    return value / least.value, float((least.values < value * (1 - 1e-9)).double().mean())


def tiny_networks(
    data: Dataset, images: Loader, hidden: tuple[int, ...], number: int, steps: int, seed: int = 0
) -> tuple[list[nn.Sequential], float]:
    """ReLU networks as PyTorch draws them, after ``steps`` of Adam on all ``images`` at once; and
    their mean error on those.
    """
    x, y = next(iter(images))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("tiny", hidden, seed))
        widths = (x[0].numel(), *hidden, data.classes)
        nets = [
            nn.Sequential(
                nn.Flatten(),
                *(
                    part
                    for n, m in zip(widths, widths[1:])
                    for part in (nn.Linear(n, m), nn.ReLU())
                ),
            )[:-1]
            .to(x.dtype)
            .eval()
            for _ in range(number)
        ]
    weights, _ = stack_module_state(nets)
    every = vmap(lambda w: functional_call(nets[0], w, (x,)))  # networks x images x classes
    learned = list(weights.values())
    means, squares = ([torch.zeros_like(w) for w in learned] for _ in range(2))
    counts = [torch.zeros(()) for _ in learned]
    for _ in range(steps):
        loss = F.cross_entropy(every(weights).flatten(0, 1), y.repeat(number), reduction="sum").div(
            len(y)
        )
        gradients = torch.autograd.grad(loss, learned)
        with (
            torch.no_grad()
        ):  # torch.optim.Adam does the same, but takes seconds to import the compiler first
            adam(
                learned,
                list(gradients),
                means,
                squares,
                [],
                counts,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=1e-2,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
    for k, net in enumerate(nets):
        net.load_state_dict({name: w[k].detach() for name, w in weights.items()})
    with torch.no_grad():
        return nets, float((every(weights).argmax(2) != y).double().mean())
