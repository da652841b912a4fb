"""Information entropy of input channels: the fine-grained term of E-Sparse's metric (section 3)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

HistogramRange = Literal["channel", "layer", "quantile"]
HISTOGRAM_RANGES = ("channel", "layer", "quantile")
CLIPPED = 0.001  # share of the tokens beyond each end of the quantile range
CHANNELS_PER_CHUNK = 64


def entropy_of_counts(counts: Tensor) -> Tensor:
    """Compute the entropy of each channel's histogram, with the natural logarithm.

    Shapes:
        counts: (C, K) numbers of values in each bin. Result: (C,) float32, in nats.
    """
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    return -torch.special.xlogy(shares, shares).sum(1).float()


def add_counts(counts: Tensor, x: Tensor, low: Tensor, high: Tensor) -> None:
    """Add a histogram of each column of x to the counts, in place.

    Values outside the range count in its first or last bin, those of a constant channel (low = high) in the first.

    Args:
        counts: (C, K) int64, the numbers of values in K equal bins from low to high.
        x: (T, C) values.
        low: (C,) lower end of each channel's range.
        high: (C,) upper end of each channel's range.
    """
    channels, bins = counts.shape
    width = torch.where(high > low, high - low, torch.inf)
    if x.device.type == "cpu":
        from methods.esparse import cpu_kernels  # imports numba

        cpu_kernels.add_counts(counts, x, low, width)
        return
    for start in range(0, channels, CHANNELS_PER_CHUNK):
        part = slice(start, min(start + CHANNELS_PER_CHUNK, channels))
        columns = x[:, part].T.float() - low[part, None]
        index = columns.div_(width[part, None]).mul_(bins).clamp_(0, bins - 1).int()
        index += torch.arange(0, index.shape[0] * bins, bins, dtype=torch.int32, device=x.device)[:, None]
        histogram = torch.bincount(index.flatten(), minlength=index.shape[0] * bins)
        counts[part] += histogram.view(-1, bins)


def histogram_bounds(x: Tensor, kind: HistogramRange = "channel") -> tuple[Tensor, Tensor]:
    """Compute the ends of the histogram's range for each channel.

    Args:
        x: (T, C) values.
        kind: "channel": smallest and largest value of the channel; "layer": those of all channels; "quantile": 0.1 %
            and 99.9 % quantiles of the channel.

    Returns:
        Lower ends (C,) and upper ends (C,), float32.
    """
    if kind == "quantile":
        count = x.shape[0]
        beyond = int(CLIPPED * count)
        parts = [x[:, i : i + CHANNELS_PER_CHUNK].T.float() for i in range(0, x.shape[1], CHANNELS_PER_CHUNK)]
        low = torch.cat([part.kthvalue(beyond + 1, dim=1).values for part in parts])
        high = torch.cat([part.kthvalue(count - beyond, dim=1).values for part in parts])
        return low, high
    low, high = x.amin(0).float(), x.amax(0).float()
    if kind == "layer":
        return low.min().expand_as(low).contiguous(), high.max().expand_as(high).contiguous()
    return low, high
