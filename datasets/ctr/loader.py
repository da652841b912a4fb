"""Batches cut from click logs, in memory or from memory-mapped shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datasets.batching import batch_sizes, generator
from datasets.ctr.manifest import PartInfo
from datasets.download import CorruptData


class CTRBatch(NamedTuple):
    """Rows of a click log.

    Shapes:
        ids: (B, n) int32, global ids: each field has a block of its own.
        labels: (B,) float32, 0 or 1.
    """

    ids: Tensor
    labels: Tensor


class Shard(NamedTuple):
    """Rows in memory or on disk: ids (N, n) int32 and labels (N,) uint8."""

    ids: Tensor
    labels: Tensor


def open_shards(folder: Path, part: PartInfo) -> list[Shard]:
    """Map the shards of a part into memory, without reading them.

    Args:
        folder: folder of the prepared data.
        part: shards of the part.

    Raises:
        CorruptData: a file is missing, cut short, or of another size than the manifest says.
    """
    shards = []
    for shard in part.shards:
        try:
            ids = np.load(folder / f"{shard.path}.ids.npy", mmap_mode="c")
            labels = np.load(folder / f"{shard.path}.labels.npy", mmap_mode="c")
        except (OSError, ValueError) as error:
            raise CorruptData(f"{folder / shard.path}: {error}; remove {folder} to prepare the data again") from error
        if len(ids) != shard.rows or len(labels) != shard.rows:
            raise CorruptData(f"{folder / shard.path} has {len(ids)} rows, the manifest says {shard.rows}")
        shards.append(Shard(torch.from_numpy(ids), torch.from_numpy(labels)))
    return shards


def join_shards(shards: Sequence[Shard], device: torch.device | str = "cpu") -> Shard:
    """Copy all shards into one that lies in the memory of a device.

    Args:
        shards: shards of a part, in order.
        device: where the copy lies.
    """
    rows, fields = sum(len(shard.labels) for shard in shards), shards[0].ids.shape[1]
    ids = torch.empty(rows, fields, dtype=torch.int32, device=device)
    labels = torch.empty(rows, dtype=torch.uint8, device=device)
    start = 0
    for shard in shards:
        stop = start + len(shard.labels)
        ids[start:stop], labels[start:stop] = shard.ids, shard.labels
        start = stop
    return Shard(ids, labels)


class CTRLoader:
    """Iterator over `CTRBatch`; of several processes each gets its share of every batch.

    A batch is one slice of a shard whose rows were put in order once: no row is touched by Python. Shuffling draws the
    order of the shards, and the order of the rows within each shard; with a single shard in memory that is a
    permutation of all rows. The next shard is read while batches are cut from the present one. Rows that do not fill a
    batch go on into the next shard; the last batch may be smaller, and is kept. The order follows (seed, epoch) alone.

    Args:
        shards: rows, in the order of the source.
        batch_size: rows in a global batch.
        shuffle: whether the order changes with each epoch.
        seed: seed of the order.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.shards, self.batch_size, self.shuffle, self.seed = list(shards), batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.rows = sum(len(shard.labels) for shard in shards)
        if min(batch_size, self.rows) < world_size:
            raise ValueError(f"{self.rows} rows in batches of {batch_size} are too few for {world_size} processes")
        self.epoch = 0
        self.sampler, self.batch_sampler = self, None  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the order follows.

        Args:
            epoch: number of the epoch, from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return len(batch_sizes(self.rows, self.batch_size, self.world_size))

    def __iter__(self) -> Iterator[CTRBatch]:
        rest: Shard | None = None
        sizes = iter(batch_sizes(self.rows, self.batch_size, self.world_size))
        size = next(sizes)
        for shard in self._ordered_shards():
            rows = shard if rest is None else _concatenate(rest, shard)
            start = 0
            while size and start + size <= len(rows.labels):
                yield self._share(rows, start, size)
                start, size = start + size, next(sizes, 0)
            rest = Shard(rows.ids[start:], rows.labels[start:]) if start < len(rows.labels) else None

    def _share(self, rows: Shard, start: int, size: int) -> CTRBatch:
        first = start + size * self.rank // self.world_size
        last = start + size * (self.rank + 1) // self.world_size
        return CTRBatch(rows.ids[first:last], rows.labels[first:last].float())

    def _ordered_shards(self) -> Iterator[Shard]:
        """Shards in their order, their rows in theirs."""
        order: Sequence[int] = range(len(self.shards))
        if self.shuffle:
            order = torch.randperm(len(self.shards), generator=generator(self.seed, self.epoch)).tolist()
        if len(self.shards) == 1:
            yield from self._pieces(self.shards[0])
            return
        with ThreadPoolExecutor(1) as pool:
            ahead = None
            for number in order:
                current, ahead = ahead, pool.submit(self._read, number)
                if current is not None:
                    yield current.result()
            if ahead is not None:
                yield ahead.result()

    def _read(self, number: int) -> Shard:
        """Read a shard from disk, in the order of this epoch."""
        ids, labels = self.shards[number]
        if not self.shuffle:
            return Shard(ids, labels)
        order = torch.randperm(len(labels), generator=generator(self.seed, self.epoch, number))
        return Shard(torch.from_numpy(np.ascontiguousarray(ids.numpy())).index_select(0, order), labels[order])

    def _pieces(self, shard: Shard) -> Iterator[Shard]:
        """Cut a shard that lies in memory into pieces of batch size, so that no second copy of it is needed."""
        if not self.shuffle:
            yield shard
            return
        order = torch.randperm(len(shard.labels), generator=generator(self.seed, self.epoch)).to(shard.ids.device)
        for rows in order.split(batch_sizes(self.rows, self.batch_size, self.world_size)):
            yield Shard(shard.ids.index_select(0, rows), shard.labels.index_select(0, rows))


def _concatenate(first: Shard, second: Shard) -> Shard:
    return Shard(torch.cat([first.ids, second.ids]), torch.cat([first.labels, second.labels]))
