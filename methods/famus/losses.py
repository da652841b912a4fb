"""Losses of each sample, and class weights, for classes of unequal size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize, one_hot


def focal_losses(logits: Tensor, y: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma times the cross-entropy, p of the labelled class (Lin et al. 2017). (n, K), (n,) -> (n,)."""
    losses = cross_entropy(logits, y, reduction="none")
    return (1 - (-losses).exp()) ** gamma * losses


def class_margins(counts: Tensor, largest: float) -> Tensor:
    """Margins in proportion to n^(-1/4) (Cao et al. 2019, equation 13): (K,) images of each class -> (K,).

    largest: of the smallest class.
    """
    margins = counts.double() ** -0.25
    return (margins * (largest / margins.max())).float()


def margin_losses(logits: Tensor, y: Tensor, margins: Tensor) -> Tensor:
    """Cross-entropy with the labelled class's logit lowered by its margin (LDAM). (n, K), (n,), (K,) -> (n,)."""
    return cross_entropy(logits - one_hot(y, logits.shape[1]) * margins, y, reduction="none")


def balanced_weights(counts: Tensor, beta: float) -> Tensor:
    """(1 - beta) / (1 - beta^n), with mean 1 (Cui et al. 2019): (K,) images of each class -> (K,).

    beta = 0 gives all classes 1; towards 1 they tend to 1 / n.
    """
    weights = (1 - beta) / (1 - beta ** counts.double())
    return (weights / weights.mean()).float()


class CrossEntropy(nn.Module):
    """Cross-entropy of each sample: logits (n, K), classes (n,) -> (n,)."""

    def see(self, counts: Tensor) -> None:
        """counts: (K,) training images of each class, before training."""

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits, y, reduction="none")


class Focal(CrossEntropy):
    """`focal_losses`. gamma: 0 is the cross-entropy."""

    def __init__(self, gamma: float = 1.0) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"method.loss.gamma must not be negative, got {gamma}")
        self.gamma = gamma

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        return focal_losses(logits, y, self.gamma)


class LDAM(CrossEntropy):
    """`margin_losses` for a classifier that gives scaled cosines (`CosineHead`).

    margin: of the smallest class, as a cosine. scale: of the logits, that of the head.
    """

    margins: Tensor

    def __init__(self, margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__()
        self.margin, self.scale = margin, scale

    def see(self, counts: Tensor) -> None:
        """Raises ValueError where a class has no images."""
        if not counts.all():
            raise ValueError(
                "method.loss sets margins by the classes' numbers of training images, and one has none: "
                "raise dataset.limit_train, or lower dataset.imbalance"
            )
        self.register_buffer("margins", self.scale * class_margins(counts, self.margin), persistent=False)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        return margin_losses(logits, y, self.margins)


class CosineHead(nn.Module):
    """In place of a linear classifier: `scale` times the cosine of features (n, D) and each class's weights -> (n, K).

    linear: the one that is replaced, of whose size it is. Weights start in random directions, with length 1.
    """

    def __init__(self, linear: nn.Linear, scale: float = 30.0) -> None:
        super().__init__()
        self.in_features, self.scale = linear.in_features, scale
        self.weight = nn.Parameter(normalize(torch.randn_like(linear.weight)))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * linear(normalize(features), normalize(self.weight))
