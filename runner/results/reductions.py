"""How the runs of a table's cell become one number and its deviation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Rows = list[dict[str, float]]


@dataclass(frozen=True)
class Outcome:
    """One finished run: its final metrics, its rows of metrics.csv, its resolved config."""

    metrics: dict[str, float]
    rows: Rows
    identity: dict[str, Any]


@dataclass(frozen=True)
class Reduction:
    """The mean of some values that the runs give, and their standard deviation.

    values: of the runs and a metric; ddof: of the deviation; note: what a reader must know.
    per_epoch: are they read from the rows of every epoch, rather than from the final metrics?
    sample: what each value is of; folds share training data, so that theirs are not independent.
    """

    values: Callable[[list[Outcome], str], list[float]]
    ddof: int
    note: str
    per_epoch: bool = False
    sample: str = "runs"

    def __call__(self, runs: list[Outcome], metric: str) -> tuple[float, float]:
        """Mean and deviation; the deviation of fewer values than ddof + 1 is NaN."""
        return self.summarize(self.values(runs, metric))

    def summarize(self, values: list[float]) -> tuple[float, float]:
        deviation = float(np.std(values, ddof=self.ddof)) if len(values) > self.ddof else float("nan")
        return float(np.mean(values)), deviation

    def applies(self, run: Outcome, metric: str) -> bool:
        """Has the run recorded the metric where it is read?"""
        return any(metric in row for row in (run.rows if self.per_epoch else [run.metrics]))


def final_values(runs: list[Outcome], metric: str) -> list[float]:
    """Every run's final value."""
    return [run.metrics[metric] for run in runs]


def values_at_best_epoch(runs: list[Outcome], metric: str) -> list[float]:
    """Every run's value at the epoch whose mean over the runs is best (Xu et al. 2019).

    Optimistic: the epoch is picked on the very folds that are reported.
    """
    curves = [[row[metric] for row in run.rows if metric in row] for run in runs]
    values = np.array([curve[: min(map(len, curves))] for curve in curves])
    return list(map(float, values[:, int(values.mean(0).argmax())]))


def fold_means(runs: list[Outcome], metric: str) -> list[float]:
    """Every fold's mean over its seeds (Errica et al. 2020).

    Every run has picked its own epoch on a part of its training data.
    """
    folds: dict[int, list[float]] = {}
    for run in runs:
        folds.setdefault(run.identity["dataset"]["fold"], []).append(run.metrics[metric])
    return [float(np.mean(values)) for values in folds.values()]


REDUCTIONS = {
    "mean_std": Reduction(final_values, 1, "mean ± standard deviation (ddof 1) over runs"),
    "mean_std_ddof0": Reduction(final_values, 0, "mean ± standard deviation (ddof 0) over runs"),
    "xu_cv": Reduction(
        values_at_best_epoch,
        0,
        "optimistic: one epoch picked for all folds on the reported folds themselves; ± over folds (ddof 0)",
        per_epoch=True,
        sample="folds",
    ),
    "fair_cv": Reduction(
        fold_means,
        0,
        "each run picks its epoch on a tenth of its training part; mean over seeds, then ± over folds (ddof 0)",
        sample="folds",
    ),
}
