"""OptFS (Lyu et al., WWW 2023): a gate for each feature value, by continuation of a sigmoid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from datasets.checks import check_not_negative, check_positive
from methods.optfeature.network import CTRNetwork
from methods.optfeature.selection.base import Gates, Selection

START = 0.5  # initial logit of a gate, of which all gates are multiples


class OptFS(Selection):
    """Each value's embedding is multiplied with sigmoid(T w) / sigmoid(w_0); T grows while a penalty closes gates.

    Afterwards a gate is 1[w > 0] / sigmoid(w_0), the scale of the published code. The predictor is retrained from the
    weights that it had when epoch `rewind_epoch` of the search began.

    Args:
        field_sizes: number of ids of each field.
        lr: learning rate of the gates; Adam without weight decay.
        penalty_weight: weight of the sum of sigmoid(T w) over all values.
        temperature: T in the last epoch of the search; it grows from 1 by a constant factor.
        rewind_epoch: epoch of the search, from 0, whose first weights the retraining begins with.
        path: file of a frozen selection.
    """

    early_stop = False

    def __init__(
        self,
        field_sizes: Sequence[int],
        lr: float = 1e-3,
        penalty_weight: float = 5e-9,
        temperature: float = 2000.0,
        rewind_epoch: int = 1,
        path: str | None = None,
    ) -> None:
        super().__init__(field_sizes, path)
        check_positive("method.selection", lr=lr, temperature=temperature)
        check_not_negative("method.selection", penalty_weight=penalty_weight)
        self.lr, self.penalty_weight, self.last_temperature = lr, penalty_weight, temperature
        self.rewind_epoch = rewind_epoch
        self.weight = nn.Embedding(self.values, 1)
        nn.init.constant_(self.weight.weight, START)
        self.temperature = 1.0

    def check_network(self, network: CTRNetwork) -> None:
        """Raise ValueError if the predictor has no embeddings to gate.

        Args:
            network: predictor.
        """
        if network.embedding is None:
            raise ValueError(f"OptFS gates embeddings, and {type(network).__name__} has none: choose another model")

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Set the temperature of the epoch."""
        self.temperature = self.last_temperature ** (epoch / max(epochs - 1, 1))

    def gates(self, ids: Tensor) -> Gates:
        """Return the gate of each value, (B, n)."""
        weight = self.weight(ids).squeeze(-1)
        gate = (weight > 0).float() if self.is_frozen else torch.sigmoid(self.temperature * weight)
        return Gates(value=gate / torch.sigmoid(torch.tensor(START)).item())

    def penalty(self) -> Tensor:
        """Return the penalty over the whole table."""
        return self.penalty_weight * torch.sigmoid(self.temperature * self.weight.weight).sum()

    def optimizers(self) -> list[Optimizer]:
        """Return Adam on the gates."""
        return [Adam(self.weight.parameters(), lr=self.lr)]
