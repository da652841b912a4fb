"""Two networks of one architecture that are trained side by side."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Pair(nn.Module):
    """Two networks of one architecture. Logits are the mean of both, so that only the mean is evaluated.

    The second one starts with the first one's values in another order within each tensor: as likely a draw, whatever
    the architecture draws its weights from.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        other = copy.deepcopy(network)
        with torch.no_grad():
            for p in other.parameters():
                p.copy_(p.flatten()[torch.randperm(p.numel(), device=p.device)].view_as(p))
        self.networks = nn.ModuleList([network, other])

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.networks
        return (first(x) + second(x)) / 2
