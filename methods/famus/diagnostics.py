"""What training made of its samples and layers: weights of right and wrong labels, open gates, the meta gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc


class Diagnostics:
    """Collects what a training step knows; metrics at the end of an epoch, figures at the end of the run.

    Samples are those of the training part, by their places in it. A weight of 1 is that of all alike.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []  # the metrics of each epoch
        self.opened: dict[str, float] = {}  # steps in which a layer was open
        self.gate_steps = 0
        self.noisy = self.losses = self.weights = torch.empty(0)

    def begin(self, noisy: Tensor) -> None:
        """Before an epoch. noisy: (N,) bool, whose labels are wrong."""
        self.noisy = noisy
        self.losses = torch.full(noisy.shape, torch.nan, device=noisy.device)
        self.weights = self.losses.clone()

    def see(self, index: Tensor, losses: Tensor, weights: Tensor) -> None:
        """index, losses, weights: (n,), of a batch."""
        self.losses[index], self.weights[index] = losses.float(), weights.float()

    def see_gates(self, names: Sequence[str], opened: Mapping[str, Tensor]) -> float:
        """How many are open. names: of all layers that may be; opened: gates by name."""
        if not self.opened:
            self.opened = dict.fromkeys(names, 0.0)
        values = torch.stack([r.detach() for r in opened.values()]).tolist() if opened else []
        for name, value in zip(opened, values, strict=True):
            self.opened[name] += value
        self.gate_steps += 1
        return sum(values)

    def separation(self) -> dict[str, Tensor]:
        """Mean weights, and areas under the ROC curve, of the epoch's samples: as `NoisyTraining` names them."""
        seen = ~self.weights.isnan()
        noisy, weights, losses = self.noisy[seen], self.weights[seen], self.losses[seen]
        found = {}
        for name, which in (("clean", ~noisy), ("noisy", noisy)):
            if which.any():
                found[f"weight_{name}"] = weights[which].mean()
        if len(found) == 2:
            for name, scores in (("loss_auc", losses), ("weight_auc", -weights)):
                ranks = scores.unique(return_inverse=True)[1] / len(scores)  # torchmetrics wants scores in [0, 1]
                found[name] = binary_auroc(ranks, noisy.long())
        return found

    def end(self, metrics: Mapping[str, Any]) -> None:
        """After an epoch. metrics: its own, by name."""
        self.rows.append({name: float(value) for name, value in metrics.items()})

    def state(self) -> dict[str, Any]:
        """What a resumed run needs of the epochs before; plain lists, dictionaries and numbers."""
        return {"rows": self.rows, "opened": self.opened, "gate_steps": self.gate_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.rows, self.opened, self.gate_steps = list(state["rows"]), dict(state["opened"]), state["gate_steps"]

    def figures(self) -> dict[str, Any]:
        """Name -> matplotlib figure, of what there is."""
        made = {
            "weights": self._histogram(),
            "weight_means": self._curves({"train/weight_clean": "right", "train/weight_noisy": "wrong"}, "mean weight"),
            "separation": self._curves(
                {"train/loss_auc": "by loss", "train/weight_auc": "by weight"}, "AUC of wrong against right"
            ),
            "open_gates": self._curves({"train/open_gates": "open"}, "open gates"),
            "open_layers": self._layers(),
            "meta_gradient": self._curves(
                {"train/meta_grad_norm": "length of the mean", "train/meta_grad_std": "deviation (RMS)"},
                "meta gradient",
                scale="log",
            ),
        }
        return {name: figure for name, figure in made.items() if figure is not None}

    def _curves(self, names: Mapping[str, str], ylabel: str, scale: str = "linear") -> Any:
        """Metrics against epochs. names: metric -> its label."""
        points = {name: [(i + 1, row[name]) for i, row in enumerate(self.rows) if name in row] for name in names}
        if not all(points.values()):
            return None
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(3.4, 2.2))
        for name, label in names.items():
            axes.plot(*zip(*points[name], strict=True), label=label)
        axes.set(xlabel="epoch", ylabel=ylabel, yscale=scale)
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend()
        return figure

    def _histogram(self) -> Any:
        """Weights of the last epoch's samples, those with right and those with wrong labels."""
        seen = ~self.weights.isnan()
        weights, noisy = self.weights[seen].cpu(), self.noisy[seen].cpu()
        if not noisy.any() or weights.min() == weights.max():
            return None
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(3.4, 2.2))
        bins = torch.linspace(0, float(weights.quantile(0.99)) or 1.0, 41).tolist()
        for label, which in (("right", ~noisy), ("wrong", noisy)):
            axes.hist(weights[which].clamp_max(bins[-1]).tolist(), bins=bins, density=True, alpha=0.6, label=label)
        axes.set(xlabel="weight (1: all alike)", ylabel="density of samples")
        axes.legend(title="label")
        return figure

    def _layers(self) -> Any:
        """In how many of the steps each layer was open."""
        if not self.gate_steps:
            return None
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(3.4, 2.4))
        axes.bar(range(1, len(self.opened) + 1), [count / self.gate_steps for count in self.opened.values()])
        axes.set(xlabel="layer, from the input on", ylabel="share of steps open", ylim=(0, 1))
        axes.grid(alpha=0.3, axis="y")
        return figure
