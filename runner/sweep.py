"""`python -m runner -m ...`: every run of a sweep that is not there yet, by the launcher of conf/hydra/launcher."""

from __future__ import annotations

import logging
import re
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import configure_log
from hydra.utils import instantiate
from omegaconf import DictConfig

from runner.address import Run
from runner.compose import compose, expand, parse
from runner.errors import UserError
from runner.launchers.task import Task
from runner.survey import STATES, UNDER_WAY, Standing, survey

log = logging.getLogger(__name__)
LAUNCHING = re.compile(r"[+~]{0,2}hydra(/launcher|\.launcher|\.sweep).*")  # overrides that say nothing about a run


def sweep(arguments: list[str]) -> int:
    """Launches what is missing, waits for what is under way unless `wait=false`, tells what came of it.

    Exit code: 0 where all is finished, or under way and not waited for; 2 where runs failed by the user's mistakes
    alone; else 1.
    """
    overrides = [a for a in arguments if a not in ("-m", "--multirun")]
    if flags := [a for a in overrides if a.startswith("-")]:
        raise UserError(f"a sweep takes overrides, and not {' '.join(flags)}")
    cfg, tasks = plan(overrides)
    configure_log(cfg.hydra.job_logging)
    standings = survey([task.run for task in tasks])
    log.info("%d runs: %s", len(tasks), counts(standings))
    todo = [t for t, s in zip(tasks, standings, strict=True) if wanted(s, cfg.rerun)]
    if todo:
        launch(cfg, todo, arguments)
        standings = survey([task.run for task in tasks])
    if waiting := [t for t, s in zip(tasks, standings, strict=True) if s.state in UNDER_WAY]:
        log.info("how it goes: python -m runner.status %s", shlex.join(o for o in overrides if not LAUNCHING.match(o)))
        if cfg.wait:
            follow(waiting)
            standings = survey([task.run for task in tasks])
    log.info("%s", summary(tasks, standings))
    allowed = ("finished",) if cfg.wait else ("finished", *UNDER_WAY)
    lacking = [s for s in standings if s.state not in allowed]
    return 0 if not lacking else 2 if all(s.mistake for s in lacking) else 1


def plan(overrides: list[str]) -> tuple[DictConfig, list[Task]]:
    """The config of the sweep's first run, Hydra's node included, and a task for each different run."""
    cfg = compose([first_of(o) for o in overrides])
    runs = [[o for o in run if not LAUNCHING.fullmatch(o)] for run in expand(cfg, overrides)]
    common = set.intersection(*map(set, runs))
    tasks: dict[Path, Task] = {}
    for run_overrides in runs:
        label = " ".join(o for o in run_overrides if o not in common)
        task = Task(run_overrides, Run.compose(run_overrides), label)
        tasks.setdefault(task.run.folder, task)
    return cfg, list(tasks.values())


def first_of(override: str) -> str:
    """`key=a,b` -> `key=a`."""
    parsed = parse(override)
    if not parsed.is_discrete_sweep():
        return override
    return f"{parsed.get_key_element()}={next(parsed.sweep_string_iterator())}"


def wanted(standing: Standing, rerun: bool) -> bool:
    return standing.state not in UNDER_WAY and (rerun or standing.state != "finished")


def launch(cfg: DictConfig, tasks: Sequence[Task], arguments: list[str]) -> None:
    """Carries the tasks out, a line for each that has ended. Ctrl-C leaves what is finished."""
    if not str(cfg.hydra.launcher.get("_target_")).startswith("runner.launchers."):
        raise UserError("hydra/launcher must be serial, local, slurm, or a file of your own that starts with one")
    place = Path(cfg.paths.outputs).absolute() / ".sweeps" / time.strftime("%Y-%m-%d_%H-%M-%S")
    while place.exists():
        place = place.with_name(place.name + "+")
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot make {place}: {error}\nName another place with paths.outputs=<folder>") from error
    (place / "command.txt").write_text(shlex.join(["python", "-m", "runner", *arguments]) + "\n")
    report = Report(len(tasks))
    for task in instantiate(cfg.hydra.launcher).launch(tasks, place):
        report(task, survey([task.run])[0])


def follow(waiting: list[Task]) -> None:
    """Waits until none of the runs is under way, here or elsewhere; a line for each that has ended."""
    started = time.monotonic()
    report, gone = Report(len(waiting)), set[Path]()
    while waiting:
        time.sleep(min(30.0, 1 + (time.monotonic() - started) / 20))
        still = []
        for task, standing in zip(waiting, survey([task.run for task in waiting]), strict=True):
            if standing.state in UNDER_WAY:
                still.append(task)
            elif standing.state == "finished" or task.run.folder in gone:
                report(task, standing)
            else:  # looked at once more: a shared file system may show the result later
                gone.add(task.run.folder)
                still.append(task)
        waiting = still


class Report:
    """A line for each run that has ended."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started = total, 0, time.monotonic()

    def __call__(self, task: Task, standing: Standing) -> None:
        self.done += 1
        left = (time.monotonic() - self.started) / 60 / self.done * (self.total - self.done)
        more = f", about {left:.0f} min left" if left >= 1 else ""
        log.info("[%d/%d] %s: %s, %s%s", self.done, self.total, task.label, standing.state, standing.detail, more)


def counts(standings: Sequence[Standing]) -> str:
    """`90 finished, 10 missing`"""
    found = Counter(s.state for s in standings)
    return ", ".join(f"{found[state]} {state}" for state in STATES if found[state])


def summary(tasks: Sequence[Task], standings: Sequence[Standing]) -> str:
    """The counts, and a line for every run that has come to nothing."""
    rest = [(t, s) for t, s in zip(tasks, standings, strict=True) if s.state not in ("finished", *UNDER_WAY)]
    lines = [f"  {t.label or t.run.name}: {s.state}: {s.detail}\n    {t.run.folder}" for t, s in rest]
    return "\n".join([f"{len(tasks)} runs: {counts(standings)}", *lines])
