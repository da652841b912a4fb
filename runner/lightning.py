"""Lightning's Trainer as the runner sets it up."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.plugins.environments import SLURMEnvironment

from runner import slurm
from runner.address import Run, resolved
from runner.build import build
from runner.callbacks import EpochSeed, FiniteGuard, Interruption, LastCheckpoint, ProgressLines, Recorder
from runner.errors import UserError
from runner.exclusive import rank
from runner.files import is_whole_checkpoint
from runner.preemption import Preemption

log = logging.getLogger(__name__)


def make_trainer(run: Run, module: Any, logger: Any) -> tuple[pl.Trainer, Recorder]:
    """The Trainer of conf/trainer with the run's schedule and the runner's callbacks, and the one that records."""
    cfg = run.cfg
    checkpoints = run.folder / "checkpoints"
    recorder = Recorder(run.folder)
    callbacks: list[Callback] = [EpochSeed(cfg.seed), FiniteGuard(), recorder]
    if "fit" in cfg.stages:
        checkpoints.mkdir(exist_ok=True)
        if monitor := getattr(module, "monitor", None):
            best = {"monitor": monitor, "mode": module.monitor_mode, "enable_version_counter": False}
            callbacks.append(ModelCheckpoint(checkpoints, "best", **best))
        # After it: the last checkpoint also holds which epoch was the best.
        last = LastCheckpoint(checkpoints / "last.ckpt", cfg.checkpoint.every_seconds)
        callbacks += [last, Preemption(last) if slurm.job_id() else Interruption(last)]
    interactive = sys.stdout.isatty()
    callbacks.append(RichProgressBar(leave=False) if interactive else ProgressLines())
    settings = {
        "logger": logger or False,
        "callbacks": callbacks,
        "default_root_dir": str(run.folder),
        "enable_progress_bar": interactive,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    if SLURMEnvironment.detect():
        settings["plugins"] = SLURMEnvironment(auto_requeue=False)  # Preemption does it at the end of an epoch
    settings |= resolved(cfg.schedule)
    settings = {key: value for key, value in settings.items() if key not in cfg.trainer}  # what is given wins
    return build(cfg, "trainer", **settings), recorder


def last_checkpoint(folder: Path) -> Path | None:
    """Where an interrupted run goes on."""
    path = folder / "checkpoints" / "last.ckpt"
    if path.exists() and not is_whole_checkpoint(path):
        log.warning("%s is cut short: the run starts anew", path)
        return None
    return path if path.exists() else None


def best_checkpoint(folder: Path) -> Path | None:
    """What is tested where the method picks a checkpoint. Raises UserError where it is cut short."""
    path = folder / "checkpoints" / "best.ckpt"
    if path.exists() and not is_whole_checkpoint(path):
        raise UserError(f"{path} is cut short: rerun=true makes the run anew")
    return path if path.exists() else None


def remove_checkpoints(folder: Path) -> None:
    for path in (folder / "checkpoints").glob("*.ckpt"):
        path.unlink()


@contextmanager
def run_log(folder: Path) -> Iterator[None]:
    """Everything that is logged, warnings included, also goes to run.log."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)
    for known in (
        ".*does not have many workers.*",
        ".*The number of training batches.*",
        ".*Sparse CSR tensor support is in beta.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*`srun` command is available.*",
        ".*Checkpoint directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", known)
    if rank() > 0:
        yield
        return
    handler = logging.FileHandler(folder / "run.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()
