"""`python -m runner.status experiment=E [overrides]`: status of each run of a sweep, here and in SLURM's queue.

Without an experiment: every run below paths.outputs that is not finished.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config.messages import cli_errors
from runner.config.place import CONF
from runner.console import exit_on_broken_pipe
from runner.execution.record import read_result
from runner.sweeps.run_status import HasFolder, RunStatus, count_states, run_statuses
from runner.sweeps.sweep import plan


@exit_on_broken_pipe()
@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    """Print the status of runs. Exit codes: 0; 2 for a mistake of the user."""
    overrides = sys.argv[1:] if arguments is None else arguments
    path_overrides = [o for o in overrides if o.startswith("paths.")]
    if path_overrides == overrides:
        runs: Sequence[HasFolder] = unfinished_runs(path_overrides)
        labels = ["/".join(run.folder.parts[-3:]) for run in runs]
    else:
        tasks = plan(overrides)[1]
        runs, labels = [task.run for task in tasks], [task.label or task.run.name for task in tasks]
    print(status_table(labels, run_statuses(runs)))


@dataclass(frozen=True)
class RunOnDisk:
    """Run by what it has left on disk.

    Args:
        folder: folder of the run.
        cfg: config that the run has written.
    """

    folder: Path
    cfg: DictConfig


def unfinished_runs(overrides: list[str]) -> list[RunOnDisk]:
    """Return the runs below paths.outputs that have no result."""
    root = OmegaConf.merge(OmegaConf.load(CONF / "config.yaml"), OmegaConf.from_dotlist(overrides))
    outputs = Path(root.paths.outputs)
    folders = {path.parent for name in ("state", "job") for path in outputs.glob(f"*/*/*/{name}.json")}
    folders = {folder for folder in folders if read_result(folder) is None}
    return [RunOnDisk(folder.absolute(), config_of(folder)) for folder in sorted(folders)]


def config_of(folder: Path) -> DictConfig:
    """Return the config that a run has written; without stages if there is none or it cannot be read."""
    defaults = OmegaConf.create({"stages": [], "schedule": {}})
    try:
        written = OmegaConf.load(folder / "config.yaml")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException):
        return defaults
    if isinstance(written, DictConfig):
        defaults.merge_with(written)
    return defaults


def status_table(labels: Sequence[str], statuses: Sequence[RunStatus]) -> str:
    """Return a line for each run, then the counts."""
    width = max(map(len, labels), default=0)
    lines = [f"{label:<{width}}  {s.state:<11}  {s.detail}".rstrip() for label, s in zip(labels, statuses, strict=True)]
    total = f"{len(labels)} runs: {count_states(statuses)}" if labels else "every run is finished"
    return "\n".join([*lines, total])


if __name__ == "__main__":
    main()
