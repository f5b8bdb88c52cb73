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

from llfc_book.appendix.joint import Residual, enumerate_residual, local_search
from llfc_book.study import matched
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import register
from llfc_lib.data import Dataset
from llfc_lib.matching import Permutations, activation_matching, weight_matching
from llfc_lib.metrics import Row
from llfc_lib.metrics.measure import Loader
from llfc_lib.streams import seed_of

#: Hidden layers of the networks whose permutations are all looked at.
TINY = ((4,), (6,), (8,), (4, 4), (5, 5))
TINY_STEPS = 100  # of Adam: most err on less than 5 % of their images then
NULLS = ("before matching", "random order")
QUANTILES = (0.1, 0.5, 0.9)


def rows(pair: Pair, candidates: Mapping[str, Permutations]) -> list[Row]:
    """R on the training images under each of ``candidates`` (kind), the order before matching, a
    random one, and the best of local searches from all of these but the first; "<quantity>_share"
    of R and its two factors is relative to before matching, "loss_half_way" the training loss of
    (A + pi(B)) / 2.
    """
    a, b = pair.in_dtype("A", "B")
    images = pair.loader("train")
    residual = Residual(a, b, images)
    starts = {"random order": residual.sym.random(pair.setting.name, pair.index), **candidates}
    searches = [
        local_search(residual, start, f"{pair.name}/{kind}") for kind, start in starts.items()
    ]
    best = {"local search": min(searches, key=lambda found: found.value).permutations}
    found = [
        Row(
            "loss_half_way",
            matched.half_way_loss(a, residual.sym, b.state_dict(), p, images),
            kind=kind,
        )
        for kind, p in {**candidates, **best}.items()
    ]
    for quantity, of in (
        ("residual", residual.value),
        ("factor_weights", residual.weights),
        ("factor_features", residual.features),
    ):
        before = of({})
        for kind, p in {"before matching": {}, **starts, **best}.items():
            role, value = "null" if kind in NULLS else "value", of(p)
            found.append(Row(f"{quantity}_share", value / before, role=role, kind=kind))
            if quantity == "residual":
                found.append(Row(quantity, value, role=role, kind=kind))
    return found


def _live(pair: Pair) -> list[Row]:
    """With the orders that are shipped, and the smallest of the tiny networks: the record has the
    rest.
    """
    orders = matched.orders_of_every_method(pair)
    return rows_with_tiny(replace(pair, extra={"orders": orders}), TINY[:1])


@register("joint", order="every", live=_live)
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
    after ``steps`` of Adam, on the first 500 training images.

    "over_minimum" is its mean, "over_minimum/q" its quantile q over the draws, "at_minimum" the
    share of draws in which no permutation has a lower R.
    """
    found, images = [], data.loader("train", 500, torch.float64, 500)
    for hidden in sizes:
        nets = tiny_networks(data, images, hidden, 2 * draws, steps, seed)
        seen: dict[str, list[tuple[float, float]]] = {}  # by kind: over and at the minimum, a draw
        for k in range(draws):
            a, b = nets[2 * k : 2 * k + 2]
            residual = Residual(a, b, images)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "units that respond to no image")
                activation = activation_matching(residual.sym, a, b, images)
            weight = weight_matching(residual.sym, a.state_dict(), b.state_dict(), k)
            chosen = {
                "activation": activation.permutations,
                "weight": weight.permutations,
                "random order": residual.sym.random(hidden, seed, k),
            }
            least = float(enumerate_residual(residual).min())
            for kind, p in chosen.items():
                value = residual.value(p)
                lowest = least >= value * (1 - 1e-9)  # what is lower by less is rounding
                seen.setdefault(kind, []).append((value / least, lowest))
        site = f"{' and '.join(map(str, hidden))} units, {'trained' if steps else 'untrained'}"
        for kind, values in seen.items():
            over, lowest = torch.tensor(values, dtype=torch.float64).T
            role = "null" if kind in NULLS else "value"
            where = {"n": draws, "site": site, "role": role, "kind": kind}
            std = float(over.std()) if draws > 1 else None
            found += [
                Row("over_minimum", float(over.mean()), std, **where),
                Row("at_minimum", float(lowest.mean()), **where),
            ]
            found += [
                Row(f"over_minimum/{q:g}", float(over.quantile(q)), **where) for q in QUANTILES
            ]
    return found


def tiny_networks(
    data: Dataset, images: Loader, hidden: tuple[int, ...], number: int, steps: int, seed: int = 0
) -> list[nn.Sequential]:
    """ReLU networks as PyTorch draws them, after ``steps`` of Adam on all ``images`` at once."""
    x, y = next(iter(images))
    widths = (x[0].numel(), *hidden, data.classes)

    def network() -> nn.Sequential:
        layers = ((nn.Linear(n, m), nn.ReLU()) for n, m in zip(widths, widths[1:]))
        every = nn.Sequential(nn.Flatten(), *(part for layer in layers for part in layer))
        return every[:-1].to(x.dtype).eval()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("tiny", hidden, seed))
        nets = [network() for _ in range(number)]
    weights, _ = stack_module_state(nets)
    every = vmap(lambda w: functional_call(nets[0], w, (x,)))  # networks x images x classes
    learned = list(weights.values())
    means, squares = ([torch.zeros_like(w) for w in learned] for _ in range(2))
    counts = [torch.zeros(()) for _ in learned]
    settings = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    for _ in range(steps):
        logits = every(weights).flatten(0, 1)
        loss = F.cross_entropy(logits, y.repeat(number), reduction="sum").div(len(y))
        gradients = list(torch.autograd.grad(loss, learned))
        # torch.optim.Adam does the same, but takes seconds to import the compiler first
        with torch.no_grad():
            more = {"amsgrad": False, "maximize": False, **settings}
            adam(learned, gradients, means, squares, [], counts, **more)
    for k, net in enumerate(nets):
        net.load_state_dict({name: w[k].detach() for name, w in weights.items()})
    return nets
