"""Distances between sets of generated and real images, as functions of their features. All in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Moments(NamedTuple):
    """Mean (D,) and unbiased covariance (D, D) of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(features: Tensor) -> Moments:
    """Return mean and covariance of features (N, D). The mean is taken in float32, as the official code does.

    Raises:
        ValueError: fewer than two rows, or values that are not finite.
    """
    if len(features) < 2:
        raise ValueError(f"mean and covariance need at least 2 feature vectors, got {len(features)}")
    values = features.detach().cpu().float().numpy()
    if not np.isfinite(values).all():
        raise ValueError(
            "features of images are not finite: the generator has diverged, or the feature weights are bad"
        )
    return Moments(values.mean(0).astype(np.float64), np.cov(values.astype(np.float64), rowvar=False))


def frechet_distance(one: Moments, other: Moments) -> float:
    """Return |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    With factors S = R R^T, the trace of the root is the nuclear norm of R1^T R2: the roots of tiny eigenvalues of a
    product, which would magnify rounding errors, are not needed.
    """
    product = covariance_factor(one).T @ covariance_factor(other)
    difference = one.mean - other.mean
    traces = np.trace(np.atleast_2d(one.covariance)) + np.trace(np.atleast_2d(other.covariance))
    return float(difference @ difference + traces - 2 * np.linalg.norm(product, "nuc"))


def covariance_factor(of: Moments) -> np.ndarray:
    """Return R (D, D) with covariance R R^T; eigenvalues within rounding errors of 0 are taken as 0."""
    values, vectors = np.linalg.eigh(np.atleast_2d(of.covariance))
    values[values < values[-1] * len(values) * np.finfo(values.dtype).eps] = 0
    return vectors * np.sqrt(values)


def inception_score(probabilities: Sequence[Tensor]) -> tuple[float, float]:
    """Return mean and standard deviation over the splits of exp(mean KL(p(y|x) || p(y))), in natural units.

    Args:
        probabilities: class probabilities (n, K) of each split; the official code takes each batch as a split.
    """
    scores = []
    for split in probabilities:
        p = split.double()
        marginal = p.mean(0, keepdim=True)
        kl = torch.special.xlogy(p, p).sum(1) - torch.special.xlogy(p, marginal).sum(1)
        scores.append(float(kl.mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """Return the kernel inception distance: the unbiased squared MMD with the kernel (x.y / D + 1)^3.

    Shapes:
        one (N, D), other (M, D), N and M at least 2.
    """
    x, y = one.double(), other.double()
    n, m, dim = len(x), len(y), x.shape[1]
    within_x, within_y, between = ((a @ b.T / dim + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    unbiased_x = (within_x.sum() - within_x.diagonal().sum()) / (n * (n - 1))
    unbiased_y = (within_y.sum() - within_y.diagonal().sum()) / (m * (m - 1))
    return float(unbiased_x + unbiased_y - 2 * between.mean())
