"""A table as text, Markdown, LaTeX, CSV or HTML."""

from __future__ import annotations

import csv
import io
import math
import re
from typing import TYPE_CHECKING

from runner.significance import mark
from runner.survey import STATES

if TYPE_CHECKING:
    from runner.table import Cell, Table


def render(table: Table, form: str) -> str:
    """form: of FORMATS."""
    return FORMATS[form](table)


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


def _grid(table: Table) -> list[list[str]]:
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


def _text(table: Table) -> str:
    grid = _grid(table)
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = ["  ".join(f"{value:<{width}}" for value, width in zip(row, widths, strict=True)).rstrip() for row in grid]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([table.title, f"reported: {table.source}", "", *lines, "", *table.notes])


def _markdown(table: Table) -> str:
    header, *body = _grid(table)
    lines = [header, ["---"] * len(header), *body]
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    notes = [f"- {note}" for note in [f"reported: {table.source}", *table.notes]]
    return "\n".join([f"**{table.title}**", "", *(line.replace("*", r"\*") for line in [*rows, "", *notes])])


def _latex(table: Table) -> str:
    def escape(text: str) -> str:
        for character in "&%_#$":
            text = text.replace(character, f"\\{character}")
        return re.sub(r"\*+", r"$^{\g<0>}$", text.replace(" ± ", r" $\pm$ "))

    header, *body = [[escape(value) for value in row] for row in _grid(table)]
    lines = [
        r"\begin{tabular}{ll" + "c" * len(table.columns) + "}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
    ]
    lines += [" & ".join(row) + r" \\" for row in body]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([f"% {table.title}; reported: {table.source}", *(f"% {note}" for note in table.notes), *lines])


def _csv(table: Table) -> str:
    """One line a cell, for other programs: unrounded."""
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


def _html(table: Table) -> str:
    from runner.html import page  # which shows numbers as this module does

    return page(table)


FORMATS = {"text": _text, "markdown": _markdown, "latex": _latex, "csv": _csv, "html": _html}
