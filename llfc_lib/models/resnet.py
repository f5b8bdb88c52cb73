"""Residual networks (He et al., 2016): ResNet-20 for 32 x 32 images as the LLFC authors' code has
it, the same with layer norm as Ainsworth et al. (2023) have it, and ResNet-50.

ResNet-50 has torchvision's names of layers, so that its weights may be loaded.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llfc_lib.models.registry import MODELS, Shape

EPS = 1e-6  # flax's default, which the code of Ainsworth et al. leaves as it is
BLOCKS = (3, 4, 6, 3)  # in each of ResNet-50's four stages
EXPANSION = 4  # a bottleneck gives four times as many channels as its two inner convolutions have


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels on both sides. It has no parameters.

    Source: He et al. (2016), option A; the authors' code (zzp1012/LLFC).
    """

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.before, self.after = extra // 2, extra - extra // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel, with a scale and a shift a channel.

    Source: flax's LayerNorm on N x H x W x C, as the code of Ainsworth et al.
    (samuela/git-re-basin) uses it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.normalized_shape = (channels,)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same shape."""
        pixels = x.permute(0, 2, 3, 1)
        pixels = F.layer_norm(pixels, self.normalized_shape, self.weight, self.bias, EPS)
        return pixels.permute(0, 3, 1, 2)


#: What stands behind each convolution, by the name that weights have.
NORMS: dict[str, type[nn.Module]] = {"bn": nn.BatchNorm2d, "norm": ChannelNorm}


class Block(nn.Module):
    """conv -> ``norm`` (one of :data:`NORMS`) -> ReLU -> conv -> norm, plus the shortcut, then
    ReLU.

    The shortcut is the identity where the shape stays, else "A" (padding), or a convolution and a
    norm: 1 x 1 for "B", 3 x 3 for "C".

    Source: He et al. (2016); "C" is from the code of Ainsworth et al. (samuela/git-re-basin).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str, norm: str) -> None:
        super().__init__()
        self.norm = norm
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.add_module(f"{norm}1", NORMS[norm](outputs))
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.add_module(f"{norm}2", NORMS[norm](outputs))
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 and shortcut == "A":
            self.shortcut = PadShortcut(outputs - inputs)
        elif stride > 1:
            kernel = 3 if shortcut == "C" else 1
            conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
            self.shortcut = nn.Sequential(conv, NORMS[norm](outputs))

    def forward(self, x: Tensor) -> Tensor:
        norm1, norm2 = self.get_submodule(f"{self.norm}1"), self.get_submodule(f"{self.norm}2")
        h = self.relu1(norm1(self.conv1(x)))
        return self.relu2(norm2(self.conv2(h)) + self.shortcut(x))


class _ThreeStages(nn.Module):
    """A convolution, three stages of three blocks (``width``, 2 and 4 ``width`` channels), mean
    over pixels, linear.
    """

    def __init__(self, channels: int, width: int, classes: int, shortcut: str, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.first_norm = norm
        self.add_module(norm, NORMS[norm](width))
        self.relu = nn.ReLU()
        self.paper_names, self.paper_maps = {"relu": "Conv 1"}, {"conv": "Conv 1", "fc": "FC"}
        inputs = width
        for stage in (1, 2, 3):
            for number in (1, 2, 3):
                outputs, name = width * 2 ** (stage - 1), f"block{stage}_{number}"
                stride = 2 if stage > 1 and number == 1 else 1
                self.add_module(name, Block(inputs, outputs, stride, shortcut, norm))
                inputs, title = outputs, f"Block {stage}-{number}"
                self.paper_names |= {f"{name}.relu1": f"{title} inner", f"{name}.relu2": title}
                self.paper_maps |= {
                    f"{name}.conv1": f"{title} conv 1",
                    f"{name}.conv2": f"{title} conv 2",
                    f"{name}.shortcut.0": f"{title} shortcut",
                }
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N x C x H x W) to logits (N x classes)."""
        h = self.relu(self.get_submodule(self.first_norm)(self.conv(x)))
        for stage in (1, 2, 3):
            for number in (1, 2, 3):
                h = self.get_submodule(f"block{stage}_{number}")(h)
        return self.fc(torch.mean(h, (2, 3)))


class ResNet20(_ThreeStages):
    """A convolution, three stages of three blocks (``width``, 2 and 4 ``width`` channels), mean
    over pixels, linear; with batch norm.

    ``shortcut`` "A" (padding, 269,722 parameters at width 16) is the authors', "B" projects by a 1
    x 1 convolution where the size changes; ValueError for another. Convolutions and the linear
    layer start from He's normal draw. Sites carry the names of Table 3: "Block 1-1" is a block's
    output after its last ReLU, "Block 1-1 inner" its first ReLU.

    Source: B.1.1; He et al. (2016), section 4.2; names of layers from Table 3.
    """

    def __init__(
        self, channels: int = 3, width: int = 16, classes: int = 10, shortcut: str = "A"
    ) -> None:
        if shortcut not in ("A", "B"):
            raise ValueError(
                f"unknown shortcut {shortcut!r}; choose 'A' (padding) or 'B' (projection)"
            )
        super().__init__(channels, width, classes, shortcut, "bn")
        _draw_he_normal(self)


class ResNet20LN(_ThreeStages):
    """:class:`ResNet20` with layer norm, whose residual streams may be permuted: its shortcuts are
    3 x 3 convolutions, since padding with zeros would tie the channels of two stages together.

    The appendix' width is 512, 32 times the 16 of He et al. PyTorch's default initialisation.

    Source: B.1.2; the code of Ainsworth et al. (samuela/git-re-basin); names of layers from Table
    3.
    """

    def __init__(self, channels: int = 3, width: int = 512, classes: int = 10) -> None:
        super().__init__(channels, width, classes, "C", "norm")


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
    Sites are named as those of :class:`ResNet20`: "Block 1-1" is a block's output after its last
    ReLU, "Block 1-1 inner 1" and "Block 1-1 inner 2" are the two ReLUs before it.

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
                stride = 2 if stage > 1 and number == 0 else 1
                blocks.append(Bottleneck(inputs, inner, stride))
                inputs = EXPANSION * inner
                self._name(f"layer{stage}.{number}", f"Block {stage}-{number + 1}")
            self.add_module(f"layer{stage}", blocks)
        self.fc = nn.Linear(inputs, classes)
        _draw_he_normal(self)

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


def _draw_he_normal(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)


@MODELS.register("resnet20")
def _resnet20(shape: Shape, classes: int, **args: Any) -> nn.Module:
    return ResNet20(shape[0], classes=classes, **args)


@MODELS.register("resnet20_ln")
def _resnet20_ln(shape: Shape, classes: int, **args: Any) -> nn.Module:
    return ResNet20LN(shape[0], classes=classes, **args)


@MODELS.register("resnet50")
def _resnet50(shape: Shape, classes: int, **args: Any) -> nn.Module:
    return ResNet50(shape[0], classes=classes, **args)
