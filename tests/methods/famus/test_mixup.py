"""Mixtures sample by sample, the mentor's threshold by hand, and whom MentorMix mixes with whom."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from torch.nn.functional import one_hot

from methods.famus.losses import Focal
from methods.famus.mentormix import mentor_mixture
from methods.famus.mentornet import Mentor
from methods.famus.mixup import Mixup, mix_images_and_labels
from tests.methods.networks import batch, small_network


def test_mixtures_sample_by_sample():
    x, y = batch(n=5)
    partner, own = torch.tensor([1, 1, 4, 0, 2]), torch.tensor([0.0, 1.0, 0.3, 0.6, 0.9])
    images, labels = mix_images_and_labels(x, y, partner, own, 4)
    for i, (j, part) in enumerate(zip(partner.tolist(), own.tolist(), strict=True)):
        assert torch.allclose(images[i], part * x[i] + (1 - part) * x[j])
        wanted = part * one_hot(y[i], 4) + (1 - part) * one_hot(y[j], 4)
        assert torch.allclose(labels[i], wanted)


def test_the_mentor_follows_a_percentile():
    mentor = Mentor(percentile=0.7, ema_decay=0.5, burn_in=0.5)
    random = np.random.default_rng(0)
    average = None
    for epoch in (0, 1, 2, 3):
        losses = random.gamma(2.0, size=40).astype(np.float32)
        now = np.percentile(losses, 70)
        average = now if average is None else 0.5 * average + 0.5 * now
        trusted = mentor(torch.from_numpy(losses), epoch / 4)
        wanted = np.ones(40) if epoch < 2 else (losses <= average).astype(float)
        np.testing.assert_array_equal(trusted.numpy(), wanted)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=2, max_size=30))
def test_a_trusted_sample_is_the_larger_part(samples):
    trusted, drawn = torch.tensor([float(t) for t, _ in samples]), torch.tensor([d for _, d in samples])
    partner, own = mentor_mixture(trusted, drawn)
    assert ((own >= 0.5) | (trusted < 0.5)).all()
    assert ((own <= 0.5) | (trusted > 0.5)).all()
    assert torch.allclose(torch.maximum(own, 1 - own), torch.maximum(drawn, 1 - drawn))
    assert ((partner >= 0) & (partner < len(samples))).all()


def test_partners_are_drawn_by_the_softmax_of_trust():
    torch.manual_seed(0)
    trusted = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])
    drawn = torch.cat([mentor_mixture(trusted, torch.rand(5))[0] for _ in range(4000)])
    share = drawn.bincount(minlength=5).numpy() / len(drawn)
    np.testing.assert_allclose(share, softmax(trusted.numpy()), atol=0.015)  # 4 deviations


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"method\.alpha must be positive"):
        Mixup(small_network(), alpha=0)
    with pytest.raises(ValueError, match=r"method\.loss must be the cross-entropy"):
        Mixup(small_network(), loss=Focal())
    with pytest.raises(ValueError, match=r"method\.mentor\.percentile must be in \[0, 1\]"):
        Mentor(percentile=70)
