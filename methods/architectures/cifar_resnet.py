"""The thin residual networks of He et al. for CIFAR: ResNet-20, 32, 56."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from datasets.checks import check_count
from methods.architectures.classifier import (
    Classifier,
    ClassifierArgs,
    check_image_size,
    conv3x3,
    global_average,
    init_he_fan_out,
)
from methods.architectures.resnet import BasicBlock, stages


class ZeroPadded(nn.Module):
    """Shortcut of option A: every `stride`-th pixel, with as many zero channels before as after.

    Args:
        extra: number of zero channels on each side.
        stride: distance of the pixels.

    Shapes: (B, C, H, W) -> (B, C + 2 extra, H / stride, W / stride), rounded up.
    """

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return the shortcut of a feature map."""
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))


class CifarResNet(Classifier):
    """Conv3x3-BN-ReLU, 3 stages of n blocks with 16, 32, 64 channels, global average, linear; depth = 6n + 2.

    He et al., arXiv 1512.03385, section 4.2, shortcuts of option A, so that only convolutions, BN and the head have
    parameters: at 3 channels and 10 classes 269,722 (depth 20), 464,154 (32), 853,018 (56). Convolutions start from
    He's normal distribution by fan-out.

    Args:
        depth: number of layers with weights, at least 8.
        width: channels of the first stage.
        **dims: arguments of `Classifier`.

    Raises:
        ValueError: for another depth, a width that is odd or not positive, or images under 4 pixels.
    """

    def __init__(self, *, depth: int = 20, width: int = 16, **dims: Unpack[ClassifierArgs]) -> None:
        super().__init__(**dims)
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"model.depth of a CIFAR ResNet is 6n + 2 (8, 14, 20, 26, 32, ...), got {depth}")
        check_count("model", width=width)
        if width % 2:
            raise ValueError(f"model.width must be even, as half the new channels are padded on each side; got {width}")
        check_image_size("CifarResNet", self.image_size, 2)
        self.conv = conv3x3(self.in_channels, width)
        self.bn = nn.BatchNorm2d(width)
        self.stages = stages(padded, width, [width, 2 * width, 4 * width], [depth // 6] * 3)
        self.head = nn.Linear(4 * width, self.num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the convolutions from He's normal distribution by fan-out."""
        init_he_fan_out(self)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return global_average(self.stages(relu(self.bn(self.conv(x)))))


def padded(in_channels: int, out_channels: int, stride: int) -> BasicBlock:
    """Return a `BasicBlock` whose shortcut has no parameters (He et al., option A)."""
    same = stride == 1 and in_channels == out_channels
    shortcut = nn.Identity() if same else ZeroPadded((out_channels - in_channels) // 2, stride)
    return BasicBlock(in_channels, out_channels, stride, shortcut)
