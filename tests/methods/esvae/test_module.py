"""AutoencoderTraining and the experiments on trained networks, under a real Trainer on a few digits."""

from __future__ import annotations

import logging
import shlex
from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from datasets.images.datamodule import Digits
from methods.esvae.analysis import Information, OperationCount, Robustness, added, dropped, flipped
from methods.esvae.ann import ANNVAE, FeatureAutoencoder
from methods.esvae.classifier import FeatureClassifier, FeatureNet
from methods.esvae.divergences import bernoulli_kl, gaussian_kl, gaussian_mmd, linear_mmd, psp_distance
from methods.esvae.firing import FiringRates
from methods.esvae.fsvae import FSVAE, TAID
from methods.esvae.module import AutoencoderTraining
from methods.esvae.networks import ESVAE, SAE
from methods.esvae.quality import TRAINED_FEATURES
from runner.config.address import Run

SMALL = {"widths": (4, 8), "latent_dim": 8}
SPIKING = SMALL | {"steps": 3}


@pytest.fixture(scope="module")
def digits():
    data = Digits(size=16, batch_size=32, eval_batch_size=64, limit_train=256, limit_test=96, validate_on_test=True)
    data.setup()
    return data


def trainer(epochs=1, folder=None, **kwargs):
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **kwargs,
    )


def make(network=ESVAE, divergence=gaussian_mmd, **kwargs):
    pl.seed_everything(0, verbose=False)
    sizes = SPIKING if network not in (ANNVAE, FeatureAutoencoder) else SMALL
    options = {"lr": 0.01, "lr_batch_size": None, "quality_every": 0, "samples": 64, "sample_batch_size": 32}
    return AutoencoderTraining(network(1, 16, **sizes), divergence, **(options | kwargs))


def fit(module, data, epochs=1, **kwargs):
    module.prepare(data)
    train = trainer(epochs, **kwargs)
    pl.seed_everything(1, verbose=False)
    train.fit(module, data)
    fitted = {name: float(value) for name, value in train.callback_metrics.items()}
    train.test(module, data, verbose=False)
    return fitted | {name: float(value) for name, value in train.callback_metrics.items()}


METHODS = {
    "esvae": (ESVAE, gaussian_mmd, 0.001),
    "linear": (ESVAE, linear_mmd, 0.001),
    "fsvae": (FSVAE, psp_distance, 1.0),
    "fsvae_kl": (FSVAE, bernoulli_kl, 1e-4),
    "taid": (TAID, psp_distance, 1.0),
    "ann_vae": (ANNVAE, gaussian_kl, 1 / 240),
    "sae": (SAE, None, 0.0),
    "features": (FeatureAutoencoder, None, 0.0),
}


@pytest.mark.parametrize("name", METHODS)
def test_one_epoch_lowers_the_loss_of_every_method(name, digits, caplog):
    network, divergence, weight = METHODS[name]
    module = make(network, divergence, divergence_weight=weight)
    with caplog.at_level(logging.WARNING):
        module.prepare(digits)
    untrained = trainer().validate(module, digits, verbose=False)[0]["val/loss"]
    metrics = fit(make(network, divergence, divergence_weight=weight), digits, epochs=3)
    assert metrics["test/loss"] < 0.95 * untrained
    assert metrics["test/best_recon_loss"] <= metrics["val/recon_loss"] + 1e-6
    assert 1 <= metrics["test/best_recon_loss_epoch"] <= 3
    assert ("test/divergence" in metrics) == (divergence is not None)
    assert ("test/firing_rate" in metrics) == (network not in (ANNVAE, FeatureAutoencoder))


def test_the_same_seed_gives_the_same_metrics(digits):
    assert fit(make(), digits) == fit(make(), digits)


def test_the_test_does_not_depend_on_the_random_state_before_it(digits):
    module = make()
    first = fit(module, digits)
    torch.manual_seed(99)
    again = trainer().test(module, digits, verbose=False)[0]
    assert all(again[name] == pytest.approx(first[name], rel=1e-6) for name in ("test/recon_loss", "test/divergence"))


def test_learning_rates_are_scaled_and_the_priors_is_ten_times_higher(digits):
    module = make(lr=0.003, lr_batch_size=250)
    module.prepare(digits)
    rest, prior = module.configure_optimizers().param_groups
    assert rest["lr"] == pytest.approx(0.003 * 32 / 250)
    assert prior["lr"] == pytest.approx(0.03 * 32 / 250)
    assert len(prior["params"]) == 2
    assert rest["weight_decay"] == prior["weight_decay"] == 0.001
    assert sum(p.numel() for group in (rest, prior) for p in group["params"]) == sum(
        p.numel() for p in module.network.parameters()
    )


