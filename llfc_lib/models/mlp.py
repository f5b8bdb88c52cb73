"""The multi-layer perceptron of B.1: three hidden layers of 512 ReLU units."""

import math
from typing import Any

from torch import Tensor, nn

from llfc_lib.models.registry import MODELS, Shape


class MLP(nn.Module):
    """flatten -> (linear -> ReLU) x 3 -> linear. PyTorch's default initialisation, biases, no
    normalisation.

    The names of its sites f^(l) are the paper's (Table 1): "FC 1" to "FC 3" are H^(l), after the
    ReLU.

    Source: B.1.1, B.1.2; names of layers from Table 1.
    """

    paper_names = {"relu1": "FC 1", "relu2": "FC 2", "relu3": "FC 3", "fc4": "logits"}
    paper_maps = {"fc1": "FC 1", "fc2": "FC 2", "fc3": "FC 3", "fc4": "FC 4"}

    def __init__(self, inputs: int = 784, hidden: int = 512, classes: int = 10) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1, self.relu1 = nn.Linear(inputs, hidden), nn.ReLU()
        self.fc2, self.relu2 = nn.Linear(hidden, hidden), nn.ReLU()
        self.fc3, self.relu3 = nn.Linear(hidden, hidden), nn.ReLU()
        self.fc4 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N x C x H x W) to logits (N x classes)."""
        h = self.relu1(self.fc1(self.flatten(x)))
        h = self.relu2(self.fc2(h))
        h = self.relu3(self.fc3(h))
        return self.fc4(h)


@MODELS.register("mlp")
def _mlp(shape: Shape, classes: int, **args: Any) -> nn.Module:
    return MLP(math.prod(shape), classes=classes, **args)
