"""Training of an image classifier on noisy or long-tailed labels; the base class of the package's methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from datasets.checks import check_not_negative, check_positive
from methods.famus.diagnostics import Diagnostics
from methods.famus.losses import CrossEntropy
from methods.manual_optimization import ManualOptimization


class NoisyTraining(ManualOptimization):
    """Training on the given labels with the same weight for every sample. Subclasses weight the samples.

    Metrics (fractions, unless noted):
        train/loss: mean of the per-sample losses, unweighted.
        train/acc: accuracy with respect to the given labels.
        train/weight_clean, train/weight_noisy: mean weight of samples with right and with wrong labels, times the batch
            size, so that uniform weighting is 1. Only if the wrong labels are known, as the two below.
        train/loss_auc, train/weight_auc: area under the ROC curve for telling wrong labels by a high loss or by a low
            weight.
        val/acc, test/acc: accuracy; test/acc is that of the last weights.
        test/top5_acc: top-5 accuracy, for more than 10 classes.
        test/best_acc: highest val/acc, if `dataset.validate_on_test` validates on the test images, as the papers do.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        lr: learning rate of SGD.
        momentum: momentum of SGD.
        nesterov: use Nesterov's momentum.
        weight_decay: weight decay of SGD.
        scheduler: function of the optimizer that returns its scheduler, stepped after every epoch; None: constant rate.
        loss: per-sample loss of training; None: cross-entropy.
        head: function of the network's linear classifier that returns its replacement; None: it stays.
    """

    tasks = ("image-classification",)
    network: Any
    best_val_acc: Tensor

    def __init__(
        self,
        network: nn.Module,
        lr: float = 0.05,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 5e-4,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        loss: CrossEntropy | None = None,
        head: Callable[[Any], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        check_positive("method", lr=lr)
        check_not_negative("method", momentum=momentum, weight_decay=weight_decay)
        if head is not None:
            network.head = head(network.head)
        self.network, self.lr, self.scheduler = network, lr, scheduler
        self.loss = CrossEntropy() if loss is None else loss
        self.sgd_options: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        self.register_buffer("best_val_acc", torch.zeros(()))
        self.diagnostics = Diagnostics()

    def prepare(self, data: Any) -> None:
        """Give the loss the class counts of the training data."""
        self.loss.set_class_counts(data.train_labels.bincount(minlength=len(data.classes)))

    @property
    def data(self) -> Any:
        """Data module of the run."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_optimizers(self) -> Any:
        """Return SGD and its scheduler."""
        optimizer = torch.optim.SGD(self.network.parameters(), self.lr, **self.sgd_options)
        return [optimizer], [self.scheduler(optimizer)] if self.scheduler else []

    def on_train_start(self) -> None:
        """Fetch the mask of wrong labels, for diagnostics."""
        self.noisy = self.data.noisy.to(self.device)

    def sample_weights(self, batch: Any, losses: Tensor) -> Tensor:
        """Return the factors of the per-sample losses in the training loss.

        Args:
            batch: training batch.
            losses: per-sample losses (n,), with their graph.

        Returns:
            Factors (n,), whose sum is about 1.
        """
        return torch.full_like(losses, 1 / len(losses), requires_grad=False)

    def on_train_epoch_start(self) -> None:
        """Start the diagnostics of the epoch."""
        self.diagnostics.start_epoch(self.noisy)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Take one step on the weighted loss, and return the unweighted one."""
        logits = self.network(batch.x)
        losses = self.loss(logits, batch.y)
        weights = self.sample_weights(batch, losses).detach()
        self.update_network((weights * losses).sum())
        return self.log_batch(batch, logits, losses, weights)

    def update_network(self, loss: Tensor) -> None:
        """Take a step of the network's optimizer."""
        optimizers = self.optimizers()
        optimizer = optimizers[0] if isinstance(optimizers, list) else optimizers
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def log_batch(self, batch: Any, logits: Tensor, losses: Tensor, weights: Tensor) -> Tensor:
        """Log the metrics of a training batch.

        Args:
            batch: training batch.
            logits: logits (n, K).
            losses: per-sample losses (n,).
            weights: factors (n,) of the losses.

        Returns:
            Mean of the losses.
        """
        n, losses = len(batch.y), losses.detach()
        logs = {"loss": losses.mean(), "acc": (logits.argmax(1) == batch.y).float().mean()}
        self.log_dict({f"train/{k}": v for k, v in logs.items()}, on_step=False, on_epoch=True, batch_size=n)
        self.diagnostics.observe(batch.index, losses, n * weights)
        return logs["loss"]

    def on_train_epoch_end(self) -> None:
        """Step the scheduler, and log how well losses and weights separate wrong labels."""
        scheduler: Any = self.lr_schedulers()
        if scheduler:
            scheduler.step()
        separation = self.diagnostics.separation_metrics()
        self.log_dict({f"train/{name}": value for name, value in separation.items()})
        self.diagnostics.end_epoch(self.trainer.callback_metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the diagnostics."""
        checkpoint["diagnostics"] = self.diagnostics.state_dict()

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the diagnostics."""
        self.diagnostics.load_state_dict(checkpoint["diagnostics"])

    def figures(self) -> dict[str, Any]:
        """Return the figures of the run by name."""
        return self.diagnostics.figures()

    @property
    def eval_network(self) -> nn.Module:
        """Network that is evaluated."""
        return self.network

    def correct(self, batch: Any, top_k: int = 1) -> Tensor:
        """Return (n,), 1 for each image whose label is among the `top_k` highest logits."""
        return correct_in_top_k(self.eval_network(batch.x), batch.y, top_k)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the accuracy of a validation part."""
        correct = self.correct(batch)
        name = self.data.val_prefix(dataloader_idx) + "acc"
        self.log(name, correct.mean(), batch_size=len(batch.y), add_dataloader_idx=False, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Update the best validation accuracy."""
        if (accuracy := self.trainer.callback_metrics.get("val/acc")) is not None:
            self.best_val_acc = torch.maximum(self.best_val_acc, accuracy.to(self.best_val_acc))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the test accuracies."""
        metrics = {"acc": 1} | ({"top5_acc": 5} if len(self.data.classes) > 10 else {})
        for name, top_k in metrics.items():
            self.log(f"test/{name}", self.correct(batch, top_k).mean(), batch_size=len(batch.y), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Log the best validation accuracy, if it was measured on the test images."""
        if self.data.validate_on_test:
            self.log("test/best_acc", self.best_val_acc)


def correct_in_top_k(logits: Tensor, y: Tensor, top_k: int) -> Tensor:
    """Return 1 for each sample whose class is among the `top_k` highest logits, else 0: (n, K), (n,) -> (n,)."""
    return (logits.topk(top_k).indices == y[:, None]).any(1).float()
