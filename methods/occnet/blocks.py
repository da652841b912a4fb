"""Layers of the networks. Points are rows, (B, T, F): a 1x1 convolution over T points is a linear layer on each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


class PointNorm(nn.BatchNorm1d):
    """Batch norm over all points of all shapes: (B, T, F) -> (B, T, F)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).view_as(x)


class ConditionalNorm(nn.Module):
    """gamma(c) * BN(x) + beta(c), a normalisation whose affine part is read off the code (paper, section 3.1,
    supplementary 1.1).

    BN has no parameters and takes its statistics over all points of all shapes. gamma and beta are linear in c, with
    weights that start at 0 and biases at 1 and 0: at first it is a plain BN. x: (B, T, features), c: (B, c_dim).
    """

    def __init__(self, c_dim: int, features: int) -> None:
        super().__init__()
        self.norm = PointNorm(features, affine=False)
        self.gamma = _constant(c_dim, features, 1.0)
        self.beta = _constant(c_dim, features, 0.0)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.gamma(c), self.beta(c)
        if self.training:
            x = self.norm(x)
        else:  # the known statistics go into scale and shift: one pass over the points instead of two
            scale = scale * torch.rsqrt(self.norm.running_var + self.norm.eps)
            shift = shift - scale * self.norm.running_mean
        return torch.addcmul(shift[:, None], scale[:, None], x)


class ResidualLinear(nn.Module):
    """x_s + L1(relu(L0(relu(x)))) on the last axis, in_dim -> out_dim; L1 starts at 0.

    x_s is x, or a linear map of it without bias where the sizes differ. The hidden size is the smaller of the two.
    """

    def __init__(self, in_dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        out_dim = in_dim if out_dim is None else out_dim
        hidden = min(in_dim, out_dim)
        self.first = nn.Linear(in_dim, hidden)
        self.second = zero_weight(nn.Linear(hidden, out_dim))
        self.shortcut = nn.Identity() if in_dim == out_dim else nn.Linear(in_dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.second(relu(self.first(relu(x))))


class ResidualNorm(nn.Module):
    """x + L1(relu(BN(L0(relu(BN(x)))))) with an ordinary, affine batch norm; L1 starts at 0. (B, T, F) -> same."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(PointNorm(features) for _ in range(2))
        self.first = nn.Linear(features, features)
        self.second = zero_weight(nn.Linear(features, features))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(relu(self.norms[0](x)))
        return x + self.second(relu(self.norms[1](h)))


class ResidualConditional(nn.Module):
    """x + L1(relu(CBN(L0(relu(CBN(x, c))), c))); L1 starts at 0. x: (B, T, features), c: (B, c_dim)."""

    def __init__(self, c_dim: int, features: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ConditionalNorm(c_dim, features) for _ in range(2))
        self.first = nn.Linear(features, features)
        self.second = zero_weight(nn.Linear(features, features))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.first(relu(self.norms[0](x, c)))
        return x + self.second(relu(self.norms[1](h, c)))


def zero_weight(linear: nn.Linear) -> nn.Linear:
    """The same layer, whose weight starts at 0 (its bias does not)."""
    nn.init.zeros_(linear.weight)
    return linear


def _constant(in_dim: int, out_dim: int, value: float) -> nn.Linear:
    linear = zero_weight(nn.Linear(in_dim, out_dim))
    nn.init.constant_(linear.bias, value)
    return linear
