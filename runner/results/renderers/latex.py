"""Render a table as LaTeX."""

from __future__ import annotations

import re

from runner.results.renderers.cells import grid
from runner.results.table_model import Table


def latex(table: Table) -> str:
    """Return the table as a LaTeX tabular of booktabs, with title and notes as comments."""
    header, *body = [[escape(value) for value in row] for row in grid(table)]
    lines = [
        r"\begin{tabular}{ll" + "c" * len(table.columns) + "}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
    ]
    lines += [" & ".join(row) + r" \\" for row in body]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([f"% {table.title}; reported: {table.source}", *(f"% {note}" for note in table.notes), *lines])


def escape(text: str) -> str:
    """Return a text with LaTeX's special characters escaped, and stars as superscripts."""
    for character in "&%_#$":
        text = text.replace(character, f"\\{character}")
    return re.sub(r"\*+", r"$^{\g<0>}$", text.replace(" ± ", r" $\pm$ "))
