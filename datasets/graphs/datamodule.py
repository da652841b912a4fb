"""DataModules of graph collections: cross-validation folds, and loaders over tensors in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule

from datasets.batching import ranks
from datasets.checks import check_choice, check_keys, check_positive, check_seed
from datasets.download import CorruptData, missing
from datasets.graphs.atlas import biconnected_atlas
from datasets.graphs.features import NODE_FEATURES
from datasets.graphs.gin_text import find_gin, read_gin
from datasets.graphs.splits import FOLDS, fair_split, published_split, xu_split
from datasets.graphs.store import GraphLoader, GraphStore
from datasets.graphs.tu import find_tu, read_tu

COUNTS = ("graphs", "classes", "features")


class CollectionDataModule(LightningDataModule):
    """DataModule of a graph collection held in memory. A subclass reads it.

    Loaders: train (shuffled), val, test. Batches are global ones: of several processes each takes its share.

    Args:
        batch_size: graphs in a global batch.
        expect: numbers of `graphs`, `classes` and `features` that the data must have; a damaged copy is refused by
            them. None: not checked.
        root: data folder.
        seed: seed of the shuffling.
        workers: unused, the data is in memory.

    Raises:
        ValueError: bad arguments.
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
        check_positive("dataset", batch_size=batch_size)
        check_keys("dataset.expect", expect or {}, COUNTS)
        self.batch_size, self.expect = batch_size, dict(expect or {})
        self.root, self.seed = Path(root), seed
        self.store: GraphStore | None = None

    def load(self) -> tuple[GraphStore, dict[str, torch.Tensor]]:
        """Read the collection. A subclass implements this.

        Returns:
            The collection, and the graphs of train, val and test, int64 each.
        """
        raise NotImplementedError(f"{type(self).__name__}.load is missing")

    def setup(self, stage: str | None = None) -> None:
        """Read the collection and its parts, once."""
        if self.store is None:
            self.store, self.parts = self.load()

    def check(self, store: GraphStore) -> None:
        """Raise CorruptData if a count differs from `expect`."""
        counts = {"graphs": len(store), "classes": int(store.y.max()) + 1, "features": store.num_features}
        if wrong := {key: counts[key] for key, value in self.expect.items() if counts[key] != value}:
            raise CorruptData(
                f"this copy of the data has {wrong}, expected {self.expect}: it is damaged or another version; "
                "to use it nevertheless, set dataset.expect=null (an empty {} keeps the values of the config file)"
            )

    def _loader(self, part: str, **options: Any) -> GraphLoader:
        assert self.store is not None, "setup first"
        options |= ranks(self.trainer)
        return GraphLoader(self.store, self.parts[part], self.batch_size, seed=self.seed, **options)

    def train_dataloader(self) -> GraphLoader:
        """Return the loader of shuffled training batches."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> GraphLoader | list[GraphLoader]:
        """Return the loader of the validation part, or several."""
        return self._loader("val")

    def test_dataloader(self) -> GraphLoader:
        """Return the loader of the test part."""
        return self._loader("test")


class GraphDataModule(CollectionDataModule):
    """DataModule of a collection for graph classification by cross-validation. A subclass reads it.

    It yields `GraphBatch`: x (N, F) float32 node features, y (B,) int64 in 0..C-1, and the structure of the batch.
    Loaders: train (shuffled), val (the watched fold, then the training part unshuffled if `evaluate_train`), test.

    Args:
        protocol: `xu` watches the held-out fold itself, as Xu et al. 2019 (val and test are the same graphs);
            `fair` selects on a tenth of the training part, as Errica et al. 2020.
        fold: number of the cross-validation fold that is held out, 0..9.
        fold_seed: seed of StratifiedKFold; the papers' code uses 9.
        iterations: random batches in an epoch (the GIN paper: 50); None: one pass through the graphs.
        readout: pooling of the nodes that papers use for this collection, `sum` or `mean`; models read it from the
            config.
        evaluate_train: also evaluate the training part after every epoch.
        splits_file: published split file (JSON of Errica et al.) below the data folder, in place of our folds.
        collection: arguments of `CollectionDataModule`.

    Raises:
        ValueError: bad arguments.
        MissingData: a file is missing (in `setup`).
        CorruptData: a file is damaged (in `setup`).
    """

    task = "graph-classification"

    def __init__(
        self,
        protocol: Literal["xu", "fair"] = "xu",
        fold: int = 0,
        fold_seed: int = 9,
        iterations: int | None = None,
        readout: Literal["sum", "mean"] = "sum",
        evaluate_train: bool = True,
        splits_file: str | None = None,
        **collection: Any,
    ) -> None:
        super().__init__(**collection)
        check_choice("dataset.protocol", protocol, ("xu", "fair"))
        check_choice("dataset.readout", readout, ("sum", "mean"))
        check_choice("dataset.fold", fold, tuple(range(FOLDS)))
        check_seed("dataset", fold_seed=fold_seed)
        check_positive("dataset", iterations=iterations)
        if splits_file and protocol != "fair":
            raise ValueError("dataset.splits_file goes with dataset.protocol=fair")
        self.protocol, self.fold, self.fold_seed = protocol, fold, fold_seed
        self.iterations, self.readout = iterations, readout
        self.evaluate_train, self.splits_file = evaluate_train, splits_file

    def read(self) -> GraphStore:
        """Read the collection. A subclass implements this."""
        raise NotImplementedError(f"{type(self).__name__}.read is missing")

    def load(self) -> tuple[GraphStore, dict[str, torch.Tensor]]:
        """Read the collection, check it, and split it by the protocol."""
        store = self.read()
        self.check(store)
        return store, self._split(store)

    def _split(self, store: GraphStore) -> dict[str, torch.Tensor]:
        if self.splits_file:
            path = self.root / self.splits_file
            if not path.is_file():
                raise missing("the split file", [path], None, self.root)
            return published_split(path, self.fold, len(store))
        split = xu_split if self.protocol == "xu" else fair_split
        return split(store.y, self.fold, self.fold_seed)

    @property
    def dims(self) -> dict[str, int]:
        """Arguments of a network that depend on the data, after `setup`: in_channels, out_channels."""
        assert self.store is not None, "setup first"
        return {"in_channels": self.store.num_features, "out_channels": int(self.store.y.max()) + 1}

    def train_dataloader(self) -> GraphLoader:
        """Return the loader of shuffled training batches, `iterations` in an epoch if that is set."""
        return self._loader("train", shuffle=True, iterations=self.iterations)

    def val_dataloader(self) -> list[GraphLoader]:
        """Return the loader of the watched fold and, with `evaluate_train`, of the training part."""
        return [self._loader(part) for part in (["val", "train"] if self.evaluate_train else ["val"])]

    def predict_files(self, paths: list[Path], out: Path, module: Any) -> list[Path]:
        """Write the probability of each class for the graphs of TU folders (`prediction.predict_graphs`)."""
        from datasets.graphs.prediction import predict_graphs

        return predict_graphs(paths, out, module, self)


class TUGraphs(GraphDataModule):
    """DataModule of a collection of the TU benchmark; it yields what `GraphDataModule` describes.

    Args:
        name: name of the collection as its files spell it (MUTAG, PROTEINS, ...).
        format: `tu` (raw files) or `gin` (text files of Xu et al.). They order the graphs differently, so their folds
            differ. Nothing is chosen by what lies on disk: one run id means one order.
        cleaned: take the variant without isomorphic duplicates; raw files only.
        node_features: `labels` (one-hot), `attributes`, `both`, `degree` (one-hot), `constant` (a 1), or `auto`:
            labels, else attributes, else degree, whichever the files have.
        kwargs: arguments of `GraphDataModule`.

    Raises:
        ValueError: bad arguments, or node features that the files do not have (in `setup`).
    """

    def __init__(
        self,
        name: str,
        format: Literal["tu", "gin"] = "tu",
        cleaned: bool = False,
        node_features: Literal["auto", "labels", "attributes", "both", "degree", "constant"] = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("dataset.format", format, ("tu", "gin"))
        check_choice("dataset.node_features", node_features, NODE_FEATURES)
        if format == "gin" and self.splits_file:
            raise ValueError("dataset.splits_file counts graphs in the order of the raw format: dataset.format=tu")
        if format == "gin" and cleaned:
            raise ValueError("dataset.cleaned=true exists in the raw format alone: dataset.format=tu")
        self.collection, self.format, self.cleaned = name, format, cleaned
        self.node_features = node_features

    def read(self) -> GraphStore:
        """Read the files, which are downloaded if they are missing."""
        if self.format == "gin":
            return read_gin(find_gin(self.root, self.collection), self.node_features)
        folder = find_tu(self.root, self.collection, self.cleaned)
        return read_tu(folder, self.collection, self.node_features)


class AtlasGraphs(GraphDataModule):
    """DataModule of the embedded collection: is a graph biconnected? It yields what `GraphDataModule` describes."""

    def read(self) -> GraphStore:
        """Make the graphs; no files are needed."""
        return biconnected_atlas()
