"""Published TU collections: against torch-geometric's reader, a parser of our own, and the published statistics."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch.nn.functional import one_hot

from datasets.graphs import tu
from datasets.graphs.gin_text import read_gin
from datasets.graphs.store import GraphStore
from datasets.graphs.tu import find_tu, read_tu

# graphs, graphs of each class, mean nodes, mean undirected edges, node labels or degrees that occur
STATISTICS = {
    "MUTAG": (188, [63, 125], 17.93, 19.79, 7),
    "PTC": (344, [152, 192], 25.56, 25.96, 19),
    "PTC_MR": (344, [192, 152], 14.29, 14.69, 18),
    "PROTEINS": (1113, [663, 450], 39.06, 72.82, 3),
    "NCI1": (4110, [2053, 2057], 29.87, 32.30, 37),
    "IMDB-BINARY": (1000, [500, 500], 19.77, 96.53, 65),
    "IMDBBINARY": (1000, [500, 500], 19.77, 96.53, 65),
    "REDDIT-BINARY": (2000, [1000, 1000], 429.63, 497.75, None),
    "COLLAB": (5000, [2600, 775, 1625], 74.49, 2457.22, 367),  # 2457.50 with its 2837 self loops, each counted half
}
CLEANED = {"MUTAG": 135, "PTC_MR": 235, "IMDB-BINARY": 493, "PROTEINS": 975}  # Ivanov et al. 2019


def raw(runner_data: Path, name: str) -> Path:
    folder = runner_data / "TUDataset" / name / "raw"
    if not (folder / f"{name}_A.txt").exists():
        pytest.skip(f"{folder} is not there")
    return folder


def gin_file(runner_data: Path, name: str) -> Path:
    folder = runner_data / "graphs" / "gin_txt"
    found = [path for path in (folder / name / f"{name}.txt", folder / f"{name}.zip") if path.exists()]
    return found[0] if found else pytest.skip(f"{name} is not in {folder}")


def edge_index(store: GraphStore) -> torch.Tensor:
    return torch.stack([torch.repeat_interleave(store.rowptr.diff()), store.col])


@pytest.mark.parametrize(
    "name", ["MUTAG", "PTC_MR", "PROTEINS", "IMDB-BINARY", pytest.param("NCI1", marks=pytest.mark.slow)]
)
def test_tu_as_torch_geometric_reads_it(runner_data, name):
    from torch_geometric.io import read_tu_data
    from torch_geometric.utils import degree

    folder = raw(runner_data, name)
    store = read_tu(folder, name)
    data, slices, sizes = read_tu_data(str(folder), name)
    nodes = torch.tensor(data._num_nodes) if data.x is None else slices["x"].diff()
    assert torch.equal(store.sizes, nodes)
    shift = torch.repeat_interleave(store.ptr[:-1], slices["edge_index"].diff())
    assert torch.equal(edge_index(store), data.edge_index + shift)
    assert torch.equal(store.y, data.y)
    if data.x is None:
        expected = one_hot(degree(edge_index(store)[0]).long())
    else:
        expected = data.x[:, sizes["num_node_attributes"] :]
    used = expected[:, expected.any(0)]  # torch-geometric has columns for labels that do not occur
    assert torch.equal(store.select(torch.arange(len(store))).x, used.float())


def parse_gin(text: str) -> list[tuple[int, list[int], set[tuple[int, int]]]]:
    """Per graph: label, tags, edges without self loops. By position in the stream of numbers, not by lines."""
    numbers = iter(text.split())
    graphs = []
    for _ in range(int(next(numbers))):
        n, label = int(next(numbers)), int(next(numbers))
        tags, edges = [], set()
        for v in range(n):
            tags.append(int(next(numbers)))
            edges |= {(v, int(next(numbers))) for _ in range(int(next(numbers)))}
        graphs.append((label, tags, {(a, b) for a, b in edges if a != b}))
    assert next(numbers, None) is None
    return graphs


@pytest.mark.parametrize("name", ["MUTAG", "PTC"])
def test_gin_text_as_another_parser_reads_it(runner_data, name):
    path = gin_file(runner_data, name)
    store, graphs = read_gin(path), parse_gin(path.read_text())
    labels, tags = (sorted(values) for values in ({g[0] for g in graphs}, {t for g in graphs for t in g[1]}))
    assert len(store) == len(graphs)
    for i, (label, graph_tags, edges) in enumerate(graphs):
        batch = store.select(torch.tensor([i]))
        assert labels[int(batch.y)] == label
        assert [tags[j] for j in batch.x.argmax(1)] == graph_tags
        assert {tuple(pair) for pair in batch.adj.to_dense().nonzero().tolist()} == edges


def statistics(store: GraphStore) -> tuple:
    graphs = len(store)
    return (
        graphs,
        torch.bincount(store.y).tolist(),
        round(store.sizes.sum().item() / graphs, 2),
        round(store.col.numel() / 2 / graphs, 2),
        store.num_features,
    )


@pytest.mark.parametrize("name", ["MUTAG", "PTC_MR", "PROTEINS", "NCI1", "IMDB-BINARY"])
def test_statistics_of_the_tu_files(runner_data, name):
    assert statistics(read_tu(raw(runner_data, name), name)) == STATISTICS[name]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("NCI1", "IMDBBINARY", "REDDIT-BINARY", "COLLAB")]


@pytest.mark.parametrize("name", ["MUTAG", "PTC", "PTC_MR", "PROTEINS", *SLOW])
def test_statistics_of_the_gin_file(runner_data, name):
    found, published = statistics(read_gin(gin_file(runner_data, name))), STATISTICS[name]
    assert found[0] == published[0]
    assert sorted(found[1]) == sorted(published[1])  # this format may number the classes otherwise
    assert found[2:4] == published[2:4]
    assert published[4] in (found[4], None)


@pytest.mark.parametrize("name", ["MUTAG", "PTC_MR"])
def test_both_formats_hold_the_same_graphs(runner_data, name):
    def shapes(store: GraphStore) -> list[tuple[int, int]]:
        graph = torch.repeat_interleave(store.sizes)
        return sorted(zip(store.sizes.tolist(), torch.bincount(graph[edge_index(store)[0]]).tolist(), strict=True))

    assert shapes(read_tu(raw(runner_data, name), name)) == shapes(read_gin(gin_file(runner_data, name)))


@pytest.mark.parametrize("name", CLEANED)
def test_cleaned_variants_from_their_archives(runner_data, name, tmp_path, monkeypatch):
    folder = runner_data / "graphs" / "tu_cleaned"
    if not (folder / f"{name}.zip").exists():
        pytest.skip(f"{folder / name}.zip is not there")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder)) as http:
        threading.Thread(target=http.serve_forever, args=[0.02]).start()
        monkeypatch.setattr(tu, "CLEANED_URL", f"http://127.0.0.1:{http.server_port}/{{name}}.zip")
        found = find_tu(tmp_path, name, cleaned=True)
        http.shutdown()
    assert len(read_tu(found, name)) == CLEANED[name]
