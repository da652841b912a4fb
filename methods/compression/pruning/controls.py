"""Controls of pruning: the pruned architecture trained from scratch, and a small dense network of equal size."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from datasets.checks import check_choice, check_positive
from methods.architectures.cifar_resnet import ZeroPadded
from methods.compression.layers import weight_layers
from methods.compression.macs import count_macs
from methods.compression.measure import file_bytes
from methods.compression.stage import Context, Stage
from methods.compression.training import Recipe, apply_masks, zero_masks


def reinitialize(network: Any, seed: int) -> None:
    """Draw new weights for a network in place; exact zeros stay."""
    masks = zero_masks(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not network and callable(reset):
                reset()
        if hasattr(network, "init_weights"):
            network.init_weights()
    apply_masks(network, masks)


class Scratch(Stage):
    """Train the architecture (and the zeros) of the network so far from new weights (Liu et al. 2019).

    Args:
        budget: epochs (scratch-E: as many epochs as the dense network) or compute (scratch-B: as many
            multiply-accumulates, so more epochs).
        recipe: training; its epochs are those of the dense network.
    """

    def __init__(self, budget: str = "epochs", recipe: Recipe | None = None) -> None:
        check_choice("budget", budget, ("epochs", "compute"))
        self.budget, self.recipe = budget, recipe or Recipe(160, 0.1, schedule="step")

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Train from scratch."""
        from dataclasses import replace

        recipe = self.recipe
        if self.budget == "compute":
            ratio = count_macs(context.dense, context.example) / count_macs(network, context.example)
            recipe = replace(recipe, epochs=round(recipe.epochs * ratio))
        context.numbers["scratch_epochs"] = recipe.epochs
        reinitialize(network, context.seed + 1)
        return context.train(network, recipe)


def times(width: int, ratio: Fraction) -> int:
    """Return a width times a ratio. Raises ValueError if that is no positive whole number."""
    new = width * ratio
    if new.denominator != 1 or new < 1:
        raise ValueError(f"a width of {width} cannot be multiplied by {ratio}")
    return int(new)


def scaled(network: nn.Module, ratio: Fraction) -> nn.Module:
    """Return a network with all widths multiplied by a ratio, and weights of 1; inputs and classes stay.

    Raises:
        ValueError: a width would be no whole number, or would be zero.
    """
    network = copy.deepcopy(network)
    layers: list[Any] = list(weight_layers(network).values())

    for module in network.modules():
        if isinstance(module, ZeroPadded):
            module.extra = times(module.extra, ratio)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.__init__(times(module.num_features, ratio))  # type: ignore[misc]
    for layer in layers:
        out, inner = layer.weight.shape[:2]
        out = out if layer is layers[-1] else times(out, ratio)
        groups = getattr(layer, "groups", 1)
        if groups > 1:
            layer.groups = groups = times(groups, ratio)
        elif layer is not layers[0]:
            inner = times(inner, ratio)
        layer.weight = nn.Parameter(layer.weight.new_ones(out, inner, *layer.weight.shape[2:]))
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.new_ones(out))
        set_widths(layer, out, inner * groups)
    return network


def set_widths(layer: Any, out: int, inner: int) -> None:
    """Set the numbers of outputs and inputs that a layer states."""
    if isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = out, inner
    else:
        layer.out_features, layer.in_features = out, inner


class SmallDense(Stage):
    """Train the widest smaller version of the dense network whose file is no larger than given, from scratch.

    Args:
        max_bytes: largest size of the file.
        recipe: training.
    """

    first_only = True

    def __init__(self, max_bytes: int = 30_000, recipe: Recipe | None = None) -> None:
        check_positive("stage", max_bytes=max_bytes)
        self.max_bytes, self.recipe = max_bytes, recipe or Recipe(160, 0.1, schedule="step")

    def widest(self, network: nn.Module, seed: int = 0) -> nn.Module:
        """Return the widest version that fits, with new weights. Raises ValueError if none fits."""
        first = len(next(iter(weight_layers(network).values())).weight)
        for width in range(first, 0, -1):
            try:
                small = scaled(network, Fraction(width, first))
            except ValueError:
                continue
            reinitialize(small, seed + 1)
            size = file_bytes(small)
            if size is not None and size <= self.max_bytes:
                return small
        raise ValueError(f"max_bytes={self.max_bytes}: even the narrowest version of the network is larger")

    def check(self, network: nn.Module, data: Any) -> None:
        """Check that a version fits, and that it runs: widths that depend on each other are not always scaled right."""
        small = self.widest(network)
        try:
            with torch.no_grad():
                small(data.train_images[:2].float() / 255)
        except RuntimeError as error:
            raise ValueError(f"the widths of {type(network).__name__} cannot be scaled: {error}") from error

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Train the small network."""
        return context.train(self.widest(network, context.seed), self.recipe)
