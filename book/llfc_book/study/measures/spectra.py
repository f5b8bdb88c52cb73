"""How low is the rank of a pair's weights and features (B.5)?"""

from torch import nn

from llfc_book.study.pairs import Pair
from llfc_book.study.parts import register
from llfc_lib.metrics import Row, feature_spectra, living_units, weight_spectra
from llfc_lib.training.loop import new_network


def _start(pair: Pair) -> nn.Module:
    """The network that A began as."""
    seed, _ = pair.setting.members(pair.index)["A"]
    return new_network(pair.setting, pair.data, seed)


@register("spectra", version=3, members=("A",), order="")
def rows(pair: Pair) -> list[Row]:
    """Spectra of A's weights and of its features on the test set, beside the network that A began
    as and matrices without structure.

    Source: B.5, Figures 20 and 21; the nulls are this book's.
    """
    (a,) = pair.in_dtype("A")
    a, start = (network.to(pair.data.x_test.device, pair.dtype) for network in (a, _start(pair)))
    images = pair.data.loader("test", dtype=pair.dtype)
    found = weight_spectra(a, start, pair.name, living_units(a, images))
    return found + feature_spectra(a, images, start)


@register("weights", members=("A",), order="")
def weight_rows(pair: Pair) -> list[Row]:
    """Spectra of A's weights alone, convolutions as outputs x (inputs * kernel), n the shorter
    side.

    Source: B.5, Figure 20; the nulls are this book's.
    """
    (a,) = pair.in_dtype("A")
    return weight_spectra(a, _start(pair), pair.name, shorter_side=True)
