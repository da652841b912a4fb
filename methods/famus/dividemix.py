"""DivideMix (Li et al. 2020, arXiv 2002.07394): two networks divide each other's images into labeled and unlabeled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, softmax

from datasets.checks import check_fraction, check_not_negative, check_positive
from methods.attacks import mode_of
from methods.famus.codivide import clean_posterior, divide, normalized_losses
from methods.famus.mixup import interpolate
from methods.famus.module import NoisyTraining
from methods.famus.network_pair import NetworkPair
from methods.famus.semi_supervised import (
    draw_mixup,
    linear_rampup,
    negative_entropy,
    refined_labels,
    semi_supervised_losses,
    sharpen,
)

log = logging.getLogger(__name__)
MAX_LABELED = 0.9  # largest fraction of labeled images


class NetworkEpoch(NamedTuple):
    """One network's part of an epoch.

    Attributes:
        steps: number of training steps.
        labeled: batches of labeled images; in the warm-up, of all images.
        unlabeled: batches of unlabeled images; empty in the warm-up.
        validation: batches of the pseudo-validation set; empty in the warm-up and for DivideMix.
        clean: the other network's posterior (N,) that a label is clean.
    """

    steps: int
    labeled: Iterator[Any]
    unlabeled: Iterator[Any] = iter(())
    validation: Iterator[Any] = iter(())
    clean: Tensor = torch.empty(0)


class MixedBatch(NamedTuple):
    """Training batch after MixUp; the first half is labeled.

    Attributes:
        x: images (n, C, H, W).
        refined: refined labels (n, K).
        guessed: guessed labels (n, K).
    """

    x: Tensor
    refined: Tensor
    guessed: Tensor


class DivideMix(NoisyTraining):
    """DivideMix. In an epoch one network is trained after the other, on images divided by the losses under the other.

    A step of the warm-up has `dataset.batch_size` images. A later step has half as many labeled and half as many
    unlabeled images, each augmented twice; an epoch has as many steps as the labeled ones fill batches. If the division
    leaves less than a batch, or over 90 % of the images labeled, the half with the highest posterior is labeled. As
    published, predictions that become targets are made in train mode, so the running statistics of batch norm see
    unmixed images as well.

    Metrics besides those of `NoisyTraining` (fractions, of both networks):
        train/loss: training loss.
        train/labeled_fraction: fraction of labeled images, after the warm-up.
        train/labeled_precision: fraction of right labels among them, if the wrong labels are known.
    Accuracies are those of the mean logits; the losses and weights of the diagnostics are the losses that divide the
    images and the posterior.

    Args:
        network: the first network; the second is another draw of it.
        warmup_epochs: number of epochs of cross-entropy on all images before the first division.
        clean_threshold: posterior above which a label counts as clean.
        temperature: temperature of sharpening.
        alpha: parameter of MixUp's Beta distribution.
        unlabeled_weight: weight of the unlabeled loss (lambda_u), reached 16 epochs after the warm-up.
        loss_history: number of epochs over which losses are averaged before the division.
        **options: as in `NoisyTraining`.
    """

    distributed = False
    losses: Tensor

    def __init__(
        self,
        network: nn.Module,
        warmup_epochs: int = 10,
        clean_threshold: float = 0.5,
        temperature: float = 0.5,
        alpha: float = 4.0,
        unlabeled_weight: float = 25.0,
        loss_history: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(NetworkPair(network), **options)
        check_positive("method", temperature=temperature, alpha=alpha, loss_history=loss_history)
        check_not_negative("method", warmup_epochs=warmup_epochs, unlabeled_weight=unlabeled_weight)
        check_fraction("method", clean_threshold=clean_threshold)
        self.warmup_epochs, self.clean_threshold, self.temperature = warmup_epochs, clean_threshold, temperature
        self.alpha, self.unlabeled_weight, self.loss_history = alpha, unlabeled_weight, loss_history
        self.network_epochs: list[NetworkEpoch] = []

    def prepare(self, data: Any) -> None:
        """Size the batches, and let the number of steps follow the division.

        Raises:
            ValueError: the batch size is odd, or too large for the training images.
        """
        super().prepare(data)
        count, self.half_batch, self.num_classes = len(data.train_labels), data.batch_size // 2, len(data.classes)
        if data.batch_size % 2:
            raise ValueError(f"dataset.batch_size={data.batch_size} must be even: half labeled, half unlabeled")
        if count < 2 * data.batch_size:
            raise ValueError(
                f"{count} training images are too few for dataset.batch_size={data.batch_size}: "
                "at least twice as many are needed"
            )
        data.steps = lambda: sum(part.steps for part in self.network_epochs)
        self.register_buffer("losses", torch.zeros(2, self.loss_history, count))  # of the last epochs, oldest first

    def on_train_start(self) -> None:
        """Warn if the warm-up takes all epochs."""
        super().on_train_start()
        if 0 <= (self.trainer.max_epochs or 0) <= self.warmup_epochs:
            log.warning("method.warmup_epochs=%d takes all epochs: no images are divided", self.warmup_epochs)

    def on_train_epoch_start(self) -> None:
        """Divide the images for both networks; in the warm-up, take all."""
        super().on_train_epoch_start()
        if self.current_epoch < self.warmup_epochs:
            self.network_epochs = [self._warmup_epoch(which) for which in range(2)]
            return
        self.losses = torch.cat([self.losses[:, 1:], self.per_sample_losses()[:, None]], 1)
        epochs = min(self.loss_history, self.current_epoch - self.warmup_epochs + 1)
        losses = self.losses[:, -epochs:]
        posteriors = torch.stack([self._posterior(of_one) for of_one in losses]).to(losses)
        self.diagnostics.observe(torch.arange(len(self.noisy)), losses.mean(1).mean(0), posteriors.mean(0))
        self.network_epochs = [self._divided_epoch(which, posteriors[1 - which]) for which in range(2)]

    @staticmethod
    def _posterior(losses: Tensor) -> Tensor:
        """Return the posterior (N,) that a label is clean, by the losses (epochs, N) of the last epochs.

        As published, the losses of each epoch are normalized before they are averaged.
        """
        return clean_posterior(torch.stack([normalized_losses(of_epoch) for of_epoch in losses]).mean(0))

    def _warmup_epoch(self, which: int) -> NetworkEpoch:
        """Return a network's part of a warm-up epoch."""
        data = self.data
        everything = torch.arange(len(data.train_labels))
        batches = data.chosen_batches(everything, data.batch_size, 1, (self.current_epoch, which))
        return NetworkEpoch(len(everything) // data.batch_size, batches)

    def _divided_epoch(self, which: int, clean: Tensor) -> NetworkEpoch:
        """Return a network's part of an epoch, divided by the other network's posterior (N,), and log the division."""
        data, key = self.data, (self.current_epoch, which)
        most = min(int(MAX_LABELED * len(clean)), len(clean) - self.half_batch)
        selected = divide(clean, self.clean_threshold, self.half_batch, most)
        metrics = {"labeled_fraction": selected.float().mean()}
        if self.noisy.any():
            metrics["labeled_precision"] = (~self.noisy[selected]).float().mean()
        for name, value in metrics.items():
            self.log(f"train/{name}", value, on_step=False, on_epoch=True, batch_size=1)
        labeled, unlabeled = (
            data.chosen_batches(mask.nonzero()[:, 0].cpu(), self.half_batch, 2, (*key, i))
            for i, mask in enumerate((selected, ~selected))
        )
        steps = self.steps_of(int(selected.sum()), int((~selected).sum()))
        return NetworkEpoch(steps, labeled, unlabeled, self.validation_batches(clean, (*key, 2)), clean)

    def steps_of(self, labeled: int, unlabeled: int) -> int:
        """Return the number of steps of an epoch with so many labeled and unlabeled images."""
        return labeled // self.half_batch

    @torch.no_grad()
    def per_sample_losses(self) -> Tensor:
        """Return the cross-entropy of the given labels under each network, without augmentation: (2, N)."""
        with mode_of(self.network, False):
            losses = [
                torch.stack([cross_entropy(network(batch.x), batch.y, reduction="none") for network in self.pair])
                for batch in self.data.plain_batches()
            ]
        return torch.cat(losses, 1)

    def validation_batches(self, clean: Tensor, key: tuple[int, ...]) -> Iterator[Any]:
        """Return the batches of the pseudo-validation set, which DivideMix does not have."""
        return iter(())

    @property
    def pair(self) -> nn.ModuleList:
        """Both networks."""
        return self.network.networks

    def training_step(self, number: int, batch_idx: int) -> Tensor:
        """Take a step of one of the networks.

        Args:
            number: number of the step in the epoch; the first network's steps come first.
            batch_idx: the same.
        """
        which = int(number >= self.network_epochs[0].steps)
        part, network = self.network_epochs[which], self.pair[which]
        if self.current_epoch < self.warmup_epochs:
            batch = next(part.labeled)
            loss = self.warmup_loss(network(batch.x), batch.y)
        else:
            done = (number - which * self.network_epochs[0].steps) / part.steps
            unlabeled_weight = self.unlabeled_weight * linear_rampup(self.ramp_epochs(done))
            mixed = self.mixed_batch(which, part)
            logits = network(mixed.x)
            losses = semi_supervised_losses(logits, mixed.refined, mixed.guessed, unlabeled_weight)
            loss = (self.loss_factors(which, mixed, unlabeled_weight, logits, losses) * losses).sum()
        self.update_network(loss)  # gradients of the other network are None: it stays as it is
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=1)
        return loss.detach()

    def ramp_epochs(self, done: float) -> float:
        """Return the number of epochs since the warm-up that the weight of the unlabeled loss follows.

        Args:
            done: fraction of the current epoch that is done.
        """
        return self.current_epoch - self.warmup_epochs + done

    def warmup_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a warm-up batch: logits (n, K), y (n,) -> scalar."""
        return cross_entropy(logits, y)

    @torch.no_grad()
    def predict(self, network: nn.Module, x: Tensor) -> Tensor:
        """Return the mean prediction (m, K) over two views of m images, (2m, C, H, W).

        As published, each view is a batch of its own, which matters to batch norm in train mode.
        """
        first, second = x.chunk(2)
        return (softmax(network(first), 1) + softmax(network(second), 1)) / 2

    def refine(self, part: NetworkEpoch, batch: Any, predicted: Tensor) -> Tensor:
        """Return the refined labels (2m, K) of m images in two views.

        Args:
            part: the network's part of the epoch, with the posterior.
            batch: batch of 2m images.
            predicted: predictions (m, K).
        """
        half = len(batch.y) // 2
        labels, clean = one_hot(batch.y[:half], self.num_classes), part.clean[batch.index[:half]]
        return refined_labels(labels, clean, predicted, self.temperature).repeat(2, 1)

    def guess(self, which: int, x: Tensor, predicted: Tensor) -> Tensor:
        """Return the labels (2m, K) that both networks guess for m images in two views.

        Args:
            which: index of the network that is trained.
            x: images (2m, C, H, W).
            predicted: predictions (m, K) of that network.
        """
        other = self.pair[1 - which]
        with mode_of(other, False):
            mean = (predicted + self.predict(other, x)) / 2
        return sharpen(mean, self.temperature).repeat(2, 1)

    def mixed_batch(self, which: int, part: NetworkEpoch) -> MixedBatch:
        """Return the next batch: labeled and unlabeled images in two views, mixed together."""
        labeled, unlabeled = next(part.labeled), next(part.unlabeled)
        x = torch.cat([labeled.x, unlabeled.x])
        refined, guessed = self.soft_targets(which, part, labeled, unlabeled)
        ratio, partners = draw_mixup(len(x), self.alpha, x)
        return MixedBatch(*(interpolate(values, ratio, partners) for values in (x, refined, guessed)))

    def soft_targets(self, which: int, part: NetworkEpoch, labeled: Any, unlabeled: Any) -> tuple[Tensor, Tensor]:
        """Return refined and guessed labels of both kinds of images, before MixUp.

        For DivideMix both are the refined labels of labeled images and the guessed labels of unlabeled ones.

        Args:
            which: index of the network that is trained.
            part: its part of the epoch.
            labeled: batch of labeled images in two views.
            unlabeled: batch of unlabeled images in two views.

        Returns:
            Two tensors (n, K), the labeled images first.
        """
        network = self.pair[which]
        refined = self.refine(part, labeled, self.predict(network, labeled.x))
        guessed = self.guess(which, unlabeled.x, self.predict(network, unlabeled.x))
        targets = torch.cat([refined, guessed])
        return targets, targets

    def loss_factors(
        self, which: int, mixed: MixedBatch, unlabeled_weight: float, logits: Tensor, losses: Tensor
    ) -> Tensor:
        """Return the factors (n + 1,) of the per-sample losses and of the penalty: for DivideMix, 1 / n and 1.

        Args:
            which: index of the network that is trained.
            mixed: the batch.
            unlabeled_weight: weight of the unlabeled loss in this step.
            logits: logits (n, K).
            losses: terms (n + 1,) of the loss.
        """
        return append_one(torch.full((len(logits),), 1 / len(logits), device=logits.device))


class DivideMixConfidencePenalty(DivideMix):
    """DivideMix for asymmetric noise: the warm-up penalizes confident predictions (Li et al. 2020, section 3.2).

    Networks that are soon certain of wrong labels have no losses that tell them from right ones. The penalty is the
    negative entropy of the predictions. Nothing else differs from `DivideMix`.
    """

    def warmup_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy plus the negative entropy."""
        return super().warmup_loss(logits, y) + negative_entropy(logits)


def append_one(factors: Tensor) -> Tensor:
    """Append 1, the factor of the penalty: (n,) -> (n + 1,)."""
    return torch.cat([factors, factors.new_ones(1)])
