"""Long-tailed training parts: exponentially fewer images from the first class to the last (Cui et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def long_tail_counts(largest: int, imbalance: float, num_classes: int) -> list[int]:
    """Return the number of images of each class: int(largest f^(c / (K - 1))) for class c, with f = 1 / imbalance.

    Args:
        largest: number of images of the first class.
        imbalance: ratio of the numbers of images of the first and the last class, at least 1.
        num_classes: number of classes, K.

    Raises:
        ValueError: the ratio is below 1.
    """
    if not imbalance >= 1:
        raise ValueError(f"dataset.imbalance must be at least 1 (times fewer images), got {imbalance}")
    return [int(largest * (1 / imbalance) ** (c / max(num_classes - 1, 1))) for c in range(num_classes)]


def subset_per_class(labels: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """Draw counts[c] images of each class c: the first ones of a shuffle of the class.

    With the same seed, smaller counts give a subset of what larger ones give.

    Args:
        labels: (N,) int64 classes.
        counts: number of images of each class.
        seed: seed of the shuffles.

    Returns:
        Places of the images, in ascending order: (sum of counts,) int64.

    Raises:
        ValueError: a class has too few images.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label, count in enumerate(counts):
        members = (labels == label).nonzero()[:, 0]
        if count > len(members):
            raise ValueError(f"{count} images of class {label} are asked for, there are {len(members)}")
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values
