"""Figures of the paper's quantities."""

from __future__ import annotations

from typing import Any

from torch import nn

from methods.graphnorm.norms import GraphNorm
from methods.plots import COLUMN_WIDTH


def draw_learned_alpha(network: nn.Module) -> dict[str, Any]:
    """Draw the distribution of the learned alpha over the channels, one box for each GraphNorm.

    Args:
        network: network whose GraphNorm layers are drawn, in its order.

    Returns:
        The figure by name; nothing if no alpha was learned.
    """
    alphas = [m.mean_scale.detach().cpu().numpy() for m in network.modules() if isinstance(m, GraphNorm)]
    if not alphas or all((alpha == 1).all() for alpha in alphas):
        return {}
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.4), layout="constrained")
    axes.boxplot(alphas, flierprops={"markersize": 2})
    axes.axhline(1, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="GraphNorm layer", ylabel=r"learned $\alpha$")
    axes.grid(alpha=0.3, axis="y")
    return {"alpha": figure}
