"""Loader of click logs: every row once, in every mode, for every number of processes."""

from __future__ import annotations

import pytest
import torch

from datasets.ctr.loader import CTRLoader, Shard, join_shards
from datasets.ctr.synthetic_logs import SyntheticLogs


def shards(*rows: int) -> list[Shard]:
    result, start = [], 0
    for count in rows:
        ids = torch.arange(start, start + count, dtype=torch.int32)
        result.append(Shard(torch.stack([ids, ids + 1000], dim=1), (ids % 2).to(torch.uint8)))
        start += count
    return result


@pytest.mark.parametrize("rows", [(103,), (50, 3, 50), (7, 96), (1,) * 20])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_row_comes_once_in_batches_of_the_same_size(rows, world_size, shuffle):
    loaders = [
        CTRLoader(shards(*rows), 10, shuffle=shuffle, seed=3, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    batches = [list(loader) for loader in loaders]
    assert {len(b) for b in batches} == {len(loaders[0])}
    ids = torch.cat([torch.cat([batch.ids for batch in step]) for step in zip(*batches, strict=True)])
    assert sorted(ids[:, 0].tolist()) == list(range(sum(rows)))
    assert torch.equal(ids[:, 1], ids[:, 0] + 1000)
    labels = torch.cat([torch.cat([batch.labels for batch in step]) for step in zip(*batches, strict=True)])
    assert torch.equal(labels, (ids[:, 0] % 2).float())
    if not shuffle and world_size == 1:
        assert torch.equal(ids[:, 0], torch.arange(sum(rows)))
    sizes = [sum(len(batch.labels) for batch in step) for step in zip(*batches, strict=True)]
    assert set(sizes[:-1]) <= {10}


def test_order_follows_seed_and_epoch():
    loader = CTRLoader(shards(40, 40), 16, shuffle=True, seed=1)
    first = [batch.ids for batch in loader]
    assert all(torch.equal(a, b.ids) for a, b in zip(first, loader, strict=True))
    loader.set_epoch(1)
    assert not all(torch.equal(a, b.ids) for a, b in zip(first, loader, strict=True))


def test_joined_shards_are_the_same_rows():
    joined = join_shards(shards(5, 6))
    assert joined.ids[:, 0].tolist() == list(range(11))


def test_too_many_processes_are_refused():
    with pytest.raises(ValueError, match="too few"):
        CTRLoader(shards(10), 2, world_size=3)


def test_embedded_log_is_the_same_for_every_seed_of_a_run():
    logs = [SyntheticLogs(rows=500, seed=seed) for seed in (0, 1)]
    for log in logs:
        log.setup()
    assert torch.equal(logs[0].shards["train"][0].ids, logs[1].shards["train"][0].ids)
    assert logs[0].vocabulary == logs[1].vocabulary
    assert [len(logs[0].shards[part][0].labels) for part in ("train", "val", "test")] == [400, 50, 50]
    assert sum(pair.values is None for pair in logs[0].planted) == 4
    assert sum(pair.values is not None for pair in logs[0].planted) == 3
