"""Figures of a pruning run: retained score of each block, entropy and norm of the channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from methods.esparse.pruning import Report, SetReport
from methods.plots import log_ticks

WIDTH = 5.5  # inches, width of a text column
GROUP_SIZE = 4


def draw_figures(report: Report) -> dict[str, Any]:
    """Draw the figures of a pruning run.

    Args:
        report: report of the run.

    Returns:
        Figures by name: `retained`, for N:M; `entropy_norm` for three blocks, where entropies were gathered; `groups`,
        where channels were permuted too.
    """
    report = Report([entry for entry in report.sets if not entry.name.startswith("expert_")])
    figures = {}
    if any(entry.retained_natural < 1 for entry in report.sets):
        figures["retained"] = plot_retained(report)
    known = [entry for entry in report.sets if entry.entropy is not None]
    if known:
        blocks = sorted({entry.block for entry in known})
        at = {(entry.block, entry.name): entry for entry in known}
        chosen = sorted({blocks[0], blocks[len(blocks) // 2], blocks[-1]})
        names = [n for n in dict.fromkeys(e.name for e in known) if all((b, n) in at for b in chosen)]
        grid = [[at[b, n] for n in names] for b in chosen]
        figures["entropy_norm"] = plot_entropy_norm(grid)
        if known[0].permutation is not None:
            figures["groups"] = plot_groups(grid)
    return figures


def plot_retained(report: Report) -> Any:
    """Plot the retained share of the score against the block, a line for each set; dotted without permutation."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(WIDTH, 2.6), layout="constrained")
    for i, name in enumerate(dict.fromkeys(entry.name for entry in report.sets)):
        entries = [entry for entry in report.sets if entry.name == name]
        blocks = [entry.block for entry in entries]
        axes.plot(blocks, [e.retained for e in entries], color=f"C{i}", label=name.replace("_", " "))
        if entries[0].permutation is not None:
            axes.plot(blocks, [e.retained_natural for e in entries], color=f"C{i}", linestyle=":", linewidth=1)
    axes.set(xlabel="block", ylabel="retained share of the score")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if report.sets[0].permutation is not None:
        axes.plot([], [], color="grey", linestyle=":", label="without permutation")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=7, ncols=5, loc="outside upper center")
    return figure


def plot_entropy_norm(grid: list[list[SetReport]]) -> Any:
    """Plot the entropy of each channel against its root mean square; rows are blocks, columns sets of layers."""
    from matplotlib.ticker import NullFormatter

    figure, axes = _panels(grid)
    for row, entries in zip(axes, grid, strict=True):
        for ax, entry in zip(row, entries, strict=True):
            ax.scatter(entry.norm, entry.entropy, s=2, alpha=0.5, linewidths=0, rasterized=True)
            ax.set_xscale("log")
            low, high = ax.get_xlim()
            ticks = log_ticks(low, high, most=3)
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.locator_params(axis="y", nbins=4)
            ax.grid(alpha=0.3)
    _label(figure, axes, grid, "root mean square of the channel", "entropy of the channel (nats)")
    return figure


def plot_groups(grid: list[list[SetReport]]) -> Any:
    """Plot the summed entropy of each group of four neighbours in falling order, before and after the permutation."""
    figure, axes = _panels(grid)
    for row, entries in zip(axes, grid, strict=True):
        for ax, entry in zip(row, entries, strict=True):
            if entry.entropy is None:  # `draw_figures` passes sets with entropies only
                continue
            ax.plot(_group_sums(entry.entropy), label="original order", linewidth=1)
            ax.plot(_group_sums(entry.entropy[entry.permutation]), label="permuted", linewidth=1)
            ax.locator_params(nbins=4)
            ax.grid(alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    _label(figure, axes, grid, "group, by rank", "sum of the group's entropies (nats)")
    return figure


def _group_sums(values: Tensor) -> Tensor:
    whole = values[: len(values) // GROUP_SIZE * GROUP_SIZE]
    return whole.view(-1, GROUP_SIZE).sum(1).sort(descending=True).values


def _panels(grid: list[list[SetReport]]) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    size = (min(WIDTH, 1.9 * len(grid[0]) + 0.6), 1.1 * len(grid) + 0.7)
    return plt.subplots(len(grid), len(grid[0]), figsize=size, squeeze=False, layout="constrained")


def _label(figure: Any, axes: Any, grid: list[list[SetReport]], x: str, y: str) -> None:
    """Label the columns with sets of layers, the rows with blocks, and both axes once for all panels."""
    for ax, entry in zip(axes[0], grid[0], strict=True):
        ax.set_title(entry.name.replace("_", " "))
    for row, entries in zip(axes, grid, strict=True):
        row[0].set_ylabel(f"block {entries[0].block}")
    figure.supxlabel(x, fontsize=8)
    figure.supylabel(y, fontsize=8)
