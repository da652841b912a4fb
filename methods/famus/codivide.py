"""Co-divide of DivideMix: a mixture of two Gaussians over the losses tells which labels to trust."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

MIN_RANGE = 1e-8  # losses that differ less than this carry no information


def normalized_losses(losses: Tensor) -> Tensor:
    """Scale per-sample losses to [0, 1]: (N,) -> (N,) float64, on the CPU. Equal losses become 0.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    values = losses.double().cpu()
    if not values.isfinite().all():
        raise FloatingPointError("a network's losses are not finite: training has diverged; lower method.lr")
    low, high = values.min(), values.max()
    if high - low < MIN_RANGE:
        return torch.zeros_like(values)
    return (values - low) / (high - low)


def clean_posterior(losses: Tensor) -> Tensor:
    """Return the posterior of the component with the smaller mean.

    Two components and 10 iterations of expectation maximization, as published. If all losses are equal, the posterior
    is 0.5.

    Args:
        losses: `normalized_losses` (N,) of the given labels, or their mean over some epochs.

    Returns:
        Probability (N,) that a label is clean, float32.
    """
    if losses.max() - losses.min() < MIN_RANGE:
        return torch.full((len(losses),), 0.5)
    scaled = losses.numpy()[:, None]
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(scaled)
    posterior = mixture.predict_proba(scaled)[:, np.argmin(mixture.means_[:, 0])]
    return torch.from_numpy(posterior).float()


def divide(posterior: Tensor, threshold: float, least: int, most: int) -> Tensor:
    """Select the samples whose posterior is above a threshold, or the better half if they are too few or too many.

    Args:
        posterior: probability (N,) that a label is clean.
        threshold: lower bound of the selected ones.
        least: smallest number of samples that the threshold may select.
        most: largest number of samples that the threshold may select.

    Returns:
        Mask (N,); the half is rounded up.
    """
    selected = posterior > threshold
    if least <= int(selected.sum()) <= most:
        return selected
    half = posterior.argsort(descending=True, stable=True)[: (len(posterior) + 1) // 2]
    return torch.zeros_like(selected).index_fill(0, half, True)
