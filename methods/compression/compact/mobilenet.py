"""MobileNetV1 (Howard et al. 2017) and MobileNetV2 (Sandler et al. 2018) for CIFAR, with a width multiplier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn

from datasets.checks import check_positive
from methods.architectures.classifier import Classifier, ClassifierArgs, check_image_size, global_average

V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
V2_CHANNELS, V2_BLOCKS = (16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1)
V2_STRIDES = (1, 1, 2, 2, 1, 2, 1)


def conv_norm_relu(channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution without bias, BN and ReLU."""
    conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU()]


def depthwise_separable(channels: int, width: int, stride: int) -> list[nn.Module]:
    """Return a depthwise 3x3 convolution and a 1x1 convolution: 1/width + 1/9 of the cost of a 3x3 convolution."""
    return [*conv_norm_relu(channels, channels, 3, stride, channels), *conv_norm_relu(channels, width, 1)]


def multiplied(width: int, factor: float, divisor: int = 8) -> int:
    """Return a width times a factor, rounded to a multiple of `divisor`, at most 10 % less."""
    new = max(divisor, int(width * factor + divisor / 2) // divisor * divisor)
    return new + divisor if new < 0.9 * width * factor else new


class MobileNetV1(Classifier):
    """Conv3x3 of 32 and 13 depthwise-separable convolutions: 3,309,476 parameters at 100 classes.

    Args:
        width: multiplier of all widths.
        **dims: arguments of `Classifier`.
    """

    def __init__(self, *, width: float = 1.0, **dims: Unpack[ClassifierArgs]) -> None:
        super().__init__(**dims)
        check_positive("model", width=width)
        check_image_size("MobileNetV1", self.image_size, 4)
        channels = multiplied(32, width)
        layers = conv_norm_relu(self.in_channels, channels, 3)
        for channels_out, stride in V1:
            out = multiplied(channels_out, width)
            layers += depthwise_separable(channels, out, stride)
            channels = out
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels, self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return global_average(self.layers(x))


class InvertedBottleneck(nn.Module):
    """1x1 expansion (left out at factor 1), depthwise 3x3, linear 1x1; the input is added where shapes agree.

    Args:
        channels: channels of the input.
        width: channels of the output.
        expansion: factor of the channels between.
        stride: stride of the depthwise convolution.
    """

    def __init__(self, channels: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = channels * expansion
        layers = conv_norm_relu(channels, hidden, 1) if expansion > 1 else []
        layers += conv_norm_relu(hidden, hidden, 3, stride, hidden)
        layers += [nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block."""
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetV2Compact(Classifier):
    """MobileNetV2 with a width multiplier.

    At 10 classes and 32 pixels: 2,236,682 parameters and 87.98 M multiply-accumulates; at width 0.5 700,490 and
    27.97 M.

    Args:
        width: multiplier of all widths; the last convolution has at least 1280 channels.
        channels: output channels of each row of blocks.
        blocks: number of blocks of each row.
        strides: stride of the first block of each row.
        **dims: arguments of `Classifier`.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        channels: Sequence[int] = V2_CHANNELS,
        blocks: Sequence[int] = V2_BLOCKS,
        strides: Sequence[int] = V2_STRIDES,
        **dims: Unpack[ClassifierArgs],
    ) -> None:
        super().__init__(**dims)
        check_positive("model", width=width)
        check_image_size("MobileNetV2", self.image_size, 3)
        current = multiplied(32, width)
        layers = conv_norm_relu(self.in_channels, current, 3)
        for row, (c, n, s) in enumerate(zip(channels, blocks, strides, strict=True)):
            out = multiplied(c, width)
            for i in range(n):
                layers.append(InvertedBottleneck(current, out, 6 if row else 1, s if i == 0 else 1))
                current = out
        last = multiplied(1280, max(width, 1.0))
        self.layers = nn.Sequential(*layers, *conv_norm_relu(current, last, 1))
        self.head = nn.Linear(last, self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return global_average(self.layers(x))
