"""Operations of the DARTS search space (Liu et al. 2019, arXiv 1806.09055)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


class Zero(nn.Module):
    """Zeros at a stride.

    Args:
        stride: stride.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros."""
        return x[:, :, :: self.stride, :: self.stride] * 0.0


def relu_conv_norm(channels: int, width: int, kernel: int = 1, affine: bool = True) -> nn.Sequential:
    """Return ReLU, a convolution without bias, and batch normalisation."""
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(width, affine=affine))


class FactorizedReduce(nn.Module):
    """ReLU, two 1x1 convolutions of stride 2, one pixel apart, side by side, and batch normalisation.

    Args:
        channels: channels of the input.
        width: channels of the output.
        affine: give the normalisation scale and shift.
    """

    def __init__(self, channels: int, width: int, affine: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width // 2, 1, 2, bias=False)
        self.second = nn.Conv2d(channels, width - width // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(width, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reduced map; an odd side is padded at its end for the second convolution."""
        x = torch.relu(x)
        shifted = nn.functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.first(x), self.second(shifted)], 1))


def separable(channels: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    """Return ReLU, depthwise and 1x1 convolution, BN, twice; the first time at the stride."""
    layers: list[nn.Module] = []
    for s in (stride, 1):
        layers += [
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel, s, kernel // 2, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        ]
    return nn.Sequential(*layers)


def dilated(channels: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    """Return ReLU, a depthwise convolution of dilation 2, a 1x1 convolution, BN."""
    pad = kernel // 2 * 2
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, pad, dilation=2, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def make_operation(name: str, channels: int, stride: int, affine: bool, pool_norm: bool) -> nn.Module:
    """Return an operation of the space.

    Args:
        name: one of `OPERATIONS`.
        channels: channels of input and output.
        stride: 1 or 2.
        affine: give normalisations scale and shift.
        pool_norm: put a normalisation after a pool, as the search does.
    """
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)
    if name.startswith(("max_pool", "avg_pool")):
        pool = nn.MaxPool2d(3, stride, 1) if name[0] == "m" else nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False)) if pool_norm else pool
    kernel = int(name[-1])
    return (separable if name.startswith("sep") else dilated)(channels, kernel, stride, affine)
