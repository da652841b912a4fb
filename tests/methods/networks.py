"""Small image classifiers for tests."""

from __future__ import annotations

import torch
from torch import nn

from methods.architectures.convnet import ConvNet


def small_network(seed: int = 0, channels: int = 1, classes: int = 4, size: int = 8, **kwargs) -> nn.Module:
    """A ConvNet with batch norm, whose running statistics are not those that it starts with."""
    torch.manual_seed(seed)
    dims = {"in_channels": channels, "num_classes": classes, "image_size": size}
    network = ConvNet(**dims, mean=[0.4] * channels, std=[0.3] * channels, widths=[8, 12], **kwargs)
    network.train()
    for _ in range(3):
        network(torch.rand(32, channels, size, size))
    return network.eval()


def settle(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """In eval mode; affine weights are no longer 0 and 1, running statistics are those of the images."""
    network.apply(lambda module: setattr(module, "momentum", 1.0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        network(images)
    return network.eval()


def batch(seed: int = 0, n: int = 12, channels: int = 1, classes: int = 4, size: int = 8):
    """Images on the 8-bit grid in [0, 1] and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, channels, size, size), generator=generator) / 255
    return x, torch.randint(0, classes, (n,), generator=generator)
