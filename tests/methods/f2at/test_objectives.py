"""Objectives against their formulas, written out image by image, and torch's own losses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import softmax

from methods.architectures.wide_resnet import WideResNet
from methods.attacks import PGD, NoAttack
from methods.f2at.awp import WeightPerturbation
from methods.f2at.bpfc import BPFC
from methods.f2at.fat import FriendlyAdversarialTraining
from methods.f2at.hat import HAT
from methods.f2at.lbgat import LBGAT
from methods.f2at.lr_schedules import PiecewiseConstant
from methods.f2at.mart import MART
from methods.f2at.objective import Objective, kl_divergence
from methods.f2at.trades import TRADES
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
    loss, logs = TRADES(beta=6.0)(network, x, adv, y, 0)
    p, q = softmax(network(x), dim=1), softmax(network(adv), dim=1)
    expected = [-math.log(p[i, y[i]].item()) + 6 * kl(p[i], q[i]) for i in range(len(y))]
    assert loss.item() == pytest.approx(sum(expected) / len(y), rel=1e-5)
    assert logs["acc"] == (p.argmax(1) == y).float().mean()


def test_trades_sends_gradient_through_both_sides():
    network, x, adv, y = parts()
    ours = torch.autograd.grad(TRADES(6.0)(network, x, adv, y, 0)[0], network.head.weight)[0]
    p, q = softmax(network(x), dim=1), softmax(network(adv), dim=1)
    written = -p[range(len(y)), y].log().mean() + 6 * (p * (p / q).log()).sum(1).mean()
    assert torch.allclose(ours, torch.autograd.grad(written, network.head.weight)[0], atol=1e-5)


def test_trades_passes_clean_attacked_and_clean_images_in_this_order():
    network, x, adv, y = parts()
    network.train()
    mean, convolution = network.layers[1].running_mean.clone(), network.layers[0]
    statistics = [convolution((v - network.mean) / network.std).mean((0, 2, 3)).detach() for v in (x, adv, x)]
    for batch_mean in statistics:
        mean = 0.9 * mean + 0.1 * batch_mean
    TRADES(6.0)(network, x, adv, y, 0)
    torch.testing.assert_close(network.layers[1].running_mean, mean)
    assert not torch.allclose(statistics[0], statistics[1], atol=1e-3)


def test_friendly_training_needs_pgd():
    with pytest.raises(TypeError, match=r"method\.train_attack"):
        FriendlyAdversarialTraining().perturb(NoAttack(), *parts()[:2], None, 0)


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        (WeightPerturbation, {"gamma": -1.0}, "weight_perturbation.gamma must not be negative"),
        (WeightPerturbation, {"gamma": 0.1, "total_epochs": 0}, "weight_perturbation.total_epochs must be positive"),
        (PiecewiseConstant, {"epochs": (0, 1), "factors": (1,), "total_epochs": 2}, "lr_schedule needs rising epochs"),
        (PiecewiseConstant, {"epochs": (1,), "factors": (-1,), "total_epochs": 2}, "factors must not be negative"),
        (PiecewiseConstant, {"epochs": (1,), "factors": (1,), "total_epochs": 0}, "total_epochs must be positive"),
    ],
)
def test_other_parts_refuse_settings_out_of_range(part, settings, message):
    with pytest.raises(ValueError, match=rf"method\..*{message}"):
        part(**settings)


@pytest.mark.parametrize(
    ("objective", "settings", "message"),
    [
        (TRADES, {"beta": -1.0}, "beta must not be negative"),
        (MART, {"beta": -1.0}, "beta must not be negative"),
        (LBGAT, {"beta": -1.0}, "beta must not be negative"),
        (HAT, {"gamma": -1.0}, "gamma must not be negative"),
        (BPFC, {"weight": -1.0}, "weight must not be negative"),
        (FriendlyAdversarialTraining, {"epochs": (50, 90), "tau": (1, 2)}, "an epoch 0 among them"),
        (FriendlyAdversarialTraining, {"tau": (0, 1)}, "one tau .* for each of its epochs"),
        (FriendlyAdversarialTraining, {"tau": (0, -1, 1)}, "at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(objective, settings, message):
    with pytest.raises(ValueError, match=rf"method\.objective.*{message}"):
        objective(**settings)


def test_a_teacher_starts_from_its_networks_initialisation():
    torch.manual_seed(0)
    dims = {"in_channels": 3, "num_classes": 10, "image_size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}
    network = WideResNet(**dims, depth=10, widen=2)
    objective = LBGAT()
    objective.prepare(network, None)
    for name in ("stages.2.0.conv1.weight", "stages.2.0.conv2.weight"):
        ours, theirs = network.get_parameter(name), objective.teacher.get_parameter(name)
        assert not torch.equal(ours, theirs)
        assert theirs.std().item() == pytest.approx(math.sqrt(2 / (9 * len(theirs))), rel=0.05)
    assert not objective.teacher.head.bias.any()


def test_mart_weighs_the_divergence_by_wrongness():
    network, x, adv, y = parts()
    loss, _ = MART(beta=5.0)(network, x, adv, y, 0)
    p, q = softmax(network(x), dim=1), softmax(network(adv), dim=1)
    expected = 0.0
    for i, label in enumerate(y.tolist()):
        runner_up = max(v for c, v in enumerate(q[i].tolist()) if c != label)
        expected += -math.log(q[i, label].item()) - math.log(1.0001 - runner_up + 1e-12)
        expected += 5 * kl(p[i], q[i]) * (1.0000001 - p[i, label].item())
    assert loss.item() == pytest.approx(expected / len(y), rel=1e-4)


def test_lbgat_follows_a_teacher_that_learns():
    network, x, adv, y = parts()
    objective = LBGAT(beta=0.0)
    objective.prepare(network, None)
    assert not torch.equal(objective.teacher.head.weight, network.head.weight)
    loss, _ = objective(network, x, adv, y, 0)
    guide, attacked = objective.teacher(x), network(adv)
    expected = (attacked - guide).square().mean() - softmax(guide, dim=1)[range(len(y)), y].log().mean()
    assert torch.allclose(loss, expected)
    loss.backward()
    assert objective.teacher.head.weight.grad.abs().sum() > 0
    with_divergence = LBGAT(beta=6.0)
    with_divergence.prepare(network, None)
    with_divergence.teacher.load_state_dict(objective.teacher.state_dict())
    added = with_divergence(network, x, adv, y, 0)[0] - loss
    assert torch.allclose(added, 6 * kl_divergence(network(adv), network(x)), atol=1e-5)


@pytest.mark.parametrize(("epoch", "tau"), [(0, 0), (49, 0), (50, 1), (89, 1), (90, 2)])
def test_friendly_attacks_stop_later_in_later_epochs(epoch, tau):
    network, x, _, y = parts()
    torch.manual_seed(0)
    ours = FriendlyAdversarialTraining().perturb(ATTACK, network, x, y, epoch / 120)
    torch.manual_seed(0)
    assert torch.equal(ours, replace(ATTACK, tau=tau)(network, x, y))


def test_hat_asks_the_helper_further_out():
    network, x, adv, y = parts()
    helper = small_network(seed=5)
    objective = HAT(beta=2.5, gamma=0.5, h=3.5)
    with pytest.raises(ValueError, match="naturally trained"):
        objective.prepare(network, None)
    objective.prepare(network, helper)
    loss, _ = objective(network, x, adv, y, 0)
    without, _ = TRADES(beta=2.5)(network, x, adv, y, 0)
    outside = softmax(network(x + 3.5 * (adv - x)), dim=1)
    label = helper(adv).argmax(1)
    expected = without - 0.5 * outside[range(len(y)), label].log().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not any(weight.requires_grad for weight in objective.helper.parameters())


def test_bpfc_coarsens_bit_planes_and_compares_logits():
    network, x, _, y = parts()
    objective = BPFC(k=5, weight=2.0, growth=9.0, growth_epochs=(25, 50), total_epochs=100)
    coarse = objective.perturb(NoAttack(), network, x, y, 0)
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
    assert Objective().perturb(NoAttack(), network, x, y, 0) is x
