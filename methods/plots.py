"""Draw plots that several methods share. Fonts, colours and grid come from the runner's matplotlib style."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN_WIDTH = 3.3  # inches: one column of a two-column paper


def plot_epoch_curves(
    rows: Sequence[Mapping[str, float]], labels: Mapping[str, str], ylabel: str, yscale: str = "linear"
) -> Figure | None:
    """Plot metrics against the epoch.

    Args:
        rows: metrics of each epoch, by name, from the first epoch on; a metric may be missing in some epochs.
        labels: legend label of each metric to draw, by its name.
        ylabel: label of the y axis.
        yscale: matplotlib scale of the y axis, "linear" or "log".

    Returns:
        The figure, or None if one of the metrics is in no row.
    """
    points = {name: [(epoch, row[name]) for epoch, row in enumerate(rows, 1) if name in row] for name in labels}
    if not all(points.values()):
        return None
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.2), layout="constrained")
    for name, label in labels.items():
        axes.plot(*zip(*points[name], strict=True), label=label)
    axes.set(xlabel="epoch", ylabel=ylabel, yscale=yscale)
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    if len(labels) > 1:
        axes.legend()
    return figure


def log_ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Return at most `most` round numbers (1, 2 or 5 times a power of ten) between two limits, evenly spread.

    Args:
        low: lower limit, positive.
        high: upper limit.
        most: largest number of ticks.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    step = -(-len(ticks) // most) if ticks else 1
    return ticks[::step] or [low]
