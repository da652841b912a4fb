"""GraphStore and GraphLoader, against torch-geometric's batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

from datasets.graphs.store import GraphLoader, GraphStore

ROOT = Path(__file__).parents[3]


@st.composite
def collections(draw) -> tuple[GraphStore, list[Data]]:
    """One to six graphs of one to seven nodes with any undirected edges; edges are given twice, in any order."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    data, edges, first = [], [], 0
    for i, n in enumerate(sizes):
        pairs = [(a, b) for a in range(n) for b in range(a)]
        chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
        edge_index = torch.tensor(chosen + [(b, a) for a, b in chosen], dtype=torch.long).view(-1, 2).T
        data.append(Data(x=torch.arange(3.0 * n).view(n, 3) + 100 * i, edge_index=edge_index, y=torch.tensor([i])))
        edges.append(edge_index + first)
        first += n
    edge_index = torch.cat(edges, dim=1).repeat(1, 2)
    order = torch.tensor(draw(st.permutations(range(edge_index.shape[1]))), dtype=torch.long)
    x, y = torch.cat([d.x for d in data]), torch.cat([d.y for d in data])
    return GraphStore.from_edges(x, edge_index[:, order], torch.tensor(sizes), y), data


def dense(edge_index: torch.Tensor, num_nodes: int) -> torch.Tensor:
    adjacency = torch.zeros(num_nodes, num_nodes)
    adjacency[edge_index[0], edge_index[1]] = 1
    return adjacency


@settings(max_examples=60)
@given(collections(), st.data())
def test_select_is_the_batch_of_torch_geometric(collection, data_strategy):
    store, data = collection
    store.check()
    index = data_strategy.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=8))
    expected = Batch.from_data_list([data[i] for i in index])
    batch = store.select(torch.tensor(index))
    num_nodes = expected.num_nodes
    assert torch.equal(batch.x, expected.x)
    assert torch.equal(batch.y, expected.y)
    assert torch.equal(batch.batch, expected.batch)
    assert torch.equal(batch.sizes, expected.ptr.diff())
    assert batch.num_graphs == batch.total == len(index)
    adjacency = dense(expected.edge_index, num_nodes)
    assert torch.equal(batch.adj.to_dense(), adjacency)
    assert torch.equal(batch.degree, adjacency.sum(1))
    assert torch.equal(batch.pool.to_dense(), torch.nn.functional.one_hot(expected.batch, len(index)).float().T)


def test_empty_selection(random_graphs):
    store, _ = random_graphs()
    batch = store.select(torch.empty(0, dtype=torch.long), total=7)
    assert batch.num_graphs == 0
    assert batch.total == 7
    assert batch.x.shape == (0, 6)
    assert batch.adj.shape == (0, 0)
    assert batch.pool.shape == (0, 0)


def test_categories_become_one_hot_rows(random_graphs):
    store, _ = random_graphs(sizes=(4, 2))
    store.x, store.num_categories = torch.tensor([2, 0, 1, 2, 4, 0]), 5
    batch = store.select(torch.tensor([1, 0]))
    assert torch.equal(batch.x, torch.nn.functional.one_hot(torch.tensor([4, 0, 2, 0, 1, 2]), 5).float())
    assert store.num_features == 5


def test_bonds_go_with_their_nodes(random_graphs):
    store, _ = random_graphs(sizes=(4, 2))
    store.bonds = torch.arange(12).view(6, 2)
    assert torch.equal(store.select(torch.tensor([1])).bonds, torch.tensor([[8.0, 9.0], [10.0, 11.0]]))


def test_check_refuses_an_edge_without_its_reverse():
    edge_index = torch.tensor([[0, 1, 1], [1, 0, 2]])
    store = GraphStore.from_edges(torch.ones(3, 1), edge_index, torch.tensor([3]), torch.tensor([0]))
    with pytest.raises(ValueError, match="one direction"):
        store.check()


