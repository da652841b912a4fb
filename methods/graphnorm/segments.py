"""Sums over neighbours and over graphs as sparse products, whose backward passes build no transposed matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _SymmetricProduct(torch.autograd.Function):
    """A h + w h for symmetric sparse A and a number w; the backward pass is A g + w g."""

    @staticmethod
    def forward(ctx: Any, adj: Tensor, h: Tensor, self_weight: float) -> Tensor:
        ctx.adj, ctx.self_weight = adj, self_weight
        return _product(adj, h, self_weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]
        return None, _product(ctx.adj, grad.contiguous(), ctx.self_weight), None


class _SegmentSum(torch.autograd.Function):
    """Sum over the nodes of each graph; the backward pass copies each graph's gradient to its nodes."""

    @staticmethod
    def forward(ctx: Any, pool: Tensor, batch: Tensor, h: Tensor) -> Tensor:
        ctx.batch = batch
        return _product(pool, h)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:  # type: ignore[override]
        return None, None, grad.index_select(0, ctx.batch)


class _GraphNorm(torch.autograd.Function):
    """GraphNorm with its closed-form gradient, in float32 or better."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        mean_scale: Tensor,
        weight: Tensor,
        bias: Tensor,
        pool: Tensor,
        batch: Tensor,
        inverse_sizes: Tensor,
        eps: float,
    ) -> Tensor:
        mean = _product(pool, h) * inverse_sizes
        shifted = (mean * mean_scale).index_select(0, batch)
        torch.sub(h, shifted, out=shifted)
        rstd = torch.rsqrt(_product(pool, shifted * shifted) * inverse_sizes + eps)
        scaled = shifted.mul_(rstd.index_select(0, batch))
        ctx.save_for_backward(mean_scale, weight, mean, rstd, scaled, batch, inverse_sizes)
        ctx.pool = pool
        return torch.addcmul(bias, scaled, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        mean_scale, weight, mean, rstd, scaled, batch, inverse_sizes = ctx.saved_tensors
        per_graph = _product(ctx.pool, grad * scaled)
        grad_weight, grad_bias = per_graph.sum(0), grad.sum(0)
        # d out / d shifted = weight * rstd * (g - scaled * mean_graph(g * scaled))
        grad_shifted = (per_graph * -inverse_sizes).index_select(0, batch)
        torch.addcmul(grad, scaled, grad_shifted, out=grad_shifted)
        grad_shifted.mul_((rstd * weight).index_select(0, batch))
        total = _product(ctx.pool, grad_shifted)
        grad_scale = -(mean * total).sum(0) if ctx.needs_input_grad[1] else None
        grad_h = grad_shifted.sub_((total * inverse_sizes * mean_scale).index_select(0, batch))
        return grad_h, grad_scale, grad_weight, grad_bias, None, None, None, None


def _product(sparse: Tensor, dense: Tensor, self_weight: float = 0.0) -> Tensor:
    with torch.autocast(dense.device.type, enabled=False):  # sums stay in float32 or better
        sparse = sparse if sparse.dtype == dense.dtype else sparse.to(dense.dtype)
        return torch.addmm(dense, sparse, dense, beta=self_weight) if self_weight else sparse @ dense


def _at_least_float32(h: Tensor) -> Tensor:
    return h if h.dtype == torch.float64 else h.float()


def neighbour_sum(adj: Tensor, h: Tensor, self_weight: float = 0.0) -> Tensor:
    """Return the sum over the neighbours of each node, in float32 or better.

    Args:
        adj: symmetric sparse adjacency matrix.
        h: node features.
        self_weight: weight of the node itself in its sum.

    Shapes:
        adj: (N, N).
        h: (N, d).
        return: (N, d).
    """
    return _SymmetricProduct.apply(adj, _at_least_float32(h), self_weight)


def segment_sum(pool: Tensor, batch: Tensor, h: Tensor) -> Tensor:
    """Return the sum over the nodes of each graph, in float32 or better.

    Args:
        pool: sparse matrix whose row g sums over the nodes of graph g.
        batch: graph of each node.
        h: node features.

    Shapes:
        pool: (B, N).
        batch: (N,).
        h: (N, d).
        return: (B, d).
    """
    return _SegmentSum.apply(pool, batch, _at_least_float32(h))


def graph_norm(
    h: Tensor, mean_scale: Tensor, weight: Tensor, bias: Tensor, pool: Tensor, batch: Tensor, sizes: Tensor, eps: float
) -> Tensor:
    """Apply GraphNorm (paper, section 4), in float32 or better.

    Per graph and channel: weight s / sqrt(mean(s^2) + eps) + bias with s = h - mean_scale mean(h).

    Args:
        h: node features.
        mean_scale: share of the mean that is subtracted, the paper's alpha.
        weight: factor of the normalised values, the paper's gamma.
        bias: summand of the normalised values, the paper's beta.
        pool: sparse matrix whose row g sums over the nodes of graph g.
        batch: graph of each node.
        sizes: number of nodes of each graph.
        eps: summand inside the root.

    Shapes:
        h: (N, d).
        mean_scale, weight, bias: (d,).
        pool: (B, N).
        batch: (N,).
        sizes: (B,).
        return: (N, d).
    """
    h = _at_least_float32(h)
    inverse_sizes = (1 / sizes.clamp(min=1).to(h.dtype)).unsqueeze(1)
    return _GraphNorm.apply(h, mean_scale, weight, bias, pool, batch, inverse_sizes, eps)
