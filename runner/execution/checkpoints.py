"""Checkpoints of a run: last.ckpt to resume from, best.ckpt to test, each with a checksum beside it."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from runner.errors import UserError
from runner.files import file_digest, read_json, write_whole

log = logging.getLogger(__name__)


def checksum_path(path: Path) -> Path:
    """Return the place of a checkpoint's checksum file."""
    return path.with_name(f"{path.name}.sha256.json")


def write_checksum(path: Path, content: Path, keep_old: bool = False) -> None:
    """Write the checksum of a checkpoint.

    Args:
        path: final place of the checkpoint.
        content: file that holds, or will become, the checkpoint.
        keep_old: whether the checksum written before stays valid too. A kill between this call and the renaming of
            `content` then leaves a valid pair.
    """
    old = (read_json(checksum_path(path)) or {}).get("sha256", []) if keep_old else []
    write_whole(checksum_path(path), json.dumps({"sha256": [file_digest(content), *old[:1]]}) + "\n")


def is_intact(path: Path) -> bool:
    """Return whether a checkpoint exists and has the content that this runner wrote."""
    checksums = (read_json(checksum_path(path)) or {}).get("sha256", [])
    return path.is_file() and file_digest(path) in checksums


class LastCheckpoint(Checkpoint):
    """Callback that keeps last.ckpt: replaced at the end of an epoch if it is due, and at the end of training.

    Args:
        path: place of the checkpoint.
        every_seconds: shortest time between two checkpoints.
    """

    def __init__(self, path: Path, every_seconds: float) -> None:
        self.path, self.every_seconds, self.saved = path, every_seconds, time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Log where a resumed run continues."""
        if trainer.current_epoch:
            log.info("continues after epoch %d", trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save if the time has come or training ends here."""
        due = time.monotonic() - self.saved >= self.every_seconds
        if trainer.strategy.broadcast(due) or is_last_epoch(trainer):
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Replace last.ckpt; a kill at any time leaves the old one or the new one."""
        temporary = self.path.with_suffix(".part")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # on the disk before it replaces the one before
            write_checksum(self.path, temporary, keep_old=True)
            os.replace(temporary, self.path)
        self.saved = time.monotonic()


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint of the best epoch, with a checksum beside the file."""

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        if trainer.is_global_zero:
            write_checksum(Path(filepath), Path(filepath))


def is_last_epoch(trainer: pl.Trainer) -> bool:
    """Return whether training ends with the present epoch: by max_epochs, max_steps, max_time or a callback.

    For the hook `on_train_epoch_end`. (Lightning's own `fit_loop.done` changes the loop's counters.)
    """
    loop = trainer.fit_loop
    epochs, steps = trainer.max_epochs, trainer.max_steps
    last_epoch = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    last_step = 0 <= steps <= trainer.global_step
    return last_epoch or last_step or (trainer.should_stop and loop._can_stop_early)


def checkpoint_to_resume(folder: Path) -> Path | None:
    """Return the checkpoint from which an interrupted run continues, or None if it starts anew."""
    path = folder / "checkpoints" / "last.ckpt"
    if path.exists() and not is_intact(path):
        log.warning("%s is damaged or was not written by this run: the run starts anew", path)
        return None
    return path if path.exists() else None


def checkpoint_to_test(folder: Path) -> Path | None:
    """Return the best epoch's checkpoint if the method picks one, else None.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / "checkpoints" / "best.ckpt"
    if path.exists() and not is_intact(path):
        raise UserError(f"{path} is damaged or was not written by this run; rerun=true trains it again")
    return path if path.exists() else None


def checkpoint_for_others(folder: Path) -> Path | None:
    """Return the checkpoint of a finished run: the best weights if the method picks some, else the last.

    None if there is no such file or if it is damaged.
    """
    files = [folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    path = next((file for file in files if file.exists()), None)
    if path is not None and not is_intact(path):
        log.warning("%s is damaged or was not written by this run", path)
        return None
    return path


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a run and their checksums."""
    for pattern in ("*.ckpt", "*.sha256.json"):
        for path in (folder / "checkpoints").glob(pattern):
            path.unlink()
