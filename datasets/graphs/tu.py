"""The TU collection (Morris et al. 2020), in its raw text format and in the text format of Xu et al. 2019 (GIN)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.download import CorruptData, fetch, first_existing, missing, unzip
from datasets.graphs.store import GraphStore

TU_URL = "https://www.chrsmrrs.com/graphkerneldatasets/{name}.zip"
CLEANED_URL = "https://raw.githubusercontent.com/nd7141/graph_datasets/master/datasets/{name}.zip"
GIN_URL = "https://github.com/weihua916/powerful-gnns/raw/master/dataset.zip"


def find_tu(root: Path, name: str, cleaned: bool = False) -> Path:
    """The folder of NAME_A.txt and its companions, as torch-geometric lays it out; downloaded where it is missing.

    `cleaned` takes the variant without isomorphic duplicates (Ivanov et al. 2019). Raises MissingData.
    """
    raw = "raw_cleaned" if cleaned else "raw"
    folders = [root / "TUDataset" / name / raw, root / name / raw]
    if found := first_existing(*(folder / f"{name}_A.txt" for folder in folders)):
        return found.parent
    url = (CLEANED_URL if cleaned else TU_URL).format(name=name)
    try:
        archive = fetch(url, folders[0].parent / f"{name}-{raw}.zip")
        unpacked = folders[0].with_name(f"{raw}-archive")
        if not unpacked.exists():
            unzip(archive, unpacked)
        return next(unpacked.rglob(f"{name}_A.txt")).parent
    except OSError as error:
        wanted = [folder / f"{name}_A.txt" for folder in folders]
        raise missing(f"{name} (TU format)", wanted, url, root, error) from error


def find_gin(root: Path, name: str) -> Path:
    """NAME/NAME.txt, or a zip file that holds it. Raises MissingData."""
    folders = [root / "dataset", root / "gin", root / "graphs" / "gin_txt"]
    for folder in folders:
        if found := first_existing(folder / name / f"{name}.txt", folder / f"{name}.zip"):
            return found
    try:
        unpacked = root / "gin" / "powerful-gnns"
        if not unpacked.exists():
            unzip(fetch(GIN_URL, root / "gin" / "dataset.zip"), unpacked)
        return next(unpacked.rglob(f"{name}.txt"))
    except (OSError, StopIteration) as error:
        wanted = [folder / name / f"{name}.txt" for folder in folders]
        raise missing(f"{name} (GIN text format)", wanted, GIN_URL, root, error) from error


def read_tu(folder: Path, name: str) -> GraphStore:
    """Reads the raw format. Self loops are dropped and parallel edges merged, as torch-geometric does.

    x is the node label where there is one (numbered densely, since unused label values would be dead columns), else the
    node's degree. Raises CorruptData for files that contradict each other.
    """

    def read(part: str) -> np.ndarray | None:
        path = folder / f"{name}_{part}.txt"
        if not path.exists():
            return None
        try:
            return np.loadtxt(path, delimiter=",", dtype=np.int64, ndmin=2)
        except ValueError as error:
            raise CorruptData(f"{path}: {error}") from error

    edges, indicator, labels = read("A"), read("graph_indicator"), read("graph_labels")
    if edges is None or indicator is None or labels is None:
        raise CorruptData(f"{folder} lacks one of {name}_A.txt, {name}_graph_indicator.txt, {name}_graph_labels.txt")
    graph = torch.from_numpy(indicator[:, 0]) - 1
    edge_index = torch.from_numpy(edges.T - 1)
    if (graph.diff() < 0).any() or int(graph[-1]) >= len(labels):
        raise CorruptData(f"{name}_graph_indicator.txt is unsorted, or names more graphs than {name}_graph_labels.txt")
    if edge_index.min() < 0 or edge_index.max() >= graph.numel():
        raise CorruptData(f"{name}_A.txt names a node outside 1..{graph.numel()}")
    edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    node_labels = read("node_labels")
    if node_labels is not None and len(node_labels) != graph.numel():
        raise CorruptData(f"{name}_node_labels.txt has {len(node_labels)} lines for {graph.numel()} nodes")
    tags = None if node_labels is None else torch.from_numpy(node_labels[:, 0])
    return _store(name, edge_index, torch.bincount(graph, minlength=len(labels)), torch.from_numpy(labels[:, 0]), tags)


def read_gin(path: Path) -> GraphStore:
    """Reads the GIN text format, per graph "n label" and per node "tag m v1 .. vm" with neighbours from 0.

    Self loops are dropped (COLLAB's file has some). x as in `read_tu`. Raises CorruptData.
    """
    name = path.stem
    try:
        with _open_text(path) as file:
            num_graphs = int(file.readline())
            sizes, labels, tags, degrees, neighbours, first = [], [], [], [], [], 0
            for _ in range(num_graphs):
                size, label = map(int, file.readline().split()[:2])
                for _ in range(size):
                    tag, degree, *rest = file.readline().split()
                    tags.append(int(tag))
                    degrees.append(int(degree))
                    neighbours.append(np.array(rest[: int(degree)], dtype=np.int64) + first)
                sizes.append(size)
                labels.append(label)
                first += size
    except ValueError as error:
        raise CorruptData(f"{path} is not in the GIN text format: {error}") from error
    degree = torch.tensor(degrees)
    col = torch.from_numpy(np.concatenate(neighbours))
    if col.numel() != int(degree.sum()) or int(col.max()) >= degree.numel():
        raise CorruptData(f"{path} is cut short: a node has fewer neighbours than it says")
    edge_index = torch.stack([torch.repeat_interleave(degree), col])
    edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    tag = torch.tensor(tags) if len(set(tags)) > 1 else None
    return _store(name, edge_index, torch.tensor(sizes), torch.tensor(labels), tag)


def _open_text(path: Path) -> io.TextIOBase:
    if path.suffix != ".zip":
        return open(path)
    return io.TextIOWrapper(zipfile.ZipFile(path).open(f"{path.stem}/{path.stem}.txt"))


def _store(name: str, edge_index: Tensor, sizes: Tensor, labels: Tensor, tags: Tensor | None) -> GraphStore:
    y = torch.unique(labels, return_inverse=True)[1]
    store = GraphStore.from_edges(torch.empty(0), edge_index, sizes, y)
    values = store.rowptr.diff() if tags is None else tags
    observed, dense = torch.unique(values, return_inverse=True)
    store.x, store.num_categories = dense, observed.numel()
    try:
        store.check()
    except ValueError as error:
        raise CorruptData(f"{name}: {error}") from error
    return store
