"""Norms against torch-geometric, against loops over the graphs, and by numerical gradients."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn

from methods.graphnorm.networks import GCN, GIN
from methods.graphnorm.norms import NORMS, GraphNorm, InstanceNorm, make_norm
from methods.graphnorm.segments import graph_norm, neighbour_sum, segment_sum

CHANNELS = 6


@pytest.fixture(scope="module")
def graphs(random_graphs):
    """Five graphs of 5, 1, 8, 3 and 12 nodes."""
    store, _ = random_graphs()
    return store.select(torch.arange(5))


def nodes(graphs, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(len(graphs.x), CHANNELS, generator=generator, dtype=dtype)
    return (3 * h + 2).requires_grad_()  # a mean that matters


def randomise(norm: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return norm


def gradients(loss: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.randn(loss.shape, generator=torch.Generator().manual_seed(2), dtype=loss.dtype)
    return list(torch.autograd.grad((loss * weights).sum(), tensors))


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 0.3])
def test_graph_norm_is_that_of_torch_geometric(graphs, eps):
    ours, theirs = randomise(GraphNorm(CHANNELS, eps).double()), pyg.GraphNorm(CHANNELS, eps).double()
    theirs.load_state_dict(ours.state_dict())  # same names
    h = nodes(graphs)
    out, expected = ours(h, graphs), theirs(h, graphs.batch, graphs.num_graphs)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    names = ("weight", "bias", "mean_scale")
    for found, wanted in zip(
        gradients(out, h, *(getattr(ours, name) for name in names)),
        gradients(expected, h, *(getattr(theirs, name) for name in names)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7)


def test_graph_norm_starts_as_in_the_paper(graphs):
    norm = GraphNorm(CHANNELS)
    assert norm.eps == 1e-6
    assert {name: set(p.tolist()) for name, p in norm.named_parameters()} == {
        "weight": {1.0},
        "bias": {0.0},
        "mean_scale": {1.0},
    }
    assert all(p.requires_grad for p in norm.parameters())


def test_graph_norm_graph_by_graph(graphs):
    """The formula of the paper written out."""
    norm, h = randomise(GraphNorm(CHANNELS, 1e-3).double()), nodes(graphs)
    out, first = norm(h, graphs), 0
    for n in graphs.sizes.tolist():
        part = h[first : first + n]
        shifted = part - norm.mean_scale * part.sum(0) / n
        expected = norm.weight * shifted / ((shifted**2).sum(0) / n + 1e-3) ** 0.5 + norm.bias
        torch.testing.assert_close(out[first : first + n], expected)
        first += n


def test_graph_norm_of_a_batch_is_that_of_its_graphs_alone(random_graphs):
    store, _ = random_graphs()
    norm = randomise(GraphNorm(6))
    together = norm(store.select(torch.arange(5)).x, store.select(torch.arange(5)))
    alone = [norm(g.x, g) for g in (store.select(torch.tensor([i])) for i in range(5))]
    torch.testing.assert_close(together, torch.cat(alone))


def test_instance_norm_is_that_of_torch_geometric(graphs):
    """theirs skips graphs of one node, where ours gives the bias: the next test."""
    ours = randomise(InstanceNorm(CHANNELS, 1e-5).double())
    with torch.no_grad():
        ours.mean_scale.fill_(1.0)
    theirs = pyg.InstanceNorm(CHANNELS, 1e-5, affine=True).double()
    theirs.load_state_dict({"weight": ours.weight, "bias": ours.bias})
    h = nodes(graphs)
    out, expected = ours(h, graphs), theirs(h, graphs.batch, graphs.num_graphs)
    torch.testing.assert_close(out, expected, rtol=1e-7, atol=1e-7)
    for found, wanted in zip(
        gradients(out, h, ours.weight, ours.bias), gradients(expected, h, theirs.weight, theirs.bias), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_instance_norm_is_that_of_torch_for_one_graph(random_graphs):
    store, _ = random_graphs(sizes=(9,))
    graph = store.select(torch.tensor([0]))
    expected = nn.functional.instance_norm(graph.x.T[None], eps=1e-6)[0].T
    torch.testing.assert_close(InstanceNorm(6)(graph.x, graph), expected)


def test_instance_norm_learns_no_scale_of_the_mean(graphs):
    norm = InstanceNorm(CHANNELS)
    norm(nodes(graphs, dtype=torch.float32), graphs).square().sum().backward()
    assert not norm.mean_scale.requires_grad
    assert norm.mean_scale.grad is None
    assert norm.weight.grad is not None


def test_batch_norm_sees_all_nodes_and_keeps_running_statistics(graphs):
    ours, theirs = make_norm("batch", CHANNELS), nn.BatchNorm1d(CHANNELS, eps=1e-5, momentum=0.1)
    for seed in range(3):
        h = nodes(graphs, seed, torch.float32)
        torch.testing.assert_close(ours(h, graphs), theirs(h))
    h = nodes(graphs, 4, torch.float32)
    trained = ours(h, graphs)
    theirs(h)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(h, graphs), theirs(h))
    assert not torch.allclose(ours(h, graphs), trained)


def test_layer_norm_sees_the_channels_of_a_node(graphs):
    h = nodes(graphs, dtype=torch.float32)
    out = make_norm("layer", CHANNELS)(h, graphs)
    expected = (h - h.mean(1, keepdim=True)) / (h.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(out, expected)
    theirs = pyg.LayerNorm(CHANNELS, mode="node")
    torch.testing.assert_close(out, theirs(h))


def test_no_norm_changes_nothing(graphs):
    h = nodes(graphs)
    assert make_norm("none", CHANNELS)(h, graphs) is h


def reference(name: str) -> nn.Module:
    return {
        "layer_graph": lambda: pyg.LayerNorm(CHANNELS, mode="graph"),
        "pair": pyg.PairNorm,
        "mean_subtraction": pyg.MeanSubtractionNorm,
        "graph_size": pyg.GraphSizeNorm,
    }[name]()


@pytest.mark.parametrize("name", ["layer_graph", "pair", "mean_subtraction", "graph_size"])
def test_norms_of_torch_geometric_see_one_graph_at_a_time(random_graphs, name):
    store, _ = random_graphs(sizes=(5, 8, 3))
    whole = store.select(torch.arange(3))
    alone = [reference(name)(store.select(torch.tensor([i])).x) for i in range(3)]
    torch.testing.assert_close(make_norm(name, 6)(whole.x, whole), torch.cat(alone))


def test_diff_group_and_message_norm(graphs):
    h = nodes(graphs, dtype=torch.float32)
    torch.manual_seed(0)
    ours = make_norm("diff_group", CHANNELS, groups=3)
    torch.manual_seed(0)
    torch.testing.assert_close(ours(h, graphs), pyg.DiffGroupNorm(CHANNELS, groups=3)(h))
    torch.testing.assert_close(make_norm("message", CHANNELS)(h, graphs), pyg.MessageNorm(True)(h, h))


@pytest.mark.parametrize("network", [GIN, GCN])
@pytest.mark.parametrize("name", NORMS)
def test_every_norm_trains_in_every_network(random_graphs, network, name):
    store, _ = random_graphs()
    graphs = store.select(torch.arange(5))
    torch.manual_seed(0)
    model = network(6, 3, hidden=8, layers=2, norm=name, dropout=0.0)
    out = model(graphs)
    assert out.shape == (5, 3)
    nn.functional.cross_entropy(out, graphs.y).backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name
    assert model.classifiers[0].weight.grad.any()


def test_an_unknown_norm_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"model\.norm=grahp is unknown") as error:
        make_norm("grahp", 4)
    assert all(name in str(error.value) for name in NORMS)


@pytest.mark.parametrize("name", ["graph", "batch", "none"])
def test_an_argument_that_the_norm_does_not_take_is_named(name):
    with pytest.raises(ValueError, match=rf"model\.norm_kwargs: the norm {name} does not take foo=3"):
        make_norm(name, 4, foo=3)


@pytest.mark.parametrize("eps", [1e-2, 1.0])
def test_gradients_of_graph_norm(graphs, eps):
    generator = torch.Generator().manual_seed(3)
    parameters = [torch.randn(CHANNELS, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def norm(h, mean_scale, weight, bias):
        return graph_norm(h, mean_scale, weight, bias, graphs.pool, graphs.batch, graphs.sizes, eps)

    assert torch.autograd.gradcheck(norm, (nodes(graphs), *parameters))


def test_gradients_of_sums(graphs):
    assert torch.autograd.gradcheck(lambda h: neighbour_sum(graphs.adj, h), nodes(graphs))
    assert torch.autograd.gradcheck(lambda h: segment_sum(graphs.pool, graphs.batch, h), nodes(graphs))


def test_sums_are_products_with_the_dense_matrices(graphs):
    h = nodes(graphs)
    torch.testing.assert_close(neighbour_sum(graphs.adj, h), graphs.adj.to_dense().double() @ h)
    torch.testing.assert_close(segment_sum(graphs.pool, graphs.batch, h), graphs.pool.to_dense().double() @ h)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(graphs, dtype):
    h = nodes(graphs, dtype=dtype).detach()
    for out in (
        neighbour_sum(graphs.adj, h),
        segment_sum(graphs.pool, graphs.batch, h),
        InstanceNorm(CHANNELS)(h, graphs),
    ):
        assert out.dtype == torch.float32
    torch.testing.assert_close(InstanceNorm(CHANNELS)(h, graphs), InstanceNorm(CHANNELS)(h.float(), graphs))


def test_one_node_has_a_norm(random_graphs):
    """InstanceNorm leaves the bias alone; GraphNorm keeps the node's sign and size through (1 - alpha) h."""
    store, _ = random_graphs(sizes=(1, 1))
    graphs = store.select(torch.arange(2))
    h = graphs.x.double().requires_grad_()
    instance, graph = randomise(InstanceNorm(6).double()), randomise(GraphNorm(6, 1e-3).double())
    with torch.no_grad():
        instance.mean_scale.fill_(1.0)
    out = instance(h, graphs)
    assert torch.equal(out, instance.bias.expand(2, -1))
    assert torch.equal(gradients(out, h)[0], torch.zeros_like(h))
    kept = (1 - graph.mean_scale) * h
    torch.testing.assert_close(graph(h, graphs), graph.weight * kept / (kept**2 + 1e-3).sqrt() + graph.bias)


def test_constant_channels_give_finite_values_and_gradients(random_graphs):
    store, _ = random_graphs(sizes=(4, 6))
    graphs = store.select(torch.arange(2))
    h = torch.full((10, 6), 0.1, requires_grad=True)
    norm = InstanceNorm(6)
    out = norm(h, graphs)
    torch.testing.assert_close(out, torch.zeros_like(out), rtol=0, atol=1e-4)
    out.square().sum().backward()
    assert torch.isfinite(h.grad).all()
