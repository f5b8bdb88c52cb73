"""What B.5 says."""

import numpy as np
import pandas as pd

from llfc_book import evidence as ev
from llfc_book.findings import finding
from llfc_book.show import b5
from llfc_book.show.prose import between, count, number, percent

PAGE = "B5_rebasin"
HIDDEN = ("FC 1", "FC 2", "FC 3")  # the output layer's ten rows leave its rank no choice
HALF = 0.5
CLOSE = 0.1  # a tenth: "near", "negligible"
ALIKE = 1.25  # a ratio nearer to 1 than that is "as"


def _ratio(record: str, quantity: str, kind: str, data: str = "") -> np.ndarray:
    """The perceptrons' rank over that of its reference, means over pairs, a number a layer."""
    found = []
    for name, setting in b5.PERCEPTRONS.items():
        m = ev.best(quantity, setting, record)
        if m is not None and data in ("", name):
            ratio = b5.shares(m, quantity) / b5.shares(m, quantity, kind)
            found.append(ratio.groupby("site").mean().reindex(HIDDEN))
    return ev.together(found)


@finding(PAGE, "the weights' stable rank is less than half a Gaussian's, between living units too")
def weights_rank() -> tuple[str, bool]:
    found = _ratio("fig20", "stable_rank_W", b5.GAUSSIAN)
    living = _ratio("fig20", "stable_rank_W_living", b5.GAUSSIAN)
    return percent(found), max(found.max(), living.max()) < HALF


@finding(PAGE, "that of centred features is less than half of that with images shuffled")
def features_rank() -> tuple[str, bool]:
    found = _ratio("fig21", "stable_rank_Hc", b5.SHUFFLED)
    return percent(found), found.max() < HALF


@finding(PAGE, "on CIFAR-10 training raises the stable rank of centred features at every layer")
def features_raised() -> tuple[str, bool]:
    found = _ratio("fig21", "stable_rank_Hc", b5.START, "cifar10")
    return between(found), found.min() > 1


@finding(PAGE, "on CIFAR-10 more units of the last two hidden layers are dead than on MNIST")
def dead() -> tuple[str, bool]:
    shares = {}
    for name, setting in b5.PERCEPTRONS.items():
        m = ev.best("living_units", setting, "fig21")
        if m is not None:
            alive = b5.shares(m, "living_units") / b5.shares(m, "living_units", b5.START).max()
            shares[name] = 1 - alive.groupby("site").mean()[["FC 2", "FC 3"]]
    found = shares["cifar10"]
    return percent(found), found.min() > shares["mnist"].max()


@finding(PAGE, "whichever width is left out, rank describes the barrier better than width alone")
def overall() -> tuple[str, bool]:
    table = b5.points(b5.trained())
    left_out = [table[table["width"] != width] for width in table["width"].unique()]
    better = [b5.correlation(of) > abs(b5.correlation(of, "width")) for of in left_out]
    return number(b5.correlation(table)), all(better)


@finding(PAGE, "within every epoch the barrier grows with the rank")
def within_epoch() -> tuple[str, bool]:
    found = b5.within(b5.points(b5.trained()), "epoch").values()
    return between(found), min(found) > 0


@finding(
    PAGE, "in the narrowest networks, and there alone, barriers grow with training, ranks do not"
)
def falls_short() -> tuple[str, bool]:
    table = b5.points(b5.trained()).set_index(["width", "epoch"])[["rank", b5.BARRIER]]
    last = table.index.get_level_values("epoch").max()
    change = table.xs(last, level="epoch") / table.xs(1, level="epoch")
    grows = change[b5.BARRIER] > 1
    narrow, others = change.index[grows], change.index[~grows]
    ordered = narrow.max() < others.min() and (change.loc[narrow, "rank"] <= 1).all()
    return " and ".join(map(str, narrow)), bool(ordered)


@finding(
    PAGE, "in narrow ResNets most layers have a lower stable rank at the end than after epoch 1"
)
def later_lower() -> tuple[str, bool]:
    lower = []
    for m in b5.narrow():
        late, early = (b5.at_epoch(m, epoch) for epoch in (m.setting.epochs, 1))
        lower.append((late / early).groupby("site").mean() < 1)
    found = ev.together(lower)
    return count(found), found.mean() > HALF


def _by_state(column: str) -> pd.DataFrame:
    """By width, a column of trained (last epoch), untrained and truncated perceptrons."""
    table = b5.swept()
    table = table[table["epoch"].isin((0, table["epoch"].max()))]
    return table.pivot_table(index="width", columns="state", values=column)


@finding(PAGE, "truncated networks err too often for a barrier to mean anything")
def ends_error() -> tuple[str, bool]:
    found = _by_state("error")["truncated"]
    return percent(found), found.min() > HALF


@finding(PAGE, "truncated networks match about as badly as whole untrained ones")
def truncated_left() -> tuple[str, bool]:
    found = _by_state("left")
    ratio = found["truncated"] / found["untrained"]
    told = percent(found["truncated"])
    return told, ratio.between(1 / ALIKE, ALIKE).all()


@finding(PAGE, "trained networks match better than truncated ones, at every width")
def trained_left() -> tuple[str, bool]:
    found = _by_state("left")
    widest = found["trained"][found.index.max()]
    return percent(widest), (found["trained"] < found["truncated"]).all()


@finding(PAGE, "truncation raises the cosine of the matched weights by part of what training does")
def cosine_share() -> tuple[str, bool]:
    found = _by_state("cosine")
    share = (found["truncated"] - found["untrained"]) / (found["trained"] - found["untrained"])
    return percent(share), bool(share.between(0, 1).all())


def _matched(quantity: str) -> np.ndarray:
    """A distance of the strong forms, not squared, of every method, layer, direction and pair."""
    found = ev.measured("dist_transfer", lambda s: ev.matched(s) and s.model == "mlp", "strong")
    return ev.together(m.of(quantity).groupby(["pair", "site"]).mean() ** 0.5 for m in found)


@finding(PAGE, "the first condition is not near, and commutativity is mostly nearer than either")
def first_condition() -> tuple[str, bool]:
    found = _matched("dist_transfer")
    nearer = _matched("dist_com") < np.minimum(found, _matched("dist_weights"))
    return between(found), found.min() > CLOSE and nearer.mean() > HALF


@finding(PAGE, "the search leaves the least R, and in no pair the least loss half-way")
def not_the_best() -> tuple[str, bool]:
    least_residual, least_loss = (_least(of) for of in ("residual", "loss_half_way"))
    other = least_loss != "local search"
    return count(other), bool(other.all() and (least_residual == "local search").all())


def _least(quantity: str) -> pd.Series:
    """By data and pair, the method that leaves the least of a quantity."""
    found = (ev.best("residual", name, "joint") for name in b5.PERCEPTRONS.values())
    kinds = ("activation", "weight", "ste", "local search")
    tables = [
        pd.DataFrame({kind: ev.by_pair(m.of(quantity, kind=kind)) for kind in kinds})
        for m in found
        if m is not None
    ]
    return pd.concat([table.idxmin(axis=1) for table in tables])
