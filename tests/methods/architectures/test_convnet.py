"""The small convolutional network, against the same computation from its weights."""

from __future__ import annotations

import torch
from torch.nn.functional import batch_norm, conv2d

from methods.architectures.convnet import ConvNet
from tests.methods.networks import settle


def test_three_convolutions_computed_by_hand():
    torch.manual_seed(0)
    network = ConvNet(in_channels=1, num_classes=3, image_size=28, mean=[0.0], std=[1.0])
    images = torch.rand(5, 1, 28, 28)
    settle(network, images)
    w, x = network.state_dict(), images
    for i, (stride, side) in enumerate([(1, 28), (2, 14), (2, 7)]):
        conv, bn = f"layers.{3 * i}", f"layers.{3 * i + 1}"
        x = conv2d(x, w[f"{conv}.weight"], stride=stride, padding=1)
        assert x.shape[1:] == ((16, 32, 64)[i], side, side)
        stats = (w[f"{bn}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        x = batch_norm(x, *stats).clamp(min=0)
    torch.testing.assert_close(network.eval().features(images), x.flatten(2).mean(2), rtol=1e-5, atol=1e-5)
