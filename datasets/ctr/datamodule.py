"""DataModules of click logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule

from datasets.batching import ranks
from datasets.checks import check_choice, check_keys, check_positive
from datasets.ctr.layouts import (
    avazu_schema,
    criteo_schema,
    frappe_schema,
    join_movielens,
    kdd12_schema,
    movielens_files,
    movielens_schema,
    table_schema,
)
from datasets.ctr.loader import CTRLoader, Shard, join_shards, open_shards
from datasets.ctr.manifest import VERSION, Manifest, address, source_info
from datasets.ctr.prepare import Plan, Split, prepare
from datasets.ctr.schema import Schema
from datasets.ctr.splits import PARTS
from datasets.ctr.synthetic import PlantedPair
from datasets.download import cache_folder, first_existing, missing


class CTRDataModule(LightningDataModule):
    """Loaders of `CTRBatch`: ids (B, n) int32 and labels (B,) float32, from train (shuffled), val and test.

    A field is a block of consecutive ids; the last id of each block stands for values that were rare or not seen. A
    subclass fills `shards`, `names`, `sizes` and `vocabulary`.

    Args:
        batch_size: rows in a global training batch.
        eval_batch_size: rows in a batch of validation and test; None: as in training.
        in_memory: copy a whole part into memory before the first batch, so that shuffling mixes all its rows. False:
            memory-mapped shards, shuffled shard by shard. None: copy parts of up to 2 GiB.
        root: data folder.
        seed: seed of the order of training rows.
        workers: processes that prepare data; batches are slices and need no process of their own.
    """

    task = "ctr"
    memory_limit = 2**31

    def __init__(
        self,
        batch_size: int = 4096,
        eval_batch_size: int | None = None,
        in_memory: bool | None = None,
        root: str | Path = "data",
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__()
        check_positive("dataset", batch_size=batch_size, eval_batch_size=eval_batch_size)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.in_memory, self.root, self.seed, self.workers = in_memory, Path(root), seed, workers
        self.shards: dict[str, list[Shard]] = {}
        self.names: list[str] = []
        self.sizes: list[int] = []
        self.vocabulary = ""
        self.planted: tuple[PlantedPair, ...] = ()

    def load(self) -> None:
        """Fill the shards of all parts and the description of the fields; a subclass does it."""
        raise TypeError(f"{type(self).__name__} does not say how its rows are read")

    def setup(self, stage: str | None = None) -> None:
        """Open the data once."""
        if not self.shards:
            self.load()
            self.shards = {part: self._placed(shards) for part, shards in self.shards.items()}

    @property
    def dims(self) -> dict[str, Any]:
        """Arguments of a network that follow from the data, after `setup`: field_sizes."""
        return {"field_sizes": tuple(self.sizes)}

    def positive_rate(self, part: str) -> float:
        """Return the share of clicks in a part.

        Args:
            part: train, val or test.
        """
        clicks = sum(int(shard.labels.sum(dtype=torch.int64)) for shard in self.shards[part])
        return clicks / sum(len(shard.labels) for shard in self.shards[part])

    def train_dataloader(self) -> CTRLoader:
        """Return the shuffled loader of the training part."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> CTRLoader:
        """Return the loader of the validation part."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> CTRLoader:
        """Return the loader of the test part."""
        return self._loader("test", self.eval_batch_size)

    def _loader(self, part: str, batch_size: int, shuffle: bool = False) -> CTRLoader:
        self._move(part)
        return CTRLoader(self.shards[part], batch_size, shuffle=shuffle, seed=self.seed, **ranks(self.trainer))

    def _placed(self, shards: list[Shard]) -> list[Shard]:
        size = sum(shard.ids.numel() * 4 + len(shard.labels) for shard in shards)
        if self.in_memory or (self.in_memory is None and size <= self.memory_limit):
            return [join_shards(shards)]
        return shards

    def _move(self, part: str) -> None:
        """Move a part that lies in memory to the GPU of a single process, once."""
        if self.trainer is None or self.trainer.world_size > 1 or len(self.shards[part]) > 1:
            return
        device = self.trainer.strategy.root_device
        self.shards[part] = [Shard(shard.ids.to(device), shard.labels.to(device)) for shard in self.shards[part]]


class PreparedLogs(CTRDataModule):
    """Click log in files, prepared once into shards; yields `CTRBatch`. A subclass names files and schema.

    The prepared data lies under `ctr_prepared/` in the data folder, or in the user's cache where that is read-only.

    Args:
        min_count: least number of occurrences of a value that gets an id of its own.
        vocab_from: rows in which values are counted: `train`, or `all` as in the code of the paper's group.
        split: arguments of `datasets.ctr.prepare.Split`: kind (random, autoint, temporal, files), seed, column,
            period, val, test.
        block_bytes: bytes of text that are held at a time while preparing.
        min_counts: `min_count` of single fields, by name.
    """

    def __init__(
        self,
        min_count: int = 1,
        vocab_from: Literal["train", "all"] = "train",
        split: Mapping[str, Any] | None = None,
        block_bytes: int = 1 << 28,
        min_counts: Mapping[str, int] | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        check_positive("dataset", min_count=min_count, block_bytes=block_bytes)
        check_choice("dataset.vocab_from", vocab_from, ("train", "all"))
        self.min_count, self.vocab_from, self.block_bytes = min_count, vocab_from, block_bytes
        self.min_counts, self.split = dict(min_counts or {}), _split(split or {})
        check_positive("dataset.min_counts", **self.min_counts)

    def schema(self) -> Schema:
        """Return the columns of the files; a subclass does it."""
        raise TypeError(f"{type(self).__name__} does not say which columns its files have")

    def sources(self) -> dict[str, tuple[Path, ...]]:
        """Return the files of each part, or all under the key `all`; a subclass does it."""
        raise TypeError(f"{type(self).__name__} does not say where its files are")

    def plan(self) -> Plan:
        """Return what is prepared, and where.

        Raises:
            MissingData: a file is not under the data folder; the message says which file goes where.
        """
        schema, sources = self.schema().with_min_counts(self.min_counts), self.sources()
        name = type(self).__name__.lower()
        identity = [VERSION, schema.describe(), vars(self.split), self.min_count, self.vocab_from, self.block_bytes]
        identity += [source_info(path) for paths in sources.values() for path in paths]
        folder = cache_folder(self.root, "ctr_prepared") / f"{name}-{address(identity)}"
        settings: dict[str, Any] = {
            "min_count": self.min_count,
            "vocab_from": self.vocab_from,
            "block_bytes": self.block_bytes,
        }
        return Plan(name, folder, schema, sources, self.split, workers=self.workers, **settings)

    def prepare_data(self) -> None:
        """Prepare the shards where they are missing."""
        prepare(self.plan())

    def load(self) -> None:
        """Open the shards."""
        plan = self.plan()
        manifest = prepare(plan)
        self.describe(manifest)
        self.shards = {part: open_shards(plan.folder, manifest.parts[part]) for part in PARTS}

    def describe(self, manifest: Manifest) -> None:
        """Take names and sizes of the fields from a manifest.

        Args:
            manifest: manifest of the prepared data.
        """
        self.names, self.sizes = [field.name for field in manifest.fields], manifest.field_sizes
        self.vocabulary = manifest.vocabulary

    def predict_files(self, paths: list[Path], out: Path, module: Any) -> list[Path]:
        """Write the probability of a click for each row of tables (`prediction.predict_clicks`)."""
        from datasets.ctr.prediction import predict_clicks

        return predict_clicks(paths, out, module, self)

    def find(self, what: str, *names: str) -> Path:
        """Return the first of the files that is under the data folder.

        Args:
            what: name of the data, for the message.
            names: paths below the data folder, best first.

        Raises:
            MissingData: none is there.
        """
        candidates = [self.root / name for name in names]
        path = first_existing(*candidates)
        if path is None:
            raise missing(what, candidates, None, self.root)
        return path


class Criteo(PreparedLogs):
    """Criteo display advertising challenge (2014): 39 fields, `train.txt` as Criteo distributes it.

    Args:
        file: name of the file under `criteo/` (or `ctr/criteo/`) in the data folder.
    """

    def __init__(self, file: str = "train.txt", **prepared: Any) -> None:
        super().__init__(**prepared)
        self.file = file

    def schema(self) -> Schema:
        """Return the schema of `train.txt`."""
        return criteo_schema()

    def sources(self) -> dict[str, tuple[Path, ...]]:
        """Return the one file."""
        path = self.find("Criteo's train.txt", *_places("criteo", self.file))
        return {"all": (path,)}


class Avazu(PreparedLogs):
    """Avazu click-through-rate prediction (2014): 24 fields, `train.csv` as Kaggle distributes it.

    Args:
        file: name of the file under `avazu/` (or `ctr/avazu/`) in the data folder.
    """

    def __init__(self, file: str = "train.csv", **prepared: Any) -> None:
        super().__init__(**prepared)
        self.file = file

    def schema(self) -> Schema:
        """Return the schema of `train.csv`."""
        return avazu_schema()

    def sources(self) -> dict[str, tuple[Path, ...]]:
        """Return the one file."""
        return {"all": (self.find("Avazu's train.csv", *_places("avazu", self.file)),)}


class KDD12(PreparedLogs):
    """KDD Cup 2012, track 2: 11 fields, `training.txt` as distributed.

    Args:
        file: name of the file under `kdd12/` (or `ctr/kdd12/`) in the data folder.
        drop_impression: leave out the field Impression, which tells of the label.
    """

    def __init__(self, file: str = "training.txt", drop_impression: bool = False, **prepared: Any) -> None:
        super().__init__(**prepared)
        self.file, self.drop_impression = file, drop_impression

    def schema(self) -> Schema:
        """Return the schema of `training.txt`."""
        return kdd12_schema(self.drop_impression)

    def sources(self) -> dict[str, tuple[Path, ...]]:
        """Return the one file."""
        return {"all": (self.find("training.txt of KDD Cup 2012, track 2", *_places("kdd12", self.file)),)}


class Frappe(PreparedLogs):
    """Frappe_x1 of the BARS benchmark: 10 fields, files train, valid and test."""

    def schema(self) -> Schema:
        """Return the schema of the three files."""
        return frappe_schema()

    def sources(self) -> dict[str, tuple[Path, ...]]:
        """Return the files of the three parts."""
        names = {
            "train": ("train.csv", "train.csv.gz", "train_rebuilt.csv.gz"),
            "val": ("valid.csv", "valid_official.csv"),
            "test": ("test.csv", "test_official.csv"),
        }
        return {part: (self.find(f"Frappe's {part} part", *_places("frappe", *n)),) for part, n in names.items()}


class MovieLens100K(PreparedLogs):
    """MovieLens-100k as click log: 8 fields, positive where the rating is above 3.

    Args:
        drop_neutral: leave out ratings of 3, as some papers do.
    """

    def __init__(self, drop_neutral: bool = False, **prepared: Any) -> None:
        super().__init__(**prepared)
        self.drop_neutral = drop_neutral

    def schema(self) -> Schema:
        """Return the schema of the joined table."""
        return movielens_schema()

    def sources(self) -> dict[str, tuple[Path, ...]]:
        """Return the joined table, written where it is missing or older files were joined."""
        names = ("u.item", "ml-100k.inter")
        folder = self.find("MovieLens-100k", *_places("ml-100k", *names), *_places("ml100k", *names)).parent
        version = address([self.drop_neutral, *map(source_info, movielens_files(folder))])
        target = cache_folder(self.root, "ctr_prepared") / f"movielens100k-{version}.tsv"
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            join_movielens(folder, target, self.drop_neutral)
        return {"all": (target,)}


class ClickTable(PreparedLogs):
    """Click log of one's own: csv, tsv, compressed (.gz) or parquet; all inputs are categories, or made so.

    Args:
        path: file, below the data folder or absolute.
        label: column of the label.
        fields: columns that are inputs.
        transforms: name of a transform (log_squared, integer, hour_of_day, weekday, is_weekend, first_word) by field.
        columns: names of all columns of a text file without a header.
        separator: character between two columns; None: a tab for files that end in .tsv or .txt, else a comma.
        positive_above: a row is positive if its label is above this number; None: labels must be 0 or 1.
        quoted: whether values may stand between double quotes; None: unless columns are separated by tabs.
    """

    def __init__(
        self,
        path: str,
        label: str,
        fields: Sequence[str],
        transforms: Mapping[str, str] | None = None,
        columns: Sequence[str] | None = None,
        separator: str | None = None,
        positive_above: float | None = None,
        quoted: bool | None = None,
        **prepared: Any,
    ) -> None:
        super().__init__(**prepared)
        self.path = path
        tabs = path.removesuffix(".gz").endswith((".tsv", ".txt"))
        separator = separator or ("\t" if tabs else ",")
        self._schema = table_schema(label, fields, dict(transforms or {}), columns, separator, positive_above, quoted)

    def schema(self) -> Schema:
        """Return the schema that the arguments describe."""
        return self._schema

    def sources(self) -> dict[str, tuple[Path, ...]]:
        """Return the one file."""
        return {"all": (self.find("the table dataset.path", self.path),)}


def _places(folder: str, *names: str) -> list[str]:
    return [f"{below}{folder}/{name}" for name in names for below in ("", "ctr/")]


def _split(arguments: Mapping[str, Any]) -> Split:
    check_keys("dataset.split", arguments, ("kind", "seed", "column", "period", "val", "test"))
    return Split(**arguments)
