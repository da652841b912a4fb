"""Attacks made on one trained network and tried on another."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from torch import nn

from methods.attacks import PGD, seeded
from methods.f2at.module import correct, weights_of


class Transfer(LightningModule):
    """Attacks `target`'s test images by what is found on `source`; the whole run is the test stage.

    Metrics, fractions: `test/acc` (target, clean images), `test/transfer_acc` (target, images attacked on the source),
    `test/white_acc` (target, images attacked on itself), `test/source_acc` (source, images attacked on it).

    Args:
        network: the target's. target, source: checkpoints that runs of `AdversarialTraining` have left.
        attack: the attack. source_network: makes the source's network from the data's `dims`; None: as the target's.
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
        self.target, self.attack = weights_of(target, network), attack
        self.checkpoint, self.make = source, source_network

    def prepare(self, data: Any) -> None:
        network = copy.deepcopy(self.target) if self.make is None else self.make(**data.dims)
        self.source = weights_of(self.checkpoint, network)

    def test_step(self, batch: Any, index: int) -> None:
        x, y = batch.x, batch.y
        with seeded(index, self.device):
            there = self.attack(self.source, x, y)
            here = self.attack(self.target, x, y)
        found = {
            "acc": correct(self.target, x, y),
            "transfer_acc": correct(self.target, there, y),
            "white_acc": correct(self.target, here, y),
            "source_acc": correct(self.source, there, y),
        }
        for name, values in found.items():
            self.log(f"test/{name}", values.mean(), batch_size=len(y), sync_dist=True)
