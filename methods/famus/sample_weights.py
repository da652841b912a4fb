"""Scale sample weights to factors of the per-sample losses in the training loss."""

from __future__ import annotations

import torch
from torch import Tensor


def normalized_weights(weights: Tensor) -> Tensor:
    """Divide weights by their sum: (n,) -> (n,). Weights that are all 0 stay 0."""
    total = weights.sum()
    return weights / torch.where(total == 0, torch.ones_like(total), total)


def mean_weights(weights: Tensor) -> Tensor:
    """Divide weights by the number of samples: (n,) -> (n,)."""
    return weights / len(weights)
