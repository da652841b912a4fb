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


def mean_std(runs: list[Outcome], metric: str) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof 1) over the runs; the deviation of a single run is NaN."""
    values = [run.metrics[metric] for run in runs]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def mean_std_ddof0(runs: list[Outcome], metric: str) -> tuple[float, float]:
    """Mean and population standard deviation (ddof 0), as some papers' scripts have it."""
    values = [run.metrics[metric] for run in runs]
    return float(np.mean(values)), float(np.std(values))


def xu_cv(runs: list[Outcome], metric: str) -> tuple[float, float]:
    """Protocol of Xu et al. 2019: the mean over folds at every epoch, its best epoch, and the deviation (ddof 0) there.

    Optimistic: the epoch is picked on the very folds that are reported.
    """
    curves = [[row[metric] for row in run.rows if metric in row] for run in runs]
    values = np.array([curve[: min(map(len, curves))] for curve in curves])
    best = int(values.mean(0).argmax())
    return float(values[:, best].mean()), float(values[:, best].std())


def fair_cv(runs: list[Outcome], metric: str) -> tuple[float, float]:
    """Protocol of Errica et al. 2020: mean over each fold's seeds, then mean and deviation (ddof 0) over the folds.

    Every run has picked its own epoch on a part of its training data.
    """
    folds: dict[int, list[float]] = {}
    for run in runs:
        folds.setdefault(run.identity["dataset"]["fold"], []).append(run.metrics[metric])
    means = [np.mean(values) for values in folds.values()]
    return float(np.mean(means)), float(np.std(means))


Reduction = Callable[[list[Outcome], str], tuple[float, float]]
REDUCTIONS: dict[str, Reduction] = {
    "mean_std": mean_std,
    "mean_std_ddof0": mean_std_ddof0,
    "xu_cv": xu_cv,
    "fair_cv": fair_cv,
}
NOTES = {
    "mean_std": "mean ± standard deviation (ddof 1) over runs",
    "mean_std_ddof0": "mean ± standard deviation (ddof 0) over runs",
    "xu_cv": "optimistic: one epoch picked for all folds on the reported folds themselves; ± over folds (ddof 0)",
    "fair_cv": "each run picks its epoch on a tenth of its training part; mean over seeds, then ± over folds (ddof 0)",
}
