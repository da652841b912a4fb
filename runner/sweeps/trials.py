"""Trials of a search: what the study asks for becomes addressed runs, and their outcomes are told to the study."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.config.address import Run
from runner.errors import UserError
from runner.execution.optuna_study import NAME, import_optuna, make_pruner, storage_of
from runner.execution.record import read_metrics, read_result
from runner.files import read_json
from runner.sweeps.launchers.task import Task
from runner.sweeps.search_settings import Settings
from runner.sweeps.space import Dimension

LONGEST_GRID = 100_000


class Trials:
    """Iterator over the tasks of a search. Each one is asked for when the launcher is free to run it.

    A trial whose run is finished already is told at once, and is no task unless `rerun=true`.

    Args:
        settings: settings of the search.
        fixed: overrides of all trials.
        space: searched keys.
        file: file of the study.
    """

    def __init__(self, settings: Settings, fixed: Sequence[str], space: Sequence[Dimension], file: Path) -> None:
        self.settings, self.fixed, self.space, self.file = settings, list(fixed), list(space), file
        self.optuna = import_optuna()
        self.distributions = {d.key: distribution(d, self.optuna) for d in space}
        self.study = self._open()
        states = self.optuna.trial.TrialState
        left = [t for t in self.study.trials if t.state == states.RUNNING]
        self.adopted = iter([t for t in left if t.params])  # of a search that was stopped
        for trial in left:
            if not trial.params:
                self.study.tell(trial.number, state=states.FAIL)
        self.running: dict[int, int] = {}  # number of the trial of each task that is under way
        self.ended: list[int] = []  # numbers of the trials that were told, in order
        self.limit = settings.trials
        if settings.sampler == "grid":
            self._enqueue_grid()

    def _open(self) -> Any:
        optuna, settings = self.optuna, self.settings
        storage = storage_of(self.file)
        known = [s.study_name for s in storage.get_all_studies()]
        done = len(optuna.load_study(study_name=NAME, storage=storage).trials) if NAME in known else 0
        study = optuna.create_study(
            study_name=NAME,
            storage=storage,
            load_if_exists=True,
            directions=list(settings.directions),
            sampler=make_sampler(settings, done, optuna),
            pruner=make_pruner(settings.pruner, settings.startup, settings.warmup),
        )
        if [d.name.lower() for d in study.directions] != list(settings.directions):
            raise UserError(f"{self.file} is a study of other metrics: choose another name with study=")
        return study

    def _enqueue_grid(self) -> None:
        if unbounded := [d.key for d in self.space if not grid_values(d)]:
            raise UserError(f"sampler=grid needs single values for {', '.join(unbounded)}, such as 0.1,0.2")
        options = [grid_values(d) for d in self.space]
        points = math.prod(map(len, options))
        if points > LONGEST_GRID:
            raise UserError(f"the grid has {points} points; take another sampler")
        trials = self.study.trials
        known = {frozenset(trial.system_attrs.get("fixed_params", trial.params).items()) for trial in trials}
        grid = (dict(zip(self.distributions, values, strict=True)) for values in itertools.product(*options))
        new = [point for point in grid if frozenset(point.items()) not in known]
        self.limit = min(self.limit, len(trials) + len(new))
        for point in new[: max(0, self.limit - len(trials))]:
            self.study.enqueue_trial(point)

    def __iter__(self) -> Iterator[Task]:
        return self

    def __next__(self) -> Task:
        while (asked := self._ask()) is not None:
            number, params = asked
            task = self._task(number, params)
            self.running[id(task)] = number
            if read_result(task.run.folder) is None or task.run.cfg.rerun:
                return task
            self.finish(task)
        raise StopIteration

    def _ask(self) -> tuple[int, dict[str, Any]] | None:
        """Return number and parameters of the next trial: one that was left, or a new one; None if all were asked."""
        if (trial := next(self.adopted, None)) is not None:
            return trial.number, trial.params
        waiting = self.optuna.trial.TrialState.WAITING
        trials = self.study.get_trials(deepcopy=False)
        if sum(t.state != waiting for t in trials) >= self.limit:
            return None
        new = self.study.ask(self.distributions)
        return new.number, new.params

    def _task(self, number: int, params: dict[str, Any]) -> Task:
        chosen = [d.override(params[d.key]) for d in self.space]
        overrides = [*self.fixed, *chosen]
        run = Run.compose(overrides)
        trial_id = self.study.get_trials(deepcopy=False)[number]._trial_id
        self.study._storage.set_trial_user_attr(trial_id, "run", run.id)
        self.study._storage.set_trial_user_attr(trial_id, "folder", str(run.folder))
        pruned_by = [self._pruning(number)] if self.settings.prunes and "fit" in run.cfg.stages else []
        return Task([*overrides, *pruned_by], run, " ".join(chosen))

    def _pruning(self, number: int) -> str:
        s = self.settings
        return (
            "+callbacks.trial_pruning={_target_:runner.execution.pruning.TrialPruning,"
            f"study:{json.dumps(str(self.file))},trial:{number},metric:{s.metrics[0]},"
            f"pruner:{s.pruner},startup:{s.startup},warmup:{s.warmup}}}"
        )

    def finish(self, task: Task) -> str:
        """Tell the study how the run of a task ended, and return it in words.

        Raises:
            UserError: the run failed by a mistake of the user and none has succeeded yet, or has no such metric.
        """
        states, number = self.optuna.trial.TrialState, self.running.pop(id(task))
        self.ended.append(number)
        result, state = read_result(task.run.folder), read_json(task.run.folder / "state.json") or {}
        if result is not None:
            values = [objective(task.run.folder, result, m, d, self.settings.epoch) for m, d in self.settings.goals]
            finite = all(map(math.isfinite, values))
            self.study.tell(number, values if finite else None, None if finite else states.FAIL)
            return ", ".join(f"{m} {v:.4g}" for m, v in zip(self.settings.metrics, values, strict=True))
        message = str(state.get("error", "it ended without a result"))
        if state.get("pruned"):
            self.study.tell(number, state=states.PRUNED)
            return message.partition(":")[0]
        self.study.tell(number, state=states.FAIL)
        if state.get("mistake") and not self.count("COMPLETE", "PRUNED"):
            raise UserError(f"{task.label}\n{message}")
        return f"failed: {message.splitlines()[0]}"

    def count(self, *names: str) -> int:
        """Return the number of trials in these states of optuna."""
        return sum(t.state.name in names for t in self.study.get_trials(deepcopy=False))


def grid_values(d: Dimension) -> list[Any]:
    """Return the values of a dimension in a grid; none for a range of real numbers."""
    if d.values:
        return list(d.values)
    return list(range(int(d.low), int(d.high) + 1, d.step)) if d.whole else []


def distribution(d: Dimension, optuna: Any) -> Any:
    """Return optuna's distribution of a dimension."""
    if d.values:
        return optuna.distributions.CategoricalDistribution(d.values)
    if d.whole:
        return optuna.distributions.IntDistribution(int(d.low), int(d.high), log=d.log, step=d.step)
    return optuna.distributions.FloatDistribution(d.low, d.high, log=d.log)


