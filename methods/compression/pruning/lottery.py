"""Lottery tickets by iterative magnitude pruning with rewinding (Frankle and Carbin 2019; Frankle et al. 2020)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_choice, check_not_negative, check_positive
from methods.compression.files import write_state
from methods.compression.layers import selected_layers, weight_layers
from methods.compression.pruning.masks import smallest
from methods.compression.pruning.weight_pruning import PRUNED, density_of, refuse_empty
from methods.compression.stage import Context, Stage
from methods.compression.training import Recipe, apply_masks


def next_masks(network: nn.Module, masks: dict[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """Return masks with ceil(fraction x left) more places pruned, those of the smallest weights of all layers.

    Args:
        network: trained network.
        masks: masks by the name of the weight.
        fraction: share of the weights that are left.
    """
    parameters = dict(network.named_parameters())
    scores = torch.cat(
        [torch.where(mask, parameters[name].detach().abs(), PRUNED).flatten() for name, mask in masks.items()]
    )
    left = sum(int(mask.sum()) for mask in masks.values())
    count = scores.numel() - left + math.ceil(fraction * left)
    parts = smallest(scores, count).split([mask.numel() for mask in masks.values()])
    return {name: part.reshape(masks[name].shape) for name, part in zip(masks, parts, strict=True)}


class LotteryTicket(Stage):
    """Train, prune a share of the remaining weights, go back to early weights, and repeat.

    The network starts from new initial weights; of the dense network only the architecture is used.

    Args:
        levels: number of prunings.
        fraction: share of the remaining weights that each pruning removes.
        rewind_epochs: epochs after which the weights are kept to go back to; 0: the initial weights.
        control: none; reinit (the last training starts from other initial weights); shuffle (the last masks are
            shuffled within each layer).
        ignore: layers that are not pruned, see `selected_layers`.
        recipe: training of each level.
    """

    first_only = True
    prunes = True

    def __init__(
        self,
        levels: int = 10,
        fraction: float = 0.2,
        rewind_epochs: int = 0,
        control: str = "none",
        ignore: Sequence[str] = (),
        recipe: Recipe | None = None,
    ) -> None:
        check_positive("stage", levels=levels)
        check_not_negative("stage", rewind_epochs=rewind_epochs)
        check_choice("control", control, ("none", "reinit", "shuffle"))
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must be in (0, 1), got {fraction}")
        self.levels, self.fraction, self.rewind_epochs, self.control = levels, fraction, rewind_epochs, control
        self.ignore, self.recipe = tuple(ignore), recipe or Recipe(160, 0.1, schedule="step")
        if self.rewind_epochs >= self.recipe.epochs:
            raise ValueError(f"rewind_epochs={rewind_epochs} must be below recipe.epochs={self.recipe.epochs}")

    def check(self, network: nn.Module, data: Any) -> None:
        """Check the names of the layers."""
        selected_layers(network, self.ignore)

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Find a ticket and train it."""
        network = context.fresh()
        names = [f"{name}.weight" for name in selected_layers(network, self.ignore)]
        masks = {name: torch.ones_like(network.get_parameter(name), dtype=torch.bool) for name in names}
        rewind = copy.deepcopy(network.state_dict())
        file = context.folder / "rewind.pt" if context.folder else None

        def keep(epoch: int) -> None:
            if epoch == self.rewind_epochs:
                rewind.update(copy.deepcopy(network.state_dict()))
                if file is not None:
                    write_state(file, rewind)

        context.train(network, self.recipe, before_epoch=keep, label=f"{context.label}, dense")
        if file is not None:
            rewind = torch.load(file, weights_only=True)  # a resumed training does not pass that epoch
        for level in range(1, self.levels + 1):
            masks = next_masks(network, masks, self.fraction)
            refuse_empty(masks, "fewer levels, or a smaller fraction")
            last = level == self.levels
            network.load_state_dict(rewind)
            if last and self.control == "reinit":
                network.load_state_dict(_other_init(context))
            if last and self.control == "shuffle":
                masks = shuffled(masks, context.seed)
            apply_masks(network, masks)
            context.train(network, self.recipe, label=f"{context.label}, level {level}/{self.levels}")
        context.numbers["density"] = density_of(network)
        return network


def shuffled(masks: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return masks whose places are shuffled within each layer."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=generator)].reshape(mask.shape)
        for name, mask in masks.items()
    }


def _other_init(context: Context) -> dict[str, Tensor]:
    network: Any = copy.deepcopy(context.dense)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed + 1000)
        network.reset_parameters()
    return network.state_dict()


__all__ = ["LotteryTicket", "next_masks", "shuffled", "weight_layers"]
