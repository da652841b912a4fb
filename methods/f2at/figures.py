"""Pictures of images, their attacked versions and bit-plane patterns; robust accuracy against eps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from methods.f2at.bitplanes import BitPlanes


def patterns(x: Tensor, attacked: Tensor, planes: BitPlanes) -> Any:
    """A row each: images, attacked images, their natural and perturbed patterns. x: (n, C, H, W) in [0, 1]."""
    import matplotlib.pyplot as plt

    natural, perturbed = planes(attacked)
    low = "low plane" if planes.k == 1 else f"{planes.k} low planes"
    rows = {"image": x, "attacked": attacked, "natural pattern": natural, f"perturbed pattern\n({low})": perturbed}
    figure, axes = plt.subplots(len(rows), len(x), figsize=(0.55 * len(x) + 0.9, 0.55 * len(rows)), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, images, strict=True):
            shown = image.permute(1, 2, 0).numpy()
            ax.imshow(shown, cmap="gray" if shown.shape[2] == 1 else None, vmin=0, vmax=1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def eps_curve(accuracies: dict[float, float], eps: float) -> Any:
    """accuracies: eps -> accuracy under 20 steps of PGD. eps: of the training, marked."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(3.4, 2.2))
    axes.plot([255 * e for e in accuracies], list(accuracies.values()), "o-", markersize=3)
    axes.axvline(255 * eps, color="grey", linestyle=":", linewidth=0.8)
    axes.set(xlabel="eps of the attack (x 255)", ylabel="accuracy under PGD-20", ylim=(0, 1))
    axes.grid(alpha=0.3)
    return figure
