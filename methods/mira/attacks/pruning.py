"""Pruning of the smallest weights."""

from __future__ import annotations

import torch
from torch import nn

from datasets.checks import check_fraction
from methods.mira.attack_data import SETTINGS, AttackData
from methods.mira.attacks.attack import RemovalAttack, prunable_layers
from methods.mira.fine_tuning_loop import Observer


@torch.no_grad()
def prune_globally(network: nn.Module, rate: float) -> None:
    """Set the smallest weights of all convolutions and linear layers together to zero, in place.

    Args:
        network: network to prune; batch norm, biases and running statistics stay.
        rate: share of the weights.
    """
    weights = [layer.weight for layer in prunable_layers(network)]
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights])
    count = round(rate * len(magnitudes))
    keep = torch.ones_like(magnitudes, dtype=torch.bool)
    keep[magnitudes.argsort(stable=True)[:count]] = False
    for weight, mask in zip(weights, keep.split([weight.numel() for weight in weights]), strict=True):
        weight.mul_(mask.view_as(weight))


class Pruning(RemovalAttack):
    """Global unstructured pruning by magnitude, without fine-tuning.

    Args:
        rate: share of the weights that are set to zero.

    Raises:
        ValueError: the rate is not in [0, 1].
    """

    settings = SETTINGS

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        check_fraction("method.attack", rate=rate)
        self.rate = rate

    def __call__(self, network: nn.Module, data: AttackData, observe: Observer) -> nn.Module:
        """Return the pruned model; see `RemovalAttack`."""
        prune_globally(network, self.rate)
        return network
