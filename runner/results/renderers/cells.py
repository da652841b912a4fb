"""Write the numbers of a cell, alike in all formats."""

from __future__ import annotations

import math

from runner.results.significance import mark
from runner.results.table_model import Cell, Table


def number(value: float | None, deviation: float | None, digits: int = 1) -> str:
    if value is None:
        return "-"
    known = deviation is not None and not math.isnan(deviation)
    return f"{value:.{digits}f}" + (f" ± {deviation:.{digits}f}" if known else "")


def measured(cell: Cell, digits: int, tested: bool = False) -> str:
    """The number, how many runs it has of how many, and what ails the others.

    tested: in a table with tests: also the mark of the cell's, and of how many values the mean is.
    """
    total = sum(cell.states.values())
    if not total:
        return ""
    have = len(cell.outcomes)
    if not have and cell.states["finished"] + cell.states["stale"] == total:
        return number(None, None)  # all there, and none has the metric
    counts = [f"n={cell.n}"] if tested and cell.n else []
    counts += [] if have == total and not cell.states["stale"] else [f"{have}/{total}"]
    counts += [f"{n} {state}" for state, n in cell.states.items() if n and state not in ("finished", "missing")]
    return number(cell.value, cell.deviation, digits) + mark(cell.p) + (f" ({', '.join(counts)})" if counts else "")


def reported(cell: Cell, digits: int) -> str:
    figure = cell.reported
    if not figure:
        return ""
    return number(figure["value"], figure.get("std"), digits) + ("?" if figure.get("mark") == "recalled" else "")


def grid(table: Table) -> list[list[str]]:
    """A header and two lines a row: measured, then reported. A line without any figure is left out."""
    lines = [["", "", *table.columns]]
    for row in table.rows:
        cells = [table.cells.get((row, column)) for column in table.columns]
        for name, shown in (
            ("measured", [measured(cell, table.digits, table.main is not None) if cell else "" for cell in cells]),
            ("reported", [reported(cell, table.digits) if cell else "" for cell in cells]),
        ):
            if any(shown):
                lines.append([row if lines[-1][0] != row else "", name, *shown])
    return lines
