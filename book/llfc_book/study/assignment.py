"""The networks of the book on which A.3 is tried: as layers, for
:mod:`llfc_book.appendix.identities` and :mod:`llfc_book.appendix.assignment`.

:func:`trained_layers` takes them from a matched pair that is shipped with the project,
:func:`tiny_draws` from many pairs of tiny networks whose permutations can all be looked at.
"""

from collections.abc import Sequence

from llfc_book.appendix.identities import DOUBLE, Layer, layers_of
from llfc_book.study import matched, pairs
from llfc_book.study.measures.joint import tiny_networks
from llfc_book.study.settings import recipe
from llfc_lib.data import Dataset


def trained_layers(
    pair: int = 0, name: str = "mlp_mnist_perm_weight", images: int = 200
) -> list[Layer]:
    """The layers of the two shipped networks of profile smoke on its first test images, B in the
    order that the matching found.
    """
    found = pairs.load_pair(recipe(name, "smoke"), pair)
    nets = matched.bring_together(found, matched.of_pair(found)).nets
    return layers_of(nets["A"], nets["B"], found.data.loader("test", images, DOUBLE, images))


def tiny_draws(
    data: Dataset, hidden: Sequence[int], draws: int, steps: int, images: int = 100
) -> list[list[Layer]]:
    """The layers of pairs of independent tiny networks after ``steps`` of Adam on the first
    training images.
    """
    loader = data.loader("train", images, DOUBLE, images)
    nets = tiny_networks(data, loader, tuple(hidden), 2 * draws, steps)
    return [layers_of(nets[2 * k], nets[2 * k + 1], loader) for k in range(draws)]
