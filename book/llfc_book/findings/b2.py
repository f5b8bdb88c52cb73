"""What B.2 says."""

from collections.abc import Callable

import numpy as np

from llfc_book import evidence as ev
from llfc_book.evidence import CLOSE, Measured
from llfc_book.findings import Found, finding
from llfc_book.show import b2
from llfc_book.show.prose import between, count, percent
from llfc_book.study.settings import Setting

PAGE = "B2_llfc"


def _of(where: Callable[[Setting], bool]) -> list[Measured]:
    found = ev.measured("cos_ratio", where)
    return [m for m in found if m.setting.model != "resnet20_ln"]


@finding(PAGE, "half-way, most hidden layers of some spawned setting lie within a tenth")
def spawned_hidden() -> Found:
    squares = {m.name.split(",")[0]: ev.half_way(m.of("cos_ratio")) for m in _of(ev.spawned)}
    shares = {name: (ev.hidden(of) <= CLOSE).mean() for name, of in squares.items()}
    told = (f"{percent(share)} ({name})" for name, share in shares.items())
    return ", ".join(told), max(shares.values()) > 0.5


@finding(PAGE, "at the logits, most pairs of all kinds lie above a tenth")
def at_logits() -> Found:
    squares = ev.together(ev.logits(ev.half_way(m.of("cos_ratio"))) for m in _of(ev.printed))
    return count(squares > CLOSE), (squares > CLOSE).mean() > 0.5


@finding(PAGE, "hidden features of spawned pairs are less than half off, less than matched ones")
def share() -> Found:
    spawned, mlp, matched = (
        ev.together(ev.typical(ev.hidden(b2.rho(m))) for m in _of(where))
        for where in (ev.spawned, lambda s: ev.spawned(s) and s.model == "mlp", ev.matched)
    )
    told = {"share_hidden": percent(spawned), "share_matched": percent(matched)}
    return told, spawned.max() < 0.5 and matched.mean() > mlp.mean()


@finding(PAGE, "the coefficient is within a tenth of 1 in most cases of spawned pairs alone")
def coefficient() -> Found:
    spawned, matched = (
        np.array([(m.of("1-coef_alpha").abs() <= CLOSE).mean() for m in _of(where)])
        for where in (ev.spawned, ev.matched)
    )
    told = {"coefficient_spawned": percent(spawned), "coefficient_matched": percent(matched)}
    return told, matched.max() < 0.5 < spawned.min()


@finding(PAGE, "narrow layer-norm networks, matched, are farther from the mean than an endpoint is")
def narrow_logits() -> Found:
    found = ev.measured("rho", ev.matched, "closeness", model="resnet20_ln")
    shares = ev.together(b2.per_pair(m, "", logits=True) for m in found)
    return between(shares), shares.min() > 0.5
