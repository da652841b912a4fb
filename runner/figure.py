"""`python -m runner.figure experiment=E [overrides]`: a figure of a paper, drawn from the runs of its sweep.

The experiment file holds the sweep (`hydra.sweeper.params`) and a node `figure`; its keys are those of `Spec`.
Overrides are those of the runner: dataset=D draws a part, paths.outputs=DIR says where the runs lie.
"""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from runner.address import Run, resolved
from runner.compose import compose_fixed, expand, parse
from runner.console import reader_may_leave
from runner.errors import UserError, one_message
from runner.files import write_whole
from runner.help import experiments_with
from runner.loggers import log_figure
from runner.plotting import draw, figure_path, save
from runner.record import is_stale, read_metrics, read_result
from runner.survey import STATES, names, state_of, value_of


@dataclass(frozen=True)
class Spec:
    """The node `figure` of an experiment file.

    panels: the config key (a group such as `dataset`, or any key) that has a panel for each of its values.
    lines: the config key or keys that tell a panel's lines apart; colours follow the last, dashes the others.
    metric: column of metrics.csv on the y axis. x: its column on the x axis: step, epoch (from 1) or seconds.
    Runs that differ in anything else (folds, seeds) are averaged, with a band of one standard deviation.
    labels: what to print for a value or a metric. title, source: of the figure, and of the reported points.
    reported: points that the paper gives: {panel, line (its values in the order of `lines`), x: [...], y: [...]}.
    """

    panels: str
    lines: tuple[str, ...]
    metric: str
    x: str = "step"
    title: str = ""
    source: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    reported: tuple[dict[str, Any], ...] = ()

    @classmethod
    def read(cls, experiment: str, node: dict[str, Any]) -> Spec:
        """Raises UserError where a key is missing or unknown, or where reported points are not as they should be."""
        place = f"figure, in conf/experiment/{experiment}.yaml,"
        known = {f.name: f for f in fields(cls)}
        if unknown := node.keys() - known.keys():
            raise UserError(f"{place} has the unknown keys {', '.join(sorted(unknown))}; it knows {', '.join(known)}")
        required = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
        if lacking := [n for n in required if n not in node]:
            raise UserError(f"{place} lacks {', '.join(lacking)}")
        spec = cls(**node | {"lines": names(node["lines"])})
        for point in spec.reported:
            if point.keys() != {"panel", "line", "x", "y"} or len(point["x"]) != len(point["y"]):
                raise UserError(f"{place} has a reported entry that is not {{panel, line, x: [..], y: [..]}}: {point}")
        return spec

    def label(self, value: str) -> str:
        return self.labels.get(value, value)

    def line_label(self, line: Line, lines: Sequence[Line]) -> str:
        """Labels of the values that tell this line from the others of the figure."""
        varying = [len({other.name[i] for other in lines}) > 1 for i in range(len(line.name))]
        parts = [self.label(value) for value, varies in zip(line.name, varying, strict=True) if varies]
        return " + ".join(parts or [self.label(value) for value in line.name])

    def reported_for(self, line: Line) -> list[dict[str, Any]]:
        """The entries of `reported` that belong to a line."""
        return [p for p in self.reported if str(p["panel"]) == line.panel and names(p["line"]) == line.name]


@dataclass
class Line:
    """The runs of one line of one panel. states: how many of them are in each of survey.STATES."""

    panel: str
    name: tuple[str, ...]
    curves: list[dict[int, tuple[float, float]]] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)

    def average(self) -> list[tuple[float, float, float]]:
        """(x, mean, standard deviation) of the finished runs, at the epochs that all of them have.

        The deviation is that over the runs at hand (ddof 0).
        """
        epochs = sorted(set.intersection(*(set(curve) for curve in self.curves))) if self.curves else []
        points = []
        for epoch in epochs:
            x, y = zip(*(curve[epoch] for curve in self.curves), strict=True)
            mean = sum(y) / len(y)
            points.append((sum(x) / len(x), mean, (sum((v - mean) ** 2 for v in y) / len(y)) ** 0.5))
        return points


@reader_may_leave()
@one_message()
def main() -> None:
    """Exit codes: 0, 2 for a mistake of the user's or where no run is there."""
    make(sys.argv[1:])


def make(overrides: list[str]) -> Path:
    """Draws the figure of the experiment that the overrides name; prints its runs; returns the PNG's path."""
    experiment = next((str(o.value()) for o in map(parse, overrides) if o.key_or_group == "experiment"), None)
    if experiment is None:
        raise UserError(f"Which figure? python -m runner.figure experiment=<one of {with_figure()}>")
    cfg = compose_fixed(overrides)
    if not cfg.get("figure"):
        raise UserError(f"experiment={experiment} has no figure; these have one: {with_figure()}")
    spec = Spec.read(experiment, resolved(cfg.figure))
    lines = collect(spec, [Run.compose(run) for run in expand(cfg, overrides)])
    print(summary(spec, lines))
    if not any(line.curves for line in lines):
        raise UserError(
            f"No run of it is finished below {Path(cfg.paths.outputs).absolute()}.\n"
            f"This makes them: python -m runner -m {' '.join(overrides)}"
        )
    path = figure_path(cfg.paths.outputs, experiment, spec.metric, overrides)
    write_whole(path.with_suffix(".csv"), table(spec, lines))
    save(draw(spec, lines), path)
    print(f"\n{path}\n{path.with_suffix('.csv')}")
    log_figure(cfg.logger, path, experiment, figure=spec.metric, source=spec.source)
    return path


def with_figure() -> str:
    return ", ".join(experiments_with("figure"))


def collect(spec: Spec, runs: Iterable[Run]) -> list[Line]:
    """The lines in the order of the sweep, each with the curves of its finished runs.

    Raises UserError where finished runs have not recorded the metric.
    """
    lines: dict[tuple[str, ...], Line] = {}
    for run in runs:
        panel, *name = (value_of(run, key) for key in (spec.panels, *spec.lines))
        line = lines.setdefault((panel, *name), Line(panel, tuple(name)))
        result = read_result(run.folder)
        line.states[state_of(run)] += 1
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


def summary(spec: Spec, lines: Sequence[Line]) -> str:
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


def table(spec: Spec, lines: Sequence[Line]) -> str:
    """The drawn lines as CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([spec.panels, *spec.lines, "runs", spec.x, f"{spec.metric} mean", f"{spec.metric} std"])
    for line in lines:
        writer.writerows([line.panel, *line.name, len(line.curves), *point] for point in line.average())
    return text.getvalue()


if __name__ == "__main__":
    main()
