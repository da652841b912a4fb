"""Watermark by backdooring (Adi et al., USENIX Security 2018): abstract images with random labels."""

from __future__ import annotations

import torch

from datasets.batching import generator
from methods.mira.schemes.abstract_images import abstract_images
from methods.mira.schemes.scheme import Scheme
from methods.mira.triggers import TriggerSet, TriggerSource

ADI = 241


class Adi(Scheme):
    """Abstract images, each with a random class as label.

    The authors ship 100 pictures; here they are sums of sinusoids, an offline substitute.

    Args:
        count: number of triggers.
    """

    def make_triggers(self, source: TriggerSource) -> TriggerSet:
        """Return the abstract images; see `Scheme`."""
        random = generator(source.seed, ADI)
        x = abstract_images(self.count, source.shape, random)
        return TriggerSet.of(x, torch.randint(source.num_classes, (self.count,), generator=random))
