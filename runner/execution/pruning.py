"""Early end of bad trials of a search: the study on disk, and the callback that asks its pruner each epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from runner.errors import Pruned
from runner.execution.checkpoints import is_last_epoch
from runner.execution.optuna_study import load_study, make_pruner


class TrialPruning(Checkpoint):
    """Callback that reports a metric of each epoch to the study of a search, and ends the run if the pruner says so.

    (The class is a Checkpoint since Lightning calls those last, when all metrics are there.)

    Args:
        study: file of the study.
        trial: number of the trial.
        metric: metric to report, if an epoch measures it.
        pruner: name of the pruner.
        startup: trials that must have ended before a trial is pruned.
        warmup: epochs before a trial is pruned.
    """

    def __init__(self, study: str, trial: int, metric: str, pruner: str, startup: int, warmup: int) -> None:
        self.study, self.number, self.metric = study, trial, metric
        self.pruner, self.startup, self.warmup = pruner, startup, warmup
        self.trial: Any = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Open the study."""
        if trainer.is_global_zero:
            import optuna

            study = load_study(Path(self.study), make_pruner(self.pruner, self.startup, self.warmup))
            self.trial = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[self.number]._trial_id)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Report the metric, and end the run if its trial is worse than those before."""
        bad = trainer.is_global_zero and self._is_bad(trainer)
        if trainer.strategy.broadcast(bad) and not is_last_epoch(trainer):
            raise Pruned(f"pruned after epoch {trainer.current_epoch + 1}: {self.metric} is worse than in other trials")

    def _is_bad(self, trainer: pl.Trainer) -> bool:
        """Report the metric of this epoch; return whether the pruner wants the trial to end."""
        value, epoch = trainer.callback_metrics.get(self.metric), trainer.current_epoch
        known = self.trial.study.get_trials(deepcopy=False)[self.number].intermediate_values
        if value is None or epoch in known:  # a resumed run repeats epochs
            return False
        self.trial.report(float(value), epoch)
        return bool(self.trial.should_prune())
