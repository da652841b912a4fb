"""Perturbed weights against their definition."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from methods.f2at.awp import WeightPerturbation
from tests.methods.networks import batch, small_network


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
    perturbation = WeightPerturbation(gamma=0.5, warmup_epochs=9, total_epochs=76)
    assert [perturbation.is_active(epoch / 152) for epoch in (0, 17, 18)] == [False, False, True]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        before = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        network(x)  # the cache holds the weights
        perturbation.apply(network, lambda: cross_entropy(network(x), y))
        assert (network(x) - before).abs().max() > 0.05
        perturbation.restore()
        assert torch.allclose(network(x), before, atol=0.05)
