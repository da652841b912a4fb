"""Manifest of prepared click logs: fields, parts, shards and checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets.ctr.transforms import import_polars
from datasets.ctr.vocabulary import digest, read_vocabularies
from datasets.download import CorruptData
from datasets.files import atomic_write

VERSION = 2  # of the preparation; part of the address of prepared data


@dataclass(frozen=True)
class FieldInfo:
    """Block of ids of a field: `size` ids from `offset` on, the last of which stands for all rare or unseen values."""

    name: str
    size: int
    offset: int
    min_count: int


@dataclass(frozen=True)
class ShardInfo:
    """Two files, `<path>.ids.npy` (rows, fields) int32 and `<path>.labels.npy` (rows,) uint8, and their SHA-256."""

    path: str
    rows: int
    positives: int
    ids_sha256: str
    labels_sha256: str


@dataclass(frozen=True)
class PartInfo:
    """Shards of training, validation or test, in the order of the source."""

    shards: list[ShardInfo]

    @property
    def rows(self) -> int:
        """Number of rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def positives(self) -> int:
        """Number of rows with label 1."""
        return sum(shard.positives for shard in self.shards)

    @staticmethod
    def dump(shards: dict[str, ShardInfo]) -> str:
        """Return the shards of one block, by part, as JSON."""
        return json.dumps({part: asdict(shard) for part, shard in shards.items()})

    @staticmethod
    def load(text: str) -> dict[str, ShardInfo]:
        """Return the shards that `dump` wrote."""
        return {part: ShardInfo(**shard) for part, shard in json.loads(text).items()}


@dataclass(frozen=True)
class Manifest:
    """Description of a folder of prepared click logs.

    Args:
        name: name of the data set.
        vocabulary: hash of all vocabularies; models are tied to it.
        fields: fields in the order of the columns of the ids.
        parts: shards of train, val and test.
        sources: path, size and time of change of each source file.
        schema: the schema, as plain values.
        split: the split, as plain values.
        vocab_from: rows that were counted, `train` or `all`.
    """

    name: str
    vocabulary: str
    fields: list[FieldInfo]
    parts: dict[str, PartInfo]
    sources: list[dict[str, Any]]
    schema: dict[str, Any]
    split: dict[str, Any]
    vocab_from: str

    @property
    def field_sizes(self) -> list[int]:
        """Number of ids of each field."""
        return [field.size for field in self.fields]

    def write(self, path: Path) -> None:
        """Write the manifest, whole or not at all.

        Args:
            path: final place of the file.
        """
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"version": VERSION, **asdict(self)}, indent=1))

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest.

        Args:
            path: file that `write` wrote.

        Raises:
            CorruptData: the file is damaged or of another version.
        """
        try:
            values = json.loads(path.read_text())
            version = values.pop("version")
            fields = [FieldInfo(**field) for field in values.pop("fields")]
            parts = {
                part: PartInfo([ShardInfo(**shard) for shard in info["shards"]])
                for part, info in values.pop("parts").items()
            }
            manifest = cls(fields=fields, parts=parts, **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptData(f"{path} is damaged ({error}); remove its folder to prepare the data again") from error
        if version != VERSION:
            raise CorruptData(f"{path} has version {version}, expected {VERSION}; remove its folder to prepare again")
        return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare all shards with their checksums, and the vocabularies with the hash of the manifest.

    Args:
        folder: folder of the prepared data.
        manifest: its manifest.

    Raises:
        CorruptData: a file is missing or changed; the message names it.
        ImportError: polars, which reads the vocabularies, is missing.
    """
    polars, redo = import_polars(), f"remove {folder} to prepare the data again"
    for part in manifest.parts.values():
        for shard in part.shards:
            for kind, expected in (("ids", shard.ids_sha256), ("labels", shard.labels_sha256)):
                path = folder / f"{shard.path}.{kind}.npy"
                if not path.exists() or file_sha256(path) != expected:
                    raise CorruptData(f"{path} is missing or changed; {redo}")
    try:
        found = digest(read_vocabularies(folder, [field.name for field in manifest.fields]))
    except (OSError, CorruptData, polars.exceptions.PolarsError) as error:
        raise CorruptData(f"{folder / 'vocabulary'}: {error}; {redo}") from error
    if found != manifest.vocabulary:
        raise CorruptData(f"{folder / 'vocabulary'} has changed: its hash is not {manifest.vocabulary}; {redo}")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file.

    Args:
        path: file.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_info(path: Path) -> dict[str, Any]:
    """Return what identifies a source file without reading it: path, size, time of change.

    Args:
        path: file.
    """
    stat = path.stat()
    return {"path": str(path.absolute()), "bytes": stat.st_size, "changed": stat.st_mtime_ns}


def address(values: Sequence[Any]) -> str:
    """Return a short hash of plain values, for the name of a folder.

    Args:
        values: what decides the content of the folder.
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]
