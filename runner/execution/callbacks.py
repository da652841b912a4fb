"""Callbacks that the runner adds to Lightning's loop: seeds, records, a guard against divergence, progress."""

from __future__ import annotations

import csv
import io
import logging
import math
import random
import signal
import time
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, EMAWeightAveraging

from runner.errors import Diverged, UserError
from runner.execution.checkpoints import LastCheckpoint, is_last_epoch
from runner.execution.provenance import mixed_code
from runner.execution.record import read_metrics
from runner.files import write_whole

log = logging.getLogger(__name__)


class EpochSeed(Callback):
    """Seed of each epoch from (seed, epoch, rank) alone, so that a resumed run repeats an uninterrupted one.

    Args:
        seed: seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Seed the generators that are in use; `seed_everything` asks every kind of device, which takes longer."""
        seed = hash((self.seed, trainer.current_epoch, trainer.global_rank)) % 2**32
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)


class Interruption(Checkpoint):
    """Answer to Ctrl-C: the first one ends a run at the end of its epoch, saved; the second one at once.

    Args:
        last: callback that saves last.ckpt.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self.last, self.asked = last, False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take over SIGINT, unless a shell's background job ignores it or a sweep answers it."""
        in_front = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if in_front and parent_process() is None:
            signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        log.info("stops after this epoch; Ctrl-C again stops at once, and loses what came after the last checkpoint")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save and stop if Ctrl-C was pressed."""
        if trainer.strategy.broadcast(self.asked) and not is_last_epoch(trainer):
            self.last.save(trainer)
            raise KeyboardInterrupt

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Give SIGINT back to Python."""
        if signal.getsignal(signal.SIGINT) == self._ask:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class Recorder(Checkpoint):
    """Writer of metrics.csv, one row per epoch: epoch (from 0), step, seconds of fitting, metrics.

    A resumed run drops the rows of the epochs that it repeats. An epoch without validation has no `val/` metrics: those
    of an earlier epoch are not repeated. (The class is a Checkpoint since Lightning calls those last, when all metrics
    are there.)

    Args:
        folder: folder of the run.
        code: hashes of the code that the run depends on.
    """

    def __init__(self, folder: Path, code: dict[str, str]) -> None:
        self.folder, self.code = folder, code
        self.rows: list[dict[str, float]] = []
        self.names: list[str] = []
        self.before, self.started = 0.0, time.monotonic()
        self.validated = False

    @property
    def seconds(self) -> float:
        """Time spent fitting, including that of interrupted executions."""
        return self.before + time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds of fitting and the hashes of the code, for the checkpoint."""
        return {"seconds": self.seconds, "code": self.code}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the seconds of interrupted executions, and the hashes of their code where it has changed."""
        self.before = state["seconds"]
        mixed = mixed_code(state.get("code", {}), self.code)
        if changed := [path for path in mixed if mixed[path] != self.code[path]]:
            log.warning(
                "the run continues by other code than it began with; rerun=true starts anew: %s", ", ".join(changed)
            )
        self.code = mixed

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Drop the rows of epochs that are repeated."""
        self.started = time.monotonic()
        self.rows = [row for row in read_metrics(self.folder) if row["epoch"] < trainer.current_epoch]
        if trainer.is_global_zero:
            self._write()

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin an epoch that has not been validated yet."""
        self.validated = False

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Remember that this epoch has values of its own for the `val/` metrics."""
        self.validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write the row of the epoch."""
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if self.validated or not name.startswith("val/")
        }
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, "seconds": round(self.seconds, 3)} | metrics
        self.rows.append(row)
        if trainer.is_global_zero:
            self._append(row) if list(row) == self.names else self._write()

    def _append(self, row: dict[str, float]) -> None:
        with open(self.folder / "metrics.csv", "a", newline="") as file:
            csv.DictWriter(file, self.names).writerow(row)

    def _write(self) -> None:
        self.names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.names)
        if self.names:
            writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.folder / "metrics.csv", text.getvalue())


