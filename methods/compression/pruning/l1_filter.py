"""Pruning filters by their L1 norm (Li et al. 2017, arXiv 1608.08710), with the paper's configurations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_choice
from methods.compression.layers import weight_layers
from methods.compression.pruning.channels import Unit, find_units, keep_channels, strongest
from methods.compression.pruning.filter_pruning import FilterPruning
from methods.compression.stage import Context


@dataclass(frozen=True)
class Preset:
    """Configuration of the paper's table 1. Layers are numbered from 1, the first convolution of the network.

    Args:
        convolutions: number of 3x3 convolutions that the network must have.
        ratios: share of pruned filters in each of the three stages of a ResNet; one number for a VGG.
        skip: numbers of the layers that are not pruned.
        only: numbers of the layers that are pruned; empty: all.
    """

    convolutions: int
    ratios: tuple[float, ...]
    skip: tuple[int, ...] = ()
    only: tuple[int, ...] = ()

    def ratio(self, layer: int) -> float:
        """Return the share of pruned filters of a layer."""
        if layer in self.skip or (self.only and layer not in self.only):
            return 0.0
        if len(self.ratios) == 1:
            return self.ratios[0]
        stage_end = (self.convolutions - 1) // 3  # convolutions of a stage, the stem being number 1
        return self.ratios[min((layer - 2) // stage_end, 2)]


PRESETS = {
    "li2017/vgg16_a": Preset(13, (0.5,), only=(1, 8, 9, 10, 11, 12, 13)),
    "li2017/resnet56_a": Preset(55, (0.1, 0.1, 0.1), skip=(16, 20, 38, 54)),
    "li2017/resnet56_b": Preset(55, (0.6, 0.3, 0.1), skip=(16, 18, 20, 34, 38, 54)),
    "li2017/resnet110_a": Preset(109, (0.5, 0.0, 0.0), skip=(36,)),
    "li2017/resnet110_b": Preset(109, (0.5, 0.4, 0.3), skip=(36, 38, 74)),
}


def l1_scores(unit: Unit) -> Tensor:
    """Return the sum of absolute weights of each filter, (width,)."""
    return unit.producer.weight.detach().abs().flatten(1).sum(1)


class L1FilterPruning(FilterPruning):
    """Remove the filters of smallest L1 norm.

    Args:
        preset: configuration of the paper, one of `PRESETS`; it takes the place of the ratios.
        greedy: score a filter without the input channels that are gone already.
        sensitivity: also measure the accuracy with each layer pruned alone, at 10, 30, ..., 90 %, without training.
        **options: arguments of `FilterPruning`.
    """

    def __init__(
        self, preset: str | None = None, greedy: bool = False, sensitivity: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        if preset is not None:
            check_choice("preset", preset, tuple(PRESETS))
        self.preset, self.greedy, self.sensitivity = preset, greedy, sensitivity

    def check(self, network: nn.Module, data: Any) -> None:
        """Check that the preset is for this network."""
        if self.preset is not None:
            found = sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in weight_layers(network).values())
            if found != PRESETS[self.preset].convolutions:
                wanted = PRESETS[self.preset].convolutions
                raise ValueError(f"preset={self.preset} is for {wanted} 3x3 convolutions, the network has {found}")
        super().check(network, data)

    def counts(self, units: Sequence[Unit]) -> list[int]:
        """Return the number of channels that each unit keeps."""
        if self.preset is None:
            return super().counts(units)
        preset = PRESETS[self.preset]
        residual = len(preset.ratios) == 3
        numbers = [2 * i + 2 if residual else i + 1 for i in range(len(units))]
        kept = [int(round(u.width * (1 - preset.ratio(n)), 9)) for u, n in zip(units, numbers, strict=False)]
        return kept

    def scores(self, network: nn.Module, units: Sequence[Unit], context: Context | None) -> list[Tensor]:
        """Return the L1 norms."""
        return [l1_scores(unit) for unit in units]

    def remove(self, network: nn.Module, context: Context | None = None) -> None:
        """Remove the filters of smallest norm."""
        if not self.greedy:
            super().remove(network, context)  # type: ignore[arg-type]
            return
        units = find_units(network)
        for number, count in enumerate(self.counts(units)):
            scores = self.scores(network, units, context)  # later producers have lost inputs to earlier removals
            keep_channels(units[number], strongest(scores[number], count))

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Remove filters and train; scan the sensitivity before, if asked for."""
        if self.sensitivity:
            from methods.compression.figures import plot_sensitivity

            curves = sensitivity_scan(network, context.accuracy)
            context.drawings["sensitivity"] = lambda: plot_sensitivity(curves)
        return super().__call__(network, context)


def sensitivity_scan(
    network: nn.Module,
    accuracy: Callable[[nn.Module], float],
    ratios: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
) -> dict[str, dict[float, float]]:
    """Return the accuracy with one layer pruned at a time, without training: {layer: {ratio: accuracy}}.

    Args:
        network: network; it is not changed.
        accuracy: measures a network.
        ratios: shares of the filters that go.
    """
    import copy

    curves: dict[str, dict[float, float]] = {}
    for number, unit in enumerate(find_units(network)):
        curves[unit.name] = {}
        for ratio in ratios:
            pruned = copy.deepcopy(network)
            part = find_units(pruned)[number]
            count = max(int(part.width * (1 - ratio)), 1)
            with torch.no_grad():
                keep_channels(part, strongest(l1_scores(part), count))
            curves[unit.name][ratio] = accuracy(pruned)
    return curves
