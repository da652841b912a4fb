"""Finished runs as objects: config, metrics, figures, trained module and data. For notebooks and scripts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.config.address import Run
from runner.config.place import CONF
from runner.errors import UserError
from runner.execution.record import read_metrics, read_result

ROOT = CONF.parent


class FinishedRun:
    """Finished run, read from its folder.

    Args:
        folder: folder of the run, with result.json and config.yaml.

    Raises:
        UserError: the folder holds no finished run.
    """

    def __init__(self, folder: Path) -> None:
        result = read_result(folder)
        if result is None:
            raise UserError(f"{folder} holds no finished run (no complete result.json)")
        self.folder, self.result = folder, result

    def __repr__(self) -> str:
        return f"<FinishedRun {'/'.join(self.folder.parts[-3:])}>"

    @cached_property
    def config(self) -> DictConfig:
        """Config of the run, resolved. Relative paths are made absolute from the project's root."""
        cfg = OmegaConf.load(self.folder / "config.yaml")
        assert isinstance(cfg, DictConfig)
        for key, value in OmegaConf.load(CONF / "config.yaml").items():
            if key not in cfg and key not in ("defaults", "hydra"):  # of a later version than the run
                cfg[key] = value
        for key in ("data", "outputs"):
            cfg.paths[key] = str(ROOT / cfg.paths[key])
        return cfg

    @property
    def choices(self) -> dict[str, str]:
        """Chosen file of each config group."""
        return {group: name for group, name in self.result["choices"].items() if name is not None}

    @property
    def metrics(self) -> Any:
        """Metrics of each epoch: a pandas DataFrame, or a list of dictionaries if pandas is not installed."""
        return as_frame(read_metrics(self.folder))

    @property
    def figures(self) -> dict[str, Path]:
        """Files of the figures, by name."""
        return {path.stem: path for path in sorted((self.folder / "figures").glob("*.png"))}

    @property
    def checkpoint(self) -> Path:
        """Checkpoint of the best epoch if the method picks one, else of the last. Raises UserError if none was kept."""
        from runner.execution.checkpoints import checkpoint_for_others

        if "fit" not in self.config.stages:
            raise UserError(f"{self.folder} has trained nothing: there are no weights to take from it")
        checkpoint = checkpoint_for_others(self.folder)
        if checkpoint is None:
            raise UserError(f"{self.folder} has no intact checkpoint; rerun=true checkpoint.keep=true makes one")
        return checkpoint

    def run(self) -> Run:
        """Return the addressed run, for its needed runs."""
        return Run(self.config, self.choices)

    @cached_property
    def _data(self) -> Any:
        from runner.execution.lightning_import import import_lightning
        from runner.main import make_data

        import_lightning().seed_everything(self.config.seed, verbose=False)
        return make_data(self.config)

    def data(self) -> Any:
        """Return the run's DataModule, set up."""
        return self._data

    def described_data(self) -> Any:
        """Return what the checkpoint says of the data, in place of the DataModule; None: the method needs the data.

        A method whose predictions need the data no more has a static `described_data(checkpoint, dataset)`, which takes
        the content of the checkpoint and the config of the data set.
        """
        import torch
        from hydra.utils import get_object

        describe = getattr(get_object(self.config.method._target_), "described_data", None)
        if describe is None or "fit" not in self.config.stages:
            return None
        content = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        return describe(content, OmegaConf.to_container(self.config.dataset))

    def module(self, data: Any = None) -> Any:
        """Return the run's LightningModule with its trained weights, in eval mode on the CPU.

        A method without training is returned as it was before its test.

        Args:
            data: DataModule, set up, or what `described_data` returned; None: that of the run.
        """
        import torch

        from runner.execution.lightning_import import import_lightning
        from runner.execution.trainer import quiet_lightning
        from runner.main import checkpoint_of, make_module

        quiet_lightning()
        data = self.data() if data is None else data
        needed = {argument: checkpoint_of(run) for argument, run in self.run().needs.items()}
        module = make_module(self.config, data, needed).eval()
        if hasattr(module, "prepare"):
            module.prepare(data)
        module.trainer = import_lightning().Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        if "fit" in self.config.stages:
            content = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            module.on_load_checkpoint(content)
            module.load_state_dict(content["state_dict"])
        return module.eval()


def load(reference: str | Path, outputs: str | Path = "outputs") -> FinishedRun:
    """Return a finished run.

    Args:
        reference: folder of the run, its id, or the overrides that `python -m runner` was called with.
        outputs: folder of all runs; a relative one is below the project's root.

    Raises:
        UserError: there is no such run, or it is not finished.
    """
    text, root = str(reference), ROOT / outputs
    for folder in (Path(text), ROOT / text):
        if folder.is_dir():
            return FinishedRun(folder.absolute())
    if re.fullmatch(r"[0-9a-f]{12}", text):
        folders = list(root.glob(f"*/*/{text}"))
        if not folders:
            raise UserError(f"there is no run {text} below {root}")
        return FinishedRun(folders[0])
    if "=" not in text:
        raise UserError(f"{text} is neither a folder, an id of 12 hexadecimal digits, nor overrides (method=...)")
    run = Run.compose([*shlex.split(text), f"paths.outputs='{root}'"])
    if read_result(run.folder) is None:
        raise UserError(f"this run is not finished: python -m runner {text}\n({run.folder})")
    return FinishedRun(run.folder)


class Runs:
    """Finished runs below a folder, as an iterable and a table.

    Args:
        items: the runs.
    """

    def __init__(self, items: list[FinishedRun]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[FinishedRun]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> FinishedRun:
        return self.items[index]

    def table(self) -> Any:
        """Return a row per run: id, choices, seed, final metrics and costs.

        A pandas DataFrame, or a list of dictionaries if pandas is not installed.
        """
        rows = []
        for run in self.items:
            result = run.result
            row = {"id": result["id"], **run.choices, "seed": result["seed"]}
            rows.append(row | result["metrics"] | result.get("costs", {}))
        return as_frame(rows)


def runs(experiment: str | None = None, method: str | None = None, outputs: str | Path = "outputs") -> Runs:
    """Return the finished runs below a folder, in the order of their folders.

    Args:
        experiment: only runs that this experiment made.
        method: only runs of this method.
        outputs: folder of all runs; a relative one is below the project's root.
    """
    wanted = {"experiment": experiment, "method": method}
    found = []
    for path in sorted((ROOT / outputs).glob("*/*/*/result.json")):
        result = read_result(path.parent)
        if result and all(name is None or result["choices"].get(group) == name for group, name in wanted.items()):
            found.append(FinishedRun(path.parent))
    return Runs(found)


def as_frame(rows: list[dict[str, Any]]) -> Any:
    """Return rows as a pandas DataFrame; as they are if pandas is not installed."""
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)
