"""OptFeature: gates of pairs of fields (f), of pairs of values (v), and a learnt choice between both (hybrid).

The gates of values are not stored. They follow from a symmetric factorisation sum_r g_r u_r u_r^T whose rows
u = W a + b are computed for the ids of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from datasets.checks import check_choice, check_not_negative, check_positive
from methods.optfeature.pairs import pair_products
from methods.optfeature.selection.base import Gates, Selection


class _StraightThroughStep(torch.autograd.Function):
    """1 where the score is positive, else 0; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        return (scores > 0).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def straight_through_step(scores: Tensor) -> Tensor:
    """Return 1 where a score is positive, else 0, with the gradient of the identity.

    Args:
        scores: scores of any shape.
    """
    if torch.is_grad_enabled():
        return _StraightThroughStep.apply(scores)
    return (scores > 0).to(scores.dtype)


class SymmetricFactors(nn.Module):
    """Map from selection embeddings to pair scores, shared by both granularities.

    Args:
        dim: length d_s of a selection embedding.
        rank: rank R of the factorisation.
        bias_init: `default` is PyTorch's, with which all gates are open at the start; `zeros` starts with scores near
            zero, half of them positive.
    """

    def __init__(self, dim: int, rank: int, bias_init: Literal["default", "zeros"] = "default") -> None:
        super().__init__()
        check_choice("method.selection.bias_init", bias_init, ("default", "zeros"))
        self.linear = nn.Linear(dim, rank)
        if bias_init == "zeros":
            nn.init.zeros_(self.linear.bias)
        self.core = nn.Parameter(torch.ones(rank))

    def forward(self, rows: Tensor, flat_pairs: Tensor) -> Tensor:
        """Return the score of each pair, (B, P) float32, whatever the precision of the rest.

        Args:
            rows: selection embeddings, (B, n, d_s).
            flat_pairs: places of the pairs in an n x n matrix, (P,).
        """
        with torch.autocast(rows.device.type, enabled=False):
            return pair_products(self.linear(rows.float()), flat_pairs, self.core)


class _OptFeature(Selection):
    """Parts that the three granularities share.

    Args:
        field_sizes: number of ids of each field.
        dim: length d_s of a selection embedding.
        rank: rank R of the factorisation.
        lr: learning rate of the selection.
        weight_decay: coupled L2 of Adam on the selection.
        alpha_lr: learning rate of the choice of granularity.
        bias_init: initial bias of the factors, `default` or `zeros`.
        penalty_weight: weight of the mean of sigmoid(score), an extension that closes gates; 0 as published.
        path: file of a frozen selection.
    """

    def __init__(
        self,
        field_sizes: Sequence[int],
        dim: int = 16,
        rank: int = 128,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        alpha_lr: float = 1e-3,
        bias_init: Literal["default", "zeros"] = "default",
        penalty_weight: float = 0.0,
        path: str | None = None,
    ) -> None:
        super().__init__(field_sizes, path)
        check_positive("method.selection", dim=dim, rank=rank, lr=lr, alpha_lr=alpha_lr)
        check_not_negative("method.selection", weight_decay=weight_decay, penalty_weight=penalty_weight)
        self.lr, self.weight_decay, self.alpha_lr, self.penalty_weight = lr, weight_decay, alpha_lr, penalty_weight
        self.factors = SymmetricFactors(dim, rank, bias_init)
        self._closing: Tensor | float = 0.0

    def scores(self, ids: Tensor) -> Tensor:
        """Return the scores whose sign is the gate, (B, P) or (1, P); a subclass does it.

        Args:
            ids: global ids, (B, n).
        """
        raise TypeError(f"{type(self).__name__} does not define its scores")

    def gates(self, ids: Tensor) -> Gates:
        """Return the gates 1[score > 0], with a straight-through gradient during the search."""
        if self.is_frozen:
            with torch.no_grad():
                return Gates(pair=straight_through_step(self.scores(ids)))
        scores = self.scores(ids)
        self._closing = self.penalty_weight * scores.sigmoid().mean() if self.penalty_weight else 0.0
        return Gates(pair=straight_through_step(scores))

    def penalty(self) -> Tensor | float:
        """Return the penalty of the scores of the last batch."""
        return self._closing

    def optimizers(self) -> list[Optimizer]:
        """Return Adam on the selection, with a group of its own for the choice of granularity."""
        alpha = [parameter for name, parameter in self.named_parameters() if name == "alpha"]
        rest = [parameter for name, parameter in self.named_parameters() if name != "alpha"]
        groups: list[dict[str, Any]] = [{"params": rest, "weight_decay": self.weight_decay}]
        if alpha:
            groups.append({"params": alpha, "lr": self.alpha_lr, "weight_decay": 0.0})
        return [Adam(groups, lr=self.lr, fused=True)]

    def _field_scores(self, table: nn.Embedding) -> Tensor:
        return self.factors(table.weight.unsqueeze(0), self.flat_pairs)


