"""Figures: the Pareto charts of a pipeline, sensitivity of layers, histograms of weights, cells, ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from methods.compression.layers import weight_layers
from methods.compression.macs import layer_weight
from methods.compression.measure import Sheet
from methods.plots import COLUMN_WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = {
    "bytes": ("file (KB)", lambda sheet: None if sheet.bytes_file is None else sheet.bytes_file / 1000),
    "macs": ("MACs (millions)", lambda sheet: sheet.macs / 1e6),
    "latency": ("latency (ms)", lambda sheet: sheet.latency_ms),
}


def pipeline_figures(sheets: Sequence[Sheet], networks: Mapping[str, nn.Module]) -> dict[str, Callable[[], Figure]]:
    """Return the figures of a pipeline by name, each as a function that draws it.

    Args:
        sheets: sheet of each stage, the dense network's first.
        networks: networks by the names of the sheets.
    """
    figures: dict[str, Callable[[], Figure]] = {}
    for axis, (_, value) in AXES.items():
        if all(value(sheet) is not None for sheet in sheets):
            figures[f"pareto_{axis}"] = lambda axis=axis: plot_pareto(sheets, axis)  # type: ignore[misc]
    first, last = networks[sheets[0].name], networks[sheets[-1].name]
    if weight_values(last) is not None:
        before, after = weight_values(first), weight_values(last)
        figures["weights"] = lambda: plot_histograms(before, after)  # type: ignore[arg-type]
    return figures


def plot_pareto(sheets: Sequence[Sheet], axis: str) -> Figure:
    """Draw accuracy against cost: filled markers for what was run, hollow ones where low bits are simulated.

    Args:
        sheets: sheets with accuracies.
        axis: bytes, macs or latency.
    """
    import matplotlib.pyplot as plt

    label, value = AXES[axis]
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.6), layout="constrained")
    for number, sheet in enumerate(sheets):
        hollow = sheet.simulated and axis != "bytes"  # the bytes of low-bit weights are real
        colour = f"C{number % 10}"
        name = sheet.name + (" (simulated)" if hollow else "")
        axes.plot(
            value(sheet),
            100 * (sheet.acc or 0),
            "o",
            color=colour,
            fillstyle="none" if hollow else "full",
            label=name,
        )
    axes.set(xlabel=label, ylabel="accuracy (%)")
    costs = [value(sheet) for sheet in sheets]
    if max(costs) > 4 * min(costs):
        axes.set_xscale("log")
    else:  # costs that hardly differ should look so
        axes.set_xlim(0, 1.05 * max(costs))
    axes.grid(alpha=0.3)
    figure.legend(fontsize=6, loc="outside lower center", ncols=2)
    return figure


def weight_values(network: nn.Module) -> torch.Tensor | None:
    """Return all weights of convolutions and linear layers (N,), or None if there are none."""
    from methods.compression.macs import COUNTED

    layers = [m for m in network.modules() if isinstance(m, COUNTED)]
    return torch.cat([layer_weight(m).detach().flatten().cpu() for m in layers]) if layers else None


def plot_histograms(before: torch.Tensor, after: torch.Tensor) -> Figure:
    """Draw histograms of the weights before and after compression, zeros left out."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 1, figsize=(COLUMN_WIDTH, 2.8), layout="constrained", sharex=True)
    limit = float(before.abs().quantile(0.999)) if before.numel() < 2**24 else float(before.abs().max())
    for axes, values, title in zip(panels, (before, after), ("dense", "compressed"), strict=True):
        kept = values[values != 0]
        axes.hist(kept.clamp(-limit, limit).numpy(), bins=101, color="C0")
        axes.set_title(f"{title}: {len(kept):,} non-zero weights", fontsize=8)
        axes.set(ylabel="number")
    panels[-1].set(xlabel="weight")
    return figure


def plot_sensitivity(curves: Mapping[str, Mapping[float, float]]) -> Figure:
    """Draw the accuracy of each layer pruned alone against the share of pruned filters."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 3.2), layout="constrained")
    for number, (name, curve) in enumerate(curves.items()):
        style = ("-", "--", ":")[number // 10 % 3]
        axes.plot(
            [100 * r for r in curve],
            [100 * a for a in curve.values()],
            style,
            marker=".",
            label=name,
            color=f"C{number % 10}",
        )
    axes.set(xlabel="pruned filters of the layer (%)", ylabel="accuracy (%)")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=5, loc="outside lower center", ncols=3)
    return figure


def plot_ranks(ranks: Mapping[str, tuple[int, int]], labels: tuple[str, str] = ("rank", "full")) -> Figure:
    """Draw the rank of each layer beside its full rank.

    Args:
        ranks: rank and full rank by layer.
        labels: labels of the two.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 0.9 + 0.16 * len(ranks)), layout="constrained")
    places = range(len(ranks))
    axes.barh(places, [full for _, full in ranks.values()], color="0.85", label=labels[1])
    axes.barh(places, [rank for rank, _ in ranks.values()], color="C0", label=labels[0])
    axes.set_yticks(places, list(ranks), fontsize=6)
    axes.invert_yaxis()
    axes.set(xlabel="rank")
    figure.legend(fontsize=7, loc="outside lower center", ncols=2)
    return figure


def plot_cell(edges: Sequence[tuple[str, int, int]], nodes: int, title: str) -> Figure:
    """Draw a cell of an architecture search.

    Args:
        edges: operation, source and target; nodes 0 and 1 are the outputs of the two cells before.
        nodes: number of nodes, inputs included; the output is the concatenation of the others.
        title: title of the figure.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(2 * COLUMN_WIDTH, 2.6), layout="constrained")
    heights = (1.2, -1.2, 0.75, -0.75, 0.4, -0.3)
    where = {i: (0.0 if i < 2 else 1.6 * (i - 1), heights[i % len(heights)]) for i in range(nodes)}
    names = {0: "c[k-2]", 1: "c[k-1]"}
    for number, (operation, source, target) in enumerate(edges):
        (x0, y0), (x1, y1) = where[source], where[target]
        arrow = {"arrowstyle": "->", "color": f"C{target % 10}", "shrinkA": 12, "shrinkB": 9}
        axes.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)
        share = 0.38 + 0.2 * (number % 2)
        box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
        place = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
        axes.text(*place, operation, fontsize=5.5, ha="center", va="center", color=f"C{target % 10}", bbox=box)
    for node, (x, y) in where.items():
        axes.plot(x, y, "o", markersize=18 if node < 2 else 14, color="0.9", markeredgecolor="0.4")
        axes.text(x, y, names.get(node, str(node - 2)), ha="center", va="center", fontsize=5 if node < 2 else 7)
    axes.set_title(title, fontsize=8)
    axes.set_ylim(-1.7, 1.7)
    axes.axis("off")
    return figure


__all__ = ["plot_cell", "plot_histograms", "plot_pareto", "plot_ranks", "plot_sensitivity", "weight_layers"]
