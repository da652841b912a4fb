"""Objectives against their formulas, written out image by image, and torch's own losses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import softmax

from methods.attacks import PGD
from methods.f2at import objectives
from tests.methods.networks import batch, small_network

ATTACK = PGD(0.1, 0.03, 3)


def parts(**kwargs):
    network, (x, y) = small_network(**kwargs), batch()
    torch.manual_seed(0)
    return network, x, (x + 0.1 * torch.rand_like(x)).clamp(0, 1), y


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))


def test_trades_is_clean_loss_and_divergence():
    network, x, adv, y = parts()
    loss, logs = objectives.TRADES(ATTACK, beta=6.0)(network, x, adv, y, 0)
    p, q = softmax(network(x), dim=1), softmax(network(adv), dim=1)
    expected = [-math.log(p[i, y[i]].item()) + 6 * kl(p[i], q[i]) for i in range(len(y))]
    assert loss.item() == pytest.approx(sum(expected) / len(y), rel=1e-5)
    assert logs["acc"] == (p.argmax(1) == y).float().mean()


def test_trades_sends_gradient_through_both_sides():
    network, x, adv, y = parts()
    ours = torch.autograd.grad(objectives.TRADES(ATTACK, 6.0)(network, x, adv, y, 0)[0], network.head.weight)[0]
    p, q = softmax(network(x), dim=1), softmax(network(adv), dim=1)
    written = -p[range(len(y)), y].log().mean() + 6 * (p * (p / q).log()).sum(1).mean()
    assert torch.allclose(ours, torch.autograd.grad(written, network.head.weight)[0], atol=1e-5)


def test_mart_weighs_the_divergence_by_wrongness():
    network, x, adv, y = parts()
    loss, _ = objectives.MART(ATTACK, beta=5.0)(network, x, adv, y, 0)
    p, q = softmax(network(x), dim=1), softmax(network(adv), dim=1)
    expected = 0.0
    for i, label in enumerate(y.tolist()):
        runner_up = max(v for c, v in enumerate(q[i].tolist()) if c != label)
        expected += -math.log(q[i, label].item()) - math.log(1.0001 - runner_up + 1e-12)
        expected += 5 * kl(p[i], q[i]) * (1.0000001 - p[i, label].item())
    assert loss.item() == pytest.approx(expected / len(y), rel=1e-4)


def test_lbgat_follows_a_teacher_that_learns():
    network, x, adv, y = parts()
    objective = objectives.LBGAT(ATTACK, beta=0.0)
    objective.begin(network, None)
    assert not torch.equal(objective.teacher.head.weight, network.head.weight)
    loss, _ = objective(network, x, adv, y, 0)
    guide, attacked = objective.teacher(x), network(adv)
    expected = (attacked - guide).square().mean() - softmax(guide, dim=1)[range(len(y)), y].log().mean()
    assert torch.allclose(loss, expected)
    loss.backward()
    assert objective.teacher.head.weight.grad.abs().sum() > 0
    with_divergence = objectives.LBGAT(ATTACK, beta=6.0)
    with_divergence.begin(network, None)
    with_divergence.teacher.load_state_dict(objective.teacher.state_dict())
    added = with_divergence(network, x, adv, y, 0)[0] - loss
    assert torch.allclose(added, 6 * objectives.divergence(network(adv), network(x)), atol=1e-5)


@pytest.mark.parametrize(("epoch", "patience"), [(0, 0), (49, 0), (50, 1), (89, 1), (90, 2)])
def test_friendly_training_grows_more_patient(epoch, patience):
    network, x, _, y = parts()
    torch.manual_seed(0)
    ours = objectives.FriendlyTraining(ATTACK).craft(network, x, y, epoch / 120)
    torch.manual_seed(0)
    assert torch.equal(ours, replace(ATTACK, patience=patience)(network, x, y))


def test_hat_asks_the_helper_further_out():
    network, x, adv, y = parts()
    helper = small_network(seed=5)
    objective = objectives.HAT(ATTACK, beta=2.5, gamma=0.5, reach=3.5)
    with pytest.raises(ValueError, match="naturally trained"):
        objective.begin(network, None)
    objective.begin(network, helper)
    loss, _ = objective(network, x, adv, y, 0)
    without, _ = objectives.TRADES(ATTACK, beta=2.5)(network, x, adv, y, 0)
    outside = softmax(network(x + 3.5 * (adv - x)), dim=1)
    label = helper(adv).argmax(1)
    expected = without - 0.5 * outside[range(len(y)), label].log().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not any(weight.requires_grad for weight in objective.helper.parameters())


def test_bpfc_coarsens_bit_planes_and_compares_logits():
    network, x, _, y = parts()
    objective = objectives.BPFC(planes=5, weight=2.0, growth=9.0, at=(25, 50), of=100)
    coarse = objective.craft(network, x, y, 0)
    greys = (255 * coarse).round()
    assert set(greys.unique().tolist()) <= {*range(16, 256, 32), 0, 255}  # the middles of 8 steps; clipped at the ends
    assert ((greys - 255 * x).abs() <= 8 + 16 + 1e-3).all()  # noise, then half a step
    for epoch, factor in ((0, 2.0), (25, 18.0), (60, 162.0)):
        loss, _ = objective(network, x, coarse, y, epoch / 100)
        a, b = network(x), network(coarse)
        expected = -softmax(a, dim=1)[range(len(y)), y].log().mean() + factor * (a - b).square().sum(1).mean()
        assert torch.allclose(loss, expected, rtol=1e-5)


def test_without_an_attack_images_stay():
    network, x, _, y = parts()
    assert objectives.Objective().craft(network, x, y, 0) is x
