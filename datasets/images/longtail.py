"""Long-tailed training parts: exponentially fewer images from the first class to the last (Cui et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def tail_counts(largest: int, imbalance: float, num_classes: int) -> list[int]:
    """K numbers of images: int(largest f^(c / (K - 1))) of class c, f = 1 / imbalance.

    The first class has `largest`, the last about `imbalance` times fewer. Raises ValueError for imbalance < 1.
    """
    if not imbalance >= 1:
        raise ValueError(f"dataset.imbalance must be at least 1 (times fewer images), got {imbalance}")
    return [int(largest * (1 / imbalance) ** (c / max(num_classes - 1, 1))) for c in range(num_classes)]


def first_of_each(labels: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """(N,) int64 classes -> (sum of counts,) int64 places of the first counts[c] of a shuffle of each class c.

    With the same seed, smaller counts give a part of what larger ones give. In ascending order. Raises ValueError where
    a class has too few.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label, count in enumerate(counts):
        members = (labels == label).nonzero()[:, 0]
        if count > len(members):
            raise ValueError(f"{count} images of class {label} are asked for, there are {len(members)}")
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values
