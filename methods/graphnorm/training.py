"""Training that all GraphNorm networks share: Adam, its linear decay, and a check of BatchNorm's batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from datasets.checks import check_not_negative, check_positive
from datasets.graphs.store import GraphBatch
from methods.epochs import number_of_epochs
from methods.graphnorm.figures import draw_learned_alpha


class AdamModule(LightningModule):
    """Base class of modules that train a graph network by Adam, its learning rate stepped once an epoch.

    Args:
        network: network whose forward pass maps a GraphBatch to logits.
        lr: learning rate of Adam.
        weight_decay: weight decay of Adam.
        scheduler: function that makes the scheduler of an optimizer; None: the rate falls linearly, to 0 after the last
            epoch.
        monitor: metric that picks the checkpoint to test, or None for the last one.

    Raises:
        ValueError: `lr` or `weight_decay` is out of range.
    """

    monitor_mode = "max"

    def __init__(
        self,
        network: nn.Module,
        lr: float,
        weight_decay: float,
        scheduler: Callable[[Optimizer], LRScheduler] | None,
        monitor: str | None,
    ) -> None:
        super().__init__()
        check_positive("method", lr=lr)
        check_not_negative("method", weight_decay=weight_decay)
        self.network, self.lr, self.weight_decay, self.monitor = network, lr, weight_decay, monitor
        self.scheduler = scheduler

    def prepare(self, data: Any) -> None:
        """Refuse data of which BatchNorm could get a single node.

        Args:
            data: DataModule after `setup`.

        Raises:
            ValueError: a training batch could have fewer than two nodes.
        """
        check_batch_norm(self.network, data.train_dataloader().fewest_nodes())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return Adam and its scheduler."""
        optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay, foreach=True
        )
        scheduler = self.scheduler or linear_decay(number_of_epochs(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": scheduler(optimizer)}

    def forward(self, graphs: GraphBatch) -> Tensor:
        """Return the logits of a batch."""
        return self.network(graphs)

    def figures(self) -> dict[str, Any]:
        """Return a figure of the learned alphas, if the network has any."""
        return draw_learned_alpha(self.network)


def linear_decay(epochs: int) -> Callable[[Optimizer], LRScheduler]:
    """Return a function that makes the scheduler with the rate lr (epochs - e) / epochs in epoch e (from 0).

    Args:
        epochs: number of epochs.
    """
    return lambda optimizer: LambdaLR(optimizer, lambda epoch: max(0.0, (epochs - epoch) / epochs))


def check_batch_norm(network: nn.Module, fewest_nodes: int) -> None:
    """Raise ValueError if BatchNorm could get a batch of one node, which has no variance.

    Args:
        network: network that may have BatchNorm layers.
        fewest_nodes: smallest number of nodes that a training batch can have.
    """
    if fewest_nodes < 2 and any(isinstance(layer, _BatchNorm) for layer in network.modules()):
        raise ValueError(
            "a training batch could consist of one graph with a single node, of which BatchNorm cannot compute a "
            "variance: choose another dataset.batch_size, so that the last batch has more graphs, or another model.norm"
        )
