"""ResNet-20 for 32 x 32 images (He et al., 2016, section 4.2), as the authors' code has it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels on both sides. It has no parameters.

    Source: He et al. (2016), option A; the authors' code (zzp1012/LLFC).
    """

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.before, self.after = extra // 2, extra - extra // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class Block(nn.Module):
    """conv -> BN -> ReLU -> conv -> BN, plus the shortcut, then ReLU.

    Source: He et al. (2016).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(outputs), nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(outputs), nn.ReLU()
        if stride == 1 and inputs == outputs:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = PadShortcut(outputs - inputs)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(h)) + self.shortcut(x))


class ResNet20(nn.Module):
    """A convolution, three stages of three blocks (``width``, 2 and 4 ``width`` channels), mean
    over pixels, linear.

    ``shortcut`` "A" (padding, 269,722 parameters at width 16) is the authors', "B" projects by a 1
    x 1 convolution where the size changes; ValueError for another. Convolutions and the linear
    layer start from He's normal draw. Sites carry the names of Table 3: "Block 1-1" is a block's
    output after its last ReLU, "Block 1-1 inner" its first ReLU.

    Source: B.1.1; He et al. (2016), section 4.2; names of layers from Table 3.
    """

    def __init__(
        self, channels: int = 3, width: int = 16, classes: int = 10, shortcut: str = "A"
    ) -> None:
        super().__init__()
        if shortcut not in ("A", "B"):
            raise ValueError(
                f"unknown shortcut {shortcut!r}; choose 'A' (padding) or 'B' (projection)"
            )
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        self.paper_names, self.paper_maps = {"relu": "Conv 1"}, {"conv": "Conv 1", "fc": "FC"}
        inputs = width
        for stage in (1, 2, 3):
            for number in (1, 2, 3):
                outputs, name = width * 2 ** (stage - 1), f"block{stage}_{number}"
                stride = 2 if stage > 1 and number == 1 else 1
                self.add_module(name, Block(inputs, outputs, stride, shortcut))
                inputs, title = outputs, f"Block {stage}-{number}"
                self.paper_names |= {f"{name}.relu1": f"{title} inner", f"{name}.relu2": title}
                self.paper_maps |= {
                    f"{name}.conv1": f"{title} conv 1",
                    f"{name}.conv2": f"{title} conv 2",
                    f"{name}.shortcut.0": f"{title} shortcut",
                }
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N x C x H x W) to logits (N x classes)."""
        h = self.relu(self.bn(self.conv(x)))
        for stage in (1, 2, 3):
            for number in (1, 2, 3):
                h = self.get_submodule(f"block{stage}_{number}")(h)
        return self.fc(torch.mean(h, (2, 3)))
