"""Logits, labels and gates of a whole part of the data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from methods.optfeature import metrics
from methods.optfeature.selection.base import Gates


class Evaluation:
    """Collects what the metrics of a part need, over batches and processes."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.open: Tensor | None = None
        self.rows = 0

    def add(self, logits: Tensor, labels: Tensor, gates: Gates | None) -> None:
        """Add a batch.

        Args:
            logits: logits, (B,).
            labels: 0 or 1, (B,).
            gates: gates of the batch; None: the predictor has none.
        """
        self.logits.append(logits.detach().float())
        self.labels.append(labels.detach())
        self.rows += len(labels)
        gate = None if gates is None else open_gates(gates)
        if gate is not None:
            total = gate.double().sum(0) * (len(labels) / len(gate))
            self.open = total if self.open is None else self.open + total

    def gathered(self, module: Any) -> tuple[Tensor, Tensor]:
        """Return logits and labels of all processes, (N,) each.

        Args:
            module: LightningModule that evaluates.
        """
        both = torch.stack([torch.cat(self.logits), torch.cat(self.labels)])
        if module.trainer.world_size == 1:
            return both[0], both[1]
        sizes = module.all_gather(torch.tensor(both.shape[1], device=both.device)).flatten().tolist()
        padded = torch.nn.functional.pad(both, (0, max(sizes) - both.shape[1]))
        parts = [part[:, :size] for part, size in zip(module.all_gather(padded), sizes, strict=True)]
        both = torch.cat(parts, dim=1)
        return both[0], both[1]

    def kept(self, module: Any) -> Tensor | None:
        """Return the share of rows for which each gate is open, (P,) or (n,), or None without gates.

        Args:
            module: LightningModule that evaluates.
        """
        if self.open is None:
            return None
        total = module.trainer.strategy.reduce(self.open, reduce_op="sum")
        rows = module.trainer.strategy.reduce(torch.tensor(self.rows, device=self.open.device), reduce_op="sum")
        return total / rows


def open_gates(gates: Gates) -> Tensor | None:
    """Return which gates are not zero, (B or 1, P or n) bool, or None without gates.

    Args:
        gates: gates of a batch; a pair with several treatments counts as open unless it is dropped for certain.
    """
    if gates.pair is not None:
        return (gates.pair[..., :2] != 0).any(-1) if gates.pair.dim() == 3 else gates.pair != 0
    return None if gates.value is None else gates.value > 0.5


def summarise(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the metrics that are reported for the test: auc, logloss, normalized_entropy, ece.

    Args:
        logits: logits, (N,).
        labels: 0 or 1, (N,).
    """
    return {
        "auc": metrics.auc(logits, labels),
        "logloss": metrics.log_loss(logits, labels),
        "normalized_entropy": metrics.normalized_entropy(logits, labels),
        "ece": metrics.expected_calibration_error(logits, labels),
    }
