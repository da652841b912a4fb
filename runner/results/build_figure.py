"""Collect the curves of a figure from the runs of its experiment."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from runner.config.address import Run
from runner.errors import UserError
from runner.execution.provenance import is_stale
from runner.execution.record import read_metrics, read_result
from runner.results.figure_model import FigureSpec, Line
from runner.sweeps.run_status import STATES, run_status


def collect(spec: FigureSpec, runs: Iterable[Run]) -> list[Line]:
    """The lines in the order of the sweep, each with the curves of its finished runs.

    Raises UserError where finished runs have not recorded the metric.
    """
    lines: dict[tuple[str, ...], Line] = {}
    for run in runs:
        panel, *name = (run.label_value(key) for key in (spec.panels, *spec.lines))
        line = lines.setdefault((panel, *name), Line(panel, tuple(name)))
        result = read_result(run.folder)
        line.states[run_status(run).state] += 1
        if result is not None:
            rows = read_metrics(run.folder)
            line.states["stale"] += is_stale(result)
            line.curves.append(curve(rows, spec.x, spec.metric))
            if not line.curves[-1]:
                recorded = ", ".join(dict.fromkeys(key for row in rows for key in row)) or "nothing"
                raise UserError(f"{run.folder} has no {spec.metric} against {spec.x}; it recorded {recorded}")
    return list(lines.values())


def curve(rows: list[dict[str, float]], x: str, metric: str) -> dict[int, tuple[float, float]]:
    """Epoch -> (x, metric), of the rows of metrics.csv that have both. Epochs on the x axis count from 1."""
    first = 1 if x == "epoch" else 0
    return {int(row["epoch"]): (row[x] + first, row[metric]) for row in rows if x in row and metric in row}


def summary(spec: FigureSpec, lines: Sequence[Line]) -> str:
    """How many runs each line has, and what is missing."""
    names = [spec.line_label(line, lines) for line in lines]
    width = max(map(len, names))
    text = [spec.title, f"source of the reported points: {spec.source}"] if spec.reported else [spec.title]
    panel = None
    for line, name in zip(lines, names, strict=True):
        if line.panel != panel:
            panel = line.panel
            text.append(f"\n{spec.label(panel)}")
        counts = line.states
        rest = [f"{counts[s]} {s}" for s in STATES[1:] if counts[s]]
        total = counts.total() - counts["stale"]
        finished = f"{counts['finished']} of {total} runs"
        text.append("  ".join([f"  {name:<{width}}", finished, *rest]))
    return "\n".join(text)


def figure_csv(spec: FigureSpec, lines: Sequence[Line]) -> str:
    """The drawn lines as CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([spec.panels, *spec.lines, "runs", spec.x, f"{spec.metric} mean", f"{spec.metric} std"])
    for line in lines:
        writer.writerows([line.panel, *line.name, len(line.curves), *point] for point in line.average())
    return text.getvalue()
