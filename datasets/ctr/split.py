"""Division of click logs into training, validation and test rows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Rule that assigns rows to training, validation and test.

    Args:
        kind: `random` (8:1:1, as pandas samples), `autoint` (stratified folds of AutoInt and BARS), `temporal`,
            `files` (the source has a file for each part).
        seed: seed of a random or an autoint split.
        column: time of a row for a temporal split, a column of integers; None: the order of the rows.
        period: length of a period in units of the column; the last period is the test, the one before it validation.
            None: shares instead of periods.
        val: share of rows for validation in a temporal split without periods.
        test: share of rows for the test in a temporal split without periods.
    """

    kind: Literal["random", "autoint", "temporal", "files"] = "random"
    seed: int | None = None
    column: str | None = None
    period: int | None = None
    val: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in ("random", "autoint", "temporal", "files"):
            raise ValueError(f"dataset.split.kind={self.kind} is unknown; choose from random, autoint, temporal, files")
        if self.period is not None and self.column is None:
            raise ValueError("dataset.split.period needs dataset.split.column, the time of a row")
