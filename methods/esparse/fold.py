"""Permutations made part of a model, so that its matrices are N:M as they lie in memory.

The channels of an MLP's hidden layer are made by rows of other matrices: permuting those rows costs nothing. The
residual stream is shared by all blocks, and attention heads have their own order: there the input is gathered.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.esparse.decoder import InputSet, architecture_of
from methods.esparse.engine import Report


class Gather(nn.Module):
    """Reorders channels: x (..., C) -> x[..., permutation]."""

    def __init__(self, permutation: Tensor) -> None:
        super().__init__()
        self.register_buffer("permutation", permutation)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(-1, self.permutation)


@torch.no_grad()
def fold(model: nn.Module, report: Report) -> nn.Module:
    """Puts the report's permutations into the model whose weights were pruned with them, in place, and returns it.

    Outputs stay what they were, up to the order of sums.
    """
    architecture = architecture_of(model.config)
    sets = {layers.name: layers for layers in architecture.sets}
    blocks = getattr(model.get_submodule(architecture.trunk), architecture.blocks)
    for entry in report.sets:
        if entry.permutation is not None:
            fold_set(blocks[entry.block], sets[entry.name], entry.permutation, before=norm_comes_first(model.config))
    return model


def norm_comes_first(config: object) -> bool:
    """Is a block's norm applied before its layers (all but the 350M OPT)?"""
    return getattr(config, "do_layer_norm_before", True)


def fold_set(block: nn.Module, layers: InputSet, permutation: Tensor, before: bool = True) -> None:
    """Permutes the columns of the layers, and what feeds them: rows of the producers, else a gather."""
    device = block.get_submodule(layers.linears[0]).weight.device
    permutation = permutation.to(device)
    for name in layers.linears:
        linear = block.get_submodule(name)
        linear.weight.copy_(linear.weight[:, permutation].clone())
    if layers.producers:
        for name in layers.producers:
            linear = block.get_submodule(name)
            linear = linear[-1] if isinstance(linear, nn.Sequential) else linear
            linear.weight.copy_(linear.weight[permutation].clone())
            if linear.bias is not None:
                linear.bias.copy_(linear.bias[permutation].clone())
    elif layers.norm and before:
        block.set_submodule(layers.norm, nn.Sequential(block.get_submodule(layers.norm), Gather(permutation)))
    else:
        for name in layers.linears:
            block.set_submodule(name, nn.Sequential(Gather(permutation), block.get_submodule(name)))
