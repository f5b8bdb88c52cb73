"""Networks: our own by name, any other through :class:`llfc_lib.models.view.View`."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from llfc_lib.models.mlp import MLP
from llfc_lib.models.resnet20 import ResNet20
from llfc_lib.models.resnet20_ln import ResNet20LN
from llfc_lib.models.resnet50 import ResNet50
from llfc_lib.models.vgg16 import VGG16

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": lambda shape, classes, **args: MLP(math.prod(shape), classes=classes, **args),
    "vgg16": lambda shape, classes, **args: VGG16(shape[0], classes=classes, **args),
    "resnet20": lambda shape, classes, **args: ResNet20(shape[0], classes=classes, **args),
    "resnet20_ln": lambda shape, classes, **args: ResNet20LN(shape[0], classes=classes, **args),
    "resnet50": lambda shape, classes, **args: ResNet50(shape[0], classes=classes, **args),
}


def build(name: str, image_shape: tuple[int, int, int], classes: int, **args: Any) -> nn.Module:
    """A freshly initialised network for images of ``image_shape`` (C, H, W), drawn from torch's
    global generator.

    ``name`` is one of :data:`MODELS`, whose arguments ``args`` are. ValueError for another.

    Source: B.1.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; choose one of {sorted(MODELS)}")
    return MODELS[name](image_shape, classes, **args)
