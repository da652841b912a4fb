"""Address of a run: an id that depends only on what decides the result, and the folder that follows from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError

from runner.config.compose import compose_run, searchpath_of
from runner.config.schema import check_root
from runner.errors import UserError
from runner.files import file_digest

ABSENT = object()  # stands for a key that a config does not have

# Root keys that decide the result; `needs`, and parts of `trainer` and `callbacks`, count too.
IDENTITY_KEYS = ("method", "dataset", "model", "schedule", "stages", "seed")
# Root keys that say where and how a run is executed. A needed run takes them from the run that needs it.
EXECUTION_KEYS = ("logger", "paths", "loader", "threads", "compile", "wait", "checkpoint", "figures", "tags")

# Arguments of the Trainer that say where and how it runs. Every other one (precision, limit_train_batches, ...) counts.
TRAINER_EXECUTION_KEYS = {
    "_target_",
    "accelerator",
    "barebones",
    "benchmark",
    "default_root_dir",
    "devices",
    "enable_checkpointing",
    "enable_model_summary",
    "enable_progress_bar",
    "log_every_n_steps",
    "num_nodes",
    "num_sanity_val_steps",
    "plugins",
    "profiler",
    "strategy",
}
SMOKE = ".smoke"  # folder of smoke runs, below the outputs; reports and tables do not look into it
# Callbacks that only watch: they do not change a run's result.
WATCHING_CALLBACKS = ("LearningRateMonitor", "DeviceStatsMonitor", "ModelSummary", "RichModelSummary", "TrialPruning")


def resolved(node: Any) -> Any:
    """Return a config node as plain Python, with interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


