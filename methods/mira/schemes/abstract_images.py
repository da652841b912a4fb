"""Abstract images, the offline substitute for the 100 pictures of Adi et al."""

from __future__ import annotations

import torch
from torch import Tensor

WAVES = 6  # sinusoids of an image


def abstract_images(count: int, shape: tuple[int, int, int], random: torch.Generator) -> Tensor:
    """Draw sums of sinusoids of random direction, frequency, phase and colour, scaled to [0, 1].

    Args:
        count: number of images.
        shape: channels, height and width.
        random: random generator.

    Returns:
        (count, *shape) float32.
    """
    channels, height, width = shape
    rows = torch.linspace(0, 1, height).view(1, 1, height, 1)
    columns = torch.linspace(0, 1, width).view(1, 1, 1, width)

    def draw(low: float, high: float, *more: int) -> Tensor:
        return low + (high - low) * torch.rand((count, WAVES, *more), generator=random)

    angle, frequency, phase = draw(0, torch.pi, 1, 1), draw(1, 6, 1, 1), draw(0, 2 * torch.pi, 1, 1)
    waves = torch.sin(2 * torch.pi * frequency * (angle.cos() * columns + angle.sin() * rows) + phase)
    images = torch.einsum("nwhv,nwc->nchv", waves, draw(-1, 1, channels))
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=1e-6)
