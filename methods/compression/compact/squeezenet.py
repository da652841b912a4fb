"""SqueezeNet for CIFAR (Iandola et al. 2016, arXiv 1602.07360)."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from methods.architectures.classifier import Classifier, ClassifierArgs, check_image_size, global_average

POOL = None
FIRES = (
    (96, 128, 16),
    (128, 128, 16),
    (128, 256, 32),
    POOL,
    (256, 256, 32),
    (256, 384, 48),
    (384, 384, 48),
    (384, 512, 64),
    POOL,
    (512, 512, 64),
)


def conv_norm_relu(channels: int, width: int, kernel: int) -> nn.Sequential:
    """Return a convolution with bias, BN and ReLU."""
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


class Fire(nn.Module):
    """A 1x1 squeeze, then 1x1 and 3x3 expansions side by side.

    Args:
        channels: channels of the input.
        width: channels of the output.
        squeeze: channels between.
        residual: add the input.
    """

    def __init__(self, channels: int, width: int, squeeze: int, residual: bool) -> None:
        super().__init__()
        self.squeeze = conv_norm_relu(channels, squeeze, 1)
        self.expand1 = conv_norm_relu(squeeze, width // 2, 1)
        self.expand3 = conv_norm_relu(squeeze, width // 2, 3)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the module."""
        squeezed = self.squeeze(x)
        out = torch.cat([self.expand1(squeezed), self.expand3(squeezed)], 1)
        return out + x if self.residual else out


class SqueezeNet(Classifier):
    """Conv3x3 of 96, fire modules, classes by a 1x1 convolution and a mean: 781,156 parameters at 100 classes.

    The mean of a 1x1 convolution is the linear layer of the mean, which is how it is computed here. Modules of equal
    widths add their input, the last excepted.

    Args:
        **dims: arguments of `Classifier`.
    """

    def __init__(self, **dims: Unpack[ClassifierArgs]) -> None:
        super().__init__(**dims)
        check_image_size("SqueezeNet", self.image_size, 3)
        layers: list[nn.Module] = [conv_norm_relu(self.in_channels, 96, 3), nn.MaxPool2d(2)]
        for number, fire in enumerate(FIRES):
            if fire is POOL:
                layers.append(nn.MaxPool2d(2))
            else:
                channels, width, squeeze = fire
                layers.append(Fire(channels, width, squeeze, channels == width and number < len(FIRES) - 1))
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(512, self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return global_average(self.layers(x))
