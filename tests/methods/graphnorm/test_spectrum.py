import networkx as nx
import numpy as np
import pytest
import pytorch_lightning as pl
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from datasets.graphs.datamodule import AtlasGraphs
from methods.graphnorm.spectrum import (
    Spectrum,
    dense_adjacencies,
    interlaces,
    log10_condition,
    q_gcn,
    q_gin,
    shifted,
    singular_values,
    spectrum_metrics,
)


def adjacency(graph: nx.Graph) -> torch.Tensor:
    return torch.from_numpy(nx.to_numpy_array(graph))


graphs = st.builds(
    nx.gnp_random_graph, n=st.integers(1, 25), p=st.floats(0, 1), seed=st.integers(0, 1000), directed=st.just(False)
)


@given(graphs, st.floats(-0.9, 2))
def test_matrices_and_their_singular_values_agree_with_scipy(graph, xi):
    n = len(graph)
    a = nx.to_numpy_array(graph)
    gin = a + (1 + xi) * np.eye(n)
    looped = graph.copy()
    looped.add_edges_from((i, i) for i in range(n))
    gcn = np.eye(n) - nx.normalized_laplacian_matrix(looped, nodelist=range(n)).toarray()
    centring = np.eye(n) - np.ones((n, n)) / n
    for ours, reference in ((q_gin(torch.from_numpy(a), xi), gin), (q_gcn(torch.from_numpy(a)), gcn)):
        np.testing.assert_allclose(ours, reference, atol=1e-12)
        np.testing.assert_allclose(shifted(ours), reference @ centring, atol=1e-12)
        np.testing.assert_allclose(singular_values(ours), scipy.linalg.svdvals(reference), atol=1e-10)
        gram = reference @ centring @ reference.T
        squares = scipy.linalg.eigvalsh(gram)[::-1]
        np.testing.assert_allclose(singular_values(shifted(ours)) ** 2, squares, atol=1e-8)


@given(graphs)
def test_interlacing_holds_for_every_graph(graph):
    for q in (q_gin(adjacency(graph)), q_gcn(adjacency(graph))):
        assert interlaces(singular_values(q), singular_values(shifted(q)))


def test_interlacing_is_refused_where_it_does_not_hold():
    q = torch.tensor([3.0, 2.0, 1.0])
    assert interlaces(q, torch.tensor([2.5, 1.5, 0.0]))
    assert not interlaces(q, torch.tensor([3.5, 1.5, 0.0]))  # larger than Q's largest
    assert not interlaces(q, torch.tensor([1.5, 1.2, 0.0]))  # below Q's second
    assert not interlaces(q, torch.tensor([2.5, 1.5, 0.5]))  # the constant vector is not removed


def test_on_a_regular_graph_the_shift_removes_the_degree_alone():
    graph = nx.petersen_graph()
    q = q_gin(adjacency(graph))
    before, after = singular_values(q), singular_values(shifted(q))
    assert before[0] == pytest.approx(4)  # degree + 1
    torch.testing.assert_close(after, torch.cat([before[1:], torch.zeros(1)]), atol=1e-12, rtol=0)


def test_on_a_complete_graph_nothing_is_left():
    q = q_gin(adjacency(nx.complete_graph(5)))
    metrics = spectrum_metrics(singular_values(q), singular_values(shifted(q)))
    assert metrics["largest_qn"] == pytest.approx(0, abs=1e-12)
    assert metrics["interlacing"] == 1
    assert "log10_condition_qn" not in metrics


def test_condition_ignores_zeros():
    assert log10_condition(torch.tensor([100.0, 1.0, 1e-14])) == pytest.approx(2)
    assert log10_condition(torch.zeros(3)) is None


@pytest.fixture(scope="module")
def atlas():
    data = AtlasGraphs()
    data.setup()
    return data


def test_adjacencies_of_a_batch(atlas):
    listed = [g for g in nx.graph_atlas_g() if len(g) >= 3 and nx.is_connected(g)]
    index = torch.tensor([5, 0, 900, 993])
    for i, dense in zip(index, dense_adjacencies(atlas.store.select(index)), strict=True):
        assert torch.equal(dense, adjacency(listed[i]))


def test_metrics_are_means_over_the_held_out_fold(atlas, tmp_path):
    module = Spectrum(graphs=[0, 3])
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.test(module, atlas, verbose=False)
    metrics = trainer.callback_metrics
    ratios, sizes = [], []
    for a in dense_adjacencies(atlas.store.select(atlas.parts["test"])):
        q = a.numpy() + np.eye(len(a))
        ratios.append(scipy.linalg.svdvals(q - q.mean(1, keepdims=True))[0] / scipy.linalg.svdvals(q)[0])
        sizes.append(len(a))
    assert float(metrics["test/gin_shrinkage"]) == pytest.approx(np.mean(ratios), abs=1e-6)
    assert float(metrics["test/nodes"]) == pytest.approx(np.mean(sizes), abs=1e-5)
    assert float(metrics["test/gin_interlacing"]) == float(metrics["test/gcn_interlacing"]) == 1
    assert float(metrics["test/gcn_largest_q"]) == pytest.approx(1, abs=1e-6)  # of a connected graph
    (figure,) = module.figures().values()
    assert len(figure.axes) == 6


@pytest.mark.parametrize("graphs", [[], [-1]])
def test_positions_must_make_sense(graphs):
    with pytest.raises(ValueError, match=r"method\.graphs"):
        Spectrum(graphs=graphs)
