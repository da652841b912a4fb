"""The TU collection (Morris et al. 2020), in its raw text format and in the text format of Xu et al. 2019 (GIN)."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.download import UNREADABLE_ZIP, CorruptData, fetch, first_existing, missing, unzip
from datasets.graphs.store import GraphStore

TU_URL = "https://www.chrsmrrs.com/graphkerneldatasets/{name}.zip"
CLEANED_URL = "https://raw.githubusercontent.com/nd7141/graph_datasets/master/datasets/{name}.zip"
GIN_FOLDERS = ("dataset", "gin", "graphs/gin_txt")
GIN_URL = "https://github.com/weihua916/powerful-gnns/raw/master/dataset.zip"


def tu_on_disk(root: Path, name: str, cleaned: bool = False) -> Path | None:
    """The folder of NAME_A.txt and its companions, as torch-geometric lays it out."""
    found = first_existing(*(folder / f"{name}_A.txt" for folder in _tu_folders(root, name, cleaned)))
    return found and found.parent


def _tu_folders(root: Path, name: str, cleaned: bool) -> list[Path]:
    raw = "raw_cleaned" if cleaned else "raw"
    return [root / "TUDataset" / name / raw, root / name / raw]


def find_tu(root: Path, name: str, cleaned: bool = False) -> Path:
    """As `tu_on_disk`, downloaded where it is missing.

    `cleaned` takes the variant without isomorphic duplicates (Ivanov et al. 2019). Raises MissingData, CorruptData.
    """
    if found := tu_on_disk(root, name, cleaned):
        return found
    folders = _tu_folders(root, name, cleaned)
    raw = folders[0].name
    url = (CLEANED_URL if cleaned else TU_URL).format(name=name)
    try:
        unpacked = _unpacked(url, folders[0].parent / f"{name}-{raw}.zip", folders[0].with_name(f"{raw}-archive"))
    except OSError as error:
        wanted = [folder / f"{name}_A.txt" for folder in folders]
        raise missing(f"{name} (TU format)", wanted, url, root, error) from error
    if found := next(unpacked.rglob(f"{name}_A.txt"), None):
        return found.parent
    raise CorruptData(f"{unpacked}, unpacked from {url}, holds no {name}_A.txt")


def gin_on_disk(root: Path, name: str) -> Path | None:
    """NAME/NAME.txt, or a zip file that holds it."""
    files = (root / folder / file for folder in GIN_FOLDERS for file in (f"{name}/{name}.txt", f"{name}.zip"))
    return first_existing(*files)


def find_gin(root: Path, name: str) -> Path:
    """As `gin_on_disk`, downloaded where it is missing. Raises MissingData, CorruptData."""
    if found := gin_on_disk(root, name):
        return found
    wanted = [root / folder / name / f"{name}.txt" for folder in GIN_FOLDERS]
    try:
        unpacked = _unpacked(GIN_URL, root / "gin" / "dataset.zip", root / "gin" / "powerful-gnns")
    except OSError as error:
        raise missing(f"{name} (GIN text format)", wanted, GIN_URL, root, error) from error
    if found := next(unpacked.rglob(f"{name}.txt"), None):
        return found
    raise missing(f"{name} (GIN text format)", wanted, None, root)


def _unpacked(url: str, archive: Path, folder: Path) -> Path:
    """The folder that the downloaded archive is unpacked to. Raises OSError, CorruptData."""
    if not folder.exists():
        unzip(fetch(url, archive), folder)
    return folder


def read_tu(folder: Path, name: str) -> GraphStore:
    """Reads the raw format. Self loops are dropped and parallel edges merged, as torch-geometric does.

    x is the node label where there is one, else the node's degree, in which a self loop counts once, as in the papers'
    code; numbered densely, since values that do not occur would be dead columns. Raises CorruptData for files that
    contradict each other.
    """

    def path(part: str) -> Path:
        return folder / f"{name}_{part}.txt"

    def read(part: str, columns: int) -> Tensor:
        """(lines, columns)"""
        try:
            with warnings.catch_warnings(action="ignore"):  # numpy's, of a file without lines
                table = np.loadtxt(path(part), delimiter=",", dtype=np.int64, ndmin=2)
        except FileNotFoundError as error:
            raise CorruptData(f"{path(part)} is missing") from error
        except ValueError as error:
            raise CorruptData(f"{path(part)}: {error}") from error
        if not table.size or table.shape[1] < columns:
            raise CorruptData(f"{path(part)} must have lines of {columns} numbers, has {table.shape}")
        return torch.from_numpy(table)

    edge_index = read("A", 2)[:, :2].T - 1
    graph, labels = read("graph_indicator", 1)[:, 0] - 1, read("graph_labels", 1)[:, 0]
    if (graph.diff() < 0).any() or int(graph[0]) < 0 or int(graph[-1]) + 1 != len(labels):
        raise CorruptData(
            f"{path('graph_indicator')} must be sorted, from 1 to the {len(labels)} graphs of {path('graph_labels')}"
        )
    if int(edge_index.min()) < 0 or int(edge_index.max()) >= graph.numel():
        raise CorruptData(f"{path('A')} names a node outside 1..{graph.numel()}")
    tags = read("node_labels", 1)[:, 0] if path("node_labels").exists() else None
    if tags is not None and tags.numel() != graph.numel():
        raise CorruptData(f"{path('node_labels')} has {tags.numel()} lines for {graph.numel()} nodes")
    return _store(path("A"), edge_index, torch.bincount(graph), labels, tags)


def read_gin(path: Path) -> GraphStore:
    """Reads the GIN text format, per graph "n label" and per node "tag m v1 .. vm" with neighbours from 0.

    Self loops are dropped (COLLAB's file has some). x as in `read_tu`. Raises CorruptData.
    """
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
            if file.read().strip():
                raise ValueError(f"it goes on after its {num_graphs} graphs")
    except (ValueError, KeyError, *UNREADABLE_ZIP) as error:
        raise CorruptData(f"{path} is cut short or not in the GIN text format: {error}") from error
    degree = torch.tensor(degrees)
    col = torch.from_numpy(np.concatenate(neighbours)) if neighbours else torch.empty(0, dtype=torch.long)
    if not col.numel() or col.numel() != int(degree.sum()):
        raise CorruptData(f"{path} is cut short: a node has fewer neighbours than it says")
    if int(col.min()) < 0 or int(col.max()) >= degree.numel():
        raise CorruptData(f"{path} names a neighbour that is no node of its graph")
    edge_index = torch.stack([torch.repeat_interleave(degree), col])
    tag = torch.tensor(tags) if len(set(tags)) > 1 else None
    return _store(path, edge_index, torch.tensor(sizes), torch.tensor(labels), tag)


@contextmanager
def _open_text(path: Path) -> Iterator[io.TextIOBase]:
    if path.suffix != ".zip":
        with open(path) as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive, archive.open(f"{path.stem}/{path.stem}.txt") as member:
        yield io.TextIOWrapper(member)


def _store(source: Path, edge_index: Tensor, sizes: Tensor, labels: Tensor, tags: Tensor | None) -> GraphStore:
    is_loop = edge_index[0] == edge_index[1]
    loops, edge_index = edge_index[0, is_loop].unique(), edge_index[:, ~is_loop]
    y = torch.unique(labels, return_inverse=True)[1]
    store = GraphStore.from_edges(torch.empty(0), edge_index, sizes, y)
    values = store.rowptr.diff().index_add_(0, loops, torch.ones_like(loops)) if tags is None else tags
    observed, dense = torch.unique(values, return_inverse=True)
    store.x, store.num_categories = dense, observed.numel()
    try:
        store.check()
    except ValueError as error:
        raise CorruptData(f"{source}: {error}") from error
    return store
