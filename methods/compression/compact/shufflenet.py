"""ShuffleNet (Zhang et al. 2018, arXiv 1707.01083) and ShuffleNetV2 (Ma et al. 2018, arXiv 1807.11164) for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from methods.architectures.classifier import Classifier, ClassifierArgs, check_image_size, global_average

V1_WIDTHS = {1: (144, 288, 576), 2: (200, 400, 800), 3: (240, 480, 960), 4: (272, 544, 1088), 8: (384, 768, 1536)}
V2_WIDTHS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
BLOCKS = (4, 8, 4)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Return the channels in the order that mixes groups: (g, C/g) transposed.

    Shapes: (B, C, H, W) -> (B, C, H, W).
    """
    b, c, h, w = x.shape
    return x.reshape(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; the input is added, or at stride 2 averaged and appended.

    Args:
        channels: channels of the input.
        width: channels of the output.
        groups: groups of the 1x1 convolutions.
        stride: stride of the depthwise convolution.
        first_groups: groups of the first 1x1 convolution.
    """

    def __init__(self, channels: int, width: int, groups: int, stride: int, first_groups: int) -> None:
        super().__init__()
        middle, out = width // 4, width - channels if stride == 2 else width
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, middle, 1, groups=first_groups, bias=False), nn.BatchNorm2d(middle), nn.ReLU()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False), nn.BatchNorm2d(middle)
        )
        self.expand = nn.Sequential(nn.Conv2d(middle, out, 1, groups=groups, bias=False), nn.BatchNorm2d(out))
        self.pool = nn.AvgPool2d(3, 2, 1) if stride == 2 else None
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the unit."""
        out = self.expand(self.depthwise(channel_shuffle(self.reduce(x), self.groups)))
        return torch.relu(x + out) if self.pool is None else torch.relu(torch.cat([self.pool(x), out], 1))


class ShuffleNetV1(Classifier):
    """Conv3x3 of 24 and three stages of 4, 8, 4 shuffle units.

    Args:
        groups: groups of the 1x1 convolutions, one of 1, 2, 3, 4, 8.
        **dims: arguments of `Classifier`.
    """

    def __init__(self, *, groups: int = 3, **dims: Unpack[ClassifierArgs]) -> None:
        super().__init__(**dims)
        if groups not in V1_WIDTHS:
            raise ValueError(f"model.groups={groups} is unknown; choose from {', '.join(map(str, V1_WIDTHS))}")
        check_image_size("ShuffleNet", self.image_size, 3)
        layers: list[nn.Module] = [nn.Conv2d(self.in_channels, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
        channels = 24
        for stage, (width, count) in enumerate(zip(V1_WIDTHS[groups], BLOCKS, strict=True)):
            for i in range(count):
                first = 1 if stage == 0 and i == 0 else groups
                layers.append(ShuffleUnit(channels, width, groups, 2 if i == 0 else 1, first))
                channels = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels, self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return global_average(self.layers(x))


def branch(channels: int, width: int, stride: int) -> nn.Sequential:
    """Return 1x1, depthwise 3x3 and 1x1 convolutions."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


class ShuffleUnitV2(nn.Module):
    """Half of the channels pass, the others run through a branch; at stride 2 both run through one. Then a shuffle.

    Args:
        channels: channels of the input.
        width: channels of the output.
        stride: stride.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        half = width // 2
        self.right = branch(channels if stride == 2 else half, half, stride)
        self.left: nn.Module | None = None
        if stride == 2:
            self.left = nn.Sequential(
                nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False),
                nn.BatchNorm2d(channels),
                nn.Conv2d(channels, half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the unit."""
        if self.left is not None:
            out = torch.cat([self.left(x), self.right(x)], 1)
        else:
            passing, working = x.chunk(2, 1)
            out = torch.cat([passing, self.right(working)], 1)
        return channel_shuffle(out, 2)


class ShuffleNetV2(Classifier):
    """Conv3x3 of 24, three stages of 4, 8, 4 units, conv1x1.

    Args:
        width: 0.5, 1.0, 1.5 or 2.0.
        blocks: number of units of each stage.
        **dims: arguments of `Classifier`.
    """

    def __init__(self, *, width: float = 1.0, blocks: Sequence[int] = BLOCKS, **dims: Unpack[ClassifierArgs]) -> None:
        super().__init__(**dims)
        if width not in V2_WIDTHS:
            raise ValueError(f"model.width={width} is unknown; choose from {', '.join(map(str, V2_WIDTHS))}")
        check_image_size("ShuffleNetV2", self.image_size, 3)
        *widths, last = V2_WIDTHS[width]
        layers: list[nn.Module] = [nn.Conv2d(self.in_channels, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
        channels = 24
        for out, count in zip(widths, blocks, strict=True):
            for i in range(count):
                layers.append(ShuffleUnitV2(channels, out, 2 if i == 0 else 1))
                channels = out
        layers += [nn.Conv2d(channels, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(last, self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return global_average(self.layers(x))
