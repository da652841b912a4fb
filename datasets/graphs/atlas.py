"""Embedded collection: all connected graphs of three to seven nodes, from the atlas that networkx ships."""

from __future__ import annotations

import torch

from datasets.graphs.features import Encoding, dense_categories
from datasets.graphs.store import GraphStore


def biconnected_atlas() -> GraphStore:
    """Return 994 graphs (Read and Wilson, An Atlas of Graphs) with the question whether they are biconnected.

    Class 1: no single node's removal disconnects the graph. The label is exact: networkx decides it for each graph.
    x is the node's degree.
    """
    import networkx as nx

    graphs = [g for g in nx.graph_atlas_g() if len(g) >= 3 and nx.is_connected(g)]
    sizes = torch.tensor([len(g) for g in graphs])
    first = sizes.cumsum(0) - sizes
    edges = torch.cat([torch.tensor(list(g.edges)) + start for g, start in zip(graphs, first, strict=True)])
    y = torch.tensor([int(nx.is_biconnected(g)) for g in graphs])
    store = GraphStore.from_edges(torch.empty(0), torch.cat([edges, edges.flip(1)]).T, sizes, y)
    degree = store.rowptr.diff()
    store.x, store.num_categories = dense_categories(degree)  # degrees 1 to 6
    store.encoding = Encoding("degree", (degree.unique(),))
    return store
