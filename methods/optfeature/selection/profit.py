"""PROFIT (Gao et al., NeurIPS 2021) for pairs: gates from symmetric factors, searched on validation batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from datasets.checks import check_count, check_not_negative, check_positive
from methods.optfeature.selection.base import Gates, Selection


class PROFIT(Selection):
    """The weight of a pair is sum_r (b1_ir b2_jr + b1_jr b2_ir); the k pairs of largest weight are kept with it.

    First-order DARTS: a step of the factors on a validation batch, then one of the predictor on a training batch. The
    published code learns the factors of one order after the other, up to third order, and includes the pairs i = j;
    this is its second order, with both factors learnt together.

    Args:
        field_sizes: number of ids of each field.
        k: number of kept pairs; pairs of equal weight are kept together.
        rank: rank of the factors.
        lr: learning rate of the factors.
        weight_decay: coupled L2 of the factors.
        path: file of a frozen selection.

    Raises:
        ValueError: k exceeds the number of pairs; or another number is out of its range.
    """

    alternating = True
    early_stop = False

    def __init__(
        self,
        field_sizes: Sequence[int],
        k: int = 8,
        rank: int = 1,
        lr: float = 3e-4,
        weight_decay: float = 1e-3,
        path: str | None = None,
    ) -> None:
        super().__init__(field_sizes, path)
        check_count("method.selection", k=k, rank=rank)
        check_positive("method.selection", lr=lr)
        check_not_negative("method.selection", weight_decay=weight_decay)
        if k > self.pairs:
            raise ValueError(f"method.selection.k={k} is more than the {self.pairs} pairs of fields that there are")
        self.k, self.lr, self.weight_decay = k, lr, weight_decay
        self.first = nn.Parameter(0.5 + 1e-3 * torch.randn(self.fields, rank))
        self.second = nn.Parameter(0.5 + 1e-3 * torch.randn(self.fields, rank))

    def weights(self) -> Tensor:
        """Return the weight of each pair, (P,)."""
        products = self.first @ self.second.T
        return (products + products.T).flatten()[self.flat_pairs]

    def gates(self, ids: Tensor) -> Gates:
        """Return the weights of the pairs, after `freeze` those of kept pairs only, (1, P)."""
        return Gates(pair=(self.field_level() if self.is_frozen else self.weights()).unsqueeze(0))

    def optimizers(self) -> list[Optimizer]:
        """Return Adam on the factors, with the betas of DARTS."""
        parameters = [self.first, self.second]
        return [Adam(parameters, lr=self.lr, betas=(0.5, 0.999), weight_decay=self.weight_decay)]

    def field_level(self) -> Tensor:
        """Return the weight of each of the k best pairs, 0 for the others, (P,)."""
        weights = self.weights().detach()
        return torch.where(weights >= weights.topk(self.k).values[-1], weights, 0.0)
