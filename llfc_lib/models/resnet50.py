"""ResNet-50 (He et al., 2016, section 4.1) under torchvision's names of layers, so that its weights
may be loaded.
"""

import torch
from torch import Tensor, nn

BLOCKS = (3, 4, 6, 3)  # in each of the four stages
EXPANSION = 4  # a block gives four times as many channels as its two inner convolutions have


class Bottleneck(nn.Module):
    """1 x 1 conv -> BN -> ReLU -> 3 x 3 conv -> BN -> ReLU -> 1 x 1 conv -> BN, plus the shortcut,
    then ReLU.

    The 3 x 3 convolution has the stride (He et al. give it to the first 1 x 1). The shortcut is the
    identity where the shape stays the same, else a 1 x 1 convolution and BN. N x ``inputs`` x H x W
    to N x 4 ``inner`` x H / ``stride`` x W / ``stride``, rounded up.

    Source: He et al. (2016), Figure 5; names and stride ("v1.5") of torchvision 0.28.
    """

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * inner
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(inner), nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(inner), nn.ReLU()
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3, self.relu3 = nn.BatchNorm2d(outputs), nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.bn1(self.conv1(x)))
        h = self.relu2(self.bn2(self.conv2(h)))
        return self.relu3(self.bn3(self.conv3(h)) + self.downsample(x))


class ResNet50(nn.Module):
    """A 7 x 7 convolution and max pooling, stages of 3, 4, 6 and 3 bottleneck blocks, mean over
    pixels, linear.

    Blocks of stage s are 2^(s-1) ``width`` channels wide inside and four times that outside:
    25,557,032 parameters at width 64 with three ``channels`` and 1000 ``classes``, which load
    torchvision's state dict of ``resnet50``. Images may be of any size; at 64 x 64 the last stage
    has 2 x 2 pixels, at 8 x 8 one. Convolutions and the linear layer start from He's normal draw.
    Sites are named as those of :class:`llfc_lib.models.resnet20.ResNet20`: "Block 1-1" is a block's
    output after its last ReLU, "Block 1-1 inner 1" and "Block 1-1 inner 2" are the two ReLUs before
    it.

    Source: B.1.1; He et al. (2016), Table 1; names of layers from torchvision 0.28.
    """

    def __init__(self, channels: int = 3, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.paper_names, self.paper_maps = {"relu": "Conv 1"}, {"conv1": "Conv 1", "fc": "FC"}
        inputs = width
        for stage, count in enumerate(BLOCKS, 1):
            inner, blocks = width * 2 ** (stage - 1), nn.Sequential()
            for number in range(count):
                # pooling has halved the image before the first stage already
                blocks.append(
                    Bottleneck(inputs, inner, stride=2 if stage > 1 and number == 0 else 1)
                )
                inputs = EXPANSION * inner
                self._name(f"layer{stage}.{number}", f"Block {stage}-{number + 1}")
            self.add_module(f"layer{stage}", blocks)
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def _name(self, block: str, title: str) -> None:
        self.paper_names |= {
            f"{block}.relu1": f"{title} inner 1",
            f"{block}.relu2": f"{title} inner 2",
            f"{block}.relu3": title,
        }
        self.paper_maps |= {f"{block}.conv{i}": f"{title} conv {i}" for i in (1, 2, 3)}
        self.paper_maps[f"{block}.downsample.0"] = f"{title} shortcut"

    def forward(self, x: Tensor) -> Tensor:
        """Images (N x C x H x W) to logits (N x classes)."""
        h = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, len(BLOCKS) + 1):
            h = self.get_submodule(f"layer{stage}")(h)
        return self.fc(torch.mean(h, (2, 3)))
