"""State dicts as points of a vector space: checked, interpolated, compared."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]  # weights and buffers by name, as a state dict has them


def check_alpha(alpha: float) -> float:
    """``alpha`` as a float. ValueError outside of [0, 1].

    Source: alpha of Definition 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha = {alpha} lies outside [0, 1]; it is the share of network A")
    return float(alpha)


def check_same_shapes(a: State, b: State) -> None:
    """ValueError unless both have the same names and shapes; names the first that differs."""
    for name in [*a, *b]:
        if name not in a or name not in b:
            raise ValueError(
                f"the networks differ: {name!r} is in only one of them; they must be of one"
                " architecture"
            )
        if a[name].shape != b[name].shape:
            raise ValueError(
                f"the networks differ: {name!r} is {tuple(a[name].shape)} in A and"
                f" {tuple(b[name].shape)} in B"
            )


def check_finite(state: State, who: str) -> None:
    """ValueError that names the first tensor with a NaN or an infinity (not looked at on device
    meta).
    """
    for name, value in state.items():
        if not value.is_floating_point() or value.device.type == "meta":
            continue
        # a finite sum has no NaN in it, and takes a seventh of the time
        if not torch.isfinite(value.sum()) and not torch.isfinite(value).all():
            raise ValueError(
                f"network {who}: {name!r} holds NaN or infinite values; was its training stable?"
            )


def interpolate(a: State, b: State, alpha: float) -> dict[str, Tensor]:
    """alpha A + (1 - alpha) B (Definition 1), tensor by tensor; integer buffers are A's.

    ``torch.lerp`` gives B at 0, A at 1, and A wherever both agree, to the bit. ValueError for alpha
    outside [0, 1] or networks of different shape.

    Source: Definition 1 (A.1).
    """
    check_alpha(alpha)
    check_same_shapes(a, b)
    return {
        name: torch.lerp(b[name], value, alpha) if value.is_floating_point() else value.clone()
        for name, value in a.items()
    }


def weight_distance(a: State, b: State) -> float:
    """|A - B| relative to the mean of |A| and |B|, over the floating-point tensors given, in
    float64.
    """

    def norm(tensors: Iterable[Tensor]) -> float:
        return sum(float(t.double().square().sum()) for t in tensors) ** 0.5

    names = [name for name, value in a.items() if value.is_floating_point()]
    difference = norm(a[n].double() - b[n].double() for n in names)
    return difference / (0.5 * (norm(a[n] for n in names) + norm(b[n] for n in names)) or 1.0)
