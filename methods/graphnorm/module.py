"""Training of a graph classifier as in the paper's code (TU collections)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

THRESHOLDS = (0.9, 0.95, 0.99)


class GraphClassifier(LightningModule):
    """Adam, its learning rate stepped once an epoch, on the cross-entropy.

    Metrics: `val/acc`, `val/loss` (the watched fold), `train/acc`, `train/loss` (the training part in eval mode, where
    the data evaluates it), `train/batch_loss` (as trained, with dropout), `train/grad_norm` (last batch),
    `train/param_norm`, `test/acc`, `test/loss`; with the training curve also `test/train_acc_auc` (mean over the
    epochs) and `test/epochs_to_90|95|99` (first epoch, from 1, whose training accuracy reaches it; absent if none
    does). Accuracies are fractions.

    Args:
        network: GraphBatch -> logits (B, C). lr, weight_decay: of Adam.
        scheduler: optimizer -> its scheduler; by default the rate falls linearly, to 0 after the last epoch.
        monitor: the metric that picks the checkpoint to test (`val/acc`), or None for the last one.
    """

    tasks = ("graph-classification",)
    monitor_mode = "max"

    def __init__(
        self,
        network: nn.Module,
        lr: float = 0.01,
        weight_decay: float = 0.0,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        monitor: str | None = None,
    ) -> None:
        super().__init__()
        if lr <= 0:
            raise ValueError(f"method.lr must be positive, got {lr}")
        if weight_decay < 0:
            raise ValueError(f"method.weight_decay must not be negative, got {weight_decay}")
        self.network, self.lr, self.weight_decay, self.monitor = network, lr, weight_decay, monitor
        self.scheduler = scheduler
        self.sums: dict[str, Tensor] = {}
        self.curve: list[float] = []

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay, foreach=True
        )
        epochs = max(self.trainer.max_epochs or 1, 1)
        scheduler = (self.scheduler or linear_decay(epochs))(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def forward(self, graphs) -> Tensor:
        return self.network(graphs)

    def training_step(self, graphs, batch_idx: int) -> Tensor:
        logits = self(graphs)
        loss = cross_entropy(logits, graphs.y, reduction="sum")
        self._add("batch", loss.detach(), logits, graphs)
        # the mean over the global batch: averaged over the processes, gradients are those of one process
        return loss * (self.trainer.world_size / graphs.total)

    def on_before_optimizer_step(self, optimizer) -> None:
        if self.trainer.is_last_batch:
            grads = (p.grad for p in self.network.parameters() if p.grad is not None)
            self.log("train/grad_norm", _norm(grads), sync_dist=True)

    def on_train_epoch_end(self) -> None:
        loss, _ = self._reduce("batch")
        self.log_dict({"train/batch_loss": loss, "train/param_norm": _norm(self.network.parameters())}, sync_dist=True)

    def validation_step(self, graphs, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("train" if dataloader_idx else "val", graphs)

    def test_step(self, graphs, batch_idx: int) -> None:
        self._evaluate("test", graphs)

    def on_validation_epoch_end(self) -> None:
        for part in ("val", "train"):
            if part in self.sums:
                loss, acc = self._reduce(part)
                self.log_dict({f"{part}/loss": loss, f"{part}/acc": acc}, sync_dist=True)
                if part == "train" and not self.trainer.sanity_checking:
                    self.curve.append(float(acc))

    def on_test_epoch_end(self) -> None:
        loss, acc = self._reduce("test")
        self.log_dict({"test/loss": loss, "test/acc": acc} | summarise_curve(self.curve), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["training_curve"] = list(self.curve)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.training:  # testing the best checkpoint keeps the whole curve
            self.curve = list(checkpoint["training_curve"])

    def figures(self) -> dict[str, Any]:
        """The learned alphas, where the network has any."""
        from methods.graphnorm.figures import learned_alpha

        return learned_alpha(self.network)

    def _evaluate(self, part: str, graphs) -> None:
        logits = self(graphs)
        self._add(part, cross_entropy(logits, graphs.y, reduction="sum"), logits, graphs)

    def _add(self, part: str, loss: Tensor, logits: Tensor, graphs) -> None:
        correct = (logits.detach().argmax(1) == graphs.y).sum()
        new = torch.stack([loss, correct, loss.new_tensor(graphs.num_graphs)])
        self.sums[part] = self.sums[part] + new if part in self.sums else new

    def _reduce(self, part: str) -> tuple[Tensor, Tensor]:
        """Mean loss and accuracy of everything added to `part` by all processes; starts it afresh."""
        loss, correct, count = self.trainer.strategy.reduce(self.sums.pop(part), reduce_op="sum")
        return loss / count, correct / count


def linear_decay(epochs: int) -> Callable[[Optimizer], LRScheduler]:
    """The rate of epoch e (from 0) is lr (epochs - e) / epochs."""
    return lambda optimizer: LambdaLR(optimizer, lambda epoch: max(0.0, (epochs - epoch) / epochs))


def _norm(tensors) -> Tensor:
    """Global L2 norm."""
    return torch.stack(torch._foreach_norm([t.detach() for t in tensors])).norm()


def summarise_curve(curve: list[float]) -> dict[str, float]:
    """Numbers that tell how fast training went, from the training accuracy after each epoch; {} without a curve."""
    if not curve:
        return {}
    reached = {t: next((e for e, acc in enumerate(curve, 1) if acc >= t), None) for t in THRESHOLDS}
    return {"test/train_acc_auc": sum(curve) / len(curve)} | {
        f"test/epochs_to_{round(100 * t)}": float(epoch) for t, epoch in reached.items() if epoch
    }
