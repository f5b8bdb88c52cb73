"""The experiments, named as in the paper, each a selection of the rows that one pass over a pair measures."""

from dataclasses import dataclass

from llfc_lib.metrics.rows import Row
from llfc_lib.training.recipes import SPAWN_AT

LLFC = {"1-cos_alpha", "1-cos_AB", "1-coef_alpha", "cos_ratio", "set_1-cos_alpha", "set_c", "zero_features"}
STITCHED = {"stitched_error", "error", "dist_transfer"}
COMMUTATIVITY = {"dist_com", "dist_W", "dist_H", "dist_add"}
CURVES = {"train_loss", "train_error", "test_loss", "test_error"}
CONNECTED = {"error", "loss", "error_barrier", "loss_barrier", "error_barrier_chord", "loss_barrier_chord",
             "disagreement", "weight_distance"}


@dataclass(frozen=True)
class Experiment:
    """``quantities`` are the rows it keeps; ``recipes`` those whose pairs enter it."""

    name: str
    section: str
    title: str
    recipes: tuple[str, ...]
    quantities: frozenset[str]
    half_way: bool = False  # of what depends on alpha, only 0.5 and the ends

    def keeps(self, row: Row) -> bool:
        # A displaced partner's own error and its size belong beside every number that it gives.
        partner = (row.role == "null" and row.kind.endswith(("t=1", "matched"))
                   and (row.quantity == "t" or row.quantity == "error" and row.alpha == 0))
        return partner or row.quantity in self.quantities and (not self.half_way or row.alpha in (None, 0.0, 0.5, 1.0))


_SPAWNED_MLP = ("mlp_mnist_spawn", "mlp_mnist_spawn_lr1.2e-3")
_VGG, _RESNET = ("vgg16_cifar10_spawn",), ("resnet20_cifar10_spawn",)

EXPERIMENTS = {e.name: e for e in (
    Experiment("train_mlp", "B.1", "Training curves of the spawned MLPs", _SPAWNED_MLP, frozenset(CURVES)),
    Experiment("lmc_mlp", "B.1", "Error and loss between the two children", _SPAWNED_MLP, frozenset(CONNECTED)),
    Experiment("fig08", "B.2", "LLFC of the spawned MLP on MNIST (Figure 8)", _SPAWNED_MLP, frozenset(LLFC)),
    Experiment("com_mlp", "B.3", "Commutativity of the spawned MLP", _SPAWNED_MLP, frozenset(COMMUTATIVITY)),
    Experiment("tab1", "B.4", "Stitched MLPs (Table 1)", _SPAWNED_MLP, frozenset({"stitched_error", "error"})),
    Experiment("train_vgg16", "B.1", "Training curves of the spawned VGG-16", _VGG, frozenset(CURVES)),
    Experiment("train_resnet20", "B.1", "Training curves of the spawned ResNet-20", _RESNET, frozenset(CURVES)),
    Experiment("lmc_vgg16", "B.1", "Error and loss between two VGG-16", _VGG, frozenset(CONNECTED)),
    Experiment("lmc_resnet20", "B.1", "Error and loss between two ResNet-20", _RESNET, frozenset(CONNECTED)),
    Experiment("spawn_epoch", "B.1", "When must one spawn?", tuple(SPAWN_AT),
               frozenset(CONNECTED)),
    Experiment("fig09", "B.2", "LLFC of the spawned VGG-16 on CIFAR-10 (Figure 9)", _VGG, frozenset(LLFC)),
    Experiment("fig10", "B.2", "LLFC of the spawned ResNet-20 on CIFAR-10 (Figure 10)", _RESNET, frozenset(LLFC)),
    Experiment("cooccur", "B.2", "LLFC against linear connectivity, all pairs",
               (*_SPAWNED_MLP, *_VGG, *_RESNET, *SPAWN_AT),
               frozenset({"cos_ratio", "error", "error_barrier_chord", "loss_barrier_chord"}), half_way=True),
    Experiment("fig16", "B.3", "Commutativity of the spawned VGG-16 (Figure 16)", _VGG, frozenset(COMMUTATIVITY)),
    Experiment("com_resnet20", "B.3", "Commutativity of the spawned ResNet-20", _RESNET, frozenset(COMMUTATIVITY)),
    Experiment("fig19", "B.3", "Dist_com of connected and independent ResNet-20 (Figure 19, spawning)", _RESNET,
               frozenset({"dist_com"})),
    Experiment("tab2", "B.4", "Stitched VGG-16 (Table 2)", _VGG, frozenset(STITCHED)),
    Experiment("tab3", "B.4", "Stitched ResNet-20 (Table 3)", _RESNET, frozenset(STITCHED)),
)}


def experiment(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; choose one of {list(EXPERIMENTS)}")
    return EXPERIMENTS[name]
