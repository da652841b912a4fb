"""Render a table as text, Markdown, LaTeX, CSV, JSON or HTML."""

from __future__ import annotations

from runner.results.renderers.csv_cells import csv_cells
from runner.results.renderers.json_table import json_table
from runner.results.renderers.latex import latex
from runner.results.renderers.markdown import markdown
from runner.results.renderers.text import text
from runner.results.table_model import Table


def html_page(table: Table) -> str:
    """Return the table as an HTML page."""
    from runner.results.renderers.html import page  # imports jinja2

    return page(table)


FORMATS = {
    "text": text,
    "markdown": markdown,
    "latex": latex,
    "csv": csv_cells,
    "json": json_table,
    "html": html_page,
}


def render(table: Table, format: str) -> str:
    """Render a table.

    Args:
        table: table to render.
        format: one of FORMATS.
    """
    return FORMATS[format](table)
