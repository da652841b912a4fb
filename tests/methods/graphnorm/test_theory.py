"""What the paper proves of the shift, on the matrices that our layers apply (sections 3 and 4)."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch

from datasets.graphs.store import GraphBatch, GraphStore
from methods.graphnorm.networks import GCN, GIN, GCNLayer
from methods.graphnorm.norms import GraphNorm
from methods.graphnorm.segments import neighbour_sum


def batch_of(*graphs: nx.Graph, features: int = 1) -> GraphBatch:
    """Constant features, in float64."""
    sizes = torch.tensor([len(g) for g in graphs])
    first = sizes.cumsum(0) - sizes
    edges = torch.cat([torch.tensor(list(g.edges)).view(-1, 2) + s for g, s in zip(graphs, first, strict=True)])
    x = torch.ones(int(sizes.sum()), features, dtype=torch.float64)
    store = GraphStore.from_edges(x, torch.cat([edges, edges.flip(1)]).T, sizes, torch.zeros(len(graphs)).long())
    return store.select(torch.arange(len(graphs)))


def q_gin(graph: GraphBatch, xi: float) -> torch.Tensor:
    """A + (1 + xi) I as GIN's layer applies it."""
    identity = torch.eye(len(graph.x), dtype=torch.float64)
    return neighbour_sum(graph.adj, identity) + (1 + xi) * identity


def q_gcn(graph: GraphBatch) -> torch.Tensor:
    """D^-1/2 (A + I) D^-1/2 as GCN's layer applies it: to the identity, with W = I."""
    n = len(graph.x)
    layer = GCNLayer(n, n, self_loops=True).double()
    with torch.no_grad():
        layer.lin.weight.copy_(torch.eye(n))
    return layer(torch.eye(n, dtype=torch.float64), graph).detach()


def shift(h: torch.Tensor, graph: GraphBatch, alpha: float = 1.0) -> torch.Tensor:
    """h N for h (channels, nodes): what GraphNorm does apart from scaling, which a large eps makes the same for all."""
    eps = 1e14
    norm = GraphNorm(len(h), eps).double()
    with torch.no_grad():
        norm.mean_scale.fill_(alpha)
        norm.weight.fill_(eps**0.5)
    return norm(h.T, graph).T.detach()


GRAPHS = {
    "erdos_renyi": nx.erdos_renyi_graph(20, 0.3, seed=0),
    "path": nx.path_graph(12),
    "cubic": nx.random_regular_graph(3, 14, seed=0),
    "complete": nx.complete_graph(9),
    "star": nx.star_graph(8),
    "tree": nx.balanced_tree(2, 3),
    "apart": nx.disjoint_union(nx.cycle_graph(5), nx.empty_graph(2)),
}


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("matrix", [lambda g: q_gin(g, 0.0), lambda g: q_gin(g, 0.7), q_gcn], ids=["gin", "xi", "gcn"])
def test_singular_values_interlace(graph, matrix):
    """Theorem 3.1: l_1 >= m_1 >= l_2 >= ... >= m_(n-1) >= l_n and m_n = 0, of Q and Q N."""
    graph = batch_of(graph)
    q = matrix(graph)
    before = np.linalg.svd(q.numpy(), compute_uv=False)
    after = np.linalg.svd(shift(q, graph).numpy(), compute_uv=False)
    assert after[-1] < 1e-6
    assert (before >= after - 1e-6).all()
    assert (after[:-1] >= before[1:] - 1e-6).all()
    assert after[0] < before[0] + 1e-6


def test_matrices_are_the_ones_of_the_paper():
    graph, adjacency = batch_of(GRAPHS["star"]), nx.to_numpy_array(GRAPHS["star"])
    looped = adjacency + np.eye(9)
    root = np.diag(looped.sum(1) ** -0.5)
    np.testing.assert_allclose(q_gin(graph, 0.5), looped + 0.5 * np.eye(9))
    np.testing.assert_allclose(q_gcn(graph), root @ looped @ root)
    np.testing.assert_allclose(shift(q_gcn(graph), graph), root @ looped @ root @ (np.eye(9) - 1 / 9), atol=1e-6)


@pytest.mark.parametrize("xi", [0.0, 0.4])
def test_the_shift_removes_a_complete_graph(xi):
    """Q_GIN N = xi N: nothing of the adjacency is left."""
    graph = batch_of(nx.complete_graph(7))
    expected = xi * (np.eye(7) - 1 / 7)
    np.testing.assert_allclose(shift(q_gin(graph, xi), graph), expected, atol=1e-6)


@pytest.mark.parametrize("matrix", [lambda g: q_gin(g, 0.0), q_gcn], ids=["gin", "gcn"])
def test_equal_features_on_a_regular_graph_vanish(matrix):
    """1 Q N = 0 on regular graphs and not on others; alpha != 1 keeps the share 1 - alpha of the mean."""
    for name, regular in (("cubic", True), ("complete", True), ("path", False), ("erdos_renyi", False)):
        graph = batch_of(GRAPHS[name])
        message = torch.ones(1, len(graph.x), dtype=torch.float64) @ matrix(graph)
        left = shift(message, graph).norm()
        assert (left < 1e-6) == regular
        kept = shift(message, graph, alpha=0.4)
        torch.testing.assert_close(kept, message - 0.4 * message.mean(), rtol=0, atol=1e-6)
        assert kept.norm() > 0.1


REGULAR = [nx.cycle_graph(8), nx.random_regular_graph(3, 8, seed=1), nx.complete_graph(8)]  # degrees 2, 3, 7


@pytest.mark.parametrize("kind", [GIN, GCN])
def test_instance_norm_cannot_tell_regular_graphs_apart(kind):
    graphs = batch_of(*REGULAR, features=3)
    torch.manual_seed(0)
    network = kind(3, 2, hidden=8, norm="instance", dropout=0.0).double()
    for name, parameter in network.named_parameters():
        if "norm" in name and "mean_scale" not in name:
            torch.nn.init.normal_(parameter)
    out = network(graphs)
    torch.testing.assert_close(out, out[:1].expand(3, -1), rtol=0, atol=1e-6)


def test_graph_norm_tells_regular_graphs_apart_once_alpha_has_moved():
    """In GIN, whose sum knows the degree (GCN's symmetric mean does not)."""
    graphs = batch_of(*REGULAR, features=3)

    def spread(alpha: float) -> float:
        torch.manual_seed(0)
        network = GIN(3, 2, hidden=8, norm="graph", norm_kwargs={"eps": 1.0}, dropout=0.0).double()
        for name, parameter in network.named_parameters():
            if "mean_scale" in name:
                torch.nn.init.constant_(parameter, alpha)
        out = network(graphs)
        return min((out[i] - out[j]).norm().item() for i, j in ((0, 1), (0, 2), (1, 2)))

    assert spread(1.0) < 1e-9
    assert spread(0.5) > 1e-3


def test_alpha_moves_away_from_collapse_by_gradient():
    """At alpha = 1 the loss of two regular graphs depends on alpha alone among GraphNorm's parameters and h."""
    graphs = batch_of(*REGULAR[:2])
    h = graphs.degree.double().unsqueeze(1).requires_grad_()
    norm = GraphNorm(1).double()
    out = norm(h, graphs)
    assert not out.any()
    out.sum().backward()
    assert norm.mean_scale.grad.abs() > 1
    assert not norm.weight.grad.any()
    assert h.grad.abs().max() < 1e-9
