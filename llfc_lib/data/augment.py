"""Augmentation of a whole batch at once, on the device: random crops of zero-padded images, and flips."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from llfc_lib.streams import generator

BUILT = ("crop", "flip")


@dataclass(frozen=True)
class Draws:
    """One epoch's draws, an entry an image: the crop's upper left corner in the padded image, and whether to flip."""

    top: Tensor
    left: Tensor
    flip: Tensor


class Augmenter:
    """Crops of H x W pixels out of images with ``pad`` black pixels on every side, and left-right flips.

    ``pad`` is an eighth of the side: 4 pixels at 32. Padding comes before normalisation, so that it is black, as in
    the authors' code. The padded set lies on the images' device (N x H x W x C, uint8: 1.56 times the set at 32);
    a batch is one gather from it and comes out channels-last. ``kinds``: "crop", "flip", both or none.
    """

    def __init__(self, x: Tensor, kinds: Collection[str]) -> None:
        if unknown := set(kinds) - set(BUILT):
            raise ValueError(f"augmentation {sorted(unknown)} is not built yet; there are {BUILT}")
        self.kinds = set(kinds)
        self.pad = x.shape[-1] // 8 if "crop" in self.kinds else 0
        self.size = x.shape[-2:]
        self.padded = torch.nn.functional.pad(x, (self.pad,) * 4).permute(0, 2, 3, 1).contiguous()

    def draw(self, *stream: object) -> Draws:
        """The draws of one epoch, named by ``stream``: the same on every device."""
        n, device, g = len(self.padded), self.padded.device, generator(*stream, "augment")
        top, left = torch.randint(0, 2 * self.pad + 1, (2, n), generator=g)
        flip = torch.randint(0, 2 if "flip" in self.kinds else 1, (n,), generator=g).bool()
        return Draws(top.to(device), left.to(device), flip.to(device))

    def batch(self, index: Tensor, draws: Draws) -> Tensor:
        """Images ``index`` (N' integers) as uint8, N' x C x H x W in channels-last memory."""
        height, width = self.size
        row = draws.top[index][:, None] + torch.arange(height, device=index.device)
        column = torch.arange(width, device=index.device).expand(len(index), width)
        column = draws.left[index][:, None] + torch.where(draws.flip[index][:, None], width - 1 - column, column)
        return self.padded[index[:, None, None], row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
