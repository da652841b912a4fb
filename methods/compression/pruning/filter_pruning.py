"""Pruning of whole filters in one shot, by surgery; subclasses score the filters."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_fraction, check_not_negative, check_positive
from methods.compression.pruning.channels import Unit, find_units, keep_channels, kept_count, strongest
from methods.compression.stage import FLOAT, Context, Stage
from methods.compression.training import Recipe


class FilterPruning(Stage):
    """Remove the filters of lowest score from each group of channels, then train the smaller network.

    Args:
        ratio: share of the filters that go, the same in all groups.
        ratios: other shares, by patterns of layer names such as "stages.0.*"; 0 keeps a group as it is.
        min_channels: smallest number of channels of a group.
        round_to: round the number of channels up to a multiple of this.
        recipe: training after it.
        bn_recal_batches: batches that measure batch normalisation anew, if nothing is trained.
    """

    accepts = (FLOAT,)

    def __init__(
        self,
        ratio: float = 0.5,
        ratios: dict[str, float] | None = None,
        min_channels: int = 1,
        round_to: int | None = None,
        recipe: Recipe | None = None,
        bn_recal_batches: int = 50,
    ) -> None:
        check_fraction("stage", ratio=ratio, **{f"ratios.{k}": v for k, v in (ratios or {}).items()})
        check_positive("stage", min_channels=min_channels, round_to=round_to)
        self.ratio, self.ratios = ratio, dict(ratios or {})
        self.min_channels, self.round_to = min_channels, round_to
        check_not_negative("stage", bn_recal_batches=bn_recal_batches)
        self.recipe, self.bn_recal_batches = recipe or Recipe(40, 0.001, schedule="constant"), bn_recal_batches

    def counts(self, units: Sequence[Unit]) -> list[int]:
        """Return the number of channels that each unit keeps. Raises ValueError if a unit would be empty."""
        counts = []
        for unit in units:
            fitting = [ratio for pattern, ratio in self.ratios.items() if fnmatch(unit.name, pattern)]
            ratio = fitting[-1] if fitting else self.ratio
            try:
                counts.append(
                    unit.width if ratio == 0 else kept_count(unit.width, ratio, self.min_channels, self.round_to)
                )
            except ValueError as error:
                raise ValueError(f"{unit.name}: {error}") from error
        return counts

    def check(self, network: nn.Module, data: Any) -> None:
        """Check that the network has such channels and that no layer would be empty."""
        self.counts(find_units(network))

    def scores(self, network: nn.Module, units: Sequence[Unit], context: Context) -> list[Tensor]:
        """Return the score of each filter, (width,) for each unit."""
        raise NotImplementedError(f"{type(self).__name__} does not define scores")

    def remove(self, network: nn.Module, context: Context) -> None:
        """Remove the filters of lowest score."""
        units = find_units(network)
        scores = self.scores(network, units, context)
        for unit, score, count in zip(units, scores, self.counts(units), strict=True):
            keep_channels(unit, strongest(score, count))

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Remove filters and train."""
        with torch.no_grad():
            self.remove(network, context)
        return self.finish(network, context)

    def finish(self, network: nn.Module, context: Context) -> nn.Module:
        """Train the smaller network, or measure batch normalisation anew."""
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        if self.bn_recal_batches:
            context.recalibrate(network, self.bn_recal_batches)
        if self.recipe is not None and self.recipe.epochs:
            context.train(network, self.recipe)
        return network
