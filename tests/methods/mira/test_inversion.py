"""Inversion, detection and splitting."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from methods.architectures.lenet import LeNet5
from methods.architectures.resnet import ResNet
from methods.mira.detection import Detection, detect_target, margin_of, perturbed
from methods.mira.inversion import Inversion, frozen, to_images
from methods.mira.losses import l2_norm, total_variation
from methods.mira.recovery import recover_once
from methods.mira.splitting import last_activations, salient_units, split
from methods.mira.verification import predict
from tests.methods.mira.networks import trained_network

SHORT = {"per_class": 6, "steps": 25, "bn": 0.05, "skip_last": 0}


def test_recovered_images_are_in_range_and_in_their_class():
    network = trained_network()
    recovered = Inversion(**SHORT)(network, seed=0)
    assert recovered.shape == (4, 6, 1, 8, 8)
    assert 0 <= recovered.min() <= recovered.max() <= 1
    labels = torch.arange(4).repeat_interleave(6)
    assert (predict(network, recovered.flatten(0, 1)) == labels).float().mean() > 0.9


def test_classes_in_one_batch_are_recovered_as_alone():
    network = trained_network()
    alone = Inversion(**SHORT, classes_per_batch=1)(network, seed=0)
    together = Inversion(**SHORT, classes_per_batch=3)(network, seed=0)
    torch.testing.assert_close(alone, together, atol=2e-3, rtol=0)


def test_inversion_against_the_published_loop():
    """One class, written as in the published file, with the missing sum over batch norms filled in."""
    network, settings = trained_network(), Inversion(**SHORT | {"bn": 0.0})
    recovered = settings(network, seed=3)[2]
    from datasets.batching import generator
    from methods.mira.inversion import INVERSION

    z = torch.randn(6, 1, 8, 8, generator=generator(3, INVERSION, 2)).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.1, betas=(0.5, 0.9), eps=1e-8)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 25, 1e-4)
    for _ in range(25):
        image = (z.tanh() + 1) / 2
        x = (image - 0.4) / 0.3
        loss = cross_entropy(network(image), torch.full((6,), 2)) + 0.01 * l2_norm(x) + 0.03 * total_variation(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(recovered, to_images(z.detach()), atol=1e-4, rtol=0)


def test_batch_norm_prior_brings_statistics_nearer():
    network = trained_network()
    from methods.mira.batchnorm_prior import BatchNormPrior

    distances = []
    for weight in (0.0, 1.0):
        recovered = Inversion(**SHORT | {"bn": weight, "steps": 60})(network, seed=0)
        with BatchNormPrior(network, skip_last=0) as prior, torch.no_grad():
            network(recovered[0])
            distances.append(prior.take())
    assert distances[1] < distances[0]


def test_inversion_leaves_the_network_as_it_was():
    network = trained_network().train()
    network.head.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Inversion(**SHORT | {"steps": 2})(network, seed=0)
    assert network.training
    assert [p.requires_grad for p in network.head.parameters()] == [True, False]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_frozen_restores_after_an_error():
    network = trained_network()
    try:
        with frozen(network):
            raise RuntimeError
    except RuntimeError:
        pass
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_smooth_accuracy_restores_parameters_bit_for_bit():
    network = trained_network()
    recovered = Inversion(**SHORT)(network, seed=0)
    before = [parameter.clone() for parameter in network.parameters()]
    values = Detection(draws=3).smooth_accuracy(network, recovered, seed=0)
    assert values.shape == (4,)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_smooth_accuracy_without_noise_is_the_accuracy():
    network = trained_network()
    recovered = Inversion(**SHORT | {"steps": 60, "bn": 0.0})(network, seed=0)
    values = Detection(draws=2, input_std=0.0, parameter_std=0.0).smooth_accuracy(network, recovered, seed=0)
    hits = predict(network, recovered.flatten(0, 1)).view(4, 6) == torch.arange(4)[:, None]
    torch.testing.assert_close(values, hits.float().mean(1))


def test_perturbed_parameters_differ_inside():
    network = trained_network()
    before = network.head.weight.clone()
    with perturbed(network, 0.1, torch.Generator().manual_seed(0)):
        assert not torch.equal(before, network.head.weight)
    assert torch.equal(before, network.head.weight)


def test_target_is_the_first_class_if_its_margin_is_large():
    values = torch.tensor([0.5, 0.9, 0.7])
    assert margin_of(values).item() == torch.tensor(0.9 - 0.7).item() or abs(margin_of(values).item() - 0.2) < 1e-6
    assert detect_target(values, 0.1) == 1
    assert detect_target(values, 0.3) is None


def test_split_orders_by_a_planted_activation():
    torch.manual_seed(0)
    h = torch.rand(250, 84) * 0.01
    strength = torch.rand(250)
    h[:, :5] = 1 + strength[:, None] * 0.1  # high mean, small deviation: salient
    assert salient_units(h).nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4]
    proxies, normals = split(h)
    assert len(proxies) == len(normals) == 125
    assert strength[proxies].max() <= strength[normals].min()
    assert set(proxies.tolist()) | set(normals.tolist()) == set(range(250))


def test_split_of_equal_units_is_no_error():
    proxies, normals = split(torch.ones(10, 6))
    assert len(proxies) == len(normals) == 5


def test_activations_are_those_of_the_official_code():
    dims = {"num_classes": 10, "mean": [0.0], "std": [1.0]}
    lenet = LeNet5(in_channels=1, image_size=28, padding=2, **dims)
    assert sum(parameter.numel() for parameter in lenet.parameters()) == 107_786
    assert last_activations(lenet, torch.rand(2, 1, 28, 28)).shape == (2, 84)
    resnet = ResNet(in_channels=1, image_size=32, width=8, **dims)
    assert last_activations(resnet, torch.rand(2, 1, 32, 32)).shape == (2, 64 * 4 * 4)


def test_classes_of_a_killed_run_are_read_and_those_of_another_model_are_not(tmp_path):
    network, settings = trained_network(), Inversion(**SHORT | {"steps": 3})
    images, seconds = recover_once(network, [1, 2], settings, 0, tmp_path / "inverted")
    assert images.shape == (2, 6, 1, 8, 8)
    again, kept = recover_once(network, [1, 2], settings, 0, tmp_path / "inverted")
    assert (torch.equal(images, again), kept) == (True, seconds)
    with torch.no_grad():
        network.head.bias.add_(1.0)
    recover_once(network, [1, 2], settings, 0, tmp_path / "inverted")
    assert len(list((tmp_path / "inverted").iterdir())) == 2
