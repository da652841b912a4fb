"""Information content of input channels (E-Sparse, section 3: the fine-grained term of the metric)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Range = Literal["channel", "layer", "quantile"]
RANGES = ("channel", "layer", "quantile")
CLIPPED = 0.001  # share of the tokens beyond each end of the quantile range
CHANNELS_AT_ONCE = 64


def entropy_of_counts(counts: Tensor) -> Tensor:
    """Natural entropy of each row's shares: (C, K) counts -> (C,) float32, in nats."""
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    return -torch.special.xlogy(shares, shares).sum(1).float()


def add_counts(counts: Tensor, x: Tensor, low: Tensor, high: Tensor) -> None:
    """Adds a histogram of each column of x (T, C) to counts (C, K): K equal bins from low to high, both (C,).

    Values beyond the range count in its first or last bin, those of a constant channel (low = high) in the first.
    """
    channels, bins = counts.shape
    width = torch.where(high > low, high - low, torch.inf)
    if x.device.type == "cpu":
        from methods.esparse import compiled  # at its first use

        compiled.add_counts(counts, x, low, width)
        return
    for start in range(0, channels, CHANNELS_AT_ONCE):
        part = slice(start, min(start + CHANNELS_AT_ONCE, channels))
        columns = x[:, part].T.float() - low[part, None]
        index = columns.div_(width[part, None]).mul_(bins).clamp_(0, bins - 1).int()
        index += torch.arange(0, index.shape[0] * bins, bins, dtype=torch.int32, device=x.device)[:, None]
        found = torch.bincount(index.flatten(), minlength=index.shape[0] * bins)
        counts[part] += found.view(-1, bins)


def bounds(x: Tensor, kind: Range = "channel") -> tuple[Tensor, Tensor]:
    """Ends of the bins' range for each column of x (T, C): its smallest and largest value; those of all columns
    (`layer`); or its 0.1 % and 99.9 % quantiles (`quantile`). Two (C,) float32 tensors."""
    if kind == "quantile":
        count = x.shape[0]
        beyond = int(CLIPPED * count)
        parts = [x[:, i : i + CHANNELS_AT_ONCE].T.float() for i in range(0, x.shape[1], CHANNELS_AT_ONCE)]
        low = torch.cat([part.kthvalue(beyond + 1, dim=1).values for part in parts])
        high = torch.cat([part.kthvalue(count - beyond, dim=1).values for part in parts])
        return low, high
    low, high = x.amin(0).float(), x.amax(0).float()
    if kind == "layer":
        return low.min().expand_as(low).contiguous(), high.max().expand_as(high).contiguous()
    return low, high


def channel_entropy(x: Tensor, bins: int = 100, kind: Range = "channel") -> Tensor:
    """Entropy of each column of x (T, C), from a histogram of `bins` equal bins: (C,) float32, 0 to ln(bins) nats."""
    counts = torch.zeros(x.shape[1], bins, dtype=torch.long, device=x.device)
    add_counts(counts, x, *bounds(x, kind))
    return entropy_of_counts(counts)


def largest_entropy(bins: int) -> float:
    return math.log(bins)
