"""AutoFIS (Liu et al., KDD 2020): a gate for each pair of fields, driven to zero by GRDA."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from datasets.checks import check_positive
from methods.optfeature.grda import GRDA
from methods.optfeature.selection.base import Gates, Selection


class AutoFIS(Selection):
    """Gates are learnt next to the predictor on the same batches; pairs whose gate reaches 0 are dropped.

    The gates of the other pairs begin anew at 0.6 and are trained with the predictor. The pair terms should be
    normalised (`model.pair_norm=true`), else gates of different pairs cannot be compared.

    Args:
        field_sizes: number of ids of each field.
        lr: learning rate of GRDA.
        c: size of GRDA's threshold.
        mu: growth of GRDA's threshold.
        path: file of a frozen selection.
    """

    early_stop = False

    def __init__(
        self,
        field_sizes: Sequence[int],
        lr: float = 1.0,
        c: float = 5e-4,
        mu: float = 0.8,
        path: str | None = None,
    ) -> None:
        super().__init__(field_sizes, path)
        check_positive("method.selection", lr=lr)
        self.lr, self.c, self.mu = lr, c, mu
        self.gate = nn.Parameter(torch.empty(self.pairs).uniform_(0.599, 0.601))
        self.retrained_gate = nn.Parameter(torch.full((self.pairs,), 0.6))

    def gates(self, ids: Tensor) -> Gates:
        """Return the gates, (1, P)."""
        return Gates(pair=(self._kept_gate() if self.is_frozen else self.gate).unsqueeze(0))

    def optimizers(self) -> list[Optimizer]:
        """Return GRDA on the gates."""
        return [GRDA([self.gate], self.lr, self.c, self.mu)]

    def retrained_parameters(self) -> list[nn.Parameter]:
        """Return the gates of the retraining."""
        return [self.retrained_gate]

    def field_level(self) -> Tensor:
        """Return the gate of each pair in the retraining, (P,)."""
        return self._kept_gate().detach()

    def _kept_gate(self) -> Tensor:
        return self.retrained_gate * (self.gate != 0)
