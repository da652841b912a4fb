"""Run a sweep: every run that is not finished yet, by the launcher of conf/hydra/launcher."""

from __future__ import annotations

import logging
import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import configure_log
from hydra.utils import instantiate
from omegaconf import DictConfig

from runner.config.address import Run
from runner.config.compose import compose, group_options, parse
from runner.config.grids import expand_sweep, values_of
from runner.errors import UserError
from runner.sweeps.launchers.task import Task
from runner.sweeps.run_status import UNDER_WAY, RunStatus, count_states, run_statuses

log = logging.getLogger(__name__)
LARGEST_BATCH = 10**6
LAUNCHING = re.compile(r"[+~]{0,2}hydra(/launcher|\.launcher|/sweeper|\.sweep).*")  # overrides that are not about a run


def sweep(arguments: list[str]) -> int:
    """Launch the runs that are missing, wait for those under way unless `wait=false`, and report the outcome.

    Args:
        arguments: command line after `python -m runner`.

    Returns:
        Exit code: 0 if all runs are finished, or under way and not waited for; 2 if runs failed by the user's mistakes
        alone; else 1.
    """
    overrides = [a for a in with_searchpath(arguments) if a not in ("-m", "--multirun")]
    if flags := [a for a in overrides if a.startswith("-")]:
        raise UserError(f"a sweep takes overrides, and not {' '.join(flags)}")
    cfg, tasks = plan(overrides)
    configure_log(cfg.hydra.job_logging)
    statuses = run_statuses([task.run for task in tasks])
    log.info("%d runs: %s", len(tasks), count_states(statuses))
    todo = [t for t, s in zip(tasks, statuses, strict=True) if is_wanted(s, t.run.cfg.rerun)]
    if todo:
        launch(cfg, todo, arguments)
        statuses = run_statuses([task.run for task in tasks])
    if waiting := [t for t, s in zip(tasks, statuses, strict=True) if s.state in UNDER_WAY]:
        command = shlex.join(o for o in overrides if not LAUNCHING.match(o))
        log.info("to see how it goes: python -m runner.status %s", command)
        if cfg.wait:
            follow(waiting)
            statuses = run_statuses([task.run for task in tasks])
    log.info("%s", summary(tasks, statuses))
    return exit_code(statuses, wait=cfg.wait)


def with_searchpath(arguments: Sequence[str]) -> list[str]:
    """Replace Hydra's flag `--config-dir DIR` by the override that means the same, since a sweep takes overrides."""
    result, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        flag, equals, folder = argument.partition("=")
        if flag not in ("--config-dir", "-cd"):
            result.append(argument)
            continue
        if not equals:
            if not rest:
                raise UserError("--config-dir needs a folder")
            folder = rest.pop(0)
        if not Path(folder).is_dir():
            raise UserError(f"--config-dir {folder}: there is no such folder")
        result.append(f"hydra.searchpath=[{Path(folder).absolute()}]")
    return result


def exit_code(statuses: Sequence[RunStatus], wait: bool) -> int:
    """Return the exit code of a sweep, as `sweep` describes it."""
    accepted = ("finished",) if wait else ("finished", *UNDER_WAY)
    lacking = [s for s in statuses if s.state not in accepted]
    if not lacking:
        return 0
    return 2 if all(s.mistake for s in lacking) else 1


def plan(overrides: list[str]) -> tuple[DictConfig, list[Task]]:
    """Return the config of the sweep's first run, Hydra's node included, and a task for each different run."""
    cfg = compose([first_value(o) for o in overrides])
    runs = [[o for o in run if not LAUNCHING.fullmatch(o)] for run in expand_sweep(cfg, overrides)]
    if not runs:
        raise UserError("no run is left: no grid of the sweep has the values that the overrides choose")
    common = set.intersection(*map(set, runs))
    tasks: dict[Path, Task] = {}
    for run_overrides in runs:
        label = " ".join(o for o in run_overrides if o not in common)
        task = Task(run_overrides, Run.compose(run_overrides), label)
        tasks.setdefault(task.run.folder, task)
    return cfg, list(tasks.values())


def first_value(override: str) -> str:
    """Return an override with the first of its values: `key=a,b` -> `key=a`."""
    parsed = parse(override)
    return f"{parsed.get_key_element()}={values_of(override)[0]}" if parsed.is_sweep_override() else override


