"""A table as HTML: a fragment for a page that shows several, or a page of its own. Neither needs other files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runner.results.renderers.cells import number, reported
from runner.results.significance import mark
from runner.results.table_model import Cell, Table

HERE = Path(__file__).parent
STYLE = HERE / "table.css"
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
    """The Jinja templates of a folder; whatever they print is escaped unless it is Markup."""
    loader = FileSystemLoader(folder)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def page(table: Table) -> str:
    """A whole HTML page."""
    content = {"title": table.title, "style": Markup(STYLE.read_text()), "table": fragment(table)}
    return templates(HERE).from_string(PAGE).render(content)


def fragment(table: Table, id: str = "table") -> Markup:
    """A <figure> with the table and its notes, to be styled by STYLE. id: of its caption, unique on the page."""
    content: dict[str, Any] = {
        "table": table,
        "id": id,
        "compared": any(difference(cell, table.digits) for cell in table.cells.values()),
        "number": lambda value: number(value, None, table.digits),
        "reported": lambda cell: reported(cell, table.digits),
        "difference": lambda cell: difference(cell, table.digits),
        "mark": mark,
        "runs": runs,
        "ails": ails,
    }
    return Markup(templates(HERE).get_template("table.html").render(content))


def difference(cell: Cell, digits: int) -> str:
    """Measured less reported, with its sign; empty where one of them is missing."""
    if cell.value is None or not cell.reported:
        return ""
    return f"{cell.value - cell.reported['value']:+z.{digits}f}".replace("-", "\N{MINUS SIGN}")


def runs(cell: Cell) -> str:
    """How many runs a cell has, and of how many where some are missing."""
    total, have = sum(cell.states.values()), len(cell.outcomes)
    return f"{have}/{total} runs" if have < total else f"{total} run{'s' if total > 1 else ''}"


def ails(cell: Cell) -> dict[str, int]:
    """How many of its runs failed, are stale, interrupted or under way."""
    return {state: n for state, n in cell.states.items() if n and state not in ("finished", "missing")}
