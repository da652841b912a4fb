"""Base class of low-rank stages: replace layers by factors where that saves operations, then train."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from datasets.checks import check_not_negative
from methods.compression.layers import HEAD, STEM, replace_layer, selected_layers
from methods.compression.macs import count_macs
from methods.compression.stage import BUILT, Context, Stage
from methods.compression.training import Recipe

log = logging.getLogger(__name__)


class Decomposition(Stage):
    """Replace layers by a sequence of smaller ones.

    Args:
        ignore: layers that stay, see `selected_layers`.
        skip_if_slower: leave a layer whose factors would need as many multiply-accumulates or more.
        layerwise: train after each layer instead of once at the end.
        recipe: training.
        bn_recal_batches: batches that measure batch normalisation anew after the decomposition.
    """

    result = BUILT
    keeps_zeros = False
    kinds: tuple[type[nn.Module], ...] = (nn.Conv2d,)

    def __init__(
        self,
        ignore: Sequence[str] = (STEM, HEAD),
        skip_if_slower: bool = True,
        layerwise: bool = False,
        recipe: Recipe | None = None,
        bn_recal_batches: int = 50,
    ) -> None:
        check_not_negative("stage", bn_recal_batches=bn_recal_batches)
        self.ignore, self.skip_if_slower, self.layerwise = tuple(ignore), skip_if_slower, layerwise
        self.recipe, self.bn_recal_batches = recipe or Recipe(15, 0.001), bn_recal_batches

    def candidates(self, network: nn.Module) -> dict[str, Any]:
        """Return the layers that are decomposed, by name."""
        layers = selected_layers(network, self.ignore, self.kinds)
        return {name: layer for name, layer in layers.items() if self.fits(layer)}

    def fits(self, layer: Any) -> bool:
        """Return whether the decomposition is defined for a layer."""
        if isinstance(layer, nn.Conv2d):
            return layer.groups == 1 and layer.kernel_size != (1, 1) and layer.padding_mode == "zeros"
        return True

    def check(self, network: nn.Module, data: Any) -> None:
        """Check that there is such a layer and that the rank fits."""
        layers = self.candidates(network)
        if not layers:
            raise ValueError("the network has no layer of this kind to decompose")
        for name, layer in layers.items():
            try:
                self.check_layer(layer)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def check_layer(self, layer: Any) -> None:
        """Raise ValueError if the configured rank does not fit a layer."""

    def factors(self, layer: Any, context: Context) -> tuple[nn.Module, tuple[int, int]]:
        """Return the layers that replace one, its rank, and its full rank."""
        raise NotImplementedError(f"{type(self).__name__} does not define factors")

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Decompose and train."""
        from methods.compression.figures import plot_ranks

        ranks: dict[str, tuple[int, int]] = {}
        for name, layer in self.candidates(network).items():
            with torch.no_grad():
                new, rank = self.factors(layer, context)
                new = new.to(layer.weight.device)
            if self.skip_if_slower and not _saves(layer, new):
                log.info("%s: %s stays, rank %d of %d would save nothing", context.label, name, *rank)
                continue
            replace_layer(network, name, new)
            ranks[name] = rank
            if self.layerwise and self.recipe.epochs:
                context.train(network, self.recipe, label=f"{context.label}, {name}")
        if not ranks:
            raise ValueError("no layer would be cheaper at these ranks; choose smaller ones, or skip_if_slower=false")
        context.recalibrate(network, self.bn_recal_batches)
        if self.recipe.epochs and not self.layerwise:
            context.train(network, self.recipe)
        context.numbers["decomposed_layers"] = len(ranks)
        context.drawings["ranks"] = lambda: plot_ranks(ranks)
        return network


def _saves(layer: Any, new: nn.Module) -> bool:
    shape = (1, layer.in_channels, 32, 32) if isinstance(layer, nn.Conv2d) else (1, layer.in_features)
    x = torch.zeros(shape, device=layer.weight.device)
    return count_macs(new, x) < count_macs(layer, x)


def checked_rank(rank: int, full: int, what: str) -> int:
    """Return a rank. Raises ValueError if it is larger than the matrix allows."""
    if not 1 <= rank <= full:
        raise ValueError(f"{what}={rank} must be in 1..{full}, the rank of the matrix")
    return rank


def share_of(rank: int | float, full: int) -> int:
    """Return a rank given as a number, or as a share of the full one (a float in (0, 1))."""
    return max(1, round(rank * full)) if isinstance(rank, float) and 0 < rank < 1 else int(rank)
