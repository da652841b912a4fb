"""VGG networks of the compression papers: without biases, with their classifiers, and with CReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from methods.architectures.classifier import Classifier, ClassifierArgs, check_image_size
from methods.architectures.vgg import VGG16


class CompressionVGG(Classifier):
    """Conv3x3-BN-ReLU without biases in groups with a max pool after each, a mean or a flattening, linear layers.

    At 3 channels, 32 pixels and 10 classes: 14,724,042 parameters (VGG-16); 14,987,722 with `hidden=[512]`, the network
    of Li et al. 2017; 20,035,018 with the widths of VGG-19, that of network slimming; 14,022,016 weights with
    `flatten`, widths 128, 256, 512 twice each and `hidden=[1024, 1024]`, that of BinaryConnect.

    Args:
        widths: output channels of the convolutions, group by group.
        hidden: units of hidden linear layers, each with BN and ReLU.
        flatten: flatten the last map instead of taking its mean.
        crelu: halve the filters and concatenate ReLU(x) and ReLU(-x) (Shang et al. 2016, arXiv 1603.05201).
        **dims: arguments of `Classifier`.
    """

    def __init__(
        self,
        *,
        widths: Sequence[Sequence[int]] = VGG16,
        hidden: Sequence[int] = (),
        flatten: bool = False,
        crelu: bool = False,
        **dims: Unpack[ClassifierArgs],
    ) -> None:
        super().__init__(**dims)
        if not widths or not all(widths):
            raise ValueError("model.widths must be groups of at least one width each")
        check_image_size("VGG", self.image_size, len(widths), exact=True)
        layers: list[nn.Module] = []
        channels = self.in_channels
        for group in widths:
            for width in group:
                layers += conv_crelu(channels, width) if crelu else conv_relu(channels, width)
                channels = width
            layers.append(nn.MaxPool2d(2))
        side = self.image_size // 2 ** len(widths)
        layers += [nn.Flatten()] if flatten else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        units = channels * side**2 if flatten else channels
        for width in hidden:
            layers += [nn.Linear(units, width), nn.BatchNorm1d(width), nn.ReLU()]
            units = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(units, self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return self.layers(x)


def conv_relu(channels: int, width: int) -> list[nn.Module]:
    """Return a 3x3 convolution without bias, BN and ReLU."""
    return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


def conv_crelu(channels: int, width: int) -> list[nn.Module]:
    """Return a 3x3 convolution of half the width, BN, and CReLU, which doubles it."""
    if width % 2:
        raise ValueError(f"model.widths must be even for CReLU, got {width}")
    half = width // 2
    return [nn.Conv2d(channels, half, 3, padding=1, bias=False), nn.BatchNorm2d(half), CReLU(width)]


class CReLU(nn.Module):
    """ReLU of scale x concat(x, -x) + shift, with a learned scale and shift a channel.

    Args:
        channels: number of output channels, twice that of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation: (B, C, H, W) -> (B, 2 C, H, W)."""
        return torch.relu(self.scale * torch.cat([x, -x], 1) + self.shift)

    def reset_parameters(self) -> None:
        """Reset scale to 1 and shift to 0."""
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.shift)
