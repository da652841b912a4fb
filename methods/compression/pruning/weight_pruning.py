"""Pruning of single weights in rounds, each followed by training; subclasses score the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_choice, check_fraction, check_not_negative, check_positive
from methods.compression.layers import HEAD, STEM, selected_layers, weight_layers
from methods.compression.pruning.masks import SCHEDULES, global_masks, layer_masks, sparsity_after
from methods.compression.stage import Context, Stage
from methods.compression.training import Recipe

PRUNED = -1.0  # score of a weight that is pruned already, below all others


class WeightPruning(Stage):
    """Prune the weights of lowest score in rounds, and train after each. Pruned weights stay at zero.

    Args:
        sparsity: share of pruned weights among those of the layers that are not left out.
        scope: global (the smallest scores of all layers together) or layer (the same share of each layer).
        densities: kept share of each layer by name, in place of `sparsity` and `scope`; layers without one are kept.
        schedule: shares after the rounds, see `sparsity_after`.
        rounds: number of rounds.
        ignore: layers that are not pruned, see `selected_layers`.
        recipe: training after each round.
        bn_recal_batches: batches that measure batch normalisation anew after the last pruning, if nothing is trained.

    Raises:
        ValueError: a value is out of its range.
    """

    prunes = True

    def __init__(
        self,
        sparsity: float = 0.8,
        scope: str = "global",
        densities: Mapping[str, float] | None = None,
        schedule: str = "oneshot",
        rounds: int = 1,
        ignore: Sequence[str] = (STEM, HEAD),
        recipe: Recipe | None = None,
        bn_recal_batches: int = 50,
    ) -> None:
        check_fraction("stage", sparsity=sparsity)
        if sparsity == 1:
            raise ValueError("sparsity=1 would leave no weight")
        check_choice("scope", scope, ("global", "layer"))
        check_choice("schedule", schedule, SCHEDULES)
        check_positive("stage", rounds=rounds)
        self.sparsity, self.scope, self.schedule, self.rounds = sparsity, scope, schedule, rounds
        self.densities = dict(densities) if densities else None
        check_not_negative("stage", bn_recal_batches=bn_recal_batches)
        self.ignore, self.recipe, self.bn_recal_batches = tuple(ignore), recipe or Recipe(40, 0.001), bn_recal_batches

    def check(self, network: nn.Module, data: Any) -> None:
        """Check the names and shares of the layers."""
        layers = selected_layers(network, () if self.densities else self.ignore)
        for name, density in (self.densities or {}).items():
            if name not in layers:
                raise ValueError(f"densities: there is no layer {name}; layers: {', '.join(layers)}")
            if not 0 < density <= 1:
                raise ValueError(f"densities.{name} must be in (0, 1], got {density}; 0 would empty the layer")
        if self.scope == "layer" and not self.densities:
            for name, layer in layers.items():
                if int(self.sparsity * layer.weight.numel()) == layer.weight.numel():
                    raise ValueError(f"sparsity={self.sparsity} would empty the layer {name}")

    def scores(self, network: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        """Return the score of each weight, not negative, by layer."""
        raise NotImplementedError(f"{type(self).__name__} does not define scores")

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Prune and train."""
        for number in range(1, self.rounds + 1):
            self.prune(network, sparsity_after(self.schedule, self.sparsity, number, self.rounds), number, context)
            if self.recipe.epochs:
                context.train(network, self.recipe, label=f"{context.label}, round {number}/{self.rounds}")
            else:
                context.recalibrate(network, self.bn_recal_batches)
        context.numbers["density"] = density_of(network)
        return network

    @torch.no_grad()
    def prune(self, network: nn.Module, sparsity: float, number: int, context: Context) -> None:
        """Set the weights of lowest score to zero."""
        names = list(self.densities or selected_layers(network, self.ignore))
        with torch.enable_grad():
            raw = self.scores(network, names, context)
        layers = weight_layers(network)
        scores = {n: torch.where(layers[n].weight != 0, score, PRUNED) for n, score in raw.items()}
        if self.densities:
            share = {n: sparsity_after(self.schedule, 1 - d, number, self.rounds) for n, d in self.densities.items()}
            masks = layer_masks(scores, share)
        else:
            masks = (global_masks if self.scope == "global" else layer_masks)(scores, sparsity)
        refuse_empty(masks, "a smaller sparsity, or scope=layer")
        for name, mask in masks.items():
            layers[name].weight.mul_(mask)


def refuse_empty(masks: Mapping[str, Tensor], remedy: str) -> None:
    """Raise ValueError if a mask leaves no weight of its layer."""
    if empty := [name for name, mask in masks.items() if not mask.any()]:
        raise ValueError(f"the pruning would empty {', '.join(empty)}; choose {remedy}")


def density_of(network: nn.Module) -> float:
    """Return the share of weights of convolutions and linear layers that are not zero."""
    weights = [layer.weight for layer in weight_layers(network).values()]
    return sum(int(torch.count_nonzero(w)) for w in weights) / sum(w.numel() for w in weights)
