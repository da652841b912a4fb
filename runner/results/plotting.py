"""How figures look, and the drawing of a paper's figure and table."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.config.compose import parse
from runner.execution.plot_style import COLOURS, DASHES, MARKERS, STYLE, WIDTH
from runner.results.figure_model import FigureSpec, Line
from runner.results.significance import LEGEND, mark
from runner.results.table_model import Cell, Table


def draw(spec: FigureSpec, lines: Sequence[Line]) -> Any:
    """A matplotlib figure one column wide: a panel for each value that has a finished run, one legend for all."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = [line for line in lines if line.curves]
    panels = list(dict.fromkeys(line.panel for line in drawn))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    handles: dict[str, Any] = {}
    with plt.rc_context(STYLE):
        height = (1.25 if columns > 1 else 2.0) * rows + 0.6
        figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False)
        for index, ax in enumerate(axes.flat):
            if index >= len(panels):
                ax.set_axis_off()
                continue
            ax.set_title(spec.label(panels[index]))
            ax.grid(alpha=0.3)
            ax.locator_params(axis="x", nbins=4)
            ax.locator_params(axis="y", nbins=5)
            if index % columns == 0:
                ax.set_ylabel(spec.label(spec.metric))
            if index + columns >= len(panels):
                ax.set_xlabel(spec.label(spec.x))
            for line in drawn:
                if line.panel == panels[index]:
                    handle = draw_line(ax, spec, line, *look(line, lines))
                    handles.setdefault(spec.line_label(line, lines), handle)
        if any(spec.reported_for(line) for line in drawn):
            handles["reported"] = plt.Line2D([], [], linestyle="", marker=MARKERS[0], color="grey", **POINT)
        legend_columns = 3 if max(map(len, handles)) <= 14 else 2
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=legend_columns)
        _head(figure, spec.title, [len(line.curves) for line in drawn])
    return figure


def _head(figure: Any, title: str, counts: Sequence[int], of: str = "runs", more: Sequence[str] = ()) -> None:
    """The title, in lines of like length, of how many runs or folds the means are, and more lines."""
    low, high = min(counts), max(counts)
    averaged = [f"mean and standard deviation of {low if low == high else f'{low} to {high}'} {of}"] if high > 1 else []
    fewest = len(textwrap.wrap(title, 56))
    broken = next(lines for n in range(20, 57) if len(lines := textwrap.wrap(title, n)) == fewest)
    figure.suptitle("\n".join([*broken, *averaged, *more]), fontsize=7.5)


POINT: dict[str, Any] = {"markersize": 3.5, "markeredgewidth": 0.8, "markerfacecolor": "white"}


def look(line: Line, lines: Sequence[Line]) -> tuple[str, int]:
    """Colour of a line, by the last of its names, and the number of its dashes and marker, by the others."""
    last = list(dict.fromkeys(other.name[-1] for other in lines))
    others = list(dict.fromkeys(other.name[:-1] for other in lines))
    return COLOURS[last.index(line.name[-1]) % len(COLOURS)], others.index(line.name[:-1]) % len(DASHES)


def draw_line(ax: Any, spec: FigureSpec, line: Line, colour: str, variant: int) -> Any:
    """The mean, its band of one standard deviation, and the reported points; returns the mean's handle."""
    x, mean, std = zip(*line.average(), strict=True)
    (handle,) = ax.plot(x, mean, DASHES[variant], color=colour)
    low, high = zip(*((m - s, m + s) for m, s in zip(mean, std, strict=True)), strict=True)
    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    for point in spec.reported_for(line):
        ax.plot(point["x"], point["y"], MARKERS[variant], color=colour, zorder=3, **POINT)
    return handle


LOG_FROM = 20  # the largest of the values over the smallest


