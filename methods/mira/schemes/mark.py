"""Watermark of embedded systems (Guo & Potkonjak, ICCAD 2018): a sparse additive mark."""

from __future__ import annotations

import torch
from torch import Tensor

from datasets.batching import generator
from datasets.checks import check_positive
from methods.mira.schemes.scheme import Scheme
from methods.mira.triggers import TriggerSet, TriggerSource, draw_images

MARK = 271


def sparse_mask(height: int, width: int, bits: int, random: torch.Generator) -> Tensor:
    """Return a mask with `bits` ones at random places.

    Shapes: -> (height, width) float.
    """
    mask = torch.zeros(height * width)
    mask[torch.randperm(height * width, generator=random)[:bits]] = 1
    return mask.view(height, width)


class Mark(Scheme):
    """Training images with one sparse mark, added to all channels of the normalised image; the label is the next class.

    The marked pixels may leave [0, 1]. The defaults are those of the runs of the authors' code base, where the
    triggers are learned; the command line of the official code has 6 bits.

    Args:
        count: number of triggers.
        bits: number of marked pixels.
        strength: value that is added to the normalised image (1.0 MNIST, 0.1 CIFAR).

    Raises:
        ValueError: the image has fewer pixels than bits.
    """

    def __init__(self, count: int = 100, bits: int = 128, strength: float = 1.0) -> None:
        super().__init__(count)
        check_positive("method.scheme", bits=bits, strength=strength)
        self.bits, self.strength = bits, strength

    def make_triggers(self, source: TriggerSource) -> TriggerSet:
        """Return training images with the mark; see `Scheme`."""
        _, height, width = source.shape
        if self.bits > height * width:
            raise ValueError(f"method.scheme.bits={self.bits} are more than the image has pixels, {height * width}")
        random = generator(source.seed, MARK)
        x, y = draw_images(source, self.count, random)
        mask = sparse_mask(height, width, self.bits, random)
        return TriggerSet.of(x + self.strength * source.std * mask, (y + 1) % source.num_classes)
