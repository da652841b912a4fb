"""Verification of a suspect model against a trigger file. The whole run is the test stage."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import nn

from methods.mira.null_models import load_nulls
from methods.mira.triggers import TriggerSet, load_triggers
from methods.mira.verification import explain, verify
from methods.mira.victim import check_source, check_triggers

log = logging.getLogger(__name__)


class SuspectVerification(LightningModule):
    """Verdict on a suspect model, whose weights come from `init_from`, by the triggers of a file.

    Metrics, fractions: `test/acc`, `test/trigger_acc`, `test/binomial_threshold`, `test/verified_binomial`; with null
    models `test/null_threshold`, `test/verified_null`, `test/rescaled_acc`.

    Args:
        network: classifier of the suspect's architecture.
        triggers: file of triggers, as a run of mira/embed/... writes it.
        nulls: checkpoint of the null models, or None.
        init_from: file of the suspect, whose weights the network has already.

    Raises:
        ValueError: no trigger file or no suspect is given, or the file does not fit the model.
    """

    tasks = ("image-classification",)
    distributed = False

    def __init__(
        self, network: nn.Module, triggers: str | None = None, nulls: Path | None = None, init_from: Any = None
    ) -> None:
        super().__init__()
        if triggers is None:
            raise ValueError(
                "method.triggers names no file: a run of mira/embed/... writes triggers.pt into its folder"
            )
        check_source(None, init_from)
        # At once: a file that is missing is named before clean models are trained.
        self.triggers = load_triggers(Path(triggers))
        check_triggers(network, self.triggers)
        self.network, self.nulls_path = network, nulls

    def on_test_start(self) -> None:
        """Start the count of right predictions."""
        self.hits = torch.zeros(2, device=self.device)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Count the right predictions."""
        hits = (self.network(batch.x).argmax(1) == batch.y).sum()
        self.hits += torch.stack([hits, torch.full_like(hits, len(batch.y))])

    def on_test_epoch_end(self) -> None:
        """Log the verdict and what it rests on."""
        triggers = TriggerSet(*(tensor.to(self.device) for tensor in self.triggers))
        nulls = load_nulls(self.nulls_path, self.network)
        verdict = verify(self.network, triggers, nulls)
        metrics = {"acc": float(self.hits[0] / self.hits[1])} | verdict.metrics()
        self.log_dict({f"test/{name}": value for name, value in metrics.items()})
        log.info("%s", explain(verdict, triggers, len(nulls)))