def draw_table(table: Table) -> Any:
    """A matplotlib figure one column wide: a panel for each column, in it a bar for each row, deviations as error bars.

    Reported figures are markers. Panels of one metric share the value axis, which is logarithmic from a spread of
    LOG_FROM on.
    Left out are columns without any measured value, and rows without any value.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [c for c in table.columns if any(cell.n for (_, column), cell in table.cells.items() if column == c)]
    shown = {at: cell for at, cell in table.cells.items() if at[1] in panels and (cell.n or cell.reported)}
    names = [row for row in table.rows if any((row, panel) in shown for panel in panels)]
    metrics = {panel: next(cell.metric for (_, column), cell in shown.items() if column == panel) for panel in panels}
    alike = len(set(metrics.values())) == 1
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    bar = 0.17 if any(cell.reported for cell in shown.values()) else 0.14  # inches
    handles: dict[str, Any] = {}
    with plt.rc_context(STYLE):
        size = (WIDTH, (bar * len(names) + (0.25 if alike else 0.45)) * rows + 0.75)
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=alike, sharey=True)
        for index, ax in enumerate(axes.flat):
            if index >= len(panels):
                ax.set_axis_off()
                continue
            ax.set_title(panels[index])
            ax.grid(axis="x", alpha=0.3)
            ax.set_axisbelow(True)
            ax.tick_params(axis="y", length=0)
            of_metric = [cell for (_, column), cell in shown.items() if metrics[column] == metrics[panels[index]]]
            is_log = _scale_values(ax, of_metric, room=1.18 if table.main else 1.05)
            if index + columns >= len(panels):
                ax.set_xlabel(" ".join(filter(None, [table.metric, "(logarithmic)" if is_log else ""])))
                ax.tick_params(labelbottom=True)
            for place, name in enumerate(names):
                if cell := shown.get((name, panels[index])):
                    handles |= draw_cell(ax, place, cell, COLOURS[0 if name == table.main else 1])
        axes[0, 0].set_yticks(range(len(names)), names)
        axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
        if handles:
            figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
        tests = [f"against {table.main}: {LEGEND}"] if table.main else []
        _head(figure, table.title, [cell.n for cell in shown.values() if cell.n], table.sample, tests)
    return figure


def draw_cell(ax: Any, place: int, cell: Cell, colour: str) -> dict[str, Any]:
    """The bar and the reported figure of one cell, at its place on the y axis; returns the latter's handle by name."""
    if cell.value is not None:
        height, at = (0.44, place - 0.18) if cell.reported else (0.7, place)
        error = cell.deviation if cell.n > 1 else None
        ax.barh(at, cell.value, height, color=colour, xerr=error or None, error_kw={"linewidth": 0.7, "capsize": 1.5})
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
        **POINT | {"markersize": 3},
    )
    return {"reported" if checked else "reported, not checked": handle}


def _scale_values(ax: Any, cells: Sequence[Cell], room: float) -> bool:
    """The x axis: from 0, or logarithmic from below the smallest value; is it that? room: right of the largest, as a
    factor.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ends = [(cell.value, cell.deviation) for cell in cells if cell.value is not None]
    ends += [(cell.reported["value"], cell.reported.get("std")) for cell in cells if cell.reported]
    values = [value for value, _ in ends]
    largest = max(value + (deviation if deviation and deviation > 0 else 0) for value, deviation in ends)
    is_log = min(values) > 0 and max(values) / min(values) > LOG_FROM
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


def figure_path(outputs: str | Path, experiment: str, metric: str, overrides: Sequence[str]) -> Path:
    """Where a figure of an experiment is saved; its folder is made.

    Its name is the metric, and what the overrides change of the experiment: a part of a figure is a file of its own.
    """
    where = re.compile(r"experiment|(table|figure)\.metric|(logger|paths|hydra)\b.*")
    changed = [o for o in overrides if not where.fullmatch(parse(o).key_or_group or "")]
    name = re.sub(r"[^\w=.,+-]", "_", "-".join([metric, *changed]))
    path = Path(outputs).absolute() / "figures" / experiment / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save(figure: Any, path: Path) -> None:
    """The PNG, whole or not at all."""
    import matplotlib.pyplot as plt

    temporary = path.with_name(f".{path.stem}.{os.getpid()}.png")
    try:
        with plt.rc_context(STYLE):
            figure.savefig(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        plt.close(figure)
