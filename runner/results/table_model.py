"""A table as data: cells with their runs, measured and reported values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.results.reductions import Outcome


def as_names(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return one or several names, as they stand in YAML, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(map(str, value))


@dataclass
class Cell:
    """One cell: its metric, its runs' states, what was measured, what is reported. Values are already scaled.

    values: what the mean and deviation are of, a run's or a fold's each. p: that its mean is the main row's.
    """

    states: Counter[str] = field(default_factory=Counter)
    outcomes: list[Outcome] = field(default_factory=list)
    value: float | None = None
    deviation: float | None = None
    reported: dict[str, Any] | None = None
    values: list[float] = field(default_factory=list)
    p: float | None = None
    metric: str = ""

    @property
    def n(self) -> int:
        return len(self.values)


@dataclass
class Table:
    """rows, columns: labels in order; cells: by (row, column); notes: what a reader must know.

    metric: what the cells show, with its unit. main: the row that the others are tested against, if they are.
    sample: what each of a cell's values is of.
    """

    title: str
    source: str
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], Cell]
    notes: list[str]
    digits: int = 1  # after the point
    metric: str = ""
    main: str | None = None
    sample: str = "runs"
