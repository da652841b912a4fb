"""Splitting of a class's recovered samples into proxies of triggers and of normal samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.attacks import mode_of


@torch.no_grad()
def last_activations(network: nn.Module, x: Tensor, batch_size: int = 500) -> Tensor:
    """Return the activations that samples are split by, in eval mode.

    These are the output of the last stage before the average for networks with `stages` (8,192 units of ResNet-18 on
    images of 32 pixels), else the input of the head (84 units of LeNet-5), as in the official code. Of stages that do
    not end in a ReLU (pre-activation blocks) they are the positive part.

    Shapes: (N, C, H, W) -> (N, D).
    """
    outputs: list[Tensor] = []
    stages = getattr(network, "stages", None)
    handle = None
    if stages is not None:
        handle = stages.register_forward_hook(lambda _, __, h: outputs.append(h.flatten(1).relu()))
    try:
        with mode_of(network, False):
            features = [network.features(part) for part in x.split(batch_size)]  # type: ignore[operator]
    finally:
        if handle is not None:
            handle.remove()
    return torch.cat(outputs if stages is not None else features)


def salient_units(h: Tensor, quantile: float = 0.95) -> Tensor:
    """Return which units are typical for a class: mean / standard deviation above the quantile.

    If all units are equal, none is above it; then all are taken.

    Shapes: (N, D) -> (D,) bool.
    """
    importance = h.mean(0) / (h.std(0) + 1e-6)
    salient = importance > torch.quantile(importance.float(), quantile)
    return salient if bool(salient.any()) else torch.ones_like(salient)


def split(h: Tensor, quantile: float = 0.95, fraction: float = 0.5) -> tuple[Tensor, Tensor]:
    """Split samples of one class by their mean activation of the salient units.

    Args:
        h: non-negative activations (N, D).
        quantile: quantile of the salient units.
        fraction: share of the samples that become proxies of triggers.

    Returns:
        Places of the samples with the weakest activations (proxies of triggers), and of the others (proxies of normal
        samples), each from weak to strong.
    """
    contribution = h[:, salient_units(h, quantile)].mean(1)
    order = contribution.argsort(stable=True)
    count = int(fraction * len(h))
    return order[:count], order[count:]
