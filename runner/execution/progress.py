"""Progress bar of a run in a terminal. Without a terminal `callbacks.ProgressLines` logs lines."""

from __future__ import annotations

import re
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

FEWEST_BATCHES = 3  # a stage of fewer batches shows what is done in them, not their number
SHOWN = re.compile(r"(^|/|_)(loss|acc|ppl|auc|iou)$")  # metrics beside the bar


class RunProgressBar(RichProgressBar):
    """Bar that counts epochs from 1, shows losses and accuracies, and leaves nothing behind.

    Bars of methods (`datasets.progress.track`) appear below it. A stage with a batch or two has no bar of its own.
    """

    def __init__(self) -> None:
        super().__init__(leave=False)

    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs
        description = f"epoch {current_epoch + 1}" + (f"/{last}" if last is not None and last > 0 else "")
        return f"{description:{len(self.validation_description)}}"

    def _add_task(self, total_batches: int | float, description: str, visible: bool = True) -> Any:
        return super()._add_task(total_batches, description, visible and total_batches >= FEWEST_BATCHES)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the metrics beside the bar: those that the method chose, and losses and accuracies."""
        items = {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
        measured = {k: float(v) for k, v in trainer.callback_metrics.items() if SHOWN.search(k)}
        return measured | items
