"""Figures of a pruning run: what each block keeps, and how channels' entropy and norm are spread."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from methods.esparse.engine import Report, SetReport

WIDTH = 5.5  # inches, of a text column
GROUP = 4


def figures_of(report: Report) -> dict[str, Any]:
    """`retained`: kept share of the score by block; where entropies were gathered, `entropy_norm` for three blocks, and
    `groups` where channels were shuffled."""
    figures = {}
    if any(entry.kept < 1 for entry in report.sets):
        figures["retained"] = retained(report)
    known = [entry for entry in report.sets if entry.entropy is not None]
    if known:
        blocks = sorted({entry.block for entry in known})
        chosen = sorted({blocks[0], blocks[len(blocks) // 2], blocks[-1]})
        names = list(dict.fromkeys(entry.name for entry in known))
        grid = [[next(e for e in known if (e.block, e.name) == (b, n)) for n in names] for b in chosen]
        figures["entropy_norm"] = entropy_norm(grid)
        if known[0].permutation is not None:
            figures["groups"] = groups(grid)
    return figures


def retained(report: Report) -> Any:
    """Kept share of the score against the block, one line a set; dashed without the shuffle."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(WIDTH, 2.6), layout="constrained")
    for i, name in enumerate(dict.fromkeys(entry.name for entry in report.sets)):
        entries = [entry for entry in report.sets if entry.name == name]
        blocks = [entry.block for entry in entries]
        axes.plot(blocks, [e.kept_shuffled for e in entries], color=f"C{i}", label=name.replace("_", " "))
        if entries[0].permutation is not None:
            axes.plot(blocks, [e.kept for e in entries], color=f"C{i}", linestyle=":", linewidth=1)
    axes.set(xlabel="block", ylabel="kept share of the score")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if report.sets[0].permutation is not None:
        axes.plot([], [], color="grey", linestyle=":", label="without shuffle")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=7, ncols=5, loc="outside upper center")
    return figure


def entropy_norm(grid: list[list[SetReport]]) -> Any:
    """Entropy of each channel against its root mean square; rows are blocks, columns sets of layers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axes = _panels(grid)
    for row, entries in zip(axes, grid, strict=True):
        for ax, entry in zip(row, entries, strict=True):
            ax.scatter(entry.norm, entry.entropy, s=2, alpha=0.5, linewidths=0, rasterized=True)
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.grid(alpha=0.3)
    _label(axes, grid, "root mean square", "entropy (nats)")
    return figure


def groups(grid: list[list[SetReport]]) -> Any:
    """Sum of the entropies in each group of four neighbours, from rich to poor: in the model's order, and shuffled."""
    figure, axes = _panels(grid)
    for row, entries in zip(axes, grid, strict=True):
        for ax, entry in zip(row, entries, strict=True):
            ax.plot(_group_sums(entry.entropy), label="as it was", linewidth=1)
            ax.plot(_group_sums(entry.entropy[entry.permutation]), label="shuffled", linewidth=1)
            ax.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    _label(axes, grid, "group, by rank", "sum of entropies")
    return figure


def _group_sums(values: Tensor) -> Tensor:
    whole = values[: len(values) // GROUP * GROUP]
    return whole.view(-1, GROUP).sum(1).sort(descending=True).values


def _panels(grid: list[list[SetReport]]) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    size = (1.9 * len(grid[0]) + 0.6, 1.5 * len(grid) + 0.6)
    return plt.subplots(len(grid), len(grid[0]), figsize=size, squeeze=False, layout="constrained")


def _label(axes: Any, grid: list[list[SetReport]], x: str, y: str) -> None:
    for ax, entry in zip(axes[0], grid[0], strict=True):
        ax.set_title(entry.name.replace("_", " "), fontsize=8)
    for row, entries in zip(axes, grid, strict=True):
        row[0].set_ylabel(f"block {entries[0].block}\n{y}", fontsize=7)
        for ax in row:
            ax.tick_params(labelsize=6)
    for ax in axes[-1]:
        ax.set_xlabel(x, fontsize=7)
