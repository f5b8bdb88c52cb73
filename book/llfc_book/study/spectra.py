"""How low is the rank of a pair's weights and features (B.5)? The same for a record and for a
chapter that measures now.

Source: this book.
"""

from torch import nn

from llfc_book.study import pairs
from llfc_book.study.settings import recipe
from llfc_lib.data import Dataset
from llfc_lib.metrics import Row, feature_spectra, living_units, weight_spectra
from llfc_lib.training.loop import new_network


def rows(
    profile: str, name: str, pair: int, nets: dict[str, nn.Module], data: Dataset
) -> list[Row]:
    """Spectra of A's weights and of its features on the test set, beside the network that A began
    as and matrices without structure.

    Source: B.5, Figures 20 and 21; the nulls are this book's.
    """
    dtype, a = pairs.DTYPE[profile], nets["A"]
    start = new_network(recipe(name, profile), data, pairs.members(name, pair)["A"][0])
    a, start = (network.to(data.x_test.device, dtype) for network in (a, start))
    images = data.loader("test", dtype=dtype)
    found = weight_spectra(a, start, f"{name}/{pair}", living_units(a, images))
    return found + feature_spectra(a, images, start)


def weight_rows(
    profile: str, name: str, pair: int, nets: dict[str, nn.Module], data: Dataset
) -> list[Row]:
    """Spectra of A's weights alone, convolutions as outputs x (inputs * kernel), n the shorter
    side.

    Source: B.5, Figure 20; the nulls are this book's.
    """
    start = new_network(recipe(name, profile), data, pairs.members(name, pair)["A"][0])
    return weight_spectra(
        nets["A"].to(pairs.DTYPE[profile]), start, f"{name}/{pair}", shorter_side=True
    )
