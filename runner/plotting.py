"""How figures look, and the drawing of a paper's figure."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.figure import Line, Spec

WIDTH = 3.4  # inches: a column of a two-column paper
STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.titlepad": 3,
    "axes.labelpad": 2,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.linewidth": 0.5,
    "lines.linewidth": 0.9,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
}
# Okabe and Ito's, which the colour-blind can tell apart
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")


def draw(spec: Spec, lines: Sequence[Line]) -> Any:
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
        runs = sorted({len(line.curves) for line in drawn})
        counts = f"{runs[0]} to {runs[-1]}" if len(runs) > 1 else runs[0]
        averaged = [f"mean and standard deviation of {counts} runs"] if runs[-1] > 1 else []
        figure.suptitle("\n".join([*textwrap.wrap(spec.title, 56), *averaged]), fontsize=7.5)
    return figure


POINT: dict[str, Any] = {"markersize": 3.5, "markeredgewidth": 0.8, "markerfacecolor": "white"}


def look(line: Line, lines: Sequence[Line]) -> tuple[str, int]:
    """Colour of a line, by the last of its names, and the number of its dashes and marker, by the others."""
    last = list(dict.fromkeys(other.name[-1] for other in lines))
    others = list(dict.fromkeys(other.name[:-1] for other in lines))
    return COLOURS[last.index(line.name[-1]) % len(COLOURS)], others.index(line.name[:-1]) % len(DASHES)


def draw_line(ax: Any, spec: Spec, line: Line, colour: str, variant: int) -> Any:
    """The mean, its band of one standard deviation, and the reported points; returns the mean's handle."""
    x, mean, std = zip(*line.average(), strict=True)
    (handle,) = ax.plot(x, mean, DASHES[variant], color=colour)
    low, high = zip(*((m - s, m + s) for m, s in zip(mean, std, strict=True)), strict=True)
    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    for point in spec.reported_for(line):
        ax.plot(point["x"], point["y"], MARKERS[variant], color=colour, zorder=3, **POINT)
    return handle


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
