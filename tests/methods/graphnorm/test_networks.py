"""Layers and networks against the same built of torch-geometric's parts, weights copied."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.utils import add_self_loops

from methods.graphnorm.networks import GCN, GIN, GCNLayer, GINLayer, GraphNetwork


@pytest.fixture(scope="module")
def both(random_graphs):
    """The same five graphs as our batch and as torch-geometric's; some nodes have no neighbours."""
    store, data = random_graphs(share=0.3)
    graphs = store.select(torch.arange(5))
    assert (graphs.degree == 0).any()
    return graphs, Batch.from_data_list(data)


def check_same(ours: torch.Tensor, theirs: torch.Tensor, weights: list[tuple[nn.Parameter, nn.Parameter]]) -> None:
    """Values, and gradients of paired parameters for a random direction."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0))
    mine, other = zip(*weights, strict=True)
    for a, b in zip(
        torch.autograd.grad((ours * direction).sum(), mine),
        torch.autograd.grad((theirs * direction).sum(), other),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("learn_eps", [False, True])
@pytest.mark.parametrize("self_loops", [False, True])
def test_gin_layer_is_gin_conv(both, learn_eps, self_loops):
    graphs, batch = both
    torch.manual_seed(0)
    layer = GINLayer(6, 8, "none", learn_eps, self_loops)
    assert layer.eps.requires_grad == learn_eps
    with torch.no_grad():
        layer.eps.fill_(0.25 if learn_eps else 0.0)
    mlp = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))
    conv = pyg.GINConv(mlp, eps=layer.eps.item(), train_eps=learn_eps)  # draws the weights anew
    mlp[0].load_state_dict(layer.lin1.state_dict())
    mlp[2].load_state_dict(layer.lin2.state_dict())
    edge_index = add_self_loops(batch.edge_index, num_nodes=batch.num_nodes)[0] if self_loops else batch.edge_index
    weights = [(layer.lin1.weight, mlp[0].weight), (layer.lin2.bias, mlp[2].bias)]
    if learn_eps:
        layer.eps.data = layer.eps.data.reshape(1)  # theirs has one entry
        weights.append((layer.eps, conv.eps))
    check_same(layer(graphs.x, graphs), conv(batch.x, edge_index), weights)


@pytest.mark.parametrize("self_loops", [False, True])
def test_gcn_layer_is_gcn_conv(both, self_loops):
    graphs, batch = both
    torch.manual_seed(0)
    layer, conv = GCNLayer(6, 8, self_loops), pyg.GCNConv(6, 8, add_self_loops=self_loops)
    nn.init.normal_(layer.lin.bias)
    conv.load_state_dict({"lin.weight": layer.lin.weight, "bias": layer.lin.bias})
    weights = [(layer.lin.weight, conv.lin.weight), (layer.lin.bias, conv.bias)]
    check_same(layer(graphs.x, graphs), conv(batch.x, batch.edge_index), weights)


def test_gcn_layer_starts_as_in_the_paper():
    torch.manual_seed(0)
    layer = GCNLayer(40, 60, True)
    bound = (6 / (40 + 60)) ** 0.5
    assert layer.lin.bias.abs().max() == 0
    assert 0.95 * bound < layer.lin.weight.abs().max() <= bound


@pytest.mark.parametrize("readout", ["sum", "mean"])
def test_readouts_are_those_of_torch_geometric(both, readout):
    graphs, batch = both
    pool = {"sum": pyg.global_add_pool, "mean": pyg.global_mean_pool}[readout]
    network = GIN(6, 2, hidden=4, layers=1, readout=readout)
    torch.testing.assert_close(network.pool(graphs.x, graphs), pool(batch.x, batch.batch))


class Reference(nn.Module):
    """The paper's networks from torch-geometric's layers, written for reading; weights are copied from ours."""

    def __init__(self, ours: GraphNetwork, norm: str, self_loops: bool) -> None:
        super().__init__()
        self.ours, self.norm, self.self_loops = ours, norm, self_loops

    def normalise(self, module: nn.Module, z: torch.Tensor, batch: Batch) -> torch.Tensor:
        if self.norm == "none":
            return z
        if self.norm in ("batch", "layer"):
            fresh = nn.BatchNorm1d(z.shape[1]) if self.norm == "batch" else nn.LayerNorm(z.shape[1])
            fresh.load_state_dict(module.norm.state_dict())
            return fresh.train(module.training)(z)
        fresh = pyg.GraphNorm(z.shape[1], eps=1e-6)
        fresh.load_state_dict(module.state_dict())
        return fresh(z, batch.batch, batch.num_graphs)

    def forward(self, batch: Batch) -> torch.Tensor:
        edge_index = batch.edge_index
        depths, pool = [batch.x], {"sum": pyg.global_add_pool, "mean": pyg.global_mean_pool}[self.ours.readout]
        for i, layer in enumerate(self.ours.layers):
            h = depths[-1]
            if isinstance(layer, GINLayer):
                loops = add_self_loops(edge_index, num_nodes=batch.num_nodes)[0] if self.self_loops else edge_index
                z = pyg.GINConv(nn.Identity(), eps=layer.eps.item())(h, loops)
                z = layer.lin2(torch.relu(self.normalise(layer.norm, layer.lin1(z), batch)))
            else:
                conv = pyg.GCNConv(h.shape[1], layer.lin.out_features, add_self_loops=self.self_loops)
                conv.load_state_dict({"lin.weight": layer.lin.weight, "bias": layer.lin.bias})
                z = conv(h, edge_index)
            z = torch.relu(self.normalise(self.ours.norms[i], z, batch))
            depths.append(z + h if self.ours.residual and i >= 1 else z)
        if not self.ours.jumping:
            return self.ours.classifiers[0](pool(depths[-1], batch.batch))
        return sum(head(pool(h, batch.batch)) for head, h in zip(self.ours.classifiers, depths, strict=True))


@pytest.mark.parametrize("norm", ["graph", "batch", "layer", "none"])
@pytest.mark.parametrize("kind", [GIN, GCN])
def test_networks_of_the_paper(both, kind, norm):
    graphs, batch = both
    torch.manual_seed(0)
    network = kind(6, 3, hidden=8, norm=norm, dropout=0.0).eval()
    assert len(network.layers) == 4
    if norm == "graph":
        for name, parameter in network.named_parameters():
            if "mean_scale" in name:
                nn.init.uniform_(parameter, 0.3, 0.9)
    torch.testing.assert_close(network(graphs), Reference(network, norm, True)(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("readout", ["sum", "mean"])
def test_network_of_xu(both, readout):
    graphs, batch = both
    torch.manual_seed(0)
    network = GIN(
        6, 3, hidden=8, norm="batch", readout=readout, residual=False, jumping=True, self_loops=False, dropout=0.0
    ).eval()
    assert [head.in_features for head in network.classifiers] == [6, 8, 8, 8, 8]
    torch.testing.assert_close(network(graphs), Reference(network, "batch", False)(batch), rtol=1e-4, atol=1e-4)


def test_norms_sit_where_the_paper_puts_them():
    counts = {kind: sum("mean_scale" in name for name, _ in kind(6, 2).named_parameters()) for kind in (GIN, GCN)}
    assert counts == {GIN: 8, GCN: 4}


def test_dropout_falls_on_the_logits(both):
    graphs, _ = both
    network = GIN(6, 400, hidden=8, norm="graph", dropout=0.5)
    kept = network.eval()(graphs)
    torch.manual_seed(0)
    dropped = network.train()(graphs)
    zero = dropped == 0
    assert 0.45 < zero.float().mean() < 0.55
    torch.testing.assert_close(dropped[~zero], 2 * kept[~zero])


@pytest.mark.parametrize("kind", [GIN, GCN])
def test_order_of_graphs_and_nodes_does_not_matter(random_graphs, kind):
    store, _ = random_graphs()
    torch.manual_seed(0)
    network = kind(6, 2, hidden=8).eval()
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(
        network(store.select(torch.arange(5)))[order], network(store.select(order)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", [GIN, GCN])
def test_double_precision(random_graphs, kind):
    store, _ = random_graphs()
    graphs = store.select(torch.arange(5))
    torch.manual_seed(0)
    network = kind(6, 2, hidden=8, dropout=0.0)
    single = network(graphs)
    double = network.double()(graphs)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single, double.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("norm", ["graph", "instance", "layer", "batch"])
@pytest.mark.parametrize("kind", [GIN, GCN])
def test_bfloat16_autocast_stays_near_float32(random_graphs, kind, norm):
    store, _ = random_graphs(sizes=[6, 9, 12, 7])
    graphs = store.select(torch.arange(4))
    torch.manual_seed(0)
    network = kind(6, 2, hidden=16, layers=2, norm=norm, dropout=0.0)
    single = network(graphs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = network(graphs)
    torch.testing.assert_close(mixed.float(), single, rtol=0.1, atol=0.1 * single.abs().max().item())
    nn.functional.cross_entropy(mixed.float(), graphs.y).backward()
    assert all(
        p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in network.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("kind", [GIN, GCN])
@pytest.mark.parametrize("norm", ["graph", "instance", "layer", "none"])
def test_no_graphs_at_all(random_graphs, kind, norm):
    """The share of a process in a batch that is smaller than the number of processes."""
    store, _ = random_graphs()
    network = kind(6, 2, hidden=8, norm=norm)
    out = network(store.select(torch.empty(0, dtype=torch.long)))
    assert out.shape == (0, 2)
    nn.functional.cross_entropy(out, torch.empty(0, dtype=torch.long), reduction="sum").backward()
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("wrong", [{"readout": "max"}, {"layers": 0}, {"hidden": 0}, {"norm": "grahp"}])
def test_bad_arguments_are_named(wrong):
    ((key, value),) = wrong.items()
    with pytest.raises(ValueError, match=rf"model\.{key}.*{value}"):
        GIN(6, 2, **wrong)
