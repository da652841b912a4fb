"""Training of a network from its initial weights: the dense network, compact networks, early exits."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from methods.compression.measure import measure
from methods.compression.training import Recipe, classification_loss


class DenseTraining(LightningModule):
    """Supervised training by SGD.

    A network that defines `training_loss(batch)` is trained on that.

    Metrics, fractions: `train/loss`, `val/acc` (if images are held out), `test/acc`, and `test/params`, `test/macs`,
    `test/bytes_file`, `test/peak_memory` of the network.

    Args:
        network: classifier.
        lr: learning rate.
        momentum: momentum of SGD.
        weight_decay: weight decay.
        schedule: schedule of the learning rate, see `Recipe`.
        milestones: shares of the training at which the schedule `step` lowers the learning rate.
        nesterov: use Nesterov's momentum.
        optimizer: sgd or adam.
    """

    tasks = ("image-classification",)

    def __init__(
        self,
        network: nn.Module,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        schedule: str = "cosine",
        milestones: tuple[float, ...] = (0.5, 0.75),
        nesterov: bool = False,
        optimizer: str = "sgd",
    ) -> None:
        super().__init__()
        self.network = network
        self.recipe = Recipe(1, lr, momentum, weight_decay, schedule, tuple(milestones), nesterov, optimizer)
        self.counted: dict[str, float] = {}

    def configure_optimizers(self) -> Any:
        """Return the optimizer with its schedule, step by step."""
        optimizer = self.recipe.make_optimizer(self.network.parameters())
        steps = max(self.trainer.estimated_stepping_batches, 1)
        scheduler = LambdaLR(optimizer, lambda step: self.recipe.factor(min(step / steps, 1.0)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Return the loss of a batch."""
        own = getattr(self.network, "training_loss", None)
        loss = own(batch) if own else classification_loss(self.network, batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.y))
        return loss

    def validation_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> None:
        """Log the accuracy on held-out images."""
        prefix = self.trainer.datamodule.val_prefix(dataloader_idx)  # type: ignore[attr-defined]
        acc = (self.network(batch.x).argmax(1) == batch.y).float().mean()
        self.log(prefix + "acc", acc, batch_size=len(batch.y), add_dataloader_idx=False, sync_dist=True)

    def test_step(self, batch: Any, index: int) -> None:
        """Measure the accuracy, and once the network's sheet."""
        if not self.counted:
            with torch.inference_mode(False):
                sheet = measure(self.network, batch.x[:1].clone())
            keys = ("params", "macs", "bytes_file", "peak_memory", "bops")
            self.counted = {key: float(v) for key in keys if (v := getattr(sheet, key)) is not None}
        acc = (self.network(batch.x).argmax(1) == batch.y).float().mean()
        self.log("test/acc", acc, batch_size=len(batch.y), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Log the numbers of the network."""
        for name, value in self.counted.items():
            self.log(f"test/{name}", value)
