"""Sums over neighbours and over graphs as sparse products, with backward passes that never build a transpose."""

from __future__ import annotations

import torch
from torch import Tensor


class _SymmetricProduct(torch.autograd.Function):
    """A h + own h for symmetric sparse A and a number own: the backward pass is A g + own g."""

    @staticmethod
    def forward(ctx, adj: Tensor, h: Tensor, own: float) -> Tensor:
        ctx.adj, ctx.own = adj, own
        return _product(adj, h, own)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, None]:
        return None, _product(ctx.adj, grad.contiguous(), ctx.own), None


class _SegmentSum(torch.autograd.Function):
    """Sum of consecutive rows per graph: the backward pass copies each graph's gradient to its nodes."""

    @staticmethod
    def forward(ctx, pool: Tensor, batch: Tensor, h: Tensor) -> Tensor:
        ctx.batch = batch
        return _product(pool, h)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, grad.index_select(0, ctx.batch)


class _GraphNorm(torch.autograd.Function):
    """GraphNorm with its closed-form gradient, in float32 or better."""

    @staticmethod
    def forward(ctx, h, mean_scale, weight, bias, pool, batch, inverse_sizes, eps):
        mean = _product(pool, h) * inverse_sizes
        shifted = (mean * mean_scale).index_select(0, batch)
        torch.sub(h, shifted, out=shifted)
        rstd = torch.rsqrt(_product(pool, shifted * shifted) * inverse_sizes + eps)
        scaled = shifted.mul_(rstd.index_select(0, batch))
        ctx.save_for_backward(mean_scale, weight, mean, rstd, scaled, batch, inverse_sizes)
        ctx.pool = pool
        return torch.addcmul(bias, scaled, weight)

    @staticmethod
    def backward(ctx, grad):
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


def _product(sparse: Tensor, dense: Tensor, own: float = 0.0) -> Tensor:
    with torch.autocast(dense.device.type, enabled=False):  # sums stay in float32 or better
        sparse = sparse if sparse.dtype == dense.dtype else sparse.to(dense.dtype)
        return torch.addmm(dense, sparse, dense, beta=own) if own else sparse @ dense


def _at_least_float32(h: Tensor) -> Tensor:
    return h if h.dtype == torch.float64 else h.float()


def neighbour_sum(adj: Tensor, h: Tensor, own: float = 0.0) -> Tensor:
    """Sum over each node's neighbours, and `own` times itself: symmetric sparse (N, N), (N, d) -> (N, d)."""
    return _SymmetricProduct.apply(adj, _at_least_float32(h), own)


def segment_sum(pool: Tensor, batch: Tensor, h: Tensor) -> Tensor:
    """Sum over each graph's nodes: sparse (B, N), (N,) graph of each node, (N, d) -> (B, d)."""
    return _SegmentSum.apply(pool, batch, _at_least_float32(h))


def graph_norm(
    h: Tensor, mean_scale: Tensor, weight: Tensor, bias: Tensor, pool: Tensor, batch: Tensor, sizes: Tensor, eps: float
) -> Tensor:
    """GraphNorm (paper, section 4), per graph and channel: weight * s / sqrt(mean(s^2) + eps) + bias with
    s = h - mean_scale * mean(h).

    h: (N, d); mean_scale, weight, bias: (d,); pool: sparse (B, N); batch: (N,); sizes: (B,). Returns (N, d).
    """
    h = _at_least_float32(h)
    inverse_sizes = (1 / sizes.clamp(min=1).to(h.dtype)).unsqueeze(1)
    return _GraphNorm.apply(h, mean_scale, weight, bias, pool, batch, inverse_sizes, eps)
