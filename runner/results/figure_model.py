"""A figure as data: what an experiment file asks for, and lines with the curves of their runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.config.help import choices
from runner.results.node_schema import FigureNode, read_node


@dataclass(frozen=True)
class FigureSpec:
    """Node `figure` of an experiment file.

    Runs that differ in anything but panel and line (folds, seeds) are averaged, with a band of one standard deviation.

    Args:
        panels: config key (a group such as `dataset`, or any key) whose values have a panel each.
        lines: config keys whose values tell the lines of a panel apart. Colours follow the last key, line styles the
            others.
        metric: column of metrics.csv on the y axis.
        x: column of metrics.csv on the x axis: step, epoch (from 1) or seconds. A metric, such as test/utility: each
            line becomes a point, the mean of both metrics over the results of its runs.
        title: title of the figure.
        source: source of the reported points.
        labels: label of a value or a metric.
        colour_order: values of the last line key that any figure may have; each keeps its colour in all figures. Set by
            `read` to all methods of the paper if lines are told apart by method.
        reported: points of the paper: {panel, line (values in the order of `lines`), x: [...], y: [...]}.
    """

    panels: str
    lines: tuple[str, ...]
    metric: str
    x: str = "step"
    title: str = ""
    source: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    reported: tuple[dict[str, Any], ...] = ()
    colour_order: tuple[str, ...] = ()

    @classmethod
    def read(cls, experiment: str, node: dict[str, Any]) -> FigureSpec:
        """Return the specification of a node. Raises UserError if a key is missing, unknown or malformed."""
        content = read_node(FigureNode, node, "figure")
        if "colour_order" not in content and content["lines"][-1] == "method":
            content["colour_order"] = tuple(methods_of(experiment.partition("/")[0]))
        return cls(**content)

    @property
    def has_points(self) -> bool:
        """Return whether one metric is drawn against another, a point for each line."""
        return "/" in self.x

    def label(self, value: str) -> str:
        """Return the label of a value or metric."""
        return self.labels.get(value, value)

    def line_label(self, line: Line, lines: Sequence[Line]) -> str:
        """Return the labels of the values that tell a line from the others of the figure."""
        varying = [len({other.name[i] for other in lines}) > 1 for i in range(len(line.name))]
        parts = [self.label(value) for value, varies in zip(line.name, varying, strict=True) if varies]
        return " + ".join(parts or [self.label(value) for value in line.name])

    def reported_for(self, line: Line) -> list[dict[str, Any]]:
        """Return the entries of `reported` that belong to a line."""
        return [p for p in self.reported if p["panel"] == line.panel and p["line"] == line.name]


def methods_of(paper: str) -> list[str]:
    """Return the methods of a paper, the paper's own one first."""
    names = [name for name in choices("method") if name.partition("/")[0] == paper]
    return sorted(names, key=lambda name: name != paper)


@dataclass
class Line:
    """Runs of one line of one panel.

    Args:
        panel: value of the panel.
        name: values of the line's keys.
        curves: curve of each finished run: (x, y) by epoch.
        states: number of runs in each state.
    """

    panel: str
    name: tuple[str, ...]
    curves: list[dict[int, tuple[float, float]]] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)

    def average(self) -> list[tuple[float, float, float]]:
        """Return (x, mean, standard deviation with ddof 0) at the epochs that all finished runs have."""
        epochs = sorted(set.intersection(*(set(curve) for curve in self.curves))) if self.curves else []
        points = []
        for epoch in epochs:
            x, y = zip(*(curve[epoch] for curve in self.curves), strict=True)
            mean = sum(y) / len(y)
            points.append((sum(x) / len(x), mean, (sum((v - mean) ** 2 for v in y) / len(y)) ** 0.5))
        return points
