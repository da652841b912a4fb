"""The moving average of weights against its recurrence."""

from __future__ import annotations

import torch

from methods.f2at.ema import ExponentialMovingAverage
from tests.methods.networks import small_network


def test_the_moving_average_against_its_recurrence():
    network = small_network()
    average = ExponentialMovingAverage(network, 0.9)
    expected, start = network.head.weight.detach().clone(), float(network.layers[1].running_mean[0])
    for t in range(30):
        torch.manual_seed(t)
        with torch.no_grad():
            network.head.weight += torch.randn_like(network.head.weight)
            network.layers[1].running_mean += 1
        decay = min(0.9, (t + 1) / (t + 10))
        expected = decay * expected + (1 - decay) * network.head.weight.detach()
        average.update(network)
    assert torch.allclose(average.network.head.weight, expected, atol=1e-5)
    assert 0 < average.network.layers[1].running_mean[0] - start < network.layers[1].running_mean[0] - start
    assert int(average.steps) == 30
