"""Diagnostics of sample weighting: weights of clean and noisy labels, open gates, the meta gradient; with figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from methods.plots import COLUMN_WIDTH, plot_epoch_curves


class Diagnostics:
    """Collects the losses and weights of an epoch's samples and the gates; returns metrics and figures.

    Samples are addressed by their index in the training part. A weight of 1 is that of uniform weighting.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []  # metrics of each epoch
        self.open_counts: dict[str, float] = {}  # number of steps in which a layer was open
        self.gate_steps = 0
        self.noisy = self.losses = self.weights = torch.empty(0)

    def start_epoch(self, noisy: Tensor) -> None:
        """Forget the samples of the last epoch.

        Args:
            noisy: mask (N,) of the training samples whose labels are wrong.
        """
        self.noisy = noisy
        self.losses = torch.full(noisy.shape, torch.nan, device=noisy.device)
        self.weights = self.losses.clone()

    def observe(self, index: Tensor, losses: Tensor, weights: Tensor) -> None:
        """Store losses and weights of a batch.

        Shapes: index (n,), losses (n,), weights (n,).
        """
        self.losses[index], self.weights[index] = losses.float(), weights.float()

    def observe_gates(self, names: Sequence[str], gates: Mapping[str, Tensor]) -> float:
        """Count the open layers of a step.

        Args:
            names: names of all layers that may be open.
            gates: gate values by layer; layers that are missing are closed.

        Returns:
            Number of open layers.
        """
        if not self.open_counts:
            self.open_counts = dict.fromkeys(names, 0.0)
        values = torch.stack([r.detach() for r in gates.values()]).tolist() if gates else []
        for name, value in zip(gates, values, strict=True):
            self.open_counts[name] += value
        self.gate_steps += 1
        return sum(values)

    def separation_metrics(self) -> dict[str, Tensor]:
        """Return the mean weights and the areas under the ROC curve of the epoch, named as in `NoisyTraining`."""
        seen = ~self.weights.isnan()
        noisy, weights, losses = self.noisy[seen], self.weights[seen], self.losses[seen]
        metrics = {}
        for name, mask in (("clean", ~noisy), ("noisy", noisy)):
            if mask.any():
                metrics[f"weight_{name}"] = weights[mask].mean()
        if len(metrics) == 2:
            for name, scores in (("loss_auc", losses), ("weight_auc", -weights)):
                ranks = scores.unique(return_inverse=True)[1] / len(scores)  # torchmetrics wants scores in [0, 1]
                metrics[name] = binary_auroc(ranks, noisy.long())
        return metrics

    def end_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Store the metrics of the epoch by name."""
        self.rows.append({name: float(value) for name, value in metrics.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain lists, dictionaries and numbers."""
        return {"rows": self.rows, "open_counts": self.open_counts, "gate_steps": self.gate_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of `state_dict`."""
        self.rows, self.open_counts = list(state["rows"]), dict(state["open_counts"])
        self.gate_steps = state["gate_steps"]

    def figures(self) -> dict[str, Any]:
        """Return the figures that the collected values allow, by name."""
        clean_and_noisy = {"train/weight_clean": "clean labels", "train/weight_noisy": "noisy labels"}
        auc = {"train/loss_auc": "by loss", "train/weight_auc": "by weight"}
        gradient = {"train/meta_grad_norm": "norm of the mean", "train/meta_grad_std": "standard deviation (RMS)"}
        figures = {
            "weights": self._weight_histogram(),
            "weight_means": plot_epoch_curves(self.rows, clean_and_noisy, "mean weight"),
            "separation": plot_epoch_curves(self.rows, auc, "AUC, noisy against clean"),
            "open_gates": plot_epoch_curves(self.rows, {"train/open_gates": "open"}, "open gates"),
            "open_layers": self._open_layers(),
            "meta_gradient": plot_epoch_curves(self.rows, gradient, "meta gradient", yscale="log"),
        }
        return {name: figure for name, figure in figures.items() if figure is not None}

    def _weight_histogram(self) -> Any:
        """Draw the weights of the last epoch's samples with clean and with noisy labels."""
        seen = ~self.weights.isnan()
        weights, noisy = self.weights[seen].cpu(), self.noisy[seen].cpu()
        if not noisy.any() or weights.min() == weights.max():
            return None
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.2), layout="constrained")
        bins = torch.linspace(0, float(weights.quantile(0.99)) or 1.0, 41).tolist()
        for label, mask in (("clean", ~noisy), ("noisy", noisy)):
            axes.hist(weights[mask].clamp_max(bins[-1]).tolist(), bins=bins, density=True, alpha=0.6, label=label)
        axes.set(xlabel="weight (uniform weighting: 1)", ylabel="density of samples")
        axes.legend(title="label")
        return figure

    def _open_layers(self) -> Any:
        """Draw the fraction of steps in which each layer was open."""
        if not self.gate_steps:
            return None
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.4), layout="constrained")
        heights = [count / self.gate_steps for count in self.open_counts.values()]
        axes.bar(range(1, len(heights) + 1), heights)
        axes.set(xlabel="layer, counted from the input", ylabel="fraction of steps open", ylim=(0, 1))
        axes.grid(alpha=0.3, axis="y")
        return figure
