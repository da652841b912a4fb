"""Transferred attacks: made on one trained network and tried on another."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from torch import nn

from methods.attacks import PGD, seeded
from methods.f2at.evaluation import correct, load_trained


class Transfer(LightningModule):
    """Attack a target network's test images through a source network; the run has a test stage only.

    Metrics, fractions: `test/acc` (target, clean images), `test/transfer_acc` (target, images attacked on the source),
    `test/white_acc` (target, images attacked on itself), `test/source_acc` (source, images attacked on it).

    Args:
        network: network of the target's architecture.
        target: checkpoint of the target, from a run of `AdversarialTraining`.
        source: checkpoint of the source, from a run of `AdversarialTraining`.
        attack: attack that is transferred.
        source_network: builds the source's network from the data's `dims`; None if it has the target's architecture.
    """

    tasks = ("image-classification",)

    def __init__(
        self,
        network: nn.Module,
        target: Path,
        source: Path,
        attack: PGD,
        source_network: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.target, self.attack = load_trained(target, network), attack
        self.source_checkpoint, self.source_network = source, source_network

    def prepare(self, data: Any) -> None:
        """Load the source network."""
        build = self.source_network
        network = copy.deepcopy(self.target) if build is None else build(**data.dims)
        self.source = load_trained(self.source_checkpoint, network)

    def test_step(self, batch: Any, index: int) -> None:
        """Log accuracies of both networks under attacks on both."""
        x, y = batch.x, batch.y
        with seeded(index, self.device):
            transferred = self.attack(self.source, x, y)
            white_box = self.attack(self.target, x, y)
        metrics = {
            "acc": correct(self.target, x, y),
            "transfer_acc": correct(self.target, transferred, y),
            "white_acc": correct(self.target, white_box, y),
            "source_acc": correct(self.source, transferred, y),
        }
        for name, values in metrics.items():
            self.log(f"test/{name}", values.mean(), batch_size=len(y), sync_dist=True)
