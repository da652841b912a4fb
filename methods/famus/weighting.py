"""How much each sample counts: networks from its loss to its weight, and the shares that follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightNet(nn.Module):
    """Loss -> weight in (0, 1): one hidden layer (Shu et al. 2019, Meta-Weight-Net)."""

    def __init__(self, hidden: int = 100) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())

    def forward(self, losses: Tensor) -> Tensor:
        """(n,) losses, taken without their graph -> (n,)."""
        return self.layers(losses.detach()[:, None]).squeeze(1)


def shares(weights: Tensor, normalise: bool) -> Tensor:
    """Factors of the samples in the training loss: v / sum(v), or v / n. (n,) -> (n,)."""
    if not normalise:
        return weights / len(weights)
    total = weights.sum()
    return weights / torch.where(total == 0, torch.ones_like(total), total)
