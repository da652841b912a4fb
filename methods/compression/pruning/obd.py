"""Optimal brain damage (LeCun et al. 1990): saliency by the diagonal of the curvature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.checks import check_positive
from methods.compression.layers import layer_of
from methods.compression.pruning.weight_pruning import WeightPruning
from methods.compression.stage import Context
from methods.compression.training import to_device


def fisher_diagonal(network: nn.Module, names: Sequence[str], batch: Any) -> dict[str, Tensor]:
    """Return the mean over images of the squared gradient of the loss, by layer.

    This is the diagonal of the empirical Fisher matrix, an estimate of the Gauss-Newton curvature.

    Args:
        network: network, in eval mode.
        names: names of the layers.
        batch: images and labels.
    """
    from torch.func import functional_call, grad, vmap

    weights = {f"{name}.weight": layer_of(network, name).weight.detach() for name in names}
    rest = {n: p.detach() for n, p in network.named_parameters() if n not in weights} | dict(network.named_buffers())

    def loss(own: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(network, own | rest, (x[None],)), y[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0), chunk_size=16)(weights, batch.x, batch.y)
    return {name: gradients[f"{name}.weight"].square().mean(0) for name in names}


class OptimalBrainDamage(WeightPruning):
    """Prune the weights of smallest saliency h w^2 / 2; arguments of `WeightPruning`.

    Args:
        images: number of training images that estimate the curvature h.
        **options: arguments of `WeightPruning`.
    """

    def __init__(self, images: int = 128, **options: Any) -> None:
        super().__init__(**options)
        check_positive("stage", images=images)
        self.images = images

    def scores(self, network: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        """Return the saliency of each weight."""
        network.eval()
        curvature = {name: torch.zeros_like(layer_of(network, name).weight) for name in names}
        seen = 0
        for batch in context.batches():
            part = type(batch)(*(t[: self.images - seen].to(context.device) for t in batch))
            for name, h in fisher_diagonal(network, names, to_device(part, context.device)).items():
                curvature[name] += h * len(part.y)
            seen += len(part.y)
            if seen >= self.images:
                break
        return {n: h / seen * layer_of(network, n).weight.detach().square() / 2 for n, h in curvature.items()}
