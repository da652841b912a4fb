"""What loaders of all kinds of data share: how global batches are cut, and what their random numbers follow."""

from __future__ import annotations

from typing import Any

import torch


def generator(*key: int) -> torch.Generator:
    """One that follows the numbers of the key alone."""
    return torch.Generator().manual_seed(hash(key) % 2**63)


def batch_sizes(count: int, batch_size: int, world_size: int, drop_last: bool = False) -> list[int]:
    """Of each global batch of `count` items; a last one of fewer than there are processes joins the one before it."""
    full, rest = divmod(count, batch_size)
    sizes = [batch_size] * full
    if not rest or drop_last:
        return sizes
    if rest < world_size:
        return [*sizes[:-1], batch_size + rest]
    return [*sizes, rest]


def ranks(trainer: Any) -> dict[str, int]:
    """`rank` and `world_size` of this process, as loaders take them; nothing where there is no trainer."""
    return {"rank": trainer.global_rank, "world_size": trainer.world_size} if trainer else {}
