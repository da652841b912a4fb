"""Render a table as plain text."""

from __future__ import annotations

from runner.results.renderers.cells import grid
from runner.results.table_model import Table


def text(table: Table) -> str:
    """Return the table in aligned columns, with title, source and notes."""
    lines_of_cells = grid(table)
    widths = [max(map(len, column)) for column in zip(*lines_of_cells, strict=True)]
    lines = [
        "  ".join(f"{value:<{width}}" for value, width in zip(row, widths, strict=True)).rstrip()
        for row in lines_of_cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([table.title, f"reported: {table.source}", "", *lines, "", *table.notes])
