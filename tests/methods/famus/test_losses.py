"""Losses and class weights against their formulas, sample by sample, in NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, softmax
from torch import nn

from methods.famus.class_balanced import ClassBalanced, class_balanced_weights
from methods.famus.losses import (
    LDAM,
    CosineHead,
    CrossEntropy,
    Focal,
    class_margins,
    focal_losses,
    margin_losses,
)
from tests.methods.networks import small_network

COUNTS = torch.tensor([500, 81, 16, 1])


def scene(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(9, 4, generator=generator, dtype=torch.float64)
    return z, torch.randint(0, 4, (9,), generator=generator)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_losses_by_their_formula(gamma):
    z, y = scene()
    p = softmax(z.numpy(), axis=1)[np.arange(9), y.numpy()]
    np.testing.assert_allclose(focal_losses(z, y, gamma).numpy(), -((1 - p) ** gamma) * np.log(p))
    assert torch.equal(Focal(gamma)(z, y), focal_losses(z, y, gamma))


def test_margins_are_in_proportion_to_the_fourth_root():
    margins = class_margins(COUNTS, 0.5).tolist()
    assert margins[-1] == pytest.approx(0.5)
    assert margins == pytest.approx([0.5 / 500**0.25, 0.5 / 3, 0.5 / 2, 0.5])


def test_ldam_lowers_the_labelled_logit_alone():
    z, y = scene()
    loss = LDAM(max_margin=0.5, scale=30.0)
    loss.set_class_counts(COUNTS)
    for i, (row, label) in enumerate(zip(z.numpy(), y.tolist(), strict=True)):
        lowered = row.copy()
        lowered[label] -= 30.0 * 0.5 * COUNTS[label].item() ** -0.25
        assert loss(z, y)[i].item() == pytest.approx(-log_softmax(lowered)[label], rel=1e-5)
    assert torch.allclose(margin_losses(z, y, torch.zeros(4)), CrossEntropy()(z, y))
    with pytest.raises(ValueError, match=r"method\.loss sets margins .* a class has none"):
        loss.set_class_counts(torch.tensor([3, 0, 1, 1]))


@given(st.lists(st.integers(1, 400), min_size=2, max_size=6), st.sampled_from([0.0, 0.9, 0.999]))
def test_weights_are_by_the_effective_numbers(counts, beta):
    effective = np.array([sum(beta**i for i in range(n)) for n in counts])  # the series that the formula sums
    wanted = (1 / effective) / (1 / effective).mean()
    np.testing.assert_allclose(class_balanced_weights(torch.tensor(counts), beta).numpy(), wanted, rtol=1e-4)


def test_the_cosine_head_gives_scaled_cosines():
    torch.manual_seed(0)
    head = CosineHead(nn.Linear(6, 3), scale=10.0)
    assert head.in_features == 6
    assert torch.allclose(head.weight.norm(dim=1), torch.ones(3))
    features = torch.randn(5, 6)
    with torch.no_grad():
        head.weight.mul_(7.0)
        cosines = 1 - cdist(features.numpy(), head.weight.numpy(), "cosine")
        np.testing.assert_allclose(head(features).numpy(), 10 * cosines, atol=1e-5)


def test_class_balance_takes_a_rate_below_one():
    with pytest.raises(ValueError, match=r"method\.beta must be in \[0, 1\), got 1"):
        ClassBalanced(small_network(), beta=1.0)
    with pytest.raises(ValueError, match=r"gamma must not be negative"):
        Focal(-1.0)
