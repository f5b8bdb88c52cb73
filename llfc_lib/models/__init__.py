"""Networks: our own by name, any other through :class:`llfc_lib.models.view.View`."""

from torch import nn

from llfc_lib.models.mlp import MLP


def _mlp(image_shape: tuple[int, int, int], classes: int, **args: int) -> nn.Module:
    channels, height, width = image_shape
    return MLP(channels * height * width, classes=classes, **args)


MODELS = {"mlp": _mlp}


def build(name: str, image_shape: tuple[int, int, int], classes: int, **args: int) -> nn.Module:
    """A freshly initialised network for images of ``image_shape`` (C, H, W), drawn from torch's global generator."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; choose one of {sorted(MODELS)}")
    return MODELS[name](image_shape, classes, **args)
