"""Soft targets and losses of DivideMix (Li et al. 2020, arXiv 2002.07394). n: samples, m = n / 2, K: classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softmax

from methods.famus.meta_gradient import cross_entropies


def sharpen(p: Tensor, temperature: float) -> Tensor:
    """Raise distributions (n, K) to the power of 1 / temperature, and normalize them."""
    powers = p ** (1 / temperature)
    return powers / powers.sum(1, keepdim=True)


def refined_labels(labels: Tensor, clean: Tensor, predicted: Tensor, temperature: float) -> Tensor:
    """Combine given labels and predictions by the probability that a label is clean, and sharpen (equation 3).

    Args:
        labels: one-hot labels (n, K).
        clean: probability (n,) that a label is clean.
        predicted: predicted distributions (n, K).
        temperature: temperature of sharpening.

    Returns:
        Distributions (n, K).
    """
    return sharpen(clean[:, None] * labels + (1 - clean[:, None]) * predicted, temperature)


def draw_mixup(n: int, alpha: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the MixUp of a batch: one ratio max(r, 1 - r), r ~ Beta(alpha, alpha), and a permutation.

    Args:
        n: number of samples.
        alpha: parameter of the Beta distribution.
        like: tensor whose device and dtype the ratio takes.

    Returns:
        The ratio, a scalar, and the partners (n,).
    """
    ratio = torch.distributions.Beta(alpha, alpha).sample().to(like)
    return torch.maximum(ratio, 1 - ratio), torch.randperm(n, device=like.device)


def prior_penalty(logits: Tensor) -> Tensor:
    """Return the divergence of the mean prediction from the uniform distribution: sum_c u log(u / mean_c), u = 1 / K.

    Shapes: (n, K) -> scalar.
    """
    k = logits.shape[1]
    return -(softmax(logits, 1).mean(0) * k).log().sum() / k


def negative_entropy(logits: Tensor) -> Tensor:
    """Return the mean of sum_c p_c log p_c over the predictions p, in nats: from -log K (uniform) to 0 (certain).

    Shapes: (n, K) -> scalar.
    """
    logs = torch.log_softmax(logits, 1)
    return (logs.exp() * logs).sum(1).mean()


def linear_rampup(epochs: float, length: float = 16.0) -> float:
    """Return a factor that rises from 0 to 1 in `length` epochs."""
    return min(max(epochs / length, 0.0), 1.0)


def semi_supervised_losses(logits: Tensor, refined: Tensor, guessed: Tensor, unlabeled_weight: float) -> Tensor:
    """Return the terms of the DivideMix loss (equations 9 to 12), so that their mean over n plus the last is the loss.

    Args:
        logits: logits (n, K); the first m samples are labeled.
        refined: refined labels (n, K).
        guessed: guessed labels (n, K).
        unlabeled_weight: weight of the unlabeled loss (lambda_u).

    Returns:
        (n + 1,): for labeled samples 2 times the cross-entropy with `refined`; for unlabeled ones `unlabeled_weight`
        times 2 times the mean squared error with `guessed`; last the prior penalty, which counts once.
    """
    m = len(logits) // 2
    labeled = cross_entropies(logits[:m], refined[:m])
    errors = (softmax(logits[m:], 1) - guessed[m:]).square().mean(1)
    return torch.cat([2 * labeled, 2 * unlabeled_weight * errors, prior_penalty(logits)[None]])
