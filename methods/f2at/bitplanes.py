"""Bit-plane slicing of images: high planes (natural pattern) and low planes (perturbed pattern)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.checks import check_not_negative


def quantise(x: Tensor) -> Tensor:
    """Return the grey levels 0 to 255, as floats, of images in [0, 1].

    Levels are rounded, so that 8-bit images come back exactly.
    """
    return (255 * x.float()).round()


def low_planes(q: Tensor, k: int) -> Tensor:
    """Return the k low bit-planes of grey levels: q mod 2^k."""
    return q.remainder(2**k)


@dataclass(frozen=True)
class BitPlanes:
    """Cut of an image between its k low bit-planes and the others.

    Args:
        k: number of low planes, 1 to 7.
        mid_rise: add half a step of the cut to the natural pattern, so that it is not darker than the image.
        stretch: scale the perturbed pattern to [0, 1]; without it the pattern is nearly black.
        pre_noise: largest uniform noise, in grey levels, that is added before the cut (as in BPFC).

    Raises:
        ValueError: if k is not in 1 to 7.
    """

    k: int = 4
    mid_rise: bool = False
    stretch: bool = True
    pre_noise: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 7:
            raise ValueError(f"the number k of low bit-planes must lie in 1..7, got {self.k}")
        check_not_negative("method.objective.bit_planes", pre_noise=self.pre_noise)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the natural and the perturbed pattern of images, both float32 in [0, 1].

        Shapes: x (B, C, H, W) in [0, 1] -> (B, C, H, W), (B, C, H, W).
        """
        q = quantise(x)
        if self.pre_noise:
            q = q + self.pre_noise * (2 * torch.rand_like(q) - 1)
        low = low_planes(q, self.k)
        high = q - low + (2 ** (self.k - 1) if self.mid_rise else 0)
        return high.clamp(0, 255) / 255, (low / (2**self.k - 1 if self.stretch else 255)).clamp_max(1)

    @torch.no_grad()
    def leak(self, x: Tensor, perturbed: Tensor) -> Tensor:
        """Return the share of values whose high planes differ: slicing does not isolate the perturbation.

        Shapes: (B, C, H, W), (B, C, H, W) -> ().
        """
        clean, attacked = quantise(x), quantise(perturbed)
        return ((clean - low_planes(clean, self.k)) != (attacked - low_planes(attacked, self.k))).float().mean()
