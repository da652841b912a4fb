"""What the runner adds to Lightning's loop: exact resumption, records, a stop where training diverges, progress."""

from __future__ import annotations

import csv
import logging
import os
import random
import signal
import time
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint

from runner.errors import Diverged
from runner.record import read_metrics

log = logging.getLogger(__name__)


class EpochSeed(Callback):
    """Every epoch draws its random numbers from (seed, epoch, rank) alone, so that a resumed run repeats the first."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        seed = hash((self.seed, trainer.current_epoch, trainer.global_rank)) % 2**32
        random.seed(seed)  # the generators in use only: seed_everything asks every kind of device, which takes longer
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)


class LastCheckpoint(Checkpoint):
    """Keeps last.ckpt, replaced at the end of an epoch if `every_seconds` have passed, and at the end of training."""

    def __init__(self, path: Path, every_seconds: float) -> None:
        self.path, self.every_seconds, self.saved = path, every_seconds, time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch:
            log.info("goes on after epoch %d", trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        due = time.monotonic() - self.saved >= self.every_seconds
        if trainer.strategy.broadcast(due) or trainer.current_epoch + 1 == trainer.max_epochs:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        temporary = self.path.with_suffix(".part")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # on the disk before it takes the place of the one before
            os.replace(temporary, self.path)
        self.saved = time.monotonic()


class Interruption(Checkpoint):
    """The first Ctrl-C ends a run at the end of its epoch, saved; the second at once."""

    def __init__(self, last: LastCheckpoint) -> None:
        self.last, self.asked = last, False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        in_front = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a shell's background job ignores it
        if in_front and parent_process() is None:  # else the sweep answers
            signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        log.info("stops after this epoch; Ctrl-C again stops at once, and loses what came after the last checkpoint")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.strategy.broadcast(self.asked) and trainer.current_epoch + 1 != trainer.max_epochs:
            self.last.save(trainer)
            raise KeyboardInterrupt

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if signal.getsignal(signal.SIGINT) == self._ask:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class Recorder(Checkpoint):
    """Writes metrics.csv, a row an epoch: epoch (from 0), step (optimiser steps done), seconds (of fitting), metrics.

    A resumed run drops the rows of the epochs that it repeats. (It is a Checkpoint, since Lightning calls those last,
    when all metrics are in.)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.names: list[str] = []
        self.before, self.started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent fitting, that of interrupted executions included."""
        return self.before + time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.before = state["seconds"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.started = time.monotonic()
        self.rows = [row for row in read_metrics(self.folder) if row["epoch"] < trainer.current_epoch]
        if trainer.is_global_zero:
            self._write(self.rows, "w")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, "seconds": round(self.seconds, 3)} | metrics
        self.rows.append(row)
        if trainer.is_global_zero:
            self._write(*(([row], "a") if list(row) == self.names else (self.rows, "w")))

    def _write(self, rows: list[dict[str, float]], mode: str) -> None:
        if mode == "w":
            self.names = list(dict.fromkeys(name for row in rows for name in row))
        with open(self.folder / "metrics.csv", mode, newline="") as file:
            writer = csv.DictWriter(file, self.names)
            if mode == "w" and self.names:
                writer.writeheader()
            writer.writerows(rows)


class FiniteGuard(Callback):
    """Raises Diverged at a loss, or an epoch's loss metric, that is NaN or infinite; names the step and the metric."""

    def __init__(self, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps
        self.losses: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is None:
            return
        self.losses.append(loss.detach())
        if loss.device.type == "cpu" or len(self.losses) == self.every_n_steps:
            self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._check(trainer)
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
    """A line every `every_seconds` for output that is not a terminal: epoch, metrics, time left."""

    def __init__(self, every_seconds: float = 30.0) -> None:
        self.every_seconds = every_seconds
        self.started = self.printed = time.monotonic()
        self.first_epoch = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.started = self.printed = time.monotonic()
        self.first_epoch = trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        now, done = time.monotonic(), trainer.current_epoch + 1
        if not trainer.is_global_zero or (now - self.printed < self.every_seconds and done != trainer.max_epochs):
            return
        self.printed = now
        metrics = "  ".join(f"{k} {float(v):.4g}" for k, v in sorted(trainer.callback_metrics.items()))
        left = ""
        if trainer.max_epochs and trainer.max_epochs > 0:
            seconds = (now - self.started) / (done - self.first_epoch) * (trainer.max_epochs - done)
            left = f"/{trainer.max_epochs}, {seconds:.0f} s left"
        log.info("epoch %d%s: %s", done, left, metrics)
