"""Check that method, data set, model and trainer fit together, before anything is read or trained."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from runner.config.help import choices
from runner.config.instantiate import check_given, parameters
from runner.config.targets import target_of
from runner.errors import UserError

log = logging.getLogger(__name__)


def check_run(cfg: DictConfig) -> None:
    """Run all checks that need only the config. Raises UserError."""
    for group in ("method", "dataset", "model"):
        check_given(cfg[group])
    check_numbers(cfg)
    check_tasks(cfg)
    check_needs(cfg)
    check_schedule(cfg)
    check_accelerator(cfg)


def check_numbers(cfg: DictConfig) -> None:
    """Check that no value is NaN, which would spread through a training or a metric. Raises UserError."""
    pending: list[tuple[str, Any]] = [("", OmegaConf.to_container(cfg, resolve=True))]
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{key}.{name}" if key else str(name), below) for name, below in value.items()]
        elif isinstance(value, list):
            pending += [(f"{key}[{place}]", below) for place, below in enumerate(value)]
        elif isinstance(value, float) and math.isnan(value):
            raise UserError(f"{key} must be a number, got nan")


def check_tasks(cfg: DictConfig) -> None:
    """Check that the method and the model accept the task of the data set.

    Raises:
        UserError: they do not, or a `_target_` is no such class. The message names choices that fit.
    """
    task = _declared(cfg, "dataset", "task")
    for group in ("method", "model"):
        tasks = _declared(cfg, group, "tasks")
        if task not in tasks:
            datasets = ", ".join(_datasets_for(tasks)) or "none here"
            others = ", ".join(_accepting(group, task)) or "none here"
            raise UserError(
                f"this {group} does {' or '.join(tasks)}, but the data set is for {task}.\n"
                f"Data sets that fit the {group}: {datasets}\n"
                f"{group.capitalize()}s that fit the data set: {others}"
            )


def check_needs(cfg: DictConfig) -> None:
    """Check that the method takes the checkpoints of the needed runs. Raises UserError."""
    arguments = parameters(get_object(cfg.method._target_))
    for name in map(str, cfg.needs):
        if name not in arguments and "..." not in arguments:
            raise UserError(
                f"needs.{name} is not an argument of {cfg.method._target_}; its arguments: {', '.join(arguments)}"
            )


def _declared(cfg: DictConfig, group: str, attribute: str) -> Any:
    """Return `task` or `tasks` of the class that a group instantiates."""
    target = cfg[group].get("_target_")
    if not target:
        raise UserError(f"{group} has no _target_; choose a file of conf/{group}: {group}=<name>")
    try:
        declared = get_object(target)
    except (ImportError, ValueError) as error:
        raise UserError(f"{group}._target_={target} cannot be imported: {error}") from error
    if not inspect.isclass(declared) or not hasattr(declared, attribute):
        raise UserError(f"{group}._target_={target} is not a class with the attribute `{attribute}`")
    return getattr(declared, attribute)


def check_schedule(cfg: DictConfig) -> None:
    """Check that numbers of epochs, steps and batches leave something to do, and are given once. Raises UserError."""
    stages = {"train": "fit", "test": "test"}
    lengths = ("max_epochs", "max_steps") if "fit" in cfg.stages else ()
    limits = [f"limit_{part}_batches" for part, stage in stages.items() if stage in cfg.stages]
    for group in ("schedule", "trainer"):
        for key in lengths:
            value = cfg[group].get(key)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and (not whole or value < 1) and value != -1:
                raise UserError(f"{group}.{key} must be a positive whole number, or -1 without an end, got {value}")
        for key in limits:
            if cfg[group].get(key) == 0:
                raise UserError(f"{group}.{key}=0 leaves nothing to do; without that stage: stages=[...]")
        _check_trainer_numbers(cfg[group], group)
    if twice := [key for key in cfg.trainer if key in cfg.schedule]:
        key = twice[0]
        raise UserError(
            f"schedule.{key}={cfg.schedule[key]} and trainer.{key}={cfg.trainer[key]} say the same thing: "
            f"keep schedule.{key}, which methods read too"
        )


def _check_trainer_numbers(node: DictConfig, group: str) -> None:
    """Raise UserError for numbers that Lightning's Trainer divides by, or takes for none, without a word."""
    for key in ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval"):
        if isinstance(value := node.get(key), int | float) and value <= 0:
            raise UserError(f"{group}.{key} must be positive, got {value}")
    if isinstance(clip := node.get("gradient_clip_val"), int | float) and clip < 0:
        raise UserError(f"{group}.gradient_clip_val must not be negative, got {clip}; null clips nothing")