def test_a_missing_feature_autoencoder_is_named_once_with_the_way_to_train_one(digits, caplog):
    with caplog.at_level(logging.WARNING):
        make().prepare(digits)
    assert "FAD is not computed" in caplog.text
    assert TRAINED_FEATURES in caplog.text
    features = shlex.split(TRAINED_FEATURES.replace("NAME", "digits32"))
    run = Run.compose(["method=esvae", "dataset=digits32", *features])
    assert run.needs["feature_checkpoint"].name == "feature_autoencoder-digits32-feature_autoencoder"
    other = Run.compose(["method=esvae/ann_vae", "dataset=digits32", *features])
    assert other.cfg.dataset.batch_size != run.cfg.dataset.batch_size
    assert other.needs["feature_checkpoint"].id == run.needs["feature_checkpoint"].id


def test_quality_of_generated_images_is_measured_where_networks_are_given(digits, tmp_path):
    features = FeatureAutoencoder(1, 16, **SMALL)
    torch.save(
        {"state_dict": {f"network.{k}": v for k, v in features.state_dict().items()}}, tmp_path / "features.ckpt"
    )
    classifier = FeatureNet(1, 10, 16, widths=(4, 8), feature_dim=6)
    torch.save(
        {"state_dict": {f"network.{k}": v for k, v in classifier.state_dict().items()}}, tmp_path / "classifier.ckpt"
    )
    module = make(
        quality_every=2,
        feature_checkpoint=tmp_path / "features.ckpt",
        classifier_checkpoint=tmp_path / "classifier.ckpt",
    )
    metrics = fit(module, digits, epochs=3)
    for name in ("fad", "fad_batch", "cfid", "cis", "ckid"):
        assert f"test/{name}" in metrics
        assert metrics[f"test/best_{name}_epoch"] in (2, 3)  # every second and the last
    assert metrics["test/best_cis"] >= metrics["val/cis"] - 1e-6
    assert not any("quality" in name or "features" in name for name in module.state_dict())


