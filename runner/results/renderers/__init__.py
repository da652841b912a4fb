"""Render a table as text, Markdown, LaTeX, CSV or HTML."""

from __future__ import annotations

from runner.results.renderers.csv_cells import csv_cells
from runner.results.renderers.html import page
from runner.results.renderers.latex import latex
from runner.results.renderers.markdown import markdown
from runner.results.renderers.text import text
from runner.results.table_model import Table

FORMATS = {"text": text, "markdown": markdown, "latex": latex, "csv": csv_cells, "html": page}


def render(table: Table, format: str) -> str:
    """Render a table. format: one of FORMATS."""
    return FORMATS[format](table)