def check_accelerator(cfg: DictConfig) -> None:
    """Check that the machine has the accelerator that the trainer names. Raises UserError."""
    if cfg.trainer.get("accelerator") not in ("gpu", "cuda"):
        return
    import torch

    if not torch.cuda.is_available():
        raise UserError("trainer.accelerator=gpu, but PyTorch finds no GPU on this machine; trainer=cpu runs without")


def check_optimization(module: Any, cfg: DictConfig) -> None:
    """Check that Lightning's clipping and accumulation of gradients can work with the method.

    Raises:
        UserError: the method optimises by hand, and the trainer is asked to clip or accumulate gradients.
    """
    if getattr(module, "automatic_optimization", True):
        return
    asked = {"gradient_clip_val": None, "accumulate_grad_batches": 1}
    for group in ("trainer", "schedule"):
        for key, off in asked.items():
            value = cfg[group].get(key)
            if value is not None and value != off:
                raise UserError(
                    f"{group}.{key}={value} has no effect on this method, which runs its optimizers itself; "
                    f"leave the key out"
                )


def check_processes(module: Any, trainer: Any) -> None:
    """Check that a method that runs in one process is not run in several. Raises UserError."""
    if trainer.world_size > 1 and not getattr(module, "distributed", True):
        raise UserError(f"this method runs in one process, not in {trainer.world_size}: trainer=cpu or trainer=gpu")


def check_trained(module: Any, trainer: Any, folder: Path) -> None:
    """Check after training that there was some, and that the epoch to test was chosen if the method asks for that.

    Args:
        module: LightningModule after `trainer.fit`.
        trainer: Trainer.
        folder: folder of the run.

    Raises:
        UserError: no batch was trained, now or before an interruption, or no epoch has measured `module.monitor`.
    """
    if trainer.fit_loop.epoch_loop.batch_progress.total.ready == 0:
        raise UserError("training ended before its first batch: look at schedule and trainer (max_time, limits)")
    monitor = getattr(module, "monitor", None)
    if monitor and not trainer.fast_dev_run and not (folder / "checkpoints" / "best.ckpt").exists():
        raise UserError(
            f"no epoch has measured {monitor}, by which the weights to test are chosen: validate more often "
            "(check_val_every_n_epoch), or test the last weights with method.monitor=null"
        )


def warn_of_untrained(cfg: DictConfig, module: Any, checkpoints: Mapping[str, Path]) -> None:
    """Warn if a method that trains is only tested, with the weights that its network was made with.

    Args:
        cfg: config of the run.
        module: LightningModule.
        checkpoints: checkpoints of the needed runs.
    """
    import pytorch_lightning as pl

    trains = type(module).training_step is not pl.LightningModule.training_step
    if trains and "fit" not in cfg.stages and not cfg.init_from and not checkpoints:
        log.warning("an untrained network is tested: stages has no fit, and init_from names no weights")


def _datasets_for(tasks: tuple[str, ...]) -> list[str]:
    return [name for name in choices("dataset") if _class("dataset", name).task in tasks]


def _accepting(group: str, task: str) -> list[str]:
    return [name for name in choices(group) if task in _class(group, name).tasks]


def _class(group: str, option: str) -> Any:
    """Return the class that an option of a group instantiates."""
    return get_object(str(target_of(group, option)))