def is_wanted(status: RunStatus, rerun: bool) -> bool:
    """Return whether a sweep launches a run."""
    return status.state not in UNDER_WAY and (rerun or status.state != "finished")


def launch(cfg: DictConfig, tasks: Sequence[Task], arguments: list[str]) -> None:
    """Run the tasks by the launcher, and log a line for each that ends. After Ctrl-C finished runs stay finished."""
    launcher = instantiate_launcher(cfg)
    folder = Path(cfg.paths.outputs).absolute() / ".sweeps" / time.strftime("%Y-%m-%d_%H-%M-%S")
    while folder.exists():
        folder = folder.with_name(folder.name + "+")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error}\nName another place with paths.outputs=<folder>") from error
    (folder / "command.txt").write_text(shlex.join(["python", "-m", "runner", *arguments]) + "\n")
    report = Report(len(tasks))
    for task in launcher.launch(tasks, folder):
        report(task, run_statuses([task.run])[0])


def instantiate_launcher(cfg: DictConfig, batch: int = LARGEST_BATCH) -> Any:
    """Return the launcher of a sweep: one of runner/sweeps/launchers, or that of an installed plugin of Hydra.

    Args:
        cfg: config with Hydra's node.
        batch: tasks that a plugin's launcher is given at a time.

    Raises:
        UserError: it is Hydra's own launcher, which would not record the runs' outcomes.
    """
    target = str(cfg.hydra.launcher.get("_target_"))
    if target.startswith("runner.sweeps.launchers."):
        return instantiate(cfg.hydra.launcher)
    if target.startswith("hydra._internal"):
        names = [n for n in group_options("hydra/launcher") if n not in ("basic", "submitit_local", "submitit_slurm")]
        raise UserError(f"hydra/launcher must be {', '.join(names)}, or a file of your own that starts with one")
    from runner.sweeps.launchers.plugin import Plugin

    chosen = [o for o in cfg.hydra.overrides.hydra if re.match(r"[+]{0,2}hydra[/.]launcher", o)]
    return Plugin(chosen, batch)


def follow(waiting: list[Task]) -> None:
    """Wait until none of the runs is under way, here or elsewhere, and log a line for each that ends."""
    started = time.monotonic()
    report, seen_ended = Report(len(waiting)), set[Path]()
    while waiting:
        time.sleep(min(30.0, 1 + (time.monotonic() - started) / 20))
        still = []
        for task, status in zip(waiting, run_statuses([task.run for task in waiting]), strict=True):
            if status.state in UNDER_WAY:
                still.append(task)
            elif status.state == "finished" or task.run.folder in seen_ended:
                report(task, status)
            else:  # looked at once more: a shared file system may show the result later
                seen_ended.add(task.run.folder)
                still.append(task)
        waiting = still


class Report:
    """Log of a sweep: one line for each run that has ended.

    Args:
        total: number of runs.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.started = self.first_ended = time.monotonic()

    def __call__(self, task: Task, status: RunStatus) -> None:
        """Log how a run ended, and an estimate of the time that the others take."""
        self.done += 1
        minutes = self.minutes_left(time.monotonic())
        more = f", about {minutes:.0f} min left" if minutes >= 1 else ""
        log.info("[%d/%d] %s: %s, %s%s", self.done, self.total, task.label, status.state, status.detail, more)

    def minutes_left(self, now: float) -> float:
        """Return the estimated minutes until all runs have ended.

        The first run also pays for imports and caches, so the pace is that of the runs after it, where there are any.
        """
        if self.done == 1:
            self.first_ended = now
            return (now - self.started) / 60 * (self.total - 1)
        return (now - self.first_ended) / 60 / (self.done - 1) * (self.total - self.done)


def summary(tasks: Sequence[Task], statuses: Sequence[RunStatus]) -> str:
    """Return the counts, and a line for every run that ended without a result."""
    unfinished = [(t, s) for t, s in zip(tasks, statuses, strict=True) if s.state not in ("finished", *UNDER_WAY)]
    lines = [f"  {t.label or t.run.name}: {s.state}: {s.detail}\n    {t.run.folder}" for t, s in unfinished]
    return "\n".join([f"{len(tasks)} runs: {count_states(statuses)}", *lines])
