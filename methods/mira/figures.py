"""Figures of triggers, recovered samples, and the course of attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from methods.mira.attack_data import AttackData
from methods.mira.splitting import last_activations, salient_units, split
from methods.mira.victim import Victim
from methods.plots import COLUMN_WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#0072B2"
MARKED = "#D55E00"


def plot_image_rows(rows: Mapping[str, Tensor], titles: Mapping[str, Sequence[int]] | None = None) -> Figure:
    """Draw a row of images for each name.

    Args:
        rows: images (n, C, H, W) by name; pixels outside [0, 1] are clipped for the drawing.
        titles: labels above the images of a row, by its name.
    """
    import matplotlib.pyplot as plt

    columns = max(len(images) for images in rows.values())
    size = (0.42 * columns + 0.9, 0.5 * len(rows))
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False, layout="constrained")
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.set(xticks=[], yticks=[], frame_on=False)
        for place, (ax, image) in enumerate(zip(line, images.cpu(), strict=False)):
            pixels = image.clamp(0, 1).permute(1, 2, 0).numpy()
            ax.imshow(pixels, cmap="gray" if pixels.shape[2] == 1 else None, vmin=0, vmax=1, interpolation="nearest")
            if titles and name in titles:
                ax.set_title(str(titles[name][place]))
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def plot_attack_epochs(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw clean and trigger accuracy over the epochs of an attack; epoch 0 is the marked model.

    Args:
        rows: `acc` and, if known, `trigger_acc` after each epoch.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.2), layout="constrained")
    for name, label, colour in (("acc", "test images", INK), ("trigger_acc", "triggers", MARKED)):
        if name in rows[0]:
            axes.plot(range(len(rows)), [row[name] for row in rows], label=label, color=colour)
    axes.set(xlabel="epoch of the attack", ylabel="accuracy", ylim=(-0.03, 1.03))
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def plot_smooth_accuracy(smooth_acc: Tensor, target: int | None) -> Figure:
    """Draw SmoothAcc of each class.

    Args:
        smooth_acc: SmoothAcc (K,).
        target: true target class of the watermark, which is marked; None: there is none.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.0), layout="constrained")
    colours = [MARKED if label == target else INK for label in range(len(smooth_acc))]
    axes.bar(range(len(smooth_acc)), smooth_acc.tolist(), color=colours)
    title = "no target class" if target is None else f"target class {target} in orange"
    axes.set(xlabel=f"class ({title})", ylabel="SmoothAcc")
    if len(smooth_acc) <= 20:
        axes.set_xticks(range(len(smooth_acc)))
    axes.grid(alpha=0.3, axis="y")
    return figure


def recovery_figures(
    network: nn.Module,
    recovered: Tensor,
    victim: Victim,
    data: AttackData,
    quantile: float = 0.95,
    fraction: float = 0.5,
    columns: int = 8,
) -> dict[str, Figure]:
    """Return the figures of recovered samples beside triggers, and of their activations.

    They show the target class; of a watermark without one, the class of most triggers.

    Args:
        network: marked model, on the CPU.
        recovered: recovered samples (K, n, C, H, W).
        victim: marked model's triggers and target.
        data: attacker's data on the CPU; its images of the class are the normal ones.
        quantile: quantile of the salient units.
        fraction: share of the samples that are proxies of triggers.
        columns: images in a row.
    """
    assert victim.triggers is not None
    triggers = victim.triggers
    shown = int(triggers.y.mode().values) if victim.target is None else victim.target
    own = triggers.x[triggers.counted & (triggers.y == shown)]
    h = last_activations(network, recovered[shown])
    proxies, normals = split(h, quantile, fraction)
    rows = {
        f"triggers\n(label {shown})": own[:columns],
        "recovered,\nproxy of triggers": recovered[shown][proxies[:columns]],
        "recovered,\nproxy of normal": recovered[shown][normals.flip(0)[:columns]],
    }
    histogram = {"recovered": recovered[shown], "triggers": own}
    if data.x is not None and data.y is not None:
        images = data.x.cpu()[data.y.cpu() == shown]
        if len(images):
            rows[f"images of\nclass {shown}"] = images[:columns]
            histogram["images"] = images
    salient = salient_units(h, quantile)
    contributions = {name: last_activations(network, x)[:, salient].mean(1) for name, x in histogram.items()}
    return {"recovered": plot_image_rows(rows), "activations": plot_activations(contributions, shown)}


def plot_activations(contributions: Mapping[str, Tensor], label: int) -> Figure:
    """Draw histograms of the mean activation of a class's salient units.

    Args:
        contributions: mean activation of each sample (n,), by the kind of sample.
        label: class of the salient units.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.2), layout="constrained")
    top = max(float(values.max()) for values in contributions.values())
    edges = torch.linspace(0, max(top, 1e-6), 31).tolist()
    for (name, values), colour in zip(contributions.items(), (INK, MARKED, "#009E73"), strict=False):
        weights = [1 / len(values)] * len(values)
        axes.hist(values.tolist(), edges, weights=weights, histtype="step", color=colour, label=name)
    axes.set(xlabel=f"mean activation of the salient units of class {label}", ylabel="share of samples")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
