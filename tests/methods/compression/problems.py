"""Small data and networks that the tests of the compression toolbox share."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from datasets.images.datamodule import Digits
from methods.architectures.convnet import ConvNet
from methods.compression.stage import Context
from methods.compression.training import Recipe, train


def dims(classes: int = 10, channels: int = 3, size: int = 32) -> dict[str, Any]:
    """Dims of an image data set."""
    moments = {"mean": [0.5] * channels, "std": [0.25] * channels}
    return {"in_channels": channels, "num_classes": classes, "image_size": size, **moments}


def randomized(network: nn.Module, seed: int = 0) -> nn.Module:
    """A network in eval mode whose batch normalisation has random numbers too, so that nothing cancels."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.affine:
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@lru_cache(maxsize=1)
def digits() -> Digits:
    """300 training, 100 held-out and 200 test digits of 8 x 8 pixels."""
    data = Digits(size=8, batch_size=50, holdout=100, limit_train=300, limit_test=200)
    data.prepare_data()
    data.setup()
    return data


@lru_cache(maxsize=1)
def _dense() -> ConvNet:
    torch.manual_seed(0)
    network = ConvNet(widths=[8, 16], **digits().dims)
    train(network, digits().train_dataloader(), Recipe(12, 0.1, schedule="onecycle"))
    return network


def dense() -> ConvNet:
    """A trained network for the digits."""
    return copy.deepcopy(_dense())


def context(network: nn.Module | None = None, **options: Any) -> Context:
    """Context of a stage over the digits."""
    return Context(digits(), network or dense(), **options)


ONE = Recipe(1, 0.01)
NONE = Recipe(0, 0.01)
