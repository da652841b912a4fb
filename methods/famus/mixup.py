"""Mixup (Zhang et al. 2018, arXiv 1710.09412): training on convex combinations of images and of their labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from datasets.checks import check_positive
from methods.famus.losses import CrossEntropy
from methods.famus.meta_gradient import cross_entropies
from methods.famus.module import NoisyTraining


def interpolate(values: Tensor, ratio: Tensor | float, partners: Tensor) -> Tensor:
    """Return ratio * values + (1 - ratio) * values of the partners.

    Args:
        values: (n, ...).
        ratio: a number, or one for each sample, of as many axes as `values`.
        partners: indices (n,), int64.
    """
    return ratio * values + (1 - ratio) * values[partners]


def mix_images_and_labels(
    x: Tensor, y: Tensor, partners: Tensor, ratio: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Interpolate images and one-hot labels.

    Args:
        x: images (n, C, H, W).
        y: classes (n,).
        partners: indices (n,).
        ratio: share (n,) of each sample in its mixture.
        num_classes: number of classes K.

    Returns:
        Images (n, C, H, W) and label distributions (n, K).
    """
    labels = one_hot(y, num_classes).to(x.dtype)
    return interpolate(x, ratio[:, None, None, None], partners), interpolate(labels, ratio[:, None], partners)


def check_mixable(loss: nn.Module, alpha: float) -> None:
    """Raise ValueError if a loss does not take soft labels, or if alpha is not positive.

    Args:
        loss: per-sample loss of a method that mixes labels.
        alpha: parameter of the Beta distribution of the mixing ratio.
    """
    check_positive("method", alpha=alpha)
    if type(loss) is not CrossEntropy:
        raise ValueError("method.loss must be the cross-entropy for methods that mix labels")


def draw_ratios(alpha: float, count: int, device: torch.device) -> Tensor:
    """Draw mixing ratios (count,) from Beta(alpha, alpha)."""
    concentration = torch.full((count,), float(alpha), device=device)
    return torch.distributions.Beta(concentration, concentration).sample()


class Mixup(NoisyTraining):
    """Mixup: a batch is mixed with a permutation of itself, with one ratio for all samples.

    train/loss and train/acc are those of the mixtures, the accuracy with respect to a sample's own label.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        alpha: parameter of the distribution Beta(alpha, alpha) of the mixing ratio.
        **options: as in `NoisyTraining`; `loss` must be the cross-entropy.
    """

    def __init__(self, network: nn.Module, alpha: float = 1.0, **options: Any) -> None:
        super().__init__(network, **options)
        check_mixable(self.loss, alpha)
        self.alpha = alpha

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Take a step on the mixtures of a batch."""
        n, num_classes = len(batch.y), self.network.head.weight.shape[0]
        partners = torch.randperm(n, device=batch.y.device)
        ratio = draw_ratios(self.alpha, 1, self.device).expand(n)
        x, y = mix_images_and_labels(batch.x, batch.y, partners, ratio, num_classes)
        logits = self.network(x)
        losses = cross_entropies(logits, y)
        self.update_network(losses.mean())
        return self.log_batch(batch, logits, losses, torch.full_like(losses, 1 / n, requires_grad=False))
