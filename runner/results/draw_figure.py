"""Draw a paper's figure: averaged curves in a grid of panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.execution.plot_style import COLUMN_WIDTH, HOLLOW, LINE_STYLES, MARKERS, colour, pyplot, stable_colours
from runner.results.figure_files import set_title
from runner.results.figure_model import FigureSpec, Line


def draw_figure(spec: FigureSpec, lines: Sequence[Line]) -> Any:
    """Draw a figure of one column's width: a panel for each value with a finished run, and one legend for all.

    Args:
        spec: specification of the figure.
        lines: lines of the figure. Those without a finished run are left out.

    Returns:
        Matplotlib figure.
    """
    drawn = [line for line in lines if line.curves]
    panels = list(dict.fromkeys(line.panel for line in drawn))
    handles: dict[str, Any] = {}
    with pyplot() as plt:
        figure, axes, is_bottom = panel_grid(plt, len(panels), height=1.25 if len(panels) > 1 else 2.0, margin=0.6)
        colours = stable_colours([line.name[-1] for line in lines], spec.colour_order)
        for index, (panel, ax) in enumerate(zip(panels, axes, strict=True)):
            format_panel(ax, spec, panel)
            if index % 2 == 0:
                ax.set_ylabel(spec.label(spec.metric))
            if is_bottom[index]:
                ax.set_xlabel(spec.label(spec.x))
            for line in drawn:
                if line.panel == panel:
                    shade = colours[line.name[-1]]
                    if spec.has_points:
                        handle = draw_point(ax, line, shade, point_style(line.name[-1], colours))
                    else:
                        handle = draw_line(ax, spec, line, shade, line_style(line, lines))
                    handles.setdefault(spec.line_label(line, lines), handle)
        if any(spec.reported_for(line) for line in drawn):
            handles["reported"] = plt.Line2D([], [], linestyle="", marker=MARKERS[0], color="grey", **HOLLOW)
        columns = 3 if max(map(len, handles)) <= 14 else 2
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
        missing = len(lines) - len(drawn)
        more = [f"{len(drawn)} of {len(lines)} curves; the others have no finished run"] if missing else []
        set_title(figure, spec.title, [len(line.curves) for line in drawn], more_lines=more)
    return figure


def panel_grid(
    plt: Any, count: int, height: float, margin: float, share_axes: tuple[bool, bool] = (False, False)
) -> tuple[Any, list[Any], list[bool]]:
    """Make a figure with a grid of panels, at most two side by side.

    Args:
        plt: matplotlib.pyplot.
        count: number of panels.
        height: height of a row of panels, in inches.
        margin: height of title and legend, in inches.
        share_axes: whether the panels share the x axis, and the y axis.

    Returns:
        The figure, the axes of the panels, and whether each panel has none below it.
    """
    columns = min(2, count)
    rows = -(-count // columns)
    size = (COLUMN_WIDTH, height * rows + margin)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=share_axes[0], sharey=share_axes[1])
    axes = list(grid.flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes[:count], [index + columns >= count for index in range(count)]


def format_panel(ax: Any, spec: FigureSpec, panel: str) -> None:
    """Set title, grid and number of ticks of a panel."""
    ax.set_title(spec.label(panel))
    ax.grid()
    ax.locator_params(axis="x", nbins=4)
    ax.locator_params(axis="y", nbins=5)


def line_style(line: Line, lines: Sequence[Line]) -> int:
    """Return the index of a line's style, by all of its values but the last, which has the colour."""
    others = list(dict.fromkeys(other.name[:-1] for other in lines))
    return others.index(line.name[:-1]) % len(LINE_STYLES)


def draw_line(ax: Any, spec: FigureSpec, line: Line, colour_index: int, style: int) -> Any:
    """Draw the mean, a band of one standard deviation, and the reported points of a line.

    Returns:
        Handle of the mean.
    """
    x, mean, std = zip(*line.average(), strict=True)
    shade = colour(colour_index)
    (handle,) = ax.plot(x, mean, LINE_STYLES[style], color=shade)
    low, high = zip(*((m - s, m + s) for m, s in zip(mean, std, strict=True)), strict=True)
    ax.fill_between(x, low, high, color=shade, alpha=0.15, linewidth=0)
    for point in spec.reported_for(line):
        ax.plot(point["x"], point["y"], MARKERS[style], color=shade, zorder=3, **HOLLOW)
    return handle


def point_style(value: str, colours: dict[str, int]) -> int:
    """Return the index of a point's marker: values that share a colour have different ones."""
    sharing = [other for other, shade in colours.items() if shade == colours[value]]
    return sharing.index(value) % len(MARKERS)


def draw_point(ax: Any, line: Line, colour_index: int, style: int) -> Any:
    """Draw the mean of a line's runs as a point, with a bar of one standard deviation.

    Returns:
        Handle of the point.
    """
    ((x, mean, std),) = line.average()
    if std:
        ax.errorbar(x, mean, std, color=colour(colour_index), linewidth=0.8)
    (handle,) = ax.plot(x, mean, MARKERS[style], color=colour(colour_index), markersize=4)
    return handle
