"""The mixture over losses against Bayes' rule with the true parameters; the division's limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from methods.famus.codivide import clean_posterior, divide, normalized_losses


def losses_of(clean: int, noisy: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = 0.5 + 0.2 * torch.randn(clean, generator=generator)
    return torch.cat([low, 3.0 + 0.5 * torch.randn(noisy, generator=generator)])


@pytest.mark.parametrize(("clean", "noisy"), [(600, 400), (300, 700)])
def test_the_posterior_is_bayes_rule_where_the_components_are_apart(clean, noisy):
    losses = losses_of(clean, noisy)
    density = torch.stack(
        [clean * Normal(0.5, 0.2).log_prob(losses).exp(), noisy * Normal(3.0, 0.5).log_prob(losses).exp()]
    )
    found = clean_posterior(normalized_losses(losses))
    assert found.shape == losses.shape
    assert float((found - density[0] / density.sum(0)).abs().mean()) < 0.005
    assert int(((found > 0.5) != (density[0] > density[1])).sum()) <= 2


@settings(max_examples=20)
@given(scale=st.floats(0.01, 100), shift=st.floats(-5, 5))
def test_the_posterior_knows_no_units(scale, shift):
    losses = losses_of(30, 20).double()
    scaled, plain = (clean_posterior(normalized_losses(values)) for values in (scale * losses + shift, losses))
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-4)


def test_losses_that_are_all_alike_say_nothing():
    found = clean_posterior(normalized_losses(torch.full((7,), 2.3)))
    assert found.tolist() == [0.5] * 7
    assert int(divide(found, 0.5, least=1, most=6).sum()) == 4


def test_a_loss_that_is_not_finite_is_said():
    with pytest.raises(FloatingPointError, match=r"lower method\.lr"):
        normalized_losses(torch.tensor([0.1, torch.nan, 0.3]))


@given(
    posterior=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=30),
    threshold=st.floats(0, 1, width=32),
    bounds=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_a_division_keeps_to_its_limits_and_takes_the_most_probable(posterior, threshold, bounds):
    posterior = torch.tensor(posterior)
    least, most = bounds[0], len(posterior) - bounds[1]
    chosen = divide(posterior, threshold, least, most)
    assert least <= int(chosen.sum()) <= most
    if chosen.any() and not chosen.all():
        assert posterior[chosen].min() >= posterior[~chosen].max()
    above = [p > threshold for p in posterior.tolist()]
    if least <= sum(above) <= most:
        assert chosen.tolist() == above


@pytest.mark.parametrize("posterior", [[0.9, 0.1, 0.2, 0.3], [0.9, 0.8, 0.7, 0.6]])
def test_too_few_or_too_many_make_it_the_better_half(posterior):
    expected = sorted(posterior)[2:]
    chosen = divide(torch.tensor(posterior), 0.5, least=2, most=3)
    assert sorted(round(p, 1) for p in torch.tensor(posterior)[chosen].tolist()) == expected
