"""Per-sample losses for noisy or imbalanced classes, and the classifier that LDAM needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize, one_hot

from datasets.checks import check_not_negative, check_positive


def focal_losses(logits: Tensor, y: Tensor, gamma: float) -> Tensor:
    """Return (1 - p)^gamma times the cross-entropy, p being the probability of the label (Lin et al. 2017).

    Shapes: logits (n, K), y (n,) -> (n,).
    """
    losses = cross_entropy(logits, y, reduction="none")
    return (1 - (-losses).exp()) ** gamma * losses


def class_margins(counts: Tensor, max_margin: float) -> Tensor:
    """Return margins proportional to n^(-1/4) (Cao et al. 2019, equation 13).

    Args:
        counts: number of images of each class, (K,).
        max_margin: margin of the smallest class.

    Returns:
        Margins (K,), float32.
    """
    margins = counts.double() ** -0.25
    return (margins * (max_margin / margins.max())).float()


def margin_losses(logits: Tensor, y: Tensor, margins: Tensor) -> Tensor:
    """Return the cross-entropy with the label's logit lowered by its margin (LDAM).

    Shapes: logits (n, K), y (n,), margins (K,) -> (n,).
    """
    return cross_entropy(logits - one_hot(y, logits.shape[1]) * margins, y, reduction="none")


class CrossEntropy(nn.Module):
    """Cross-entropy of each sample. Base class of the other losses."""

    def set_class_counts(self, counts: Tensor) -> None:
        """Take the number of training images of each class, (K,), before training."""

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the losses: (n, K), (n,) -> (n,)."""
        return cross_entropy(logits, y, reduction="none")


class Focal(CrossEntropy):
    """Focal loss of each sample (Lin et al. 2017), in its softmax form.

    Args:
        gamma: exponent of 1 - p; 0 gives the cross-entropy.
    """

    def __init__(self, gamma: float = 1.0) -> None:
        super().__init__()
        check_not_negative("method.loss", gamma=gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the losses: (n, K), (n,) -> (n,)."""
        return focal_losses(logits, y, self.gamma)


class LDAM(CrossEntropy):
    """Label-distribution-aware margin loss (Cao et al. 2019), for logits that are scaled cosines (`CosineHead`).

    Args:
        max_margin: margin of the smallest class, as a cosine.
        scale: factor of the cosines in the logits, the same as in the head.
    """

    margins: Tensor

    def __init__(self, max_margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__()
        check_not_negative("method.loss", max_margin=max_margin)
        check_positive("method.loss", scale=scale)
        self.max_margin, self.scale = max_margin, scale

    def set_class_counts(self, counts: Tensor) -> None:
        """Compute the margins from the number of training images of each class, (K,).

        Raises:
            ValueError: a class has no images.
        """
        if not counts.all():
            raise ValueError(
                "method.loss sets margins by the number of training images of each class, and a class has none: "
                "raise dataset.limit_train, or lower dataset.imbalance"
            )
        self.register_buffer("margins", self.scale * class_margins(counts, self.max_margin), persistent=False)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the losses: (n, K), (n,) -> (n,)."""
        return margin_losses(logits, y, self.margins)


class CosineHead(nn.Module):
    """Classifier whose logits are scaled cosines of the features and each class's weights (LDAM).

    Weights start in random directions with length 1.

    Args:
        linear: linear classifier that it replaces, which gives the sizes.
        scale: factor of the cosines.
    """

    def __init__(self, linear: nn.Linear, scale: float = 30.0) -> None:
        super().__init__()
        check_positive("method.head", scale=scale)
        self.in_features, self.scale = linear.in_features, scale
        self.weight = nn.Parameter(normalize(torch.randn_like(linear.weight)))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits: (n, D) -> (n, K)."""
        return self.scale * linear(normalize(features), normalize(self.weight))
