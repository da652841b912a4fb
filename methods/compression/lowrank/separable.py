"""Separable convolutions by SVD with batch normalisation between (Tai et al. 2016, arXiv 1511.06067)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from methods.compression.lowrank.decomposition import Decomposition, checked_rank, share_of
from methods.compression.lowrank.ranks import energy_rank
from methods.compression.stage import Context


def separable_conv(layer: nn.Conv2d, rank: int, norm: bool = False) -> nn.Sequential:
    """Return a vertical convolution I -> K and a horizontal one K -> O, closest to the layer.

    M[(i, y), (o, x)] = W[o, i, y, x] is a matrix; its truncated SVD gives the two. They have K k (I + O) weights.

    Args:
        layer: convolution without groups.
        rank: rank, K.
        norm: put batch normalisation between the two. Its statistics must be measured then.
    """
    o, i, kh, kw = layer.weight.shape
    u, s, v = torch.linalg.svd(layer.weight.permute(1, 2, 0, 3).reshape(i * kh, o * kw), full_matrices=False)
    root = s[:rank].sqrt()
    (sh, sw), (ph, pw), (dh, dw) = layer.stride, layer.padding, layer.dilation  # type: ignore[misc]
    first = nn.Conv2d(i, rank, (kh, 1), (sh, 1), (ph, 0), (dh, 1), bias=False)  # type: ignore[has-type]
    last = nn.Conv2d(rank, o, (1, kw), (1, sw), (0, pw), (1, dw), bias=layer.bias is not None)  # type: ignore[has-type]
    first.weight.data.copy_((u[:, :rank] * root).T.reshape(rank, i, kh, 1))
    last.weight.data.copy_((root[:, None] * v[:rank]).reshape(rank, o, kw).permute(1, 0, 2)[:, :, None, :])
    if layer.bias is not None:
        last.bias.data.copy_(layer.bias)
    return nn.Sequential(first, nn.BatchNorm2d(rank), last) if norm else nn.Sequential(first, last)


class SeparableSVD(Decomposition):
    """Replace convolutions by separable ones.

    Args:
        rank: rank, or a share of the full rank; None: by `energy`.
        energy: share of the sum of squared singular values that is kept.
        norm: put batch normalisation between the two convolutions (the paper's form for training from scratch).
        **options: arguments of `Decomposition`.
    """

    def __init__(self, rank: float | None = None, energy: float = 0.9, norm: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.rank, self.energy, self.norm = rank, energy, norm

    def check_layer(self, layer: nn.Conv2d) -> None:
        """Check the rank."""
        if self.rank is not None:
            full = self.full_rank(layer)
            checked_rank(share_of(self.rank, full), full, "rank")

    @staticmethod
    def full_rank(layer: nn.Conv2d) -> int:
        """Return the rank at which the two convolutions are exact."""
        o, i, kh, kw = layer.weight.shape
        return min(i * kh, o * kw)

    def factors(self, layer: nn.Conv2d, context: Context) -> tuple[nn.Module, tuple[int, int]]:
        """Return the two layers."""
        full = self.full_rank(layer)
        if self.rank is not None:
            rank = share_of(self.rank, full)
        else:
            o, i, kh, kw = layer.weight.shape
            matrix = layer.weight.permute(1, 2, 0, 3).reshape(i * kh, o * kw)
            rank = energy_rank(torch.linalg.svdvals(matrix), self.energy)
        return separable_conv(layer, rank, self.norm), (rank, full)
