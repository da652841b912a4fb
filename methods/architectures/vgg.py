"""VGG networks for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn

from methods.architectures.classifier import Classifier, ClassifierArgs, check_image_size, global_average

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(Classifier):
    """Conv3x3-BN-ReLU for each of `widths`, a 2x2 max pool after each group of them, global average, linear.

    The default is configuration D (VGG-16) of Simonyan and Zisserman, arXiv 1409.1556, table 1, in its form for CIFAR:
    BN after each convolution, which keeps its bias, and one linear layer of 512 inputs instead of three; 14,728,266
    parameters at 3 channels and 10 classes, torch's own initialisation (as in kuangliu/pytorch-cifar).

    Args:
        widths: output channels of the convolutions, group by group.
        **dims: arguments of `Classifier`.

    Raises:
        ValueError: if a pool would leave a remainder of the images, or a group is empty.
    """

    def __init__(self, *, widths: Sequence[Sequence[int]] = VGG16, **dims: Unpack[ClassifierArgs]) -> None:
        super().__init__(**dims)
        if not widths or not all(widths):
            raise ValueError("model.widths must be groups of at least one width each")
        check_image_size("VGG", self.image_size, len(widths), exact=True)
        layers: list[nn.Module] = []
        channels = self.in_channels
        for group in widths:
            for width in group:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels, self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return global_average(self.layers(x))
