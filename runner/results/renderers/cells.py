"""Write the numbers of a cell, alike in all formats."""

from __future__ import annotations

import math

from runner.results.significance import mark
from runner.results.table_model import Cell, Table


def number(value: float | None, deviation: float | None, digits: int = 1) -> str:
    """Return a value and its deviation as text; `-` without a value."""
    if value is None:
        return "-"
    known = deviation is not None and not math.isnan(deviation)
    return f"{value:.{digits}f}" + (f" ± {deviation:.{digits}f}" if known else "")


def measured(cell: Cell, digits: int, tested: bool = False) -> str:
    """Return the measured value of a cell, with the number of its runs if not all of them are finished.

    Args:
        cell: cell of the table.
        digits: digits after the point.
        tested: whether the table has significance tests; then the mark and the number of values are shown too.
    """
    total = sum(cell.states.values())
    if not total:
        return ""
    if not cell.used and cell.states["finished"] + cell.states["stale"] == total:
        return number(None, None)  # all runs are finished, and none has the metric
    counts = [f"n={cell.n}"] if tested and cell.n else []
    counts += [] if cell.used == total and not cell.states["stale"] else [f"{cell.used}/{total}"]
    counts += [f"{n} {state}" for state, n in cell.unfinished.items()]
    return number(cell.value, cell.deviation, digits) + mark(cell.p) + (f" ({', '.join(counts)})" if counts else "")


def reported(cell: Cell, digits: int) -> str:
    """Return the reported figure of a cell; `?` marks one that could not be checked."""
    figure = cell.reported
    if not figure:
        return ""
    return number(figure["value"], figure.get("std"), digits) + ("?" if figure.get("mark") == "recalled" else "")


def grid(table: Table) -> list[list[str]]:
    """Return a header and two lines for each row: measured, then reported. A line without any figure is left out."""
    lines = [["", "", *table.columns]]
    for row in table.rows:
        cells = [(table.cells.get((row, column)), table.digits_of(column)) for column in table.columns]
        for name, shown in (
            ("measured", [measured(cell, digits, table.main is not None) if cell else "" for cell, digits in cells]),
            ("reported", [reported(cell, digits) if cell else "" for cell, digits in cells]),
        ):
            if any(shown):
                lines.append([row if lines[-1][0] != row else "", name, *shown])
    return lines
