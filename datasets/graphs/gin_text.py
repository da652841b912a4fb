"""Reader of the text format of Xu et al. 2019 (GIN) for collections of graphs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from datasets.download import UNREADABLE_ZIP, CorruptData, fetch, first_existing, missing, unzip
from datasets.graphs.features import NodeData, encoding_of, node_features
from datasets.graphs.store import GraphStore
from datasets.graphs.tu import build_store

GIN_FOLDERS = ("dataset", "gin", "graphs/gin_txt")
GIN_URL = "https://github.com/weihua916/powerful-gnns/raw/master/dataset.zip"


def find_gin(root: Path, name: str) -> Path:
    """Return NAME/NAME.txt or a zip file that holds it; the archive of all collections is downloaded if it is missing.

    Args:
        root: data folder.
        name: name of the collection.

    Raises:
        MissingData: the collection is not on disk, and the download fails or lacks it.
        CorruptData: the archive is damaged.
    """
    candidates = [root / folder / file for folder in GIN_FOLDERS for file in (f"{name}/{name}.txt", f"{name}.zip")]
    if path := first_existing(*candidates):
        return path
    archive, unpacked = root / "gin" / "dataset.zip", root / "gin" / "powerful-gnns"
    if not unpacked.exists():
        try:
            fetch(GIN_URL, archive)
        except OSError as error:
            raise missing(f"{name} (GIN text format)", [*candidates, archive], GIN_URL, root, error) from error
        unzip(archive, unpacked)
    if path := next(unpacked.rglob(f"{name}.txt"), None):
        return path
    raise missing(f"{name} (GIN text format)", candidates, None, root)


@dataclass
class _Text:
    """Numbers of a file in the GIN text format, node by node and graph by graph."""

    sizes: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    tags: list[int] = field(default_factory=list)
    degrees: list[int] = field(default_factory=list)
    neighbours: list[np.ndarray] = field(default_factory=list)
    attributes: list[list[float]] = field(default_factory=list)

    def add_node(self, line: str, first: int) -> None:
        """Add a node of the graph whose first node has the number `first`: "tag m v1 .. vm", then attributes."""
        tag, degree, *rest = line.split()
        count = int(degree)
        if len(rest) < count or count < 0:
            raise ValueError(f"a node has {len(rest)} neighbours and says {count}")
        attributes = [float(value) for value in rest[count:]]
        if self.attributes and len(attributes) != len(self.attributes[0]):
            raise ValueError(f"a node has {len(attributes)} attributes, the first one has {len(self.attributes[0])}")
        if not np.isfinite(attributes).all():
            raise ValueError("an attribute is not finite")
        self.tags.append(int(tag))
        self.degrees.append(count)
        self.neighbours.append(np.array(rest[:count], dtype=np.int64) + first)
        self.attributes.append(attributes)


def read_gin(path: Path, features: str = "auto") -> GraphStore:
    """Read the GIN text format: per graph "n label" and per node "tag m v1 .. vm" with neighbours from 0.

    Numbers after the neighbours are attributes of the node, as in the published reader. Tags count as labels if they
    differ: collections without labels have one tag for all nodes. Self loops are dropped (COLLAB's file has some).

    Args:
        path: the text file, or a zip file that holds NAME/NAME.txt.
        features: node features, one of `features.NODE_FEATURES`.

    Raises:
        CorruptData: the file is damaged or has another format; the message names the line.
        ValueError: the collection lacks the node features that are chosen.
    """
    text = _parse(path, _read_lines(path))
    degree = torch.tensor(text.degrees)
    col = torch.from_numpy(np.concatenate(text.neighbours)) if text.neighbours else torch.empty(0, dtype=torch.long)
    if not col.numel():
        raise CorruptData(f"{path} has no edges")
    if int(col.min()) < 0 or int(col.max()) >= degree.numel():
        raise CorruptData(f"{path} names a neighbour that is no node of its graph")
    edge_index = torch.stack([torch.repeat_interleave(degree), col])
    store, degree = build_store(path, edge_index, torch.tensor(text.sizes), torch.tensor(text.labels))
    tags = torch.tensor(text.tags).unsqueeze(1) if len(set(text.tags)) > 1 else None
    attributes = torch.tensor(text.attributes) if text.attributes[0] else None
    nodes = NodeData(degree, tags, attributes)
    store.encoding = encoding_of(nodes, features, path.stem)
    store.x, store.num_categories = node_features(nodes, store.encoding.choice, path.stem, [], store.encoding)
    return store


def _read_lines(path: Path) -> list[str]:
    try:
        with _open_text(path) as file:
            return file.read().rstrip().split("\n")
    except (ValueError, KeyError, OSError, *UNREADABLE_ZIP) as error:
        raise CorruptData(f"{path} cannot be read: {error}") from error


def _parse(path: Path, lines: list[str]) -> _Text:
    text, number, first = _Text(), 0, 0
    try:
        num_graphs = int(lines[0])
        for _ in range(num_graphs):
            number += 1
            size, label = map(int, lines[number].split())
            for _ in range(size):
                number += 1
                text.add_node(lines[number], first)
            text.sizes.append(size)
            text.labels.append(label)
            first += size
        if number + 1 < len(lines):
            raise ValueError(f"the file goes on after its {num_graphs} graphs")
    except (ValueError, IndexError, OverflowError) as error:
        raise CorruptData(
            f"{path}, line {number + 1}: {error}; the file is cut short or not in the GIN text format"
        ) from error
    return text


@contextmanager
def _open_text(path: Path) -> Iterator[io.TextIOBase]:
    if path.suffix != ".zip":
        with open(path) as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive, archive.open(f"{path.stem}/{path.stem}.txt") as member:
        yield io.TextIOWrapper(member)
