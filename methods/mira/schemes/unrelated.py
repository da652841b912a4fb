"""Unrelated watermark: images of another data set (Zhang et al., AsiaCCS 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datasets.batching import generator
from methods.mira.attack_data import fit_images
from methods.mira.schemes.abstract_images import abstract_images
from methods.mira.schemes.scheme import Scheme
from methods.mira.triggers import TriggerSet, TriggerSource, check_class

UNRELATED = 221


class Unrelated(Scheme):
    """Images of one class of another data set, which get one class of this one as label.

    The official code takes class 4 of MNIST for CIFAR, and class 4 of CIFAR-10 (deer), in grey, for MNIST.

    Args:
        count: number of triggers.
        target: class of the triggers.
        images: builds the DataModule of the other data set from `root`, `seed` and `workers`; None: abstract images,
            an offline substitute.
        source: class of the other data set.
    """

    target: int

    def __init__(self, count: int = 100, target: int = 6, images: Any = None, source: int = 4) -> None:
        super().__init__(count)
        self.target, self.images, self.source = target, images, source

    def make_triggers(self, source: TriggerSource) -> TriggerSet:
        """Return the images with the size and channels of the data; see `Scheme`."""
        check_class("method.scheme.target", self.target, source.num_classes)
        random = generator(source.seed, UNRELATED)
        x = abstract_images(self.count, source.shape, random) if self.images is None else self._other(source, random)
        return TriggerSet.of(x, torch.full((self.count,), self.target))

    def _other(self, source: TriggerSource, random: torch.Generator) -> Tensor:
        data = self.images(root=source.root, seed=source.seed, workers=0)
        data.prepare_data()
        data.setup()
        part = data.parts["train"]
        check_class("method.scheme.source", self.source, len(data.classes))
        places = (part.labels == self.source).nonzero()[:, 0]
        if len(places) < self.count:
            raise ValueError(
                f"method.scheme.count={self.count} triggers are more than class {self.source} of the other data set "
                f"has images ({len(places)})"
            )
        chosen = places[torch.randperm(len(places), generator=random)[: self.count]]
        return fit_images(part.images[chosen], source.shape)
