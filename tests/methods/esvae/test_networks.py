import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from methods.esvae.ann import ANNVAE, FeatureAutoencoder
from methods.esvae.divergences import bernoulli_kl, gaussian_kl, gaussian_mmd, psp_distance
from methods.esvae.fsvae import FSVAE, TAID
from methods.esvae.lif import LIF
from methods.esvae.networks import ESVAE, SAE
from methods.esvae.sampling import PoissonSampler, bernoulli_spikes
from tests.methods.esvae import official

LARGE = (32, 64, 128, 256, 512)
SMALL = {"widths": (4, 6), "latent_dim": 5, "steps": 7}


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("network", "mnist", "cifar10", "celeba"),
    [  # measured on the official classes, without the weights that ESVAE's never uses
        (ESVAE, 855_905, 1_069_411, 3_696_227),
        (FSVAE, 4_053_601, 4_054_755, 6_681_571),
        (ANNVAE, 1_180_641, 1_181_795, 3_937_635),
    ],
)
def test_parameter_counts_are_those_of_the_official_networks(network, mnist, cifar10, celeba):
    small = 32 if network is ESVAE else 128
    assert parameters(network(1, 32, latent_dim=small)) == mnist
    assert parameters(network(3, 32, latent_dim=128)) == cifar10
    assert parameters(network(3, 64, latent_dim=128, widths=LARGE)) == celeba


def test_taid_adds_a_matrix_over_time():
    assert parameters(TAID(3, 32)) == 4_054_755 + 16 * 16


@pytest.mark.parametrize("network", [ESVAE, SAE, FSVAE, TAID])
def test_images_come_out_as_they_went_in(network):
    x = torch.rand(3, 2, 16, 16) * 2 - 1
    made = network(2, 16, **SMALL)
    encoded = made.encode(x)
    assert encoded.latents.shape == (7, 3, 5)
    assert set(encoded.latents.unique().tolist()) <= {0.0, 1.0}
    image = made.decode(encoded.latents)
    assert image.shape == x.shape
    assert image.abs().max() < 1
    assert made.representation(x).shape == (3, 5)
    assert made.decode(made.latents_of(made.representation(x))).shape == x.shape
    if made.generative:
        assert made.decode(made.sample(4)).shape == (4, 2, 16, 16)


def test_an_ordinary_vae_has_the_same_interface():
    x, network = torch.rand(3, 1, 16, 16) * 2 - 1, ANNVAE(1, 16, widths=(4, 6), latent_dim=5)
    encoded = network.encode(x)
    assert encoded.posterior.shape == (2, 3, 5)
    assert network.decode(network.sample(4)).shape == (4, 1, 16, 16)
    assert torch.equal(network.representation(x), encoded.posterior[0])
    assert torch.isfinite(gaussian_kl(encoded.posterior, encoded.prior))
    features = FeatureAutoencoder(1, 16, widths=(4, 6), latent_dim=5)
    assert torch.equal(features.encode(x).latents, features.representation(x))


@pytest.mark.parametrize("training", [True, False])
def test_esvae_is_the_official_arithmetic(training):
    """Spikes, loss and gradients, with the same weights and the same random numbers, time last in theirs."""
    torch.manual_seed(0)
    network = ESVAE(1, 16, **SMALL)
    for _ in range(100):  # running statistics for evaluation mode
        network.decode(network.encode(torch.rand(6, 1, 16, 16) * 2 - 1).latents)
    network.train(training)
    x = torch.rand(6, 1, 16, 16) * 2 - 1
    noise, uniform = torch.randn(6, 5), torch.rand(6, 5, 7)

    published = official.Published(network)

    def theirs():
        e, z, image, r, prior = published(x, noise, uniform)
        return e, z, mse_loss(image, x) + 0.1 * official.mmd(r, prior)

    def ours():
        e = network.encoder(x)
        r, prior = e.mean(0), network.prior(noise).sigmoid()
        z = bernoulli_spikes(r, uniform.movedim(-1, 0))
        return e.movedim(0, -1), z.movedim(0, -1), mse_loss(network.decode(z), x) + 0.1 * gaussian_mmd(r, prior)

    results = {}
    for name, run in (("theirs", theirs), ("ours", ours)):
        network.zero_grad()
        spikes, latents, loss = run()
        loss.backward()
        gradients = {k: p.grad.clone() for k, p in network.named_parameters() if not k.endswith("layer.bias")}
        results[name] = spikes, latents, loss, gradients
    for a, b in zip(results["ours"][:2], results["theirs"][:2], strict=True):
        assert torch.equal(a, b)
        assert 0 < a.mean() < 1
    torch.testing.assert_close(results["ours"][2], results["theirs"][2])
    for name, gradient in results["ours"][3].items():  # biases before a normalisation have none
        torch.testing.assert_close(gradient, results["theirs"][3][name], rtol=1e-3, atol=1e-6, msg=name)


def test_the_prior_has_its_own_parameters():
    assert parameters(nn.ParameterList(ESVAE(1, 16, **SMALL).prior_parameters())) == 5 * 5 + 5
    assert not FSVAE(1, 16, **SMALL).prior_parameters()


