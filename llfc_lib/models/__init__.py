"""Networks: our own by name, any other through :class:`llfc_lib.models.view.View`.

Every module of this folder is imported, so that architectures register themselves.
"""

from importlib import import_module
from pkgutil import iter_modules

from llfc_lib.models.mlp import MLP
from llfc_lib.models.registry import MODELS, build
from llfc_lib.models.resnet import ResNet20, ResNet20LN, ResNet50
from llfc_lib.models.vgg16 import VGG16

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["MLP", "MODELS", "VGG16", "ResNet20", "ResNet20LN", "ResNet50", "build"]
