"""Search of hyper-parameters by optuna: `hydra/sweeper=optuna optimize=<metric>`. Each trial is an addressed run."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf

from runner.config.address import Run
from runner.config.compose import compose
from runner.config.grids import as_text
from runner.errors import UserError
from runner.execution.run_lock import run_lock
from runner.files import write_whole
from runner.sweeps.launchers.local import cores
from runner.sweeps.launchers.task import Task
from runner.sweeps.run_status import UNDER_WAY, run_statuses
from runner.sweeps.search_report import best_line, write_report
from runner.sweeps.search_settings import SWEEPER, Settings, long_names
from runner.sweeps.space import Dimension, first_point, split_space
from runner.sweeps.sweep import LAUNCHING, first_value, instantiate_launcher, with_searchpath
from runner.sweeps.trials import Trials

log = logging.getLogger(__name__)
JOBS = 8  # jobs of a cluster at a time, unless `parallel` says otherwise


def search(arguments: list[str]) -> int:
    """Search, and report the best trial.

    Args:
        arguments: command line after `python -m runner`.

    Returns:
        Exit code: 0 if a trial has succeeded, else 1.
    """
    overrides = long_names([a for a in with_searchpath(arguments) if a not in ("-m", "--multirun")])
    if flags := [a for a in overrides if a.startswith("-")]:
        raise UserError(f"a search takes overrides, and not {' '.join(flags)}")
    cfg = compose_search(overrides)
    settings = make_settings(cfg)
    own = [o for o in overrides if not LAUNCHING.fullmatch(o)]
    given = {o.partition("=")[0] for o in own}
    own += [f"{key}={as_text(key, value)}" for key, value in settings.params.items() if key not in given]
    fixed, space = split_space(own)
    first = Run.compose(first_point(fixed, space))
    configure_log(cfg.hydra.job_logging)
    folder, identity = study_folder(first, settings, fixed, space)
    with run_lock(folder, wait=False):
        check_identity(folder, identity)
        write_whole(folder / "command.txt", shlex.join(["python", "-m", "runner", *arguments]) + "\n")
        trials = Trials(settings, fixed, space, folder / "study.journal")
        try:
            run_trials(cfg, trials, folder)
        finally:
            if trials.count("COMPLETE"):
                log.info("%s", write_report(trials, folder))
    return 0 if trials.count("COMPLETE") else 1


def compose_search(overrides: Sequence[str]) -> DictConfig:
    """Return the config of a search, Hydra's node included, with the first value of each searched key."""
    return compose([first_value(o) if not is_setting(o) else o for o in overrides if not is_interval(o)])


def read_settings(overrides: Sequence[str]) -> Settings:
    """Return the settings that the overrides of a search name."""
    return make_settings(compose_search(overrides))


def make_settings(cfg: DictConfig) -> Settings:
    """Return the settings of a composed config. Not by `instantiate`, which would wrap the message of a mistake."""
    node: Any = OmegaConf.to_container(cfg.hydra.sweeper, resolve=True)
    node.pop("_target_", None)
    try:
        return Settings(**node)
    except TypeError as error:
        raise UserError(f"hydra/sweeper=optuna: {error}") from error


def is_setting(override: str) -> bool:
    """Return whether an override belongs to the search itself."""
    return override.startswith("hydra.sweeper.") or override == SWEEPER


def is_interval(override: str) -> bool:
    """Return whether an override names an interval, which has no first value."""
    return bool(re.search(r"=.*interval\(", override))


def study_folder(first: Run, settings: Settings, fixed: Sequence[str], space: Sequence[Dimension]) -> tuple[Path, str]:
    """Return the folder of the study, below outputs/searches/<experiment or method>, and what it is of, as text.

    Args:
        first: any run of the space.
        settings: settings of the search.
        fixed: overrides of all trials; those that change no run's id do not count.
        space: searched keys.
    """
    what = {"space": sorted(map(repr, space)), "goals": settings.goals, "epoch": settings.epoch}
    what |= {key: getattr(settings, key) for key in ("sampler", "pruner", "startup", "warmup", "seed")}
    searched = [d.key for d in space]
    identity = {k: v for k, v in first.identity.items() if k != "init_from"}
    for key in searched:
        _forget(identity, key.lstrip("+").split("."))
    text = json.dumps([what, identity, [o for o in fixed if o.startswith("init_from=")]], sort_keys=True)
    name = settings.study or hashlib.sha256(text.encode()).hexdigest()[:8]
    place = first.choices.get("experiment") or first.choices["method"]
    return Path(first.cfg.paths.outputs).absolute() / "searches" / str(place) / name, text


def check_identity(folder: Path, text: str) -> None:
    """Write what a study is of into its folder. Raises UserError if it is there and of something else."""
    path = folder / "identity.json"
    if path.exists() and path.read_text() != text:
        raise UserError(
            f"{folder}\nis a study of another space, metric, sampler, pruner or of other fixed keys: "
            "choose another name with study="
        )
    write_whole(path, text)


def _forget(node: Any, path: list[str]) -> None:
    """Remove a searched key from an identity, so that the id does not depend on the space's first point."""
    for part in path[:-1]:
        node = node.get(part) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(path[-1], None)


def run_trials(cfg: DictConfig, trials: Trials, folder: Path) -> None:
    """Run the trials by the launcher, several at a time if it can, and log a line for each that ends."""
    settings = trials.settings
    done = len(trials.study.trials) - trials.count("WAITING", "RUNNING")
    goals = ", ".join(f"{direction} {metric}" for metric, direction in settings.goals)
    log.info("search: %s, %d trials, %d done; %s", goals, trials.limit, done, folder)
    if tested := [metric for metric in settings.metrics if metric.startswith("test/")]:
        log.warning("%s is measured on the test set: what is chosen by it is too good to report", ", ".join(tested))
    if settings.parallel and "local" in str(cfg.hydra.launcher.get("_target_")):
        OmegaConf.update(cfg, "hydra.launcher.workers", settings.parallel)
    launcher = instantiate_launcher(cfg, batch=settings.parallel or max(2, cores()))
    place = folder / "launcher"
    place.mkdir(exist_ok=True)
    queued = getattr(launcher, "queues", False)
    ended = through_queue(launcher, trials, place) if queued else launcher.launch(trials, place)
    for task in ended:
        words = trials.finish(task)
        number = trials.ended[-1] + 1
        log.info("[%d/%d] %s: %s%s", number, trials.limit, task.label, words, best_line(trials))


def through_queue(launcher: Any, trials: Trials, folder: Path) -> Iterator[Task]:
    """Keep some jobs in a cluster's queue, and yield each task when its job has ended.

    Args:
        launcher: launcher that submits jobs and does not wait for them.
        trials: trials of the search.
        folder: folder for the launcher's files.
    """
    most = trials.settings.parallel or JOBS
    active: list[Task] = []
    looked, started = set[int](), time.monotonic()
    while True:
        batch = list(islice(trials, most - len(active)))
        if batch:
            list(launcher.launch(batch, folder))
            active += batch
            started = time.monotonic()
        if not active:
            return
        time.sleep(min(30.0, 1 + (time.monotonic() - started) / 20))
        for task, status in zip(list(active), run_statuses([t.run for t in active]), strict=True):
            if status.state in UNDER_WAY:
                continue
            if status.state != "finished" and id(task) not in looked:
                looked.add(id(task))  # looked at once more: a shared file system may show the result later
                continue
            active.remove(task)
            yield task
