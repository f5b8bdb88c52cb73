"""The networks of a pair, and everything that is measured on them.

Pair k of a spawning recipe is children A and B of seed k. Its control is A of seed k beside A of
seed k + 1: two independently initialised networks, so n pairs need 2n + 1 networks. Neighbouring
controls share a network.

Pair k of a matched recipe is the networks of seeds 2k and 2k + 1, B with its units in the order
that the matching found (:mod:`llfc_book.study.matched`). Its controls are the same two before
matching, and A beside the next pair's A, the last beside the first.

Source: this book.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from llfc_book.places import ENDPOINTS
from llfc_book.study.closeness import SCALES, TOLERANCE, closeness
from llfc_book.study.connected import Connected, StitchedExcess
from llfc_book.study.runs import kept_path, run_key, run_path, train
from llfc_book.study.settings import (
    BY_PERMUTATION,
    MATCHED,
    MATCHED_LAYER_NORM,
    MATCHED_SPAWNED,
    PAIRS,
    SPAWN_AT,
    WIDTHS,
    recipe,
)
from llfc_lib.data import Dataset, load
from llfc_lib.data.augment import Augmenter, augmenter_for
from llfc_lib.matching import UnsupportedOperation, symmetry
from llfc_lib.metrics import (
    LLFC,
    Barrier,
    Coherence,
    Commutativity,
    Row,
    SameWeights,
    Stitching,
    Transfer,
    WeakAdditivity,
    displacement_null,
    measure,
)
from llfc_lib.metrics.measure import Metric
from llfc_lib.streams import generator
from llfc_lib.training import checkpoints
from llfc_lib.training.checkpoints import Checkpoint, CheckpointError
from llfc_lib.training.loop import new_network
from llfc_lib.training.recipe import Recipe

ALPHAS = (0.25, 0.5, 0.75)
FULL_GRID = tuple(np.linspace(0, 1, 21).round(2).tolist())
COARSE_GRID = (0.0, *ALPHAS, 1.0)
RESAMPLES = 2000  # of the bootstrap over images
SWEPT_IMAGES = 2000  # of the test set, where networks are matched after several epochs
TRAINING_GRID = tuple(k / 8 for k in range(9))  # the training set is six times the test set
DISPLACEMENTS = tuple(
    (kind, matched) for matched in (False, True) for kind in ("rotation", "entries", "gaussian")
)
MATCHED_PAIRS = 3  # of each recipe; fewer in smoke
CLOSENESS_IMAGES = 2000  # of the test set for perceptrons: rho is then known to half a percent
#: Parts on what a number is held against; the last two are measured in one pass where both are due.
REFERENCES = ("closeness", "connected", "coherence")
DISPLACED = {
    f"{kind} {'matched' if matched else 't=1'}": (kind, matched) for kind, matched in DISPLACEMENTS
}


@dataclass(frozen=True)
class Plan:
    """How the pairs of a recipe are measured.

    ``parts``: "pair", measured on the ``pair_first`` test images (None: all), and the
    displacements; ``draws`` of each, measured on the ``first`` test images. ``batch`` images at a
    time: all features of five networks are in memory at once (3 GB for 250 images of ResNet-20).
    ``calibration`` is the number of training images on which running statistics are recomputed (0:
    there are none). ``train_first`` is how many training images matched networks are compared on
    (None: all), ``connected_grid`` the alphas at which a barrier with its interval is looked for.
    """

    parts: tuple[str, ...] = ("pair", *DISPLACED, "decomposition", *REFERENCES)
    pair_first: int | None = None
    draws: int = 10
    first: int | None = None
    calibration: int = 0
    batch: int = 1000
    control: bool = True
    train_first: int | None = None
    connected_grid: tuple[float, ...] = FULL_GRID  # told as a setting of that part

    def told(self) -> dict[str, Any]:
        """What the numbers depend on, for a record and a key: not the parts, and not how many
        images are in memory at once.

        What came later is left out where it is the default: units measured before keep their keys.
        """
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if key not in ("parts", "batch", "connected_grid")
            and (key not in LATER or value != LATER[key])
        }


#: Fields that a plan tells only where they are not this.
LATER: dict[str, Any] = {"train_first": None}


def settings_of(part: str, name: str, profile: str) -> dict[str, Any]:
    """What numbers of the part depend on beyond its plan: for its key and its record. Parts that
    came with the first edition tell all in their plan."""
    plan = plan_of(name, profile)
    if part == "closeness":  # a draw through a convolutional net costs minutes
        return {
            "draws": 10 if plan.first is None else min(plan.draws, 3),
            "images": plan.first or CLOSENESS_IMAGES,
            "scales": [SCALES[0], SCALES[-1]],
            "tolerance": TOLERANCE,
        }
    if part == "connected":
        return {"grid": list(plan.connected_grid), "resamples": RESAMPLES}
    if part == "sweep" and recipe(name, profile).kept:
        return {
            "test": min(plan.pair_first or SWEPT_IMAGES, SWEPT_IMAGES),
            "train": plan.train_first,
        }
    return {}


#: What a record was measured with where it does not say: one of an MLP, or from before a field
#: came.
UNTOLD = {"pair_first": None, "draws": 10, "first": None, "calibration": 0, "control": True}


def plan_of(name: str, profile: str) -> Plan:
    """The plan of recipe ``name``: a pass through a convolutional net costs 40 times one through
    the MLP.
    """
    model = recipe(name, profile).model
    if name in MATCHED:
        once = (
            ("spectra", "joint") if MATCHED[name][1] == "weight" else ()
        )  # what does not depend on the method
        return Plan(
            (
                "match",
                "pair",
                "rotation matched",
                "gaussian matched",
                *once,
                "decomposition",
                *REFERENCES,
            ),
            draws=5,
        )
    if name in WIDTHS:
        return Plan(("sweep",), draws=0, first=2000, control=False)
    if model == "mlp":
        return Plan()
    size = (
        Plan(pair_first=120, draws=2, first=60, calibration=120)
        if profile == "smoke"
        else Plan(draws=4, first=1000, calibration=2000, batch=250)
    )
    if model == "resnet50":
        parts = ("pair", "decomposition", *REFERENCES, "weights")
        return (
            replace(size, parts=parts)
            if profile == "smoke"
            else Plan(
                parts,
                pair_first=400,
                draws=2,
                first=100,
                calibration=200,
                batch=50,
                connected_grid=TRAINING_GRID,
            )
        )
    if name in MATCHED_LAYER_NORM:
        return _layer_norm_plan(name, profile, size)
    if name in MATCHED_SPAWNED:
        return replace(size, parts=("match", "pair", "decomposition", *REFERENCES), control=False)
    if name in SPAWN_AT:  # their smoke networks are too small for it to be worth the room
        parts = ("pair", "rotation matched", "decomposition", *REFERENCES)
        return replace(size, parts=parts[:2] if profile == "smoke" else parts, control=False)
    return replace(size, parts=(*size.parts, "weights"))


def _layer_norm_plan(name: str, profile: str, smoke: Plan) -> Plan:
    """Fewer images the wider they are: a pass costs four times as much at twice the width."""
    parts = ("match", "pair", "decomposition", *REFERENCES, "weights", "sweep")
    if profile == "smoke":
        return replace(smoke, parts=parts, calibration=0, train_first=300)
    width = dict(recipe(name, profile).model_args)["width"]
    pair_first, first, train_first, batch = {
        4: (None, 1000, 10_000, 250),
        8: (None, 1000, 10_000, 250),
        16: (3000, 1000, 10_000, 250),
        32: (1500, 500, 5000, 125),
    }.get(width, (750, 250, 2500, 60))
    return Plan(
        parts,
        pair_first,
        draws=3,
        first=first,
        batch=batch,
        control=_has_three_pairs(name),
        train_first=train_first,
        connected_grid=FULL_GRID if width <= 16 else TRAINING_GRID,
    )


def _has_three_pairs(name: str) -> bool:
    """Of layer-norm networks: A beside the next pair's A is then a control that shares no network
    with its own pair.
    """
    return PAIRS["lite"].get(name, 0) == MATCHED_PAIRS


#: Small networks are measured in float64: what a chapter prints then agrees between processors.
DTYPE = {"smoke": torch.float64, "lite": torch.float32, "paper": torch.float32}


def members(name: str, pair: int) -> dict[str, tuple[int, str]]:
    """The (seed, branch) of the networks that pair ``pair`` of recipe ``name`` needs.

    Pairs that ask when to spawn have no independent network: spawned at epoch 0, they are not
    connected themselves. Matched networks are independent, and B's order is not yet that of the
    matching.
    """
    if name in BY_PERMUTATION:
        two = {"A": (2 * pair, "A"), "B": (2 * pair + 1, "A")}
        alone = name in MATCHED_SPAWNED or name in MATCHED_LAYER_NORM and not _has_three_pairs(name)
        return two if alone else {**two, "independent": (2 * ((pair + 1) % MATCHED_PAIRS), "A")}
    if name in WIDTHS:  # trained where they are measured, after every epoch of interest
        return {}
    children = {"A": (pair, "A"), "B": (pair, "B")}
    return children if name in SPAWN_AT else {**children, "independent": (pair + 1, "A")}


def shipped_path(profile: str, name: str, seed: int, branch: str) -> Path:
    """Where a finished network lies in the tracked tree, if it is shipped."""
    return ENDPOINTS / profile / f"{name}-{seed}{branch}.safetensors"


def endpoint(
    profile: str,
    name: str,
    seed: int,
    branch: str,
    data: Dataset,
    device: str = "cpu",
    retrain: bool = False,
) -> Checkpoint:
    """A finished network: as shipped with the project, else from the cache, else trained now.

    ``retrain`` passes the shipped one over. CheckpointError if the shipped file is damaged or of
    another recipe.
    """
    name = recipe(name, profile).trained_as
    r = recipe(name, profile)
    shipped = shipped_path(profile, name, seed, branch)
    if shipped.exists() and not retrain:
        return checkpoints.read(shipped, run_key(r, seed, branch, data))
    return train(r, seed, branch, data, device)


def shipped_kept_path(profile: str, name: str, seed: int, branch: str, epoch: int) -> Path:
    """Where a network as it was after ``epoch`` lies in the tracked tree, if it is shipped."""
    return kept_path(shipped_path(profile, name, seed, branch), epoch)


def earlier(
    epoch: int, last: Checkpoint, profile: str, name: str, seed: int, branch: str, data: Dataset
) -> Checkpoint | None:
    """What the finished network ``last`` was after ``epoch``, shipped or in the cache. None where
    neither holds a whole file of its very run: networks trained anew have other bits on another
    processor."""
    r = recipe(recipe(name, profile).trained_as, profile)
    for path in (
        shipped_kept_path(profile, r.name, seed, branch, epoch),
        kept_path(run_path(r, seed, branch, data), epoch),
    ):
        with suppress(CheckpointError):
            found = (
                checkpoints.read(path, run_key(r, seed, branch, data)) if path.exists() else None
            )
            if (
                found and found.history == last.history[:epoch]
            ):  # it holds the seconds of every epoch: no two runs have the same
                return found
    return None


def endpoint_after(
    epoch: int, profile: str, name: str, seed: int, branch: str, data: Dataset, device: str = "cpu"
) -> Checkpoint:
    """The network after ``epoch``, the last or one of its recipe's ``kept``: as shipped, else from
    the cache; trained now where there is no finished one.

    CheckpointError where a finished network's earlier epoch is not here.
    """
    r = recipe(recipe(name, profile).trained_as, profile)
    last = endpoint(profile, name, seed, branch, data, device)
    found = last if epoch == r.epochs else earlier(epoch, last, profile, name, seed, branch, data)
    if found is None:
        shipped = shipped_path(profile, r.name, seed, branch)
        raise CheckpointError(
            f"what {r.name}, seed {seed}, {branch} was after epoch {epoch} is not here; remove"
            f" {shipped if shipped.exists() else run_path(r, seed, branch, data)} and measure its"
            " pairs anew"
        )
    return found


def lacks_epochs(profile: str, name: str, seed: int, branch: str, data: Dataset) -> bool:
    """Whether a finished network is here, and not all that its recipe keeps of it on the way."""
    r = recipe(recipe(name, profile).trained_as, profile)
    if (
        not shipped_path(profile, r.name, seed, branch).exists()
        and not run_path(r, seed, branch, data).exists()
    ):
        return False
    last = endpoint(profile, name, seed, branch, data)
    return any(
        earlier(epoch, last, profile, name, seed, branch, data) is None
        for epoch in r.kept
        if epoch < r.epochs
    )


def as_network(r: Recipe, checkpoint: Checkpoint, data: Dataset) -> nn.Module:
    """The checkpoint as a network of the recipe, in evaluation mode and channels-last memory."""
    network = new_network(r, data)
    network.load_state_dict(checkpoint.model)
    return network.eval().to(
        memory_format=torch.channels_last
    )  # convolutions are twice as fast in this order


def networks(
    profile: str,
    name: str,
    pair: int = 0,
    device: str = "cpu",
    retrain: bool = False,
    only: Sequence[str] | None = None,
) -> tuple[dict[str, nn.Module], Dataset]:
    """The pair's networks ("A", "B", "independent", or ``only`` some) and its data set, on
    ``device``; B not yet matched.
    """
    r = recipe(recipe(name, profile).trained_as, profile)
    data = load(r.data, normalise=r.normalise)
    found = {
        who: (
            as_network(r, endpoint(profile, name, seed, branch, data, device, retrain), data).to(
                device
            )
        )
        for who, (seed, branch) in members(name, pair).items()
        if only is None or who in only
    }
    return found, data.to(device)


class MakeMetrics(Protocol):
    """New metrics for one pass; ``detail`` adds features before the ReLU and before normalisation,
    ``nulls`` the nulls that cost extra products."""

    def __call__(
        self, grid: Sequence[float], detail: bool = False, nulls: bool = True
    ) -> list[Metric]: ...


def standard_metrics(
    grid: Sequence[float] = FULL_GRID, detail: bool = False, nulls: bool = True
) -> list[Metric]:
    """Every metric of the appendix for an MLP."""
    return [
        LLFC(ALPHAS, pre=detail),
        Commutativity(nulls=nulls),
        WeakAdditivity(nulls=nulls),
        Stitching(),
        Barrier(grid),
    ]


def convolutional_metrics(
    grid: Sequence[float] = FULL_GRID, detail: bool = False, nulls: bool = True
) -> list[Metric]:
    """Those of :func:`standard_metrics`, with W_B H_A against W_B H_B, and stitching before
    normalisation.
    """
    return [
        LLFC(ALPHAS, pre=detail, raw=detail),
        Commutativity(nulls=nulls),
        Transfer(nulls=nulls),
        WeakAdditivity(nulls=nulls),
        Stitching(raw=nulls),
        Barrier(grid),
    ]


def matched_metrics(
    grid: Sequence[float] = FULL_GRID, detail: bool = False, nulls: bool = True
) -> list[Metric]:
    """Those of an MLP with the stronger forms of commutativity that B.5 discusses."""
    return [*standard_metrics(grid, detail, nulls), Transfer(nulls=nulls), SameWeights(nulls=nulls)]


def between_metrics(
    grid: Sequence[float] = FULL_GRID, detail: bool = False, nulls: bool = True
) -> list[Metric]:
    """What depends on the networks between A and B."""
    return [LLFC(ALPHAS), Barrier(grid)]


def large_metrics(
    grid: Sequence[float] = FULL_GRID, detail: bool = False, nulls: bool = True
) -> list[Metric]:
    """Those of a convolutional net at its sites alone: of dozens of layers, one reading each."""
    return [
        LLFC(ALPHAS),
        Commutativity(nulls=nulls),
        Transfer(nulls=nulls),
        WeakAdditivity(nulls=nulls),
        Stitching(),
        Barrier(grid),
    ]


def layer_norm_metrics(
    grid: Sequence[float] = FULL_GRID, detail: bool = False, nulls: bool = True
) -> list[Metric]:
    """Those of :func:`large_metrics` with the other of the stronger forms that B.5 discusses."""
    return [*large_metrics(grid, detail, nulls), SameWeights(nulls=nulls)]


def metrics_of(name: str, profile: str) -> MakeMetrics:
    """The metrics that pairs of recipe ``name`` are measured with."""
    if recipe(name, profile).model == "mlp":
        return matched_metrics if name in MATCHED else standard_metrics
    if name in MATCHED_LAYER_NORM:
        return layer_norm_metrics
    if recipe(name, profile).model == "resnet50":
        return large_metrics
    return between_metrics if name in SPAWN_AT or name in MATCHED_SPAWNED else convolutional_metrics


def calibration(data: Dataset, r: Recipe, images: int) -> list[Tensor] | None:
    """Batches of training images, augmented as in training by a draw of their own, to recompute
    statistics on.
    """
    if not images:
        return None
    augmenter = augmenter_for(data.x_train, r.augment) or Augmenter(data.x_train, ())
    draws = augmenter.draw("calibration", r.name)
    order = torch.randperm(len(data.y_train), generator=generator("calibration", r.name, "order"))[
        :images
    ]
    batches = order.to(data.x_train.device).split(min(500, images))
    return [data.normalise(augmenter.batch(index, draws)).contiguous() for index in batches]


def as_control(rows: Sequence[Row], kind: str) -> list[Row]:
    """Rows of a control pair; its own nulls stay beside it, named after it."""
    return [
        replace(row, role="control", kind=f"{kind}: {row.kind}" if row.kind else kind)
        for row in rows
    ]


def measure_pair(
    profile: str,
    name: str,
    nets: dict[str, nn.Module],
    data: Dataset,
    metrics: MakeMetrics | None = None,
    controls: Sequence[str] = ("unmatched", "independent", "itself"),
    batch: int | None = None,
) -> list[Row]:
    """The pair with its nulls and its ``controls``: two matched networks before matching, an
    independent pair, A with itself.

    Networks with running statistics are measured twice: those between the two with interpolated
    statistics, and all with recomputed ones (only what depends on the networks between). ``batch``
    images at a time, if not as many as planned.
    """
    plan, dtype = plan_of(name, profile), DTYPE[profile]
    metrics, loader = (
        metrics or metrics_of(name, profile),
        data.loader("test", batch or plan.batch, dtype, plan.pair_first),
    )
    grid = COARSE_GRID if name in SPAWN_AT else FULL_GRID
    images = calibration(data, recipe(name, profile), plan.calibration)

    def rows(partner: str, grid: Sequence[float], detail: bool) -> list[Row]:
        found = measure(nets["A"], nets[partner], loader, metrics(grid, detail), dtype)
        if images is not None:
            between = [m for m in metrics(grid, False) if isinstance(m, (LLFC, Barrier, Connected))]
            found += (
                measure(nets["A"], nets[partner], loader, between, dtype, images) if between else []
            )
        return found

    found = rows("B", grid, True)
    if "unmatched" in nets and "unmatched" in controls:
        found += as_control(rows("unmatched", grid, False), "unmatched")
    if plan.control and "independent" in controls:
        found += as_control(rows("independent", grid, False), "independent")
    if plan.control and "itself" in controls:
        found += as_control(rows("A", COARSE_GRID, False), "itself")
    if (
        "unmatched" in nets
        and name not in MATCHED_SPAWNED
        and any(isinstance(m, Barrier) for m in metrics(grid))
    ):
        # on the training set as well: networks that fit it hide their barrier from the test set's
        # few hard images
        training = data.loader("train", plan.batch, dtype, plan.train_first)
        found += _on_training(
            measure(nets["A"], nets["B"], training, [Barrier(TRAINING_GRID)], dtype)
        )
        found += as_control(
            _on_training(
                measure(nets["A"], nets["unmatched"], training, [Barrier(TRAINING_GRID)], dtype)
            ),
            "unmatched",
        )
    return found


def _on_training(rows: Sequence[Row]) -> list[Row]:
    return [
        replace(row, quantity=f"{row.quantity}_on_training")
        for row in rows
        if row.quantity.startswith(("error", "loss"))
    ]


#: Parts whose metrics share one pass over the pair and its controls, and the quantities by which
#: their rows are told apart.
IN_ONE_PASS: dict[str, tuple[Callable[[Sequence[float]], list[Metric]], frozenset[str]]] = {
    "connected": (
        lambda grid: [Connected(grid, RESAMPLES), StitchedExcess(resamples=RESAMPLES)],
        frozenset(
            f"{quantity}{limit}"
            for quantity in (
                *(
                    f"{what}_{of}"
                    for what in ("error", "loss")
                    for of in ("barrier", "barrier_chord", "ends")
                ),
                "stitched_excess",
            )
            for limit in ("", "_lower", "_upper")
        ),
    ),
    "coherence": (
        lambda grid: [Coherence()],
        frozenset(
            ("commutator_energy", "sign_energy", "shuffle_energy", "coherence", "energy_alignment")
        ),
    ),
}


def measure_references(
    profile: str, name: str, nets: dict[str, nn.Module], data: Dataset, parts: Sequence[str]
) -> dict[str, list[Row]]:
    """The rows of every one of ``parts`` of :data:`IN_ONE_PASS`, the pair's and its controls', in
    one pass.
    """
    grid = plan_of(name, profile).connected_grid

    def metrics(_: Sequence[float], detail: bool = False, nulls: bool = True) -> list[Metric]:
        return [metric for part in parts for metric in IN_ONE_PASS[part][0](grid)]

    rows = measure_pair(profile, name, nets, data, metrics, ("unmatched", "independent"))
    return {part: [row for row in rows if row.quantity in IN_ONE_PASS[part][1]] for part in parts}


def measure_closeness(
    profile: str, name: str, pair: int, nets: dict[str, nn.Module], data: Dataset
) -> list[Row]:
    """rho of the pair per site, beside partners at the same distance
    (:func:`llfc_book.study.closeness.closeness`).
    """
    plan, dtype = plan_of(name, profile), DTYPE[profile]
    settings = settings_of("closeness", name, profile)
    loader = data.loader("test", plan.batch, dtype, settings["images"])
    try:
        sym = symmetry(nets["A"], next(iter(loader))[0])
    except UnsupportedOperation:  # then there are no sparse partners
        sym = None
    images = calibration(data, recipe(name, profile), plan.calibration)
    return closeness(
        nets["A"], nets["B"], loader, sym, settings["draws"], f"{name}/{pair}", dtype, images
    )


def measure_displaced(
    profile: str,
    name: str,
    pair: int,
    nets: dict[str, nn.Module],
    data: Dataset,
    kind: str,
    matched: bool,
    metrics: MakeMetrics | None = None,
) -> list[Row]:
    """The displacement null of one kind: every quantity, with partners that training did not make."""
    plan, dtype = plan_of(name, profile), DTYPE[profile]
    metrics, loader = (
        metrics or metrics_of(name, profile),
        data.loader("test", plan.batch, dtype, plan.first),
    )
    return displacement_null(
        nets["A"],
        nets["B"],
        loader,
        lambda: metrics(COARSE_GRID, nulls=False),
        kind=kind,
        matched=matched,
        draws=plan.draws,
        seed=f"{name}/{pair}",
        dtype=dtype,
        calibration=calibration(data, recipe(name, profile), plan.calibration),
    )


def curve_rows(name: str, checkpoint: Checkpoint) -> list[Row]:
    """The training curve of one network, a row an epoch and quantity."""
    return [
        Row(quantity, entry[quantity], kind=name, epoch=entry["epoch"])
        for entry in checkpoint.history
        for quantity in ("train_loss", "train_error", "test_loss", "test_error")
    ]
