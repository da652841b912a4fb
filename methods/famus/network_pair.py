"""Two networks of one architecture that are trained side by side (Co-teaching, DivideMix)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class NetworkPair(nn.Module):
    """Two networks of one architecture, whose mean logits are the output.

    The second network starts with the values of the first, shuffled within each tensor. So it is as likely a draw,
    whatever distribution the architecture draws its weights from.

    Args:
        network: the first network; it is used as it is.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        other = copy.deepcopy(network)
        with torch.no_grad():
            for p in other.parameters():
                p.copy_(p.flatten()[torch.randperm(p.numel(), device=p.device)].view_as(p))
        self.networks = nn.ModuleList([network, other])

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits of both networks: (n, ...) -> (n, K)."""
        first, second = self.networks
        return (first(x) + second(x)) / 2
