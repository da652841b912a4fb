"""Reductions: how the finished runs of a table's cell become a mean and a standard deviation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Rows = list[dict[str, float]]


@dataclass(frozen=True)
class Measurements:
    """Metrics of one finished run, and the numerics that they were computed with.

    Args:
        metrics: final metrics by name.
        rows: rows of metrics.csv, one per epoch.
        identity: config that decides the result, resolved.
        numerics: fingerprint of the numerics as flat text, such as {"threads": "1"}; None if it was not recorded.
        commit: git commit of the code that made the result, or empty if it is unknown.
        damage: why metrics of the run could not be read, or empty.
    """

    metrics: dict[str, float]
    rows: Rows
    identity: dict[str, Any]
    numerics: dict[str, str] | None = None
    commit: str = ""
    damage: str = ""


@dataclass(frozen=True)
class Reduction:
    """Mean and standard deviation of the values that runs give.

    Args:
        values: function that returns the values of a metric, given the runs.
        ddof: delta degrees of freedom of the standard deviation.
        note: description for the reader of a table.
        per_epoch: whether values are read from the rows of all epochs instead of the final metrics.
        sample: unit of a value, `runs` or `folds`. Folds share training data, so their values are not independent.
    """

    values: Callable[[list[Measurements], str], list[float]]
    ddof: int
    note: str
    per_epoch: bool = False
    sample: str = "runs"

    def __call__(self, runs: list[Measurements], metric: str) -> tuple[float, float]:
        """Return mean and standard deviation; the latter is NaN for fewer than two values."""
        return self.summarize(self.values(runs, metric))

    def summarize(self, values: list[float]) -> tuple[float, float]:
        """Return mean and standard deviation of values; the latter is NaN for fewer than two values."""
        deviation = float(np.std(values, ddof=self.ddof)) if len(values) > 1 else float("nan")
        return float(np.mean(values)), deviation

    def applies(self, run: Measurements, metric: str) -> bool:
        """Return whether a run has recorded the metric where this reduction reads it."""
        return any(metric in row for row in (run.rows if self.per_epoch else [run.metrics]))


def final_values(runs: list[Measurements], metric: str) -> list[float]:
    """Return the final value of each run."""
    return [run.metrics[metric] for run in runs]


def values_at_best_epoch(runs: list[Measurements], metric: str) -> list[float]:
    """Return the value of each run at the epoch with the best mean over all runs (Xu et al. 2019).

    This is optimistic: the epoch is chosen on the folds that are reported. Epochs that a run lacks are left out.

    Raises:
        ValueError: the runs have no epoch in common.
    """
    values = values_by_epoch(runs, metric)
    return list(map(float, values[:, int(values.mean(0).argmax())]))


def means_over_epochs(runs: list[Measurements], metric: str) -> list[float]:
    """Return the mean of each run over its epochs; epochs that another run lacks are left out.

    Raises:
        ValueError: the runs have no epoch in common.
    """
    return list(map(float, values_by_epoch(runs, metric).mean(1)))


def values_by_epoch(runs: list[Measurements], metric: str) -> np.ndarray:
    """Return the metric at the epochs that all runs have, (runs, epochs).

    Raises:
        ValueError: the runs have no epoch in common.
    """
    curves = curves_of(runs, metric)
    common = sorted(epoch for epoch in curves[0] if all(epoch in curve for curve in curves))
    if not common:
        raise ValueError("an epoch that all runs of the cell have")
    return np.array([[curve[epoch] for epoch in common] for curve in curves])


def curves_of(runs: list[Measurements], metric: str) -> list[dict[int, float]]:
    """Return the metric by epoch of each run."""
    return [{int(row["epoch"]): row[metric] for row in run.rows if metric in row} for run in runs]


def count_partial_epochs(runs: list[Measurements], metric: str) -> int:
    """Return the number of epochs that some of the runs have, but not all."""
    counts = Counter(epoch for curve in curves_of(runs, metric) for epoch in curve)
    return sum(count < len(runs) for count in counts.values())


def fold_means(runs: list[Measurements], metric: str) -> list[float]:
    """Return the mean over seeds of each fold (Errica et al. 2020).

    Each run has chosen its own epoch on a part of its training data.
    """
    folds: dict[int, list[float]] = {}
    for run in runs:
        folds.setdefault(run.identity["dataset"]["fold"], []).append(run.metrics[metric])
    return [float(np.mean(values)) for values in folds.values()]


REDUCTIONS = {
    "mean_std": Reduction(final_values, 1, "mean ± standard deviation (ddof 1) over runs"),
    "mean_std_ddof0": Reduction(final_values, 0, "mean ± standard deviation (ddof 0) over runs"),
    "epoch_mean": Reduction(
        means_over_epochs, 1, "mean over the epochs of a run; then mean ± standard deviation (ddof 1) over runs", True
    ),
    "xu_cv": Reduction(
        values_at_best_epoch,
        0,
        "optimistic: one epoch chosen for all folds on the reported folds themselves; ± over folds (ddof 0)",
        per_epoch=True,
        sample="folds",
    ),
    "fair_cv": Reduction(
        fold_means,
        0,
        "each run chooses its epoch on a tenth of its training part; mean over seeds, then ± over folds (ddof 0)",
        sample="folds",
    ),
}
