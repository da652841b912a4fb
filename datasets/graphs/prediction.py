"""Predictions for graphs in the TU format: a CSV with the probability of each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from datasets.graphs.store import GraphLoader
from datasets.graphs.tu import read_tu
from datasets.prediction import network_of, probabilities_rows, unique_names, write_rows


def predict_graphs(paths: list[Path], out: Path, module: Any, data: Any) -> list[Path]:
    """Write `<NAME>.csv` for each folder NAME_A.txt, ...: a row for each graph, numbered from 1 as in the files.

    Collections of one name get the names of their folders before it.

    Node labels and degrees get the columns that they have in the training collection; `<NAME>_graph_labels.txt` may be
    missing. Columns: graph, label (if the files have it), predicted, and the probability of each class by the files'
    label.

    Args:
        paths: folders in the TU format, or one of their files `<NAME>_A.txt` each.
        out: folder of the CSV files.
        module: method with a network from a GraphBatch to logits (B, K).
        data: DataModule that the network was trained on.

    Raises:
        ValueError: a path is neither, or its nodes have other features than the training collection.
    """
    encoding = data.store.encoding
    if encoding is None:
        raise ValueError("this run's collection does not say how its node features were made, so no files can be read")
    classes = [
        str(c)
        for c in (range(data.dims["out_channels"]) if data.store.classes is None else data.store.classes.tolist())
    ]
    written = []
    for file, unique in unique_names((edge_file(path) for path in paths), collection_of).items():
        store = read_tu(file.parent, collection_of(file), known=encoding)
        if store.num_features != data.dims["in_channels"]:
            raise ValueError(f"{file.parent}: nodes have {store.num_features} features, not {data.dims['in_channels']}")
        loader = GraphLoader(store, torch.arange(len(store)), data.batch_size)
        probabilities = [row for batch in loader for row in network_of(module)(batch).softmax(1).tolist()]
        rows = probabilities_rows([str(i + 1) for i in range(len(store))], probabilities, classes)
        header = ["graph", "predicted", *(f"p({c})" for c in classes)]
        if store.classes is not None:
            header.insert(1, "label")
            for row, label in zip(rows, store.classes[store.y].tolist(), strict=True):
                row.insert(1, label)
        written.append(write_rows(out / f"{unique}.csv", header, rows))
    return written


def collection_of(file: Path) -> str:
    """Return NAME of a file NAME_A.txt."""
    return file.name.removesuffix("_A.txt")


def edge_file(path: Path) -> Path:
    """Return the file NAME_A.txt of a folder, or the path if it is one. Raises ValueError if there is not one alone."""
    if path.name.endswith("_A.txt"):
        return path
    found = sorted(path.rglob("*_A.txt")) if path.is_dir() else []
    if len(found) != 1:
        raise ValueError(
            f"{path} must hold one collection in the TU format (NAME_A.txt, NAME_graph_indicator.txt, ...)"
        )
    return found[0]
