"""Layers of the networks. Points are rows (B, T, F): a 1x1 convolution over T points is a linear layer on each row."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


class PointNorm(nn.BatchNorm1d):
    """Batch norm over all points of all shapes.

    Shapes:
        (B, T, F) -> (B, T, F)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the features."""
        return super().forward(x.reshape(-1, x.shape[-1])).view_as(x)


class ConditionalBatchNorm(nn.Module):
    """Conditional batch norm: gamma(c) * BN(x) + beta(c) (paper, section 3.1; supplementary 1.1).

    BN has no parameters and takes its statistics over all points of all shapes. gamma and beta are linear in c; their
    weights start at 0 and their biases at 1 and 0, so that at first this is a plain batch norm.

    Args:
        c_dim: size of the code c.
        features: number of features F.

    Shapes:
        x (B, T, F), c (B, c_dim) -> (B, T, F)
    """

    def __init__(self, c_dim: int, features: int) -> None:
        super().__init__()
        self.bn = PointNorm(features, affine=False)
        self.gamma = _constant_linear(c_dim, features, 1.0)
        self.beta = _constant_linear(c_dim, features, 0.0)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Normalize the features under the code."""
        scale, shift = self.gamma(c), self.beta(c)
        if self.training:
            x = self.bn(x)
        else:  # fold the running statistics into scale and shift: one pass over the points instead of two
            assert self.bn.running_mean is not None
            assert self.bn.running_var is not None
            scale = scale * torch.rsqrt(self.bn.running_var + self.bn.eps)
            shift = shift - scale * self.bn.running_mean
        return torch.addcmul(shift[:, None], scale[:, None], x)


class ResnetBlockFC(nn.Module):
    """Fully connected ResNet block with pre-activation: shortcut(x) + fc_1(relu(fc_0(relu(x)))); fc_1 starts at 0.

    The shortcut is the identity, or a linear layer without bias if the sizes differ. The hidden size is the smaller of
    the two.

    Args:
        in_dim: features of the input.
        out_dim: features of the output; None: as many as of the input.

    Shapes:
        (..., in_dim) -> (..., out_dim)
    """

    def __init__(self, in_dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        out_dim = in_dim if out_dim is None else out_dim
        hidden = min(in_dim, out_dim)
        self.fc_0 = nn.Linear(in_dim, hidden)
        self.fc_1 = zero_weight(nn.Linear(hidden, out_dim))
        self.shortcut = nn.Identity() if in_dim == out_dim else nn.Linear(in_dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.shortcut(x) + self.fc_1(relu(self.fc_0(relu(x))))


class BatchNormResnetBlock(nn.Module):
    """ResNet block with affine batch norm: x + fc_1(relu(bn_1(fc_0(relu(bn_0(x)))))); fc_1 starts at 0.

    Args:
        features: number of features F.

    Shapes:
        (B, T, F) -> (B, T, F)
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(PointNorm(features) for _ in range(2))
        self.fc_0 = nn.Linear(features, features)
        self.fc_1 = zero_weight(nn.Linear(features, features))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        h = self.fc_0(relu(self.norms[0](x)))
        return x + self.fc_1(relu(self.norms[1](h)))


class ConditionalResnetBlock(nn.Module):
    """ResNet block with conditional batch norm: x + fc_1(relu(cbn_1(fc_0(relu(cbn_0(x, c))), c))); fc_1 starts at 0.

    Args:
        c_dim: size of the code c.
        features: number of features F.

    Shapes:
        x (B, T, F), c (B, c_dim) -> (B, T, F)
    """

    def __init__(self, c_dim: int, features: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ConditionalBatchNorm(c_dim, features) for _ in range(2))
        self.fc_0 = nn.Linear(features, features)
        self.fc_1 = zero_weight(nn.Linear(features, features))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Apply the block under the code."""
        h = self.fc_0(relu(self.norms[0](x, c)))
        return x + self.fc_1(relu(self.norms[1](h, c)))


def zero_weight(linear: nn.Linear) -> nn.Linear:
    """Set the weight of a layer, not its bias, to 0 and return the layer."""
    nn.init.zeros_(linear.weight)
    return linear


def _constant_linear(in_dim: int, out_dim: int, value: float) -> nn.Linear:
    linear = zero_weight(nn.Linear(in_dim, out_dim))
    nn.init.constant_(linear.bias, value)
    return linear
