"""A job that is about to be ended by SLURM saves its run at the end of the epoch, and goes on in a new job."""

from __future__ import annotations

import logging
import os
import signal
import time
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from runner import slurm
from runner.callbacks import LastCheckpoint
from runner.errors import Preempted
from runner.exclusive import rank

log = logging.getLogger(__name__)
WARNING, END = signal.SIGUSR2, signal.SIGTERM  # the time limit is near (sbatch --signal=USR2@120); the job is ended


class Preemption(Checkpoint):
    """Answers SLURM's signals while a run is fitted: save at the end of the epoch, then leave by `Preempted`.

    The job requeues itself after WARNING, and after END where SLURM takes it for running still: it is preempted, with
    some time left. (Where it is requeued or cancelled by others it is no longer running.) An epoch that does not end
    within `patience` seconds is given up, and done anew after the last checkpoint.
    """

    def __init__(self, last: LastCheckpoint, patience: float = 60.0) -> None:
        self.last, self.patience = last, patience
        self.asked: tuple[int, float] | None = None  # signal, when

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for number in (WARNING, END):  # after Lightning's own handlers, which would leave in the middle of an epoch
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = (number, time.monotonic())

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.asked and time.monotonic() - self.asked[1] > self.patience:
            self._leave("the epoch is long: back to the last checkpoint")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.strategy.broadcast(self.asked) and trainer.current_epoch + 1 != trainer.max_epochs:
            self.last.save(trainer)
            self._leave(f"saved after epoch {trainer.current_epoch + 1}")

    def _leave(self, how: str) -> None:
        number = self.asked[0] if self.asked else END
        message = f"{signal.Signals(number).name} from SLURM, {how}"
        job = slurm.job_id()
        again = job and rank() == 0 and (number == WARNING or (slurm.queue() or {}).get(job) == "RUNNING")
        limit = int(os.environ.get("RUNNER_RESTARTS", 100))
        if again and slurm.restarts() >= limit:
            raise RuntimeError(f"{message}; not requeued, for the job was restarted {limit} times: give it more time")
        raise Preempted(message, job if again else None)
