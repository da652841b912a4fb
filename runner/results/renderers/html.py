"""Render a table as HTML: as a fragment of a page, or as a page of its own that needs no other file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runner.results import numerics
from runner.results.renderers.cells import number, reported
from runner.results.significance import mark
from runner.results.table_model import Cell, Table

FOLDER = Path(__file__).parent
STYLE = FOLDER / "table.css"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style }}body { margin: 2rem; }</style>
</head>
<body>
{{ table }}
</body>
</html>"""


@lru_cache
def templates(folder: Path) -> Environment:
    """Return the Jinja templates of a folder; they escape whatever they print, except for Markup."""
    loader = FileSystemLoader(folder)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def page(table: Table) -> str:
    """Return the table as an HTML page."""
    content = {"title": table.title, "style": Markup(STYLE.read_text()), "table": fragment(table)}
    return templates(FOLDER).from_string(PAGE).render(content)


def fragment(table: Table, id: str = "table") -> Markup:
    """Return the table and its notes as a <figure>, whose style is STYLE.

    Args:
        table: table to render.
        id: id of the caption, unique on the page.
    """
    content: dict[str, Any] = {
        "table": table,
        "id": id,
        "compared": any(difference(cell, table.digits_of(column)) for (_, column), cell in table.cells.items()),
        "number": lambda value, column: number(value, None, table.digits_of(column)),
        "reported": lambda cell, column: reported(cell, table.digits_of(column)),
        "difference": lambda cell, column: difference(cell, table.digits_of(column)),
        "describe": numerics.describe,
        "mark": mark,
        "run_count": run_count,
    }
    return Markup(templates(FOLDER).get_template("table.html").render(content))


def difference(cell: Cell, digits: int) -> str:
    """Return measured minus reported, with its sign; empty if one of them is missing."""
    if cell.value is None or not cell.reported:
        return ""
    return f"{cell.value - cell.reported['value']:+z.{digits}f}".replace("-", "\N{MINUS SIGN}")


def run_count(cell: Cell) -> str:
    """Return the number of runs of a cell, as a fraction if some are missing."""
    total = sum(cell.states.values())
    return f"{cell.used}/{total} runs" if cell.used < total else f"{total} run{'s' if total > 1 else ''}"
