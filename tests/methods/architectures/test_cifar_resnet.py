"""CIFAR ResNets: their size by the paper's formula, and the same computation from their weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d

from methods.architectures.cifar_resnet import CifarResNet, ZeroPadded
from tests.methods.networks import settle

IMAGES = {"image_size": 32, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (32, 464_154), (56, 853_018), (110, 1_727_962)])
def test_parameters(depth, parameters):
    with torch.device("meta"):
        network = CifarResNet(in_channels=3, num_classes=10, depth=depth, **IMAGES)
    n = (depth - 2) // 6
    convolutions = 27 * 16 + 9 * sum(2 * n * c * c for c in (16, 32, 64)) - 9 * (32 * 16 + 64 * 32)
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    assert sum(p.numel() for p in network.parameters()) == convolutions + norms + 64 * 10 + 10 == parameters
    assert sum(p.ndim > 1 for p in network.parameters()) == depth


@pytest.mark.parametrize("side", [4, 5])
def test_the_padded_shortcut_takes_every_second_pixel_and_adds_zeros_on_both_sides(side):
    x = torch.rand(2, 3, side, side)
    found = ZeroPadded(2, 2)(x)
    for c, y, z in torch.cartesian_prod(torch.arange(7), *[torch.arange((side + 1) // 2)] * 2).tolist():
        expected = x[:, c - 2, 2 * y, 2 * z] if 2 <= c < 5 else torch.zeros(2)
        assert torch.equal(found[:, c, y, z], expected)
    assert found.shape == (2, 7, (side + 1) // 2, (side + 1) // 2)


def test_features_computed_by_hand():
    torch.manual_seed(0)
    network = CifarResNet(in_channels=3, num_classes=4, depth=14, width=4, **IMAGES)
    images = torch.rand(4, 3, 15, 15)
    settle(network, images)
    w = network.state_dict()

    def norm(x, name):
        return batch_norm(x, *[w[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")])

    x = norm(conv2d(images, w["conv.weight"], padding=1), "bn").clamp(min=0)
    for stage in range(3):
        for i in range(2):
            name, stride = f"stages.{stage}.{i}", 2 if stage and not i else 1
            h = norm(conv2d(x, w[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1").clamp(min=0)
            h = norm(conv2d(h, w[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                zeros = torch.zeros_like(h[:, : x.shape[1] // 2])
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
            x = (h + x).clamp(min=0)
    torch.testing.assert_close(network.features(images), x.flatten(2).mean(2), rtol=1e-5, atol=1e-5)


def test_convolutions_start_from_hes_distribution_by_fan_out():
    torch.manual_seed(0)
    network = CifarResNet(in_channels=3, num_classes=10, depth=20, **IMAGES)
    for weight in (network.stages[1][0].conv1.weight, network.stages[2][2].conv2.weight):
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * len(weight))), rel=0.05)
        assert weight.abs().max() > 3 * weight.std()  # normal, not uniform
