"""Bit-plane slicing of images: high planes (natural pattern) and low planes (perturbed pattern)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def quantise(x: Tensor) -> Tensor:
    """Images in [0, 1] -> grey levels 0..255, as floats. Rounds: 8-bit images come back exactly."""
    return (255 * x.float()).round()


def low_planes(q: Tensor, k: int) -> Tensor:
    """The k low bit-planes of grey levels: q mod 2^k."""
    return q.remainder(2**k)


@dataclass(frozen=True)
class BitPlanes:
    """Cuts an image between its k low bit-planes and the others.

    Args:
        k: low planes, 1..7. mid_rise: the natural pattern gets half a step of the cut, so that it is not darker than
            the image. stretch: the perturbed pattern fills [0, 1] (as it is, it is nearly black).
        pre_noise: uniform noise of up to so many grey levels before the cut (BPFC's).
    """

    k: int = 4
    mid_rise: bool = False
    stretch: bool = True
    pre_noise: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 7:
            raise ValueError(f"the cut k must leave planes on both sides: 1..7, got {self.k}")

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] -> natural and perturbed pattern, in [0, 1], of the same shape; float32 whatever x is."""
        q = quantise(x)
        if self.pre_noise:
            q = q + self.pre_noise * (2 * torch.rand_like(q) - 1)
        low = low_planes(q, self.k)
        high = q - low + (2 ** (self.k - 1) if self.mid_rise else 0)
        return high.clamp(0, 255) / 255, (low / (2**self.k - 1 if self.stretch else 255)).clamp_max(1)

    @torch.no_grad()
    def leak(self, x: Tensor, perturbed: Tensor) -> Tensor:
        """Share of values whose high planes the perturbation has changed: slicing does not isolate it."""
        one, other = quantise(x), quantise(perturbed)
        return ((one - low_planes(one, self.k)) != (other - low_planes(other, self.k))).float().mean()
