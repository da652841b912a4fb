"""Figures of a single run: its learning curves, and those that the method draws itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.execution.plot_style import colour, pyplot, save_figure
from runner.execution.record import read_metrics

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")  # each has its colour in all figures


def save_figures(module: Any, folder: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Save the learning curves and the figures of the module's `figures()`.

    A figure that cannot be drawn is logged and left out; the result is recorded all the same.

    Args:
        module: LightningModule of the run. Its method `figures()`, if it has one, returns matplotlib figures by name.
        folder: folder of the run.
        formats: suffixes of the files: png, pdf, svg.

    Returns:
        Paths of the files.
    """
    paths: list[Path] = []
    for draw in (lambda: method_figures(module), lambda: curve_figures(folder)):
        try:
            with pyplot():
                for name, figure in draw().items():
                    (folder / "figures").mkdir(exist_ok=True)
                    paths += save_figure(figure, folder / "figures" / name, formats)
        except Exception:
            log.exception("not all figures could be drawn; the result is recorded without them")
    return paths


def method_figures(module: Any) -> dict[str, Any]:
    """Return the figures that the method draws itself, by name."""
    return dict(module.figures()) if hasattr(module, "figures") else {}


def curve_figures(folder: Path) -> dict[str, Any]:
    """Return the figures of the learning curves in metrics.csv, by name."""
    return {f"curve_{name}": figure for name, figure in learning_curves(read_metrics(folder)).items()}


def learning_curves(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Draw one figure for each metric that `train/` or `val/` measure: value against epoch.

    Args:
        rows: rows of metrics.csv.

    Returns:
        Figures by the metric's name without its split.
    """
    names = dict.fromkeys(name for row in rows for name in row if "/" in name)
    figures = {}
    for metric in dict.fromkeys(name.partition("/")[2] for name in names):
        splits = [name for name in names if name.partition("/")[2] == metric]
        if len(splits) > 1 or splits[0].startswith("val/"):
            figures[metric] = _learning_curve(rows, metric, splits)
    return figures


def _learning_curve(rows: list[dict[str, float]], metric: str, splits: list[str]) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    for name in splits:
        points = [(row["epoch"] + 1, row[name]) for row in rows if name in row]
        split = name.partition("/")[0]
        shade = colour(SPLITS.index(split) if split in SPLITS else len(SPLITS))
        axes.plot(*zip(*points, strict=True), label=split, color=shade)
    axes.set(xlabel="epoch", ylabel={"acc": "accuracy"}.get(metric, metric))
    axes.locator_params(axis="x", integer=True)
    axes.grid()
    axes.legend()
    return figure
