"""Vocabularies: which values of a field have an id of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasets.download import CorruptData

if TYPE_CHECKING:
    import polars as pl

MISSING = ""  # key of a missing value, which is a category like others
DIGEST_ROWS = 1 << 20


def distinct_values(values: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """Separate values into the distinct ones and their places.

    Args:
        values: categories as strings, without nulls, (N,).

    Returns:
        Distinct values in order of first appearance, and the place of each value among them, (N,) int32.
    """
    import polars as pl

    encoded = values.to_arrow().dictionary_encode()
    distinct = pl.Series("value", encoded.dictionary).cast(pl.String)
    return distinct, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)


def merge_counts(files: list[Path], min_count: int) -> pl.DataFrame:
    """Sum counts over files and number the values that are frequent enough.

    Args:
        files: parquet files with the columns value and count.
        min_count: least number of occurrences of a value that gets an id.

    Returns:
        Frame with the columns value, count and id (int32), ids 0, 1, ... in order of decreasing count; values of equal
        count are in order of their text.
    """
    import polars as pl

    total = pl.scan_parquet(files).group_by("value").agg(pl.col("count").cast(pl.UInt64).sum())
    kept = total.filter(pl.col("count") >= min_count).sort(["count", "value"], descending=[True, False]).collect()
    return kept.with_columns(id=pl.Series(np.arange(kept.height, dtype=np.int32)))


def look_up(distinct: pl.Series, vocabulary: pl.DataFrame) -> np.ndarray:
    """Return the ids of values within the field.

    Args:
        distinct: values, each once, (D,).
        vocabulary: frame with the columns value and id.

    Returns:
        Ids, (D,) int32. A value without an id gets the one after the last, which stands for all such values.
    """
    import polars as pl

    places = pl.DataFrame({"value": distinct, "place": np.arange(len(distinct), dtype=np.int32)})
    known = places.join(vocabulary.select("value", "id"), on="value", how="inner")
    ids = np.full(len(distinct), vocabulary.height, np.int32)
    ids[known["place"].to_numpy()] = known["id"].to_numpy()
    return ids


def encode(columns: Iterable[tuple[pl.Series, np.ndarray]], vocabularies: Iterable[pl.DataFrame]) -> np.ndarray:
    """Return the ids of rows over all fields, (N, n) int32: those of a field follow those of the field before.

    Args:
        columns: distinct values of each field and the place of each row's value among them, see `distinct_values`.
        vocabularies: vocabulary of each field.
    """
    ids, offset = [], 0
    for (distinct, places), vocabulary in zip(columns, vocabularies, strict=True):
        ids.append((look_up(distinct, vocabulary) + offset)[places])
        offset += vocabulary.height + 1
    return np.stack(ids, axis=1)


def vocabulary_file(folder: Path, field: str) -> Path:
    """Return the file of a field's vocabulary.

    Args:
        folder: folder of the prepared data.
        field: name of the field.
    """
    return folder / "vocabulary" / f"{field.replace('%', '%25').replace('/', '%2F')}.parquet"


def read_vocabularies(folder: Path, fields: Iterable[str]) -> dict[str, pl.DataFrame]:
    """Return the vocabulary of each field: frames with the columns value and id.

    Args:
        folder: folder of the prepared data.
        fields: names of the fields, in their order.
    """
    import polars as pl

    return {field: pl.read_parquet(vocabulary_file(folder, field), columns=["value", "id"]) for field in fields}


def digest(vocabularies: dict[str, pl.DataFrame]) -> str:
    """Return a hash of all vocabularies, by which models recognise data of another numbering.

    Args:
        vocabularies: vocabulary of each field, in the order of the fields.

    Raises:
        CorruptData: the ids of a field are not 0, 1, ... in the order of its rows, on which the hash relies.
    """
    total = hashlib.sha256()
    for name, vocabulary in vocabularies.items():
        if not np.array_equal(vocabulary["id"], np.arange(vocabulary.height)):
            raise CorruptData(f"the vocabulary of {name} has other ids than its rows have numbers")
        total.update(f"{name}\0{vocabulary.height}\0".encode())
        for start in range(0, vocabulary.height, DIGEST_ROWS):
            total.update("\n".join(vocabulary["value"][start : start + DIGEST_ROWS].to_list()).encode())
    return total.hexdigest()[:16]
