"""Figures of a single run: kept pairs, choice of granularity, kept ratio over epochs, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.optfeature.metrics import calibration_curve
from methods.optfeature.pairs import pair_indices
from methods.plots import COLUMN_WIDTH, plot_epoch_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from methods.optfeature.selection.base import Selection


def run_figures(
    selection: Selection | None,
    names: Sequence[str],
    curve: Sequence[Mapping[str, float]],
    tested: Mapping[str, Tensor],
) -> dict[str, Figure]:
    """Draw everything that a run has data for.

    Args:
        selection: frozen selection; None: there was none.
        names: names of the fields.
        curve: validation metrics of each epoch.
        tested: `logits` and `labels` of the test rows, `kept`: share of open gates; empty before the test.
    """
    figures: dict[str, Figure | None] = {}
    figures["kept_ratio"] = plot_epoch_curves(curve, {"val/kept_ratio": "kept ratio"}, "share of open gates")
    if tested:
        figures["calibration"] = plot_calibration(tested["logits"], tested["labels"])
    kept = tested.get("kept")
    if selection is not None and kept is not None and len(kept) == selection.pairs:
        figures["kept_pairs"] = plot_pairs(kept.cpu(), names, "share of rows with open gate", 0.0, 1.0)
    alpha = getattr(selection, "alpha", None)
    if alpha is not None:
        share = alpha.detach().cpu().sigmoid()
        figures["alpha"] = plot_pairs(share, names, r"sigmoid($\alpha$): share of value level", *_around_half(share))
    return {name: figure for name, figure in figures.items() if figure is not None}


def plot_pairs(values: Tensor, names: Sequence[str], label: str, low: float, high: float) -> Figure:
    """Draw one value for each pair of fields as a triangular matrix.

    Args:
        values: value of each pair, (P,).
        names: names of the fields.
        label: label of the colour bar.
        low: value of the first colour.
        high: value of the last colour.
    """
    import matplotlib.pyplot as plt

    fields = len(names)
    matrix = torch.full((fields, fields), float("nan"))
    first, second = pair_indices(fields)
    matrix[second, first] = values.float()
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.8), layout="constrained")
    image = axes.imshow(matrix[1:, :-1], vmin=low, vmax=high, cmap="cividis")
    size = 7 if fields <= 12 else 4
    axes.set_xticks(range(fields - 1), names[:-1], rotation=90, fontsize=size)
    axes.set_yticks(range(fields - 1), names[1:], fontsize=size)
    figure.colorbar(image, ax=axes, shrink=0.8).set_label(label, fontsize=8)
    return figure


def plot_calibration(logits: Tensor, labels: Tensor, bins: int = 10) -> Figure:
    """Draw the observed click rate against the predicted one, in bins of equally many rows.

    Args:
        logits: logits of the test rows, (N,).
        labels: 0 or 1, (N,).
        bins: number of bins.
    """
    import matplotlib.pyplot as plt

    predicted, observed, _ = calibration_curve(logits.cpu(), labels.cpu(), bins)
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.6), layout="constrained")
    top = float(torch.stack([predicted, observed]).max()) * 1.05
    axes.plot([0, top], [0, top], linestyle="--", color="0.6", label="perfect")
    axes.plot(predicted, observed, marker="o", markersize=3, label="test")
    axes.set(xlabel="predicted click rate", ylabel="observed click rate")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def plot_auc_against_kept_ratio(
    points: Mapping[str, Sequence[tuple[float, float]]], reference: float | None = None
) -> Figure:
    """Draw the test AUC of several selection methods against the share of gates that they keep.

    Args:
        points: kept ratio and AUC of each run, by method. AUCs far below most of them have a panel of their own.
        reference: AUC of the predictor without selection, drawn as a line; None: no line.
    """
    import matplotlib.pyplot as plt

    areas = [area for pairs in points.values() for _, area in pairs] + ([] if reference is None else [reference])
    panels = _ranges(torch.tensor(areas))
    figure, columns = plt.subplots(
        len(panels),
        figsize=(1.6 * COLUMN_WIDTH, 2.6 + 0.8 * (len(panels) - 1)),
        sharex=True,
        squeeze=False,
        height_ratios=[3, 1][: len(panels)],
        layout="constrained",
    )
    for axes, limits in zip(columns[:, 0], panels, strict=True):
        for number, (method, pairs) in enumerate(points.items()):
            marker = "osD^vP*X"[number % 8]
            axes.plot(*zip(*sorted(pairs), strict=True), marker=marker, markersize=4, linewidth=1, label=method)
        if reference is not None:
            axes.axhline(reference, color="0.5", linestyle="--", linewidth=1, label="no selection")
        axes.set(xlim=(0, 1.03), ylim=limits, ylabel="test AUC")
        axes.grid(alpha=0.3)
    columns[-1, 0].set_xlabel("share of open gates")
    figure.legend(*columns[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    return figure


def _ranges(values: Tensor) -> list[tuple[float, float]]:
    """Limits of the panels: one for all values, or one for most of them above one for those that lie far below."""
    low, high = values.quantile(torch.tensor([0.25, 0.75])).tolist()
    far = values < low - 5 * max(high - low, 1e-4)
    ranges = [values[~far], values[far]] if far.any() else [values]
    margins = [max(0.06 * float(part.max() - part.min()), 1e-4) for part in ranges]
    return [(float(part.min()) - m, float(part.max()) + m) for part, m in zip(ranges, margins, strict=True)]


def _around_half(share: Tensor) -> tuple[float, float]:
    """Limits that put one half in the middle."""
    reach = max(float((share - 0.5).abs().max()), 1e-3)
    return 0.5 - reach, 0.5 + reach
