"""Rows of published tables that follow from architectures alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.architectures.cifar_resnet import CifarResNet
from methods.architectures.resnet import ResNet
from methods.compression.compact.lenet import LeNet5Caffe, LeNet300100
from methods.compression.compact.mobilenet import MobileNetV1, MobileNetV2Compact
from methods.compression.compact.shufflenet import ShuffleNetV1, ShuffleNetV2
from methods.compression.compact.squeezenet import SqueezeNet
from methods.compression.compact.vgg import CompressionVGG
from methods.compression.layers import weight_layers
from methods.compression.macs import count_macs, layer_macs
from methods.compression.nas.darts_network import DARTS_V2, DartsNetwork
from methods.compression.pruning.l1_filter import L1FilterPruning
from tests.methods.compression.problems import dims

VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)
NETWORKS = {
    "ResNet-20": (CifarResNet(depth=20, **dims()), 269_722, 40.55),
    "ResNet-56": (CifarResNet(depth=56, **dims()), 853_018, 125.49),
    "ResNet-110": (CifarResNet(depth=110, **dims()), 1_727_962, 252.89),
    "ResNet-20, option B": (ResNet(blocks=[3] * 3, width=16, **dims()), 272_474, 40.81),
    "ResNet-56, option B": (ResNet(blocks=[9] * 3, width=16, **dims()), 855_770, 125.75),
    "VGG-16": (CompressionVGG(**dims()), 14_724_042, 313.20),
    "VGG-16 of Li": (CompressionVGG(hidden=[512], **dims()), 14_987_722, 313.46),
    "VGG-19 of slimming": (CompressionVGG(widths=VGG19, **dims()), 20_035_018, 398.14),
    "MobileNetV1": (MobileNetV1(**dims(100)), 3_309_476, None),
    "MobileNetV2": (MobileNetV2Compact(**dims()), 2_236_682, 87.98),
    "MobileNetV2, half": (MobileNetV2Compact(width=0.5, **dims()), 700_490, 27.97),
    "SqueezeNet": (SqueezeNet(**dims(100)), 781_156, None),
    "ShuffleNet": (ShuffleNetV1(**dims(100)), 1_000_828, None),
    "ShuffleNetV2": (ShuffleNetV2(**dims()), 1_263_854, 45.00),
    "ShuffleNetV2, half": (ShuffleNetV2(width=0.5, **dims()), 352_042, 10.90),
}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_operations_are_the_published_ones(name):
    network, params, macs = NETWORKS[name]
    assert parameters(network) == params
    if macs is not None:
        assert count_macs(network, torch.zeros(1, 3, 32, 32)) / 1e6 == pytest.approx(macs, abs=0.006)


def test_weights_of_lenets_and_of_binaryconnects_vgg():
    bc = CompressionVGG(widths=[[128] * 2, [256] * 2, [512] * 2], hidden=[1024] * 2, flatten=True, **dims())
    networks = (LeNet300100(**dims(10, 1, 28)), LeNet5Caffe(**dims(10, 1, 28)), bc)
    weights = [sum(layer.weight.numel() for layer in weight_layers(network).values()) for network in networks]
    assert weights == [266_200, 430_500, 14_022_016]


def test_the_published_darts_network_has_3_3_million_parameters():
    network = DartsNetwork(DARTS_V2, 36, 20, **dims())
    assert parameters(network) == 3_349_342


# Li et al. 2017, table 1: pruned share of operations and of parameters in percent
LI = {
    "li2017/vgg16_a": ("VGG-16 of Li", 34.2, 64.0),
    "li2017/resnet56_a": ("ResNet-56", 10.4, 9.4),
    "li2017/resnet56_b": ("ResNet-56", 27.6, 13.7),
    "li2017/resnet110_a": ("ResNet-110", 15.9, 2.3),
    "li2017/resnet110_b": ("ResNet-110", 38.6, 32.4),
}


@pytest.mark.parametrize("preset", LI)
def test_pruned_shares_of_li_2017(preset):
    name, flop, params = LI[preset]
    x, network = torch.zeros(1, 3, 32, 32), NETWORKS[name][0]
    import copy

    pruned, stage = copy.deepcopy(network), L1FilterPruning(preset=preset)
    stage.check(pruned, None)
    with torch.no_grad():
        stage.remove(pruned)
    assert 100 * (1 - count_macs(pruned, x) / count_macs(network, x)) == pytest.approx(flop, abs=0.1)
    assert 100 * (1 - parameters(pruned) / parameters(network)) == pytest.approx(params, abs=0.1)


def test_a_preset_of_another_network_is_refused():
    with pytest.raises(ValueError, match="the network has 19"):
        L1FilterPruning(preset="li2017/resnet56_a").check(NETWORKS["ResNet-20"][0], None)


@pytest.mark.parametrize("name", ["ResNet-20", "ShuffleNetV2, half"])
def test_operations_are_those_of_ptflops(name):
    ptflops = pytest.importorskip("ptflops")
    network = NETWORKS[name][0]
    macs, _ = ptflops.get_model_complexity_info(
        network, (3, 32, 32), as_strings=False, print_per_layer_stat=False, backend="aten", verbose=False
    )
    assert count_macs(network, torch.zeros(1, 3, 32, 32)) == pytest.approx(macs, rel=1e-3)  # ptflops adds biases


def test_operations_by_layer_add_up():
    network, x = NETWORKS["MobileNetV2, half"][0], torch.zeros(1, 3, 32, 32)
    assert sum(layer_macs(network, x).values()) == count_macs(network, x)
