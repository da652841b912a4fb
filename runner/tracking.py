"""W&B where it may go away in the middle of a run: a run never fails for its tracker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger

log = logging.getLogger(__name__)


class PatientWandbLogger(WandbLogger):
    """Goes on without W&B once it fails; the run's own files have everything that was to be logged."""

    lost = False

    def _try(self, action: Callable[[], Any]) -> None:
        if self.lost:
            return
        try:
            action()
        except Exception as error:
            self.lost = True
            log.warning("W&B does not answer, the run goes on without it: %s: %s", type(error).__name__, error)

    @property
    def experiment(self) -> Any:
        """The W&B run; an offline one where no server answers."""
        try:
            return super().experiment
        except wandb.errors.CommError as error:
            log.warning("W&B's server does not answer, the run is kept offline (scripts/wandb_sync.sh): %s", error)
            wandb.teardown()  # it still holds the run's id
            self._wandb_init["mode"] = "offline"
            return super().experiment

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._try(lambda: super(PatientWandbLogger, self).log_metrics(metrics, step))

    def end(self, summary: dict[str, float], figures: Sequence[Path]) -> None:
        """Hands over the final figures and metrics, and ends the tracked run."""

        def hand_over() -> None:
            for figure in figures:
                self.log_image(f"figures/{figure.stem}", [str(figure)])
            self.experiment.summary.update(summary)
            self.experiment.finish()

        self._try(hand_over)
