"""MobileNetV2 for CIFAR."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn
from torch.nn.functional import relu

from methods.architectures.classifier import Classifier, ClassifierArgs, check_image_size, conv3x3, global_average

# expansion, output channels, blocks, stride of the first block: table 2 of the paper, with the second row at stride 1
ROWS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise 3x3, linear 1x1; BN after each, a shortcut at stride 1.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        expansion: channels of the depthwise convolution, relative to the input's.
        stride: stride of the depthwise convolution.

    Shapes: (B, C, H, W) -> (B, out_channels, H / stride, W / stride), rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module | None = None
        if stride == 1 and in_channels == out_channels:
            self.shortcut = nn.Identity()
        elif stride == 1:
            conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        h = relu(self.bn1(self.conv1(x)))
        h = relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(h))
        return h if self.shortcut is None else h + self.shortcut(x)


class MobileNetV2(Classifier):
    """Conv3x3 of 32 channels, 17 `InvertedResidual`s, conv1x1 of 1280 channels, global average, linear.

    Sandler et al., arXiv 1801.04381, table 2, in the form for CIFAR of kuangliu/pytorch-cifar: the first convolution
    and the second row of blocks at stride 1, ReLU for ReLU6, an expansion also where its factor is 1, and a 1x1
    convolution and BN as the shortcut where only the width changes. 2,296,922 parameters at 3 channels and 10 classes
    (2,237,770 without these shortcuts' own).

    Args:
        **dims: arguments of `Classifier`.

    Raises:
        ValueError: for images under 8 pixels.
    """

    def __init__(self, **dims: Unpack[ClassifierArgs]) -> None:
        super().__init__(**dims)
        check_image_size("MobileNetV2", self.image_size, 3)
        self.conv1, self.bn1 = conv3x3(self.in_channels, 32), nn.BatchNorm2d(32)
        self.blocks = nn.Sequential()
        channels = 32
        for expansion, width, count, first_stride in ROWS:
            for i in range(count):
                self.blocks.append(InvertedResidual(channels, width, expansion, first_stride if i == 0 else 1))
                channels = width
        self.conv2, self.bn2 = nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280)
        self.head = nn.Linear(1280, self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        x = self.blocks(relu(self.bn1(self.conv1(x))))
        return global_average(relu(self.bn2(self.conv2(x))))
