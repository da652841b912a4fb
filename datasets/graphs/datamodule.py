"""DataModules of graph collections: cross-validation folds, and loaders over ready tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning import LightningDataModule

from datasets.batching import ranks
from datasets.download import CorruptData, missing
from datasets.graphs.atlas import biconnected_atlas
from datasets.graphs.splits import fair_split, published_split, xu_split
from datasets.graphs.store import GraphLoader, GraphStore
from datasets.graphs.tu import find_gin, find_tu, read_gin, read_tu


class CollectionDataModule(LightningDataModule):
    """Loaders over the parts of a collection held in memory: train (shuffled), val, test.

    A subclass says how it is read. Batches are the global ones: under several processes each takes its share.

    Args:
        batch_size: graphs in a global batch.
        expect: counts that the data must have: graphs, classes, features. A damaged copy is refused by them.
        root: the data folder. seed: of the shuffling. workers: unused, the data is in memory.
    """

    def __init__(
        self,
        batch_size: int = 128,
        expect: dict[str, int] | None = None,
        root: str | Path = "data",
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"dataset.batch_size must be positive, got {batch_size}")
        self.batch_size, self.expect = batch_size, dict(expect or {})
        self.root, self.seed = Path(root), seed
        self.store: GraphStore | None = None

    def load(self) -> tuple[GraphStore, dict[str, torch.Tensor]]:
        """The collection, and which of its graphs are train, val and test; a subclass says how."""
        raise TypeError(f"{type(self).__name__} does not say how its graphs are read")

    def setup(self, stage: str | None = None) -> None:
        if self.store is None:
            self.store, self.parts = self.load()

    def check(self, store: GraphStore) -> None:
        """Raises CorruptData where a count is not as expected."""
        found = {"graphs": len(store), "classes": int(store.y.max()) + 1, "features": store.num_features}
        if wrong := {key: found[key] for key, value in self.expect.items() if found[key] != value}:
            raise CorruptData(
                f"this copy of the data has {wrong}, expected {self.expect}: it is damaged or another version"
            )

    def _loader(self, part: str, **options) -> GraphLoader:
        options |= ranks(self.trainer)
        return GraphLoader(self.store, self.parts[part], self.batch_size, seed=self.seed, **options)

    def train_dataloader(self) -> GraphLoader:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> GraphLoader | list[GraphLoader]:
        return self._loader("val")

    def test_dataloader(self) -> GraphLoader:
        return self._loader("test")


class GraphDataModule(CollectionDataModule):
    """Yields `GraphBatch`: x (N, F) float32 one-hot node labels, y (B,) int64 in 0..C-1, and the batch's structure.

    Loaders: train (shuffled), val (the fold that is watched, then the training part unshuffled if `evaluate_train`),
    test.

    Args:
        protocol: `xu` watches the held-out fold itself, as Xu et al. 2019 (val and test are the same graphs);
            `fair` selects on a tenth of the training part, as Errica et al. 2020.
        fold: 0..9. fold_seed: of StratifiedKFold; the papers' code uses 9.
        iterations: random batches in an epoch (the GIN paper: 50); None: one pass.
        readout: how papers pool this collection's nodes, `sum` or `mean`; models read it from here.
        constant_features: one constant 1 instead of the node labels (REDDIT-BINARY).
        evaluate_train: also evaluate the training part after every epoch.
        splits_file: a published split file (JSON of Errica et al.) below the data folder, instead of our folds.
        collection: what `CollectionDataModule` takes.

    Raises MissingData, CorruptData (setup), ValueError (bad arguments).
    """

    task = "graph-classification"

    def __init__(
        self,
        protocol: Literal["xu", "fair"] = "xu",
        fold: int = 0,
        fold_seed: int = 9,
        iterations: int | None = None,
        readout: Literal["sum", "mean"] = "sum",
        constant_features: bool = False,
        evaluate_train: bool = True,
        splits_file: str | None = None,
        **collection,
    ) -> None:
        super().__init__(**collection)
        if protocol not in ("xu", "fair"):
            raise ValueError(f"dataset.protocol must be xu or fair, got {protocol}")
        if readout not in ("sum", "mean"):
            raise ValueError(f"dataset.readout must be sum or mean, got {readout}")
        if not 0 <= fold < 10:
            raise ValueError(f"dataset.fold must lie in 0..9, got {fold}")
        if splits_file and protocol != "fair":
            raise ValueError("dataset.splits_file goes with dataset.protocol=fair")
        self.protocol, self.fold, self.fold_seed = protocol, fold, fold_seed
        self.iterations, self.readout = iterations, readout
        self.constant_features, self.evaluate_train = constant_features, evaluate_train
        self.splits_file = splits_file

    def read(self) -> GraphStore:
        """The collection; a subclass says how."""
        raise TypeError(f"{type(self).__name__} does not say how its graphs are read")

    def load(self) -> tuple[GraphStore, dict[str, torch.Tensor]]:
        store = self.read()
        self.check(store)
        if self.constant_features:
            store.x, store.num_categories = torch.ones(store.rowptr.numel() - 1, 1), None
        return store, self._split(store)

    def _split(self, store: GraphStore) -> dict[str, torch.Tensor]:
        if self.splits_file:
            path = self.root / self.splits_file
            if not path.exists():
                raise missing("the split file", [path], None, self.root)
            return published_split(path, self.fold, len(store))
        split = xu_split if self.protocol == "xu" else fair_split
        return split(store.y, self.fold, self.fold_seed)

    @property
    def dims(self) -> dict[str, int]:
        """What a network must be told of the data: in_channels, out_channels. After `setup`."""
        assert self.store is not None, "setup first"
        return {"in_channels": self.store.num_features, "out_channels": int(self.store.y.max()) + 1}

    def train_dataloader(self) -> GraphLoader:
        return self._loader("train", shuffle=True, iterations=self.iterations)

    def val_dataloader(self) -> list[GraphLoader]:
        return [self._loader(part) for part in (["val", "train"] if self.evaluate_train else ["val"])]


class TUGraphs(GraphDataModule):
    """A collection of the TU benchmark; yields what `GraphDataModule` says.

    Args:
        name: as the collection spells it (MUTAG, PROTEINS, ...).
        format: `tu` (raw) or `gin` (text of Xu et al.). Their order of graphs differs, hence their folds.
        cleaned: without isomorphic duplicates (raw format only).
    """

    def __init__(self, name: str, format: Literal["tu", "gin"] = "tu", cleaned: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        if format not in ("tu", "gin"):
            raise ValueError(f"dataset.format must be tu or gin, got {format}")
        if format == "gin" and self.splits_file:
            raise ValueError("dataset.splits_file counts graphs in the order of the raw format: dataset.format=tu")
        self.name, self.format, self.cleaned = name, format, cleaned

    def read(self) -> GraphStore:
        if self.format == "gin":
            return read_gin(find_gin(self.root, self.name))
        return read_tu(find_tu(self.root, self.name, self.cleaned), self.name)


class AtlasGraphs(GraphDataModule):
    """The embedded collection: is a small graph biconnected? Yields what `GraphDataModule` says; needs no files."""

    def read(self) -> GraphStore:
        return biconnected_atlas()
