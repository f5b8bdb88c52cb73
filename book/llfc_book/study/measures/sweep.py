"""B.5's argument, tested: are networks matchable because their weights are of low rank?

Pairs of MNIST MLPs and of layer-norm ResNet-20 of several widths, matched after several epochs.
And, for perceptrons, an attempted counter-example: networks that were never trained, their weights
cut to the stable rank of the trained ones, which by the argument should match as well.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from llfc_book.study import pairs
from llfc_book.study.measures.pair import COARSE_GRID
from llfc_book.study.pairs import Pair
from llfc_book.study.parts import register
from llfc_book.study.settings import Setting
from llfc_lib.matching import check_symmetry, objective, permuted, symmetry, weight_matching
from llfc_lib.metrics import LLFC, Barrier, Row, Transfer, measure, stable_rank, weight_spectra
from llfc_lib.models.view import View, copy_of
from llfc_lib.progress import Progress
from llfc_lib.training.checkpoints import Checkpoint
from llfc_lib.training.loop import fit, new_network

SWEPT_IMAGES = 2000  # of the test set, where networks are matched after several epochs
TRAINING_IMAGES = 10_000  # that the barrier is taken over; a plan may ask for fewer
TRUNCATED = "untrained, truncated"


def _settings(setting: Setting) -> dict[str, Any]:
    """How many images, where networks are kept on the way."""
    if not setting.kept:
        return {}
    plan = setting.plan
    return {
        "test": min(plan.pair_first or SWEPT_IMAGES, SWEPT_IMAGES),
        "train": plan.train_first,
    }


@register("sweep", version=2, order="", settings=_settings)
def sweep(pair: Pair) -> list[Row]:
    """The pair's networks after those epochs that their recipe keeps, matched and unmatched;
    ``epoch`` tells after which. Of a recipe that keeps none, networks of seeds 2k and 2k + 1 are
    trained for it, and looked at after those epochs that the plan names.

    "matched_cosine" is <A, pi(B)> / (|A| |B|); the rest as elsewhere. Kind "untrained, truncated"
    is of the counter-example (perceptrons alone), its "unmatched" beside it.

    Source: the last paragraph of B.5.
    """
    return _sweep_of_kept(pair) if pair.setting.kept else _sweep_and_truncate(pair)


def _sweep_and_truncate(pair: Pair) -> list[Row]:
    r, data = pair.setting, pair.data
    seeds = {"A": 2 * pair.index, "B": 2 * pair.index + 1}
    at = {who: Checkpoint(new_network(r, data, seed).state_dict()) for who, seed in seeds.items()}
    start = {who: _network(pair, checkpoint) for who, checkpoint in at.items()}
    rows: list[Row] = []
    for epoch in r.plan.after:
        for who, seed in seeds.items():
            title = f"{r.name}, pair {pair.index}, {who}"
            at[who] = fit(at[who], r, data, (seed, "A"), epoch, pair.device, title=title)
        nets = {who: _network(pair, checkpoint) for who, checkpoint in at.items()}
        rows += _measured(pair, nets["A"], nets["B"], epoch)
    ranks = {m.weight: stable_rank(nets["A"].state_dict()[m.weight]) for m in View(nets["A"]).maps}
    cut = {who: truncated(start[who], ranks) for who in "AB"}
    return rows + _measured(pair, cut["A"], cut["B"], 0, TRUNCATED)


def _sweep_of_kept(pair: Pair) -> list[Row]:
    r, members, rows = pair.setting, pair.setting.members(pair.index), []
    epochs = sorted({*r.kept, r.epochs})
    with Progress(f"{r.name}, pair {pair.index}, matched after epochs", len(epochs)) as bar:
        for epoch in epochs:
            known = (epoch, r.profile, r.name)
            a, b = (
                _network(pair, pairs.endpoint_after(*known, *members[who], pair.data, pair.device))
                for who in "AB"
            )
            rows += _measured(pair, a, b, epoch)
            spectra = weight_spectra(a, seed=f"{pair.name}/{epoch}", shorter_side=True)
            ranks = (row for row in spectra if row.quantity.startswith("stable_rank"))
            rows += [replace(row, epoch=epoch) for row in ranks]
            bar.advance(f"epoch {epoch}")
    return rows


def truncated(network: nn.Module, ranks: dict[str, float]) -> nn.Module:
    """A copy whose weights keep their largest singular values, as few as bring the stable rank to
    ``ranks`` or just below.

    Source: the argument of B.5.
    """
    other = copy_of(network)
    state = other.state_dict()
    for name, rank in ranks.items():
        u, s, v = torch.linalg.svd(state[name].double(), full_matrices=False)
        ranks_by_number = s.square().cumsum(0) / s[0].square()
        kept = max(int((ranks_by_number <= rank).sum()), 1)
        state[name] = ((u[:, :kept] * s[:kept]) @ v[:kept]).to(state[name].dtype)
    other.load_state_dict(state)
    return other


def _network(pair: Pair, checkpoint: Checkpoint) -> nn.Module:
    network = new_network(pair.setting, pair.data)
    network.load_state_dict(checkpoint.model)
    return network.eval().to(pair.device)


def _measured(pair: Pair, a: nn.Module, b: nn.Module, epoch: int, kind: str = "") -> list[Row]:
    setting, dtype = pair.setting, pair.dtype
    a, b = a.to(dtype), b.to(dtype)
    images = _settings(setting) or {"test": setting.plan.first, "train": TRAINING_IMAGES}
    test, train = (pair.loader(split, images[split]) for split in ("test", "train"))
    x, _ = next(iter(test))
    sym = symmetry(a, x)
    check_symmetry(b, sym, x[:8])
    state_a, state_b = a.state_dict(), b.state_dict()
    found = weight_matching(sym, state_a, state_b, seed=f"{pair.name}/{epoch}/{kind}")
    size = 1.0
    for state in (state_a, state_b):
        size *= sum(float(v.double().square().sum()) for v in state.values()) ** 0.5
    rows = [Row("matched_cosine", found.objective / size, n=1)]
    if setting.kept:  # scales of a norm start at 1, and make strangers alike
        before = objective(sym, state_a, state_b, {}) / size
        rows.append(Row("matched_cosine", before, n=1, role="control", kind="unmatched"))
    else:
        for m in View(a).maps:
            weight = state_a[m.weight]
            rank = stable_rank(weight) / weight.shape[1]
            rows.append(Row("stable_rank_share_W", rank, site=m.name))
    for partner, control in ((permuted(b, sym, found.permutations), False), (b, True)):
        metrics = [LLFC((0.5,)), Transfer(nulls=False), Barrier(COARSE_GRID)]
        new = measure(a, partner, test, metrics, dtype)
        new += [
            replace(row, quantity=f"{row.quantity}_on_training")
            for row in measure(a, partner, train, [Barrier(COARSE_GRID)], dtype)
        ]
        new = [row for row in new if row.role == "value"]
        rows += [replace(row, role="control", kind="unmatched") for row in new] if control else new
    if kind:
        rows = [
            replace(row, role="control", kind=kind if row.role == "value" else f"{kind}: unmatched")
            for row in rows
        ]
    return [replace(row, epoch=epoch) for row in rows]
