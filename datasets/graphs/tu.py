"""Reader of the TU collection (Morris et al. 2020) in its raw text format."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.download import CorruptData, fetch, first_existing, missing, unzip
from datasets.graphs.features import Encoding, NodeData, encoding_of, node_features
from datasets.graphs.store import GraphStore

TU_URL = "https://www.chrsmrrs.com/graphkerneldatasets/{name}.zip"
CLEANED_URL = "https://raw.githubusercontent.com/nd7141/graph_datasets/master/datasets/{name}.zip"

# Files of a collection that nothing here reads.
UNUSED = {
    "edge_labels": "edge labels",
    "edge_attributes": "edge attributes",
    "graph_attributes": "graph attributes",
}


def _folders(root: Path, name: str, cleaned: bool) -> list[Path]:
    raw = "raw_cleaned" if cleaned else "raw"
    return [root / "TUDataset" / name / raw, root / name / raw]


def find_tu(root: Path, name: str, cleaned: bool = False) -> Path:
    """Return the folder of NAME_A.txt and its companions, in torch-geometric's layout.

    A missing collection is unpacked from its zip file, which is looked for below the data folder and else downloaded.

    Args:
        root: data folder.
        name: name of the collection.
        cleaned: take the variant without isomorphic duplicates (Ivanov et al. 2019).

    Raises:
        MissingData: the collection is not on disk, and its download fails.
        CorruptData: the archive is damaged or lacks the collection.
    """
    folders = _folders(root, name, cleaned)
    if file := first_existing(*(folder / f"{name}_A.txt" for folder in folders)):
        return file.parent
    raw = folders[0].name
    url = (CLEANED_URL if cleaned else TU_URL).format(name=name)
    unpacked = folders[0].with_name(f"{raw}-archive")
    archives = [
        folders[0].parent / f"{name}-{raw}.zip",
        root / "graphs" / f"tu_{raw.removeprefix('raw_')}" / f"{name}.zip",
    ]
    if not unpacked.exists():
        try:
            archive = first_existing(*archives) or fetch(url, archives[0])
        except OSError as error:
            wanted = [*(folder / f"{name}_A.txt" for folder in folders), *archives]
            raise missing(f"{name} (TU format)", wanted, url, root, error) from error
        unzip(archive, unpacked)
    if file := next(unpacked.rglob(f"{name}_A.txt"), None):
        return file.parent
    raise CorruptData(f"{unpacked}, unpacked from the archive of {url}, holds no {name}_A.txt")


def read_tu(folder: Path, name: str, features: str = "auto", known: Encoding | None = None) -> GraphStore:
    """Read the raw format. Self loops are dropped and parallel edges merged, as torch-geometric does.

    Edge labels, edge attributes and graph attributes are not read; a log line says so if they exist.

    Args:
        folder: folder of the files.
        name: name of the collection, which begins the file names.
        features: node features, one of `features.NODE_FEATURES`.
        known: encoding of the collection that a network was trained on, which replaces `features`. The graphs may then
            lack labels; `classes` is None without them.

    Raises:
        CorruptData: a file is missing or damaged, or files contradict each other.
        ValueError: the collection lacks the node features that are chosen.
    """

    def path(part: str) -> Path:
        return folder / f"{name}_{part}.txt"

    if not path("graph_labels").exists() and path("graph_attributes").exists():
        raise CorruptData(
            f"{path('graph_labels')} is missing: {name} is for regression, and graphs are classified here"
        )
    edge_index = read_table(path("A"), columns=2).T - 1
    graph = read_table(path("graph_indicator"), columns=1)[:, 0] - 1
    unlabelled = known is not None and not path("graph_labels").exists()
    labels = graph.unique() * 0 if unlabelled else read_table(path("graph_labels"), columns=1)[:, 0]
    if (graph.diff() < 0).any() or int(graph[0]) < 0 or int(graph[-1]) + 1 != len(labels):
        raise CorruptData(
            f"{path('graph_indicator')} must be sorted, from 1 to the {len(labels)} graphs of {path('graph_labels')}"
        )
    if int(edge_index.min()) < 0 or int(edge_index.max()) >= graph.numel():
        raise CorruptData(f"{path('A')} names a node outside 1..{graph.numel()}")
    node_labels = _read_nodes(path("node_labels"), graph.numel(), np.int64)
    attributes = _read_nodes(path("node_attributes"), graph.numel(), np.float64)
    store, degree = build_store(path("A"), edge_index, torch.bincount(graph), labels)
    nodes = NodeData(degree, node_labels, None if attributes is None else attributes.float())
    unused = [what for part, what in UNUSED.items() if path(part).exists()]
    encoding = known or encoding_of(nodes, features, name)
    store.x, store.num_categories = node_features(nodes, encoding.choice, name, unused, encoding)
    store.encoding, store.classes = encoding, None if unlabelled else labels.unique()
    return store


def read_table(path: Path, columns: int | None = None, dtype: type = np.int64) -> Tensor:
    """Read a text file of numbers that are separated by commas.

    Args:
        path: the file.
        columns: number of columns that it must have; None: any.
        dtype: type of the numbers.

    Returns:
        (lines, columns) tensor.

    Raises:
        CorruptData: the file is missing, has a blank line, another number of columns, or what is no finite number.
    """
    try:
        text = path.read_text().rstrip()
        if text and (blank := re.search(r"^[^\S\n]*$", text, re.MULTILINE)):
            line = text.count("\n", 0, blank.start()) + 1
            raise CorruptData(f"{path}, line {line} is blank, so the lines below it would be those of other rows")
        with warnings.catch_warnings(action="ignore"):  # numpy's, of a file without lines
            table: np.ndarray = np.loadtxt(io.StringIO(text), delimiter=",", dtype=dtype, ndmin=2, comments=None)
    except FileNotFoundError as error:
        raise CorruptData(f"{path} is missing") from error
    except CorruptData:
        raise
    except (ValueError, OverflowError) as error:
        raise CorruptData(f"{path}: {error}") from error
    if not table.size:
        raise CorruptData(f"{path} has no lines")
    if columns is not None and table.shape[1] != columns:
        raise CorruptData(f"{path} must have lines of {columns} numbers, has {table.shape[1]} in each line")
    if not (finite := np.isfinite(table).all(axis=1)).all():
        raise CorruptData(f"{path}, line {int(finite.argmin()) + 1} has a value that is not finite")
    return torch.from_numpy(table)


def _read_nodes(path: Path, num_nodes: int, dtype: type) -> Tensor | None:
    """Return the numbers of each node, (N, columns), or None if there is no such file."""
    if not path.exists():
        return None
    table = read_table(path, dtype=dtype)
    if len(table) != num_nodes:
        raise CorruptData(f"{path} has {len(table)} lines for {num_nodes} nodes")
    return table


def build_store(source: Path, edge_index: Tensor, sizes: Tensor, labels: Tensor) -> tuple[GraphStore, Tensor]:
    """Make a store without node features; graph labels are numbered from 0 without gaps.

    Args:
        source: file of the edges, for messages.
        edge_index: (2, E) directed edges of global node numbers; self loops are dropped, parallel edges merged.
        sizes: (G,) number of nodes of each graph.
        labels: (G,) int64.

    Returns:
        The store, and the degree of each node, (N,) int64, in which a self loop counts once.

    Raises:
        CorruptData: an edge has no reverse, or joins two graphs.
    """
    is_loop = edge_index[0] == edge_index[1]
    loops, edge_index = edge_index[0, is_loop].unique(), edge_index[:, ~is_loop]
    y = torch.unique(labels, return_inverse=True)[1]
    store = GraphStore.from_edges(torch.empty(0), edge_index, sizes, y)
    try:
        store.check()
    except ValueError as error:
        raise CorruptData(f"{source}: {error}") from error
    return store, store.rowptr.diff().index_add_(0, loops, torch.ones_like(loops))
