"""Training and evaluation of the autoencoders: ESVAE and those that it is compared with."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn.functional import mse_loss

from datasets.checks import check_not_negative, check_positive
from datasets.progress import track
from methods.esvae.firing import FiringRates
from methods.esvae.networks import TASKS, Autoencoder, SpikingAutoencoder
from methods.esvae.quality import Quality, build_qualities, reference_images

log = logging.getLogger(__name__)

SHOWN = 8  # images in a row of the figures
COUNTED = 256  # images whose latent firing rates are drawn
HIGHER_IS_BETTER = {"is", "cis"}


class AutoencoderTraining(LightningModule):
    """AdamW on reconstruction error plus a weighted divergence between posterior and prior.

    Metrics: `train/`, `val/` and `test/` with `recon_loss` (mean squared error on the [-1, 1] scale), `divergence`,
    `loss`. With feature weights, `val/` and `test/` also have `fad` and `fad_batch`, `cfid`, `cis` and `ckid`, `fid`,
    `is` and `kid` of generated images (see `methods.esvae.quality`). `test/firing_rate` of spiking networks: spikes per
    neuron and step, mean over layers. `test/best_<metric>` is the best value of the validation over the epochs and
    `test/best_<metric>_epoch` its epoch, from 1: the official script keeps the best epoch of each metric apart, on test
    images.

    Args:
        network: autoencoder; takes images in [-1, 1], made here of those in [0, 1] that the data yields.
        divergence: posterior and prior -> scalar; None: reconstruction alone.
        divergence_weight: factor of the divergence in the loss.
        lr: learning rate of AdamW, for a batch of `lr_batch_size` images.
        lr_batch_size: batch size that the rate is given for: it is multiplied by batch size / this. None: not scaled.
        prior_lr_factor: factor of the learning rate of the prior's parameters.
        weight_decay: weight decay of AdamW, on all parameters.
        samples: number of generated images for the metrics of generation.
        sample_batch_size: images generated at a time. `fad_batch` and the scores depend on it.
        quality_every: epochs between two measurements of the generated images in validation; 0: only in the test.
        fad_folder: folder of the published feature autoencoders, below the data folder.
        feature_checkpoint: checkpoint of a run of method=esvae/feature_autoencoder; takes the place of the published
            weights.
        classifier_checkpoint: checkpoint of a run of method=esvae/feature_classifier; None: no `cfid`, `cis`, `ckid`.
        inception_weights: file of Inception weights, below the data folder or absolute; None: no `fid`, `is`, `kid`.

    Raises:
        ValueError: an argument is out of range.
    """

    tasks = TASKS
    monitor = None
    distributed = False  # the MMD and the generated images are those of one process

    def __init__(
        self,
        network: Autoencoder,
        divergence: Callable[[Tensor, Tensor], Tensor] | None = None,
        divergence_weight: float = 0.001,
        lr: float = 0.003,
        lr_batch_size: int | None = 250,
        prior_lr_factor: float = 10.0,
        weight_decay: float = 0.001,
        samples: int = 5120,
        sample_batch_size: int = 128,
        quality_every: int = 1,
        fad_folder: str = "images/fad_autoencoder",
        feature_checkpoint: Path | None = None,
        classifier_checkpoint: Path | None = None,
        inception_weights: str | None = None,
    ) -> None:
        super().__init__()
        check_positive("method", lr=lr, lr_batch_size=lr_batch_size, prior_lr_factor=prior_lr_factor)
        check_positive("method", samples=samples, sample_batch_size=sample_batch_size)
        check_not_negative("method", divergence_weight=divergence_weight, weight_decay=weight_decay)
        check_not_negative("method", quality_every=quality_every)
        self.network, self.divergence, self.divergence_weight = network, divergence, divergence_weight
        self.lr, self.lr_batch_size, self.prior_lr_factor = lr, lr_batch_size, prior_lr_factor
        self.weight_decay = weight_decay
        self.samples, self.sample_batch_size, self.quality_every = samples, sample_batch_size, quality_every
        self.feature_paths: dict[str, Any] = {
            "fad_folder": fad_folder,
            "feature_checkpoint": feature_checkpoint,
            "classifier_checkpoint": classifier_checkpoint,
            "inception_weights": inception_weights,
        }
        self.qualities: list[Quality] = []
        self.rates = FiringRates(network)
        self.best: dict[str, list[float]] = {}  # metric -> best value, its epoch from 1
        self.seed = 0
        self.shown: Tensor | None = None

    def prepare(self, data: Any) -> None:
        """Scale the learning rate, load the feature networks, keep some test images for the figures."""
        self.seed = data.seed
        if self.lr_batch_size is not None:
            self.lr = self.lr * data.batch_size / self.lr_batch_size
        images = reference_images(data)
        self.shown = images[:COUNTED].float() / 127.5 - 1
        if self.network.generative:
            self.qualities = build_qualities(data, **self.feature_paths)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW with a group for the prior's parameters."""
        prior = self.network.prior_parameters()
        own = {id(parameter) for parameter in prior}
        rest = [parameter for parameter in self.network.parameters() if id(parameter) not in own]
        groups: list[dict[str, Any]] = [{"params": rest}]
        if prior:
            groups.append({"params": prior, "lr": self.lr * self.prior_lr_factor})
        return torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstructions of images (N, C, H, W) in [-1, 1]."""
        return self.network.decode(self.network.encode(x).latents)

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        """Return `recon_loss`, `divergence` and `loss` of images (N, C, H, W) in [-1, 1]."""
        encoded = self.network.encode(x)
        error = mse_loss(self.network.decode(encoded.latents).float(), x)
        if self.divergence is None:
            return {"recon_loss": error, "loss": error}
        divergence = self.divergence(encoded.posterior, encoded.prior)
        loss = error + self.divergence_weight * divergence
        return {"recon_loss": error, "divergence": divergence, "loss": loss}

    def on_train_epoch_start(self) -> None:
        """Tell the network how far training is, by epochs, or by steps where `max_steps` ends it."""
        epochs, steps, done = self.trainer.max_epochs or -1, self.trainer.max_steps, 0.0
        if epochs > 0:
            done = self.current_epoch / epochs
        elif steps > 0:
            done = self.global_step / steps
        self.network.set_progress(min(done, 1.0))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of the batch."""
        losses = self.losses(batch.x * 2 - 1)
        self._log("train/", losses, len(batch.x))
        return losses["loss"]

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the losses of the validation images."""
        prefix = self.trainer.datamodule.val_prefix(dataloader_idx)  # type: ignore[attr-defined]
        with self.rates.watching() if prefix == "val/" else nullcontext():
            self._log(prefix, self.losses(batch.x * 2 - 1), len(batch.x))

    def on_validation_epoch_end(self) -> None:
        """Log the quality of generated images where it is due, and keep the best epoch of each metric."""
        self.rates.warn_of_silence()
        self.rates.clear()
        epoch = self.current_epoch + 1
        last = epoch == self.trainer.max_epochs
        if self.quality_every and (epoch % self.quality_every == 0 or last):
            self.log_dict({f"val/{name}": value for name, value in self.measure_quality().items()})
        if not self.trainer.sanity_checking:
            self._keep_best(epoch)

    def on_test_epoch_start(self) -> None:
        """Draw the same random numbers whether or not training was resumed."""
        torch.manual_seed(self.seed)
        random.seed(self.seed)
        self.rates.clear()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the losses of the test images."""
        with self.rates.watching():
            self._log("test/", self.losses(batch.x * 2 - 1), len(batch.x))

    def on_test_epoch_end(self) -> None:
        """Log the quality of generated images, firing rates and the best epochs."""
        metrics = {f"test/{name}": value for name, value in self.measure_quality().items()}
        if rates := self.rates.rates():
            metrics["test/firing_rate"] = sum(rates.values()) / len(rates)
        for name, (value, epoch) in self.best.items():
            metrics |= {f"test/best_{name}": value, f"test/best_{name}_epoch": float(epoch)}
        self.log_dict(metrics)

    @torch.no_grad()
    def generate(self, count: int) -> Tensor:
        """Return images (count, C, H, W) in (-1, 1) decoded from latents of the prior."""
        return self.network.decode(self.network.sample(count))

    @torch.no_grad()
    def measure_quality(self) -> dict[str, float]:
        """Return the metrics of generated images; {} where no feature network is at hand."""
        if not self.qualities:
            return {}
        full, rest = divmod(self.samples, self.sample_batch_size)
        for count in track([self.sample_batch_size] * full + [rest] * bool(rest), "generated batches"):
            images = self.generate(count)
            for quality in self.qualities:
                quality.update(images)
        return {name: value for quality in self.qualities for name, value in quality.compute().items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the best value and epoch of each metric."""
        checkpoint["best"] = {name: list(pair) for name, pair in self.best.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the best value and epoch of each metric."""
        self.best = checkpoint["best"]

    def predict_files(self, paths: list[Path], out: Path, data: Any, samples: int = 0) -> list[Path]:
        """Write reconstructions of image files and `samples` generated images (`prediction.reconstruct_files`)."""
        from methods.esvae.prediction import reconstruct_files

        return reconstruct_files(paths, out, self, data, samples)

    @torch.no_grad()
    def figures(self) -> dict[str, Any]:
        """Return reconstructions, samples, interpolations and firing rates."""
        from methods.esvae import figures

        if self.shown is None:
            return {}
        torch.manual_seed(self.seed)
        self.network.eval()
        many = self.shown.to(self.device)
        x = many[:SHOWN]
        drawn = {"reconstructions": figures.image_rows({"input": x, "reconstruction": self(x)})}
        if self.network.generative:
            drawn["samples"] = figures.image_grid(self.generate(SHOWN * 4), SHOWN)
            if len(x) > 1:
                drawn["interpolation"] = figures.interpolation_rows(self._interpolations(x))
        if rates := self.rates.rates():
            drawn["layer_rates"] = figures.layer_rates(rates)
        if isinstance(self.network, SpikingAutoencoder) and self.network.generative:
            drawn["latent_rates"] = figures.latent_rates(*self._latent_rates(many))
        return drawn

    def _interpolations(self, x: Tensor) -> list[Tensor]:
        """Return rows of images decoded between pairs of encoded ones."""
        start, end = (self.network.representation(part) for part in x[: len(x) // 2 * 2].chunk(2))
        shares = torch.linspace(0, 1, SHOWN, device=x.device)
        paths = [one + (other - one) * shares[:, None] for one, other in zip(start, end, strict=True)]
        return [self.network.decode(self.network.latents_of(path)) for path in paths]

    def _latent_rates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return firing rates of encoded test images and of samples from the prior."""
        return self.network.encode(x).latents.mean(0), self.network.sample(COUNTED).mean(0)

    def _log(self, prefix: str, values: dict[str, Tensor], count: int) -> None:
        metrics = {prefix + name: value.detach() for name, value in values.items()}
        self.log_dict(metrics, batch_size=count, on_step=False, on_epoch=True, add_dataloader_idx=False, sync_dist=True)

    def _keep_best(self, epoch: int) -> None:
        for key, value in self.trainer.callback_metrics.items():
            split, _, name = key.partition("/")
            if split != "val":
                continue
            new, sign = float(value), -1 if name in HIGHER_IS_BETTER else 1
            if name not in self.best or sign * new < sign * self.best[name][0]:
                self.best[name] = [new, epoch]
