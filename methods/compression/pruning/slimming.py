"""Network slimming (Liu et al. 2017, arXiv 1708.06519): channels pruned by their batch-normalisation scale."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_fraction, check_not_negative, check_positive
from methods.compression.pruning.channels import Unit, find_units, keep_channels, strongest
from methods.compression.pruning.filter_pruning import FilterPruning
from methods.compression.stage import Context
from methods.compression.training import Recipe

log = logging.getLogger(__name__)


@torch.no_grad()
def add_subgradient(network: nn.Module, penalty: float) -> None:
    """Add penalty x sign(gamma), the subgradient of the L1 penalty, to the gradient of every scale gamma."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight.grad is not None:
            module.weight.grad.add_(module.weight.sign(), alpha=penalty)


def slimmed_channels(scales: Sequence[Tensor], ratio: float, min_channels: int = 1) -> list[Tensor]:
    """Return the channels that each layer keeps: those above the global threshold, and at least `min_channels`.

    Args:
        scales: |gamma| of each layer, (C,).
        ratio: share of all channels that go.
        min_channels: smallest number of channels of a layer.
    """
    flat = torch.cat(list(scales)).sort().values
    count = int(ratio * len(flat))
    threshold = flat[count - 1] if count else flat.new_tensor(-1.0)
    return [strongest(scale, max(int((scale > threshold).sum()), min(min_channels, len(scale)))) for scale in scales]


class NetworkSlimming(FilterPruning):
    """Train with an L1 penalty on the scales of batch normalisation, remove the channels of small scale, train again.

    The shift of a removed channel goes with it; batch normalisation is measured anew before the second training.

    Args:
        ratio: share of the channels that go, of all layers together.
        penalty: weight of the penalty.
        gamma_init: scale that the sparse training starts from; None: the dense network's.
        min_channels: smallest number of channels of a layer.
        sparse_recipe: training with the penalty.
        recipe: training after the removal.
        bn_recal_batches: batches that measure batch normalisation anew.
    """

    def __init__(
        self,
        ratio: float = 0.5,
        penalty: float = 1e-4,
        gamma_init: float | None = None,
        min_channels: int = 1,
        sparse_recipe: Recipe | None = None,
        recipe: Recipe | None = None,
        bn_recal_batches: int = 50,
    ) -> None:
        super().__init__(ratio, None, min_channels, None, recipe or Recipe(160, 0.1, schedule="step"), bn_recal_batches)
        check_fraction("stage", ratio=ratio)
        check_not_negative("stage", penalty=penalty)
        check_positive("stage", gamma_init=gamma_init)
        if ratio == 1:
            raise ValueError("ratio=1 would empty every layer")
        self.penalty, self.gamma_init = penalty, gamma_init
        self.sparse_recipe = sparse_recipe or Recipe(160, 0.1, schedule="step")

    def check(self, network: nn.Module, data: Any) -> None:
        """Check that every group of channels has a batch normalisation."""
        for unit in find_units(network):
            if not unit.norms:
                raise ValueError(f"{unit.name} has no batch normalisation, whose scale slimming prunes by")

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Train sparsely, remove channels, train."""
        if self.gamma_init is not None:
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.constant_(module.weight, self.gamma_init)
        if self.sparse_recipe.epochs:
            context.train(
                network,
                self.sparse_recipe,
                after_backward=lambda net: add_subgradient(net, self.penalty),
                label=f"{context.label}, sparse training",
            )
        units: list[Unit] = find_units(network)
        scales = [unit.norms[0].weight.detach().abs() for unit in units]
        context.numbers["small_scales"] = float((torch.cat(scales) < 0.01).float().mean())
        channels = slimmed_channels(scales, self.ratio, self.min_channels)
        if emptied := [unit.name for unit, kept in zip(units, channels, strict=True) if len(kept) <= self.min_channels]:
            log.warning(
                "%s: the global threshold leaves min_channels=%d in %s; a larger penalty or longer sparse training "
                "tells the scales of a layer apart",
                context.label,
                self.min_channels,
                ", ".join(emptied),
            )
        for unit, kept in zip(units, channels, strict=True):
            keep_channels(unit, kept)
        return self.finish(network, context)
