"""Collections of small graphs as flat tensors, and mini-batches cut out of them by slicing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from datasets.batching import generator


def csr(rowptr: Tensor, col: Tensor, num_cols: int) -> Tensor:
    """Return a sparse matrix of ones in compressed rows, with 32-bit indices, as MKL needs them.

    Args:
        rowptr: (rows + 1,) first entry of each row.
        col: (entries,) column of each entry.
        num_cols: number of columns.

    Returns:
        (rows, num_cols) sparse CSR float32.
    """
    ones = torch.ones(col.numel(), device=col.device)
    size = (rowptr.numel() - 1, num_cols)
    return torch.sparse_csr_tensor(rowptr.int(), col.int(), ones, size=size, check_invariants=False)


@dataclass
class GraphBatch:
    """Batch of B graphs with N nodes and E directed edges in all, as one block-diagonal graph.

    Attributes:
        x: node features, or categories.
        adj: adjacency matrix, symmetric, with an entry of 1 for each edge.
        pool: matrix whose row g sums over the nodes of graph g.
        batch: graph of each node.
        sizes: number of nodes of each graph.
        degree: row sums of `adj`.
        y: class of each graph.
        total: number of graphs in the global batch, of which this process may hold only a part.
        bonds: number of times that each edge category occurs among a node's edges, or None.

    Shapes:
        x: (N, F) float32 or int64.
        adj: (N, N) sparse CSR float32.
        pool: (B, N) sparse CSR float32.
        batch: (N,) int64.
        sizes: (B,) int64.
        degree: (N,) float32.
        y: (B,) int64.
        bonds: (N, K) float32.
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
        """Number of graphs, B."""
        return self.sizes.numel()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> GraphBatch:
        """Return the batch on a device."""
        if self.x.device == torch.device(device):
            return self
        moved: dict[str, Any] = {
            f.name: v.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


@dataclass
class GraphStore:
    """Collection of G graphs with N nodes and E directed edges. The adjacency must be symmetric (see `check`).

    Attributes:
        x: node features; with `num_categories`, numbers that a batch turns into one-hot rows.
        ptr: first node of each graph.
        rowptr: first edge of each node.
        col: neighbours as global node numbers, sorted, in compressed rows.
        y: class of each graph.
        num_categories: number of categories of x, or None if x is a matrix.
        bonds: number of times that each edge category occurs among a node's edges, or None.
        encoding: how x was made of the files, for other files of the same kind; None: not known.
        classes: the files' label of each class, or None.

    Shapes:
        x: (N, F) of any type, or (N,) integers.
        ptr: (G + 1,) int64.
        rowptr: (N + 1,) int64.
        col: (E,) int64.
        y: (G,) int64.
        bonds: (N, K) integers.
    """

    x: Tensor
    ptr: Tensor
    rowptr: Tensor
    col: Tensor
    y: Tensor
    num_categories: int | None = None
    bonds: Tensor | None = None
    encoding: Any = None
    classes: Tensor | None = None

    @classmethod
    def from_edges(cls, x: Tensor, edge_index: Tensor, sizes: Tensor, y: Tensor, **rest: Any) -> GraphStore:
        """Make a store from a list of edges; parallel edges are merged.

        Args:
            x: node features, as in the class.
            edge_index: (2, E) int64 directed edges of global node numbers, in any order.
            sizes: (G,) int64 number of nodes of each graph.
            y: (G,) int64 class of each graph.
            rest: other attributes of the class.
        """
        num_nodes = int(sizes.sum())
        key = torch.unique(edge_index[0] * num_nodes + edge_index[1])
        row, col = key // num_nodes, key % num_nodes
        return cls(x, offsets(sizes), offsets(torch.bincount(row, minlength=num_nodes)), col, y, **rest)

    def __len__(self) -> int:
        return self.y.numel()

    @property
    def sizes(self) -> Tensor:
        """Number of nodes of each graph, (G,) int64."""
        return self.ptr.diff()

    @property
    def num_features(self) -> int:
        """Number of node features of a batch, F."""
        return self.num_categories or self.x.shape[1]

    def check(self) -> None:
        """Raise ValueError if an edge has no reverse or leaves its graph."""
        num_nodes = self.rowptr.numel() - 1
        row = torch.repeat_interleave(torch.arange(num_nodes), self.rowptr.diff())
        graph = torch.repeat_interleave(torch.arange(len(self)), self.sizes)
        if not torch.equal(graph[row], graph[self.col]):
            raise ValueError("an edge joins nodes of two different graphs")
        if not torch.equal(torch.sort(self.col * num_nodes + row).values, row * num_nodes + self.col):
            raise ValueError("the graphs must be undirected: some edge is listed in one direction only")

    def select(self, index: Tensor, total: int | None = None) -> GraphBatch:
        """Return some graphs as one batch.

        Args:
            index: (B,) int64 numbers of the graphs; the batch has their order.
            total: number of graphs in the global batch; None: B.
        """
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
    """Return the cumulative sums with a leading zero: (n,) -> (n + 1,)."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def ranges(first: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the concatenation of all `arange(first[i], first[i] + counts[i])`, and the start of each of them in it."""
    start = counts.cumsum(0) - counts
    return torch.repeat_interleave(first - start, counts) + torch.arange(int(counts.sum())), start


class GraphLoader:
    """Loader of GraphBatches; of several processes each gets its share of every global batch.

    Shuffling depends on (seed, epoch) alone, so that a resumed run sees the order of an uninterrupted one. Without
    shuffling the batches are built once and kept.

    Args:
        store: collection of graphs.
        index: (M,) int64 numbers of the graphs to go through.
        batch_size: graphs in a global batch.
        shuffle: shuffle the graphs in every epoch.
        iterations: number of random batches that make an epoch; None: one pass through the graphs.
        seed: seed of the shuffling.
        rank: number of this process.
        world_size: number of processes.
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
        self.sampler, self.batch_sampler = self, None  # Lightning calls set_epoch of a loader's sampler
        self._kept: list[GraphBatch] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch, which the shuffling depends on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.iterations or -(-self.index.numel() // self.batch_size)

    def __iter__(self) -> Iterator[GraphBatch]:
        if self.shuffle:  # the epoch is read at the first batch: Lightning sets it after it has created the iterator
            yield from self._batches(self._shuffled(generator(self.seed, self.epoch)))
            return
        if self._kept is None:
            self._kept = list(self._batches(self.index.split(self.batch_size)))
        yield from self._kept

    def fewest_nodes(self) -> int:
        """Return the smallest number of nodes that a batch of this process can have: that of the smallest graphs."""
        last = self.index.numel() % self.batch_size
        full = min(self.batch_size, self.index.numel())
        graphs = full if self.iterations or not last else last
        share = len(range(self.rank, graphs, self.world_size))
        return int(self.store.sizes[self.index].sort().values[:share].sum())

    def _shuffled(self, drawn: torch.Generator) -> Iterator[Tensor]:
        if not self.iterations:
            yield from self.index[torch.randperm(self.index.numel(), generator=drawn)].split(self.batch_size)
        for _ in range(self.iterations or 0):
            yield self.index[torch.randperm(self.index.numel(), generator=drawn)[: self.batch_size]]

    def _batches(self, parts: Iterable[Tensor]) -> Iterator[GraphBatch]:
        for part in parts:
            yield self.store.select(part[self.rank :: self.world_size], total=part.numel())