def test_the_best_epochs_are_in_the_checkpoint(digits, tmp_path):
    module = make()
    module.prepare(digits)
    train = trainer(2)
    train.fit(module, digits)
    train.save_checkpoint(tmp_path / "last.ckpt")
    resumed = make()
    resumed.prepare(digits)
    trainer(2).fit(resumed, digits, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert resumed.best == module.best != {}


def test_figures_of_a_run(digits):
    module = make()
    fit(module, digits)
    assert set(module.figures()) == {"reconstructions", "samples", "interpolation", "layer_rates", "latent_rates"}
    ordinary = make(ANNVAE, gaussian_kl)
    fit(ordinary, digits)
    assert set(ordinary.figures()) == {"reconstructions", "samples", "interpolation"}
    plain = make(SAE, None)
    fit(plain, digits)
    assert set(plain.figures()) == {"reconstructions", "layer_rates"}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_figures_of_a_few_images(digits, count):
    module = make()
    module.prepare(digits)
    module.shown = module.shown[:count]
    drawn = module.figures()
    assert {"reconstructions", "samples", "latent_rates"} <= drawn.keys()
    assert ("interpolation" in drawn) == (count > 1)


def test_the_training_images_can_be_evaluated_too(digits, monkeypatch):
    monkeypatch.setattr(digits, "evaluate_train", True)
    assert {"val/recon_loss", "train/eval_recon_loss"} <= fit(make(), digits).keys()


def test_layers_without_spikes_are_named(digits, caplog):
    module = make()
    with torch.no_grad():
        module.network.encoder.latent.norm.bias.fill_(-100)
    module.prepare(digits)
    with caplog.at_level(logging.WARNING):
        trainer().validate(module, digits, verbose=False)
    assert "no neuron fired in the validation images in" in caplog.text
    assert "encoder.latent" in caplog.text


def test_firing_rates_are_means_over_neurons_and_steps():
    network = SAE(1, 16, **SPIKING)
    rates, x = FiringRates(network), torch.rand(5, 1, 16, 16)
    with rates.watching():
        spikes = network.encode(x).latents
    assert rates.rates()["encoder.latent"] == pytest.approx(float(spikes.detach().mean()))
    network.encode(x)  # no longer watched
    assert rates.calls["encoder.latent"] == 1
    rates.clear()
    assert not rates.rates()


def test_scheduled_sampling_follows_the_epochs(digits):
    module = make(FSVAE, psp_distance)
    fit(module, digits, epochs=2)
    assert module.network.probability == pytest.approx(0.2)  # second of two epochs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.0}, r"method\.lr must be positive"),
        ({"divergence_weight": -1.0}, r"method\.divergence_weight must not be negative"),
        ({"samples": 0}, r"method\.samples must be positive"),
        ({"quality_every": -1}, r"method\.quality_every must not be negative"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.fixture(scope="module")
def checkpoint(digits, tmp_path_factory):
    """Of a trained ESVAE."""
    module = make()
    module.prepare(digits)
    train = trainer(20)
    train.fit(module, digits)
    path = tmp_path_factory.mktemp("trained") / "last.ckpt"
    train.save_checkpoint(path)
    return path


def experiment(kind, data, checkpoint, **kwargs):
    module = kind(ESVAE(1, 16, **SPIKING), checkpoint, **kwargs)
    module.prepare(data)
    train = trainer()
    return module, train.test(module, data, verbose=False)[0]


@pytest.mark.slow
def test_noise_on_latents_raises_the_loss(digits, checkpoint):
    module, metrics = experiment(Robustness, digits, checkpoint, probabilities=[0.1, 0.5])
    assert metrics["test/recon_loss"] < metrics["test/recon_loss_10"] < metrics["test/recon_loss_50"]
    assert metrics["test/shuffled_loss"] == pytest.approx(metrics["test/recon_loss"], rel=0.2)
    assert set(module.figures()) == {"robustness", "decoded"}


def test_noises_do_what_they_say():
    torch.manual_seed(0)
    spikes = (torch.rand(4, 50, 50) < 0.4).float()
    assert (flipped(spikes, 0.2) != spikes).float().mean() == pytest.approx(0.2, abs=0.02)
    assert dropped(spikes, 0.25).sum() / spikes.sum() == pytest.approx(0.75, abs=0.02)
    assert ((added(spikes, 0.3) - spikes) * (1 - spikes)).sum() / (1 - spikes).sum() == pytest.approx(0.3, abs=0.02)
    for noise in (flipped, dropped, added):
        assert torch.equal(noise(spikes, 0.0), spikes)
        assert set(noise(spikes, 0.5).unique().tolist()) <= {0.0, 1.0}


@pytest.mark.slow
def test_labels_are_read_from_the_representation(digits, checkpoint):
    _, metrics = experiment(Information, digits, checkpoint, train_images=None)
    assert 0.3 < metrics["test/linear_acc"] <= 1  # 0.1 by chance
    assert 0.3 < metrics["test/knn_acc"] <= 1


def test_operations_are_those_of_one_image(digits, checkpoint):
    module, metrics = experiment(OperationCount, digits, checkpoint)
    total = metrics["test/additions"] * 0.9 + metrics["test/multiplications"] * 4.6
    assert metrics["test/energy_uj"] == pytest.approx(total * 1e-6, rel=1e-4)
    assert set(module.figures()) == {"operations"}
    assert not any(name.startswith("prior") for name in module.per_image())


def test_a_checkpoint_of_another_network_is_refused(checkpoint):
    with pytest.raises(ValueError, match=r"does not fit model FSVAE; vars\.source and model must belong together"):
        Robustness(FSVAE(1, 16, **SPIKING), checkpoint)
    ordinary, path = ANNVAE(1, 16, **SMALL), checkpoint.with_name("ordinary.ckpt")
    torch.save({"state_dict": {f"network.{k}": v for k, v in ordinary.state_dict().items()}}, path)
    with pytest.raises(ValueError, match="needs a spiking autoencoder"):
        Robustness(ordinary, path)
    with pytest.raises(ValueError, match=r"method\.probabilities must lie in"):
        Robustness(ESVAE(1, 16, **SPIKING), checkpoint, probabilities=[1.5])


def test_the_classifier_learns_digits(digits):
    pl.seed_everything(0, verbose=False)
    module = FeatureClassifier(FeatureNet(1, 10, 16, widths=(8, 16), feature_dim=16), lr=0.01)
    train = trainer(12)
    train.fit(module, digits)
    assert train.test(module, digits, verbose=False)[0]["test/acc"] > 0.5  # 0.1 by chance


def test_partial_divergences_are_what_configs_make(digits):
    assert fit(make(divergence=partial(gaussian_mmd)), digits) == fit(make(), digits)
