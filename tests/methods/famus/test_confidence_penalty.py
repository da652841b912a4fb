"""The penalty against torch's own entropy, and what it makes of the warm-up and leaves of the rest."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical

from methods.famus.dividemix import DivideMix, DivideMixConfidencePenalty
from methods.famus.semi_supervised import negative_entropy
from tests.methods.famus.test_dividemix import trained, weights


def test_negative_entropy_is_that_of_torch():
    logits = 3 * torch.randn(6, 5, dtype=torch.float64)
    torch.testing.assert_close(negative_entropy(logits), -Categorical(logits=logits).entropy().mean())


@pytest.mark.parametrize("sure", [0.0, 50.0])
def test_it_lies_between_those_of_unsure_and_of_sure_predictions(sure):
    logits = sure * torch.eye(4, dtype=torch.float64)
    expected = -torch.tensor(4.0, dtype=torch.float64).log() if not sure else torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(negative_entropy(logits), expected, rtol=0, atol=1e-12)


def entropies(module) -> torch.Tensor:
    """(2,): mean entropy of each network's predictions of the training images."""
    x = module.trainer.datamodule.train_images.float() / 255
    module.eval()
    with torch.no_grad():
        return torch.stack([Categorical(logits=one(x)).entropy().mean() for one in module.pair])


def test_networks_are_less_sure_after_such_a_warm_up():
    kinds = (DivideMixConfidencePenalty, DivideMix)
    unsure, plain = (trained(lambda n, kind=kind: kind(n, warmup_epochs=6, lr=0.2), 6, noise=None) for kind in kinds)
    assert bool((entropies(unsure) > entropies(plain) + 0.1).all())


def test_without_a_warm_up_it_is_dividemix():
    made = [
        trained(lambda n, kind=kind: kind(n, warmup_epochs=0), 1) for kind in (DivideMixConfidencePenalty, DivideMix)
    ]
    assert torch.equal(*map(weights, made))
