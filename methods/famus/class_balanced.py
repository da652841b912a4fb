"""Class-balanced weights by the effective number of images (Cui et al. 2019), deferred in DRW (Cao et al. 2019)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from datasets.checks import check_not_negative
from methods.famus.module import NoisyTraining
from methods.famus.sample_weights import mean_weights, normalized_weights


def class_balanced_weights(counts: Tensor, beta: float) -> Tensor:
    """Return (1 - beta) / (1 - beta^n), scaled to mean 1 (Cui et al. 2019).

    Args:
        counts: number of images of each class, (K,).
        beta: 0 gives every class weight 1; towards 1 the weights tend to 1 / n.

    Returns:
        Class weights (K,), float32.
    """
    weights = (1 - beta) / (1 - beta ** counts.double())
    return (weights / weights.mean()).float()


class ClassBalanced(NoisyTraining):
    """Training with class-balanced sample weights from a given epoch on.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        beta: as in `class_balanced_weights`.
        start_epoch: first epoch, from 0, with these weights; before it all weights are equal.
        normalize: divide the weights of a batch by their sum; else by the batch size.
        **options: as in `NoisyTraining`.
    """

    class_weights: Tensor

    def __init__(
        self,
        network: nn.Module,
        beta: float = 0.9999,
        start_epoch: int = 0,
        normalize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        if not 0 <= beta < 1:
            raise ValueError(f"method.beta must be in [0, 1), got {beta}")
        check_not_negative("method", start_epoch=start_epoch)
        self.beta, self.start_epoch = beta, start_epoch
        self.scale_weights = normalized_weights if normalize else mean_weights

    def prepare(self, data: Any) -> None:
        """Compute the class weights.

        Raises:
            ValueError: a class has no training images.
        """
        super().prepare(data)
        counts = data.train_labels.bincount(minlength=len(data.classes))
        if not counts.all():
            raise ValueError(
                "method.beta weights classes by their number of training images, and a class has none: "
                "raise dataset.limit_train, or lower dataset.imbalance"
            )
        self.register_buffer("class_weights", class_balanced_weights(counts, self.beta), persistent=False)

    def sample_weights(self, batch: Any, losses: Tensor) -> Tensor:
        """Return the weights of the samples' classes, scaled; equal weights before `start_epoch`."""
        if self.current_epoch < self.start_epoch:
            return super().sample_weights(batch, losses)
        return self.scale_weights(self.class_weights[batch.y])
