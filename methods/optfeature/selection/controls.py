"""Controls: pairs chosen by chance or by mutual information with the label, without a search.

A gain of a searched selection can be credited to its choice only beside these at an equal share of kept pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datasets.checks import check_count
from methods.optfeature.selection.base import Gates, Selection


class _FixedPairs(Selection):
    """Pairs that are chosen before training.

    Args:
        field_sizes: number of ids of each field.
        kept_ratio: share of the pairs that are kept; at least one pair is.
        path: file of a frozen selection.
    """

    searched = False
    mask: Tensor

    def __init__(self, field_sizes: Sequence[int], kept_ratio: float = 0.5, path: str | None = None) -> None:
        super().__init__(field_sizes, path)
        if not 0 < kept_ratio <= 1:
            raise ValueError(f"method.selection.kept_ratio must lie in (0, 1], got {kept_ratio}")
        self.kept = max(1, round(kept_ratio * self.pairs))
        self.register_buffer("mask", torch.ones(self.pairs))

    def keep(self, scores: Tensor) -> None:
        """Keep the pairs of highest score.

        Args:
            scores: score of each pair, (P,).
        """
        self.mask.zero_()
        self.mask[scores.topk(self.kept).indices.to(self.mask.device)] = 1.0

    def gates(self, ids: Tensor) -> Gates:
        """Return the gate of each pair, (1, P)."""
        return Gates(pair=self.mask.unsqueeze(0))

    def field_level(self) -> Tensor:
        """Return the gate of each pair, (P,)."""
        return self.mask


class RandomPairs(_FixedPairs):
    """Pairs chosen at random; the choice follows the seed of the run. Arguments as for the shared base."""

    def prepare(self, data: Any) -> None:
        """Draw the pairs.

        Args:
            data: DataModule; unused.
        """
        self.keep(torch.rand(self.pairs))


class MutualInformation(_FixedPairs):
    """Pairs of highest mutual information with the label in the training part.

    Args:
        field_sizes: number of ids of each field.
        kept_ratio: share of the pairs that are kept.
        rows: number of rows that are counted, the first of each shard; more makes no difference worth the time.
        path: file of a frozen selection.
    """

    def __init__(
        self, field_sizes: Sequence[int], kept_ratio: float = 0.5, rows: int = 2_000_000, path: str | None = None
    ) -> None:
        super().__init__(field_sizes, kept_ratio, path)
        check_count("method.selection", rows=rows)
        self.rows = rows

    def prepare(self, data: Any) -> None:
        """Count the training rows and keep the best pairs.

        Args:
            data: DataModule after its set-up.
        """
        shards = data.shards["train"]
        share = min(1.0, self.rows / sum(len(shard.labels) for shard in shards))
        ids = torch.cat([shard.ids[: round(share * len(shard.labels))].cpu() for shard in shards]).long()
        labels = torch.cat([shard.labels[: round(share * len(shard.labels))].cpu() for shard in shards])
        self.keep(pair_information(ids, labels, self.values))


def pair_information(ids: Tensor, labels: Tensor, values: int) -> Tensor:
    """Estimate I((x_i, x_j); y) in nats for all pairs of fields, corrected for its bias (Miller and Madow).

    Without the correction, pairs of fields with many values always win: each cell with few rows seems informative.

    Args:
        ids: global ids, (N, n) int64.
        labels: 0 or 1, (N,).
        values: number of ids of all fields.

    Returns:
        Information of each pair, (P,) float64.
    """
    fields = ids.shape[1]
    result = []
    for first in range(fields):
        for second in range(first + 1, fields):
            _, cell = torch.unique(ids[:, first] * values + ids[:, second], return_inverse=True)
            result.append(_information(cell, labels.long()))
    return torch.stack(result)


def _information(cell: Tensor, labels: Tensor) -> Tensor:
    joint = torch.bincount(2 * cell + labels, minlength=2 * (int(cell.max()) + 1)).view(-1, 2).double()
    rows = joint.sum()
    entropy = _entropy(joint.sum(1), rows) + _entropy(joint.sum(0), rows) - _entropy(joint.flatten(), rows)
    occupied = [int((counts > 0).sum()) for counts in (joint.sum(1), joint.sum(0), joint)]
    return entropy + (occupied[0] + occupied[1] - occupied[2] - 1) / (2 * rows)


def _entropy(counts: Tensor, rows: Tensor) -> Tensor:
    share = counts / rows
    return -torch.xlogy(share, share).sum()
