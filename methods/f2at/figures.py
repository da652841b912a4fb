"""Figures of attacked images with their bit-plane patterns, and of robust accuracy against eps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from methods.f2at.bitplanes import BitPlanes
from methods.plots import COLUMN_WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_patterns(x: Tensor, attacked: Tensor, planes: BitPlanes) -> Figure:
    """Draw a row each of images, attacked images, their natural and their perturbed patterns.

    Shapes: x (N, C, H, W) in [0, 1], attacked (N, C, H, W).
    """
    import matplotlib.pyplot as plt

    natural, perturbed = planes(attacked)
    low = "low plane" if planes.k == 1 else f"{planes.k} low planes"
    rows = {"image": x, "attacked": attacked, "natural pattern": natural, f"perturbed pattern\n({low})": perturbed}
    figure, axes = plt.subplots(len(rows), len(x), figsize=(0.55 * len(x) + 0.9, 0.55 * len(rows)), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, images, strict=True):
            pixels = image.permute(1, 2, 0).numpy()
            ax.imshow(pixels, cmap="gray" if pixels.shape[2] == 1 else None, vmin=0, vmax=1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def plot_eps_curve(accuracies: Mapping[float, float], eps: float) -> Figure:
    """Draw accuracy under PGD-20 against the radius of the attack.

    Args:
        accuracies: accuracy by eps of the attack.
        eps: eps of the threat model, which is marked.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.2), layout="constrained")
    axes.plot([255 * e for e in accuracies], list(accuracies.values()), "o-", markersize=3)
    axes.axvline(255 * eps, color="grey", linestyle=":", linewidth=0.8)
    axes.set(xlabel="eps of the attack (x 255)", ylabel="accuracy under PGD-20", ylim=(0, 1))
    axes.grid(alpha=0.3)
    return figure