@dataclass(frozen=True)
class Run:
    """Run with its address.

    Args:
        cfg: composed config, without Hydra's node and those of tables, figures and sweeps.
        choices: chosen file of each config group.
        searchpath: overrides that name further folders of config files, for needed runs.

    Raises:
        UserError: the root config does not follow its schema, or lacks a method, a data set or a model.
    """

    cfg: DictConfig
    choices: dict[str, Any]
    searchpath: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_root(self.cfg)
        if missing := [group for group in ("method", "dataset", "model") if group not in self.choices]:
            raise UserError(f"{missing[0]} is missing; python -m runner --help {missing[0]} lists the options")
        if self.cfg.smoke:
            shorten(self.cfg)

    @classmethod
    def compose(cls, overrides: list[str]) -> Run:
        """Return the run of `python -m runner <overrides>`."""
        return cls(*compose_run(overrides), searchpath_of(overrides))

    @cached_property
    def needs(self) -> dict[str, Run]:
        """Runs whose checkpoints this one takes, by the method's argument. They are executed where this one is."""
        return {argument: self._needed_run(argument, need) for argument, need in resolved(self.cfg.needs).items()}

    def _needed_run(self, argument: str, need: list[str] | dict[str, list[str]]) -> Run:
        overrides, same = (need["run"], need.get("same", [])) if isinstance(need, dict) else (need, [])
        if not overrides:
            raise UserError(f"needs.{argument} names no run; leave it out by ~needs.{argument}")
        groups = [f"{group}={self.choices[group]}" for group in same if group in self.choices]
        run = Run.compose([*overrides, *groups, *self.searchpath, *(["smoke=true"] if self.cfg.smoke else [])])
        for key in same:
            if any(OmegaConf.select(cfg, key, default=ABSENT) is ABSENT for cfg in (self.cfg, run.cfg)):
                raise UserError(f"needs.{argument}.same names {key}, which is no key of both runs")
            OmegaConf.update(run.cfg, key, OmegaConf.select(self.cfg, key), merge=False)
        OmegaConf.update(run.cfg, "rerun", False)
        for key in EXECUTION_KEYS:
            OmegaConf.update(run.cfg, key, self.cfg[key], merge=False)
        execution = {k: v for k, v in self.cfg.trainer.items() if k in TRAINER_EXECUTION_KEYS}
        own = {k: v for k, v in run.cfg.trainer.items() if k not in TRAINER_EXECUTION_KEYS}
        OmegaConf.update(run.cfg, "trainer", execution | own, merge=False)
        run.cfg.checkpoint.keep = True
        return run

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the result, resolved."""
        try:
            identity = {key: resolved(self.cfg[key]) for key in IDENTITY_KEYS}
        except InterpolationKeyError:
            from runner.config.checks import check_tasks  # which imports the classes of all groups

            check_tasks(self.cfg)  # a data set that does not fit the method often lacks the keys that it refers to
            raise
        trainer = resolved(self.cfg.trainer)
        identity["trainer"] = {k: v for k, v in trainer.items() if k not in TRAINER_EXECUTION_KEYS}
        callbacks = resolved(self.cfg.callbacks)
        deciding = {name: node for name, node in callbacks.items() if node and not _only_watches(node)}
        if deciding:
            identity["callbacks"] = deciding
        if self.cfg.init_from:
            identity["init_from"] = content_digest(self.cfg.init_from)
        identity["needs"] = {argument: run.id for argument, run in self.needs.items()}
        return identity

    @cached_property
    def id(self) -> str:
        """Hash of the identity: 12 hexadecimal digits. Also the id of the W&B run."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def paper(self) -> str:
        """First part of the method's name."""
        return str(self.choices["method"]).partition("/")[0]

    @property
    def name(self) -> str:
        """Name for people: method, data set and model."""
        method = self.cfg.alias or str(self.choices["method"]).partition("/")[2] or self.paper
        parts = (method, self.choices["dataset"], self.choices["model"])
        return "-".join(str(part).replace("/", "_") for part in parts)

    @property
    def title(self) -> str:
        """Name of this run among others of its kind, for trackers: name, fold if there is one, seed, id."""
        fold = OmegaConf.select(self.cfg, "dataset.fold")
        parts = [self.name, *([f"fold{fold}"] if fold is not None else []), f"seed{self.cfg.seed}", self.id]
        return "-".join(parts)

    @property
    def folder(self) -> Path:
        """Folder of the run's files: <outputs>/<paper>/<name>/<id>."""
        return Path(self.cfg.paths.outputs).absolute() / self.paper / self.name / self.id

    def choice(self, key: str) -> Any:
        """Return the chosen file of a config group, or the value of any other key; None if there is none."""
        return self.choices.get(key) or OmegaConf.select(self.cfg, key)

    def label_value(self, key: str) -> str:
        """Return `choice(key)` as text. Raises UserError if there is none."""
        value = self.choice(key)
        if value is None:
            raise UserError(f"the runs of the sweep are told apart by '{key}', but their config has no such key")
        return str(value)


def shorten(cfg: DictConfig) -> None:
    """Make a run as short as can be, in a folder of its own, without trackers and exports.

    It has one epoch and two batches of each stage.
    """
    with open_dict(cfg):
        cfg.schedule.max_epochs = 1
        if "check_val_every_n_epoch" in cfg.schedule:
            cfg.schedule.check_val_every_n_epoch = 1
        for stage in ("train", "val", "test"):
            cfg.trainer[f"limit_{stage}_batches"] = 2
        cfg.logger, cfg.rerun = {}, True
        if cfg.method.get("export"):
            cfg.method.export = None
        if Path(cfg.paths.outputs).name != SMOKE:
            cfg.paths.outputs = str(Path(cfg.paths.outputs) / SMOKE)


def content_digest(file: str) -> str:
    """Return the SHA-256 of a file of weights. Raises UserError if it cannot be read."""
    try:
        return file_digest(Path(file))
    except OSError as error:
        raise UserError(f"init_from={file} cannot be read: {error.strerror}") from error


def _only_watches(callback: dict[str, Any]) -> bool:
    return str(callback.get("_target_", "")).rpartition(".")[2] in WATCHING_CALLBACKS
