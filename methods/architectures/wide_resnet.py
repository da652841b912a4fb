"""Wide residual networks: WRN-28-10, 34-10, 40-2."""

from __future__ import annotations

from functools import partial
from typing import Unpack

from torch import Tensor, nn
from torch.nn.functional import relu

from datasets.checks import check_count, check_fraction
from methods.architectures.classifier import (
    Classifier,
    ClassifierArgs,
    check_image_size,
    conv3x3,
    global_average,
    init_he_fan_out,
)
from methods.architectures.resnet import PreActBlock, stages


class WideResNet(Classifier):
    """Conv3x3, 3 stages of n `PreActBlock`s with 16k, 32k, 64k channels, BN-ReLU, global average, linear.

    WRN-d-k of Zagoruyko and Komodakis, arXiv 1605.07146, table 1; d = 6n + 4. At 3 channels and 10 classes 36,479,194
    parameters (WRN-28-10), 46,160,474 (34-10), 2,243,546 (40-2). Convolutions start from a normal distribution of
    variance 2 / (kernel size * C_out), the head's bias from 0. The block of TRADES' class that is never called is left
    out.

    Args:
        depth: d, at least 10.
        widen: k.
        dropout: share of the activations set to 0 between a block's convolutions.
        **dims: arguments of `Classifier`.

    Raises:
        ValueError: for another depth, a factor or a share out of range, or images under 4 pixels.
    """

    def __init__(
        self, *, depth: int = 28, widen: int = 10, dropout: float = 0.0, **dims: Unpack[ClassifierArgs]
    ) -> None:
        super().__init__(**dims)
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"model.depth of a wide ResNet is 6n + 4 (10, 16, 22, 28, 34, 40, ...), got {depth}")
        check_count("model", widen=widen)
        check_fraction("model", dropout=dropout)
        check_image_size("WideResNet", self.image_size, 2)
        widths = [16 * widen, 32 * widen, 64 * widen]
        self.conv = conv3x3(self.in_channels, 16)
        self.stages = stages(partial(PreActBlock, dropout=dropout), 16, widths, [depth // 6] * 3)
        self.bn = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], self.num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the convolutions from He's normal distribution by fan-out and set the head's bias to 0."""
        nn.init.zeros_(self.head.bias)
        init_he_fan_out(self)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return global_average(relu(self.bn(self.stages(self.conv(x)))))
