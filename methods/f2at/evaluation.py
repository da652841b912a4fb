"""Accuracies of classifiers, weights of trained ones, and a check for masked gradients."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from methods.attacks import mode_of
from methods.checkpoints import weights_below

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def correct(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return 1 for each image that the network, in eval mode and float32, classifies right, else 0.

    Shapes: x (B, C, H, W), y (B,) -> (B,) float.
    """
    with mode_of(network, False), torch.autocast(x.device.type, enabled=False):
        return (network(x).argmax(1) == y).float()


def load_trained(checkpoint: Path, network: Network) -> Network:
    """Return a copy of the network with the weights of another run of adversarial training, in eval mode.

    Args:
        checkpoint: checkpoint of that run; its averaged weights are taken if it has some.
        network: network of the same architecture.
    """
    loaded = copy.deepcopy(network)
    loaded.load_state_dict(weights_below(checkpoint, "ema.network.", "network."))
    return loaded.eval()


def contradictions(accuracies: Mapping[str, float], slack: float = 0.01) -> list[str]:
    """Return pairs of attacks of which the stronger one leaves more accuracy, a hint at masked gradients.

    Args:
        accuracies: accuracy by metric, such as "pgd20_acc".
        slack: difference that may be chance, as a fraction.

    Returns:
        A line for each pair.
    """
    weaker_attacks = {
        "aa_acc": ("pgd20_acc", "pgd100_acc", "cw_acc", "fgsm_acc"),
        "pgd100_acc": ("pgd20_acc", "fgsm_acc"),
        "pgd20_acc": ("fgsm_acc", "acc"),
        "fgsm_acc": ("acc",),
    }
    return [
        f"{strong} {accuracies[strong]:.3f} > {weak} {accuracies[weak]:.3f}"
        for strong, weaker in weaker_attacks.items()
        for weak in weaker
        if strong in accuracies and weak in accuracies and accuracies[strong] > accuracies[weak] + slack
    ]
