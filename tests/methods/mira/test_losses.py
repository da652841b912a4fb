"""Losses of inversion, unlearning and embedding against hand values, loops and torch's own functions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from methods.mira.batchnorm_prior import BatchNormPrior
from methods.mira.losses import l2_norm, snnl, total_variation, uniform_kl
from tests.methods.networks import small_network


def test_total_variation_by_hand():
    x = torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]])
    # vertical: 2^2 + 3^2 = 13 over 1 * 1 * 2; horizontal: 1^2 + 2^2 = 5 over 1 * 2 * 1
    assert total_variation(x).item() == pytest.approx(2 * (13 / 2 + 5 / 2))


def test_norm_scales_with_the_root_of_the_batch():
    x = torch.full((1, 1, 2, 2), 3.0)
    assert l2_norm(x).item() == pytest.approx(6.0)
    assert l2_norm(x.repeat(4, 1, 1, 1)).item() == pytest.approx(12.0 / 4)


def test_uniform_kl_is_the_old_reduction_of_pytorch():
    logits = torch.randn(5, 10)
    uniform = torch.full((5, 10), 0.1)
    mean = kl_div(log_softmax(logits, 1), uniform, reduction="mean")
    torch.testing.assert_close(uniform_kl(logits), mean)
    batch_mean = kl_div(log_softmax(logits, 1), uniform, reduction="batchmean")
    torch.testing.assert_close(uniform_kl(logits), batch_mean / 10)
    assert uniform_kl(torch.zeros(3, 10)).item() == pytest.approx(0, abs=1e-7)


def test_snnl_against_a_double_loop():
    torch.manual_seed(0)
    features, groups, temperature = torch.randn(7, 3, 2), torch.tensor([0, 1, 0, 1, 1, 0, 0]), 0.7
    a = features.flatten(1).clamp(min=0).tolist()

    def near(i, j):
        dot = sum(p * q for p, q in zip(a[i], a[j], strict=True))
        norms = math.sqrt(sum(p * p for p in a[i])) * math.sqrt(sum(q * q for q in a[j]))
        return min(max(math.exp(-(1 - dot / max(norms, 1e-8)) / temperature), 0), 1)

    total = 0.0
    for i in range(7):
        same = sum(near(i, j) for j in range(7) if j != i and groups[j] == groups[i])
        every = sum(near(i, k) for k in range(7) if k != i)
        total -= math.log(same / (every + 1e-5) + 1e-5)
    assert snnl(features, groups, temperature).item() == pytest.approx(total / 7, rel=1e-5)


def test_snnl_has_finite_gradients_where_units_are_dead():
    features = torch.full((4, 3), -1.0, requires_grad=True)
    snnl(features, torch.tensor([0, 0, 1, 1]), 1.0).backward()
    assert torch.isfinite(features.grad).all()


def test_batch_norm_prior_by_hand():
    layers = [nn.BatchNorm2d(1), nn.BatchNorm2d(1), nn.BatchNorm2d(1)]
    network = nn.Sequential(*layers).eval()
    layers[0].running_mean.fill_(0.5)
    layers[0].running_var.fill_(4.0)
    x = torch.tensor([[[[1.0, 3.0]]], [[[5.0, 7.0]]]])  # mean 4, biased variance 5
    with BatchNormPrior(network, skip_last=2) as prior:
        network(x)
        assert prior.take().item() == pytest.approx(abs(4 - 5) + abs(0.5 - 4))
        assert prior.take().item() == 0  # forgotten
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_batch_norm_prior_of_groups_is_the_sum_over_separate_batches():
    network = small_network()
    x = torch.rand(12, 1, 8, 8)
    with BatchNormPrior(network, groups=3, skip_last=0) as prior:
        network(x)
        together = prior.take()
    with BatchNormPrior(network, groups=1, skip_last=0) as prior:
        parts = []
        for part in x.split(4):
            network(part)
            parts.append(prior.take())
    torch.testing.assert_close(together, sum(parts))
