"""N:M sparsity: at most N weights that are not zero in each group of M along the inputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datasets.checks import check_not_negative
from methods.compression.layers import HEAD, STEM, selected_layers
from methods.compression.pruning.weight_pruning import density_of
from methods.compression.stage import Context, Stage
from methods.compression.training import Recipe


def parse_pattern(pattern: str) -> tuple[int, int]:
    """Return (N, M) of a pattern such as "2:4". Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+):(\d+)", pattern)
    if not match or not 0 < int(match[1]) < int(match[2]):
        raise ValueError(f'pattern must be "N:M" with 0 < N < M, such as "2:4", got {pattern!r}')
    return int(match[1]), int(match[2])


def nm_mask(scores: Tensor, n: int, m: int) -> Tensor:
    """Return a mask that keeps the n largest scores of each group of m neighbours in the last dimension.

    Args:
        scores: (R, C), C a multiple of m.
        n: number of kept places of a group.
        m: size of a group.

    Returns:
        (R, C) bool.
    """
    groups = scores.reshape(len(scores), -1, m)
    kept = groups.topk(n, dim=-1).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, kept, True).reshape(scores.shape)


def as_rows(weight: Tensor) -> Tensor:
    """Return a weight as rows of inputs: (O, I) or, of a convolution, (O, kh kw I), channels last."""
    return weight if weight.dim() == 2 else weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def from_rows(rows: Tensor, weight: Tensor) -> Tensor:
    """Return rows in the shape of a weight: the inverse of `as_rows`."""
    if weight.dim() == 2:
        return rows
    o, i, kh, kw = weight.shape
    return rows.reshape(o, kh, kw, i).permute(0, 3, 1, 2)


class SemiStructuredPruning(Stage):
    """Keep the n largest of each m neighbouring weights, along input channels, then train.

    Layers whose input channels are no multiple of m are left as they are.

    Args:
        pattern: N:M, such as "2:4".
        ignore: layers that are not pruned, see `selected_layers`.
        recipe: training after it.
        bn_recal_batches: batches that measure batch normalisation anew, if nothing is trained.
    """

    prunes = True

    def __init__(
        self,
        pattern: str = "2:4",
        ignore: Sequence[str] = (STEM, HEAD),
        recipe: Recipe | None = None,
        bn_recal_batches: int = 50,
    ) -> None:
        self.n, self.m = parse_pattern(pattern)
        check_not_negative("stage", bn_recal_batches=bn_recal_batches)
        self.ignore, self.recipe, self.bn_recal_batches = tuple(ignore), recipe or Recipe(40, 0.001), bn_recal_batches

    def check(self, network: nn.Module, data: Any) -> None:
        """Check that some layer has groups of m input channels."""
        layers = selected_layers(network, self.ignore)
        if all(layer.weight.shape[1] % self.m for layer in layers.values()):
            raise ValueError(f"no layer has a multiple of {self.m} input channels: {', '.join(layers)}")

    @torch.no_grad()
    def prune(self, network: nn.Module) -> None:
        """Set the smallest weights of each group to zero."""
        for layer in selected_layers(network, self.ignore).values():
            if layer.weight.shape[1] % self.m == 0:
                mask = nm_mask(as_rows(layer.weight).abs(), self.n, self.m)
                layer.weight.mul_(from_rows(mask, layer.weight))

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Prune and train."""
        self.prune(network)
        if self.recipe.epochs:
            context.train(network, self.recipe)
        else:
            context.recalibrate(network, self.bn_recal_batches)
        context.numbers["density"] = density_of(network)
        return network
