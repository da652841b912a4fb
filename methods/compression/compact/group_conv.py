"""Group-equivariant convolutions over rotations (p4) and mirror images too (p4m) (Cohen and Welling 2016)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from datasets.checks import check_widths
from methods.architectures.classifier import Classifier, ClassifierArgs, check_image_size
from methods.compression.layers import OwnLayer

Element = tuple[int, int]  # mirrored first (0 or 1), then rotated by quarter turns


def elements(group: str) -> list[Element]:
    """Return the elements of a group. Raises ValueError for an unknown one."""
    if group not in ("p4", "p4m"):
        raise ValueError(f"model.group={group} is unknown; choose from p4, p4m")
    return [(m, r) for m in range(2 if group == "p4m" else 1) for r in range(4)]


def act(x: Tensor, element: Element) -> Tensor:
    """Return images (..., k, k) mirrored and rotated."""
    mirrored, turns = element
    return torch.rot90(x.flip(-1) if mirrored else x, turns, (-2, -1))


def compose(a: Element, b: Element) -> Element:
    """Return the element that acts as b, then a."""
    return (a[0] + b[0]) % 2, (a[1] + (-1) ** a[0] * b[1]) % 4


def inverse(a: Element) -> Element:
    """Return the inverse element."""
    return a[0], (-((-1) ** a[0]) * a[1]) % 4


def relative_order(group: str) -> list[list[int]]:
    """Return for each element g the places of g^-1 h for all h."""
    all_elements = elements(group)
    return [[all_elements.index(compose(inverse(g), h)) for h in all_elements] for g in all_elements]


class LiftingConv2d(OwnLayer):
    """Convolution of an image with all transformed copies of its filters: (B, I, H, W) -> (B, O, G, H, W).

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output, each with a map for each element of the group.
        kernel: side of the filters, odd.
        group: p4 or p4m.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, group: str = "p4") -> None:
        super().__init__()
        self.group, self.padding = group, kernel // 2
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights from He's distribution."""
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution."""
        filters = torch.stack([act(self.weight, g) for g in elements(self.group)], 1).flatten(0, 1)
        return conv2d(x, filters, padding=self.padding).unflatten(1, (len(self.weight), -1))


class GroupConv2d(OwnLayer):
    """Convolution over a group: (B, I, G, H, W) -> (B, O, G, H, W).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: side of the filters, odd.
        group: p4 or p4m.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, group: str = "p4") -> None:
        super().__init__()
        self.group, self.padding, self.order = group, kernel // 2, relative_order(group)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, len(self.order), kernel, kernel))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights from He's distribution."""
        nn.init.normal_(self.weight, std=math.sqrt(2 / self.weight[0].numel()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution."""
        copies = [act(self.weight[:, :, order], g) for g, order in zip(elements(self.group), self.order, strict=True)]
        filters = torch.stack(copies, 1).flatten(0, 1).flatten(1, 2)
        return conv2d(x.flatten(1, 2), filters, padding=self.padding).unflatten(1, (len(self.weight), -1))


class GroupConvNet(Classifier):
    """Group convolutions with BN and ReLU, average pools between, the maximum over the group, a mean, a linear layer.

    Pools of 2x2 take the place of strides, which would break the symmetry on images of even side; so the logits do not
    change when an image is turned by a quarter. Batch normalisation shares its numbers over the group.

    Args:
        widths: channels of each convolution; divide a plain network's by 2 (p4) or the root of 8 (p4m) to have as many
            parameters.
        group: p4 or p4m.
        **dims: arguments of `Classifier`.
    """

    def __init__(
        self, *, widths: Sequence[int] = (8, 16, 32), group: str = "p4", **dims: Unpack[ClassifierArgs]
    ) -> None:
        super().__init__(**dims)
        elements(group)
        check_widths("model", widths=widths)
        check_image_size("GroupConvNet", self.image_size, len(widths) - 1, exact=True)
        layers: list[nn.Module] = [LiftingConv2d(self.in_channels, widths[0], 3, group)]
        for i, width in enumerate(widths):
            layers += [nn.BatchNorm3d(width), nn.ReLU()]
            if i + 1 < len(widths):
                layers += [nn.AvgPool3d((1, 2, 2)), GroupConv2d(width, widths[i + 1], 3, group)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return self.layers(x).amax(2).mean((2, 3))
