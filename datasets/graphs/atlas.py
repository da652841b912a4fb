"""All connected graphs of three to seven nodes, from the atlas that networkx ships; needs no download."""

from __future__ import annotations

import torch

from datasets.graphs.store import GraphStore


def biconnected_atlas() -> GraphStore:
    """994 graphs (Read and Wilson, An Atlas of Graphs); class 1: no single node's removal disconnects the graph.

    x is the node's degree. The label is exact: networkx decides it for each graph.
    """
    import networkx as nx

    graphs = [g for g in nx.graph_atlas_g() if len(g) >= 3 and nx.is_connected(g)]
    sizes = torch.tensor([len(g) for g in graphs])
    first = sizes.cumsum(0) - sizes
    edges = torch.cat([torch.tensor(list(g.edges)) + start for g, start in zip(graphs, first, strict=True)])
    y = torch.tensor([int(nx.is_biconnected(g)) for g in graphs])
    store = GraphStore.from_edges(torch.empty(0), torch.cat([edges, edges.flip(1)]).T, sizes, y)
    store.x = store.rowptr.diff() - 1  # no connected graph has a node of degree 0
    store.num_categories = int(store.x.max()) + 1
    return store
