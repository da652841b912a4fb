"""Training of a graph classifier as in the paper's code for TU collections."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from datasets.graphs.store import GraphBatch
from methods.graphnorm.training import AdamModule

THRESHOLDS = (0.9, 0.95, 0.99)


class GraphClassifier(AdamModule):
    """Adam on the cross-entropy, its learning rate stepped once an epoch.

    Metrics (accuracies are fractions):
        val/acc, val/loss: of the watched fold.
        train/acc, train/loss: of the training part in eval mode, if the data evaluates it.
        train/batch_loss: mean loss of the training batches, with dropout.
        train/grad_norm: norm of the gradient of the last batch.
        train/param_norm: norm of the parameters.
        test/acc, test/loss: of the test part.
        test/train_acc_auc: mean of train/acc over the epochs.
        test/epochs_to_90, test/epochs_to_95, test/epochs_to_99: first epoch, from 1, whose train/acc reaches it; absent
            if none does.

    Args:
        network: network whose forward pass maps a GraphBatch to logits (B, C).
        lr: learning rate of Adam.
        weight_decay: weight decay of Adam.
        scheduler: function that makes the scheduler of an optimizer; None: the rate falls linearly, to 0 after the last
            epoch.
        monitor: metric that picks the checkpoint to test (`val/acc`), or None for the last one.

    Raises:
        ValueError: `lr` or `weight_decay` is out of range.
    """

    tasks = ("graph-classification",)

    def __init__(
        self,
        network: nn.Module,
        lr: float = 0.01,
        weight_decay: float = 0.0,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        monitor: str | None = None,
    ) -> None:
        super().__init__(network, lr, weight_decay, scheduler, monitor)
        self.sums: dict[str, Tensor] = {}
        self.curve: list[float] = []

    def training_step(self, graphs: GraphBatch, batch_idx: int) -> Tensor:
        """Return the mean loss over the global batch."""
        logits = self(graphs)
        loss = cross_entropy(logits, graphs.y, reduction="sum")
        self._add("batch", loss.detach(), logits, graphs)
        # the mean over the global batch: averaged over the processes, gradients are those of one process
        return loss * (self.trainer.world_size / graphs.total)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the norm of the gradient of the epoch's last batch."""
        if self.trainer.is_last_batch:
            grads = (p.grad for p in self.network.parameters() if p.grad is not None)
            self.log("train/grad_norm", _global_norm(grads), sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Log the loss of the training batches and the norm of the parameters."""
        loss, _ = self._reduce("batch")
        norm = _global_norm(self.network.parameters())
        self.log_dict({"train/batch_loss": loss, "train/param_norm": norm}, sync_dist=True)

    def validation_step(self, graphs: GraphBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate a batch of the watched fold (loader 0) or of the training part (loader 1)."""
        self._evaluate("train" if dataloader_idx else "val", graphs)

    def test_step(self, graphs: GraphBatch, batch_idx: int) -> None:
        """Evaluate a batch of the test part."""
        self._evaluate("test", graphs)

    def on_validation_epoch_end(self) -> None:
        """Log loss and accuracy of the epoch."""
        for part in ("val", "train"):
            if part in self.sums:
                loss, acc = self._reduce(part)
                self.log_dict({f"{part}/loss": loss, f"{part}/acc": acc}, sync_dist=True)
                if part == "train" and not self.trainer.sanity_checking:
                    self.curve.append(float(acc))

    def on_test_epoch_end(self) -> None:
        """Log loss and accuracy of the test part, and the metrics of the training curve."""
        loss, acc = self._reduce("test")
        metrics: dict[str, Any] = {"test/loss": loss, "test/acc": acc}
        self.log_dict(metrics | curve_metrics(self.curve), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the training curve."""
        checkpoint["training_curve"] = list(self.curve)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the training curve, unless the checkpoint is loaded for a test, which needs the whole curve."""
        if self.trainer.training:
            self.curve = list(checkpoint["training_curve"])

    def _evaluate(self, part: str, graphs: GraphBatch) -> None:
        logits = self(graphs)
        self._add(part, cross_entropy(logits, graphs.y, reduction="sum"), logits, graphs)

    def _add(self, part: str, loss: Tensor, logits: Tensor, graphs: GraphBatch) -> None:
        correct = (logits.detach().argmax(1) == graphs.y).sum()
        new = torch.stack([loss, correct, loss.new_tensor(graphs.num_graphs)])
        self.sums[part] = self.sums[part] + new if part in self.sums else new

    def _reduce(self, part: str) -> tuple[Tensor, Tensor]:
        """Return mean loss and accuracy of all batches added to `part` by all processes, and start it afresh."""
        loss, correct, count = self.trainer.strategy.reduce(self.sums.pop(part), reduce_op="sum")
        return loss / count, correct / count


def _global_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the L2 norm of all values together."""
    return torch.stack(torch._foreach_norm([t.detach() for t in tensors])).norm()


def curve_metrics(curve: list[float]) -> dict[str, float]:
    """Return metrics of the speed of training.

    Args:
        curve: training accuracy after each epoch.

    Returns:
        Metrics by name; none without a curve.
    """
    if not curve:
        return {}
    reached = {t: next((e for e, acc in enumerate(curve, 1) if acc >= t), None) for t in THRESHOLDS}
    return {"test/train_acc_auc": sum(curve) / len(curve)} | {
        f"test/epochs_to_{round(100 * t)}": float(epoch) for t, epoch in reached.items() if epoch
    }
