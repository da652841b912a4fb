"""Schedules of the learning rate and of the momentum: functions of the training progress in [0, 1]."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from datasets.checks import check_positive

Schedule = Callable[[float], float]


def epochs_at(progress: float, total_epochs: float) -> float:
    """Return the epochs that are over, free of rounding errors.

    Args:
        progress: share of the training that is over.
        total_epochs: epochs of the whole training.
    """
    return round(progress * total_epochs, 9)


@dataclass(frozen=True)
class PiecewiseConstant:
    """Step schedule: a new factor from each of the given epochs on, 1 before them.

    Args:
        epochs: rising epochs.
        factors: factor from each of these epochs on.
        total_epochs: length of the training that `epochs` refer to; they are scaled to trainings of other lengths.

    Raises:
        ValueError: if the epochs do not rise or the factors are not as many.
    """

    epochs: Sequence[float]
    factors: Sequence[float]
    total_epochs: float

    def __post_init__(self) -> None:
        if len(self.epochs) != len(self.factors) or list(self.epochs) != sorted(self.epochs):
            raise ValueError("method.lr_schedule needs rising epochs and one factor for each of them")
        if min(self.factors, default=0) < 0:
            raise ValueError(f"method.lr_schedule.factors must not be negative, got {list(self.factors)}")
        check_positive("method.lr_schedule", total_epochs=self.total_epochs)

    def __call__(self, progress: float) -> float:
        """Return the factor at a training progress in [0, 1]."""
        return [1.0, *self.factors][bisect_right(self.epochs, epochs_at(progress, self.total_epochs))]


@dataclass(frozen=True)
class PiecewiseLinear(PiecewiseConstant):
    """Linear interpolation between the factors at the given epochs; arguments as in `PiecewiseConstant`."""

    def __call__(self, progress: float) -> float:
        """Return the factor at a training progress in [0, 1]."""
        return float(np.interp(epochs_at(progress, self.total_epochs), self.epochs, self.factors))


@dataclass(frozen=True)
class PiecewiseCosine(PiecewiseConstant):
    """Cosine interpolation between the factors at the given epochs; arguments as in `PiecewiseConstant`.

    With three epochs it is the one-cycle schedule (`torch.optim.lr_scheduler.OneCycleLR`), whose phases end one step
    earlier.
    """

    def __call__(self, progress: float) -> float:
        """Return the factor at a training progress in [0, 1]."""
        now = epochs_at(progress, self.total_epochs)
        i = min(max(bisect_right(self.epochs, now), 1), len(self.epochs) - 1)
        share = (now - self.epochs[i - 1]) / (self.epochs[i] - self.epochs[i - 1])
        share = min(max(share, 0.0), 1.0)
        return self.factors[i] + (self.factors[i - 1] - self.factors[i]) * (1 + math.cos(math.pi * share)) / 2