def test_check_refuses_an_edge_between_graphs():
    edge_index = torch.tensor([[0, 2], [2, 0]])
    store = GraphStore.from_edges(torch.ones(3, 1), edge_index, torch.tensor([2, 1]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="two different graphs"):
        store.check()


def test_batch_stays_where_it_is(random_graphs):
    batch = random_graphs()[0].select(torch.tensor([0, 2]))
    assert batch.to("cpu") is batch


@pytest.fixture(scope="module")
def numbered(random_graphs) -> GraphStore:
    """Twenty-three graphs; y is the graph's number."""
    store, _ = random_graphs(sizes=[1 + i % 4 for i in range(23)])
    store.y = torch.arange(23)
    return store


def order(loader: GraphLoader) -> list[list[int]]:
    return [batch.y.tolist() for batch in loader]


def flat(lists: list[list[int]]) -> list[int]:
    return [number for numbers in lists for number in numbers]


def test_an_epoch_passes_every_graph_once(numbered):
    index = torch.arange(3, 23)
    loader = GraphLoader(numbered, index, 8, shuffle=True, seed=1)
    batches = order(loader)
    assert [len(batch) for batch in batches] == [8, 8, 4]
    assert len(loader) == 3
    assert sorted(flat(batches)) == index.tolist()
    assert flat(batches) != index.tolist()


def test_without_shuffling_the_order_is_kept_and_batches_are_reused(numbered):
    loader = GraphLoader(numbered, torch.tensor([5, 3, 9]), 2)
    assert order(loader) == [[5, 3], [9]]
    assert all(a is b for a, b in zip(loader, loader, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("options", [{}, {"shuffle": True, "seed": 4}, {"shuffle": True, "iterations": 5}])
def test_ranks_share_each_global_batch(numbered, world_size, options):
    def batches(**rank):
        loader = GraphLoader(numbered, torch.arange(23), 7, **options, **rank)
        loader.set_epoch(2)
        return list(loader)

    whole = batches()
    shares = [batches(rank=rank, world_size=world_size) for rank in range(world_size)]
    for i, batch in enumerate(whole):
        parts = [share[i].y.tolist() for share in shares]
        assert sorted(flat(parts)) == sorted(batch.y.tolist())
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert {share[i].total for share in shares} == {batch.num_graphs}


def test_shuffling_follows_seed_and_epoch_alone(numbered):
    def at(seed, epoch, noise):
        torch.manual_seed(noise)
        loader = GraphLoader(numbered, torch.arange(23), 23, shuffle=True, seed=seed)
        list(loader) if noise else None  # an epoch before leaves no trace
        loader.set_epoch(epoch)
        return order(loader)

    assert at(0, 3, noise=0) == at(0, 3, noise=1)
    assert at(0, 3, 0) != at(0, 4, 0)
    assert at(0, 3, 0) != at(1, 3, 0)


@pytest.mark.slow
def test_shuffling_is_the_same_in_another_process():
    code = (
        "import torch; from datasets.graphs.atlas import biconnected_atlas as read; "
        "from datasets.graphs.store import GraphLoader; "
        "print([b.sizes.tolist() for b in GraphLoader(read(), torch.arange(40), 20, shuffle=True, seed=5)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_iterations_are_random_batches_without_repetition(numbered):
    loader = GraphLoader(numbered, torch.arange(10), 4, shuffle=True, iterations=9)
    batches = order(loader)
    assert len(loader) == len(batches) == 9
    assert all(len(set(batch)) == 4 for batch in batches)
    assert set(flat(batches)) <= set(range(10))
    assert len({tuple(batch) for batch in batches}) > 1


def test_lightning_tells_the_loader_the_epoch(numbered):
    class Watch(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), {}

        def training_step(self, batch, batch_idx):
            self.seen.setdefault(self.current_epoch, []).append(batch.y.tolist())
            return self.weight.square()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def loader():
        return GraphLoader(numbered, torch.arange(23), 8, shuffle=True, seed=6)

    watch = Watch()
    pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(watch, loader())
    for epoch in range(3):
        alone = loader()
        alone.set_epoch(epoch)
        assert watch.seen[epoch] == order(alone)
    assert watch.seen[0] != watch.seen[1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 4}, 1),  # 9 graphs: a last batch of one
        ({"batch_size": 3}, 1 + 1 + 2),
        ({"batch_size": 20}, 1 + 1 + 2 + 3 + 3 + 4 + 5 + 6 + 7),
        ({"batch_size": 4, "iterations": 2}, 1 + 1 + 2 + 3),
        ({"batch_size": 4, "world_size": 2}, 1),
        ({"batch_size": 4, "world_size": 2, "rank": 1}, 0),
        ({"batch_size": 3, "world_size": 2}, 1 + 1),
    ],
)
def test_the_fewest_nodes_that_a_batch_can_have(random_graphs, options, expected):
    store, _ = random_graphs(sizes=(3, 1, 4, 1, 5, 2, 6, 3, 7))
    assert GraphLoader(store, torch.arange(9), shuffle=True, **options).fewest_nodes() == expected
