"""Base class of image classifiers: input normalisation, features, a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn


class ImageDims(TypedDict):
    """Properties of an image data set that a classifier is built from; the `dims` of image data modules.

    Keys:
        in_channels: number of channels.
        num_classes: number of classes.
        image_size: height and width in pixels.
        mean: mean of the training images, one number a channel.
        std: standard deviation of the training images, one number a channel.
    """

    in_channels: int
    num_classes: int
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]


class ClassifierArgs(ImageDims, total=False):
    """Keyword arguments of `Classifier`, which its subclasses pass on."""

    normalize: bool


class Classifier(nn.Module):
    """Base class of networks from images (B, C, H, W), float in [0, 1], to logits (B, K).

    The normalisation is part of the network, so that attacks and inversions work on images in [0, 1]. `mean` and `std`
    are buffers (C, 1, 1) that follow the module's device and are not part of its state_dict: they come from the data,
    and published checkpoints have none.

    A subclass defines `extract` and, after all its other parts, the linear layer `head`, so that parameters are in the
    order of the forward pass. It takes its own arguments and passes `ClassifierArgs` on.

    Args:
        in_channels: number of channels.
        num_classes: number of classes, K.
        image_size: height and width of the images.
        mean: mean of the training images, one number a channel.
        std: standard deviation of the training images, one number a channel.
        normalize: subtract mean and divide by std; False takes images as they are.

    Raises:
        ValueError: if mean and std do not fit each other, and in `features` if an image has other channels.
    """

    tasks = ("image-classification",)
    head: nn.Linear
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        normalize: bool = True,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise ValueError(f"mean and std must be one number a channel, std positive; got {list(mean)}, {list(std)}")
        self.in_channels, self.num_classes, self.image_size = in_channels, num_classes, image_size
        self.normalize = normalize
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).reshape(-1, 1, 1), persistent=False)

    def init_weights(self) -> None:
        """Apply the network's own initialisation, for networks that do not keep torch's default."""

    def reset_parameters(self) -> None:
        """Draw new initial weights and reset batch norm's statistics, as the constructor does."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits.

        Shapes: (B, C, H, W) in [0, 1] -> (B, K).
        """
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the head.

        Shapes: (B, C, H, W) in [0, 1] -> (B, D).
        """
        if not self.normalize:
            return self.extract(x)
        if x.shape[-3] != len(self.mean):
            raise ValueError(f"images have {x.shape[-3]} channels, but mean and std have {len(self.mean)}")
        return self.extract((x - self.mean) / self.std)

    def extract(self, x: Tensor) -> Tensor:
        """Return the features of normalised images.

        Shapes: (B, C, H, W) -> (B, D).
        """
        raise NotImplementedError(f"{type(self).__name__} does not define extract")


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution, padded by 1, without bias, to be followed by batch normalisation."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def global_average(x: Tensor) -> Tensor:
    """Return the mean over height and width.

    Shapes: (B, C, H, W) -> (B, C).
    """
    return x.mean((2, 3))


def init_he_fan_out(network: nn.Module) -> None:
    """Draw the weights of all convolutions from He's normal distribution by fan-out."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def check_image_size(network: str, image_size: int, halvings: int, exact: bool = False) -> None:
    """Raise ValueError if images are too small for a network.

    Args:
        network: name of the network, for the message.
        image_size: height and width of the images.
        halvings: number of times that the network halves them.
        exact: each halving must divide the size without remainder.
    """
    least = 2**halvings
    if image_size < least or (exact and image_size % least):
        wanted = f"a multiple of {least}" if exact else f"at least {least}"
        raise ValueError(f"{network} halves its images {halvings} times: they must be {wanted} wide, got {image_size}")
