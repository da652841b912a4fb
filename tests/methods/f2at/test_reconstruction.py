"""The reconstruction's terms against their formulas; without them it is adversarial training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, softmax

from methods.attacks import PGD
from methods.f2at.bitplanes import BitPlanes
from methods.f2at.objective import Objective, kl_divergence
from methods.f2at.reconstruction import (
    FeatureReconstruction,
    LogitReconstruction,
    TradesReconstruction,
    frozen_statistics,
    kl_from_uniform,
)
from methods.f2at.trades import TRADES
from tests.methods.networks import batch, small_network

ATTACK = PGD(0.1, 0.03, 3)
PLANES = BitPlanes(4)
ZEROS = {"natural_weight": 0.0, "alignment_weight": 0.0, "perturbed_weight": 0.0}


def trained(objective, attack=ATTACK, steps: int = 4):
    """A network's weights after some steps of SGD."""
    torch.manual_seed(3)
    network = small_network().train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9)
    for step in range(steps):
        x, y = batch(seed=step)
        torch.manual_seed(step)
        adv = objective.perturb(attack, network, x, y, 0)
        loss, _ = objective(network, x, adv, y, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.state_dict()


@pytest.mark.parametrize("variant", [LogitReconstruction, FeatureReconstruction])
def test_with_all_terms_at_0_it_is_adversarial_training(variant):
    ours, theirs = trained(variant(PLANES, **ZEROS)), trained(Objective())
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    other = trained(variant(PLANES))
    assert not torch.equal(other["head.weight"], theirs["head.weight"])


def test_variant_b_with_all_terms_at_0_is_trades():
    attack = PGD(0.1, 0.03, 3, loss="kl", start="gaussian")
    ours, theirs = trained(TradesReconstruction(PLANES, beta=6.0, **ZEROS), attack), trained(TRADES(6.0), attack)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_variant_a_is_the_sum_of_its_terms():
    network, (x, y) = small_network(), batch()
    adv = (x + 0.05).clamp(0, 1)
    loss, logs = LogitReconstruction(PLANES, natural_weight=2.0, alignment_weight=3.0, perturbed_weight=0.5)(
        network, x, adv, y, 0
    )
    natural, perturbed = PLANES(adv)
    z, z_n, z_p = network(adv), network(natural), network(perturbed)
    p = softmax(z_p, dim=1)
    uniform = torch.full_like(p, 0.25)
    expected = cross_entropy(z, y) + 2 * cross_entropy(z_n, y) + 3 * kl_divergence(z, z_n)
    expected = expected + 0.5 * (uniform * (uniform / p).log()).sum(1).mean()
    assert torch.allclose(loss, expected, rtol=1e-5)
    assert logs["leak"] == PLANES.leak(x, adv)


def test_variant_c_compares_directions_of_features():
    network, (x, y) = small_network(), batch()
    loss, _ = FeatureReconstruction(PLANES, natural_weight=2.0, alignment_weight=0.0, perturbed_weight=0.5)(
        network, x, x, y, 0
    )
    natural, perturbed = PLANES(x)
    h, h_n, h_p = (network.features(v) for v in (x, natural, perturbed))
    cosine = [(h * other).sum(1) / (h.norm(dim=1) * other.norm(dim=1)) for other in (h_n, h_p)]
    expected = cross_entropy(network(x), y) + 2 * (1 - cosine[0]).mean() + 0.5 * cosine[1].square().mean()
    assert torch.allclose(loss, expected, rtol=1e-5)


def test_uniform_predictions_have_no_divergence_from_uniform():
    assert kl_from_uniform(torch.zeros(3, 7)).abs() < 1e-6
    logits = torch.randn(5, 4, dtype=torch.float64)
    expected = -torch.log(torch.tensor(4.0)) - log_softmax(logits, dim=1).mean()
    assert torch.allclose(kl_from_uniform(logits), expected, atol=1e-6)


def test_the_perturbed_pattern_leaves_no_trace_in_running_statistics():
    network, (x, y) = small_network().train(), batch()
    before = copy.deepcopy(network.state_dict())
    with frozen_statistics(network):
        network(x)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network(x)
    assert not torch.equal(network.state_dict()["layers.1.running_mean"], before["layers.1.running_mean"])

    def statistics(perturbed_statistics):
        one = small_network().train()
        LogitReconstruction(PLANES, perturbed_statistics=perturbed_statistics)(one, x, x, y, 0)
        return one.layers[1].running_mean, int(one.layers[1].num_batches_tracked)

    assert statistics(False)[1] + 1 == statistics(True)[1]
    assert not torch.equal(statistics(False)[0], statistics(True)[0])


def test_gradients_reach_the_weights_from_every_term():
    network, (x, y) = small_network(), batch()
    for one in ZEROS:
        without = LogitReconstruction(PLANES, **ZEROS)(network, x, x, y, 0)[0]
        with_it = LogitReconstruction(PLANES, **(ZEROS | {one: 1.0}))(network, x, x, y, 0)[0]
        gradient = torch.autograd.grad(with_it - without, network.head.weight)[0]
        assert gradient.abs().sum() > 0, one


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match=r"method\.objective\.perturbed_weight must not be negative"):
        LogitReconstruction(PLANES, perturbed_weight=-1.0)
