"""Augmentation of a whole batch at once, on the device.

Two kinds: crops of zero-padded images and flips, by gathering pixels (B.1.1); resized crops, flips
and rotations in one bilinear resampling (B.1.2). :func:`augmenter_for` chooses.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from llfc_lib.streams import generator

BUILT = ("crop", "flip")
RESAMPLED = ("resized crop", "flip", "rotate")
ZOOM = (0.8, 1.2)  # B.1.2
DEGREES = 30.0  # B.1.2


@dataclass(frozen=True)
class Draws:
    """One epoch's draws, an entry an image: the crop's upper left corner in the padded image, and
    whether to flip.

    Source: B.1.1.
    """

    top: Tensor
    left: Tensor
    flip: Tensor


class Augmenter:
    """Crops of H x W pixels out of images with ``pad`` black pixels on every side, and left-right
    flips.

    ``pad`` is an eighth of the side: 4 pixels at 32. Padding comes before normalisation, so that it
    is black, as in the authors' code. The padded set lies on the images' device (N x H x W x C,
    uint8: 1.56 times the set at 32); a batch is one gather from it and comes out channels-last.
    ``kinds``: "crop", "flip", both or none; ValueError for others.

    Source: flips and crops of B.1.1; the padding of the authors' code (zzp1012/LLFC).
    """

    def __init__(self, x: Tensor, kinds: Collection[str]) -> None:
        if unknown := set(kinds) - set(BUILT):
            raise ValueError(f"augmentation {sorted(unknown)} is not built yet; there are {BUILT}")
        self.kinds = set(kinds)
        self.pad = x.shape[-1] // 8 if "crop" in self.kinds else 0
        self.size = x.shape[-2:]
        self.padded = F.pad(x, (self.pad,) * 4).permute(0, 2, 3, 1).contiguous()

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
        column = draws.left[index][:, None] + torch.where(
            draws.flip[index][:, None], width - 1 - column, column
        )
        images = self.padded[index[:, None, None], row[:, :, None], column[:, None, :]]
        return images.permute(0, 3, 1, 2)


class Resampler:
    """Resized crops (zoom log-uniform in :data:`ZOOM`), flips and rotations (within
    :data:`DEGREES`) of H x W images.

    One affine map an image, one bilinear resampling; what lies outside the image is black. The
    window of a crop lies anywhere inside the zoomed image, or around it where that is the smaller:
    as in augmax 0.2.2, which Ainsworth et al. used. ``kinds``: any of :data:`RESAMPLED`; ValueError
    for others.

    Source: B.1.2; augmax 0.2.2, which the code of Ainsworth et al. (2023) uses.
    """

    def __init__(self, x: Tensor, kinds: Collection[str]) -> None:
        if unknown := set(kinds) - set(RESAMPLED):
            raise ValueError(
                f"augmentation {sorted(unknown)} is not built together with the others; there are"
                f" {RESAMPLED}"
            )
        self.kinds = set(kinds)
        self.x = x

    def draw(self, *stream: object) -> Tensor:
        """The draws of one epoch, named by ``stream``: N x 2 x 3, from a place in the result to one
        in the image, both in units of half a side from the centre."""
        n, g = len(self.x), generator(*stream, "augment")
        u = torch.rand(5, n, generator=g)
        low, high = (math.log(z) for z in ZOOM)
        zoom = torch.ones(n)
        if "resized crop" in self.kinds:
            zoom = torch.exp(low + (high - low) * u[0])
        shift = (2 * u[1:3] - 1) * (zoom - 1)
        mirror = torch.where(u[3] < 0.5, -1.0, 1.0) if "flip" in self.kinds else torch.ones(n)
        angle = math.radians(DEGREES) * (2 * u[4] - 1) if "rotate" in self.kinds else torch.zeros(n)
        # the result is rotated last, so a place in it is rotated first, then mirrored, moved and
        # zoomed
        first = (mirror * angle.cos(), mirror * angle.sin(), shift[0])
        turned = torch.stack((*first, -angle.sin(), angle.cos(), shift[1]))
        return (turned / zoom).T.reshape(n, 2, 3).contiguous().to(self.x.device)

    def batch(self, index: Tensor, draws: Tensor) -> Tensor:
        """Images ``index`` (N' integers) as float32 in the range of the pixels, N' x C x H x W."""
        images = self.x[index].float()
        grid = F.affine_grid(draws[index], list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)


def augmenter_for(x: Tensor, kinds: Collection[str]) -> "Augmenter | Resampler | None":
    """What draws batches of ``x`` augmented by ``kinds``; None for none.

    Source: B.1.
    """
    if not kinds:
        return None
    return Resampler(x, kinds) if set(kinds) & {"resized crop", "rotate"} else Augmenter(x, kinds)
