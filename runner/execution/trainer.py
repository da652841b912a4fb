"""Lightning's Trainer as the runner sets it up: its callbacks, threads and the run's log."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra.utils
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf, open_dict
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.plugins.environments import SLURMEnvironment

from runner.config.address import Run, resolved
from runner.config.instantiate import instantiate
from runner.execution import provenance, slurm
from runner.execution.callbacks import EpochSeed, FiniteGuard, Interruption, ProgressLines, Recorder
from runner.execution.checkpoints import BestCheckpoint, LastCheckpoint
from runner.execution.preemption import Preemption, SignalsInTest
from runner.execution.progress import RunProgressBar
from runner.execution.run_lock import global_rank

log = logging.getLogger(__name__)

EXPECTED_WARNINGS = (
    ".*does not have many workers.*",
    ".*The number of training batches.*",
    ".*Sparse CSR tensor support is in beta.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*`srun` command is available.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*Total length of `list` across ranks is zero.*",  # data without a validation part
    ".*configure_optimizers` returned `None`.*",  # methods with loops of their own
)


def make_trainer(run: Run, module: Any, loggers: list[Any]) -> tuple[pl.Trainer, Recorder]:
    """Make the Trainer of conf/trainer with the run's schedule, the runner's callbacks and the user's.

    Args:
        run: run to execute.
        module: LightningModule; its `monitor` and `monitor_mode` choose the best epoch.
        loggers: trackers of the run.

    Returns:
        The Trainer, and the callback that records metrics.csv.
    """
    cfg = run.cfg.copy()
    recorder = Recorder(run.folder, provenance.code_hashes(run))
    users = user_callbacks(cfg)
    callbacks: list[Callback] = [EpochSeed(cfg.seed), FiniteGuard(), SignalsInTest(), *users, recorder]
    if "fit" in cfg.stages:
        callbacks += checkpoint_callbacks(run, module)
    interactive = sys.stdout.isatty()
    if not any(isinstance(callback, ProgressBar) for callback in users):
        callbacks.append(ProgressLines(every_seconds=math.inf if interactive else 30.0))
        callbacks += [RunProgressBar()] if interactive else []
    settings = {
        "logger": loggers or False,
        "callbacks": callbacks,
        "default_root_dir": str(run.folder),
        "enable_progress_bar": interactive or any(isinstance(callback, ProgressBar) for callback in users),
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    if SLURMEnvironment.detect():
        settings["plugins"] = SLURMEnvironment(auto_requeue=False)  # Preemption does it at the end of an epoch
    settings |= resolved(cfg.schedule)
    with open_dict(cfg):
        cfg.trainer.pop("callbacks", None)
    settings = {key: value for key, value in settings.items() if key not in cfg.trainer}  # what is given wins
    return instantiate(cfg, "trainer", **settings), recorder


def user_callbacks(cfg: Any) -> list[Callback]:
    """Instantiate the callbacks of the user: those of the group `callbacks`, and those of `trainer.callbacks`."""
    nodes = [node for node in cfg.callbacks.values() if node]
    given = cfg.trainer.get("callbacks")
    if given is not None:
        nodes += list(given) if OmegaConf.is_list(given) else [given]
    callbacks = [hydra.utils.instantiate(node) for node in nodes]
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ValueError(f"a callback must be a pytorch_lightning Callback with a _target_, got {callback}")
    return callbacks


def checkpoint_callbacks(run: Run, module: Any) -> list[Callback]:
    """Make the callbacks that save best.ckpt and last.ckpt, and the one that answers signals."""
    folder = run.folder / "checkpoints"
    folder.mkdir(exist_ok=True)
    callbacks: list[Callback] = []
    if monitor := getattr(module, "monitor", None):
        callbacks.append(
            BestCheckpoint(folder, "best", monitor=monitor, mode=module.monitor_mode, enable_version_counter=False)
        )
    # After it: last.ckpt also holds which epoch was the best.
    last = LastCheckpoint(folder / "last.ckpt", run.cfg.checkpoint.every_seconds)
    return [*callbacks, last, Preemption(last) if slurm.job_id() else Interruption(last)]


def set_threads(threads: int) -> None:
    """Set the number of threads of PyTorch's arithmetic; 0 leaves it at PyTorch's choice."""
    if threads:
        torch.set_num_threads(threads)


def quiet_lightning() -> None:
    """Leave out what Lightning prints of itself, and warnings that are expected."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)
    for expected in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", expected)


@contextmanager
def run_log(folder: Path) -> Iterator[None]:
    """Copy everything that is logged, warnings included, to run.log."""
    quiet_lightning()
    if global_rank() > 0:
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
