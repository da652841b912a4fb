"""MobileNetV2: its blocks against transformers', its size by formula, and where it halves the image."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d

from methods.architectures.mobilenet import InvertedResidual, MobileNetV2
from tests.methods.networks import settle


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("width", "out"), [(8, 8), (8, 16)])
def test_a_block_is_transformers_inverted_residual(width, out, stride):
    """Which has no shortcut where only the width changes: there ours adds a 1x1 convolution and BN."""
    from transformers import MobileNetV2Config
    from transformers.models.mobilenet_v2.modeling_mobilenet_v2 import MobileNetV2InvertedResidual

    torch.manual_seed(0)
    block = InvertedResidual(width, out, 6, stride)
    x = torch.randn(4, width, 9, 9)
    settle(block, x)
    config = MobileNetV2Config(hidden_act="relu", tf_padding=False, layer_norm_eps=1e-5, expand_ratio=6)
    peer = MobileNetV2InvertedResidual(config, width, out, stride).eval()
    w, state = block.eval().state_dict(), {}
    for i, name in enumerate(("expand_1x1", "conv_3x3", "reduce_1x1"), start=1):
        state[f"{name}.convolution.weight"] = w[f"conv{i}.weight"]
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            state[f"{name}.normalization.{leaf}"] = w[f"bn{i}.{leaf}"]
    peer.load_state_dict(state)
    with torch.no_grad():
        expected = peer(x)
        if stride == 1 and width != out:
            stats = [w[f"shortcut.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
            expected = expected + batch_norm(conv2d(x, w["shortcut.0.weight"]), *stats)
        torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def test_parameters_and_image_sizes():
    with torch.device("meta"):
        network = MobileNetV2(in_channels=3, num_classes=10, image_size=32, mean=[0.5] * 3, std=[0.2] * 3)
        sides, x = [], torch.rand(1, 32, 32, 32)
        for block in network.blocks:
            x = block(x)
            sides.append(x.shape[-1])
    assert sides == [32] * 3 + [16] * 3 + [8] * 7 + [4] * 4
    widths = [32, 16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    narrower = {(24, 32), (32, 64), (96, 160)}  # entered at stride 2, so without a shortcut
    total = 27 * 32 + 2 * 32 + 320 * 1280 + 2 * 1280 + 1280 * 10 + 10
    for i, (c, d) in enumerate(pairwise(widths)):
        hidden = c if i == 0 else 6 * c
        total += c * hidden + 9 * hidden + hidden * d + 4 * hidden + 2 * d
        total += c * d + 2 * d if c != d and (c, d) not in narrower else 0
    assert sum(p.numel() for p in network.parameters()) == total == 2_296_922


def test_logits_follow_stem_blocks_and_last_convolution():
    torch.manual_seed(0)
    network = MobileNetV2(in_channels=1, num_classes=4, image_size=8, mean=[0.0], std=[1.0])
    images = torch.rand(4, 1, 8, 8)
    settle(network, images)
    w = network.state_dict()

    def activate(x, name):
        stats = [w[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return batch_norm(x, *stats).clamp(min=0)

    x = network.blocks(activate(conv2d(images, w["conv1.weight"], padding=1), "bn1"))
    x = activate(conv2d(x, w["conv2.weight"]), "bn2").flatten(2).mean(2)
    torch.testing.assert_close(network(images), x @ w["head.weight"].T + w["head.bias"], rtol=1e-5, atol=1e-5)
