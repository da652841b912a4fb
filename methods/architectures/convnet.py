"""A small convolutional network for small images on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn

from datasets.checks import check_widths
from methods.architectures.classifier import Classifier, ClassifierArgs, check_image_size, conv3x3, global_average


class ConvNet(Classifier):
    """Conv3x3-BN-ReLU for each of `widths`, all but the first at stride 2; global average; linear.

    No paper's network; for embedded data and tests.

    Args:
        widths: output channels of each convolution; the last is the number of features.
        **dims: arguments of `Classifier`.

    Raises:
        ValueError: if the images are too small for so many halvings, or no width is given.
    """

    def __init__(self, *, widths: Sequence[int] = (16, 32, 64), **dims: Unpack[ClassifierArgs]) -> None:
        super().__init__(**dims)
        check_widths("model", widths=widths)
        check_image_size("ConvNet", self.image_size, len(widths) - 1)
        layers: list[nn.Module] = []
        channels = self.in_channels
        for i, width in enumerate(widths):
            layers += [conv3x3(channels, width, stride=1 if i == 0 else 2), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels, self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return global_average(self.layers(x))
