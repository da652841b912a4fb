import pytest
import torch
from torch import nn

from methods.esvae import divergences
from methods.esvae.readout import AttentionReadout, MembraneReadout, membrane_weights
from methods.esvae.sampling import BernoulliSampler, PoissonSampler, bernoulli_spikes
from methods.esvae.tdbn import ThresholdBatchNorm
from tests.methods.esvae import official


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_tdbn_is_the_official_one(alpha):
    x = torch.randn(6, 3, 4, 4, 5, generator=generator()) * 2 + 1  # (N, C, H, W, T)
    theirs, ours = official.TdBatchNorm(3, alpha), ThresholdBatchNorm(3, alpha=alpha)
    for training in (True, True, False):
        theirs.train(training)
        ours.train(training)
        found = ours(x.movedim(-1, 0).flatten(0, 1)).unflatten(0, (5, 6)).movedim(0, -1)
        torch.testing.assert_close(found, theirs(x))
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_tdbn_of_a_repeated_step_has_the_statistics_of_all_steps():
    x = torch.randn(4, 3, 2, 2, generator=generator())
    once, all_steps = ThresholdBatchNorm(3), ThresholdBatchNorm(3)
    found = once(x, repeats=7)
    expected = all_steps(x.repeat(7, 1, 1, 1))
    torch.testing.assert_close(found, expected[:4])
    torch.testing.assert_close(once.running_var, all_steps.running_var)
    torch.testing.assert_close(once.running_mean, all_steps.running_mean)


def test_membrane_weights_sum_to_the_published_value():
    assert membrane_weights(16).sum() == pytest.approx(4.859, abs=1e-3)


def test_collapsed_readout_equals_that_of_every_step():
    x = torch.randn(5, 2, 3, 4, 4, generator=generator())
    layer = nn.ConvTranspose2d(3, 2, 3, padding=1)
    torch.testing.assert_close(MembraneReadout(layer, 5)(x), official.readout(layer, x.movedim(0, -1)))
    potential = torch.zeros(())
    for step in x:
        potential = 0.8 * potential + layer(step)
    torch.testing.assert_close(MembraneReadout(layer, 5)(x), torch.tanh(potential))


def test_attention_readout_is_a_weighted_sum_over_steps():
    x = torch.randn(5, 2, 3, 4, 4, generator=generator())
    readout = AttentionReadout(nn.ConvTranspose2d(3, 2, 3, padding=1), 5)
    y = torch.stack([readout.layer(step) for step in x])
    expected = torch.zeros_like(y[0])
    for n in range(2):
        for c in range(2):
            means = y[:, n, c].mean((1, 2))
            weights = (readout.mixing.weight[:, :, 0] @ means).sigmoid()
            expected[n, c] = sum(w * image for w, image in zip(weights, y[:, n, c], strict=True))
    torch.testing.assert_close(readout(x), torch.tanh(expected))


def test_spikes_have_the_given_rates():
    torch.manual_seed(0)
    rates = torch.tensor([[0.0, 0.1, 0.5, 0.9, 1.0]])
    steps = 20_000
    found = BernoulliSampler()(rates, steps).mean(0)
    assert ((found - rates).abs() <= 3 * (rates * (1 - rates) / steps).sqrt()).all()


@pytest.mark.parametrize("gradient", ["rectangle", "straight_through"])
def test_gradient_of_a_spike_is_a_rectangle_around_the_noise(gradient):
    rates = torch.rand(4, 3, generator=generator(), requires_grad=True)
    uniform = torch.rand(6, 4, 3, generator=generator(1))
    spikes = bernoulli_spikes(rates, uniform, gradient)
    assert torch.equal(spikes, (rates > uniform).float())
    weight = torch.randn(6, 4, 3, generator=generator(2))
    (spikes * weight).sum().backward()
    window = torch.ones_like(uniform) if gradient == "straight_through" else ((rates - uniform).abs() < 0.5).float()
    torch.testing.assert_close(rates.grad, (weight * window).sum(0))


def test_noise_is_drawn_in_the_order_of_the_official_code():
    rates = torch.rand(4, 3, generator=generator())
    torch.manual_seed(5)
    found = BernoulliSampler()(rates, 6)
    torch.manual_seed(5)
    assert torch.equal(found, (rates[..., None] > torch.rand(4, 3, 6)).float().movedim(-1, 0))


def test_half_precision_rates_are_compared_in_float32():
    assert BernoulliSampler()(torch.rand(2, 3).bfloat16(), 4).dtype == torch.float32


def test_poisson_counts_have_the_mean_and_variance_of_their_rate():
    torch.manual_seed(0)
    rates = torch.tensor([[0.1, 0.5, 1.0]])
    counts = PoissonSampler().eval()(rates, 20_000)
    assert counts.max() > 1
    torch.testing.assert_close(counts.mean(0), rates, atol=0.03, rtol=0)
    torch.testing.assert_close(counts.var(0), rates, atol=0.05, rtol=0)


