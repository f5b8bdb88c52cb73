"""B.5's argument, tested: are networks matchable because their weights are of low rank?

Pairs of MNIST MLPs and of layer-norm ResNet-20 of several widths, matched after several epochs.
And, for perceptrons, an attempted counter-example: networks that were never trained, their weights
cut to the stable rank of the trained ones, which by the argument should match as well.

Source: this book.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from llfc_book.study import pairs
from llfc_book.study.settings import WIDTH_EPOCHS, recipe
from llfc_lib.data import Dataset
from llfc_lib.matching import check_symmetry, objective, permuted, symmetry, weight_matching
from llfc_lib.metrics import LLFC, Barrier, Row, Transfer, measure, stable_rank, weight_spectra
from llfc_lib.models.view import View, copy_of
from llfc_lib.progress import Progress
from llfc_lib.training.checkpoints import Checkpoint
from llfc_lib.training.loop import fit, new_network
from llfc_lib.training.recipe import Recipe

TRAINING_IMAGES = 10_000  # that the barrier is taken over; a plan may ask for fewer
TRUNCATED = "untrained, truncated"


def sweep(profile: str, name: str, pair: int, data: Dataset, device: str = "cpu") -> list[Row]:
    """Networks of seeds 2 * pair and 2 * pair + 1 after every epoch of :data:`WIDTH_EPOCHS`, or
    after those that their recipe keeps, matched and unmatched.

    "matched_cosine" is <A, pi(B)> / (|A| |B|); the rest as elsewhere; ``epoch`` tells after which.
    Kind "untrained, truncated" is of the counter-example (perceptrons alone), its "unmatched"
    beside it.

    Source: this book, on the last paragraph of B.5.
    """
    r = recipe(name, profile)
    if r.kept:
        return _sweep_of_kept(profile, name, pair, data, device)
    at = {
        who: Checkpoint(new_network(r, data, seed).state_dict())
        for who, seed in (("A", 2 * pair), ("B", 2 * pair + 1))
    }
    start = {who: _network(r, data, checkpoint) for who, checkpoint in at.items()}
    rows: list[Row] = []
    for epoch in WIDTH_EPOCHS:
        at = {
            who: fit(
                checkpoint,
                r,
                data,
                (2 * pair + (who == "B"), "A"),
                epoch,
                device,
                title=f"{name}, pair {pair}, {who}",
            )
            for who, checkpoint in at.items()
        }
        nets = {who: _network(r, data, checkpoint).to(device) for who, checkpoint in at.items()}
        rows += _measured(profile, name, pair, nets["A"], nets["B"], data, epoch)
    ranks = {m.weight: stable_rank(nets["A"].state_dict()[m.weight]) for m in View(nets["A"]).maps}
    cut = {who: truncated(start[who], ranks).to(device) for who in "AB"}
    return rows + _measured(profile, name, pair, cut["A"], cut["B"], data, 0, TRUNCATED)


def _sweep_of_kept(profile: str, name: str, pair: int, data: Dataset, device: str) -> list[Row]:
    r, members, rows = recipe(name, profile), pairs.members(name, pair), []
    epochs = sorted({*r.kept, r.epochs})
    with Progress(f"{name}, pair {pair}, matched after each epoch kept", len(epochs)) as bar:
        for epoch in epochs:
            nets = {
                who: (
                    _network(
                        r,
                        data,
                        pairs.endpoint_after(epoch, profile, name, *members[who], data, device),
                    ).to(device)
                )
                for who in "AB"
            }
            rows += _measured(profile, name, pair, nets["A"], nets["B"], data, epoch)
            rows += [
                replace(row, epoch=epoch)
                for row in weight_spectra(
                    nets["A"], seed=f"{name}/{pair}/{epoch}", shorter_side=True
                )
                if row.quantity.startswith("stable_rank")
            ]
            bar.advance(f"epoch {epoch}")
    return rows


def truncated(network: nn.Module, ranks: dict[str, float]) -> nn.Module:
    """A copy whose weights keep their largest singular values, as few as bring the stable rank to
    ``ranks`` or just below.

    Source: this book, on the argument of B.5.
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


def _network(r: Recipe, data: Dataset, checkpoint: Checkpoint) -> nn.Module:
    network = new_network(r, data)
    network.load_state_dict(checkpoint.model)
    return network.eval()


def _measured(
    profile: str,
    name: str,
    pair: int,
    a: nn.Module,
    b: nn.Module,
    data: Dataset,
    epoch: int,
    kind: str = "",
) -> list[Row]:
    dtype, plan = pairs.DTYPE[profile], pairs.plan_of(name, profile)
    a, b = a.to(dtype), b.to(dtype)
    settings = pairs.settings_of("sweep", name, profile) or {
        "test": plan.first,
        "train": TRAINING_IMAGES,
    }
    test, train = (
        data.loader(split, plan.batch, dtype, settings[split]) for split in ("test", "train")
    )
    x, _ = next(iter(test))
    sym = symmetry(a, x)
    check_symmetry(b, sym, x[:8])
    found = weight_matching(
        sym, a.state_dict(), b.state_dict(), seed=f"{name}/{pair}/{epoch}/{kind}"
    )
    norms = [
        sum(float(v.double().square().sum()) for v in net.state_dict().values()) ** 0.5
        for net in (a, b)
    ]
    rows = [Row("matched_cosine", found.objective / (norms[0] * norms[1]), n=1)]
    if recipe(name, profile).kept:  # scales of a norm start at 1, and make strangers alike
        before = objective(sym, a.state_dict(), b.state_dict(), {}) / (norms[0] * norms[1])
        rows.append(Row("matched_cosine", before, n=1, role="control", kind="unmatched"))
    else:
        rows += [
            Row("stable_rank_share_W", stable_rank(w) / w.shape[1], site=m.name)
            for m in View(a).maps
            for w in (_weight(a, m.weight),)
        ]
    for partner, control in ((permuted(b, sym, found.permutations), False), (b, True)):
        new = measure(
            a,
            partner,
            test,
            [LLFC((0.5,)), Transfer(nulls=False), Barrier(pairs.COARSE_GRID)],
            dtype,
        )
        new += [
            replace(row, quantity=f"{row.quantity}_on_training")
            for row in measure(a, partner, train, [Barrier(pairs.COARSE_GRID)], dtype)
        ]
        new = [row for row in new if row.role == "value"]
        rows += [replace(row, role="control", kind="unmatched") for row in new] if control else new
    if kind:
        rows = [
            replace(row, role="control", kind=kind if row.role == "value" else f"{kind}: unmatched")
            for row in rows
        ]
    return [replace(row, epoch=epoch) for row in rows]


def _weight(network: nn.Module, name: str) -> Tensor:
    return network.state_dict()[name]
