"""End a run by signals: save it before SLURM ends its job and continue it in a new one, and end tests at once."""

from __future__ import annotations

import logging
import os
import signal
import time
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint

from runner.errors import Preempted
from runner.execution import slurm
from runner.execution.checkpoints import LastCheckpoint, is_last_epoch
from runner.execution.run_lock import global_rank

log = logging.getLogger(__name__)
WARNING, END = signal.SIGUSR2, signal.SIGTERM  # the time limit is near (sbatch --signal=USR2@120); the job is ended


class Preemption(Checkpoint):
    """Answer to SLURM's signals during training: save at the end of the epoch, then leave by `Preempted`.

    The job is requeued after WARNING, and after END if SLURM still takes it for running, as it does with a preempted
    job in its grace time. A job that others requeue or cancel is no longer running by then.

    Args:
        last: callback that saves last.ckpt.
        patience: seconds after which a long epoch is given up; it is repeated from the last checkpoint.
    """

    def __init__(self, last: LastCheckpoint, patience: float = 60.0) -> None:
        self.last, self.patience = last, patience
        self.asked: tuple[int, float] | None = None  # signal, time

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take over the signals from Lightning's own handlers, which would leave in the middle of an epoch."""
        for number in (WARNING, END):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = (number, time.monotonic())

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Leave if the epoch takes too long to wait for its end."""
        if self.asked and time.monotonic() - self.asked[1] > self.patience:
            self._leave("the epoch is long: back to the last checkpoint")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save and leave if a signal has come."""
        if trainer.strategy.broadcast(self.asked) and not is_last_epoch(trainer):
            self.last.save(trainer)
            self._leave(f"saved after epoch {trainer.current_epoch + 1}")

    def _leave(self, progress: str) -> None:
        leave(self.asked[0] if self.asked else END, progress)


class SignalsInTest(Callback):
    """Answer to SIGTERM, and in a job of SLURM to its warning, in the test stage: leave at once by `Preempted`.

    Lightning's own handler waits for the next step of a training, and a method may work here for hours (pruning, a
    pipeline of compressions). It goes on from what it has stored.
    """

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take over the signals from Lightning, which takes them back after the stage."""
        for number in (WARNING, END) if slurm.job_id() else (END,):
            signal.signal(number, self._end)

    @staticmethod
    def _end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # one is enough
        leave(number, "the stage goes on from what it has stored")


def leave(number: int, progress: str) -> None:
    """Raise `Preempted` for a signal, with the job to requeue if there is one and SLURM does not do it.

    Args:
        number: signal.
        progress: what has been saved, for the message.
    """
    job = slurm.job_id()
    if not job:
        raise Preempted(f"stopped by {signal.Signals(number).name}", None)
    message = f"{signal.Signals(number).name} from SLURM, {progress}"
    again = global_rank() == 0 and (number == WARNING or (slurm.queue() or {}).get(job) == "RUNNING")
    limit = int(os.environ.get("RUNNER_RESTARTS", 100))
    if again and slurm.restarts() >= limit:
        raise RuntimeError(f"{message}; not requeued, since the job was restarted {limit} times: raise timeout_min")
    raise Preempted(message, job if again else None)
