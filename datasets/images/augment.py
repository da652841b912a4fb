"""Random crops and mirror images of a whole batch at once."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from datasets.checks import check_not_negative


class Augment:
    """Random horizontal flip, then a random crop out of the image padded by zeros, for a whole batch.

    This is the standard augmentation of CIFAR (He et al. 2016, section 4.2). Each image of a batch has its own draw.

    Args:
        crop: width of the zero padding in pixels; 0: no crop. A crop has the size of the image.
        flip: mirror an image with probability 1/2.

    Raises:
        ValueError: `crop` is negative.
    """

    def __init__(self, crop: int = 0, flip: bool = False) -> None:
        check_not_negative("dataset.augment", crop=crop)
        self.crop, self.flip = crop, flip

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment a batch.

        Args:
            x: (B, C, H, W) of any dtype, on any device.
            generator: random generator on the CPU.

        Returns:
            (B, C, H, W).
        """
        return self.apply(x, *self.draw(len(x), generator))

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the crop and the flip of each image, on the CPU.

        Args:
            count: number of images.
            generator: random generator on the CPU.

        Returns:
            Corner of the crop in the padded image, row first, (count, 2) int64 in 0..2 crop; and whether the image is
            mirrored, (count,) bool.
        """
        corner = torch.randint(2 * self.crop + 1, (count, 2), generator=generator)
        return corner, torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)

    def apply(self, x: Tensor, corner: Tensor, mirrored: Tensor) -> Tensor:
        """Crop and mirror each image as drawn.

        A crop is the image shifted in memory, with the pixels that come in from the neighbouring row, channel or image
        set to zero. So one copy of whole images and one product suffice for a batch. On a CPU this is several times
        faster than `gather` or an index for each pixel.

        Args:
            x: (B, C, H, W) of finite values.
            corner: (B, 2) int64, corner of each crop in the padded image.
            mirrored: (B,) bool.

        Returns:
            (B, C, H, W).
        """
        batch, _, height, width = x.shape
        size, corner, mirrored = x[0].numel(), corner.to(x.device), mirrored.to(x.device)
        padding = x.new_zeros(self.crop * (width + 1))
        sources = [x, x.flip(-1)] if self.flip else [x]
        memory = torch.cat([padding, *(source.flatten() for source in sources), padding])
        first = (torch.arange(batch, device=x.device) + batch * mirrored) * size + corner[:, 0] * width + corner[:, 1]
        cropped = memory.as_strided((len(memory) - size + 1, size), (1, 1)).index_select(0, first).view_as(x)
        if not self.crop:
            return cropped
        inside = _inside_masks(self.crop, height, width, x.dtype, x.device)
        return cropped.mul_(inside.index_select(0, corner[:, 0] * (2 * self.crop + 1) + corner[:, 1]))


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # the cached tensor serves later calls, which may need gradients
def _inside_masks(crop: int, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return 1 where a crop shows the image, 0 where it shows padding, for each corner: ((2 crop + 1)^2, 1, H, W)."""
    padded = pad(torch.ones(height, width, dtype=dtype, device=device), (crop,) * 4)
    return padded.unfold(0, height, 1).unfold(1, width, 1).reshape(-1, 1, height, width)
