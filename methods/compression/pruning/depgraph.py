"""DepGraph (Fang et al. 2023, arXiv 2301.12900): structured pruning of any network, by Torch-Pruning."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from datasets.checks import check_choice, check_not_negative, check_positive
from methods.architectures.cifar_resnet import ZeroPadded
from methods.compression.macs import count_macs
from methods.compression.optional import import_optional
from methods.compression.stage import Context, Stage
from methods.compression.training import Recipe

log = logging.getLogger(__name__)


class DependencyGraphPruning(Stage):
    """Remove coupled groups of channels, ranked over the whole network, until the target is met; then train.

    Args:
        target_speedup: multiply-accumulates before by multiply-accumulates after, at least.
        steps: number of steps over which the channels go.
        max_ratio: largest share of the channels of a layer that go.
        importance: group_norm (the paper's), or random (a control).
        sparse_recipe: sparse learning of the group norms before; None: none.
        reg: weight of the sparse learning.
        round_to: round the number of channels to a multiple of this.
        recipe: training after it.
        bn_recal_batches: batches that measure batch normalisation anew, if nothing is trained.
    """

    def __init__(
        self,
        target_speedup: float = 2.11,
        steps: int = 400,
        max_ratio: float = 0.95,
        importance: str = "group_norm",
        sparse_recipe: Recipe | None = None,
        reg: float = 5e-4,
        round_to: int | None = None,
        recipe: Recipe | None = None,
        bn_recal_batches: int = 50,
    ) -> None:
        check_positive("stage", steps=steps, max_ratio=max_ratio, round_to=round_to)
        check_not_negative("stage", reg=reg)
        check_choice("importance", importance, ("group_norm", "random"))
        if target_speedup <= 1:
            raise ValueError(f"target_speedup must be above 1, got {target_speedup}")
        self.target_speedup, self.steps, self.max_ratio, self.reg = target_speedup, steps, max_ratio, reg
        self.importance, self.sparse_recipe, self.round_to = importance, sparse_recipe, round_to
        self.recipe = recipe or Recipe(100, 0.01, weight_decay=5e-4, schedule="step", milestones=(0.6, 0.8))
        check_not_negative("stage", bn_recal_batches=bn_recal_batches)
        self.bn_recal_batches = bn_recal_batches

    def check(self, network: nn.Module, data: Any) -> None:
        """Check the library and the network."""
        import_optional("torch_pruning", "torch-pruning", "prune_depgraph")
        if any(isinstance(module, ZeroPadded) for module in network.modules()):
            raise ValueError(
                "prune_depgraph cannot trace shortcuts of option A, which pad by a fixed number of channels: "
                "use a network of option B (model=resnet20_b), or prune_l1_filter"
            )

    def pruner(self, network: nn.Module, x: torch.Tensor) -> Any:
        """Return Torch-Pruning's pruner for the network."""
        tp = import_optional("torch_pruning", "torch-pruning", "prune_depgraph")
        importance = tp.importance.GroupMagnitudeImportance(p=2, normalizer="mean")
        if self.importance == "random":
            importance = tp.importance.RandomImportance()
        head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
        return tp.pruner.GroupNormPruner(
            network,
            x,
            importance=importance,
            global_pruning=True,
            pruning_ratio=self.max_ratio,
            max_pruning_ratio=self.max_ratio,
            iterative_steps=self.steps,
            reg=self.reg,
            ignored_layers=head,
            round_to=self.round_to,
        )

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Learn sparsely, prune, train."""
        x = context.example
        network.eval()
        for parameter in network.parameters():
            parameter.requires_grad_(True)  # the tracer follows gradients
        base = count_macs(network, x)
        pruner = self.pruner(network, x)
        if self.sparse_recipe is not None:
            pruner.update_regularizer()
            context.train(
                network,
                self.sparse_recipe,
                after_backward=lambda net: pruner.regularize(net),
                label=f"{context.label}, sparse learning",
            )
            pruner = self.pruner(network.eval(), x)
        for _ in range(self.steps):
            pruner.step()
            if base / count_macs(network, x) >= self.target_speedup:
                break
        reached = base / count_macs(network, x)
        if reached < self.target_speedup:
            raise ValueError(f"max_ratio={self.max_ratio} allows {reached:.2f}x, target_speedup={self.target_speedup}")
        context.numbers["mac_ratio"] = reached
        if self.recipe.epochs:
            context.train(network, self.recipe)
        else:
            context.recalibrate(network, self.bn_recal_batches)
        return network
