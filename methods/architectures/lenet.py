"""LeNet-5 for digits."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from datasets.checks import check_not_negative
from methods.architectures.classifier import Classifier, ClassifierArgs


class LeNet5(Classifier):
    """Two of conv5x5-ReLU-max pool (6, 16 channels), then 120, 84 and K units.

    LeCun et al. 1998, figure 2, with today's ReLU, max pool and full connections: 61,706 parameters at 1 channel and 10
    classes. Images of 28 pixels get 2 zeros around them, after the normalisation.

    Args:
        padding: zeros around the second convolution's input: 0, or 2 as in Mira's code (107,786 parameters).
        **dims: arguments of `Classifier`.

    Raises:
        ValueError: if images are not 28 or 32 pixels wide.
    """

    def __init__(self, *, padding: int = 0, **dims: Unpack[ClassifierArgs]) -> None:
        super().__init__(**dims)
        check_not_negative("model", padding=padding)
        if self.image_size not in (28, 32):
            raise ValueError(f"LeNet-5 takes images of 28 or 32 pixels, got {self.image_size}")
        side = (14 + 2 * padding - 4) // 2
        self.conv1 = nn.Conv2d(self.in_channels, 6, 5, padding=(32 - self.image_size) // 2)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=padding)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        x = relu(max_pool2d(self.conv1(x), 2))  # as ReLU before the pool, at a quarter of its cost
        x = relu(max_pool2d(self.conv2(x), 2))
        return relu(self.fc2(relu(self.fc1(x.flatten(1)))))
