"""Figures of the paper's quantities."""

from __future__ import annotations

from typing import Any

from torch import nn

from methods.graphnorm.norms import GraphNorm


def learned_alpha(network: nn.Module) -> dict[str, Any]:
    """Distribution over channels of the learned alpha, one box a GraphNorm, in the network's order; {} without."""
    alphas = [m.mean_scale.detach().cpu().numpy() for m in network.modules() if isinstance(m, GraphNorm)]
    if not alphas or all((alpha == 1).all() for alpha in alphas):
        return {}
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(3.4, 2.4))
    axes.boxplot(alphas, flierprops={"markersize": 2})
    axes.axhline(1, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="GraphNorm layer", ylabel=r"learned $\alpha$")
    axes.grid(alpha=0.3, axis="y")
    return {"alpha": figure}
