"""Experiment trackers, made from conf/logger."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runner.address import Run, resolved
from runner.build import build
from runner.record import PROGRESS, choices, read_metrics


def wandb_key_is_set() -> bool:
    """Is there a key for Weights & Biases, in the environment or from `wandb login`?"""
    if os.environ.get("WANDB_API_KEY"):
        return True
    from wandb.sdk.lib.wbauth import read_netrc_auth

    return read_netrc_auth(host=wandb_settings().base_url) is not None


def wandb_settings() -> Any:
    """W&B's own. Not by wandb.setup(): that starts a process, which child processes would share."""
    from wandb.sdk import wandb_setup

    return wandb_setup.singleton().settings


def wandb_mode() -> str:
    """WANDB_MODE where it is given, else `online` with a key and `offline` without. Also quietens W&B."""
    os.environ.setdefault("WANDB_SILENT", "true")
    return os.environ.get("WANDB_MODE") or ("online" if wandb_key_is_set() else "offline")


def wandb_logger(run: Run, config: dict[str, Any], project: str, entity: str | None = None) -> Any:
    """A logger whose run id is the run's id, so that an interrupted run goes on in the same W&B run.

    Its group is the experiment, its job type the paper.
    """
    from runner.tracking import PatientWandbLogger

    mode = wandb_mode()
    folder: Path = run.folder
    logger = PatientWandbLogger(
        project=project,
        entity=entity,
        id=run.id,
        name=f"{run.name}-{run.id}",
        group=run.choices.get("experiment") or run.paper,
        job_type=run.paper,
        tags=[run.paper, run.name, *run.cfg.tags],
        save_dir=str(folder),
        config=config,
        resume="allow",
        mode=mode,
        log_model=False,
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning passes it on unasked, and W&B warns of it
    return logger


def make_logger(run: Run) -> Any:
    """The logger of conf/logger, or None. It gets the whole config, and the chosen file of each group as `choices`."""
    if not run.cfg.logger.get("_target_"):
        return None
    return build(run.cfg, "logger", run=run, config=resolved(run.cfg) | {"choices": choices(run)})


@contextmanager
def tracked_run_ends() -> Iterator[None]:
    """A run that breaks off ends its W&B run too: the next one of a sweep must not go on in it."""
    try:
        yield
    except BaseException:
        wandb = sys.modules.get("wandb")
        if wandb and wandb.run:
            with suppress(Exception):  # its process may have been ended before this one
                wandb.finish(exit_code=1)
        raise


def finish_logger(logger: Any, folder: Path, metrics: dict[str, float], figures: list[Path]) -> None:
    """Hands over the figures, and as summary the last epoch's metrics and the final ones; ends the tracked run.

    Of a metric that a method logs by step Lightning passes only some values on, and the last epoch's may not be there.
    """
    if logger is None:
        return
    last_epoch = {k: v for row in read_metrics(folder)[-1:] for k, v in row.items() if k not in PROGRESS}
    logger.end(last_epoch | metrics, figures)


def log_figure(node: Mapping[str, Any], path: Path, experiment: str, **config: Any) -> None:
    """Logs the PNG to a W&B run that belongs to this figure alone: drawn again, it goes to the same run.

    node: the choice of conf/logger; where it has no project, nothing is logged.
    """
    if not node.get("project"):
        return
    import wandb

    mode: Any = wandb_mode()
    tracked = wandb.init(
        project=node["project"],
        entity=node["entity"],
        id=hashlib.sha256(f"{experiment}/{path.stem}".encode()).hexdigest()[:12],
        name=f"{experiment}/{path.stem}",
        group=experiment,
        job_type="figure",
        dir=path.parent,
        resume="allow",
        mode=mode,
        config={"experiment": experiment} | config,
    )
    tracked.log({f"figures/{path.stem}": wandb.Image(str(path))})
    tracked.finish()
