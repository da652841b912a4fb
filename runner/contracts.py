"""Do a method, a data set, a model and a trainer fit together? Told before anything is read or trained."""

from __future__ import annotations

from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig

from runner.compose import compose
from runner.errors import UserError
from runner.help import choices


def check_tasks(cfg: DictConfig) -> None:
    """Raises UserError where the data set's `task` is not among the `tasks` of the method and the model."""
    task = get_object(cfg.dataset._target_).task
    for group in ("method", "model"):
        accepts = get_object(cfg[group]._target_).tasks
        if task not in accepts:
            fitting = ", ".join(_datasets_for(accepts)) or "none here"
            others = ", ".join(_accepting(group, task)) or "none here"
            raise UserError(
                f"this {group} does {' or '.join(accepts)}, but the data set is for {task}.\n"
                f"Data sets that fit the {group}: {fitting}\n"
                f"{group.capitalize()}s that fit the data set: {others}"
            )


def check_schedule(cfg: DictConfig) -> None:
    """Raises UserError for a number of epochs that trains nothing."""
    epochs = cfg.schedule.get("max_epochs")
    if "fit" in cfg.stages and epochs is not None and (not isinstance(epochs, int) or epochs < 1) and epochs != -1:
        raise UserError(f"schedule.max_epochs must be a positive whole number, or -1 without an end, got {epochs}")


def check_processes(module: Any, trainer: Any) -> None:
    """Raises UserError where several processes are asked of a method whose `distributed` is False."""
    if trainer.world_size > 1 and not getattr(module, "distributed", True):
        raise UserError(f"this method runs in one process, not in {trainer.world_size}: trainer=cpu or trainer=gpu")


def _datasets_for(tasks: tuple[str, ...]) -> list[str]:
    return [name for name in choices("dataset") if _target("dataset", name).task in tasks]


def _accepting(group: str, task: str) -> list[str]:
    return [name for name in choices(group) if task in _target(group, name).tasks]


def _target(group: str, option: str) -> Any:
    """The class that an option of a group instantiates."""
    method = option if group == "method" else next(iter(choices("method")))
    overrides = [f"method={method}"] + ([] if group == "method" else [f"{group}={option}"])
    return get_object(compose(overrides)[group]._target_)
