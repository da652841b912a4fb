"""Render a table as CSV, one line per cell."""

from __future__ import annotations

import csv
import io

from runner.results.table_model import Table
from runner.sweeps.run_status import STATES


def csv_cells(table: Table) -> str:
    """Return one line per cell with unrounded values, for other programs."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        ["row", "column", "value", "deviation", "n", "p", *STATES, "reported", "reported_deviation", "mark"]
    )
    for (row, column), cell in table.cells.items():
        figure = cell.reported or {}
        counts = [cell.states[state] for state in STATES]
        reported_as = [figure.get("value"), figure.get("std"), figure.get("mark")]
        writer.writerow([row, column, cell.value, cell.deviation, cell.n, cell.p, *counts, *reported_as])
    return out.getvalue().rstrip("\n")
