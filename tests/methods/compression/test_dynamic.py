"""Stochastic depth and early exits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.architectures.cifar_resnet import CifarResNet
from methods.compression.compact.lenet import LeNet300100
from methods.compression.dynamic.early_exit import EarlyExit, entropy, exit_macs, exit_table, expected_macs, segments
from methods.compression.dynamic.stochastic_depth import StochasticBlock, StochasticDepthResNet, survival_probability
from methods.compression.macs import count_macs
from methods.compression.measure import Sheet, add_latencies, measure
from methods.compression.training import Recipe
from tests.methods.compression.problems import NONE, context, dense, digits, dims, randomized


def test_survival_falls_linearly():
    assert [survival_probability(b, 4, 0.5) for b in range(1, 5)] == [0.875, 0.75, 0.625, 0.5]
    network = StochasticDepthResNet(depth=14, width=4, p_last=0.5, **dims())
    blocks = [m for m in network.modules() if isinstance(m, StochasticBlock)]
    assert [b.p for b in blocks] == pytest.approx([survival_probability(i, 6, 0.5) for i in range(1, 7)])


def test_without_drops_a_block_is_an_ordinary_one_and_the_test_is_the_mean():
    torch.manual_seed(0)
    block = randomized(StochasticBlock(3, 3, 1, nn.Identity(), p=1.0))
    x = torch.rand(4, 3, 6, 6)
    torch.testing.assert_close(block(x), torch.relu(x + block.branch(x)))
    block.p, x = 0.25, x + 10  # far from ReLU's corner the output is linear in the branch
    means = 0.25 * torch.relu(x + block.branch(x)) + 0.75 * torch.relu(x)
    torch.testing.assert_close(block(x), means)


def test_dropped_blocks_are_not_computed():
    torch.manual_seed(0)
    block, calls = StochasticBlock(3, 3, 1, nn.Identity(), p=0.3).train(), []
    block.conv1.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(200):
        block(torch.rand(1, 3, 4, 4))
    assert 35 < len(calls) < 85


def test_parts_in_a_row_are_the_network():
    for network, size in ((randomized(CifarResNet(depth=8, width=4, **dims())), 32), (dense().eval(), 8)):
        x = torch.rand(2, network.in_channels, size, size)
        assert torch.equal(nn.Sequential(*segments(network))(x), network(x))


def exits() -> nn.Module:
    stage = EarlyExit((1.0, 0.3), recipe=Recipe(4, 0.01, optimizer="adam"))
    return stage(dense(), context())


def test_thresholds_decide_where_images_leave():
    torch.manual_seed(0)
    network = exits()
    x = context().images(30)
    network.thresholds = [0.0]
    logits, taken = network.leave(x)
    torch.testing.assert_close(logits, network.all_logits(x)[-1])
    assert set(taken.tolist()) == {1}
    network.thresholds = [float("inf")]
    logits, taken = network.leave(x)
    torch.testing.assert_close(logits, network.all_logits(x)[0])
    network.thresholds = [float(entropy(network.all_logits(x)[0]).median())]
    logits, taken = network.leave(x)
    assert 0 < int((taken == 0).sum()) < 30
    for i in range(30):
        torch.testing.assert_close(logits[i], network.all_logits(x[i : i + 1])[int(taken[i])][0], atol=1e-5, rtol=1e-4)
    table = exit_table(network, digits().test_dataloader(), [0.0, 100.0])
    assert table[0.0][1] == [0.0, 1.0]
    assert table[100.0][1] == [1.0, 0.0]


def test_costs_of_exits_add_up():
    network = EarlyExit((1.0, 0.3), recipe=NONE).with_exits(dense(), context())
    costs = exit_macs(network, context().example)
    branch = 8 * 10
    assert costs[-1] == count_macs(dense(), context().example) + branch
    assert costs[0] < costs[1]
    assert expected_macs(costs, [0.25, 0.75]) == pytest.approx(0.25 * costs[0] + 0.75 * costs[1])


def test_the_sheet_of_early_exits_is_that_of_a_mean_image():
    network = EarlyExit((1.0, 0.3), recipe=NONE).with_exits(dense(), context()).eval()
    x = context().example
    costs = exit_macs(network, x)
    for thresholds, shares in (([0.0], [0.0, 1.0]), ([100.0], [1.0, 0.0]), ([100.0], [0.25, 0.75])):
        network.thresholds, network.shares = thresholds, shares
        sheet = measure(network, x)
        assert sheet.macs == sheet.macs_effective == round(expected_macs(costs, shares))
        assert sheet.bops == 1024 * sheet.macs
    assert sheet.peak_memory > 0


def test_latency_is_the_mean_over_images():
    network = EarlyExit((1.0, 0.3), recipe=NONE).with_exits(dense(), context()).eval()
    seen = []
    network.parts[0].register_forward_hook(lambda m, x, y: seen.append(len(x[0])))
    network.thresholds = [1.0]
    add_latencies([Sheet("a")], {"a": network}, context().test_images(7), 2, 0.001)
    assert set(seen) == {1}
    assert len(seen) % 7 == 0


def test_a_budget_is_met_or_refused():
    stage = EarlyExit((1.0, 0.3), budget_macs=0.5)
    table = {0.1: (0.9, [0.2, 0.8]), 0.5: (0.8, [0.9, 0.1]), 1.0: (0.7, [1.0, 0.0])}
    assert stage.choose(table, [10, 100]) == 0.5
    assert EarlyExit((1.0, 0.3), tolerance=0.15).choose(table, [10, 100]) == 0.5
    with pytest.raises(ValueError, match=r"the exits allow 0\.10"):
        EarlyExit((1.0, 0.3), budget_macs=0.01).choose(table, [10, 100])


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="weights needs 2 numbers"):
        EarlyExit().check(dense(), None)
    with pytest.raises(ValueError, match="not LeNet300100"):
        EarlyExit().check(LeNet300100(**dims(10, 1, 28)), None)
    assert entropy(torch.zeros(1, 10)).item() == pytest.approx(2.302585, rel=1e-5)
