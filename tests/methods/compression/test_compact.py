"""Compact and transferred filters: symmetry, shapes, costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.compression.compact.group_conv import (
    GroupConv2d,
    GroupConvNet,
    LiftingConv2d,
    act,
    compose,
    elements,
    inverse,
    relative_order,
)
from methods.compression.compact.mobilenet import MobileNetV1, depthwise_separable, multiplied
from methods.compression.compact.shufflenet import ShuffleNetV1, ShuffleNetV2, channel_shuffle
from methods.compression.compact.vgg import CompressionVGG, CReLU
from methods.compression.macs import count_macs
from tests.methods.compression.problems import dims


@pytest.mark.parametrize("group", ["p4", "p4m"])
def test_group_convolutions_are_equivariant(group):
    torch.manual_seed(0)
    lift, conv = LiftingConv2d(2, 3, 3, group).double(), GroupConv2d(3, 4, 3, group).double()
    x, order, group_elements = torch.randn(2, 2, 7, 7).double(), relative_order(group), elements(group)

    def f(image: torch.Tensor) -> torch.Tensor:
        return conv(torch.relu(lift(image)))

    out = f(x)
    for number, u in enumerate(group_elements):
        moved = torch.stack([act(out[:, :, h], u) for h in order[number]], 2)
        torch.testing.assert_close(f(act(x, u)), moved)


def test_turning_an_image_rolls_the_group_axis_of_p4():
    torch.manual_seed(0)
    lift = LiftingConv2d(1, 2)
    x = torch.randn(1, 1, 6, 6)
    expected = torch.rot90(lift(x), 1, (-2, -1)).roll(1, 2)
    torch.testing.assert_close(lift(torch.rot90(x, 1, (-2, -1))), expected)


@pytest.mark.parametrize("group", ["p4", "p4m"])
def test_the_logits_do_not_change_when_an_image_is_turned(group):
    network = GroupConvNet(widths=[3, 4], group=group, **dims(size=8)).eval()
    x = torch.rand(2, 3, 8, 8)
    for element in elements(group):
        torch.testing.assert_close(network(act(x, element)), network(x), atol=1e-5, rtol=1e-4)
    if group == "p4":
        assert (network(x.flip(-1)) - network(x)).abs().max() > 1e-5


@pytest.mark.parametrize("group", ["p4", "p4m"])
def test_the_group_is_a_group(group):
    all_elements, x = elements(group), torch.randn(4, 4)
    for a in all_elements:
        assert compose(a, inverse(a)) == (0, 0)
        for b in all_elements:
            assert torch.equal(act(act(x, b), a), act(x, compose(a, b)))


def test_half_of_the_width_gives_p4_about_the_parameters_of_a_plain_network():
    plain = sum(nn.Conv2d(32, 32, 3, bias=False).weight.shape.numel() for _ in range(1))
    assert GroupConv2d(16, 16, 3, "p4").weight.numel() == plain


def test_depthwise_separable_convolutions_cost_their_share():
    x = torch.zeros(1, 32, 8, 8)
    separable = count_macs(nn.Sequential(*depthwise_separable(32, 64, 1)), x)
    assert separable / count_macs(nn.Conv2d(32, 64, 3, padding=1), x) == pytest.approx(1 / 64 + 1 / 9)


def test_channels_are_shuffled_as_pytorch_does():
    x = torch.randn(2, 12, 3, 3)
    assert torch.equal(channel_shuffle(x, 3), nn.ChannelShuffle(3)(x))


def test_crelu_halves_the_filters():
    plain, halved = (CompressionVGG(widths=[[8, 8], [16]], crelu=c, **dims(size=8)) for c in (False, True))
    weights = [sum(m.weight.numel() for m in n.modules() if isinstance(m, nn.Conv2d)) for n in (plain, halved)]
    assert weights[1] * 2 == weights[0]
    x = torch.randn(1, 4, 2, 2)
    assert torch.equal(CReLU(8)(x), torch.cat([x.clamp(min=0), (-x).clamp(min=0)], 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ShuffleNetV1(groups=8, **dims()),
        lambda: ShuffleNetV2(width=0.5, **dims()),
        lambda: MobileNetV1(width=0.25, **dims()),
    ],
)
def test_networks_give_logits_and_gradients(make):
    network = make()
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_bad_settings_are_named():
    for make, message in (
        (lambda: ShuffleNetV1(groups=5, **dims()), "groups=5"),
        (lambda: ShuffleNetV2(width=3.0, **dims()), "width=3.0"),
        (lambda: GroupConvNet(group="p6", **dims()), "group=p6"),
        (lambda: CompressionVGG(widths=[[7]], crelu=True, **dims()), "even for CReLU"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert multiplied(32, 0.5) == 16
    assert multiplied(24, 0.35) % 8 == 0
