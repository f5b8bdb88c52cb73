"""The experiments, named as in the paper, each a selection of the rows that one pass over a pair measures."""

from dataclasses import dataclass

from llfc_lib.metrics.rows import Row

LLFC = {"1-cos_alpha", "1-cos_AB", "1-coef_alpha", "cos_ratio", "set_1-cos_alpha", "set_c", "zero_features"}
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

    def keeps(self, row: Row) -> bool:
        # A displaced partner's own error and its size belong beside every number that it gives.
        partner = row.role == "null" and (row.quantity == "t" or row.quantity == "error" and row.alpha == 0) and row.kind.endswith(("t=1", "matched"))
        return row.quantity in self.quantities or partner


_SPAWNED_MLP = ("mlp_mnist_spawn", "mlp_mnist_spawn_lr1.2e-3")

EXPERIMENTS = {e.name: e for e in (
    Experiment("train_mlp", "B.1", "Training curves of the spawned MLPs", _SPAWNED_MLP, frozenset(CURVES)),
    Experiment("lmc_mlp", "B.1", "Error and loss between the two children", _SPAWNED_MLP, frozenset(CONNECTED)),
    Experiment("fig08", "B.2", "LLFC of the spawned MLP on MNIST (Figure 8)", _SPAWNED_MLP, frozenset(LLFC)),
    Experiment("com_mlp", "B.3", "Commutativity of the spawned MLP", _SPAWNED_MLP, frozenset(COMMUTATIVITY)),
    Experiment("tab1", "B.4", "Stitched MLPs (Table 1)", _SPAWNED_MLP, frozenset({"stitched_error", "error"})),
)}


def experiment(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; choose one of {list(EXPERIMENTS)}")
    return EXPERIMENTS[name]
