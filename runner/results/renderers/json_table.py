"""Render a table as JSON, and read it back: results that are stored in docs/results."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from runner.execution.provenance import git_state
from runner.execution.record import now
from runner.results.table_model import Cell, Table

PLAIN = ("title", "source", "rows", "columns", "notes", "digits", "metric", "main", "sample", "commits", "command")


def json_table(table: Table) -> str:
    """Return the table as JSON, with all values, numerics, commits and the date."""
    return json.dumps(table_content(table), indent=1, ensure_ascii=False, allow_nan=False)


def table_content(table: Table) -> dict[str, Any]:
    """Return the table as plain data. Numbers that are not finite become null or text, since JSON has none."""
    cells = [{"row": row, "column": column} | _cell_content(cell) for (row, column), cell in table.cells.items()]
    plain = {name: getattr(table, name) for name in PLAIN}
    numerics = [{"numerics": fingerprint, "runs": runs} for fingerprint, runs in table.numerics]
    return plain | {"cells": cells, "numerics": numerics, "git": git_state(), "date": now()}


def _cell_content(cell: Cell) -> dict[str, Any]:
    content = {
        "metric": cell.metric,
        "value": _finite(cell.value),
        "deviation": None if cell.deviation is None or math.isnan(cell.deviation) else _finite(cell.deviation),
        "n": cell.n,
        "values": [_finite(value) for value in cell.values],
        "p": cell.p,
        "used": cell.used,
        "states": {state: count for state, count in cell.states.items() if count},
        "reported": cell.reported,
    }
    return {key: value for key, value in content.items() if value not in (None, "", [], {})}


def _finite(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def table_of_json(text: str) -> Table:
    """Return the table of a JSON text that `json_table` wrote.

    Raises:
        ValueError: the text is not such a table.
    """
    content = json.loads(text)
    try:
        cells = {(cell["row"], cell["column"]): _read_cell(cell) for cell in content["cells"]}
        numerics = [(entry["numerics"], entry["runs"]) for entry in content["numerics"]]
        return Table(**{name: content[name] for name in PLAIN}, cells=cells, numerics=numerics)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a table that runner.table wrote: {error!r}") from error


def _read_cell(cell: dict[str, Any]) -> Cell:
    value, deviation = cell.get("value"), cell.get("deviation")
    return Cell(
        states=Counter(cell.get("states", {})),
        used=cell.get("used", 0),
        value=None if value is None else float(value),
        deviation=None if deviation is None else float(deviation),
        reported=cell.get("reported"),
        values=[float(v) for v in cell.get("values", [])],
        p=cell.get("p"),
        metric=cell.get("metric", ""),
    )
