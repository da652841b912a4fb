"""Figures of a single run: its learning curves, and what the method draws itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.plotting import COLOURS, STYLE, WIDTH
from runner.record import read_metrics


def save_figures(module: Any, folder: Path) -> list[Path]:
    """Saves the learning curves, and every figure of the module's `figures()` (name -> matplotlib figure), as PNG."""
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
    """One figure for each metric that `train/`, `val/` measure: value against epoch. rows: of metrics.csv."""
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
