"""Figures of a single run: its learning curves, and those that the method draws itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from runner.execution.plot_style import COLOURS, STYLE, WIDTH
from runner.execution.record import read_metrics

log = logging.getLogger(__name__)


def save_figures(module: Any, folder: Path) -> list[Path]:
    """Save the learning curves and the figures of the module's `figures()` (name -> matplotlib figure) as PNG.

    A figure that cannot be drawn is logged and left out: it never costs the result.

    Returns:
        Places of the files.
    """
    try:
        return _save_figures(module, folder)
    except Exception:
        log.exception("the figures could not be drawn; the result is recorded without them")
        return sorted((folder / "figures").glob("*.png"))


def _save_figures(module: Any, folder: Path) -> list[Path]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    paths = []
    with plt.rc_context(STYLE):
        figures = dict(module.figures()) if hasattr(module, "figures") else {}
        if rows := read_metrics(folder):
            figures |= {f"curve_{name}": figure for name, figure in learning_curves(rows).items()}
        for name, figure in figures.items():
            path = folder / "figures" / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            figure.savefig(path)
            plt.close(figure)
            paths.append(path)
    return paths


def learning_curves(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Draw one figure for each metric that `train/` or `val/` measure: value against epoch.

    Args:
        rows: rows of metrics.csv.

    Returns:
        Figures by the metric's name without its split.
    """
    import matplotlib.pyplot as plt

    names = dict.fromkeys(name for row in rows for name in row if "/" in name)
    figures = {}
    for metric in dict.fromkeys(name.partition("/")[2] for name in names):
        splits = [name for name in names if name.partition("/")[2] == metric]
        if len(splits) < 2 and not splits[0].startswith("val/"):
            continue
        figure, axes = plt.subplots(figsize=(WIDTH, 2.2))
        for name, colour in zip(splits, COLOURS, strict=False):
            points = [(row["epoch"] + 1, row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), label=name.partition("/")[0], color=colour)
        axes.set(xlabel="epoch", ylabel={"acc": "accuracy"}.get(metric, metric))
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
        figures[metric] = figure
    return figures