def make_sampler(settings: Settings, done: int, optuna: Any) -> Any:
    """Return a sampler of optuna. Continued after `done` trials, it draws other numbers than at the start."""
    seed, samplers, startup = settings.seed + done, optuna.samplers, settings.startup
    if settings.sampler == "tpe":
        together = settings.parallel != 1
        return samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=together, multivariate=True)
    if settings.sampler == "nsga2":
        return samplers.NSGAIISampler(seed=seed, population_size=max(2, startup))
    if settings.sampler == "cmaes":
        return samplers.CmaEsSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
    return samplers.RandomSampler(seed=seed)  # also for a grid, whose trials are given


def objective(folder: Path, result: dict[str, Any], metric: str, direction: str, epoch: str) -> float:
    """Return the value of a metric of a finished run.

    Args:
        folder: folder of the run.
        result: content of result.json.
        metric: final metric, cost (`time/...`, `memory/...`), or metric of the epochs.
        direction: `maximize` or `minimize`.
        epoch: which epoch's value counts: `last` or `best`.

    Raises:
        UserError: the run has not recorded the metric.
    """
    final = result["metrics"] | result.get("costs", {})
    if metric in final:
        return float(final[metric])
    rows = read_metrics(folder)
    values = [row[metric] for row in rows if metric in row]
    if not values:
        recorded = dict.fromkeys([*final, *(name for row in rows for name in row if "/" in name)])
        raise UserError(f"optimize={metric}: the run recorded {', '.join(recorded)}\n{folder}")
    if epoch == "last":
        return values[-1]
    return max(values) if direction == "maximize" else min(values)
