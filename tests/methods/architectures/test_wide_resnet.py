"""Wide ResNets: their size by formula, initialisation, dropout, and the same computation from their weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d

from methods.architectures.wide_resnet import WideResNet
from tests.methods.networks import settle

IMAGES = {"image_size": 32, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


@pytest.mark.parametrize(
    ("depth", "widen", "parameters"),
    [
        (28, 10, 36_479_194),
        (34, 10, 46_160_474),
        (40, 2, 2_243_546),
        (16, 1, 175_066),
        (16, 2, 691_674),
        (40, 1, 563_930),
    ],
)
def test_parameters(depth, widen, parameters):
    with torch.device("meta"):
        network = WideResNet(in_channels=3, num_classes=10, depth=depth, widen=widen, **IMAGES)
    n, total, width = (depth - 4) // 6, 27 * 16, 16
    for out in (16 * widen, 32 * widen, 64 * widen):
        total += 9 * width * out + 9 * (2 * n - 1) * out * out + (width * out if width != out else 0)
        total += 2 * width + 2 * (2 * n - 1) * out
        width = out
    total += 2 * width + 10 * width + 10
    assert sum(p.numel() for p in network.parameters()) == total == parameters


def test_features_computed_by_hand():
    torch.manual_seed(0)
    network = WideResNet(in_channels=3, num_classes=4, depth=16, widen=1, **IMAGES)
    images = torch.rand(4, 3, 12, 12)
    settle(network, images)
    w = network.state_dict()

    def activate(x, name):
        stats = [w[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return batch_norm(x, *stats).clamp(min=0)

    x = conv2d(images, w["conv.weight"], padding=1)
    for stage in range(3):
        for i in range(2):
            name, stride = f"stages.{stage}.{i}", 2 if stage and not i else 1
            a = activate(x, f"{name}.bn1")
            h = activate(conv2d(a, w[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn2")
            shortcut = conv2d(a, w[f"{name}.shortcut.weight"], stride=2) if stride == 2 else x
            x = conv2d(h, w[f"{name}.conv2.weight"], padding=1) + shortcut
    x = activate(x, "bn").flatten(2).mean(2)
    torch.testing.assert_close(network.features(images), x, rtol=1e-5, atol=1e-5)


def test_initialisation():
    torch.manual_seed(0)
    network = WideResNet(in_channels=3, num_classes=10, depth=10, widen=2, **IMAGES)
    for weight in (network.stages[2][0].conv1.weight, network.stages[2][0].shortcut.weight):
        k2 = weight[0, 0].numel()
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (k2 * len(weight))), rel=0.05)
    assert not network.head.bias.any()


def test_dropout_is_drawn_in_training_alone():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 8, 8)
    network = WideResNet(in_channels=3, num_classes=4, depth=10, widen=1, dropout=0.3, **IMAGES)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))
    plain = WideResNet(in_channels=3, num_classes=4, depth=10, widen=1, **IMAGES)
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(plain.eval()(images), network(images))
    assert torch.equal(plain.train()(images), plain(images))
