"""What the tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # an example may compile kernels, or wait for a busy machine
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests run side by side, and their tensors are small."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def runner_data() -> Path:
    """The folder of published data sets; tests that need it are skipped without it."""
    if not os.environ.get("RUNNER_DATA"):
        pytest.skip("RUNNER_DATA names no data folder")
    folder = Path(os.environ["RUNNER_DATA"])
    if not folder.is_dir():
        pytest.skip(f"RUNNER_DATA={folder} is no folder")
    return folder


@pytest.fixture(scope="session")
def random_graphs() -> Callable:
    """(sizes, edge share, features, seed) -> the same random undirected graphs as a GraphStore and as PyG's Data.

    Nodes without neighbours occur. Features are float32 normal, classes alternate 0, 1.
    """
    from torch_geometric.data import Data
    from torch_geometric.utils import erdos_renyi_graph

    from datasets.graphs.store import GraphStore

    def make(sizes=(5, 1, 8, 3, 12), share=0.4, features=6, seed=0):
        torch.manual_seed(seed)
        data = [
            Data(x=torch.randn(n, features), edge_index=erdos_renyi_graph(n, share), y=torch.tensor([i % 2]))
            for i, n in enumerate(sizes)
        ]
        counts = torch.tensor(sizes)
        first = counts.cumsum(0) - counts
        edge_index = torch.cat([d.edge_index + start for d, start in zip(data, first, strict=True)], dim=1)
        store = GraphStore.from_edges(
            torch.cat([d.x for d in data]), edge_index, counts, torch.cat([d.y for d in data])
        )
        store.check()
        return store, data

    return make
