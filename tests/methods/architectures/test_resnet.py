"""ResNet against transformers' ResNet, PreActResNet against the same computation from its weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d

from methods.architectures.resnet import PreActResNet, ResNet
from tests.methods.networks import settle

IMAGES = {"in_channels": 3, "num_classes": 3, "image_size": 16, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


def test_stages_are_those_of_transformers_basic_layers():
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    blocks, width = [2, 1, 2, 1], 8
    network = settle(ResNet(blocks=blocks, width=width, **IMAGES), torch.rand(8, 3, 16, 16))
    widths = [width * 2**i for i in range(4)]
    config = ResNetConfig(embedding_size=width, hidden_sizes=widths, depths=blocks, layer_type="basic")
    peer = ResNetModel(config).encoder.eval()
    parts = {"conv1": "layer.0.convolution", "bn1": "layer.0.normalization"}
    parts |= {"conv2": "layer.1.convolution", "bn2": "layer.1.normalization"}
    parts |= {"shortcut.0": "shortcut.convolution", "shortcut.1": "shortcut.normalization"}
    state = {}
    for name, value in network.stages.state_dict().items():
        stage, block, rest = name.split(".", 2)
        part, leaf = rest.rsplit(".", 1)
        state[f"stages.{stage}.layers.{block}.{parts[part]}.{leaf}"] = value
    peer.load_state_dict(state)
    x = torch.rand(2, width, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network.stages(x), peer(x).last_hidden_state, rtol=1e-5, atol=1e-5)


def test_features_are_the_mean_of_the_last_stage_after_the_stem():
    torch.manual_seed(0)
    network = settle(ResNet(blocks=[1, 1], width=4, **IMAGES), torch.rand(8, 3, 16, 16))
    images = torch.rand(2, 3, 16, 16)
    w = network.state_dict()
    stats = [w[f"bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    stem = batch_norm(conv2d(images, w["conv.weight"], padding=1), *stats).clamp(min=0)
    last = network.stages(stem)
    assert last.shape == (2, 8, 8, 8)
    torch.testing.assert_close(network.features(images), last.flatten(2).mean(2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("stem_norm", "final_norm", "parameters"),
    [(False, True, 11_172_170), (False, False, 11_171_146), (True, False, 11_171_274)],
    ids=["robust_overfitting", "pytorch-cifar", "FaMUS"],
)
def test_parameters_of_the_three_preact_resnet18s(stem_norm, final_norm, parameters):
    with torch.device("meta"):
        images = IMAGES | {"num_classes": 10}
        network = PreActResNet(stem_norm=stem_norm, final_norm=final_norm, **images)
    total, width = 27 * 64 + 512 * 10 + 10 + 128 * stem_norm + 1024 * final_norm, 64
    for out in (64, 128, 256, 512):
        total += 9 * width * out + 3 * 9 * out * out + 2 * (width + 3 * out)  # convolutions, BN weights
        total += width * out if width != out else 0  # 1x1 shortcut
        width = out
    assert sum(p.numel() for p in network.parameters()) == total == parameters


def test_the_tensors_that_famus_learns_to_gate_are_the_last_stage_and_the_head():
    with torch.device("meta"):
        network = PreActResNet(stem_norm=True, final_norm=False, **IMAGES)
    last = [name for name, _ in network.named_parameters()][-15:]
    assert [name for name in last if name.startswith("stages.3.")] == last[:13]
    assert last[13:] == ["head.weight", "head.bias"]


@pytest.mark.parametrize(("stem_norm", "final_norm"), [(False, True), (False, False), (True, False)])
def test_preact_features_computed_by_hand(stem_norm, final_norm):
    torch.manual_seed(0)
    network = settle(
        PreActResNet(blocks=[1, 2], width=4, stem_norm=stem_norm, final_norm=final_norm, **IMAGES),
        torch.rand(8, 3, 16, 16),
    )
    images = torch.rand(2, 3, 16, 16)
    w = network.state_dict()

    def activate(x, name):
        stats = [w[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return batch_norm(x, *stats).clamp(min=0)

    x = conv2d(images, w["conv.weight"], padding=1)
    if stem_norm:
        x = activate(x, "stem_norm.0")
    for block, stride in [("stages.0.0", 1), ("stages.1.0", 2), ("stages.1.1", 1)]:
        a = activate(x, f"{block}.bn1")
        h = activate(conv2d(a, w[f"{block}.conv1.weight"], stride=stride, padding=1), f"{block}.bn2")
        shortcut = conv2d(a, w[f"{block}.shortcut.weight"], stride=2) if stride == 2 else x
        x = conv2d(h, w[f"{block}.conv2.weight"], padding=1) + shortcut
    if final_norm:
        x = activate(x, "final_norm.0")
    torch.testing.assert_close(network.features(images), x.flatten(2).mean(2), rtol=1e-5, atol=1e-5)
