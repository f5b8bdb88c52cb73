"""What B.5 says."""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.findings import Found, finding
from llfc_book.show import b5
from llfc_book.show.prose import between, count, number, percent

PAGE = "B5_rebasin"
HIDDEN = ("FC 1", "FC 2", "FC 3")  # the output layer's ten rows leave its rank no choice
HALF = 0.5


def _ratio(record: str, quantity: str, kind: str, *data: str) -> np.ndarray:
    """The perceptrons' rank over that of its reference, means over pairs, a number a layer."""
    found = (ev.best(quantity, b5.PERCEPTRONS[name], record) for name in data or b5.PERCEPTRONS)
    ratios = (b5.shares(m, quantity) / b5.shares(m, quantity, kind) for m in found if m)
    return ev.together(ratio.groupby("site").mean().reindex(HIDDEN) for ratio in ratios)


@finding(
    PAGE, "weights have under half a Gaussian's stable rank; narrow ResNets' falls while they train"
)
def weights_rank() -> Found:
    found = _ratio("fig20", "stable_rank_W", b5.GAUSSIAN)
    living = _ratio("fig20", "stable_rank_W_living", b5.GAUSSIAN)
    late = ((b5.at_epoch(m, m.setting.epochs) / b5.at_epoch(m, 1)) < 1 for m in b5.narrow())
    falls = min(lower.mean() for lower in late) > HALF
    return percent(found), falls and max(found.max(), living.max()) < HALF


@finding(PAGE, "centred features have under half the rank of shuffled ones; on CIFAR-10 it rose")
def features() -> Found:
    rank = _ratio("fig21", "stable_rank_Hc", b5.SHUFFLED)
    raised = _ratio("fig21", "stable_rank_Hc", b5.START, "cifar10")
    told = {"features_rank": percent(rank), "features_raised": between(raised)}
    return told, rank.max() < HALF and raised.min() > 1


@finding(PAGE, "on CIFAR-10 more units of the last two hidden layers are dead than on MNIST")
def dead() -> Found:
    mnist, cifar10 = (
        1 - _ratio("fig21", "living_units", b5.START, data)[1:] for data in b5.PERCEPTRONS
    )
    return percent(cifar10), cifar10.min() > mnist.max()


@finding(PAGE, "rank describes the barrier better than width does, but while narrow nets train")
def description() -> Found:
    table = b5.points(b5.trained())
    left_out = [table[table["width"] != width] for width in table["width"].unique()]
    better = [b5.correlation(of) > abs(b5.correlation(of, "width")) for of in left_out]
    within = b5.within(table, "epoch").values()
    by_epoch = table.pivot(index="width", columns="epoch")
    rank, barrier = by_epoch["rank"], by_epoch[b5.BARRIER]
    grows = (barrier.iloc[:, -1] > barrier.iloc[:, 0]).to_numpy()
    narrowest = [*grows] == sorted(grows, reverse=True) and 0 < sum(grows) < len(grows)
    rank_falls = (rank.iloc[:, -1] <= rank.iloc[:, 0])[grows].all()
    told = {"overall": number(b5.correlation(table)), "within_epoch": between(within)}
    told["falls_short"] = " and ".join(map(str, by_epoch.index[grows]))
    return told, all(better) and min(within) > 0 and narrowest and rank_falls


def _by_state(column: str) -> pd.DataFrame:
    """By width, a column of trained (last epoch), untrained and truncated perceptrons."""
    table = b5.swept()
    table = table[table["epoch"].isin((0, table["epoch"].max()))]
    return table.pivot_table(column, "width", "state")


@finding(PAGE, "truncated networks err on most images, and match as untrained, not as trained ones")
def truncated() -> Found:
    error, left = _by_state("error"), _by_state("left")
    alike = (left["truncated"] / left["untrained"]).between(1 / ev.ALIKE, ev.ALIKE).all()
    told = {
        "ends_error": percent(error["truncated"]),
        "truncated_left": percent(left["truncated"]),
        "trained_left": percent(left["trained"].iloc[-1]),  # of the widest
    }
    worse = (left["trained"] < left["truncated"]).all()
    return told, error["truncated"].min() > HALF and alike and worse


@finding(PAGE, "truncation raises the cosine of the matched weights by part of what training does")
def cosine_share() -> Found:
    found = _by_state("cosine")
    share = (found["truncated"] - found["untrained"]) / (found["trained"] - found["untrained"])
    return percent(share), share.between(0, 1).all()


@finding(PAGE, "the first condition is not near, and commutativity is mostly nearer than either")
def first_condition() -> Found:
    found = ev.measured("dist_transfer", ev.matched, "strong", model="mlp")
    first, second, com = (  # not squared, of every method, layer and pair
        ev.together(m.of(quantity).groupby(["pair", "site"]).mean() ** 0.5 for m in found)
        for quantity in ("dist_transfer", "dist_weights", "dist_com")
    )
    nearer = com < np.minimum(first, second)
    return between(first), first.min() > ev.CLOSE and nearer.mean() > HALF


@finding(PAGE, "the search leaves the least R, and in no pair the least loss half-way")
def not_the_best() -> Found:
    residual, loss = (_least(of) for of in ("residual", "loss_half_way"))
    other = loss != "local search"
    return count(other), other.all() and (residual == "local search").all()


def _least(quantity: str) -> pd.Series:
    """By pair, the method that leaves the least of a quantity."""
    found = (ev.best("residual", name, "joint") for name in b5.PERCEPTRONS.values())
    kinds = ("activation", "weight", "ste", "local search")
    tables = ({k: ev.by_pair(m.of(quantity, kind=k)) for k in kinds} for m in found if m)
    return pd.concat(pd.DataFrame(table).idxmin(axis=1) for table in tables)
