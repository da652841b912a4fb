"""Helpers that loaders of all kinds of data share: sizes of global batches, and seeded random generators."""

from __future__ import annotations

from typing import Any

import torch


def generator(*key: int) -> torch.Generator:
    """Return a random generator whose numbers depend on the key alone.

    Args:
        *key: whole numbers, such as the seed and the epoch.
    """
    return torch.Generator().manual_seed(hash(key) % 2**63)


def batch_sizes(count: int, batch_size: int, world_size: int, drop_last: bool = False) -> list[int]:
    """Return the size of each global batch of an epoch.

    Args:
        count: number of items.
        batch_size: items in a full global batch.
        world_size: number of processes that share each batch. A last batch with fewer items than processes is joined
            to the one before it.
        drop_last: leave out a last batch that is not full.
    """
    full, rest = divmod(count, batch_size)
    sizes = [batch_size] * full
    if not rest or drop_last:
        return sizes
    if rest < world_size:
        return [*sizes[:-1], batch_size + rest]
    return [*sizes, rest]


def ranks(trainer: Any) -> dict[str, int]:
    """Return `rank` and `world_size` of this process as keyword arguments of a loader.

    Args:
        trainer: Lightning trainer of the data module, or None; without one the result is empty.
    """
    return {"rank": trainer.global_rank, "world_size": trainer.world_size} if trainer else {}
