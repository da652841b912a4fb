"""Exponential moving average of weights (SEAT, Wang & Wang, ICLR 2022)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ExponentialMovingAverage(nn.Module):
    """Exponential moving average of a network's weights and buffers.

    The decay of step t, counted from 0, is min(decay, (t + 1) / (t + 10)), as in SEAT's published code. The module
    holds the averaged copy in `network`; buffers of whole numbers are copied.

    Args:
        network: network to average; it is copied.
        decay: decay of late steps.

    Raises:
        ValueError: if the decay is not in [0, 1).
    """

    steps: Tensor

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"method.ema_decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network after a step of the optimizer."""
        t = int(self.steps)
        decay = min(self.decay, (t + 1) / (t + 10))
        state = network.state_dict()
        averaged, current = [], []
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                averaged.append(value)
                current.append(state[name])
            else:
                value.copy_(state[name])
        torch._foreach_lerp_(averaged, current, 1 - decay)
        self.steps += 1