def test_relaxed_poisson_counts_rise_with_the_rate():
    torch.manual_seed(0)
    rates = torch.full((1, 1), 0.5, requires_grad=True)
    PoissonSampler()(rates, 5000).mean().backward()
    assert 0.5 < float(rates.grad) < 1.5  # dE[count]/dr = 1


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_mmd_is_that_of_a_loop_over_pairs(shift):
    x, y = torch.rand(5, 3, generator=generator()), torch.rand(5, 3, generator=generator(1)) + shift
    both = torch.cat([x, y]).double()
    distance = [[float(((a - b) ** 2).sum()) for b in both] for a in both]
    width = sum(map(sum, distance)) / (100 - 10)

    def k(i, j):
        return sum(float(torch.tensor(-distance[i][j] / (width * f)).exp()) for f in (0.25, 0.5, 1, 2, 4))

    expected = sum((1 if (i < 5) == (j < 5) else -1) * k(i, j) / 25 for i in range(10) for j in range(10))
    assert float(divergences.gaussian_mmd(x, y)) == pytest.approx(expected, abs=1e-5)


def test_mmd_and_its_gradients_are_the_official_ones():
    x = torch.rand(8, 4, generator=generator(), dtype=torch.float64, requires_grad=True)
    y = (torch.rand(8, 4, generator=generator(1), dtype=torch.float64) + 0.1).requires_grad_()
    ours = torch.autograd.grad(divergences.gaussian_mmd(x, y), (x, y))
    theirs = torch.autograd.grad(official.mmd(x, y), (x, y))
    torch.testing.assert_close(divergences.gaussian_mmd(x, y), official.mmd(x, y), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_mmd_vanishes_for_the_same_set_and_for_coincident_vectors():
    x = torch.rand(8, 4, generator=generator())
    assert abs(float(divergences.gaussian_mmd(x, x.flip(0)))) < 1e-6
    for row in (torch.zeros(32), torch.rand(32, generator=generator()), torch.full((32,), 5 / 16)):
        same = row.repeat(250, 1).requires_grad_()
        value = divergences.gaussian_mmd(same, row.repeat(250, 1))
        value.backward()
        assert float(value.detach()) == 0
        assert float(same.grad.abs().max()) == 0
    assert float(divergences.gaussian_mmd(x, x + 0.5)) > 0.1


def test_mmd_is_the_same_under_autocast():
    x, y = torch.rand(64, 16, generator=generator()), torch.rand(64, 16, generator=generator(1)) * 0.7
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(divergences.gaussian_mmd(x, y), divergences.gaussian_mmd(x, y))
        under = divergences.gaussian_mmd(x, y)
    assert torch.equal(under, divergences.gaussian_mmd(x, y))


def test_a_bandwidth_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="bandwidth of the MMD is nan"):
        divergences.gaussian_mmd(torch.full((4, 2), torch.nan), torch.rand(4, 2))


def test_linear_mmd_is_the_distance_of_means():
    x, y = torch.rand(8, 4), torch.rand(8, 4)
    assert float(divergences.linear_mmd(x, y)) == pytest.approx(float((x.mean(0) - y.mean(0)).norm() ** 2), rel=1e-5)


def test_postsynaptic_potential_is_an_exponential_moving_average():
    x = torch.rand(6, 2, 3, generator=generator())
    found = divergences.postsynaptic_potential(x)
    for t in range(6):
        expected = sum(0.5 ** (t - s + 1) * x[s] for s in range(t + 1))
        torch.testing.assert_close(found[t], expected)
    p = torch.rand(6, 2, 3, generator=generator(1))
    expected = (found - divergences.postsynaptic_potential(p)).square().mean()
    torch.testing.assert_close(divergences.psp_distance(x, p), expected)


def test_gaussian_kl_is_that_of_torch():
    mean, log_variance = torch.randn(5, 3, generator=generator()), torch.randn(5, 3, generator=generator(1))
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(divergences.gaussian_kl(torch.stack([mean, log_variance]), mean), expected)


def test_bernoulli_kl_is_that_of_torch_without_the_offset():
    q, p = torch.rand(4, 5, 3, generator=generator()), torch.rand(4, 5, 3, generator=generator(1))
    expected = (
        torch.distributions.kl_divergence(torch.distributions.Bernoulli(q), torch.distributions.Bernoulli(p))
        .sum((0, 2))
        .mean()
    )
    torch.testing.assert_close(divergences.bernoulli_kl(q, p, eps=0.0), expected)
    assert torch.isfinite(divergences.bernoulli_kl(q.round(), p.round()))
