"""Draw a table as a bar chart: a panel for each column, a bar for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner.execution.plot_style import HOLLOW, MARKERS, colour, pyplot, stable_colours
from runner.results.draw_figure import panel_grid
from runner.results.figure_files import set_title
from runner.results.figure_model import methods_of
from runner.results.significance import LEGEND, mark
from runner.results.table_model import Cell, Table

LOG_RATIO = 20  # from this ratio of the largest to the smallest value on, the value axis is logarithmic
MAIN_COLOUR, OTHER_COLOUR = 0, 1  # colours of the palette

Cells = Mapping[tuple[str, str], Cell]


def draw_table(table: Table) -> Any:
    """Draw a table as a bar chart of one column's width, with standard deviations as error bars.

    A method has the colour that it has in all figures of its paper; the label of the main row is bold. Reported
    figures are markers. Panels of one metric share the value axis, which is logarithmic if the values differ by
    more than LOG_RATIO. Columns without a measured value and rows without any value are left out.

    Args:
        table: table with at least one measured value.

    Returns:
        Matplotlib figure.
    """
    panels = [c for c in table.columns if any(cell.n for (_, column), cell in table.cells.items() if column == c)]
    cells = {at: cell for at, cell in table.cells.items() if at[1] in panels and (cell.n or cell.reported)}
    rows = [row for row in table.rows if any((row, panel) in cells for panel in panels)]
    one_metric = len({cell.metric for cell in cells.values() if cell.n}) == 1
    bar = 0.17 if any(cell.reported for cell in cells.values()) else 0.14  # inches
    height = bar * len(rows) + (0.25 if one_metric else 0.45)
    handles: dict[str, Any] = {}
    with pyplot() as plt:
        colours = bar_colours(table)
        figure, axes, is_bottom = panel_grid(plt, len(panels), height, margin=0.75, share_axes=(one_metric, True))
        for panel, ax, bottom in zip(panels, axes, is_bottom, strict=True):
            format_panel(ax, table, panel, cells, labelled=bottom)
            for place, row in enumerate(rows):
                if cell := cells.get((row, panel)):
                    handles |= draw_cell(ax, place, cell, colours.get(row, colour(OTHER_COLOUR)))
        axes[0].set_yticks(range(len(rows)), rows)
        axes[0].set_ylim(len(rows) - 0.4, -0.6)
        if table.main in rows:
            axes[0].get_yticklabels()[rows.index(table.main)].set_fontweight("bold")
        if handles:
            figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
        tests = [f"against {table.main}: {LEGEND}"] if table.main else []
        set_title(figure, table.title, [cell.n for cell in cells.values() if cell.n], table.sample, tests)
    return figure


def bar_colours(table: Table) -> dict[str, str]:
    """Return the colour of each row's bars: that of its method, or of the main row alone if rows are no methods."""
    if not table.methods:
        return {table.main: colour(MAIN_COLOUR)} if table.main else {}
    papers = dict.fromkeys(method.partition("/")[0] for method in table.methods.values())
    known = [method for paper in papers for method in methods_of(paper)]
    indices = stable_colours(list(table.methods.values()), known)
    return {row: colour(indices[method]) for row, method in table.methods.items()}


def format_panel(ax: Any, table: Table, panel: str, cells: Cells, labelled: bool) -> None:
    """Set title, grid and value axis of a panel.

    Args:
        ax: axes of the panel.
        table: drawn table.
        panel: column of the panel.
        cells: cells of all panels, by (row, column).
        labelled: whether the value axis has a label.
    """
    ax.set_title(panel)
    ax.grid(axis="x")
    ax.tick_params(axis="y", length=0)
    metrics = {column: cell.metric for (_, column), cell in cells.items() if cell.metric}
    of_metric = [cell for (_, column), cell in cells.items() if metrics[column] == metrics[panel]]
    is_log = scale_values(ax, of_metric, room=1.18 if table.main else 1.05)
    if labelled:
        ax.set_xlabel(" ".join(filter(None, [table.metric, "(logarithmic)" if is_log else ""])))
        ax.tick_params(labelbottom=True)


def draw_cell(ax: Any, place: int, cell: Cell, bar_colour: str) -> dict[str, Any]:
    """Draw the bar and the reported figure of one cell.

    Args:
        ax: axes of the panel.
        place: position on the y axis.
        cell: drawn cell.
        bar_colour: colour of the bar.

    Returns:
        Handle of the reported figure, by its label in the legend.
    """
    if cell.value is not None:
        height, at = (0.44, place - 0.18) if cell.reported else (0.7, place)
        error = cell.deviation if cell.n > 1 else None
        ax.barh(
            at, cell.value, height, color=bar_colour, xerr=error or None, error_kw={"linewidth": 0.7, "capsize": 1.5}
        )
        end = (cell.value + (error or 0), at)
        ax.annotate(mark(cell.p), end, (2, -1.5), textcoords="offset points", va="center", fontsize=6)
    if not cell.reported:
        return {}
    checked = cell.reported.get("mark") != "recalled"
    handle = ax.errorbar(
        cell.reported["value"],
        place + (0.22 if cell.value is not None else 0),
        xerr=cell.reported.get("std"),
        fmt=MARKERS[0 if checked else 3],
        color="black",
        elinewidth=0.6,
        markersize=3,
        **HOLLOW,
    )
    return {"reported" if checked else "reported, not checked": handle}


def scale_values(ax: Any, cells: Sequence[Cell], room: float) -> bool:
    """Scale the value axis: from 0, or logarithmic from below the smallest value.

    Args:
        ax: axes of the panel.
        cells: cells that share the axis.
        room: end of the axis, as a multiple of the largest value.

    Returns:
        Whether the axis is logarithmic.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ends = [(cell.value, cell.deviation) for cell in cells if cell.value is not None]
    ends += [(cell.reported["value"], cell.reported.get("std")) for cell in cells if cell.reported]
    values = [value for value, _ in ends]
    largest = max(value + (deviation if deviation and deviation > 0 else 0) for value, deviation in ends)
    is_log = min(values) > 0 and max(values) / min(values) > LOG_RATIO
    if is_log:
        ax.set_xscale("log", nonpositive="clip")
        ax.set_xlim(min(values) / 1.5, largest * (max(values) / min(values)) ** (room - 1))
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3) if largest / min(values) < 300 else (1,)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set_xlim(min(0, *values), largest * room)
        ax.locator_params(axis="x", nbins=5)
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    return is_log
