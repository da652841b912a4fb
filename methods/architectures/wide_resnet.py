"""Wide residual networks: WRN-28-10, 34-10, 40-2."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu

from methods.architectures.classifier import Classifier, check_image_size, conv3x3, global_average
from methods.architectures.resnet import PreActBlock, stages


class WideResNet(Classifier):
    """Conv3x3, 3 stages of n `PreActBlock`s with 16k, 32k, 64k channels, BN-ReLU, global average, linear.

    WRN-d-k of Zagoruyko and Komodakis, arXiv 1605.07146, table 1; d = 6n + 4. At 3 channels and 10 classes 36,479,194
    parameters (WRN-28-10), 46,160,474 (34-10), 2,243,546 (40-2). Convolutions start from a normal distribution of
    variance 2 / (kernel size * C_out), the head's bias from 0.
    TRADES' class also has a block that it never calls; it is not here.

    Args:
        depth: d, 10 at least. widen: k. dropout: share of the activations set to 0 between a block's convolutions.
        The others: as in `Classifier`.
    Raises ValueError for another depth, or images under 4 pixels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        depth: int = 28,
        widen: int = 10,
        dropout: float = 0.0,
        normalize: bool = True,
    ) -> None:
        super().__init__(mean, std, normalize)
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"model.depth of a wide ResNet is 6n + 4 (10, 16, 22, 28, 34, 40, ...), got {depth}")
        check_image_size("WideResNet", image_size, 2)
        widths = [16 * widen, 32 * widen, 64 * widen]
        self.conv = conv3x3(in_channels, 16)
        self.stages = stages(partial(PreActBlock, dropout=dropout), 16, widths, [depth // 6] * 3)
        self.bn = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], num_classes)
        nn.init.zeros_(self.head.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def extract(self, x: Tensor) -> Tensor:
        return global_average(relu(self.bn(self.stages(self.conv(x)))))
