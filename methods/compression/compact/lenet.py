"""LeNet-300-100 and LeNet-5 as in Caffe, the networks of Deep Compression on MNIST."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from methods.architectures.classifier import Classifier, ClassifierArgs


class LeNet300100(Classifier):
    """Linear-ReLU of 300 and 100 units and a linear layer: 266,200 weights and 410 biases for MNIST.

    The layers ip1, ip2 and ip3 of the paper are `layers.1`, `layers.3` and `head`.

    Args:
        **dims: arguments of `Classifier`.
    """

    def __init__(self, **dims: Unpack[ClassifierArgs]) -> None:
        super().__init__(**dims)
        inputs = self.in_channels * self.image_size**2
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU())
        self.head = nn.Linear(100, self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return self.layers(x)


class LeNet5Caffe(Classifier):
    """Conv5x5 of 20 and of 50 channels with 2x2 max pools, 500 units, ReLU, and a linear layer: 430,500 weights.

    The layers conv1, conv2, ip1 and ip2 of the paper are `layers.0`, `layers.2`, `layers.5` and `head`.

    Args:
        **dims: arguments of `Classifier`.
    """

    def __init__(self, **dims: Unpack[ClassifierArgs]) -> None:
        super().__init__(**dims)
        if self.image_size < 16:
            raise ValueError(f"LeNet-5 takes images of at least 16 pixels, got {self.image_size}")
        side = ((self.image_size - 4) // 2 - 4) // 2
        self.layers = nn.Sequential(
            nn.Conv2d(self.in_channels, 20, 5),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(50 * side**2, 500),
            nn.ReLU(),
        )
        self.head = nn.Linear(500, self.num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images; see `Classifier`."""
        return self.layers(x)
