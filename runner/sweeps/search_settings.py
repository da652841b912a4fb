"""Settings of a search: the keys of conf/hydra/sweeper/optuna.yaml."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from runner.config.compose import parse
from runner.config.grids import values_of
from runner.errors import UserError

SWEEPER = "hydra/sweeper=optuna"
SHORT = ("optimize", "direction", "trials", "sampler", "pruner", "startup", "warmup", "epoch", "parallel", "study")
SAMPLERS = ("tpe", "random", "grid", "nsga2", "cmaes")
PRUNERS = ("median", "hyperband", "none")
# Words in the names of metrics of which less is better.
LESS = re.compile(r"^(time|memory)/|loss|err|ppl|perplexity|nll|mse|mae|chamfer|fid|seconds|bytes|gap|entropy")


class Settings:
    """Settings of a search, checked.

    Args:
        params: space that an experiment file gives (`hydra.sweeper.params`): overrides by key.
        optimize: metric, or several.
        direction: `maximize` or `minimize`, or one for each metric; None: by the metric's name.
        trials: number of trials of the study.
        sampler: one of SAMPLERS.
        pruner: one of PRUNERS.
        startup: trials before the sampler and the pruner rely on those that ended.
        warmup: epochs of a trial before it can be pruned.
        epoch: `last` or `best`.
        parallel: trials at a time; None: by the launcher.
        study: name of the study's folder, or None.
        seed: seed of the sampler.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self,
        params: dict[str, Any] | None,
        optimize: str | Sequence[str] | None,
        direction: str | Sequence[str] | None,
        trials: int,
        sampler: str,
        pruner: str,
        startup: int,
        warmup: int,
        epoch: str,
        parallel: int | None,
        study: str | None,
        seed: int,
    ) -> None:
        self.params, self.metrics = dict(params or {}), _names(optimize)
        if not self.metrics:
            raise UserError("which metric? optimize=val/acc, or several: optimize=[val/acc,time/fit]")
        self.directions = _names(direction) or tuple(direction_of(metric) for metric in self.metrics)
        if len(self.directions) != len(self.metrics) or set(self.directions) - {"maximize", "minimize"}:
            raise UserError(f"direction must be maximize or minimize for each of {', '.join(self.metrics)}")
        for key, value, options in (
            ("sampler", sampler, SAMPLERS),
            ("pruner", pruner, PRUNERS),
            ("epoch", epoch, ("last", "best")),
        ):
            if value not in options:
                raise UserError(f"{key} must be one of {', '.join(options)}, got {value}")
        least = {"trials": 1, "startup": 0, "warmup": 0, "seed": 0, "parallel": 1}
        numbers = (trials, startup, warmup, seed, 1 if parallel is None else parallel)
        for (key, low), number in zip(least.items(), numbers, strict=True):
            if not isinstance(number, int) or isinstance(number, bool) or number < low:
                raise UserError(f"{key} must be a whole number, at least {low}, got {number}")
        if study is not None and not (isinstance(study, str) and re.fullmatch(r"\w[\w.+-]{0,63}", study)):
            raise UserError(f"study must be a name of letters, digits and . + - _ that is no number, got {study}")
        if sampler == "cmaes" and len(self.metrics) > 1:
            raise UserError("sampler=cmaes has one metric; tpe and nsga2 can have several")
        self.trials, self.sampler, self.pruner, self.startup = trials, sampler, pruner, startup
        self.warmup, self.epoch, self.parallel, self.study, self.seed = warmup, epoch, parallel, study, seed

    @property
    def prunes(self) -> bool:
        """True if bad trials are ended early, which needs a single metric."""
        return self.pruner != "none" and len(self.metrics) == 1

    @property
    def goals(self) -> list[tuple[str, str]]:
        """Metrics with their directions."""
        return list(zip(self.metrics, self.directions, strict=True))


def direction_of(metric: str) -> str:
    """Return whether more or less of a metric is better, by its name."""
    return "minimize" if LESS.search(metric) else "maximize"


def long_names(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with `trials=50` written as `hydra.sweeper.trials=50`, and likewise the other settings."""
    result = []
    for override in overrides:
        key = parse(override).key_or_group if "=" in override else ""
        if key in SHORT:
            values = values_of(override)
            text = f"[{','.join(values)}]" if len(values) > 1 else values[0]
            override = f"hydra.sweeper.{key}={text}"
        result.append(override)
    return result


def _names(value: Any) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(map(str, value))
