"""The experiments, named as in the paper, each a selection of the rows that one pass over a pair
measures.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from llfc_book.study.measures.joint import QUANTILES
from llfc_book.study.parts import part
from llfc_book.study.settings import MATCHED, MATCHED_LAYER_NORM, MATCHED_SPAWNED, SPAWN_AT, WIDTHS
from llfc_lib.metrics.decomposition import PARTS, SOURCES
from llfc_lib.metrics.rows import Row
from llfc_lib.metrics.spectra import SHARES

LLFC = {
    "1-cos_alpha",
    "1-cos_AB",
    "1-coef_alpha",
    "cos_ratio",
    "set_1-cos_alpha",
    "set_c",
    "zero_features",
}
STITCHED = {"stitched_error", "error", "dist_transfer"}
COMMUTATIVITY = {"dist_com", "dist_W", "dist_H", "dist_add"}
CURVES = {"train_loss", "train_error", "test_loss", "test_error"}
CONNECTED = {
    "error",
    "loss",
    "error_barrier",
    "loss_barrier",
    "error_barrier_chord",
    "loss_barrier_chord",
    "disagreement",
    "weight_distance",
}
ON_TRAINING = {
    f"{quantity}_on_training"
    for quantity in ("error", "loss", "error_barrier_chord", "loss_barrier_chord")
}
FOUND = {
    "objective",
    "half_way_loss",
    "held_out_loss",
    "sweeps",
    "matchings",
    "assignments",
    "changed",
    "dead_units",
}
_OVER = {
    f"{prefix}{quantity}"
    for prefix in ("", "factor ")
    for quantity in (
        "over_minimum",
        "rank",
        "at_minimum",
        *(f"over_minimum/{q:g}" for q in QUANTILES),
    )
}
_FACTORS = ("residual", "factor_weights", "factor_features", "factor_weights_after_first")
JOINT = {
    *_FACTORS,
    *(f"{f}_share" for f in _FACTORS),
    "swaps_tried",
    "swaps",
    "converged",
    "loss_half_way",
    "tiny_error",
} | _OVER

CLOSE = {
    "rho",
    "distance",
    "rho_standard_error",
    "t",
    "no_partner",
    "partner_error",
    "middle_error",
}
ARMS = {"rho", "distance", "partner_error", "middle_error", "tuned_epochs", "tuned_loss", "reached"}
RANKS = {
    "loss_barrier_chord_on_training",
    "error_barrier_chord_on_training",
    "loss_barrier_chord",
    "error_barrier_chord",
    "dist_transfer",
    "cos_ratio",
    "stable_rank_W",
    "stable_rank_share_W",
    "error",
    "matched_cosine",
}

DECOMPOSED = {
    "e_over_m",
    "e_over_d",
    "turned_over_d",
    "c",
    "identity_error",
    "bound",
    "flips",
    "active",
    "flipped",
    "passed",
    "moved",
    "fresh",
    "aligned",
    *(f"{what}_{part}" for what in ("share", "turned") for part in PARTS),
    *(f"origin_{source}" for source in SOURCES),
}
LEMMA = {
    "error_between",
    "error_mean_logits",
    "error_either",
    "twice_epsilon",
    "not_certified",
    "not_certified_scaled",
}


def _spectrum(*what: str, shares: Iterable[float] = SHARES) -> frozenset[str]:
    return frozenset(
        f"{quantity}"
        for w in what
        for quantity in (
            *(f"sigma_{w}/{share:g}" for share in shares),
            f"stable_rank_{w}",
            f"stable_rank_share_{w}",
        )
    )


@dataclass(frozen=True)
class Experiment:
    """``quantities`` are the rows it keeps; ``recipes`` those whose pairs enter it; ``edition`` of
    the book that shows it first.
    """

    name: str
    section: str
    title: str
    recipes: tuple[str, ...]
    quantities: frozenset[str]
    half_way: bool = False  # of what depends on alpha, only 0.5 and the ends
    parts: tuple[
        str, ...
    ] = ()  # of a pair's measurement that its rows come from, where not from all
    edition: int = 1

    def reads(self, parts: Iterable[str]) -> set[str]:
        """Those of a pair's ``parts`` that its rows come from."""
        return set(parts) & set(self.parts) if self.parts else set(parts) - ALONE

    def keeps(self, row: Row) -> bool:
        # A displaced partner's own error and its size belong beside every number that it gives.
        """Whether the row belongs to the experiment: one of its quantities, or what a displaced
        partner is.
        """
        partner = (
            row.role == "null"
            and row.kind.endswith(("t=1", "matched"))
            and (row.quantity == "t" or row.quantity == "error" and row.alpha == 0)
        )
        return (
            partner
            or row.quantity in self.quantities
            and (not self.half_way or row.alpha in (None, 0.0, 0.5, 1.0))
        )


