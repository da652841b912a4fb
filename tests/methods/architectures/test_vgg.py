"""VGG: the same computation from its weights; that the pools meet the widths."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch.nn.functional import batch_norm, conv2d, max_pool2d

from methods.architectures.vgg import VGG, VGG16
from tests.methods.networks import settle


def test_vgg16_has_13_convolutions_and_one_linear_layer():
    with torch.device("meta"):
        network = VGG(in_channels=3, num_classes=10, image_size=32, mean=[0.5] * 3, std=[0.2] * 3)
    widths = [3, *(width for group in VGG16 for width in group)]
    expected = sum((9 * c + 3) * d for c, d in pairwise(widths)) + 512 * 10 + 10
    assert sum(p.numel() for p in network.parameters()) == expected == 14_728_266
    assert sum(p.ndim > 1 for p in network.parameters()) == 14


def test_features_computed_by_hand():
    torch.manual_seed(0)
    dims = {"in_channels": 2, "num_classes": 3, "image_size": 16, "mean": [0.0] * 2, "std": [1.0] * 2}
    network = VGG(**dims, widths=[[4], [6, 5], [7]])
    images = torch.rand(4, 2, 16, 16)
    settle(network, images)
    w, x, i = network.state_dict(), images, 0
    for size in (1, 2, 1):
        for _ in range(size):
            x = conv2d(x, w[f"layers.{i}.weight"], w[f"layers.{i}.bias"], padding=1)
            stats = [w[f"layers.{i + 1}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
            x, i = batch_norm(x, *stats).clamp(min=0), i + 3
        x, i = max_pool2d(x, 2), i + 1
    assert x.shape == (4, 7, 2, 2)
    torch.testing.assert_close(network.features(images), x.flatten(2).mean(2), rtol=1e-5, atol=1e-5)
