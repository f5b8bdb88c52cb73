"""What the front page says."""

import numpy as np

from llfc_book import evidence as ev
from llfc_book.claims import rules
from llfc_book.claims.predictions import MARGIN
from llfc_book.findings import finding
from llfc_book.show import b2, front
from llfc_book.show.prose import between, count, number, percent

PAGE = "index"
CONNECTED = 100 * rules.MARGIN  # points
ENDPOINT = 0.5  # rho of an endpoint in the place of the network half-way


def _on_the_line(part: int) -> tuple[np.ndarray, np.ndarray]:
    """The barrier (part 0, points) or hidden rho half-way (1), of all connected MNIST pairs and of
    all between networks of other starts.
    """

    def of(name: str, role: str = "value", kind: str = "") -> np.ndarray:
        errors, shares = front.ways(name, role, kind)
        if part:
            return shares[0.5].to_numpy()
        return 100 * (errors.max(axis=1) - (errors[0.0] + errors[1.0]) / 2).to_numpy()

    together = [of(name) for name in (front.SPAWNED, front.MATCHED)]
    return np.concatenate(together), of(front.SPAWNED, "control", "independent")


@finding(PAGE, "MNIST perceptrons, spawned or matched by weights, are connected")
def rise() -> tuple[str, bool]:
    near, _ = _on_the_line(0)
    return number(near.max()), near.max() <= CONNECTED


@finding(PAGE, "those of other starts are not")
def rise_apart() -> tuple[str, bool]:
    _, apart = _on_the_line(0)
    return between([*apart]), apart.min() > CONNECTED


@finding(PAGE, "hidden features of connected pairs are nearer to the mean than an endpoint is")
def missed() -> tuple[str, bool]:
    near, _ = _on_the_line(1)
    return between(near), near.max() < ENDPOINT


@finding(PAGE, "those of other starts are farther from it than in any connected pair")
def missed_apart() -> tuple[str, bool]:
    near, apart = _on_the_line(1)
    return between(apart), apart.min() > near.max()


def _rho(logits: bool, narrow: bool) -> np.ndarray:
    """rho of each setting of the appendix in the mean over pairs, of hidden sites or the logits;
    the narrow layer-norm networks, or all others.
    """
    settings = front.real("cos_ratio", lambda s: ev.spawned(s) or ev.matched(s))
    part = ev.logits if logits else ev.hidden
    chosen = [m for m in settings if (m.setting.model == "resnet20_ln") == narrow]
    return np.array([ev.typical(part(b2.rho(m))).mean() for m in chosen])


@finding(PAGE, "in all settings but the narrow ones hidden features are nearer than an endpoint")
def hidden() -> tuple[str, bool]:
    found, narrow = _rho(logits=False, narrow=False), _rho(logits=False, narrow=True)
    alike = (narrow > ENDPOINT / MARGIN) & (narrow < ENDPOINT * MARGIN)  # no nearer, no farther
    return between(found), found.max() < ENDPOINT and bool(alike.all())


@finding(PAGE, "in every setting the logits are less linear than the hidden layers")
def at_logits() -> tuple[str, bool]:
    inside, last = (
        np.concatenate([_rho(logits, narrow) for narrow in (False, True)])
        for logits in (False, True)
    )
    return between(last), bool((last > inside).all())


@finding(PAGE, "spread partners at equal distance are no less linear, sparse ones are")
def bracket() -> tuple[str, bool]:
    spread, sparse = (
        np.array([front.over_partners(m, kind) for m in b2.held()]) for kind in ("spread", "sparse")
    )
    held = (spread >= 1 / MARGIN) & (sparse < 1)
    return count(held), bool(held.all()) and len(held) > 0


@finding(PAGE, "at equal distance a trained pair is as linear as a tuned partner in hidden layers")
def tuned() -> tuple[str, bool]:
    found = front.headline("T", logits=False)
    return number(found), 1 / MARGIN <= found <= MARGIN


@finding(PAGE, "and not more linear at the logits")
def tuned_logits() -> tuple[str, bool]:
    found = front.headline("T", logits=True)
    return number(found), found > 1 / MARGIN


@finding(PAGE, "it is more linear than a sparse partner by more than the margin")
def sparse() -> tuple[str, bool]:
    found = front.headline("P", logits=False)
    return number(found), found < 1 / MARGIN


def _maps(where: front.Where) -> np.ndarray:
    settings = front.real("origin_commutativity", where)
    return np.array([front.origin(m, "commutativity").mean() for m in settings])


@finding(PAGE, "in matched perceptrons most of the residual at the logits is due to commutativity")
def maps_matched() -> tuple[str, bool]:
    found = _maps(lambda s: ev.matched(s) and s.model == "mlp")
    return percent(found), found.min() > 0.5


@finding(PAGE, "in spawned networks part of it is; the first layer's is mostly the ReLUs'")
def maps_spawned() -> tuple[str, bool]:
    found = _maps(ev.spawned)
    plain = front.real("origin_relu", lambda s: ev.spawned(s) or ev.matched(s) and s.model == "mlp")
    relus = [m.of("origin_relu") for m in plain]
    first = np.concatenate([ev.by_site(values, ev.sites_of(values))[0] for values in relus])
    return percent(found), first.min() > 0.5


def _barriers(model: str, data: str) -> tuple[np.ndarray, np.ndarray]:
    """Before matching and after it, of all pairs and methods."""
    found = front.real("error", lambda s: ev.matched(s) and (s.model, s.data) == (model, data))
    before, after = zip(*(front.both_barriers(m) for m in found))
    return np.concatenate(before), np.concatenate(after)


@finding(PAGE, "matching connects the perceptrons on MNIST, which were not connected")
def mnist() -> tuple[str, bool]:
    before, after = _barriers("mlp", "mnist")
    return number(after.max()), after.max() <= CONNECTED < before.min()


@finding(PAGE, "it removes most of the barrier on CIFAR-10, and leaves over 2 points in some pair")
def cifar() -> tuple[str, bool]:
    before, after = _barriers("mlp", "cifar10")
    return number(after.max()), bool((after < before / 2).all()) and after.max() > CONNECTED


@finding(PAGE, "the narrow layer-norm networks stay unconnected")
def layer_norm() -> tuple[str, bool]:
    _, after = _barriers("resnet20_ln", "cifar10")
    return between(after), after.min() > CONNECTED


@finding(PAGE, "spawned MNIST perceptrons are at full scale")
def pairs_spawned() -> tuple[str, bool]:
    m = ev.best("cos_ratio", front.SPAWNED)
    assert m is not None
    return str(m.pairs), m.scale == "full"


@finding(PAGE, "of the other settings, the perceptrons are at full scale, the rest is reduced")
def pairs_other() -> tuple[str, bool]:
    found = front.real("cos_ratio", lambda s: ev.spawned(s) or ev.matched(s))
    others = [m for m in found if m.setting.name != front.SPAWNED]
    pairs = sorted({m.pairs for m in others})
    as_told = all((m.scale == "full") == (m.setting.model == "mlp") for m in others)
    return f"{pairs[0]} to {pairs[-1]}", as_told and pairs[0] < pairs[-1]
