"""Collect the curves of a figure from the runs of its experiment."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from runner.config.address import Run
from runner.errors import UserError
from runner.execution.provenance import is_stale
from runner.execution.record import read_result
from runner.results.figure_model import FigureSpec, Line
from runner.results.sources import read_rows
from runner.sweeps.run_status import STATES, run_status

UNREADABLE = "unreadable"  # state of a finished run whose metrics.csv cannot be read


def collect_lines(spec: FigureSpec, runs: Iterable[Run]) -> list[Line]:
    """Return the lines in the order of the sweep, each with the curves of its finished runs.

    Raises:
        UserError: a finished run has not recorded the metric.
    """
    lines: dict[tuple[str, ...], Line] = {}
    for run in runs:
        panel, *name = (run.label_value(key) for key in (spec.panels, *spec.lines))
        add_run(lines.setdefault((panel, *name), Line(panel, tuple(name))), spec, run)
    return list(lines.values())


def add_run(line: Line, spec: FigureSpec, run: Run) -> None:
    """Add the state of a run, and its curve if it is finished, to its line."""
    result = read_result(run.folder)
    if result is None:
        line.states[run_status(run).state] += 1
        return
    rows, damage = ([{"epoch": 0.0} | result["metrics"]], "") if spec.has_points else read_rows(run.folder)
    if damage:
        line.states[UNREADABLE] += 1
        return
    line.states["finished"] += 1
    line.states["stale"] += is_stale(result)
    line.curves.append(curve(rows, spec.x, spec.metric))
    if not line.curves[-1]:
        recorded = ", ".join(dict.fromkeys(key for row in rows for key in row)) or "nothing"
        raise UserError(f"{run.folder} has no {spec.metric} against {spec.x}; it recorded {recorded}")


def curve(rows: list[dict[str, float]], x: str, metric: str) -> dict[int, tuple[float, float]]:
    """Return (x, metric) by epoch, of the rows of metrics.csv that have both. Epochs on the x axis count from 1."""
    first = 1 if x == "epoch" else 0
    return {int(row["epoch"]): (row[x] + first, row[metric]) for row in rows if x in row and metric in row}


def summarize_lines(spec: FigureSpec, lines: Sequence[Line]) -> str:
    """Return the number of runs of each line, by state."""
    names = [spec.line_label(line, lines) for line in lines]
    width = max(map(len, names))
    text = [spec.title, f"source of the reported points: {spec.source}"] if spec.reported else [spec.title]
    panel, panels = None, [line.panel for line in lines]
    for line, name in sorted(zip(lines, names, strict=True), key=lambda pair: panels.index(pair[0].panel)):
        if line.panel != panel:
            panel = line.panel
            text.append(f"\n{spec.label(panel)}")
        counts = line.states
        others = [f"{counts[s]} {s}" for s in (*STATES[1:], UNREADABLE) if counts[s]]
        total = counts.total() - counts["stale"]
        text.append("  ".join([f"  {name:<{width}}", f"{counts['finished']} of {total} runs", *others]))
    return "\n".join(text)


def figure_csv(spec: FigureSpec, lines: Sequence[Line]) -> str:
    """Return the drawn lines as CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([spec.panels, *spec.lines, "runs", spec.x, f"{spec.metric} mean", f"{spec.metric} std"])
    for line in lines:
        writer.writerows([line.panel, *line.name, len(line.curves), *point] for point in line.average())
    return text.getvalue()
