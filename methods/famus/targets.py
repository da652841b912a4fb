"""Soft targets and losses of semi-supervised training (DivideMix, Li et al. 2020). n samples, K classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softmax

from methods.famus.meta import cross_entropies


def sharpened(p: Tensor, temperature: float) -> Tensor:
    """Distributions (n, K) to the power of 1 / temperature, normalised."""
    powers = p ** (1 / temperature)
    return powers / powers.sum(1, keepdim=True)


def refined(labels: Tensor, clean: Tensor, predicted: Tensor, temperature: float) -> Tensor:
    """Given labels as far as they are believed, else predictions: labels (n, K), clean (n,), predicted (n, K)."""
    return sharpened(clean[:, None] * labels + (1 - clean[:, None]) * predicted, temperature)


def mixed(values: Tensor, share: Tensor, partners: Tensor) -> Tensor:
    """MixUp: `share` of each of (n, ...), the rest of its partner. share: a number, or one for each, of as many axes as
    the values; partners: (n,) int64."""
    return share * values + (1 - share) * values[partners]


def draw_mix(n: int, alpha: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """One share for the whole batch, max(s, 1 - s) of s ~ Beta(alpha, alpha), and a partner for each of its n."""
    share = torch.distributions.Beta(alpha, alpha).sample().to(like)
    return torch.maximum(share, 1 - share), torch.randperm(n, device=like.device)


def prior_penalty(logits: Tensor) -> Tensor:
    """Divergence of the mean prediction of (n, K) from the uniform distribution: sum_c u log(u / mean_c), u = 1 / K."""
    k = logits.shape[1]
    return -(softmax(logits, 1).mean(0) * k).log().sum() / k


def ramp(epochs: float, length: float = 16.0) -> float:
    """From 0 to 1 in `length` epochs."""
    return min(max(epochs / length, 0.0), 1.0)


def semi_losses(logits: Tensor, refined: Tensor, guessed: Tensor, unlabelled: float) -> Tensor:
    """(2m, K) -> (2m + 1,): a term for each sample, and last the penalty, which counts once.

    The first m samples are labelled: 2 CE with `refined` (2m, K). The others: `unlabelled` times 2 the mean squared
    error with `guessed` (2m, K). So their mean is the mean over the labelled plus that over the unlabelled.
    """
    m = len(logits) // 2
    labelled = cross_entropies(logits[:m], refined[:m])
    errors = (softmax(logits[m:], 1) - guessed[m:]).square().mean(1)
    return torch.cat([2 * labelled, 2 * unlabelled * errors, prior_penalty(logits)[None]])
