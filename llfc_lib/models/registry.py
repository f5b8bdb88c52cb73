"""Networks by name. An architecture is one file in this folder, which registers what builds it."""

from typing import Any, Protocol

from torch import nn

from llfc_lib.registry import Registry

Shape = tuple[int, int, int]  # of an image: channels, height, width


class Architecture(Protocol):
    """What is registered: a network for images of ``shape``, freshly initialised."""

    def __call__(self, shape: Shape, classes: int, **args: Any) -> nn.Module: ...


MODELS: Registry[Architecture] = Registry("model")


def build(name: str, image_shape: Shape, classes: int, **args: Any) -> nn.Module:
    """A freshly initialised network for images of ``image_shape`` (C, H, W), drawn from torch's
    global generator.

    ``name`` is one of :data:`MODELS`, whose arguments ``args`` are. ValueError for another.

    Source: B.1.
    """
    return MODELS.get(name)(image_shape, classes, **args)
