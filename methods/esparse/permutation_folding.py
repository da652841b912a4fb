"""Folding of permutations into a model, so that its matrices are N:M as they lie in memory.

The channels of an MLP's hidden layer are made by rows of other matrices: permuting those rows costs nothing. The
residual stream is shared by all blocks, and attention heads have their own order: there the input is gathered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.esparse.description import Block, InputSet, Model, is_transposed, matrix
from methods.esparse.probing import describe
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
    architecture = describe(model.config)
    blocks = getattr(model.get_submodule(architecture.trunk), architecture.blocks)
    for entry in report.sets:
        if entry.permutation is not None:
            (layers,) = (s for s in architecture.block_sets[entry.block] if s.name == entry.name)
            fold_set(blocks[entry.block], layers, entry.permutation, norm_first=is_norm_first(model.config))
    return model


def check_foldable(config: Any) -> None:
    """Check that the inputs of all matrices can be gathered.

    Args:
        config: transformers config.

    Raises:
        ValueError: if the model has a mixture of experts, whose inputs cannot be gathered one by one.
    """
    for sets in describe(config).kinds:
        for s in sets:
            if s.experts is not None and not s.producers:
                raise ValueError(
                    "method.fold_permutation cannot gather the inputs of single experts, and models of type "
                    f"{config.model_type} have a mixture of experts: set method.fold_permutation=false"
                )


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
    permutation = permutation.to(matrix(block, layers.linears[0]).device)
    for name in layers.linears:
        weight = matrix(block, name)
        weight.copy_(weight[:, permutation].clone())
    if layers.producers:
        for name in layers.producers:
            _permute_rows(block, name, permutation)
    elif layers.norm and norm_first:
        block.set_submodule(layers.norm, nn.Sequential(block.get_submodule(layers.norm), Gather(permutation)))
    else:
        for name in layers.linears:
            block.set_submodule(name, nn.Sequential(Gather(permutation), block.get_submodule(name)))


def _permute_rows(block: Block, name: str, permutation: Tensor) -> None:
    """Permute the rows of a linear layer and its bias; of one with twice as many rows (gate and up) each half."""
    layer: Any = block.get_submodule(name)
    layer = layer[-1] if isinstance(layer, nn.Sequential) else layer
    weight = layer.weight.T if is_transposed(layer) else layer.weight
    size = len(permutation)
    rows = torch.cat([permutation + start for start in range(0, weight.shape[0], size)])
    weight.copy_(weight[rows].clone())
    if layer.bias is not None:
        layer.bias.copy_(layer.bias[rows].clone())
