"""Averaged and perturbed weights against loops over steps and formulas; learning rates at known epochs."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from methods.f2at.averaging import MovingAverage, WeightPerturbation
from methods.f2at.rates import Linear, Steps
from tests.methods.networks import batch, small_network


def test_the_moving_average_against_its_recurrence():
    network = small_network()
    average = MovingAverage(network, 0.9)
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


def test_perturbed_weights_lie_up_the_gradient_at_the_given_distance():
    network, (x, y) = small_network().train(), batch()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        loss = cross_entropy(small_network().train()(x), y)
    perturbation = WeightPerturbation(gamma=0.05)
    perturbation.apply(network, lambda: cross_entropy(network(x), y))
    moved = {name: value - before[name] for name, value in network.state_dict().items()}
    for name, move in moved.items():
        if before[name].dim() > 1:
            assert move.norm() == pytest.approx(0.05 * float(before[name].norm()), rel=1e-4)
        else:
            assert move.float().abs().max() == 0, name
    with torch.no_grad():
        assert cross_entropy(network(x), y) > loss
    perturbation.restore()
    for name, weight in network.named_parameters():
        assert torch.allclose(weight, before[name], atol=1e-6)


def test_perturbed_weights_are_seen_under_autocast():
    network, (x, y) = small_network().train(), batch()
    perturbation = WeightPerturbation(gamma=0.5, warmup=9, of=76)
    assert [perturbation.begins(epoch / 152) for epoch in (0, 17, 18)] == [False, False, True]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        before = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        network(x)  # the cache holds the weights
        perturbation.apply(network, lambda: cross_entropy(network(x), y))
        assert (network(x) - before).abs().max() > 0.05
        perturbation.restore()
        assert torch.allclose(network(x), before, atol=0.05)


def test_rates():
    steps = Steps(at=[100, 105], factors=[0.1, 0.01], of=110)
    for n in (110, 220, 11):  # scaled to trainings of other lengths, exact at each of their epochs
        factors = [steps(epoch / n) for epoch in range(n)]
        assert factors == [1 if 110 * e < 100 * n else 0.1 if 110 * e < 105 * n else 0.01 for e in range(n)]
    linear = Linear(at=[0, 40, 80, 120], factors=[1.0, 1.0, 0.1, 0.01], of=120)
    assert [linear(e / 120) for e in (0, 40, 60, 80, 120)] == pytest.approx([1, 1, 0.55, 0.1, 0.01])
    for wrong in ({"at": [5, 1], "factors": [1, 1]}, {"at": [1], "factors": []}):
        for kind in (Steps, Linear):
            with pytest.raises(ValueError, match="rising"):
                kind(**wrong, of=10)
