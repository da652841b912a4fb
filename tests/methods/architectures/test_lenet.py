"""LeNet-5: its size, and the same computation from its weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d, pad

from methods.architectures.lenet import LeNet5

DIGITS = {"in_channels": 1, "num_classes": 10, "mean": [0.1307], "std": [0.3081]}


@pytest.mark.parametrize(("padding", "parameters"), [(0, 61_706), (2, 107_786)])
@pytest.mark.parametrize("size", [28, 32])
def test_parameters_of_the_classic_and_of_miras(size, padding, parameters):
    network = LeNet5(image_size=size, padding=padding, **DIGITS)
    convolutions = 6 * (25 + 1) + 16 * (6 * 25 + 1)
    side = 7 if padding else 5
    dense = 120 * (16 * side**2 + 1) + 84 * (120 + 1) + 10 * (84 + 1)
    assert sum(p.numel() for p in network.parameters()) == convolutions + dense == parameters


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("size", [28, 32])
def test_logits_computed_by_hand(size, padding):
    torch.manual_seed(0)
    network = LeNet5(image_size=size, padding=padding, **DIGITS).eval()
    images = torch.rand(3, 1, size, size)
    w = network.state_dict()
    x = pad((images - 0.1307) / 0.3081, [(32 - size) // 2] * 4)
    x = max_pool2d(conv2d(x, w["conv1.weight"], w["conv1.bias"]).clamp(min=0), 2)
    x = max_pool2d(conv2d(x, w["conv2.weight"], w["conv2.bias"], padding=padding).clamp(min=0), 2)
    x = x.reshape(3, -1)
    for name in ("fc1", "fc2"):
        x = (x @ w[f"{name}.weight"].T + w[f"{name}.bias"]).clamp(min=0)
    torch.testing.assert_close(network(images), x @ w["head.weight"].T + w["head.bias"], rtol=1e-5, atol=1e-5)