_SPAWNED_MLP = ("mlp_mnist_spawn", "mlp_mnist_spawn_lr1.2e-3")
_VGG, _RESNET = ("vgg16_cifar10_spawn",), ("resnet20_cifar10_spawn",)
_MNIST, _CIFAR = (
    [f"{base}_{method}" for method in ("activation", "weight", "ste")]
    for base in ("mlp_mnist_perm", "mlp_cifar10_perm")
)

_PAIRS = (
    *_SPAWNED_MLP,
    *_VGG,
    *_RESNET,
    *SPAWN_AT,
    *MATCHED,
    *MATCHED_SPAWNED,
)  # all whose two networks are kept

_LAYER_NORM, _RESNET50 = MATCHED_LAYER_NORM, ("resnet50_tinyimagenet_spawn",)
_EVERY = (*_PAIRS, *_LAYER_NORM, *_RESNET50)

EXPERIMENTS = {
    e.name: e
    for e in (
        Experiment(
            "lemma",
            "A.1",
            "Lemma 1 on trained pairs",
            _PAIRS,
            frozenset(LEMMA),
            parts=("decomposition",),
        ),
        Experiment(
            "decomposition",
            "A.2",
            "Where LLFC breaks, layer by layer",
            _PAIRS,
            frozenset(DECOMPOSED),
            parts=("decomposition",),
        ),
        Experiment(
            "train_mlp",
            "B.1",
            "Training curves of the spawned MLPs",
            _SPAWNED_MLP,
            frozenset(CURVES),
        ),
        Experiment(
            "lmc_mlp",
            "B.1",
            "Error and loss between the two children",
            _SPAWNED_MLP,
            frozenset(CONNECTED),
        ),
        Experiment(
            "fig08",
            "B.2",
            "LLFC of the spawned MLP on MNIST (Figure 8)",
            _SPAWNED_MLP,
            frozenset(LLFC),
        ),
        Experiment(
            "com_mlp",
            "B.3",
            "Commutativity of the spawned MLP",
            _SPAWNED_MLP,
            frozenset(COMMUTATIVITY),
        ),
        Experiment(
            "tab1",
            "B.4",
            "Stitched MLPs (Table 1)",
            _SPAWNED_MLP,
            frozenset({"stitched_error", "error"}),
        ),
        Experiment(
            "train_vgg16", "B.1", "Training curves of the spawned VGG-16", _VGG, frozenset(CURVES)
        ),
        Experiment(
            "train_resnet20",
            "B.1",
            "Training curves of the spawned ResNet-20",
            _RESNET,
            frozenset(CURVES),
        ),
        Experiment(
            "lmc_vgg16", "B.1", "Error and loss between two VGG-16", _VGG, frozenset(CONNECTED)
        ),
        Experiment(
            "lmc_resnet20",
            "B.1",
            "Error and loss between two ResNet-20",
            _RESNET,
            frozenset(CONNECTED),
        ),
        Experiment(
            "spawn_epoch", "B.1", "When must one spawn?", tuple(SPAWN_AT), frozenset(CONNECTED)
        ),
        Experiment(
            "fig09",
            "B.2",
            "LLFC of the spawned VGG-16 on CIFAR-10 (Figure 9)",
            _VGG,
            frozenset(LLFC),
        ),
        Experiment(
            "fig10",
            "B.2",
            "LLFC of the spawned ResNet-20 on CIFAR-10 (Figure 10)",
            _RESNET,
            frozenset(LLFC),
        ),
        Experiment(
            "cooccur",
            "B.2",
            "LLFC against linear connectivity, all pairs",
            _PAIRS,
            frozenset({"cos_ratio", "error", "error_barrier_chord", "loss_barrier_chord"}),
            half_way=True,
        ),
        Experiment(
            "fig16",
            "B.3",
            "Commutativity of the spawned VGG-16 (Figure 16)",
            _VGG,
            frozenset(COMMUTATIVITY),
        ),
        Experiment(
            "com_resnet20",
            "B.3",
            "Commutativity of the spawned ResNet-20",
            _RESNET,
            frozenset(COMMUTATIVITY),
        ),
        Experiment(
            "fig19",
            "B.3",
            "Dist_com of connected and independent ResNet-20 (Figure 19, spawning)",
            _RESNET,
            frozenset({"dist_com"}),
        ),
        Experiment("tab2", "B.4", "Stitched VGG-16 (Table 2)", _VGG, frozenset(STITCHED)),
        Experiment(
            "train_perm",
            "B.1",
            "Training curves of the MLPs that are matched",
            (_MNIST[1], _CIFAR[1]),
            frozenset(CURVES),
        ),
        Experiment(
            "lmc_perm",
            "B.1",
            "Error and loss between matched MLPs, before and after",
            tuple(MATCHED),
            frozenset(CONNECTED | ON_TRAINING | FOUND),
        ),
        Experiment(
            "vgg_perm",
            "B.1",
            "VGG-16 and ResNet-20 of other initialisations, weight matched",
            MATCHED_SPAWNED,
            frozenset(CONNECTED | FOUND | LLFC),
        ),
        Experiment(
            "fig12",
            "B.2",
            "LLFC of matched MLPs on MNIST (Figure 12)",
            (_MNIST[0], _MNIST[1]),
            frozenset(LLFC),
        ),
        Experiment(
            "fig13",
            "B.2",
            "LLFC of matched MLPs on CIFAR-10 (Figure 13)",
            (_CIFAR[0], _CIFAR[1]),
            frozenset(LLFC),
        ),
        Experiment(
            "fig14",
            "B.2",
            "LLFC of MLPs matched by the straight-through estimator (Figure 14)",
            (_MNIST[2], _CIFAR[2]),
            frozenset(LLFC),
        ),
        Experiment(
            "fig17",
            "B.3",
            "Commutativity of MLPs on MNIST, activation matching (Figure 17)",
            (_MNIST[0], _MNIST[1]),
            frozenset(COMMUTATIVITY),
        ),
        Experiment(
            "fig18",
            "B.3",
            "Commutativity of MLPs on CIFAR-10, matched (Figure 18)",
            (_CIFAR[0], _CIFAR[1]),
            frozenset(COMMUTATIVITY),
        ),
        Experiment(
            "stitch_perm",
            "B.4",
            "Stitched MLPs, matched",
            tuple(MATCHED),
            frozenset({"stitched_error", "error"}),
        ),
        Experiment(
            "strong",
            "B.5",
            "The stronger forms of commutativity, matched MLPs",
            tuple(MATCHED),
            frozenset({"dist_transfer", "dist_weights", "dist_com"}),
        ),
        Experiment(
            "widths",
            "B.5",
            "When do permutations fail? Width, epoch and rank",
            tuple(WIDTHS),
            frozenset(
                {
                    "loss_barrier_chord_on_training",
                    "error_barrier_chord_on_training",
                    "loss_barrier_chord",
                    "error_barrier_chord",
                    "dist_transfer",
                    "cos_ratio",
                    "stable_rank_share_W",
                    "error",
                    "matched_cosine",
                }
            ),
            parts=("sweep",),
        ),
        Experiment(
            "fig20",
            "B.5",
            "Singular values of weights (Figure 20, MLPs)",
            (_CIFAR[1], _MNIST[1]),
            _spectrum("W", "W_living"),
            parts=("spectra",),
        ),
        Experiment(
            "fig21",
            "B.5",
            "Singular values of post-activations (Figure 21)",
            (_CIFAR[1], _MNIST[1]),
            _spectrum("H", "Hc", "Hc_living") | {"living_units"},
            parts=("spectra",),
        ),
        Experiment(
            "joint",
            "B.5",
            "Matching against the joint minimum of commutativity",
            (_MNIST[1], _CIFAR[1]),
            frozenset(JOINT),
            parts=("joint",),
        ),
        Experiment("tab3", "B.4", "Stitched ResNet-20 (Table 3)", _RESNET, frozenset(STITCHED)),
        # what a number is held against, of all pairs
        Experiment(
            "closeness",
            "B.2",
            "The residual half-way beside partners at equal distance",
            _EVERY,
            frozenset(CLOSE),
            parts=("closeness",),
            edition=2,
        ),
        Experiment(
            "decisive",
            "B.3",
            "Linearity against distance, for partners of six kinds",
            (*_SPAWNED_MLP, *_RESNET),
            frozenset(ARMS),
            parts=("decisive",),
            edition=2,
        ),
        Experiment(
            "connected",
            "B.1",
            "Barriers and stitched excess with their intervals over images",
            _EVERY,
            part("connected").quantities,
            parts=("connected",),
            edition=2,
        ),
        Experiment(
            "coherence",
            "B.3",
            "Coherence and alignment of the two differences that commute",
            _EVERY,
            part("coherence").quantities,
            parts=("coherence",),
            edition=2,
        ),
        Experiment(
            "weights",
            "B.5",
            "Singular values of weights (Figure 20, convolutional nets)",
            (*_VGG, *_RESNET, *_LAYER_NORM, *_RESNET50),
            _spectrum("W", shares=SHARES[::2]),
            parts=("weights",),
            edition=2,
        ),  # dozens of layers: half as many places
        # ResNet-20 with layer norm, matched
        Experiment(
            "train_ln",
            "B.1",
            "Training curves of ResNet-20 with layer norm",
            _LAYER_NORM,
            frozenset(CURVES),
            edition=2,
        ),
        Experiment(
            "lmc_ln",
            "B.1",
            "Error and loss between ResNet-20 with layer norm, before and after matching",
            _LAYER_NORM,
            frozenset(CONNECTED | ON_TRAINING | FOUND),
            edition=2,
        ),
        Experiment(
            "fig15",
            "B.2",
            "LLFC of ResNet-20 with layer norm, weight matching (Figure 15)",
            _LAYER_NORM,
            frozenset(LLFC),
            edition=2,
        ),
        Experiment(
            "com_ln",
            "B.3",
            "Commutativity of ResNet-20 with layer norm (Figure 19, weight matching)",
            _LAYER_NORM,
            frozenset(COMMUTATIVITY | {"dist_transfer", "dist_weights"}),
            edition=2,
        ),
        Experiment(
            "stitch_ln",
            "B.4",
            "Stitched ResNet-20 with layer norm",
            _LAYER_NORM,
            frozenset({"stitched_error", "error"}),
            edition=2,
        ),
        Experiment(
            "split_ln",
            "A.2",
            "Where LLFC breaks in ResNet-20 with layer norm, and Lemma 1",
            _LAYER_NORM,
            frozenset(DECOMPOSED | LEMMA),
            parts=("decomposition",),
            edition=2,
        ),
        Experiment(
            "fig22",
            "B.5",
            "Rank and matchability over width and epoch, ResNet-20 with layer norm (Figure 22)",
            _LAYER_NORM,
            frozenset(RANKS),
            parts=("sweep",),
            edition=2,
        ),
        # ResNet-50 on Tiny-ImageNet
        Experiment(
            "train_resnet50",
            "B.1",
            "Training curves of ResNet-50",
            _RESNET50,
            frozenset(CURVES),
            edition=2,
        ),
        Experiment(
            "lmc_resnet50",
            "B.1",
            "Error and loss between two ResNet-50",
            _RESNET50,
            frozenset(CONNECTED),
            edition=2,
        ),
        Experiment(
            "fig11",
            "B.2",
            "LLFC of the spawned ResNet-50 on Tiny-ImageNet (Figure 11)",
            _RESNET50,
            frozenset(LLFC),
            edition=2,
        ),
        Experiment(
            "com_resnet50",
            "B.3",
            "Commutativity of the spawned ResNet-50",
            _RESNET50,
            frozenset(COMMUTATIVITY),
            edition=2,
        ),
        Experiment(
            "stitch_resnet50",
            "B.4",
            "Stitched ResNet-50",
            _RESNET50,
            frozenset(STITCHED),
            edition=2,
        ),
        Experiment(
            "split_resnet50",
            "A.2",
            "Where LLFC breaks in ResNet-50, and Lemma 1",
            _RESNET50,
            frozenset(DECOMPOSED | LEMMA),
            parts=("decomposition",),
            edition=2,
        ),
    )
}


#: Parts of a pair's measurement that only the experiments which name them read.
ALONE = frozenset(part for e in EXPERIMENTS.values() for part in e.parts)


def experiment(name: str) -> Experiment:
    """The experiment ``name``. ValueError for an unknown one."""
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; choose one of {list(EXPERIMENTS)}")
    return EXPERIMENTS[name]
