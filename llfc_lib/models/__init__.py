"""Networks: our own by name, any other through :class:`llfc_lib.models.view.View`.

To add an architecture is one file in this folder, which registers it.
"""

from llfc_lib.models.mlp import MLP
from llfc_lib.models.registry import MODELS, build
from llfc_lib.models.resnet import ResNet20, ResNet20LN, ResNet50
from llfc_lib.models.vgg16 import VGG16
from llfc_lib.registry import import_all

import_all(__name__, __path__)

__all__ = ["MLP", "MODELS", "VGG16", "ResNet20", "ResNet20LN", "ResNet50", "build"]
