"""Folding of permutations into a model, so that its matrices are N:M as they lie in memory.

The channels of an MLP's hidden layer are made by rows of other matrices: permuting those rows costs nothing. The
residual stream is shared by all blocks, and attention heads have their own order: there the input is gathered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.esparse.decoder import Block, InputSet, Model, find_architecture
from methods.esparse.pruning import Report


class Gather(nn.Module):
    """Reordering of channels: x (..., C) -> x[..., permutation].

    Args:
        permutation: (C,) channels in their new order.
    """

    permutation: Tensor

    def __init__(self, permutation: Tensor) -> None:
        super().__init__()
        self.register_buffer("permutation", permutation)

    def forward(self, x: Tensor) -> Tensor:
        """Reorder the channels of x (..., C)."""
        return x.index_select(-1, self.permutation)


@torch.no_grad()
def fold_permutations(model: Model, report: Report) -> Model:
    """Fold the permutations of a pruning run into its model, in place.

    Outputs stay the same, up to the order of sums.

    Args:
        model: pruned model.
        report: report of the pruning run.

    Returns:
        The model.
    """
    architecture = find_architecture(model.config)
    sets = {layers.name: layers for layers in architecture.sets}
    blocks = getattr(model.get_submodule(architecture.trunk), architecture.blocks)
    for entry in report.sets:
        if entry.permutation is not None:
            fold_set(blocks[entry.block], sets[entry.name], entry.permutation, norm_first=is_norm_first(model.config))
    return model


def is_norm_first(config: object) -> bool:
    """Return whether a block's norm is applied before its layers, as in all models but OPT-350M."""
    return getattr(config, "do_layer_norm_before", True)


def fold_set(block: Block, layers: InputSet, permutation: Tensor, norm_first: bool = True) -> None:
    """Permute the columns of the layers and what feeds them: rows of the producers, otherwise a gather.

    Args:
        block: block of the decoder, changed in place.
        layers: layers that share their input.
        permutation: (C,) order of the columns.
        norm_first: whether the norm is applied before the layers.
    """
    permutation = permutation.to(block.get_submodule(layers.linears[0]).weight.device)
    for name in layers.linears:
        linear = block.get_submodule(name)
        linear.weight.copy_(linear.weight[:, permutation].clone())
    if layers.producers:
        for name in layers.producers:
            _permute_rows(block.get_submodule(name), permutation)
    elif layers.norm and norm_first:
        block.set_submodule(layers.norm, nn.Sequential(block.get_submodule(layers.norm), Gather(permutation)))
    else:
        for name in layers.linears:
            block.set_submodule(name, nn.Sequential(Gather(permutation), block.get_submodule(name)))


def _permute_rows(linear: Any, permutation: Tensor) -> None:
    linear = linear[-1] if isinstance(linear, nn.Sequential) else linear
    linear.weight.copy_(linear.weight[permutation].clone())
    if linear.bias is not None:
        linear.bias.copy_(linear.bias[permutation].clone())
