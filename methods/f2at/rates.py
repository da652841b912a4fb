"""Learning rates over training, as factors of the first one: called with the share of the training that is over."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def epochs_of(progress: float, of: float) -> float:
    """The share as epochs of a training of `of` epochs, free of rounding errors."""
    return round(progress * of, 9)


@dataclass(frozen=True)
class Steps:
    """A new factor from each of some epochs on.

    at: epochs, rising; factors: one for each; of: epochs of the training that `at` is for; it is scaled to others.
    """

    at: Sequence[float]
    factors: Sequence[float]
    of: float

    def __post_init__(self) -> None:
        check(self.at, self.factors)

    def __call__(self, progress: float) -> float:
        return [1.0, *self.factors][bisect_right(self.at, epochs_of(progress, self.of))]


@dataclass(frozen=True)
class Linear(Steps):
    """Linear between the factors at some epochs; as `Steps` otherwise."""

    def __call__(self, progress: float) -> float:
        return float(np.interp(epochs_of(progress, self.of), self.at, self.factors))


def check(at: Sequence[float], factors: Sequence[float]) -> None:
    if len(at) != len(factors) or list(at) != sorted(at):
        raise ValueError("method.rate needs rising epochs `at` and as many `factors`")