def _table(rows: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(rows, dim)
    nn.init.xavier_uniform_(table.weight)
    return table


class FieldSelection(_OptFeature):
    """OptFeature-f: one gate for each pair of fields. Arguments as for the shared base."""

    def __init__(self, field_sizes: Sequence[int], dim: int = 16, **options: Any) -> None:
        super().__init__(field_sizes, dim, **options)
        self.field_table = _table(self.fields, dim)

    def scores(self, ids: Tensor) -> Tensor:
        """Return the scores of the pairs of fields, (1, P)."""
        return self._field_scores(self.field_table)

    def field_level(self) -> Tensor:
        """Return the gate of each pair, (P,)."""
        with torch.no_grad():
            return (self._field_scores(self.field_table)[0] > 0).float()

    def value_level_pairs(self) -> Tensor:
        """Return that no pair is gated value by value, (P,) bool."""
        return torch.zeros(self.pairs, dtype=torch.bool, device=self.frozen.device)


class ValueSelection(_OptFeature):
    """OptFeature-v: one gate for each pair of values. Arguments as for the shared base."""

    def __init__(self, field_sizes: Sequence[int], dim: int = 16, **options: Any) -> None:
        super().__init__(field_sizes, dim, **options)
        self.value_table = _table(self.values, dim)

    def scores(self, ids: Tensor) -> Tensor:
        """Return the scores of the pairs of values, (B, P)."""
        return self.factors(self.value_table(ids), self.flat_pairs)

    def value_level_pairs(self) -> Tensor:
        """Return that all pairs are gated value by value, (P,) bool."""
        return torch.ones(self.pairs, dtype=torch.bool, device=self.frozen.device)


class HybridSelection(ValueSelection):
    """OptFeature: each pair of fields learns which of the two granularities it uses.

    During the search the scores of both are mixed by sigmoid(alpha) before the threshold. Afterwards a pair with
    alpha > 0 is gated value by value, others field by field; a pair whose alpha never moved from 0 becomes field level.
    Arguments as for the shared base.
    """

    def __init__(self, field_sizes: Sequence[int], dim: int = 16, **options: Any) -> None:
        super().__init__(field_sizes, dim, **options)
        self.field_table = _table(self.fields, dim)
        self.alpha = nn.Parameter(torch.zeros(self.pairs))

    def scores(self, ids: Tensor) -> Tensor:
        """Return the mixed scores, (B, P)."""
        by_field = self._field_scores(self.field_table)
        share = (self.alpha > 0).float() if self.is_frozen else self.alpha.sigmoid()
        return share * super().scores(ids) + (1 - share) * by_field

    def value_level_pairs(self) -> Tensor:
        """Return which pairs are gated value by value, (P,) bool."""
        return (self.alpha > 0).detach()

    def always_closed(self) -> Tensor:
        """Return which pairs are closed for all values because they are field level and closed, (P,) bool."""
        with torch.no_grad():
            return (self.alpha <= 0) & (self._field_scores(self.field_table)[0] <= 0)
