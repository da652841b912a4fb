"""Training with fixed weights of classes, by how many images they have."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from methods.famus.losses import balanced_weights
from methods.famus.module import NoisyTraining
from methods.famus.weighting import shares


class ClassBalanced(NoisyTraining):
    """Samples weighed by their classes' effective numbers of images (Cui et al. 2019), from some epoch on.

    Args:
        beta: as in `balanced_weights`. start: first epoch, from 0, with these weights; before, all count alike.
        normalise: weights of a batch add up to 1; else each is divided by the number of samples.
    """

    weights: Tensor

    def __init__(
        self, network: nn.Module, beta: float = 0.9999, start: int = 0, normalise: bool = False, **more: Any
    ) -> None:
        super().__init__(network, **more)
        if not 0 <= beta < 1:
            raise ValueError(f"method.beta must be in [0, 1), got {beta}")
        self.beta, self.start, self.normalise = beta, start, normalise

    def prepare(self, data: Any) -> None:
        """Raises ValueError where a class has no training images."""
        super().prepare(data)
        counts = data.train_labels.bincount(minlength=len(data.classes))
        if not counts.all():
            raise ValueError(
                "method.beta weighs classes by their numbers of training images, and one has none: "
                "raise dataset.limit_train, or lower dataset.imbalance"
            )
        self.register_buffer("weights", balanced_weights(counts, self.beta), persistent=False)

    def weigh(self, batch: Any, losses: Tensor) -> Tensor:
        if self.current_epoch < self.start:
            return super().weigh(batch, losses)
        return shares(self.weights[batch.y], self.normalise)
