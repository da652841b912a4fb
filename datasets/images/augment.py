"""Random crops and mirror images of a whole batch at once."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad


class Augment:
    """Random horizontal flip, then a random crop of the image's own size out of it, padded by `crop` zeros all round.

    The standard augmentation of CIFAR (He et al. 2016, section 4.2). Each image of a batch has its own draw.

    Args:
        crop: pixels of zeros on each side; 0: no crop. flip: mirror half of the images, by chance.

    Raises ValueError where `crop` is negative.
    """

    def __init__(self, crop: int = 0, flip: bool = False) -> None:
        if crop < 0:
            raise ValueError(f"dataset.augment.crop must not be negative, got {crop}")
        self.crop, self.flip = crop, flip

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """(B, C, H, W) of any dtype and device -> the same; the generator is one of the CPU."""
        return self.apply(x, *self.draw(len(x), generator))

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """For each of `count` images, on the CPU: corner (count, 2) int64 of the crop in the padded image, row first,
        in 0..2 crop; mirrored (count,) bool."""
        corner = torch.randint(2 * self.crop + 1, (count, 2), generator=generator)
        return corner, torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)

    def apply(self, x: Tensor, corner: Tensor, mirrored: Tensor) -> Tensor:
        """(B, C, H, W) of finite values -> the same shape, each image with its row of `draw`.

        A crop is the image shifted in memory, without the pixels that come in from the row, channel or image beside
        it. So one copy of whole images and one product do for a batch: several times faster on a CPU than `gather`, or
        an index for each pixel.
        """
        batch, _, height, width = x.shape
        size, corner, mirrored = x[0].numel(), corner.to(x.device), mirrored.to(x.device)
        beyond = x.new_zeros(self.crop * (width + 1))
        sources = [x, x.flip(-1)] if self.flip else [x]
        memory = torch.cat([beyond, *(source.flatten() for source in sources), beyond])
        first = (torch.arange(batch, device=x.device) + batch * mirrored) * size + corner[:, 0] * width + corner[:, 1]
        shifted = memory.as_strided((len(memory) - size + 1, size), (1, 1)).index_select(0, first).view_as(x)
        if not self.crop:
            return shifted
        inside = _insides(self.crop, height, width, x.dtype, x.device)
        return shifted.mul_(inside.index_select(0, corner[:, 0] * (2 * self.crop + 1) + corner[:, 1]))


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # kept for later calls, which may need gradients
def _insides(crop: int, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """((2 crop + 1)^2, 1, H, W): for each corner, 1 where a crop shows the image, 0 where it shows padding."""
    padded = pad(torch.ones(height, width, dtype=dtype, device=device), (crop,) * 4)
    return padded.unfold(0, height, 1).unfold(1, width, 1).reshape(-1, 1, height, width)
