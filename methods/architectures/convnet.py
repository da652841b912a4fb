"""A small convolutional network for small images on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from methods.architectures.classifier import Classifier, check_image_size, conv3x3, global_average


class ConvNet(Classifier):
    """Conv3x3-BN-ReLU for each of `widths`, all but the first at stride 2; global average; linear.

    No paper's network; for embedded data and tests.
    Args: widths: output channels of each convolution, so the last is D. The others: as in `Classifier`.
    Raises ValueError where the images are too small for so many halvings, or no width is given.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        widths: Sequence[int] = (16, 32, 64),
        normalize: bool = True,
    ) -> None:
        super().__init__(mean, std, normalize)
        if not widths:
            raise ValueError("model.widths must name at least one width")
        check_image_size("ConvNet", image_size, len(widths) - 1)
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            layers += [conv3x3(in_channels, width, stride=1 if i == 0 else 2), nn.BatchNorm2d(width), nn.ReLU()]
            in_channels = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(in_channels, num_classes)

    def extract(self, x: Tensor) -> Tensor:
        return global_average(self.layers(x))
