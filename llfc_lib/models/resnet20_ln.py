"""ResNet-20 with layer norm (B.1.2): the network of Ainsworth et al. (2023), whose residual streams
may be permuted.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6  # flax's default, which the code of Ainsworth et al. leaves as it is


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel, with a scale and a shift a channel.

    Source: flax's LayerNorm on N x H x W x C, as the code of Ainsworth et al.
    (samuela/git-re-basin) uses it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.normalized_shape = (channels,)
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same shape."""
        pixels = F.layer_norm(
            x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, EPS
        )
        return pixels.permute(0, 3, 1, 2)


class Block(nn.Module):
    """conv -> norm -> ReLU -> conv -> norm, plus the shortcut, then ReLU.

    The shortcut is the identity where the stride is 1, else a 3 x 3 convolution and a norm: padding
    with zeros would tie the channels of two stages together, so that neither could be permuted.

    Source: the code of Ainsworth et al. (samuela/git-re-basin).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1, self.relu1 = ChannelNorm(outputs), nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2, self.relu2 = ChannelNorm(outputs), nn.ReLU()
        self.shortcut: nn.Module = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), ChannelNorm(outputs)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.norm1(self.conv1(x)))
        return self.relu2(self.norm2(self.conv2(h)) + self.shortcut(x))


class ResNet20LN(nn.Module):
    """A convolution, three stages of three blocks (``width``, 2 and 4 ``width`` channels), mean
    over pixels, linear.

    The appendix' width is 512, 32 times the 16 of He et al. Sites and maps are named as those of
    :class:`llfc_lib.models.resnet20.ResNet20`.

    Source: B.1.2; the code of Ainsworth et al. (samuela/git-re-basin); names of layers from Table
    3.
    """

    def __init__(self, channels: int = 3, width: int = 512, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm, self.relu = ChannelNorm(width), nn.ReLU()
        self.paper_names, self.paper_maps = {"relu": "Conv 1"}, {"conv": "Conv 1", "fc": "FC"}
        inputs = width
        for stage in (1, 2, 3):
            for number in (1, 2, 3):
                outputs, name, title = (
                    width * 2 ** (stage - 1),
                    f"block{stage}_{number}",
                    f"Block {stage}-{number}",
                )
                self.add_module(
                    name, Block(inputs, outputs, stride=2 if stage > 1 and number == 1 else 1)
                )
                inputs = outputs
                self.paper_names |= {f"{name}.relu1": f"{title} inner", f"{name}.relu2": title}
                self.paper_maps |= {
                    f"{name}.conv1": f"{title} conv 1",
                    f"{name}.conv2": f"{title} conv 2",
                    f"{name}.shortcut.0": f"{title} shortcut",
                }
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N x C x H x W) to logits (N x classes)."""
        h = self.relu(self.norm(self.conv(x)))
        for stage in (1, 2, 3):
            for number in (1, 2, 3):
                h = self.get_submodule(f"block{stage}_{number}")(h)
        return self.fc(torch.mean(h, (2, 3)))
