"""Truncated singular value decomposition of linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from datasets.checks import check_count, check_fraction
from methods.compression.lowrank.decomposition import Decomposition, checked_rank, share_of
from methods.compression.lowrank.ranks import energy_rank, evbmf_rank
from methods.compression.stage import Context


def svd_linear(layer: nn.Linear, rank: int) -> nn.Sequential:
    """Return two linear layers whose product is the closest matrix of a rank, with the bias in the second.

    Args:
        layer: linear layer (m outputs, n inputs).
        rank: rank, r; the two have r (m + n) weights.
    """
    u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
    root = s[:rank].sqrt()
    first = nn.Linear(layer.in_features, rank, bias=False)
    second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    first.weight.data.copy_(root[:, None] * v[:rank])
    second.weight.data.copy_(u[:, :rank] * root)
    if layer.bias is not None:
        second.bias.data.copy_(layer.bias)
    return nn.Sequential(first, second)


class SVDLinear(Decomposition):
    """Replace linear layers by two of low rank.

    Args:
        rank: rank, or a share of the full rank; None: by `energy`.
        energy: share of the sum of squared singular values that is kept; None: by EVBMF.
        min_rank: smallest rank.
        **options: arguments of `Decomposition`.
    """

    kinds = (nn.Linear,)

    def __init__(
        self,
        rank: float | None = None,
        energy: float | None = 0.9,
        min_rank: int = 1,
        ignore: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(ignore=ignore, **options)
        check_fraction("stage", energy=energy)
        check_count("stage", min_rank=min_rank)
        self.rank, self.energy, self.min_rank = rank, energy, min_rank

    def check_layer(self, layer: nn.Linear) -> None:
        """Check the rank."""
        if self.rank is not None:
            full = min(layer.weight.shape)
            checked_rank(share_of(self.rank, full), full, "rank")

    def factors(self, layer: nn.Linear, context: Context) -> tuple[nn.Module, tuple[int, int]]:
        """Return the two layers."""
        full = min(layer.weight.shape)
        if self.rank is not None:
            rank = share_of(self.rank, full)
        elif self.energy is not None:
            rank = energy_rank(torch.linalg.svdvals(layer.weight), self.energy)
        else:
            rank = evbmf_rank(layer.weight)[0]
        rank = min(max(rank, self.min_rank), full)
        return svd_linear(layer, rank), (rank, full)
