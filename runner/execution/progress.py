"""Progress bar of a run in a terminal. Without a terminal `callbacks.ProgressLines` logs lines."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

FEWEST_BATCHES = 3  # a stage of fewer batches shows what is done in them, not their number
SHOWN = ("train/loss", "val/loss", "val/acc", "val/auc", "val/iou", "val/ppl")  # metrics beside the bar


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
        is_shown = total_batches >= FEWEST_BATCHES or description.startswith("epoch")
        return super()._add_task(total_batches, description, visible and is_shown)

    def _update(self, progress_bar_id: Any, current: int, visible: bool = True, hard: bool = False) -> None:
        if self.progress is not None and progress_bar_id is not None:
            total = self.progress.tasks[progress_bar_id].total or 0
            visible = visible and (total >= FEWEST_BATCHES or progress_bar_id == self.train_progress_bar_id)
        super()._update(progress_bar_id, current, visible, hard)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the metrics beside the bar: losses and accuracies of training and validation."""
        measured = trainer.callback_metrics
        return {name: float(measured[name]) for name in SHOWN if name in measured}
