"""Inner products of all pairs of fields, without gathering the vectors of each pair."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def pair_count(fields: int) -> int:
    """Return the number of pairs of different fields.

    Args:
        fields: number of fields n.
    """
    return fields * (fields - 1) // 2


def pair_indices(fields: int) -> Tensor:
    """Return the pairs of fields in row-major order of the upper triangle: (0, 1), (0, 2), ..., (1, 2), ...

    Args:
        fields: number of fields n.

    Returns:
        First and second field of each pair, (2, P) int64.
    """
    return torch.triu_indices(fields, fields, offset=1)


def flat_pair_indices(fields: int) -> Tensor:
    """Return the places of the pairs in a flattened n x n matrix, (P,) int64.

    Args:
        fields: number of fields n.
    """
    first, second = pair_indices(fields)
    return first * fields + second


class _PairProducts(torch.autograd.Function):
    """Inner products with a diagonal metric; the backward pass needs one batched product, not two."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, core: Tensor, flat: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, core, flat)
        ctx.autocast = torch.is_autocast_enabled(vectors.device.type)
        return _products(vectors, core, flat)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        vectors, core, flat = ctx.saved_tensors
        batch, fields, _ = vectors.shape
        full = gradient.new_zeros(batch, fields * fields)
        full[:, flat] = gradient
        full = full.view(batch, fields, fields)
        with torch.autocast(vectors.device.type, enabled=ctx.autocast):  # as in the forward pass, wherever this runs
            along = torch.bmm(full + full.transpose(1, 2), vectors)
        return along * core, (along * vectors).sum((0, 1)) / 2, None


def _products(vectors: Tensor, core: Tensor, flat: Tensor) -> Tensor:
    return torch.bmm(vectors * core, vectors.transpose(1, 2)).flatten(1).index_select(1, flat)


def pair_products(vectors: Tensor, flat: Tensor, core: Tensor | None = None) -> Tensor:
    """Compute sum_r core_r v_ir v_jr for all pairs (i, j) of fields.

    Equal to gathering v_i and v_j for each pair, which needs R times the memory: (B, n, n) here, (B, P, R) there.

    Args:
        vectors: vector of each field.
        flat: places of the pairs, of `flat_pair_indices`.
        core: weight of each component; None: all 1, the plain inner product.

    Shapes:
        vectors: (B, n, R); flat: (P,) int64; core: (R,).

    Returns:
        Products, (B, P).
    """
    if core is None:
        core = torch.ones((), dtype=vectors.dtype, device=vectors.device).expand(vectors.shape[-1])
    if torch.is_grad_enabled():
        return _PairProducts.apply(vectors, core, flat)
    return _products(vectors, core, flat)
