"""Attention transfer (Zagoruyko and Komodakis 2017, arXiv 1612.03928): maps of mean squared activation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize

from methods.compression.distillation.features import FeatureTap, last_maps
from methods.compression.distillation.kd import Distillation
from methods.compression.stage import Context


def attention_map(features: Tensor) -> Tensor:
    """Return the mean over channels of squared features, as unit vectors: (B, C, H, W) -> (B, H W)."""
    return normalize(features.square().mean(1).flatten(1))


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of two attention maps; the larger map is averaged to the smaller's size."""
    size = min(student.shape[-1], teacher.shape[-1])
    student, teacher = (adaptive_avg_pool2d(f, size) if f.shape[-1] > size else f for f in (student, teacher))
    return (attention_map(student) - attention_map(teacher)).square().mean()


class AttentionTransfer(Distillation):
    """Distil the attention map of each resolution; arguments of `Distillation`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"r": 1.0, "a": 0.0, "b": 1000.0} | options))

    def prepare(self, student: nn.Module, teacher: nn.Module, context: Context) -> list[nn.Module]:
        """Find the maps, counted from the smallest resolution."""
        names = [last_maps(net, context.example) for net in (student, teacher)]
        count = min(len(n) for n in names)
        self.taps = [FeatureTap(net, n[-count:]) for net, n in zip((student, teacher), names, strict=True)]
        return []

    def further_loss(self, batch: Any) -> Tensor:
        """Return the sum of the losses of all resolutions."""
        own, other = (tap.ordered() for tap in self.taps)
        return torch.stack([attention_loss(s, t.detach()) for s, t in zip(own, other, strict=True)]).sum()

    def finish(self) -> None:
        """Remove the hooks."""
        for tap in self.taps:
            tap.remove()
