"""Layers that are open by a rule: which they are, and the gradient through them alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from methods.architectures.cifar_resnet import CifarResNet
from methods.famus.layer_rules import FromBlock, RandomLayers
from tests.methods.networks import small_network


def resnet(depth: int = 14) -> CifarResNet:
    return CifarResNet(in_channels=1, num_classes=4, image_size=8, mean=[0.5], std=[0.5], depth=depth, width=4)


def test_blocks_from_one_on():
    network = resnet()
    gradients = dict(network.named_parameters())
    for block in range(1, 7):
        opened = FromBlock(network, block)(gradients)
        closed = [n for n in gradients if n not in opened and not n.startswith("head.")]
        first = [f"stages.{i // 2}.{i % 2}." for i in range(6)]
        assert {n.rpartition(".")[0].split(".")[0] for n in closed if not n.startswith("stages")} == {"conv", "bn"}
        assert all(any(n.startswith(f) for f in first[block - 1 :]) for n in opened)
        assert all(any(n.startswith(f) for f in ["conv", "bn", *first[: block - 1]]) for n in closed)
        assert all(r.item() == 1 for r in opened.values())


def test_random_layers_are_so_many_and_all_alike():
    torch.manual_seed(0)
    choice = RandomLayers(small_network(), 2)
    gradients = dict(small_network().named_parameters())
    counts = Counter()
    for _ in range(600):
        opened = choice(gradients)
        assert len(opened) == 2
        counts.update(opened)
    assert set(counts) == {n for n in gradients if not n.startswith("head.")}
    assert all(160 < count < 240 for count in counts.values())  # 200 expected, deviation 11.5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FromBlock(resnet(), 7), r"method\.gates\.block=7 is not in \[1, 6\]"),
        (lambda: FromBlock(resnet(), 0), r"method\.gates\.block=0 is not"),
        (lambda: FromBlock(small_network(), 1), "needs a network with residual blocks"),
        (lambda: RandomLayers(small_network(), 7), r"method\.gates\.layers=7 is not in \[0, 6\]"),
    ],
)
def test_layers_that_are_not_there(make, said):
    with pytest.raises(ValueError, match=said):
        make()
