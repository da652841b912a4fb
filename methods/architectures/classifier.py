"""What every image classifier here is: input normalisation, features, a linear head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Images (B, C, H, W), float in [0, 1] -> logits (B, K).

    The normalisation is part of the network, so that what changes images (an attack, an inversion) works in [0, 1].
    A network defines `extract` and, after all its other parts, the linear layer `head`: the parameters' order is that
    of the forward pass.

    `mean` and `std` are buffers (C, 1, 1) that follow the module's device and are not part of its state_dict: published
    checkpoints have none, and they come from the data.

    Args: mean, std: of the training images, one of each a channel. normalize: False: takes images as they are.
    Raises ValueError where mean and std do not fit one another, and later where an image has other channels.
    """

    tasks = ("image-classification",)
    head: nn.Linear

    def __init__(self, mean: Sequence[float], std: Sequence[float], normalize: bool = True) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise ValueError(f"mean and std must be one number a channel, std positive; got {list(mean)}, {list(std)}")
        self.normalize = normalize
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).reshape(-1, 1, 1), persistent=False)

    @property
    def feature_dim(self) -> int:
        """D, the width of what `features` returns."""
        return self.head.in_features

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> what the head sees, (B, D)."""
        if not self.normalize:
            return self.extract(x)
        if x.shape[-3] != len(self.mean):
            raise ValueError(f"images of {x.shape[-3]} channels, but mean and std are of {len(self.mean)}")
        return self.extract((x - self.mean) / self.std)

    def extract(self, x: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) -> features (B, D)."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its features are")


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3, padded by 1, without bias: what stands before a batch normalisation."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def global_average(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C), for maps of any size."""
    return x.mean((2, 3))


def check_image_size(network: str, image_size: int, halvings: int, exact: bool = False) -> None:
    """Raises ValueError where an image has no pixel left after `halvings`; `exact`: where one of them leaves a rest."""
    least = 2**halvings
    if image_size < least or (exact and image_size % least):
        wanted = f"a multiple of {least}" if exact else f"at least {least}"
        raise ValueError(f"{network} halves its images {halvings} times: they must be {wanted} wide, got {image_size}")
