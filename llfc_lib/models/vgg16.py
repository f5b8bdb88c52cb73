"""VGG-16 with batch norm for 32 x 32 images (Simonyan and Zisserman, 2015, configuration D)."""

from typing import Any

from torch import Tensor, nn

from llfc_lib.models.registry import MODELS, Shape

# channels in units of the width, and convolutions
GROUPS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))


class VGG16(nn.Module):
    """13 convolutions (with bias, then BN and ReLU) in five groups, each ended by max-pooling, then
    the classifier.

    ``width`` is the channels of the first group. The classifier has two hidden layers of ``64 *
    width`` units with dropout 0.5, as FC 1 and FC 2 of Table 2 and the authors' code imply;
    ``linear_classifier`` is the variant of Frankle et al.: average pooling in the last group and
    one linear layer. Convolutions start from He's normal draw (fan-out), linear layers from N(0,
    0.01^2), biases from 0. Sites carry the names of Table 2.

    Source: B.1.1; Simonyan and Zisserman (2015), configuration D; names of layers from Table 2.
    """

    def __init__(
        self, channels: int = 3, width: int = 64, classes: int = 10, linear_classifier: bool = False
    ) -> None:
        super().__init__()
        self.paper_names, self.paper_maps = {}, {}
        layers, inputs = nn.Sequential(), channels
        for group, (factor, count) in enumerate(GROUPS, 1):
            for number in range(1, count + 1):
                name, title = f"{group}_{number}", f"Conv {group}-{number}"
                layers.add_module(f"conv{name}", nn.Conv2d(inputs, factor * width, 3, padding=1))
                layers.add_module(f"bn{name}", nn.BatchNorm2d(factor * width))
                layers.add_module(f"relu{name}", nn.ReLU())
                self.paper_names[f"features.relu{name}"] = self.paper_maps[
                    f"features.conv{name}"
                ] = title
                inputs = factor * width
            # ceil_mode lets images smaller than 32 x 32 through; at 32 x 32 it changes nothing
            pool = nn.AvgPool2d if linear_classifier and group == len(GROUPS) else nn.MaxPool2d
            layers.add_module(f"pool{group}", pool(2, ceil_mode=True))
        self.features, self.flatten = layers, nn.Flatten()
        hidden = 64 * width
        self.paper_maps |= {
            "classifier.fc1": "FC 1",
            "classifier.fc2": "FC 2",
            "classifier.fc3": "FC 3",
        }
        self.paper_names |= {"classifier.relu1": "FC 1", "classifier.relu2": "FC 2"}
        self.classifier = nn.Sequential()
        if not linear_classifier:
            for number in (1, 2):
                self.classifier.add_module(f"fc{number}", nn.Linear(inputs, hidden))
                self.classifier.add_module(f"relu{number}", nn.ReLU())
                self.classifier.add_module(f"dropout{number}", nn.Dropout(0.5))
                inputs = hidden
        self.classifier.add_module("fc3", nn.Linear(inputs, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N x C x H x W) to logits (N x classes)."""
        return self.classifier(self.flatten(self.features(x)))


@MODELS.register("vgg16")
def _vgg16(shape: Shape, classes: int, **args: Any) -> nn.Module:
    return VGG16(shape[0], classes=classes, **args)
