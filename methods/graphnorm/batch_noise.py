"""Noise of BatchNorm's batch statistics on graphs (paper, section 3.2 and figure 3)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from methods.graphnorm.module import GraphClassifier
from methods.plots import COLUMN_WIDTH

LAYERS = ("first", "last")


class BatchNoise(GraphClassifier):
    """GraphClassifier that records the statistics of the inputs of the network's first and last BatchNorm.

    Metrics beside those of GraphClassifier, once an epoch and averaged over the channels (likewise for `last`):
        train/bn_first_mean, train/bn_first_std: over all nodes of the epoch's batches, that is of the data set.
        train/bn_first_mean_max, train/bn_first_mean_min: largest and smallest mean of a batch.
        train/bn_first_std_max, train/bn_first_std_min: largest and smallest standard deviation of a batch.

    They are the statistics that training normalised with, so they contain the change of the weights within the epoch.
    Under several processes a batch is a process's share of it, as it is for BatchNorm.

    Args:
        network: network with a BatchNorm layer.
        kwargs: arguments of `GraphClassifier`.

    Raises:
        ValueError: the network has no BatchNorm.
    """

    def __init__(self, network: nn.Module, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
        if not norms:
            raise ValueError("this method records BatchNorm, which the network does not have: set model.norm=batch")
        self.batches: dict[str, list[tuple[Tensor, Tensor, int]]] = {layer: [] for layer in LAYERS}
        self.history: dict[str, list[float]] = {}
        for layer, norm in zip(LAYERS, (norms[0], norms[-1]), strict=True):
            norm.register_forward_pre_hook(partial(self._record, layer))

    def _record(self, layer: str, norm: nn.Module, args: tuple[Tensor]) -> None:
        if norm.training:
            h = args[0].detach()  # (N, d)
            self.batches[layer].append((h.mean(0), h.var(0, correction=0), len(h)))

    def on_train_epoch_end(self) -> None:
        """Log the statistics of the epoch."""
        super().on_train_epoch_end()
        for layer, batches in self.batches.items():
            means, variances, nodes = zip(*batches, strict=True)
            batches.clear()
            channels = means[0].numel()
            statistics = batch_statistics(
                self._gather(torch.stack(means)).reshape(-1, channels),
                self._gather(torch.stack(variances)).reshape(-1, channels),
                self._gather(means[0].new_tensor(nodes)).reshape(-1),
            )
            for name, value in statistics.items():
                self.log(f"train/bn_{layer}_{name}", value, sync_dist=True)
                self.history.setdefault(f"{layer}_{name}", []).append(float(value))

    def _gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all processes."""
        gathered = self.all_gather(tensor)
        assert isinstance(gathered, Tensor)
        return gathered

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the statistics of all epochs."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["batch_noise"] = {name: list(values) for name, values in self.history.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the statistics of all epochs, unless the checkpoint is loaded for a test."""
        super().on_load_checkpoint(checkpoint)
        if self.trainer.training:
            self.history = {name: list(values) for name, values in checkpoint["batch_noise"].items()}

    def figures(self) -> dict[str, Any]:
        """Return the figures of GraphClassifier and one of the statistics against the epoch."""
        return super().figures() | {"batch_noise": draw_batch_noise(self.history)}


def batch_statistics(means: Tensor, variances: Tensor, nodes: Tensor) -> dict[str, Tensor]:
    """Compute statistics of all batches together and their extremes, averaged over the channels.

    Args:
        means: mean of each batch.
        variances: biased variance of each batch.
        nodes: number of nodes of each batch.

    Returns:
        Scalars by name: `mean` and `std` of the nodes of all batches together, by the law of total variance; and
        `mean_max`, `mean_min`, `std_max`, `std_min` over the batches.

    Shapes:
        means, variances: (T, d).
        nodes: (T,).
    """
    weights = (nodes / nodes.sum()).unsqueeze(1)
    mean = (weights * means).sum(0)
    variance = (weights * (variances + (means - mean) ** 2)).sum(0)
    summary = {"mean": mean.mean(), "std": variance.sqrt().mean()}
    for name, per_batch in (("mean", means.mean(1)), ("std", variances.sqrt().mean(1))):
        summary |= {f"{name}_max": per_batch.max(), f"{name}_min": per_batch.min()}
    return summary


def draw_batch_noise(history: dict[str, list[float]]) -> Any:
    """Draw mean (upper row) and standard deviation (lower row) of the first and the last BatchNorm (columns).

    Args:
        history: values of the epochs by `<layer>_<statistic>`.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(COLUMN_WIDTH, 2.9), sharex=True, layout="constrained")
    for column, layer in zip(axes.T, LAYERS, strict=True):
        column[0].set_title(f"{layer} BatchNorm")
        column[-1].set_xlabel("epoch")
        for ax, statistic in zip(column, ("mean", "std"), strict=True):
            low, high = history[f"{layer}_{statistic}_min"], history[f"{layer}_{statistic}_max"]
            epochs = range(1, len(low) + 1)
            ax.fill_between(epochs, low, high, color="#56B4E9", alpha=0.3, linewidth=0)
            ax.plot(epochs, high, color="#0072B2", linewidth=0.8, label="batch, max")
            ax.plot(epochs, low, color="#009E73", linewidth=0.8, label="batch, min")
            ax.plot(epochs, history[f"{layer}_{statistic}"], color="#D55E00", linewidth=1, label="data set")
            ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("mean")
    axes[1, 0].set_ylabel("standard deviation")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
