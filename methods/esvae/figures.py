"""Figures of a run: reconstructions, samples, interpolation, firing rates, robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from methods.plots import COLUMN_WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP = 2  # pixels between images


def mosaic(images: Tensor, columns: int) -> np.ndarray:
    """Return images (N, C, H, W) in [-1, 1] side by side, as one array (rows, columns, 3) in [0, 1], white between."""
    pixels = ((images.detach().float().cpu() + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)
    rows = -(-len(pixels) // columns)
    height, width = (side + GAP for side in pixels.shape[2:])
    canvas = torch.ones(3, rows * height - GAP, columns * width - GAP)
    for i, image in enumerate(pixels):
        top, left = i // columns * height, i % columns * width
        canvas[:, top : top + height - GAP, left : left + width - GAP] = image
    return canvas.permute(1, 2, 0).numpy()


def image_rows(rows: Mapping[str, Tensor]) -> Figure:
    """Draw a row of images for each entry.

    Args:
        rows: images (n, C, H, W) in [-1, 1] by the label of their row; n is the same for all.
    """
    import matplotlib.pyplot as plt

    n = len(next(iter(rows.values())))
    picture = mosaic(torch.cat([images.cpu() for images in rows.values()]), n)
    label_width = 0.9
    height = (COLUMN_WIDTH - label_width) * picture.shape[0] / picture.shape[1]
    figure = plt.figure(figsize=(COLUMN_WIDTH, height), layout="none")
    axes = figure.add_axes((label_width / COLUMN_WIDTH, 0, 1 - label_width / COLUMN_WIDTH, 1))
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
    for i, label in enumerate(rows):
        y = 1 - (i + 0.5) / len(rows)
        figure.text(label_width / COLUMN_WIDTH - 0.02, y, label, ha="right", va="center", fontsize=6.5)
    return figure


def image_grid(images: Tensor, columns: int) -> Figure:
    """Draw images (N, C, H, W) in [-1, 1] in rows of so many columns."""
    import matplotlib.pyplot as plt

    picture = mosaic(images, columns)
    figure = plt.figure(figsize=(COLUMN_WIDTH, COLUMN_WIDTH * picture.shape[0] / picture.shape[1]), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
    return figure


def layer_rates(rates: Mapping[str, float]) -> Figure:
    """Draw the firing rate of each layer as a bar; rates by layer, in the order of the network."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 0.16 * len(rates) + 0.5), layout="constrained")
    axes.barh(range(len(rates)), list(rates.values()))
    axes.set_yticks(range(len(rates)), list(rates))
    axes.invert_yaxis()
    axes.set(xlabel="spikes per neuron and time step", xlim=(0, None))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def latent_rates(posterior: Tensor, prior: Tensor) -> Figure:
    """Draw the mean and the standard deviation of the firing rate of each latent neuron, posterior beside prior.

    Args:
        posterior: rates (N, D) of encoded test images.
        prior: rates (N, D) drawn from the prior.
    """
    import matplotlib.pyplot as plt

    order = posterior.mean(0).argsort(descending=True).cpu()
    figure, axes = plt.subplots(2, 1, figsize=(COLUMN_WIDTH, 2.6), sharex=True, layout="constrained")
    for label, rates, marker in (("posterior", posterior, "o"), ("prior", prior, "s")):
        rates = rates.detach().float().cpu()[:, order]
        for ax, values in zip(axes, (rates.mean(0), rates.std(0)), strict=True):
            ax.plot(values.numpy(), marker=marker, markersize=2.5, linewidth=0.7, label=label)
    for ax, name in zip(axes, ("mean", "standard deviation"), strict=True):
        ax.set_ylabel(name)
        ax.set_ylim(0, None)
        ax.grid(alpha=0.3)
    axes[0].set_title("firing rate of each latent neuron over images")
    axes[0].legend()
    axes[1].set_xlabel("latent neuron, by mean rate of the posterior")
    return figure


def robustness_curve(losses: Mapping[float, float], shuffled: float, kind: str) -> Figure:
    """Draw the reconstruction loss against the strength of the noise on the latent spikes.

    Args:
        losses: loss by probability of the noise.
        shuffled: loss with shuffled time steps.
        kind: kind of the noise, for the label of the axis.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.0), layout="constrained")
    axes.plot(list(losses), list(losses.values()), "o-", markersize=3, label=f"{kind} noise")
    axes.axhline(shuffled, linestyle="--", color="grey", linewidth=0.9, label="time steps shuffled")
    axes.set(xlabel=f"probability of {kind} per latent spike", ylabel="reconstruction loss", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def operation_bars(additions: Mapping[str, float], multiplications: Mapping[str, float]) -> Figure:
    """Draw additions and multiply-accumulates of each layer for one image, on a logarithmic axis."""
    import matplotlib.pyplot as plt

    place = np.arange(len(additions))
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 0.22 * len(place) + 0.8), layout="constrained")
    for offset, label, counts in ((-0.2, "additions", additions), (0.2, "multiplications", multiplications)):
        axes.barh(place + offset, [max(value, 0.5) for value in counts.values()], 0.38, label=label)
    axes.set_yticks(place, list(additions))
    axes.invert_yaxis()
    axes.set(xlabel="operations per image (logarithmic)", xscale="log")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def interpolation_rows(paths: Sequence[Tensor]) -> Figure:
    """Draw each path between two encoded images as a row; paths: images (n, C, H, W) in [-1, 1]."""
    return image_grid(torch.cat([path.cpu() for path in paths]), len(paths[0]))
