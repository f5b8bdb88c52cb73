"""Running statistics of batch normalisation, recomputed for a network that was never trained as it
is.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from llfc_lib.models.view import View


def has_statistics(view: View) -> bool:
    """Whether some batch normalisation of the network keeps running statistics."""
    return any(isinstance(m, _BatchNorm) and m.track_running_stats for m in view.module.modules())


def recomputed(view: View, images: Sequence[Tensor]) -> View:
    """The same weights with running means and variances averaged over the batches ``images``, all
    of one size.

    Every batch counts alike (PyTorch's cumulative average, ``momentum=None``), so their order does
    not matter. Layers below a normalisation see the batch's own statistics while it is averaged, as
    in training. A network without such layers is returned as it is. ValueError for no batch, or
    batches of several sizes.

    Source: Jordan et al. (2023); the appendix does not speak of running statistics.
    """
    if not has_statistics(view):
        return view
    other = view.with_state(view.state())
    recompute(other, images)
    return other


def recompute(view: View, images: Sequence[Tensor]) -> None:
    """Like :func:`recomputed`, in place. ValueError for no batch, or batches of several sizes.

    Source: Jordan et al. (2023).
    """
    layers = [
        m for m in view.module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats
    ]
    if layers and len({len(x) for x in images}) != 1:
        raise ValueError(
            f"statistics need batches of one size, not {[len(x) for x in images]}: each counts"
            " alike"
        )
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    for x in images if layers else ():
        view(x)
    for layer, momentum in zip(layers, before):
        layer.momentum = momentum
        layer.eval()
