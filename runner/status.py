"""`python -m runner.status experiment=E [overrides]`: how each run of a sweep stands, here and in SLURM's queue.

Without an experiment: every run below paths.outputs that is not finished.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from runner.compose import CONF
from runner.console import reader_may_leave
from runner.errors import one_message
from runner.survey import Place, Standing, survey
from runner.sweep import counts, plan


@reader_may_leave()
@one_message()
def main(arguments: list[str] | None = None) -> None:
    """Exit codes: 0; 2 for a mistake of the user's."""
    overrides = sys.argv[1:] if arguments is None else arguments
    places = [o for o in overrides if o.startswith("paths.")]
    if places == overrides:
        runs: Sequence[Place] = unfinished(places)
        labels = ["/".join(run.folder.parts[-3:]) for run in runs]
    else:
        tasks = plan(overrides)[1]
        runs, labels = [task.run for task in tasks], [task.label or task.run.name for task in tasks]
    print(table(labels, survey(runs)))


@dataclass(frozen=True)
class Found:
    """A run by what it has left on disk."""

    folder: Path
    cfg: DictConfig


def unfinished(overrides: list[str]) -> list[Found]:
    """The runs below paths.outputs that have no result."""
    root = OmegaConf.merge(OmegaConf.load(CONF / "config.yaml"), OmegaConf.from_dotlist(overrides))
    folders = {path.parent for name in ("state", "job") for path in Path(root.paths.outputs).glob(f"*/*/*/{name}.json")}
    folders = {folder for folder in folders if not (folder / "result.json").exists()}
    return [Found(folder.absolute(), config_of(folder)) for folder in sorted(folders)]


def config_of(folder: Path) -> DictConfig:
    """The config that a run has written; without stages where it has not come so far."""
    cfg, path = OmegaConf.create({"stages": [], "schedule": {}}), folder / "config.yaml"
    if path.exists():
        cfg.merge_with(OmegaConf.load(path))
    return cfg


def table(labels: Sequence[str], standings: Sequence[Standing]) -> str:
    """A line a run, then the counts."""
    width = max(map(len, labels), default=0)
    lines = [
        f"{label:<{width}}  {s.state:<11}  {s.detail}".rstrip() for label, s in zip(labels, standings, strict=True)
    ]
    return "\n".join([*lines, f"{len(labels)} runs: {counts(standings)}" if labels else "no run is unfinished"])


if __name__ == "__main__":
    main()
