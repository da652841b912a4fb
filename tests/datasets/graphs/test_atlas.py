"""The embedded atlas, against published counts and a search of our own."""

from __future__ import annotations

import pytest
import torch

from datasets.graphs.atlas import biconnected_atlas


@pytest.fixture(scope="module")
def atlas():
    return biconnected_atlas()


def test_counts_of_connected_and_biconnected_graphs(atlas):
    atlas.check()
    sizes = range(3, 8)
    assert [int((atlas.sizes == n).sum()) for n in sizes] == [2, 6, 21, 112, 853]  # OEIS A001349
    assert [int(atlas.y[atlas.sizes == n].sum()) for n in sizes] == [1, 3, 10, 56, 468]  # OEIS A002218


def connected(adjacency: torch.Tensor) -> bool:
    reached = torch.zeros(len(adjacency))
    reached[0] = 1
    for _ in range(len(adjacency)):
        reached = ((adjacency @ reached + reached) > 0).float()
    return bool(reached.all())


def test_labels_by_removing_each_node(atlas):
    for i in range(0, len(atlas), 9):
        graph = atlas.select(torch.tensor([i]))
        adjacency, nodes = graph.adj.to_dense(), torch.arange(len(graph.x))
        without = [adjacency[nodes != v][:, nodes != v] for v in nodes]
        assert connected(adjacency)
        assert int(graph.y) == all(map(connected, without))


def test_features_are_degrees(atlas):
    batch = atlas.select(torch.arange(len(atlas)))
    assert batch.x.shape[1] == atlas.num_features == 6
    assert torch.equal(batch.x.argmax(1) + 1, batch.degree.long())
    assert torch.equal(batch.x.sum(1), torch.ones(len(batch.x)))
