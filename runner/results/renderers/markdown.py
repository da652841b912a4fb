"""Render a table as Markdown."""

from __future__ import annotations

from runner.results.renderers.cells import grid
from runner.results.table_model import Table


def markdown(table: Table) -> str:
    """Return the table as Markdown: title, cells, notes."""
    header, *body = grid(table)
    lines = [header, ["---"] * len(header), *body]
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    notes = [f"- {note}" for note in [f"reported: {table.source}", *table.notes]]
    return "\n".join([f"**{table.title}**", "", *(line.replace("*", r"\*") for line in [*rows, "", *notes])])
