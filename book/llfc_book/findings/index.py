"""What the front page says."""

import numpy as np

from llfc_book import evidence as ev
from llfc_book.evidence import ALIKE
from llfc_book.findings import Found, finding
from llfc_book.show import b2, front
from llfc_book.show.prose import between, count, number, percent

PAGE = "index"
CONNECTED = 100 * ev.CONNECTED  # points
ENDPOINT = 0.5  # rho of an endpoint in the place of the network half-way


def _on_the_line(name: str, role: str = "value", kind: str = "") -> np.ndarray:
    """By pair, the barrier in points and rho half-way in the mean over hidden layers."""
    errors, shares = front.ways(name, role, kind)
    rise = errors.max(axis=1) - (errors[0.0] + errors[1.0]) / 2
    return np.array([100 * rise, shares[0.5]])


@finding(PAGE, "spawned or matched, MNIST perceptrons are connected and near the mean, no others")
def line() -> Found:
    near = np.hstack([_on_the_line(name) for name in (front.SPAWNED, front.MATCHED)])
    apart = _on_the_line(front.SPAWNED, "control", "independent")
    told = {
        "rise": number(near[0].max()),
        "rise_apart": between(apart[0]),
        "missed": between(near[1]),
        "missed_apart": between(apart[1]),
    }
    connected = near[0].max() <= CONNECTED < apart[0].min()
    return told, connected and near[1].max() < min(ENDPOINT, apart[1].min())


def _rho(logits: bool, narrow: bool) -> np.ndarray:
    """rho of each setting of the appendix in the mean over pairs, of hidden sites or the logits;
    the narrow layer-norm networks, or all others.
    """
    part = ev.logits if logits else ev.hidden
    settings = ev.measured("cos_ratio", ev.printed)
    chosen = [m for m in settings if (m.setting.model == "resnet20_ln") == narrow]
    return np.array([ev.typical(part(b2.rho(m))).mean() for m in chosen])


@finding(PAGE, "hidden features are nearer than an endpoint but in narrow networks, logits farther")
def layers() -> Found:
    hidden, narrow = (_rho(logits=False, narrow=narrow) for narrow in (False, True))
    last = np.hstack([_rho(logits=True, narrow=narrow) for narrow in (False, True)])
    alike = (narrow > ENDPOINT / ALIKE) & (narrow < ENDPOINT * ALIKE)  # no nearer, no farther
    stands = hidden.max() < ENDPOINT and alike.all() and (last > np.hstack([hidden, narrow])).all()
    return {"hidden": between(hidden), "at_logits": between(last)}, stands


@finding(PAGE, "spread partners at equal distance are no less linear, sparse ones are")
def bracket() -> Found:
    spread, sparse = (
        np.array([front.over_partners(m, kind) for m in b2.held()]) for kind in ("spread", "sparse")
    )
    held = (spread >= 1 / ALIKE) & (sparse < 1)
    return count(held), len(held) > 0 and held.all()


@finding(PAGE, "a pair is as linear as a tuned partner, not more at logits, more than a sparse one")
def partners() -> Found:
    asked = {"tuned": ("T", False), "tuned_logits": ("T", True), "sparse": ("P", False)}
    found = {name: front.headline(kind, logits) for name, (kind, logits) in asked.items()}
    stands = 1 / ALIKE <= found["tuned"] <= ALIKE and found["tuned_logits"] > 1 / ALIKE
    told = {name: number(ratio) for name, ratio in found.items()}
    return told, stands and found["sparse"] < 1 / ALIKE


@finding(PAGE, "at the logits of matched perceptrons most of the residual is due to commutativity")
def maps() -> Found:
    settings = {
        "maps_matched": ev.measured("origin_commutativity", ev.matched, model="mlp"),
        "maps_spawned": ev.measured("origin_commutativity", ev.spawned),
    }
    found = {k: [front.origin(m, "commutativity").mean() for m in of] for k, of in settings.items()}
    told = {name: percent(shares) for name, shares in found.items()}
    return told, min(found["maps_matched"]) > 0.5


def _barriers(model: str, data: str) -> np.ndarray:
    """Before matching and after it, of all pairs and methods."""
    found = ev.measured("error", ev.matched, model=model, data=data)
    return np.hstack([front.both_barriers(m) for m in found])


@finding(PAGE, "matching connects perceptrons on MNIST, helps on CIFAR-10, but not narrow networks")
def matching() -> Found:
    unmatched, mnist = _barriers("mlp", "mnist")
    before, cifar = _barriers("mlp", "cifar10")
    narrow = _barriers("resnet20_ln", "cifar10")[1]
    told = {"mnist": number(mnist.max()), "cifar": number(cifar.max())}
    connects = mnist.max() <= CONNECTED < unmatched.min()
    helps = (cifar < before / 2).all() and cifar.max() > CONNECTED
    return told | {"layer_norm": between(narrow)}, connects and helps and narrow.min() > CONNECTED


@finding(PAGE, "perceptrons are at full scale, the rest is reduced")
def pairs() -> Found:
    found = {m.setting.name: m for m in ev.measured("cos_ratio", ev.printed)}
    as_told = all((m.scale == "full") == (m.setting.model == "mlp") for m in found.values())
    spawned = found.pop(front.SPAWNED).pairs
    others = sorted({m.pairs for m in found.values()})
    told = {"pairs_spawned": str(spawned), "pairs_other": f"{others[0]} to {others[-1]}"}
    return told, as_told and others[0] < others[-1]