def test_poisson_counts_pass_the_decoder():
    network = ESVAE(1, 16, sampler=PoissonSampler(), **SMALL)
    x = torch.rand(3, 1, 16, 16)
    mse_loss(network.decode(network.encode(x).latents), x).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def warmed(network, x):
    """Batch statistics of a few batches, then evaluation mode."""
    for _ in range(20):
        network.encode(x)
    return network.eval()


def test_generation_with_states_equals_the_prefix_rerun():
    torch.manual_seed(0)
    network = FSVAE(1, 16, k=6, **SMALL)
    warmed(network, torch.rand(16, 1, 16, 16))
    index = torch.randint(6, (7, 20, 5))
    with torch.no_grad():
        stepwise, prefix = network.sampled_by_step(index), network.sampled_by_prefix(index)
    assert torch.equal(stepwise, prefix)
    assert 0 < stepwise.mean() < 1


def test_posterior_with_states_equals_the_prefix_rerun():
    torch.manual_seed(0)
    network = FSVAE(1, 16, k=6, **SMALL)
    x = torch.rand(16, 1, 16, 16) * 2 - 1
    warmed(network, x)
    with torch.no_grad():
        features = network.encoder(x)
        index = torch.randint(6, features.shape)
        assert torch.equal(network.drawn_by_step(features, index), network.drawn_by_prefix(features, index))
        latents, probabilities = network.posterior_pass(features, index)
    assert torch.equal(latents[:-1], network.drawn_by_step(features, index)[1:])
    assert probabilities.shape == latents.shape


def test_the_first_pass_updates_the_running_statistics_too():
    network = FSVAE(1, 16, k=6, **SMALL)
    updates = []
    norm = network.posterior.blocks[0].norm
    norm.register_forward_hook(lambda *_: updates.append(1))
    network.encode(torch.rand(4, 1, 16, 16))
    assert len(updates) == 7  # T - 1 prefixes and the pass with gradient


def test_gradients_reach_encoder_posterior_and_prior():
    torch.manual_seed(0)
    network = FSVAE(1, 16, k=6, **SMALL)
    encoded = network.encode(torch.rand(8, 1, 16, 16) * 2 - 1)
    (network.decode(encoded.latents).square().mean() + psp_distance(encoded.posterior, encoded.prior)).backward()
    for part in (network.encoder, network.posterior, network.prior, network.decoder):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    assert torch.isfinite(bernoulli_kl(encoded.posterior, encoded.prior))


def test_scheduled_sampling_replaces_late_steps_in_training_alone(monkeypatch):
    torch.manual_seed(0)
    network = FSVAE(1, 16, k=6, scheduled=(0.1, 0.3), widths=(4, 6), latent_dim=5, steps=9)
    latents = torch.randint(2, (9, 4, 5)).float()
    shifted = torch.cat([torch.zeros(1, 4, 5), latents[:-1]])
    network.set_progress(0.5)
    assert network.probability == pytest.approx(0.2)
    asked = []
    monkeypatch.setattr("random.random", lambda: asked.append(1) or 0.0)
    replaced = network.prior_inputs(latents)
    assert len(asked) == 9 - 1 - 5
    assert torch.equal(replaced[:6], shifted[:6])
    assert not torch.equal(replaced[6:], shifted[6:])
    assert torch.equal(network.eval().prior_inputs(latents), shifted)


@pytest.mark.parametrize("surrogate", ["membrane", "threshold"])
def test_neuron_options_reach_every_layer(surrogate):
    network = FSVAE(1, 16, neuron={"surrogate": surrogate}, **SMALL)
    neurons = [module for module in network.modules() if isinstance(module, LIF)]
    assert len(neurons) == 2 + 1 + 1 + 2 + 3 + 3
    assert {neuron.dynamics.center for neuron in neurons} == {0.0 if surrogate == "membrane" else 0.2}


@pytest.mark.parametrize("network", [ESVAE, FSVAE, ANNVAE, SAE])
def test_images_that_cannot_be_halved_are_refused(network):
    with pytest.raises(ValueError, match=r"must be a multiple of 16; images of this data set are 28 x 28.*mnist32"):
        network(1, 28)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, r"model\.steps, the number of time steps, must be at least 1, got 0"),
        ({"latent_dim": 0}, r"model\.latent_dim must be positive"),
        ({"widths": []}, r"model\.widths=\[\]"),
        ({"widths": [4, -1]}, r"model\.widths\[1\] must be positive"),
    ],
)
def test_bad_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ESVAE(1, 16, **(SMALL | arguments))


def test_images_of_another_size_are_refused_at_the_first_batch():
    with pytest.raises(ValueError, match=r"images of \(1, 32, 32\).*the network takes \(1, 16, 16\)"):
        ESVAE(1, 16, **SMALL).encode(torch.zeros(2, 1, 32, 32))
    with pytest.raises(ValueError, match=r"model\.k must be positive"):
        FSVAE(1, 16, k=0, **SMALL)
    with pytest.raises(ValueError, match=r"model\.scheduled must be two probabilities"):
        FSVAE(1, 16, scheduled=[0.1], **SMALL)
    with pytest.raises(NotImplementedError, match="SAE cannot generate"):
        SAE(1, 16, **SMALL).sample(2)