class WeightEMA(EMAWeightAveraging):
    """Exponential moving average of the parameters and of the running statistics of normalisation.

    Validation and test use it. Other buffers, such as a method's best accuracy so far, are no weights: the average has
    the present ones.
    """

    def _share_state(self, module: pl.LightningModule) -> None:
        if self._average_model is None:
            return
        averaged = dict(self._average_model.module.named_modules())
        for name, part in module.named_modules():
            if name in averaged:
                averaged[name]._buffers |= {k: b for k, b in part._buffers.items() if not k.startswith("running_")}

    def on_validation_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Validate the average."""
        self._share_state(module)
        super().on_validation_epoch_start(trainer, module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Go back to the weights that are trained."""
        self._share_state(module)
        super().on_validation_epoch_end(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Leave the average in the module."""
        self._share_state(module)
        super().on_train_end(trainer, module)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save both."""
        self._share_state(module)
        super().on_save_checkpoint(trainer, module, checkpoint)


class FiniteGuard(Callback):
    """Guard that raises Diverged at a training loss, or an epoch's loss metric, that is NaN or infinite.

    An epoch in which Lightning left every step out, because the method returned no loss, ends the run too: nothing was
    learned in it. So does a negative learning rate, which a schedule may reach.

    Args:
        every_n_steps: number of steps between two checks on a GPU, where each check waits for the device.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps
        self.losses: list[torch.Tensor] = []
        self.steps_with_loss = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin to count the steps that have a loss, and check the learning rates."""
        self.steps_with_loss = 0
        rates = [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if min(rates, default=0) < 0:
            raise UserError(
                f"the learning rate is {min(rates):g} in epoch {trainer.current_epoch}: "
                "look at method.scheduler, whose factors must not be negative"
            )

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Check the loss of the step, or keep it for a later check."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs  # empty after a step without a loss
        if loss is None:
            return
        self.steps_with_loss += 1
        self.losses.append(loss.detach())
        if loss.device.type == "cpu" or len(self.losses) == self.every_n_steps:
            self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Check the remaining losses and the loss metrics of the epoch, and that there were any."""
        self._check(trainer)
        if module.automatic_optimization and not self.steps_with_loss:
            raise UserError(
                f"no batch of epoch {trainer.current_epoch} gave the method a loss, so that nothing was learned: look "
                "at dataset.batch_size and at the data"
            )
        for name, value in trainer.callback_metrics.items():
            if name.endswith("loss") and not torch.isfinite(value).all():
                raise Diverged(
                    f"{name} is {float(value)} after epoch {trainer.current_epoch} (step {trainer.global_step})"
                )

    def _check(self, trainer: pl.Trainer) -> None:
        losses, self.losses = self.losses, []
        for back, loss in enumerate(reversed(losses)):
            if not torch.isfinite(loss):
                step = trainer.global_step - back
                raise Diverged(f"the training loss is {float(loss)} at step {step} (epoch {trainer.current_epoch})")


class ProgressLines(Checkpoint):
    """Progress for output that is not a terminal: a line with epoch, metrics and time left now and then.

    Epochs have a line when `every_seconds` have passed since the last one; within a long epoch there is a line whenever
    the training has also gone on for 5 % longer, so that a training of days does not fill its log.

    Args:
        every_seconds: shortest time between two lines; infinite: only the last epoch has one.
    """

    def __init__(self, every_seconds: float = 30.0) -> None:
        self.every_seconds = every_seconds
        self.started = self.epoch_started = self.epoch_printed = self.printed = time.monotonic()
        self.first = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock."""
        self.started = self.epoch_printed = self.printed = time.monotonic()
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready  # of an epoch that was interrupted
        self.first = trainer.current_epoch + batches / max(trainer.num_training_batches, 1)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self.epoch_started = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log a line within an epoch if the time has come."""
        now, batches = time.monotonic(), trainer.num_training_batches
        since = now - max(self.printed, self.epoch_started)  # a short epoch has its own line alone
        is_due = since >= max(self.every_seconds, (now - self.started) / 20)
        if not trainer.is_global_zero or not is_due or batch_idx + 1 >= batches:
            return
        self.printed = now
        epochs = epochs_to_train(trainer)
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        log.info(
            "epoch %d%s, batch %d%s%s%s",
            trainer.current_epoch + 1,
            "" if epochs is None else f"/{epochs}",
            batch_idx + 1,
            "" if math.isinf(batches) else f"/{batches}",
            self._time_left(epochs, trainer.current_epoch + (batch_idx + 1) / batches),
            "" if loss is None else f": loss {float(loss):.4g}",
            extra={"underway": True},
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Log a line if the time has come or training ends here."""
        now, done = time.monotonic(), trainer.current_epoch + 1
        due = now - self.epoch_printed >= self.every_seconds or is_last_epoch(trainer)
        if not trainer.is_global_zero or not due:
            return
        self.epoch_printed = self.printed = now
        metrics = "  ".join(f"{k} {float(v):.4g}" for k, v in sorted(trainer.callback_metrics.items()))
        epochs = epochs_to_train(trainer)
        of_all = "" if epochs is None else f"/{epochs}"
        left = self._time_left(epochs, done)
        log.info("epoch %d%s%s: %s", done, of_all, left, metrics, extra={"underway": not is_last_epoch(trainer)})

    def _time_left(self, epochs: int | None, done: float) -> str:
        """Return the seconds left of a number of epochs after `done` of them; empty where there is no such number."""
        if epochs is None or done <= self.first:
            return ""
        seconds = (time.monotonic() - self.started) / (done - self.first) * (epochs - done)
        return f", {seconds:.0f} s left"


def epochs_to_train(trainer: pl.Trainer) -> int | None:
    """Return the number of epochs of a training; None: it has no bound."""
    return None if trainer.max_epochs is None or trainer.max_epochs < 0 else trainer.max_epochs
