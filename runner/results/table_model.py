"""A table as data: what an experiment file asks for, and cells with measured and reported values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.errors import UserError
from runner.results.node_schema import TableNode, read_node


@dataclass(frozen=True)
class TableSpec:
    """Node `table` of an experiment file.

    Args:
        rows: config keys (groups such as `method`, or any key) whose values make the rows.
        metric: metrics of the cells. Several metrics have a column each.
        reduce: name of the reduction, one of REDUCTIONS.
        columns: config keys whose values make the columns.
        title: title of the table.
        source: source of the reported figures.
        main: value of the row that significance=true compares the others with.
        scale: factor on measured values, such as 100 for percent; or a factor for each metric, 1 for those left out.
        digits: digits after the point, or those of each metric; None, or left out: as many as the metric's smallest
            mean needs for three significant ones.
        labels: label of a value or a metric.
        reported: figures of the paper: {row, column, value, std, mark}; row and column are labels.
        notes: remarks for the reader.
    """

    rows: tuple[str, ...]
    metric: tuple[str, ...]
    reduce: str
    columns: tuple[str, ...] = ()
    title: str = ""
    source: str = ""
    main: str | None = None
    scale: float | dict[str, float] = 1
    digits: int | dict[str, int] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    reported: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, node: Mapping[str, Any], place: str) -> TableSpec:
        """Return the specification of a node.

        Args:
            node: content of the node.
            place: name of the experiment, for messages.

        Raises:
            UserError: a key is missing or unknown, or its value does not fit.
        """
        content = read_node(TableNode, node, "table")
        for key in ("scale", "digits"):
            given = content.get(key)
            if unknown := given.keys() - set(content["metric"]) if isinstance(given, dict) else set():
                raise UserError(
                    f"table.{key} of experiment={place} names {', '.join(sorted(unknown))}, no table.metric"
                )
        return cls(**content)

    def label(self, values: Sequence[str]) -> str:
        """Return the label of a row or column, given the values of its keys."""
        return self.labels.get(" ".join(values)) or " ".join(self.labels.get(value, value) for value in values)

    def scale_of(self, metric: str) -> float:
        """Return the factor on the values of a metric."""
        return self.scale.get(metric, 1) if isinstance(self.scale, dict) else self.scale

    def digits_of(self, metric: str) -> int | None:
        """Return the digits after the point of a metric; None: to be chosen by its values."""
        return self.digits.get(metric) if isinstance(self.digits, dict) else self.digits

    def unit_of(self, metric: str) -> str:
        """Return the unit of a metric's scaled values, as it follows the metric's name."""
        scale, units = self.scale_of(metric), {1.0: "", 100.0: " (%)"}
        return units.get(scale, f" x {scale:g}")

    @property
    def described_metrics(self) -> str:
        """Metrics with their units; the unit stands once if all have the same one."""
        units = [self.unit_of(metric) for metric in self.metric]
        if len(set(units)) == 1:
            return ", ".join(self.metric) + units[0]
        return ", ".join(metric + unit for metric, unit in zip(self.metric, units, strict=True))

    @property
    def axis_label(self) -> str:
        """Label of the values: the only metric with its unit, or the unit of all metrics alone."""
        units = {self.unit_of(metric) for metric in self.metric}
        label = self.label(self.metric) if len(self.metric) == 1 else ""
        return label + (units.pop() if len(units) == 1 else "")


@dataclass
class Cell:
    """Cell of a table. Values are scaled.

    Args:
        states: number of runs in each state.
        used: number of runs that the value comes from.
        value: mean of the measured values, or None.
        deviation: their standard deviation; NaN for too few values.
        reported: figure of the paper: value, std and mark; or None.
        values: measured values, one per run or fold.
        p: p-value that the mean equals that of the main row, or None.
        metric: metric of the cell.
    """

    states: Counter[str] = field(default_factory=Counter)
    used: int = 0
    value: float | None = None
    deviation: float | None = None
    reported: dict[str, Any] | None = None
    values: list[float] = field(default_factory=list)
    p: float | None = None
    metric: str = ""

    @property
    def n(self) -> int:
        """Number of measured values."""
        return len(self.values)

    @property
    def unfinished(self) -> dict[str, int]:
        """Number of runs that are stale, under way, interrupted or failed, by state."""
        return {state: n for state, n in self.states.items() if n and state not in ("finished", "missing")}


@dataclass
class Table:
    """Table with measured beside reported values.

    Args:
        title: title of the table.
        source: source of the reported figures.
        rows: labels of the rows, in order.
        columns: labels of the columns, in order.
        cells: cells by (row, column).
        notes: remarks for the reader.
        digits: digits after the point, of all columns or by column.
        metric: label of the values, with their unit.
        main: row that the others are compared with, or None.
        sample: unit of a cell's values, `runs` or `folds`.
        numerics: fingerprints of the runs' numerics with the number of runs; None stands for unknown ones.
        commits: git commits of the code that made the runs, with the number of runs; `+` marks changed files.
        command: command that prints the table, or empty.
        methods: method of each row, by its label, if the rows are told apart by method.
    """

    title: str
    source: str
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], Cell]
    notes: list[str]
    digits: int | dict[str, int] = 1
    metric: str = ""
    main: str | None = None
    sample: str = "runs"
    numerics: list[tuple[dict[str, str] | None, int]] = field(default_factory=list)
    commits: dict[str, int] = field(default_factory=dict)
    command: str = ""
    methods: dict[str, str] = field(default_factory=dict)

    def digits_of(self, column: str) -> int:
        """Return the digits after the point in a column."""
        return self.digits if isinstance(self.digits, int) else self.digits[column]

    @property
    def is_measured(self) -> bool:
        """True if a cell has a measured value."""
        return any(cell.n for cell in self.cells.values())
