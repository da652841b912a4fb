"""Where a run lives: an id that depends only on what decides the result, and the folder that follows from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.compose import compose_run
from runner.files import is_whole_checkpoint

DECIDES = ("method", "dataset", "model", "schedule", "stages", "seed")
WHERE = ("logger", "paths", "loader", "threads", "compile", "wait", "checkpoint", "tags")

# Arguments of the Trainer that say where and how it runs. Every other one (precision, limit_train_batches, ...) counts.
TRAINER_WHERE = {
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


def resolved(node: Any) -> Any:
    """A config node as plain Python, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


@dataclass(frozen=True)
class Run:
    """One addressed run. cfg: the composed config without Hydra's node; choices: the chosen file of each group."""

    cfg: DictConfig
    choices: dict[str, str]

    @classmethod
    def compose(cls, overrides: list[str]) -> Run:
        return cls(*compose_run(overrides))

    @cached_property
    def needs(self) -> dict[str, Run]:
        """The runs whose checkpoints this one takes, by the method's argument; they run where this one runs."""
        found = {}
        for argument, need in resolved(self.cfg.needs).items():
            overrides, same = (need["run"], need.get("same", [])) if isinstance(need, dict) else (need, [])
            run = Run.compose(
                [*overrides, *(f"{group}={self.choices[group]}" for group in same if group in self.choices)]
            )
            for key in same:
                OmegaConf.update(run.cfg, key, OmegaConf.select(self.cfg, key), merge=False)
            found[argument] = run
            OmegaConf.update(run.cfg, "rerun", False)
            for key in WHERE:
                OmegaConf.update(run.cfg, key, self.cfg[key], merge=False)
            here = {k: v for k, v in self.cfg.trainer.items() if k in TRAINER_WHERE}
            own = {k: v for k, v in run.cfg.trainer.items() if k not in TRAINER_WHERE}
            OmegaConf.update(run.cfg, "trainer", here | own, merge=False)
            run.cfg.checkpoint.keep = True
        return found

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the result, resolved."""
        identity = {key: resolved(self.cfg[key]) for key in DECIDES}
        identity["trainer"] = {k: v for k, v in resolved(self.cfg.trainer).items() if k not in TRAINER_WHERE}
        identity["needs"] = {argument: run.id for argument, run in self.needs.items()}
        return identity

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def paper(self) -> str:
        return self.choices["method"].partition("/")[0]

    @property
    def name(self) -> str:
        method = self.cfg.alias or self.choices["method"].partition("/")[2] or self.paper
        parts = (method, self.choices["dataset"], self.choices["model"])
        return "-".join(str(part).replace("/", "_") for part in parts)

    @property
    def folder(self) -> Path:
        return Path(self.cfg.paths.outputs).absolute() / self.paper / self.name / self.id

    @property
    def checkpoint(self) -> Path | None:
        """What a run that needs this one takes: the best weights where the method picks some, else the last."""
        files = (self.folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
        return next((file for file in files if is_whole_checkpoint(file)), None)
