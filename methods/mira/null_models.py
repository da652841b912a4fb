"""Clean models: the null distribution of trigger accuracies, and the start of schemes that mark a trained model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.checks import check_not_negative, check_positive
from methods.attacks import seeded
from methods.checkpoints import weights_below
from methods.epochs import number_of_epochs


class NullModels(LightningModule):
    """Several classifiers of one architecture, trained without a watermark on the same batches from other weights.

    Metrics, fractions: `train/loss`, `val/acc` and `test/acc` (means over the models), `test/acc_std`.

    Args:
        network: classifier; each model is a copy with new initial weights.
        models: number of models.
        init_seed: seed of the first model's initial weights; the others follow.
        lr: learning rate of SGD.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
        final_lr: learning rate at the end of the cosine.

    Raises:
        ValueError: a value is out of its range.
    """

    tasks = ("image-classification",)
    distributed = False

    def __init__(
        self,
        network: nn.Module,
        models: int = 5,
        init_seed: int = 1000,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        final_lr: float = 1e-4,
    ) -> None:
        super().__init__()
        check_positive("method", models=models, lr=lr)
        check_not_negative("method", momentum=momentum, weight_decay=weight_decay, final_lr=final_lr)
        self.networks = nn.ModuleList(copy.deepcopy(network) for _ in range(models))
        self.init_seed = init_seed
        self.lr, self.momentum, self.weight_decay, self.final_lr = lr, momentum, weight_decay, final_lr

    def prepare(self, data: Any) -> None:
        """Draw the initial weights of every model, by `init_seed` and the run's seed."""
        for number, network in enumerate(self.networks):
            with seeded(self.init_seed + number + 7919 * int(data.seed), torch.device("cpu")):
                network.reset_parameters()  # type: ignore[operator]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the sum of the models' cross-entropies, whose gradients are independent."""
        loss = torch.stack([cross_entropy(network(batch.x), batch.y) for network in self.networks]).sum()
        self.log("train/loss", loss / len(self.networks), on_step=False, on_epoch=True, batch_size=len(batch.y))
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the mean accuracy on the held-out images."""
        self.log("val/acc", self._accuracies(batch).mean(), batch_size=len(batch.y), add_dataloader_idx=False)

    def on_test_start(self) -> None:
        """Start the count of right predictions."""
        self.hits, self.seen = torch.zeros(len(self.networks), device=self.device), 0

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Count the right predictions of each model."""
        self.hits += self._accuracies(batch) * len(batch.y)
        self.seen += len(batch.y)

    def on_test_epoch_end(self) -> None:
        """Log mean and standard deviation over the models.

        Raises:
            ValueError: a model has learned much less than the best one.
        """
        accuracies = self.hits / self.seen
        check_all_learned(accuracies.tolist())
        self.log("test/acc", accuracies.mean())
        if len(accuracies) > 1:
            self.log("test/acc_std", accuracies.std())

    def _accuracies(self, batch: Any) -> Tensor:
        """Return the accuracy of each model on a batch (models,)."""
        return torch.stack([(network(batch.x).argmax(1) == batch.y).float().mean() for network in self.networks])

    def configure_optimizers(self) -> Any:
        """Return SGD with a cosine schedule over the epochs."""
        optimizer = torch.optim.SGD(
            self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        epochs = number_of_epochs(self.trainer)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, self.final_lr)]


def check_all_learned(accuracies: Sequence[float], largest_gap: float = 0.1) -> None:
    """Raise ValueError if a clean model's accuracy is far below the best one's: its triggers' labels mean nothing.

    Args:
        accuracies: test accuracy of each model.
        largest_gap: largest difference from the best model.
    """
    best = max(accuracies)
    behind = [f"{number}: {value:.3f}" for number, value in enumerate(accuracies) if best - value > largest_gap]
    if behind:
        raise ValueError(
            f"clean models have not learned (number: accuracy, the best has {best:.3f}): {', '.join(behind)}. The "
            "null-model rule would rest on them: choose a smaller method.lr or more epochs (vars.lr and vars.epochs of "
            "an attack)"
        )


def load_nulls(checkpoint: Path | None, network: nn.Module) -> list[nn.Module]:
    """Return the null models of a checkpoint, in eval mode and on the network's device.

    Args:
        checkpoint: checkpoint of a run of `NullModels`, or None for no models.
        network: network of the same architecture.
    """
    if checkpoint is None:
        return []
    device = next(network.parameters()).device
    nulls: list[nn.Module] = []
    while weights := weights_below(checkpoint, f"networks.{len(nulls)}."):
        null = copy.deepcopy(network)
        null.load_state_dict(weights)
        nulls.append(null.to(device).eval())
    return nulls
