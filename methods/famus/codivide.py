"""Which samples to believe: a mixture of two Gaussians over their losses, and the division by it (DivideMix)."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

SPREAD = 1e-8  # losses closer together than this say nothing


def clean_posterior(losses: Tensor) -> Tensor:
    """(N,) losses of the given labels -> (N,) float32: how probably each is of the component with the smaller mean.

    Losses are brought to [0, 1] first. Two components, 10 rounds of expectation maximisation, as published. Where all
    losses are alike, 0.5 for all.

    Raises FloatingPointError where a loss is not finite.
    """
    values = losses.double().cpu()
    if not values.isfinite().all():
        raise FloatingPointError("a network's losses are not finite: training has diverged; lower method.lr")
    low, high = values.min(), values.max()
    if high - low < SPREAD:
        return torch.full((len(values),), 0.5)
    scaled = ((values - low) / (high - low)).numpy()[:, None]
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(scaled)
    posterior = mixture.predict_proba(scaled)[:, np.argmin(mixture.means_[:, 0])]
    return torch.from_numpy(posterior).float()


def divide(posterior: Tensor, threshold: float, least: int, most: int) -> Tensor:
    """(N,) -> (N,) bool: those above the threshold; where they are fewer than `least` or more than `most`, the half
    with the highest posterior, rounded up."""
    chosen = posterior > threshold
    if least <= int(chosen.sum()) <= most:
        return chosen
    half = posterior.argsort(descending=True, stable=True)[: (len(posterior) + 1) // 2]
    return torch.zeros_like(chosen).index_fill(0, half, True)
