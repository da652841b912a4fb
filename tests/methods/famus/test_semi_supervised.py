"""Soft targets by hand, MixUp's invariants, losses against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence
from torch.nn.functional import cross_entropy, mse_loss

from methods.famus.mixup import interpolate
from methods.famus.semi_supervised import (
    draw_mixup,
    linear_rampup,
    prior_penalty,
    refined_labels,
    semi_supervised_losses,
    sharpen,
)

seeds = st.integers(0, 10_000)


def distributions(n: int, k: int, seed: int) -> torch.Tensor:
    return torch.softmax(2 * torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), 1)


def test_refined_labels_by_hand():
    found = refined_labels(torch.tensor([[1.0, 0.0]]), torch.tensor([0.6]), torch.tensor([[0.3, 0.7]]), 0.5)
    a, b = 0.72**2, 0.28**2  # 0.6 + 0.4 x 0.3, and 0.4 x 0.7, to the power of 1 / 0.5
    torch.testing.assert_close(found, torch.tensor([[a / (a + b), b / (a + b)]]))


def test_a_label_that_is_believed_stays_and_one_that_is_not_is_the_prediction():
    labels, predicted = torch.eye(3), torch.full((3, 3), 1 / 3)
    torch.testing.assert_close(refined_labels(labels, torch.ones(3), predicted, 0.5), labels)
    torch.testing.assert_close(refined_labels(labels, torch.zeros(3), predicted, 0.5), predicted)


@given(seed=seeds, temperature=st.floats(0.2, 1.0))
def test_sharpening_raises_the_highest_and_keeps_distributions(seed, temperature):
    p = distributions(5, 4, seed)
    found = sharpen(p, temperature)
    torch.testing.assert_close(found.sum(1), torch.ones(5, dtype=torch.float64))
    assert torch.equal(found.argmax(1), p.argmax(1))
    assert bool((found.max(1).values >= p.max(1).values - 1e-12).all())
    torch.testing.assert_close(sharpen(p, 1.0), p)


@given(seed=seeds, n=st.integers(2, 12), alpha=st.floats(0.1, 8))
def test_mixup_keeps_the_mean_and_each_image_counts_most_for_itself(seed, n, alpha):
    torch.manual_seed(seed)
    values = torch.randn(n, 3, dtype=torch.float64)
    share, partners = draw_mixup(n, alpha, values)
    assert 0.5 <= float(share) <= 1
    assert sorted(partners.tolist()) == list(range(n))
    found = interpolate(values, share, partners)
    torch.testing.assert_close(found.mean(0), values.mean(0))
    assert bool((found >= torch.minimum(values, values[partners]) - 1e-12).all())
    p = interpolate(distributions(n, 4, seed), share, partners)
    torch.testing.assert_close(p.sum(1), torch.ones(n, dtype=torch.float64))


def test_one_share_serves_images_and_targets():
    values = torch.arange(4.0)
    share, partners = torch.tensor(0.75), torch.tensor([1, 0, 3, 2])
    assert interpolate(values, share, partners).tolist() == [0.25, 0.75, 2.25, 2.75]
    images = values[:, None, None, None].expand(4, 1, 2, 2)
    assert torch.equal(interpolate(images, share, partners)[:, 0, 0, 0], interpolate(values, share, partners))


@given(seed=seeds)
def test_the_penalty_is_the_divergence_from_uniform(seed):
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mean = torch.softmax(logits, 1).mean(0)
    torch.testing.assert_close(
        prior_penalty(logits), kl_divergence(Categorical(torch.ones_like(mean)), Categorical(mean))
    )


@given(seed=seeds, weight=st.floats(0, 150))
def test_samples_alike_make_the_loss_of_dividemix(seed, weight):
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels, guesses = distributions(8, 3, seed + 1), distributions(8, 3, seed + 2)
    losses = semi_supervised_losses(logits, labels, guesses, weight)
    assert losses.shape == (9,)
    expected = cross_entropy(logits[:4], labels[:4]) + weight * mse_loss(torch.softmax(logits[4:], 1), guesses[4:])
    mean = torch.softmax(logits, 1).mean(0)
    expected = expected + (torch.log(1 / 3 / mean) / 3).sum()
    torch.testing.assert_close(losses[:-1].mean() + losses[-1], expected)


@pytest.mark.parametrize(("epochs", "expected"), [(-1, 0), (0, 0), (4, 0.25), (16, 1), (99, 1)])
def test_the_ramp_ends_after_sixteen_epochs(epochs, expected):
    assert linear_rampup(epochs) == expected
