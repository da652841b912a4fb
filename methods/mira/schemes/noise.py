"""Noise watermark: Gaussian noise on images of one class (Zhang et al., AsiaCCS 2018)."""

from __future__ import annotations

import torch

from datasets.batching import generator
from datasets.checks import check_positive
from methods.mira.schemes.scheme import Scheme
from methods.mira.triggers import TriggerSet, TriggerSource, check_class, draw_images

NOISE = 211


class Noise(Scheme):
    """Training images of one class with noise, drawn once for each image, which get another class as label.

    Args:
        count: number of triggers.
        source: class of the images.
        target: class of the triggers.
        std: standard deviation of the noise, for pixels in [0, 1] (official: 0.4 CIFAR, 0.1 MNIST).

    Raises:
        ValueError: source and target are equal, or the deviation is not positive.
    """

    target: int

    def __init__(self, count: int = 100, source: int = 4, target: int = 6, std: float = 0.1) -> None:
        super().__init__(count)
        check_positive("method.scheme", std=std)
        if source == target:
            raise ValueError(f"method.scheme.source and method.scheme.target must differ, got {source} twice")
        self.source, self.target, self.std = source, target, std

    def make_triggers(self, source: TriggerSource) -> TriggerSet:
        """Return images of the source class with noise, clipped to [0, 1]; see `Scheme`."""
        check_class("method.scheme.source", self.source, source.num_classes)
        check_class("method.scheme.target", self.target, source.num_classes)
        random = generator(source.seed, NOISE)
        x, _ = draw_images(source, self.count, random, self.source)
        x = (x + self.std * torch.randn(x.shape, generator=random)).clamp(0, 1)
        return TriggerSet.of(x, torch.full((self.count,), self.target))
