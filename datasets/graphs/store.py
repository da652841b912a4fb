"""Many small graphs as a few flat tensors, and mini-batches cut out of them by slicing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from datasets.batching import generator


def csr(rowptr: Tensor, col: Tensor, num_cols: int) -> Tensor:
    """0/1 sparse matrix (len(rowptr) - 1, num_cols), float32, from compressed rows, with the indices that MKL takes."""
    ones = torch.ones(col.numel(), device=col.device)
    size = (rowptr.numel() - 1, num_cols)
    return torch.sparse_csr_tensor(rowptr.int(), col.int(), ones, size=size, check_invariants=False)


@dataclass
class GraphBatch:
    """B graphs with N nodes and E directed edges in all, as one block-diagonal graph.

    x: (N, F) float32 features, or int64 categories; adj: (N, N) sparse CSR float32, symmetric, entry 1 per edge;
    pool: (B, N) sparse CSR float32, row g sums over the nodes of graph g; batch: (N,) int64, graph of each node;
    sizes: (B,) int64, nodes of each graph; degree: (N,) float32, row sums of adj; y: (B,) int64 class;
    bonds: (N, K) float32, how often each edge category occurs among a node's edges, or None;
    total: graphs in the global batch, of which this process may hold only a part.
    """

    x: Tensor
    adj: Tensor
    pool: Tensor
    batch: Tensor
    sizes: Tensor
    degree: Tensor
    y: Tensor
    total: int
    bonds: Tensor | None = None

    @property
    def num_graphs(self) -> int:
        return self.sizes.numel()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> GraphBatch:
        if self.x.device == torch.device(device):
            return self
        moved = {
            f.name: v.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


@dataclass
class GraphStore:
    """A whole collection: G graphs, N nodes, E directed edges, kept as ready tensors.

    x: (N, F) features of any dtype; with `num_categories`, (N,) integers that a batch turns into one-hot rows;
    ptr: (G + 1,) first node of each graph; rowptr: (N + 1,), col: (E,) neighbours (global node numbers, sorted) in
    compressed rows; y: (G,) int64; bonds: (N, K) integers or None. The adjacency is symmetric: `check` raises
    otherwise.
    """

    x: Tensor
    ptr: Tensor
    rowptr: Tensor
    col: Tensor
    y: Tensor
    num_categories: int | None = None
    bonds: Tensor | None = None

    @classmethod
    def from_edges(cls, x: Tensor, edge_index: Tensor, sizes: Tensor, y: Tensor, **rest) -> GraphStore:
        """From (2, E) directed edges of global node numbers in any order; parallel edges are merged."""
        num_nodes = int(sizes.sum())
        key = torch.unique(edge_index[0] * num_nodes + edge_index[1])
        row, col = key // num_nodes, key % num_nodes
        return cls(x, offsets(sizes), offsets(torch.bincount(row, minlength=num_nodes)), col, y, **rest)

    def __len__(self) -> int:
        return self.y.numel()

    @property
    def sizes(self) -> Tensor:
        """(G,) nodes of each graph."""
        return self.ptr.diff()

    @property
    def num_features(self) -> int:
        return self.num_categories or self.x.shape[1]

    def check(self) -> None:
        """Raises ValueError where an edge has no reverse or leaves its graph."""
        num_nodes = self.rowptr.numel() - 1
        row = torch.repeat_interleave(torch.arange(num_nodes), self.rowptr.diff())
        graph = torch.repeat_interleave(torch.arange(len(self)), self.sizes)
        if not torch.equal(graph[row], graph[self.col]):
            raise ValueError("an edge joins nodes of two different graphs")
        if not torch.equal(torch.sort(self.col * num_nodes + row).values, row * num_nodes + self.col):
            raise ValueError("the graphs must be undirected: some edge is listed in one direction only")

    def select(self, index: Tensor, total: int | None = None) -> GraphBatch:
        """The graphs `index` (B,) as one batch, in that order."""
        sizes = self.sizes[index]
        nodes, start = ranges(self.ptr[index], sizes)
        degrees = self.rowptr[nodes + 1] - self.rowptr[nodes]
        edges, _ = ranges(self.rowptr[nodes], degrees)
        batch = torch.repeat_interleave(sizes)
        shift = start - self.ptr[index]
        num_nodes = nodes.numel()
        col = self.col[edges] + torch.repeat_interleave(shift[batch], degrees)
        x = self.x[nodes]
        if self.num_categories:
            x = torch.zeros(num_nodes, self.num_categories).scatter_(1, x.long().view(-1, 1), 1.0)
        return GraphBatch(
            x=x,
            adj=csr(offsets(degrees), col, num_nodes),
            pool=csr(offsets(sizes), torch.arange(num_nodes), num_nodes),
            batch=batch,
            sizes=sizes,
            degree=degrees.float(),
            y=self.y[index],
            bonds=None if self.bonds is None else self.bonds[nodes].float(),
            total=index.numel() if total is None else total,
        )


def offsets(counts: Tensor) -> Tensor:
    """Cumulative sums with a leading zero: (n,) -> (n + 1,)."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def ranges(first: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenation of `arange(first[i], first[i] + counts[i])`, and where each of them starts in it."""
    start = counts.cumsum(0) - counts
    return torch.repeat_interleave(first - start, counts) + torch.arange(int(counts.sum())), start


class GraphLoader:
    """Iterates over batches of `batch_size` graphs of a store; of several processes each gets its share of every batch.

    Shuffling follows (seed, epoch) alone, so that a resumed run sees the order of an uninterrupted one. With
    `iterations` an epoch is that many random batches instead of one pass. Without shuffling the batches are built once
    and kept.
    """

    def __init__(
        self,
        store: GraphStore,
        index: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        iterations: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.store, self.index, self.batch_size = store, index, batch_size
        self.shuffle, self.iterations, self.seed = shuffle, iterations, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.sampler, self.batch_sampler = self, None  # where Lightning looks for set_epoch
        self._kept: list[GraphBatch] | None = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.iterations or -(-self.index.numel() // self.batch_size)

    def __iter__(self) -> Iterator[GraphBatch]:
        if self.shuffle:  # the epoch is looked up at the first batch: Lightning sets it after it has made the iterator
            yield from self._batches(self._shuffled(generator(self.seed, self.epoch)))
            return
        if self._kept is None:
            self._kept = list(self._batches(self.index.split(self.batch_size)))
        yield from self._kept

    def _shuffled(self, drawn: torch.Generator) -> Iterator[Tensor]:
        if not self.iterations:
            yield from self.index[torch.randperm(self.index.numel(), generator=drawn)].split(self.batch_size)
        for _ in range(self.iterations or 0):
            yield self.index[torch.randperm(self.index.numel(), generator=drawn)[: self.batch_size]]

    def _batches(self, parts: Iterable[Tensor]) -> Iterator[GraphBatch]:
        for part in parts:
            yield self.store.select(part[self.rank :: self.world_size], total=part.numel())
